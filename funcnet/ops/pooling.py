"""max_pool2d, avg_pool2d and adaptive_avg_pool2d: one number for each window of an image.

    X (..., H, W, C)      images, channels last, any number of leading batch axes
    Y (..., H', W', C)    outputs, each channel on its own

A tap t = (i, j) is one of the kernel's places; X_t (..., H', W', C) holds, for every window, the
entry that it has there:

    X_t[h, w] = X̂[sh + di, sw + dj]          with stride s, dilation d, X padded to X̂

Let P_t be the transpose of that: P_t Z (..., H, W, C) puts Z[h, w] back to where X_t[h, w] came
from, zeros elsewhere; what came from the padding is dropped. Then <Z, δX_t> = <P_t Z, δX>.


max_pool2d: Y = max_t X_t, padded with -∞. Let T be the tap that wins: the first one where several
    are largest, and where there are NaNs the last of them, as in PyTorch. Near X the same tap
    goes on winning, so

        δY = δX_T = Σ_t [T = t] * δX_t           dX = Σ_t P_t ([T = t] * dY)

    Residual: T alone, one byte an output (four for a kernel of more than 256 taps). X is not
    needed, which is what autodiff would keep: of 2 x 2 windows in float32, 16 bytes an output.

avg_pool2d: Y = Σ_t X_t / D, padded with zeros. D (H', W') is the number of taps within the padded
    image, or within the image itself (count_include_pad=False), or a given number.

        δY = Σ_t δX_t / D                        dX = Σ_t P_t (dY / D)

    Residual: none. Linear, so that the cotangent is all there is.

adaptive_avg_pool2d: H' x W' windows that cover the image evenly. Window h has the rows from
    ⌊hH/H'⌋ to before ⌈(h+1)H/H'⌉, so that windows overlap where H' does not divide H. With A
    (H', H), one where row u is in window h and else zero, B (W', W) likewise for the columns, and
    D[h, w] = Σ_u A[h, u] Σ_v B[w, v] the number of pixels in a window:

        Y[h, w] = Σ_uv A[h, u] B[w, v] X[u, v] / D[h, w]

        dX[u, v] = Σ_hw A[h, u] B[w, v] dY[h, w] / D[h, w]

    Residual: none.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from funcnet._internal.checks import require_int, require_positive_int
from funcnet.errors import ConfigError
from funcnet.ops._checks import require_floating
from funcnet.ops._rule import rule
from funcnet.ops._windows import (
    Pair,
    Size,
    Windows,
    count,
    divisors,
    per_window,
    require_fit,
    require_images,
    require_pair,
    taps,
)
from funcnet.ops.kernels.pooling import avg_in_tiles, max_in_tiles


def _max_pool2d(x: Array, windows: Windows) -> Array:
    return reduce(jnp.maximum, _padded(x, windows))


def _max_pool2d_fwd(x, windows):
    dtype = jnp.uint8 if count(windows) <= 256 else jnp.int32
    y, *others = _padded(x, windows)
    # Where nothing is larger than -inf the padding is equal to it, but never wins.
    T = jnp.broadcast_to(per_window(_first_inside(windows), y), y.shape).astype(dtype)
    for t, tap in enumerate(others, 1):
        T = jnp.where((tap > y) | jnp.isnan(tap), jnp.asarray(t, dtype), T)
        y = jnp.maximum(y, tap)
    return y, T  # (..., H', W', C) each


def _max_pool2d_bwd(windows, T, dY):
    # y = max_t X_t = X_T
    dX_t = (jnp.where(t == T, dY, 0) for t in range(count(windows)))  # (..., H', W', C) each
    return (_put_back(dX_t, windows),)  # -> (..., H, W, C)


_max_rule = rule(
    _max_pool2d, _max_pool2d_fwd, _max_pool2d_bwd, nondiff_argnums=(1,), kernel=max_in_tiles
)


def max_pool2d(
    x: Float[Array, "... height width channels"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Float[Array, "... out_height out_width channels"]:
    """Largest entry of each window of an image, as PyTorch defines it, the channels last.

    The backward pass is derived in the docstring of funcnet/ops/pooling.py.

    Args:
        x: (..., height, width, channels), floating.
        kernel_size: entries of a window, an integer or (rows, columns), as the next three.
        stride: from one window to the next; by default as large as the kernel.
        padding: -∞ on each side, at most half of what the kernel covers.
        dilation: from one entry of a window to the next.
        ceil_mode: whether a last window may stick out of the padded image.

    Returns:
        (..., H', W', channels), in x's dtype, with H' = (height + 2 padding - dilation (kernel - 1)
        - 1) / stride + 1, rounded down, or up in ceil_mode; W' likewise. A window with a NaN in it
        gives NaN. Of several largest entries, the first gets the cotangent.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    return _max_rule(
        x, _windows("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    )


def _avg_pool2d(x: Array, windows: Windows, divisor: bool | int) -> Array:
    total = reduce(jnp.add, (tap for _, tap in taps(x, windows)))
    return (total / divisors(x, windows, divisor)).astype(x.dtype)


def _avg_pool2d_fwd(x, windows, divisor):
    return _avg_pool2d(x, windows, divisor), ()


def _avg_pool2d_bwd(windows, divisor, residuals, dY):
    # y = total / D
    dTotal = (dY / divisors(dY, windows, divisor)).astype(dY.dtype)  # (..., H', W', C)
    # total = Σ_t X_t
    return (_put_back((dTotal for _ in range(count(windows))), windows),)  # -> (..., H, W, C)


_avg_rule = rule(
    _avg_pool2d, _avg_pool2d_fwd, _avg_pool2d_bwd, nondiff_argnums=(1, 2), kernel=avg_in_tiles
)


def avg_pool2d(
    x: Float[Array, "... height width channels"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Float[Array, "... out_height out_width channels"]:
    """Mean of each window of an image, as PyTorch defines it, the channels last.

    The backward pass is derived in the docstring of funcnet/ops/pooling.py.

    Args:
        x: (..., height, width, channels), floating.
        kernel_size: entries of a window, an integer or (rows, columns), as the next two.
        stride: from one window to the next; by default as large as the kernel.
        padding: zeros on each side, at most half of the kernel.
        ceil_mode: whether a last window may stick out of the padded image. What sticks out is not
            counted.
        count_include_pad: whether the padding is counted.
        divisor_override: what every sum is divided by instead of the number of entries; not 0.

    Returns:
        (..., H', W', channels), in x's dtype, with H' = (height + 2 padding - kernel) / stride + 1,
        rounded down, or up in ceil_mode; W' likewise.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    divisor = require_divisor("avg_pool2d", count_include_pad, divisor_override)
    windows = _windows("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    return _avg_rule(x, windows, divisor)


def _adaptive_avg_pool2d(x: Array, image: Pair, output: Pair) -> Array:
    A, B, D = _even_windows(x, image, output)
    y = jnp.einsum("...uvc,hu,wv->...hwc", x, A, B, precision=lax.Precision.HIGHEST)
    return (y / D).astype(x.dtype)


def _adaptive_avg_pool2d_fwd(x, image, output):
    return _adaptive_avg_pool2d(x, image, output), ()


def _adaptive_avg_pool2d_bwd(image, output, residuals, dY):
    A, B, D = _even_windows(dY, image, output)
    dS = (dY / D).astype(dY.dtype)  # (..., H', W', C)
    # y = A x Bᵀ / D
    dX = jnp.einsum("...hwc,hu,wv->...uvc", dS, A, B, precision=lax.Precision.HIGHEST)
    return (dX.astype(dY.dtype),)


_adaptive_rule = rule(
    _adaptive_avg_pool2d,
    _adaptive_avg_pool2d_fwd,
    _adaptive_avg_pool2d_bwd,
    nondiff_argnums=(1, 2),
)


def adaptive_avg_pool2d(
    x: Float[Array, "... height width channels"],
    output_size: int | tuple[int | None, int | None],
) -> Float[Array, "... rows columns channels"]:
    """Means over windows that cover an image of any size evenly, as PyTorch defines it.

    The backward pass is derived in the docstring of funcnet/ops/pooling.py.

    Args:
        x: (..., height, width, channels), floating.
        output_size: how many windows, an integer or (rows, columns); None for one a pixel.

    Returns:
        (..., rows, columns, channels), in x's dtype.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    sizes = require_output_size("adaptive_avg_pool2d: output_size", output_size)
    require_floating("adaptive_avg_pool2d", x=x)
    require_images("adaptive_avg_pool2d", x)
    (height, width), (rows, columns) = x.shape[-3:-1], sizes
    output = height if rows is None else rows, width if columns is None else columns
    return _adaptive_rule(x, (height, width), output)


def _padded(x, windows):
    """X_t of the taps in turn, (..., H', W', C) each."""
    return (tap for _, tap in taps(x, windows, fill=-jnp.inf))


def _first_inside(windows):
    """The first tap of each window that is no padding, (H', W', 1).

    It wins where nothing in the window is larger than -inf.
    """
    first = [
        -(np.minimum(s * np.arange(size) - before, 0) // d)
        for s, size, (before, _), d in zip(
            windows.stride, windows.output, windows.padding, windows.dilation, strict=True
        )
    ]
    rows, columns = (np.minimum(f, k - 1) for f, k in zip(first, windows.kernel, strict=True))
    return (rows[:, None] * windows.kernel[1] + columns[None, :])[..., None]


def _even_windows(like, image, output):
    """A, B and D of the derivation, D with as many axes as `like` has."""
    masks = []
    for size, windows in zip(image, output, strict=True):
        pixel, window = np.arange(size)[None, :], np.arange(windows)[:, None]
        # floor(h H / H') <= u < ceil((h + 1) H / H')
        masks.append(
            (window * size // windows <= pixel) & (pixel < -(-(window + 1) * size // windows))
        )
    rows, columns = (mask.sum(axis=1) for mask in masks)
    A, B = (jnp.asarray(mask, like.dtype) for mask in masks)
    D = per_window((rows[:, None] * columns[None, :])[..., None], like)
    return A, B, jnp.asarray(D, like.dtype)


def _put_back(values: Iterable[Array], windows):
    """Σ_t P_t Z_t of the values Z_t (..., H', W', C), in the order of the taps."""
    total: Any = 0
    places = np.ndindex(*windows.kernel)
    for Z, place in zip(values, places, strict=True):
        around = []
        for at, n, s, (before, _), d, size in zip(
            place,
            windows.image,
            windows.stride,
            windows.padding,
            windows.dilation,
            windows.output,
            strict=True,
        ):
            low = d * at - before
            around.append((low, n - low - s * (size - 1) - 1, s - 1))
        config = [(0, 0, 0)] * (Z.ndim - 3) + around + [(0, 0, 0)]
        total = total + lax.pad(Z, jnp.zeros((), Z.dtype), config)
    return total


def require_pooling(
    function: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> tuple[Pair, Pair, Pair, Pair]:
    """Kernel, stride, padding and dilation as pairs; ConfigError where one has no meaning."""
    kernel = require_pair(f"{function} kernel_size", kernel_size, 1)
    stride = kernel if stride is None else require_pair(f"{function} stride", stride, 1)
    dilation = require_pair(f"{function} dilation", dilation, 1)
    padding = require_pair(f"{function} padding", padding, 0)
    for k, d, p in zip(kernel, dilation, padding, strict=True):
        if 2 * p > d * (k - 1) + 1:
            raise ConfigError(
                f"{function} padding is {p}, expected at most half of what the kernel covers, "
                f"{d * (k - 1) + 1}: a window must not lie on padding alone"
            )
    if not isinstance(ceil_mode, bool):
        raise ConfigError(f"{function} ceil_mode is {ceil_mode!r}, expected True or False")
    return kernel, stride, padding, dilation


def require_divisor(function: str, count_include_pad: Any, divisor_override: Any) -> bool | int:
    """What a sum is divided by: the number given, or whether the count includes the padding."""
    if not isinstance(count_include_pad, bool):
        raise ConfigError(
            f"{function} count_include_pad is {count_include_pad!r}, expected True or False"
        )
    if divisor_override is None:
        return count_include_pad
    number = require_int(f"{function} divisor_override", divisor_override)
    if number == 0:
        raise ConfigError(f"{function} divisor_override is 0, expected another integer")
    return number


def require_output_size(name: str, value: Any) -> tuple[int | None, int | None]:
    """Rows and columns of an output, None for as many as the input has."""
    entries = value if isinstance(value, tuple | list) else (value, value)
    if len(entries) != 2:
        raise ConfigError(f"{name} is {value!r}, expected an integer or a pair (rows, columns)")
    rows, columns = (n if n is None else require_positive_int(name, n) for n in entries)
    return rows, columns


def _windows(function, x, kernel_size, stride, padding, dilation, ceil_mode):
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    kernel, stride, padding, dilation = require_pooling(f"{function}:", *options)
    require_floating(function, x=x)
    require_images(function, x)
    height, width = x.shape[-3:-1]
    sides = (padding[0], padding[0]), (padding[1], padding[1])
    windows = Windows((height, width), kernel, stride, sides, dilation)
    if ceil_mode:
        axes = zip(windows.image, stride, padding, windows.reach, strict=True)
        rows, columns = ((p, _behind(n, s, p, reach)) for n, s, p, reach in axes)
        windows = windows._replace(padding=(rows, columns))
    require_fit(function, windows)
    return windows


def _behind(n, stride, padding, reach):
    """How far a last window sticks out of the image, in ceil_mode; at least the padding."""
    size = -(-(n + 2 * padding - reach - 1) // stride) + 1
    if stride * (size - 1) >= n + padding:  # it would start in the padding behind
        size -= 1
    return max(padding, stride * (size - 1) + reach + 1 - n - padding)
