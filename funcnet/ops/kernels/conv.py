"""conv2d on CPUs: the order of the axes, images side by side, blocks, groups, single channels.

What was measured, on two cores, in loops inside one program, as in training:

- In every convolution below the axes are put into one order, (N, H, W, C) times (k, k, C, O), by
  transposes that are written out. `conv_general_dilated` would take any order; but on a CPU XLA
  (jaxlib 0.10 to 0.12) has a fast kernel for this one alone, and brings the others into it only
  outside of loops. Inside a `scan`, where training happens, they are about a hundred times slower
  (github.com/jax-ml/jax/issues/12868), and that is where autodiff's own transposes end up. Of a
  3 x 3 kernel, 32 to 32 channels, on 100 images of 28 x 28, in milliseconds inside a loop: Y 508
  with K as it is stored, 7 with K transposed; dK 2,400 by autodiff, 17 as below.
- With jaxlib 0.10.2, a batch's images side by side, as one image of many columns, for Y and dX.
  It divides a convolution among the cores by the columns of its images, and 14 are too few: of a
  3 x 3 kernel, 32 to 64 channels, on 128 images of 14 x 14, two cores take 3.2 ms instead of 5.7.
  From 0.11 on XLA divides by images as well, and the copies would cost more than they gain.
- dK in blocks of images: moving the batch axis behind the channels is slow for arrays larger than
  the cache. All 128 images at once, which is what autodiff does, take 3 times as long there. From
  128 output channels on, jaxlib 0.10.2 divides them among the cores if a block is twice as large.
- Groups one after the other: XLA's kernel for groups is 2 to 5 times slower, for dK 100 times.
- One channel a group ("depthwise"): sums of shifted products, which XLA fuses; 10 times faster.

And everywhere, a 1 x 1 kernel makes of all three plain matrix products, dK's 3 times faster. Other
backends otherwise get the plain form's convolutions, in the same order of the axes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from funcnet._internal.compat import DIVIDES_BY_IMAGES
from funcnet.ops._cotangents import like
from funcnet.ops._rule import Form
from funcnet.ops._windows import exchanged, kernel_padding, merged, spread_windows, taps, used
from funcnet.ops.kernels.shapes import are_known
from funcnet.ops.kernels.thresholds import BLOCK, DIVIDED_CHANNELS

AXES = ("NHWC", "HWIO", "NHWC")


def ordered(plain: Form) -> Form:
    """The form of conv2d that orders its axes and knows CPUs; for open sizes the plain one."""

    def primal(x, weight, bias, windows, groups):
        form = _conv2d if are_known(x, weight) else plain.primal
        return form(x, weight, bias, windows, groups)

    def forward(x, weight, bias, windows, groups):
        return primal(x, weight, bias, windows, groups), (x, weight, bias)

    def backward(windows, groups, residuals, dY):
        form = _conv2d_bwd if are_known(*residuals[:2]) else plain.backward
        return form(windows, groups, residuals, dY)

    return Form(primal, forward, backward)


def _conv2d(x, weight, bias, windows, groups):
    dtype = jnp.result_type(*(a for a in (x, weight, bias) if a is not None))
    images = merged(x.astype(dtype))
    kernel = weight.astype(dtype).transpose(2, 3, 1, 0)  # (O, C/G, k, k) -> (k, k, C/G, O)
    y = _convolve(images, kernel, windows, groups=groups)
    y = y.reshape(*x.shape[:-3], *y.shape[1:])
    return y if bias is None else y + bias.astype(dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _conv2d_bwd(windows, groups, residuals, dY):
    x, weight, bias = residuals
    images, kernel, dZ = merged(x).astype(dY.dtype), weight.astype(dY.dtype), merged(dY)
    # y = convolve(images, kernel)
    turned = exchanged(kernel[:, :, ::-1, ::-1], groups)  # (k, k, O/G, C)
    dX = _convolve(dZ, turned, spread_windows(windows), windows.stride, groups)  # -> (N, H, W, C)
    dK = _kernel_cotangent(images, dZ, windows, groups)  # (O, C/G, k, k)
    # y + bias
    db = None if bias is None else like(dZ.sum(axis=(0, 1, 2)), bias)
    return like(dX.reshape(x.shape), x), like(dK, weight), db


# Compiled also where the caller is not, so that a loop is not traced and compiled at every call.
@partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _convolve(images, kernel, windows, spread=(1, 1), groups=1):
    """Images (N, H, W, C) by a kernel (k, k, C/G, O)."""
    if windows.kernel == (1, 1) and groups == 1:
        ((_, tap),) = taps(images, windows, spread=spread)
        return jnp.matmul(tap, kernel[0, 0])
    along = partial(
        lax.conv_general_dilated,
        window_strides=windows.stride,
        padding=windows.padding,
        lhs_dilation=spread,
        rhs_dilation=windows.dilation,
        dimension_numbers=AXES,
    )
    row = partial(_side_by_side, windows=windows, spread=spread)
    one_group = along if DIVIDES_BY_IMAGES else row
    if groups == 1:
        return lax.platform_dependent(images, kernel, cpu=one_group, default=along)

    def by_group(images, kernel):
        parts = _parts(images, groups), _parts(kernel, groups)
        parts = lax.map(lambda part: one_group(*part), parts)
        return _joined(parts)

    def by_tap(images, kernel):
        return sum(
            tap * kernel[i, j, 0].reshape(1, 1, 1, -1)
            for (i, j), tap in taps(images, windows, spread=spread)
        )

    depthwise = groups == images.shape[-1] == kernel.shape[-1]
    return lax.platform_dependent(
        images,
        kernel,
        cpu=by_tap if depthwise else by_group,
        default=partial(along, feature_group_count=groups),
    )


def _side_by_side(images, kernel, windows, spread):
    """`_convolve` of one group, as a single image in which those of the batch stand in a row.

    An image is as wide as its windows reach, less the zeros in front of the next one, which serve
    both. The windows that begin in one image and end in the next are computed, and dropped.
    """
    count, *image, channels = images.shape
    image = [s * (n - 1) + 1 for n, s in zip(image, spread, strict=True)]
    windows = windows._replace(image=tuple(image))
    (top, _), (left, _) = windows.padding
    height, width = used(windows)
    stride = windows.stride[1]
    reaching = -(-max(width - max(left, 0), left + image[1]) // stride)
    columns = max(windows.output[1], reaching)  # windows that begin in an image
    bottom, right = height - top - image[0], columns * stride - left - image[1]
    rows = lax.pad(
        images.transpose(1, 0, 2, 3),
        jnp.zeros((), images.dtype),
        [(top, bottom, spread[0] - 1), (0, 0, 0), (left, right, spread[1] - 1), (0, 0, 0)],
    )
    y = lax.conv_general_dilated(
        rows.reshape(1, height, count * columns * stride, channels),
        kernel,
        windows.stride,
        ((0, 0), (0, max(0, windows.reach[1] + 1 - stride))),
        rhs_dilation=windows.dilation,
        dimension_numbers=AXES,
    )
    y = y.reshape(y.shape[1], count, columns, kernel.shape[-1])  # (H', N, columns, O)
    return y[:, :, : windows.output[1]].transpose(1, 0, 2, 3)


@partial(jax.jit, static_argnums=(2, 3), inline=True)
def _kernel_cotangent(images, dZ, windows, groups):
    """DK (O, C/G, k, k) of images (N, H, W, C) and the cotangent (N, H', W', O)."""
    if windows.kernel == (1, 1) and groups == 1:
        ((_, tap),) = taps(images, windows)
        return jnp.tensordot(dZ, tap, axes=((0, 1, 2), (0, 1, 2)))[:, :, None, None]
    along = _correlation(windows)

    def at_once(images, dZ):
        axes = ("CHWN", "IHWO", "HWNC")  # (N, H, W, C), (N, H', W', O) -> (k, k, C/G, O)
        dK = along(images, dZ, dimension_numbers=axes, batch_group_count=groups)
        return dK.transpose(3, 2, 0, 1)

    def by_group(images, dZ):
        parts = _parts(images, groups), _parts(dZ, groups)
        parts = lax.map(lambda part: _in_blocks(part[0], part[1], windows), parts)
        return parts.reshape(-1, *parts.shape[2:])

    def by_tap(images, dZ):
        sums = [(tap * dZ).sum(axis=(0, 1, 2)) for _, tap in taps(images, windows)]
        return jnp.stack(sums, axis=1).reshape(-1, 1, *windows.kernel)

    depthwise = groups == images.shape[-1] == dZ.shape[-1]
    split = by_tap if depthwise else by_group
    one_group = partial(_in_blocks, windows=windows)
    return lax.platform_dependent(
        images, dZ, cpu=one_group if groups == 1 else split, default=at_once
    )


def _correlation(windows):
    """The convolution that makes dK of images and dZ, but for the order of their axes.

    The place is summed over and the tap stays: stride and dilation change roles, and the channels
    are the batch.
    """
    return partial(
        lax.conv_general_dilated,
        window_strides=windows.dilation,
        padding=kernel_padding(windows),
        rhs_dilation=windows.stride,
    )


def _in_blocks(images, dZ, windows):
    """DK (O, C, k, k) of one group, the sum of those of blocks of images."""

    def of_block(images, dZ):
        # (C, H, W, N) (H', W', N, O) -> (C, k, k, O)
        images, dZ = images.transpose(3, 1, 2, 0), dZ.transpose(1, 2, 0, 3)
        return _correlation(windows)(images, dZ, dimension_numbers=AXES)

    size = _block(dZ.shape)
    first = len(images) % size or min(size, len(images))

    def add(i, dK):
        start = first + i * size
        return dK + of_block(*(lax.dynamic_slice_in_dim(a, start, size) for a in (images, dZ)))

    dK = of_block(images[:first], dZ[:first])
    if len(images) > first:
        dK = lax.fori_loop(0, (len(images) - first) // size, add, dK)
    return dK.transpose(3, 0, 1, 2)


def _parts(channels, groups):
    """The last axis by groups, these first: (..., G C/G) -> (G, ..., C/G)."""
    *others, size = channels.shape
    return jnp.moveaxis(channels.reshape(*others, groups, size // groups), -2, 0)


def _joined(parts):
    """(G, ..., C/G) -> (..., C)."""
    groups, *others, size = parts.shape
    return jnp.moveaxis(parts, 0, -2).reshape(*others, groups * size)


def _block(shape):
    """How many images of dY (N, H', W', O) a block of dK takes: a power of 2."""
    _, height, width, channels = shape
    values = BLOCK * (2 if channels >= DIVIDED_CHANNELS else 1)
    return 2 ** max(0, (values // (height * width * channels)).bit_length() - 1)
