"""conv_transpose2d: every entry of an image lays down the kernel, scaled; where they overlap, sums.

    X (N, h, w, I)       images, channels last; N stands for any number of leading batch axes
    K (I, O, k, k)       weight, PyTorch's layout; i and j count the taps of its two last axes
    b (O,)               bias, may be absent
    Y (N, H, W, O)       outputs

with stride s, dilation d, and a border of p that is cut off on each side:

    Y[n, u, v, o] = b[o] + Σ_ijc X[n, a, b, c] K[c, o, i, j]     over a, b with sa + di = u + p and
                                                                 sb + dj = v + p

Behind, q more rows stay (the output padding), since the stride leaves H open: images of several
sizes H have the same h = (H + 2p - d (k - 1) - 1) // s + 1.

    H = (h - 1) s + d (k - 1) + 1 - 2p + q

Let Z * K be conv2d (conv.py) of images Z (N, H, W, O) with this kernel, (N, h, w, I). That is
linear in Z, and the sum above is its transpose, X ⊛ K: for all X and Z

    <X, Z * K> = <X ⊛ K, Z>

since both are the sum of X[n, a, b, c] Z[n, u, v, o] K[c, o, i, j] over the same places. Perturbing
each argument of Y = X ⊛ K + b,

    δL = <dY, δX ⊛ K> + <dY, X ⊛ δK> + <dY, δb>
       = <dY * K, δX> + <X, dY * δK> + <Σ_nuv dY, δb>            dX = dY * K        db = Σ_nuv dY

and <X, dY * δK> = <dK, δK> says that dK is what conv2d's rule gives for its kernel, the images
being dY and the cotangent X. With G groups the parts of the channels are mapped on their own.

Residuals: X and K, which the caller holds anyway. Y appears in no cotangent.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet._internal.checks import require_int, require_positive_int
from funcnet.errors import ConfigError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._rule import rule
from funcnet.ops._windows import Pair, Size, Windows, merged, require_images, require_pair
from funcnet.ops.conv import (
    convolved,
    of_images,
    require_bias,
    require_series,
    row,
    spread,
    taken_as_kernel,
)


def _conv_transpose2d(
    x: Array, weight: Array, bias: Array | None, windows: Windows, groups: int
) -> Array:
    return of_images(spread, x, weight, bias, windows, groups)


def _conv_transpose2d_fwd(x, weight, bias, windows, groups):
    return _conv_transpose2d(x, weight, bias, windows, groups), (x, weight, bias)


def _conv_transpose2d_bwd(windows, groups, residuals, dY):
    x, weight, bias = residuals
    kernel, X, dZ = weight.astype(dY.dtype), merged(x).astype(dY.dtype), merged(dY)
    # y = x ⊛ weight
    dX = convolved(dZ, kernel, windows, groups)  # (N, H, W, O) (I, O/G, k, k) -> (N, h, w, I)
    dK = taken_as_kernel(dZ, X, windows, groups)  # (N, H, W, O) (N, h, w, I) -> (I, O/G, k, k)
    # y + bias
    db = None if bias is None else like(dZ.sum(axis=(0, 1, 2)), bias)  # (N, H, W, O) -> (O,)
    return like(dX.reshape(x.shape), x), like(dK, weight), db


_rule = rule(
    _conv_transpose2d, _conv_transpose2d_fwd, _conv_transpose2d_bwd, nondiff_argnums=(3, 4)
)


def conv_transpose2d(
    x: Float[Array, "... height width in_channels"],
    weight: Float[Array, "in_channels out_channels/groups kernel_height kernel_width"],
    bias: Float[Array, " out_channels"] | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Float[Array, "... out_height out_width out_channels"]:
    """The transpose of `conv2d`, as PyTorch defines it, the channels last.

    The backward pass is derived in the docstring of funcnet/ops/conv_transpose.py.

    Args:
        x: (..., height, width, in_channels), floating.
        weight: (in_channels, out_channels / groups, kernel rows, kernel columns), floating.
        bias: (out_channels,) or None for no bias.
        stride: from the kernel's place of one pixel to that of the next; an integer or (rows,
            columns), as the next three.
        padding: how much of the border is cut off on each side.
        output_padding: how much more stays at the end; below stride or dilation.
        groups: into how many parts the channels fall.
        dilation: from one tap of the kernel to the next.

    Returns:
        (..., H, W, out_channels), in the dtype the arguments promote to, with H = (height - 1)
        stride - 2 padding + dilation (kernel rows - 1) + output_padding + 1, W likewise.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    name = "conv_transpose2d"
    stride = require_pair(f"{name}: stride", stride, 1)
    dilation = require_pair(f"{name}: dilation", dilation, 1)
    padding = require_pair(f"{name}: padding", padding, 0)
    more = require_pair(f"{name}: output_padding", output_padding, 0)
    groups = require_positive_int(f"{name}: groups", groups)
    require_output_padding(f"{name}: output_padding", more, stride, dilation)
    _check(x, weight, bias, groups)
    kernel = weight.shape[2], weight.shape[3]
    windows = _windows(x.shape[-3:-1], kernel, stride, padding, more, dilation)
    return _rule(x, weight, bias, windows, groups)


def conv_transpose1d(
    x: Float[Array, "... length in_channels"],
    weight: Float[Array, "in_channels out_channels/groups kernel_size"],
    bias: Float[Array, " out_channels"] | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "... out_length out_channels"]:
    """The transpose of `conv1d`, as PyTorch defines it, the channels last.

    A series is an image of one row, and so its rule is that of `conv_transpose2d`, derived in the
    docstring of funcnet/ops/conv_transpose.py.

    Args:
        x: (..., length, in_channels), floating.
        weight: (in_channels, out_channels / groups, kernel_size), floating.
        bias: (out_channels,) or None for no bias.
        stride: from the kernel's place of one entry to that of the next.
        padding: how much is cut off at each end.
        output_padding: how much more stays at the end; below stride or dilation.
        groups: into how many parts the channels fall.
        dilation: from one tap of the kernel to the next.

    Returns:
        (..., L, out_channels), in the dtype the arguments promote to, with L = (length - 1)
        stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    name = "conv_transpose1d"
    stride = require_positive_int(f"{name}: stride", stride)
    dilation = require_positive_int(f"{name}: dilation", dilation)
    padding = require_int(f"{name}: padding", padding)
    more = require_int(f"{name}: output_padding", output_padding)
    require_series(name, x, weight)
    options = (1, stride), (0, padding), (0, more), groups, (1, dilation)
    return jnp.squeeze(conv_transpose2d(row(x), weight[:, :, None], bias, *options), -3)


def require_output_padding(name: str, more: Pair, stride: Pair, dilation: Pair) -> None:
    """Raise ConfigError unless the output padding is below stride or dilation, as in PyTorch."""
    if any(q >= max(s, d) for q, s, d in zip(more, stride, dilation, strict=True)):
        raise ConfigError(
            f"{name} is {more}, expected less than the stride {stride} or the dilation {dilation}"
        )


def _windows(image, kernel, stride, padding, more, dilation) -> Windows:
    """Those that conv2d lays on an output; the sides are such that they end with its last row."""
    full = [
        s * (n - 1) + d * (k - 1) + 1
        for n, k, s, d in zip(image, kernel, stride, dilation, strict=True)
    ]
    height, width = (n - 2 * p + q for n, p, q in zip(full, padding, more, strict=True))
    if min(image) < 1 or min(height, width) < 1:
        raise ShapeError(
            f"conv_transpose2d: images of {image[0]} x {image[1]} pixels would become {height} x "
            f"{width}, expected at least one pixel; cut off less by padding"
        )
    rows, columns = ((p, p - q) for p, q in zip(padding, more, strict=True))
    return Windows((height, width), kernel, stride, (rows, columns), dilation)


def _check(x, weight, bias, groups):
    require_floating("conv_transpose2d", x=x, weight=weight)
    require_images("conv_transpose2d", x)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ShapeError(
            f"conv_transpose2d: weight has shape {weight.shape}, expected (in_channels, "
            f"out_channels / groups, kernel rows, kernel columns), none of them 0"
        )
    inputs, outputs = weight.shape[0], weight.shape[1] * groups
    if x.shape[-1] != inputs or inputs % groups:
        raise ShapeError(
            f"conv_transpose2d: x has shape {x.shape}, weight {weight.shape} and groups is "
            f"{groups}; expected weight.shape[0] = {inputs} channels on x's last axis, divisible "
            f"by groups (weight is stored as (in_channels, out_channels / groups, rows, columns))"
        )
    require_bias("conv_transpose2d", bias, outputs)
