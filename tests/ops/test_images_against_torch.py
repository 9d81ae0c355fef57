"""Convolution and pooling equal PyTorch's to 1e-9 in float64, over the grid of their options."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from funcnet.ops.kernels import conv
from tests.ops.test_against_torch import agree, gradients, torch_gradients

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("x64")]


def channels_last(f):
    """A PyTorch function of images, as one of images with any leading axes and channels last."""

    def function(x, *args):
        y = f(x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2), *args).permute(0, 2, 3, 1)
        return y.reshape(*x.shape[:-3], *y.shape[1:])

    return function


def compare(ours, theirs, args):
    """Values and all cotangents, of a random cotangent of the output."""
    g = np.random.default_rng(1).normal(size=ours(*map(jnp.asarray, args)).shape)
    agree(gradients(ours, args, g), torch_gradients(channels_last(theirs), args, g))


def image_of(leading, channels, height=7, width=6):
    return np.random.default_rng(0).normal(size=(*leading, height, width, channels))


def compare_conv2d(leading, kernel, stride, padding, dilation, groups, outputs, bias=True):
    import torch

    rng = np.random.default_rng(2)
    weight = rng.normal(size=(outputs, 4 // groups, *kernel))
    args = [image_of(leading, 4), weight, *([rng.normal(size=outputs)] if bias else [])]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    compare(
        lambda *args: ops.conv2d(*args, **options),
        lambda *args: torch.nn.functional.conv2d(*args, **options),
        args,
    )


CONVOLUTIONS = [
    ((), (3, 3), 1, 0, 1, 1, 3),
    ((5,), (3, 3), 1, 1, 1, 1, 3),
    ((2, 3), (2, 3), 2, 1, 1, 1, 3),
    ((3,), (3, 2), (2, 1), (0, 2), (1, 2), 1, 3),
    ((3,), (3, 3), 1, "same", (1, 2), 1, 3),
    ((3,), (2, 2), 1, "same", 1, 2, 4),
    ((3,), (3, 3), 3, "valid", 2, 1, 3),
    ((3,), (1, 1), 2, 1, 1, 1, 3),
    ((3,), (2, 2), 2, 1, 1, 2, 6),
    ((3,), (3, 3), (1, 2), 1, 2, 2, 4),
    ((3,), (3, 3), 2, 1, 1, 4, 4),
    ((3,), (2, 3), 1, (2, 1), (2, 1), 4, 8),
    ((2, 18), (3, 3), 1, 1, 1, 1, 3),
    ((35,), (2, 2), 2, 0, 1, 2, 4),
    ((2,), (2, 3), 1, (6, 7), 1, 1, 3),
    ((1,), (1, 2), (1, 4), 5, (1, 3), 1, 3),
    ((2,), (2, 2), (4, 5), (0, 1), 1, 1, 3),
    ((0,), (3, 3), 1, 1, 1, 1, 3),
    ((0,), (3, 2), 2, 1, 1, 2, 4),
    ((0,), (3, 3), 1, 1, 1, 4, 4),
]


@pytest.mark.few(5, 2)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # PyTorch's, of its speed
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d(case):
    compare_conv2d(*case)


@pytest.mark.few(3, 2)
@pytest.mark.parametrize(
    "case",
    [
        ((8,), (3, 3), 1, 1, 1, 1, 4),
        ((2, 18), (3, 3), 1, 1, 1, 1, 3),
        ((35,), (2, 2), 2, 0, 1, 2, 4),
    ],
    ids=str,
)
def test_conv2d_adds_up_its_kernels_cotangent_in_blocks(case, monkeypatch):
    monkeypatch.setattr(conv, "_block", lambda shape: 8)
    jax.clear_caches()  # of what was traced with blocks of another size
    compare_conv2d(*case)
    jax.clear_caches()


@pytest.mark.parametrize(
    ("shape", "images"), [((1, 14, 14, 64), 8), ((1, 7, 7, 128), 32), ((1, 200, 200, 9), 1)]
)
def test_a_block_is_a_power_of_two(shape, images):
    assert conv._block(shape) == images


def test_conv2d_without_bias():
    compare_conv2d((3,), (3, 3), 1, 1, 1, 1, 3, bias=False)


# PyTorch has no "same" with a stride.
STRIDES_AND_PADDINGS = [*itertools.product([1, 2, (1, 3)], [0, (1, 2), "valid"]), (1, "same")]


KERNELS = [(1, 1), (2, 2), (3, 2)]
DILATIONS = [1, (2, 1)]
GROUPS_AND_OUTPUTS = [(1, 3), (2, 2), (2, 6), (4, 4), (4, 8)]


def grid(*settings):
    """Every combination; every fourth of them, in which each pair meets, is not exhaustive."""
    return [
        pytest.param(
            *(values[i] for values, i in zip(settings, places, strict=True)),
            marks=pytest.mark.exhaustive if sum(places) % 4 else pytest.mark.slow,
        )
        for places in itertools.product(*map(range, map(len, settings)))
    ]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize(
    ("kernel", "stride_padding", "dilation", "groups_outputs"),
    grid(KERNELS, STRIDES_AND_PADDINGS, DILATIONS, GROUPS_AND_OUTPUTS),
)
def test_conv2d_over_the_grid(kernel, stride_padding, dilation, groups_outputs):
    (stride, padding), (groups, outputs) = stride_padding, groups_outputs
    for leading in ((), (3,), (2, 17)):
        compare_conv2d(leading, kernel, stride, padding, dilation, groups, outputs)


POOLS = list(itertools.product([2, 3, (3, 2)], [None, 1, (1, 3)], [0, 1, (1, 0)], [False, True]))
WIDE_POOLS = list(itertools.product([1, 4, (2, 5)], [None, 2, 3], [0], [False, True]))


def few(cases):
    """Every tenth in the fast suite."""
    return [
        pytest.param(*case, id=str(case), marks=[] if i % 10 == 0 else [pytest.mark.slow])
        for i, case in enumerate(cases)
    ]


@pytest.mark.few(5, 2)
@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), few(POOLS + WIDE_POOLS))
def test_max_pool2d(kernel, stride, padding, ceil_mode):
    """With ties, with NaNs, and with windows that hold nothing larger than -inf."""
    import torch

    rng = np.random.default_rng(3)
    x = np.round(2 * image_of((2,), 3, 7, 8))
    x[rng.random(x.shape) < 0.05] = np.nan
    x[rng.random(x.shape) < 0.2] = -np.inf
    for dilation in (1, (2, 1)):
        args = (kernel, stride, padding, dilation, ceil_mode)
        compare(
            lambda x, args=args: ops.max_pool2d(x, *args),
            lambda x, args=args: torch.nn.functional.max_pool2d(x, *args),
            [x],
        )


@pytest.mark.few(5, 2)
@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), few(POOLS + WIDE_POOLS))
def test_avg_pool2d(kernel, stride, padding, ceil_mode):
    import torch

    for count_include_pad, divisor in ((True, None), (False, None), (True, 3), (False, -2)):
        args = (kernel, stride, padding, ceil_mode, count_include_pad, divisor)
        compare(
            lambda x, args=args: ops.avg_pool2d(x, *args),
            lambda x, args=args: torch.nn.functional.avg_pool2d(x, *args),
            [image_of((2,), 3, 7, 8)],
        )


@pytest.mark.few(3, 2)
@pytest.mark.parametrize("size", [1, 2, 3, 9, (1, 3), (None, 2), (7, 8)])
def test_adaptive_avg_pool2d(size):
    import torch

    for leading in ((), (2, 3), (0,)):
        compare(
            lambda x: ops.adaptive_avg_pool2d(x, size),
            lambda x: torch.nn.functional.adaptive_avg_pool2d(x, size),
            [image_of(leading, 3, 7, 8)],
        )


# Series, transposes, other sizes.


def rows_last(f):
    """A PyTorch function of series, as one of series with any leading axes and channels last."""

    def function(x, *args):
        y = f(x.reshape(-1, *x.shape[-2:]).transpose(1, 2), *args).transpose(1, 2)
        return y.reshape(*x.shape[:-2], *y.shape[1:])

    return function


def compare_series(ours, theirs, args):
    g = np.random.default_rng(1).normal(size=ours(*map(jnp.asarray, args)).shape)
    agree(gradients(ours, args, g), torch_gradients(rows_last(theirs), args, g))


@pytest.mark.few(2, 2)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize(
    ("leading", "stride", "padding", "dilation", "groups", "bias"),
    [
        ((), 1, 0, 1, 1, True),
        ((2, 3), 2, 1, 2, 2, False),
        ((3,), 1, "same", 2, 1, True),
        ((0,), 3, "valid", 1, 4, True),
    ],
)
def test_conv1d(leading, stride, padding, dilation, groups, bias):
    import torch

    rng = np.random.default_rng(2)
    args = [rng.normal(size=(*leading, 9, 4)), rng.normal(size=(8, 4 // groups, 3))]
    args += [rng.normal(size=8)] if bias else []
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    compare_series(
        lambda *args: ops.conv1d(*args, **options),
        lambda *args: torch.nn.functional.conv1d(*args, **options),
        args,
    )


TRANSPOSED = [
    ((), (3, 3), 1, 0, 0, 1, 1),
    ((2, 3), (2, 3), 2, 1, 1, 1, 1),
    ((3,), (3, 2), (2, 1), (0, 2), (1, 0), 2, (1, 2)),
    ((3,), (1, 1), 2, 0, 1, 4, 1),
    ((2,), (2, 2), 1, 1, (2, 1), 1, (3, 2)),  # the output padding reaches beyond the stride
    ((0,), (3, 3), 2, 1, 0, 2, 1),
    ((2,), (3, 3), (1, 3), (2, 1), (0, 2), 2, 2),
]


@pytest.mark.few(2, 2)
@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose2d(case):
    import torch

    leading, kernel, stride, padding, more, groups, dilation = case
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 8 // groups, *kernel))
    args = [image_of(leading, 4, 5, 4), weight, rng.normal(size=8)]
    options = {"stride": stride, "padding": padding, "output_padding": more}
    options |= {"groups": groups, "dilation": dilation}
    compare(
        lambda *args: ops.conv_transpose2d(*args, **options),
        lambda *args: torch.nn.functional.conv_transpose2d(*args, **options),
        args,
    )


@pytest.mark.parametrize("options", [(1, 0, 0, 1, 1), (2, 1, 1, 2, 2)])
def test_conv_transpose1d(options):
    import torch

    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 8 // options[3], 3))
    args = [rng.normal(size=(2, 6, 4)), weight, rng.normal(size=8)]
    compare_series(
        lambda *args: ops.conv_transpose1d(*args, *options),
        lambda *args: torch.nn.functional.conv_transpose1d(*args, *options),
        args,
    )


@pytest.mark.parametrize(
    "sizes", [(9, None), ((3, 16), None), (None, 2), (None, (1.5, 0.7)), (None, 3.3), (7, None)]
)
def test_interpolate(sizes):
    import torch

    for leading in ((), (2, 3)):
        compare(
            lambda x: ops.interpolate(x, *sizes),
            lambda x: torch.nn.functional.interpolate(x, *sizes),
            [image_of(leading, 3, 7, 8)],
        )
