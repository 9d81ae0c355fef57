"""Rotary position embedding: pairs of features are turned by an angle in proportion to a position.

    X (..., T, D)    queries or keys; D is even, K = D / 2 pairs (a_k, b_k)
    t (..., T)       positions
    Y (..., T, D)    outputs

    θ_k = base^(-k / K), k = 0 ... K - 1        φ_k = t θ_k

    Y_a = a cos φ - b sin φ
    Y_b = a sin φ + b cos φ

so that the product of a turned query and a turned key depends on the difference of their positions
alone. Pair k is features k and K + k ("halves", as in Llama), or 2 k and 2 k + 1 (interleaved, as
in the paper).

For given positions that is linear, and each pair is turned:

    δL = <dY_a, cos φ δa - sin φ δb> + <dY_b, sin φ δa + cos φ δb>

    da = dY_a cos φ + dY_b sin φ
    db = dY_b cos φ - dY_a sin φ

which turns the cotangent back, by -φ. Residual: t, integers; the angles are computed again.

Source: Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, eq. 34.
"""

from typing import Final

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from funcnet._internal.checks import require_arrays, require_bool, require_number
from funcnet.errors import DtypeError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._precision import wide
from funcnet.ops._rule import rule


def _rotary_embedding(
    x: Float[Array, "... T D"],
    positions: Int[Array, "*#T"],
    base: float = 10000.0,
    interleaved: bool = False,
) -> Float[Array, "... T D"]:
    """Turn each pair of features by an angle in proportion to the position.

    The backward pass is derived in the docstring of funcnet/ops/rotary.py.

    Args:
        x: (..., T, D), floating, D even.
        positions: (T,) or any shape that broadcasts to (..., T); integers, as `jnp.arange(T)`.
        base: pair k of D / 2 turns by base^(-2 k / D) radians a position; positive.
        interleaved: whether the pairs are neighbours; else they are half of the features apart.

    Returns:
        (..., T, D), in x's dtype.

    Raises:
        ShapeError, DtypeError: x has no two axes or an odd number of features; the positions do
            not fit, or are no integers.
        ConfigError: base is not a positive number, or interleaved neither True nor False.
    """
    _check(x, positions, base, interleaved)
    return _turned(x, positions, base, interleaved, 1)


def _rotary_embedding_fwd(x, positions, base, interleaved):
    return _rotary_embedding(x, positions, base, interleaved), positions


def _rotary_embedding_bwd(base, interleaved, positions, dY):
    # y = x turned by φ
    return _turned(dY, positions, base, interleaved, -1), None  # positions have no cotangent


rotary_embedding: Final = rule(
    _rotary_embedding, _rotary_embedding_fwd, _rotary_embedding_bwd, nondiff_argnums=(2, 3)
)


def _turned(x, positions, base, interleaved, sign):
    """Each pair of X, turned by φ or -φ."""
    pairs = x.shape[-1] // 2
    z = wide(x)
    theta = base ** (-jnp.arange(pairs, dtype=z.dtype) / pairs)
    phi = positions.astype(z.dtype)[..., None] * theta.reshape((1,) * positions.ndim + (pairs,))
    phi = phi.reshape((1,) * (x.ndim - phi.ndim) + phi.shape)
    cos, sin = jnp.cos(phi), sign * jnp.sin(phi)
    if interleaved:
        a, b = z[..., 0::2], z[..., 1::2]
        y = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
    else:
        a, b = z[..., :pairs], z[..., pairs:]
        y = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return y.astype(x.dtype)


def _check(x, positions, base, interleaved):
    require_bool("rotary_embedding: interleaved", interleaved)
    require_number("rotary_embedding: base", base, 1e-30)
    require_floating("rotary_embedding", x=x)
    require_arrays("rotary_embedding", positions=positions)
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise DtypeError(
            f"rotary_embedding: positions are {positions.dtype}, expected integers, such as "
            f"jnp.arange(x.shape[-2])"
        )
    if x.ndim < 2 or x.shape[-1] % 2:
        raise ShapeError(
            f"rotary_embedding: x has shape {x.shape}, expected (..., T, D) with an even D, since "
            f"features are turned in pairs"
        )
    sizes = (1,) * (x.ndim - 1 - positions.ndim) + positions.shape
    fits = len(sizes) == x.ndim - 1
    if not fits or any(p not in (1, n) for p, n in zip(sizes, x.shape[:-1], strict=True)):
        raise ShapeError(
            f"rotary_embedding: positions have shape {positions.shape}, expected one that "
            f"broadcasts to {x.shape[:-1]}, (..., T)"
        )
