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


def in_a_row(channels=(2, 3), kernel=2, length=5, groups=1, bias=True) -> Arguments:
    of_image = convolved(channels, (1, kernel), (1, length), groups, bias)

    def arguments(rng, dtype, leading):
        x, weight, *rest = of_image(rng, dtype, leading)
        return (x[..., 0, :, :], weight[:, :, 0], *rest)

    return arguments


def transposed(channels=(2, 3), kernel=(2, 2), image=(3, 2), groups=1, bias=True) -> Arguments:
    inputs, outputs = channels

    def arguments(rng, dtype, leading):
        x = normal(rng, dtype, (*leading, *image, inputs))
        weight = normal(rng, dtype, (inputs, outputs // groups, *kernel))
        return (x, weight, normal(rng, dtype, (outputs,))) if bias else (x, weight)

    return arguments


def transposed_row(**options) -> Arguments:
    of_image = transposed(kernel=(1, 2), image=(1, 4), **options)

    def arguments(rng, dtype, leading):
        x, weight, *rest = of_image(rng, dtype, leading)
        return (x[..., 0, :, :], weight[:, :, 0], *rest)

    return arguments


def with_options(op, **options):
    def function(x, weight, bias=None):
        return op(x, weight, bias, **options)

    return function


def interpolate(*args):
    return lambda x: ops.interpolate(x, *args)


def pooled(image=(4, 5), channels=2) -> Arguments:
    return lambda rng, dtype, leading: (normal(rng, dtype, (*leading, *image, channels)),)


def max_pool2d(*args, **options):
    return lambda x: ops.max_pool2d(x, *args, **options)


def avg_pool2d(*args, **options):
    return lambda x: ops.avg_pool2d(x, *args, **options)


def adaptive_avg_pool2d(output_size):
    return lambda x: ops.adaptive_avg_pool2d(x, output_size)


RULES: dict[str, list[Case]] = {
    "conv1d": [
        Case("bias", with_options(ops.conv1d, padding=1), in_a_row()),
        Case(
            "stride, dilation, groups",
            with_options(ops.conv1d, stride=2, padding=2, dilation=2, groups=2),
            in_a_row((2, 4), groups=2, bias=False),
            minor=True,
        ),
    ],
    "conv_transpose1d": [
        Case("bias", with_options(ops.conv_transpose1d, stride=2), transposed_row()),
        Case(
            "all options",
            with_options(
                ops.conv_transpose1d, stride=2, padding=1, output_padding=1, groups=2, dilation=2
            ),
            transposed_row(channels=(2, 4), groups=2, bias=False),
            minor=True,
        ),
    ],
    "conv_transpose2d": [
        Case("bias", with_options(ops.conv_transpose2d, stride=2, padding=1), transposed()),
        Case(
            "all options",
            with_options(
                ops.conv_transpose2d,
                stride=(1, 2),
                padding=(0, 1),
                output_padding=(1, 1),
                groups=2,
                dilation=(2, 1),
            ),
            transposed((2, 4), groups=2, bias=False),
            minor=True,
        ),
    ],
    "interpolate": [
        Case("whole factor", interpolate(None, 2.0), pooled()),
        Case("another size", interpolate((7, 3)), pooled(), minor=True),
        Case("another factor", interpolate(None, (0.5, 1.7)), pooled(), minor=True),
    ],
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
