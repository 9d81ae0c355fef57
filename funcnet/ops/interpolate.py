"""interpolate: images of another size, every pixel that of the nearest place.

    X (..., H, W, C)     images, channels last, any number of leading batch axes
    Y (..., H', W', C)   outputs

With a scale r, H' / H or the factor given, row h of Y is row ⌊h / r⌋ of X; columns likewise. Let A
(H', H) be 1 where row u is that of row h and else 0, and B (W', W) the same of the columns:

    Y[h, w] = Σ_uv A[h, u] B[w, v] X[u, v]        δY[h, w] = Σ_uv A[h, u] B[w, v] δX[u, v]

    dX[u, v] = Σ_hw A[h, u] B[w, v] dY[h, w]

so that each pixel gets the sum of the cotangents of its copies. Where r is a whole number these
stand side by side, r by r.

Residuals: none. Y is linear in X.
"""

import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from funcnet._internal.checks import require_choice, require_number
from funcnet.errors import ConfigError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._rule import rule
from funcnet.ops._windows import Pair, Size, require_images, require_pair

Rows = tuple[int, ...]
"""For each row of Y that of X, which never falls; static."""
Factor = float | tuple[float, float]


def _interpolate(x: Array, rows: Rows, columns: Rows, image: tuple[int, int]) -> Array:
    y = jnp.take(x, np.array(rows, np.int32), axis=-3, mode="clip")
    return jnp.take(y, np.array(columns, np.int32), axis=-2, mode="clip")


def _interpolate_fwd(x, rows, columns, image):
    return _interpolate(x, rows, columns, image), ()


def _interpolate_bwd(rows, columns, image, residuals, dY):
    # y[h, w] = x[rows[h], columns[w]]
    dX = _summed(_summed(dY, rows, image[0], -3), columns, image[1], -2)
    return (dX,)


_rule = rule(_interpolate, _interpolate_fwd, _interpolate_bwd, nondiff_argnums=(1, 2, 3))


def interpolate(
    x: Float[Array, "... height width channels"],
    size: Size | None = None,
    scale_factor: Factor | None = None,
    mode: Literal["nearest"] = "nearest",
) -> Float[Array, "... out_height out_width channels"]:
    """Images of another size, as `torch.nn.functional.interpolate` makes them, the channels last.

    The backward pass is derived in the docstring of funcnet/ops/interpolate.py.

    Args:
        x: (..., height, width, channels), floating.
        size: the pixels of the outputs, an integer or (rows, columns).
        scale_factor: or by how much they grow, a number or one for rows and one for columns; the
            outputs have ⌊height * factor⌋ rows.
        mode: "nearest": each pixel is that of row ⌊h / scale⌋, columns likewise.

    Returns:
        (..., H', W', channels), in x's dtype.

    Raises:
        ShapeError, DtypeError: x is no floating array of images, or of none at all.
        ConfigError: not exactly one of size and scale_factor, or one without meaning.
    """
    require_choice("interpolate: mode", mode, ("nearest",))
    pair, factors = require_size("interpolate", size, scale_factor)
    require_floating("interpolate", x=x)
    require_images("interpolate", x)
    height, width = x.shape[-3:-1]
    if not height or not width:
        raise ShapeError(f"interpolate: x has shape {x.shape}, expected at least one pixel")
    if pair is not None:
        rows, columns = _places(height, pair[0]), _places(width, pair[1])
    else:
        made = tuple(math.floor(n * f) for n, f in zip((height, width), factors, strict=True))
        if min(made) < 1:
            raise ShapeError(
                f"interpolate: images of {height} x {width} pixels become {made[0]} x {made[1]}, "
                f"expected at least one pixel; use a larger scale_factor"
            )
        rows = _places(height, made[0], factors[0])
        columns = _places(width, made[1], factors[1])
    return _rule(x, rows, columns, (height, width))


def require_size(
    name: str, size: Any, scale_factor: Any
) -> tuple[Pair | None, tuple[float, float]]:
    """Exactly one of the two: the size as a pair or None, the factors as a pair.

    Raises:
        ConfigError: both or neither are given, or one has no meaning.
    """
    if (size is None) == (scale_factor is None):
        raise ConfigError(
            f"{name}: size is {size} and scale_factor {scale_factor}, expected exactly one of them"
        )
    if size is not None:
        return require_pair(f"{name}: size", size, 1), (1.0, 1.0)
    both = isinstance(scale_factor, tuple | list) and len(scale_factor) == 2
    factors = tuple(scale_factor) if both else (scale_factor, scale_factor)
    rows, columns = (require_number(f"{name}: scale_factor", f, 1e-6) for f in factors)
    return None, (rows, columns)


def _places(size: int, made: int, factor: float | None = None) -> Rows:
    """For each row made the row it copies; in float32, as PyTorch counts."""
    step = np.float32(1 / factor) if factor else np.float32(size) / np.float32(made)
    places = np.floor(np.arange(made, dtype=np.float32) * step).astype(int)
    return tuple(np.minimum(places, size - 1).tolist())


def _summed(dY: Array, rows: Rows, size: int, axis: int) -> Array:
    """Along an axis, the sum over the copies of each of `size` rows."""
    axis += dY.ndim
    factor = len(rows) // size
    if rows == tuple(h // factor for h in range(factor * size) if factor):
        shape = (*dY.shape[:axis], size, factor, *dY.shape[axis + 1 :])
        return dY.reshape(shape).sum(axis=axis + 1)
    A = np.equal.outer(np.arange(size), np.array(rows)).astype(dY.dtype)  # (H, H')
    dX = jnp.tensordot(dY, A, ([axis], [1]), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(dX, -1, axis)
