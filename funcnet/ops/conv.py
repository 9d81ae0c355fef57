"""conv2d: sums of a kernel's products with an image, at every place the kernel is laid.

    X (N, H, W, C)       images, channels last; N stands for any number of leading batch axes
    K (O, C, k, k)       weight, PyTorch's layout; i and j count the taps of its two last axes
    b (O,)               bias, may be absent
    Y (N, H', W', O)     outputs

with stride s, dilation d, and X extended by p zeros on each side, which is X̂:

    Y[n, h, w, o] = b[o] + Σ_ijc X̂[n, sh + di, sw + dj, c] K[o, c, i, j]

(k, s, d and p may differ between rows and columns; each formula holds for either axis.) Y is linear
in X, in K and in b, so that perturbing each and collecting what stands beside it in <dY, δY> gives

    dX̂[n, u, v, c]  = Σ_ijo dY[n, h, w, o] K[o, c, i, j]     over h, w with sh + di = u, sw + dj = v
    dK[o, c, i, j]  = Σ_nhw dY[n, h, w, o] X̂[n, sh + di, sw + dj, c]
    db[o]           = Σ_nhw dY[n, h, w, o]

Both sums are convolutions again, which is how they are computed.

dX: spread dY, with s - 1 zeros between neighbours: D[sh] = dY[h], so that the condition on h and w
    is met by zeros, and take i' = k - 1 - i:

        dX̂[n, u, v, c] = Σ_i'j'o D[n, u - d(k-1) + di', v - d(k-1) + dj', o] K[o, c, k-1-i', k-1-j']

    the convolution of D, stride 1, dilation d, with the kernel turned by 180° and its two channel
    axes exchanged. D is extended by d (k - 1) zeros in front, of which p fall away: dX is dX̂
    without the border. Behind, as many as make it H long.

dK: read it as a convolution at the places (i, j), whose kernel is dY: stride d, dilation s, the
    sum over n taking the place of that over channels, and c that of the batch.

With G groups, X's channels and K's first axis fall into G parts, K has C / G input channels, and
part g of Y is the convolution of the parts g. So are all cotangents, part by part.

Residuals: X and K, which the caller holds anyway.


How they are computed. In every convolution below the axes are put into one order, (N, H, W, C)
times (k, k, C, O), by transposes that are written out. `conv_general_dilated` would take any order;
but on a CPU XLA (jaxlib 0.10 to 0.12) has a fast kernel for this one alone, and brings the others
into it only outside of loops. Inside a `scan`, where training happens, they are about a hundred
times slower (github.com/jax-ml/jax/issues/12868), and that is where autodiff's own transposes end
up. Of a 3 x 3 kernel, 32 to 32 channels, on 100 images of 28 x 28, in milliseconds inside a loop: Y
508 with K as it is stored, 7 with K transposed; dK 2,400 by autodiff, 17 as below.

Four more choices were measured, and are for CPUs alone:

- With jaxlib 0.10.2, a batch's images side by side, as one image of many columns, for Y and dX.
  It divides a convolution among the cores by the columns of its images, and 14 are too few: of a
  3 x 3 kernel, 32 to 64 channels, on 128 images of 14 x 14, two cores take 3.2 ms instead of 5.7.
  From 0.11 on XLA divides by images as well, and the copies would cost more than they gain.
- dK in blocks of images: moving the batch axis behind the channels is slow for arrays larger than
  the cache. All 128 images at once, which is what autodiff does, take 3 times as long there. From
  128 output channels on, jaxlib 0.10.2 divides them among the cores if a block is twice as large.
- Groups one after the other: XLA's kernel for groups is 2 to 5 times slower, for dK 100 times.
- One channel a group ("depthwise"): sums of shifted products, which XLA fuses; 10 times faster.

And everywhere, a 1 x 1 kernel makes of all three plain matrix products, dK's 3 times faster.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from funcnet._internal.checks import require_positive_int
from funcnet._internal.compat import DIVIDES_BY_IMAGES
from funcnet.errors import ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._windows import (
    Padding,
    Pair,
    Size,
    Windows,
    require_fit,
    require_images,
    require_padding,
    require_pair,
    taps,
)

BLOCK = 2**17
"""How many values of dY a block of dK has at most, unless one image has more."""
AXES = ("NHWC", "HWIO", "NHWC")


def _conv2d(x: Array, weight: Array, bias: Array | None, windows: Windows, groups: int) -> Array:
    dtype = jnp.result_type(*(a for a in (x, weight, bias) if a is not None))
    images = _merged(x.astype(dtype))
    kernel = weight.astype(dtype).transpose(2, 3, 1, 0)  # (O, C/G, k, k) -> (k, k, C/G, O)
    y = _convolve(images, kernel, windows, groups=groups)
    y = y.reshape(*x.shape[:-3], *y.shape[1:])
    return y if bias is None else y + bias.astype(dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _conv2d_fwd(x, weight, bias, windows, groups):
    return _conv2d(x, weight, bias, windows, groups), (x, weight, bias)


def _conv2d_bwd(windows, groups, residuals, dY):
    x, weight, bias = residuals
    images, kernel, dZ = _merged(x).astype(dY.dtype), weight.astype(dY.dtype), _merged(dY)
    # y = convolve(images, kernel)
    turned = _exchanged(kernel[:, :, ::-1, ::-1], groups)  # (k, k, O/G, C)
    dX = _convolve(dZ, turned, _spread(windows), windows.stride, groups)  # (N, H', W', O) -> X's
    dK = _kernel_cotangent(images, dZ, windows, groups)  # (O, C/G, k, k)
    # y + bias
    db = None if bias is None else like(dZ.sum(axis=(0, 1, 2)), bias)
    return like(dX.reshape(x.shape), x), like(dK, weight), db


_rule = jax.custom_vjp(_conv2d, nondiff_argnums=(3, 4))
_rule.defvjp(_conv2d_fwd, _conv2d_bwd)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Array:
    """Convolution of images with a kernel, as PyTorch defines it, the channels last.

    Args:
        x: (..., height, width, in_channels), floating.
        weight: (out_channels, in_channels / groups, kernel rows, kernel columns), floating.
        bias: (out_channels,) or None for no bias.
        stride: from one place of the kernel to the next; an integer or (rows, columns).
        padding: zeros on each side, an integer or (rows, columns); "valid" for none, "same" for
            as many as keep the images' size (stride 1; of an odd number one more at the end).
        dilation: from one tap of the kernel to the next.
        groups: into how many parts the channels fall.

    Returns:
        (..., H', W', out_channels), in the dtype the arguments promote to, with
        H' = (height + 2 padding - dilation (kernel rows - 1) - 1) // stride + 1, W' likewise.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    stride = require_pair("conv2d: stride", stride, 1)
    dilation = require_pair("conv2d: dilation", dilation, 1)
    groups = require_positive_int("conv2d: groups", groups)
    padding = require_padding("conv2d: padding", padding, stride)
    _check(x, weight, bias, groups)
    height, width = x.shape[-3:-1]
    kernel = weight.shape[2], weight.shape[3]
    windows = Windows((height, width), kernel, stride, _sides(padding, kernel, dilation), dilation)
    require_fit("conv2d", windows)
    return _rule(x, weight, bias, windows, groups)


# Compiled also where the caller is not, so that a loop is not traced and compiled at every call.
@partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _convolve(images, kernel, windows, spread=(1, 1), groups=1):
    """Images (N, H, W, C) by a kernel (k, k, C/G, O); see above."""
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
    height, width = _used(windows)
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
    # i is the place, h the tap: stride and dilation change roles, and the channels are the batch
    along = partial(
        lax.conv_general_dilated,
        window_strides=windows.dilation,
        padding=_swapped_padding(windows),
        rhs_dilation=windows.stride,
    )

    def at_once(images, dZ):
        axes = ("CHWN", "IHWO", "HWNC")  # (N, H, W, C), (N, H', W', O) -> (k, k, C/G, O)
        dK = along(images, dZ, dimension_numbers=axes, batch_group_count=groups)
        return dK.transpose(3, 2, 0, 1)

    def block(images, dZ):
        # (C, H, W, N) (H', W', N, O) -> (C, k, k, O)
        return along(images.transpose(3, 1, 2, 0), dZ.transpose(1, 2, 0, 3), dimension_numbers=AXES)

    def in_blocks(images, dZ):
        size = _block(dZ.shape)
        first = len(images) % size or min(size, len(images))

        def add(i, dK):
            start = first + i * size
            return dK + block(*(lax.dynamic_slice_in_dim(a, start, size) for a in (images, dZ)))

        dK = block(images[:first], dZ[:first])
        if len(images) > first:
            dK = lax.fori_loop(0, (len(images) - first) // size, add, dK)
        return dK.transpose(3, 0, 1, 2)

    def by_group(images, dZ):
        parts = lax.map(lambda part: in_blocks(*part), (_parts(images, groups), _parts(dZ, groups)))
        return parts.reshape(-1, *parts.shape[2:])

    def by_tap(images, dZ):
        sums = [(tap * dZ).sum(axis=(0, 1, 2)) for _, tap in taps(images, windows)]
        return jnp.stack(sums, axis=1).reshape(-1, 1, *windows.kernel)

    depthwise = groups == images.shape[-1] == dZ.shape[-1]
    split = by_tap if depthwise else by_group
    return lax.platform_dependent(
        images, dZ, cpu=in_blocks if groups == 1 else split, default=at_once
    )


def _merged(x):
    """(..., H, W, C) -> (N, H, W, C)."""
    return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])


def _exchanged(kernel, groups):
    """The two channel axes exchanged group by group, (O, C/G, k, k) -> (k, k, O/G, C)."""
    out, inputs, *taps = kernel.shape
    parts = kernel.reshape(groups, out // groups, inputs, *taps)
    return parts.transpose(3, 4, 1, 0, 2).reshape(*taps, out // groups, groups * inputs)


def _parts(channels, groups):
    """The last axis by groups, these first: (..., G C/G) -> (G, ..., C/G)."""
    *others, size = channels.shape
    return jnp.moveaxis(channels.reshape(*others, groups, size // groups), -2, 0)


def _joined(parts):
    """(G, ..., C/G) -> (..., C)."""
    groups, *others, size = parts.shape
    return jnp.moveaxis(parts, 0, -2).reshape(*others, groups * size)


def _spread(windows):
    """The windows, laid on the spread dY, that make dX."""
    padding = []
    sides = zip(windows.image, windows.reach, windows.padding, _spread_size(windows), strict=True)
    for n, reach, (before, _), size in sides:
        padding.append((reach - before, n + before - size))
    return windows._replace(stride=(1, 1), padding=tuple(padding))


def _spread_size(windows):
    """From the first window's first entry to the last window's: the size of the spread dY."""
    return [s * (n - 1) + 1 for n, s in zip(windows.output, windows.stride, strict=True)]


def _used(windows):
    """From the first window's first entry to the last one's last."""
    return [n + r for n, r in zip(_spread_size(windows), windows.reach, strict=True)]


def _block(shape):
    """How many images of dY (N, H', W', O) a block of dK takes: a power of 2."""
    _, height, width, channels = shape
    values = BLOCK * (2 if channels >= 128 else 1)
    return 2 ** max(0, (values // (height * width * channels)).bit_length() - 1)


def _swapped_padding(windows):
    """X's padding for dK; its end is cut off where no window reaches."""
    sides = zip(windows.image, windows.padding, _used(windows), strict=True)
    return [(before, used - n - before) for n, (before, _), used in sides]


def _sides(padding, kernel, dilation) -> tuple[Pair, Pair]:
    """(before, after) of the rows and of the columns."""
    if padding == "valid":
        padding = (0, 0)
    if padding != "same":
        rows, columns = padding
        return (rows, rows), (columns, columns)
    rows, columns = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


def _check(x, weight, bias, groups):
    require_floating("conv2d", x=x, weight=weight)
    require_images("conv2d", x)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ShapeError(
            f"conv2d: weight has shape {weight.shape}, expected (out_channels, in_channels / "
            f"groups, kernel rows, kernel columns), none of them 0"
        )
    out, inputs = weight.shape[:2]
    if x.shape[-1] != inputs * groups or out % groups:
        raise ShapeError(
            f"conv2d: x has shape {x.shape}, weight {weight.shape} and groups is {groups}; "
            f"expected weight.shape[1] * groups = {inputs * groups} channels on x's last axis, "
            f"(..., height, width, {inputs * groups}), and weight.shape[0] divisible by groups "
            f"(weight is stored as (out_channels, in_channels / groups, rows, columns))"
        )
    if bias is None:
        return
    require_floating("conv2d", bias=bias)
    if bias.shape != (out,):
        raise ShapeError(
            f"conv2d: bias has shape {bias.shape}, expected {(out,)}, one entry an output channel"
        )
