"""The cases of convolution and pooling in the table of rules.py."""

from funcnet import ops
from tests.ops.cases import Arguments, Case, normal


def convolved(channels=(2, 3), kernel=(2, 2), image=(4, 3), groups=1, bias=True) -> Arguments:
    inputs, outputs = channels

    def arguments(rng, dtype, leading):
        x = normal(rng, dtype, (*leading, *image, inputs))
        weight = normal(rng, dtype, (outputs, inputs // groups, *kernel))
        return (x, weight, normal(rng, dtype, (outputs,))) if bias else (x, weight)

    return arguments


def conv2d(**options):
    def function(x, weight, bias=None):
        return ops.conv2d(x, weight, bias, **options)

    return function


def pooled(image=(4, 5), channels=2) -> Arguments:
    return lambda rng, dtype, leading: (normal(rng, dtype, (*leading, *image, channels)),)


def max_pool2d(*args, **options):
    return lambda x: ops.max_pool2d(x, *args, **options)


def avg_pool2d(*args, **options):
    return lambda x: ops.avg_pool2d(x, *args, **options)


def adaptive_avg_pool2d(output_size):
    return lambda x: ops.adaptive_avg_pool2d(x, output_size)


RULES: dict[str, list[Case]] = {
    "conv2d": [
        Case("bias", conv2d(padding=1), convolved()),
        Case(
            "stride, dilation, no bias",
            conv2d(stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
            convolved(bias=False),
        ),
        Case("groups", conv2d(groups=2, padding="same"), convolved((4, 6), groups=2), minor=True),
        Case(
            "depthwise",
            conv2d(groups=3, stride=2, padding=1),
            convolved((3, 3), groups=3),
            minor=True,
        ),
        Case("1 x 1", conv2d(stride=2), convolved(kernel=(1, 1)), minor=True),
    ],
    "max_pool2d": [
        Case("side by side", max_pool2d(2), pooled()),
        Case("overlapping", max_pool2d(3, 2, 1), pooled(), minor=True),
        Case(
            "all options",
            max_pool2d((2, 3), (1, 2), (1, 0), (2, 1), ceil_mode=True),
            pooled(),
            minor=True,
        ),
    ],
    "avg_pool2d": [
        Case("side by side", avg_pool2d(2), pooled()),
        Case("overlapping", avg_pool2d(3, 2, 1, count_include_pad=False), pooled(), minor=True),
        Case("all options", avg_pool2d((2, 3), (1, 2), 1, True, True, 5), pooled(), minor=True),
    ],
    "adaptive_avg_pool2d": [
        Case("one", adaptive_avg_pool2d(1), pooled()),
        Case("overlapping", adaptive_avg_pool2d((3, None)), pooled(), minor=True),
    ],
}
