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

Residuals: X and K, which the caller holds anyway. Y appears in no cotangent.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from funcnet._internal.checks import require_int, require_positive_int
from funcnet.errors import ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._rule import rule
from funcnet.ops._windows import (
    Padding,
    Pair,
    Size,
    Windows,
    exchanged,
    kernel_padding,
    merged,
    require_fit,
    require_images,
    require_padding,
    require_pair,
    spread_windows,
)
from funcnet.ops.kernels.conv import ordered


def _conv2d(x: Array, weight: Array, bias: Array | None, windows: Windows, groups: int) -> Array:
    return of_images(convolved, x, weight, bias, windows, groups)


def _conv2d_fwd(x, weight, bias, windows, groups):
    return _conv2d(x, weight, bias, windows, groups), (x, weight, bias)


def _conv2d_bwd(windows, groups, residuals, dY):
    x, weight, bias = residuals
    images, kernel, dZ = merged(x).astype(dY.dtype), weight.astype(dY.dtype), merged(dY)
    # y = x * weight
    dX, dK = spread(dZ, kernel, windows, groups), taken_as_kernel(images, dZ, windows, groups)
    # y + bias
    db = None if bias is None else like(dZ.sum(axis=(0, 1, 2)), bias)  # (N, H', W', O) -> (O,)
    return like(dX.reshape(x.shape), x), like(dK, weight), db


def of_images(
    function: Callable[[Array, Array, Windows, int], Array],
    x: Array,
    weight: Array,
    bias: Array | None,
    windows: Windows,
    groups: int,
) -> Array:
    """The function of images with one batch axis, for any batch axes; with the bias added."""
    dtype = jnp.result_type(*(a for a in (x, weight, bias) if a is not None))
    y = function(merged(x.astype(dtype)), weight.astype(dtype), windows, groups)
    y = y.reshape(*x.shape[:-3], *y.shape[1:])
    return y if bias is None else y + bias.astype(dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def convolved(images: Array, kernel: Array, windows: Windows, groups: int) -> Array:
    """Y of the derivation, without the bias."""
    return lax.conv_general_dilated(  # (N, H, W, C) (O, C/G, k, k) -> (N, H', W', O)
        images,
        kernel,
        windows.stride,
        windows.padding,
        rhs_dilation=windows.dilation,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        feature_group_count=groups,
    )


def spread(dZ: Array, kernel: Array, windows: Windows, groups: int) -> Array:
    """DX of the derivation: dY, spread, with the kernel turned."""
    return lax.conv_general_dilated(  # (N, H', W', O) (k, k, O/G, C) -> (N, H, W, C)
        dZ,
        exchanged(kernel[:, :, ::-1, ::-1], groups),
        (1, 1),
        spread_windows(windows).padding,
        lhs_dilation=windows.stride,
        rhs_dilation=windows.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def taken_as_kernel(images: Array, dZ: Array, windows: Windows, groups: int) -> Array:
    """DK of the derivation: dY as X's kernel, its stride and dilation exchanged, C as the batch."""
    return lax.conv_general_dilated(  # (N, H, W, C) (N, H', W', O) -> (O, C/G, k, k)
        images,
        dZ,
        windows.dilation,
        kernel_padding(windows),
        rhs_dilation=windows.stride,
        dimension_numbers=("CHWN", "IHWO", "CNHW"),
        batch_group_count=groups,
    )


_rule = rule(_conv2d, _conv2d_fwd, _conv2d_bwd, nondiff_argnums=(3, 4), kernel=ordered)


def conv2d(
    x: Float[Array, "... height width in_channels"],
    weight: Float[Array, "out_channels in_channels/groups kernel_height kernel_width"],
    bias: Float[Array, " out_channels"] | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Float[Array, "... out_height out_width out_channels"]:
    """Convolution of images with a kernel, as PyTorch defines it, the channels last.

    The backward pass is derived in the docstring of funcnet/ops/conv.py.

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


def _sides(padding, kernel, dilation) -> tuple[Pair, Pair]:
    """(before, after) of the rows and of the columns."""
    if padding == "valid":
        padding = (0, 0)
    if padding != "same":
        rows, columns = padding
        return (rows, rows), (columns, columns)
    rows, columns = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


def conv1d(
    x: Float[Array, "... length in_channels"],
    weight: Float[Array, "out_channels in_channels/groups kernel_size"],
    bias: Float[Array, " out_channels"] | None = None,
    stride: int = 1,
    padding: int | Literal["same", "valid"] = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "... out_length out_channels"]:
    """Convolution along one axis, as PyTorch defines it, the channels last.

    A series is an image of one row, and so its rule is that of `conv2d`, whose sum over i has one
    term: the backward pass is derived in the docstring of funcnet/ops/conv.py.

    Args:
        x: (..., length, in_channels), floating.
        weight: (out_channels, in_channels / groups, kernel_size), floating.
        bias: (out_channels,) or None for no bias.
        stride: from one place of the kernel to the next.
        padding: zeros on each side, an integer; "valid" for none, "same" for as many as keep the
            length (stride 1; of an odd number one more at the end).
        dilation: from one tap of the kernel to the next.
        groups: into how many parts the channels fall.

    Returns:
        (..., L', out_channels), in the dtype the arguments promote to, with
        L' = (length + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    stride = require_positive_int("conv1d: stride", stride)
    dilation = require_positive_int("conv1d: dilation", dilation)
    row_padding = row_of("conv1d: padding", padding, stride)
    require_series("conv1d", x, weight)
    y = conv2d(row(x), weight[:, :, None], bias, (1, stride), row_padding, (1, dilation), groups)
    return jnp.squeeze(y, -3)


def row_of(name: str, padding: Any, stride: int) -> Padding:
    """A series' padding as that of an image of one row."""
    if isinstance(padding, str):
        return require_padding(name, padding, (1, stride))
    return (0, require_pair(name, require_int(name, padding), 0)[1])


def row(x: Array) -> Array:
    """(..., L, C) -> (..., 1, L, C)."""
    return jnp.expand_dims(x, -3)


def require_series(function: str, x: Any, weight: Any) -> None:
    """Raise unless an array has the axes of series, and the weight those of their kernel."""
    require_floating(function, x=x, weight=weight)
    if x.ndim < 2 or weight.ndim != 3:
        raise ShapeError(
            f"{function}: x has shape {x.shape} and weight {weight.shape}, expected (..., length, "
            f"channels) and three axes, the last of them the taps of the kernel"
        )


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
    require_bias("conv2d", bias, out)


def require_bias(function: str, bias: Any, outputs: int) -> None:
    """Raise unless a bias is None, or has one floating entry for each output channel."""
    if bias is None:
        return
    require_floating(function, bias=bias)
    if bias.shape != (outputs,):
        raise ShapeError(
            f"{function}: bias has shape {bias.shape}, expected {(outputs,)}, one entry an output "
            f"channel"
        )
