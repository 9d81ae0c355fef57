"""Scaled dot-product attention: each query's mean of the values, weighted by how well its key fits.

    Q (..., L, D)    queries
    K (..., S, D)    keys
    V (..., S, E)    values
    M (..., L, S)    mask, added to the scores: numbers, or -∞ where a key is hidden; may be absent
    O (..., L, E)    outputs

With a scale s, 1/√D unless given, and i counting queries, j keys,

    S = s Q Kᵀ + M        P_ij = exp(S_ij - L_i),  L_i = log Σ_j exp S_ij        O = P V

Each row of P adds up to 1. Perturbing what each of the three is made of, one after the other:

    δO = δP V + P δV
    δL = <dO, δO> = <dO Vᵀ, δP> + <Pᵀ dO, δV>              dV = Pᵀ dO        dP = dO Vᵀ

    δP_ij = P_ij (δS_ij - Σ_k P_ik δS_ik), as for softmax
    <dP, δP> = Σ_ij P_ij dP_ij δS_ij - Σ_ij P_ij dP_ij Σ_k P_ik δS_ik
                                                           dS_ij = P_ij (dP_ij - r_i)
        r_i = Σ_j P_ij dP_ij = Σ_j P_ij Σ_e dO_ie V_je = Σ_e dO_ie O_ie

    δS = s δQ Kᵀ + s Q δKᵀ + δM
    <dS, δS> = <s dS K, δQ> + <s dSᵀ Q, δK> + <dS, δM>     dQ = s dS K       dK = s dSᵀ Q   dM = dS

where dM is summed over the axes along which M was repeated.

Residuals: Q, K and V, which the caller holds, O, which the next layer keeps, and L, one number a
query. P has as many entries as there are pairs of a query and a key; it is computed again from S
and L. That r_i can be had from O is what makes that possible without a second pass over the row.

Dropout puts A = B * P / (1 - p) in the place of P in O = A V, with a mask B that is 1 with
probability 1 - p and else 0:

    dV = Aᵀ dO        dA = dO Vᵀ        dP = B * dA / (1 - p)        r_i = Σ_j A_ij dA_ij

and r_i is again Σ_e dO_ie O_ie. B is drawn again from its key, which costs less than to keep it.

A query to which every key is hidden has O_i = 0, and gives no gradient: L_i is 0 in its place.

Several queries may share the keys and values of a head (grouped queries). They stand on an axis of
their own, the third from the last of Q, M and O, and dK and dV are sums over it.

Sources: Vaswani et al., "Attention is all you need", 2017, equation 1; r_i from O: Dao et al.,
"FlashAttention", 2022, appendix B.2; grouped queries: Ainslie et al., "GQA", 2023.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from funcnet._internal.checks import (
    require_arrays,
    require_bool,
    require_key,
    require_number,
)
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._dropped import dropped, kept
from funcnet.ops._precision import wide
from funcnet.ops._rule import rule
from funcnet.ops.kernels.attention import by_heads

NAME = "scaled_dot_product_attention"
Causal = Literal["upper_left", "lower_right"] | None


def scaled_dot_product_attention(
    query: Float[Array, "... L D"],
    keys: Float[Array, "... S D"],
    values: Float[Array, "... S E"],
    attn_mask: Bool[Array, "... L S"] | Float[Array, "... L S"] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool | Literal["upper_left", "lower_right"] = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "... L E"]:
    """Attention of each query to the keys, `softmax(scale * query keysᵀ + attn_mask) values`.

    As `torch.nn.functional.scaled_dot_product_attention`; `key` is that of the random numbers. The
    backward pass is derived in the docstring of funcnet/ops/attention.py.

    Args:
        query: (..., L, D), floating; as a rule (batch, heads, L, D).
        keys: (..., S, D), floating, of the same leading axes.
        values: (..., S, E), floating, of the same leading axes.
        attn_mask: of a shape that broadcasts to (..., L, S): booleans that are True where a query
            sees a key, or numbers added to the scores, which have a gradient.
        dropout_p: the probability with which a weight is dropped; as in PyTorch, also outside
            training: pass 0 there.
        is_causal: whether query i sees the keys up to i alone ("upper_left" or True, PyTorch's
            meaning), or up to i + S - L ("lower_right": the last query sees all, as with a cache).
            With a mask a query sees what both show.
        scale: what the products are multiplied by; None for 1/√D.
        enable_gqa: whether query may have a multiple of the heads of keys and values, on its third
            last axis; neighbours share one (grouped queries).
        key: typed scalar key that dropout draws from; needed where dropout_p is not 0.

    Returns:
        (..., L, E), in the dtype that query, keys and values promote to. 0 for a query that sees
        no key.

    Raises:
        ShapeError, DtypeError: the arrays do not fit each other, or are not floating; the mask is
            neither boolean nor floating; the random key is missing.
        ConfigError: an option is out of its range.
    """
    _check(query, keys, values, attn_mask, enable_gqa)
    p = require_number(f"{NAME}: dropout_p", dropout_p, 0, 1)
    _check_key(p, key)
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    scale = require_number(f"{NAME}: scale", scale)
    groups = query.shape[-3] // max(keys.shape[-3], 1) if enable_gqa else 1
    mask = None if attn_mask is None else _apart(_with_axes(attn_mask, query.ndim), groups)
    key = key if p else None
    y = _attend(_apart(query, groups), keys, values, mask, key, _aligned(is_causal), p, scale)
    return y.reshape(*query.shape[:-1], values.shape[-1])


def _scaled_dot_product_attention(q, k, v, mask, key, causal, p, scale):
    return _scaled_dot_product_attention_fwd(q, k, v, mask, key, causal, p, scale)[0]


def _scaled_dot_product_attention_fwd(q, k, v, mask, key, causal, p, scale):
    S = _scores(q, k, mask, causal, scale)
    m = S.max(axis=-1, keepdims=True, initial=-jnp.inf)
    m = jax.lax.stop_gradient(jnp.where(jnp.isfinite(m), m, 0))
    E = jnp.exp(S - m)
    total = E.sum(axis=-1, keepdims=True)
    total = jnp.where(total == 0, 1, total)  # where every key is hidden
    A = dropped(E / total, _kept(key, p, E.shape), p)
    y = jnp.einsum("...gij,...je->...gie", A, wide(v))
    y = y.astype(jnp.result_type(q, k, v))
    return y, (q, k, v, mask, key, y, m + jnp.log(total))


def _scaled_dot_product_attention_bwd(causal, p, scale, residuals, dO):
    q, k, v, mask, key, y, L = residuals
    dO = wide(dO)
    B = _kept(key, p, (*q.shape[:-1], k.shape[-2]))
    P = jnp.exp(_scores(q, k, mask, causal, scale) - L)
    # y = A @ v, where A is P without what was dropped
    A = dropped(P, B, p)
    dA = jnp.einsum("...gie,...je->...gij", dO, wide(v))
    dV = jnp.einsum("...gij,...gie->...je", A, dO)
    # P = exp(S - L)
    r = (dO * wide(y)).sum(axis=-1, keepdims=True)
    dS = P * (dropped(dA, B, p) - r)
    # S = scale * q @ k.T + mask
    dQ = scale * jnp.einsum("...gij,...jd->...gid", dS, wide(k))
    dK = scale * jnp.einsum("...gij,...gid->...jd", dS, wide(q))
    dM = _cotangent_of_mask(mask, dS)
    return like(dQ, q), like(dK, k), like(dV, v), dM, None  # a key has no cotangent


_attend = rule(
    _scaled_dot_product_attention,
    _scaled_dot_product_attention_fwd,
    _scaled_dot_product_attention_bwd,
    nondiff_argnums=(5, 6, 7),
    kernel=by_heads,
)


def _scores(q: Array, k: Array, mask: Array | None, causal: Causal, scale: float) -> Array:
    """S, in at least float32, -∞ where a key is hidden.

    Args:
        q: (..., G, L, D).
        k: (..., S, D).
        mask: (..., G or 1, L or 1, S or 1), booleans or numbers, or None.
        causal: on which side the triangle is aligned, if there is one.
        scale: what the products are multiplied by.
    """
    S = jnp.einsum("...gid,...jd->...gij", scale * wide(q), wide(k))
    if causal is not None:
        i, j = (jax.lax.broadcasted_iota(jnp.int32, S.shape, S.ndim + a) for a in (-2, -1))
        offset = S.shape[-1] - S.shape[-2] if causal == "lower_right" else 0
        S = jnp.where(j <= i + offset, S, -jnp.inf)
    if mask is None:
        return S
    return jnp.where(mask, S, -jnp.inf) if mask.dtype == bool else S + wide(mask)


def _kept(key, p, shape):
    """B, for the weights of all queries of all heads."""
    *leading, columns = shape
    return kept(key, p, jnp.arange(math.prod(leading)).reshape(leading), columns)


def _cotangent_of_mask(mask: Array | None, dS: Array) -> Array | None:
    """dM: dS, summed over the axes along which the mask was repeated; None for booleans."""
    if mask is None or mask.dtype == bool:
        return None
    repeated = tuple(i for i, size in enumerate(mask.shape) if size == 1)
    return like(dS.sum(axis=repeated, keepdims=True), mask)


def _apart(a, groups):
    """(..., heads, L, D) as (..., heads / groups, groups, L, D); alone (..., 1, L, D)."""
    if a.ndim == 2 or groups == 1:
        return jnp.expand_dims(a, -3)
    if a.shape[-3] == 1:  # a mask for all heads
        return jnp.expand_dims(a, -3)
    return a.reshape(*a.shape[:-3], a.shape[-3] // groups, groups, *a.shape[-2:])


def _with_axes(mask, axes):
    return mask.reshape((1,) * (axes - mask.ndim) + mask.shape)


def _aligned(is_causal: Any) -> Causal:
    if isinstance(is_causal, bool):
        return "upper_left" if is_causal else None
    if is_causal not in ("upper_left", "lower_right"):
        raise ConfigError(
            f"{NAME}: is_causal is {is_causal!r}, expected True, False, 'upper_left' or "
            f"'lower_right'"
        )
    return is_causal


def _check(q, k, v, mask, gqa):
    require_bool(f"{NAME}: enable_gqa", gqa)
    require_floating(NAME, query=q, keys=k, values=v)
    axes = 3 if gqa else 2
    fits = q.ndim == k.ndim == v.ndim >= axes and k.shape[-2] == v.shape[-2]
    if not fits or q.shape[-1] != k.shape[-1] or not _share(q, k, v, gqa):
        heads = "(..., n * H, L, D), (..., H, S, D) and (..., H, S, E)"
        raise ShapeError(
            f"{NAME}: query, keys and values have shapes {q.shape}, {k.shape} and {v.shape}, "
            f"expected {heads if gqa else '(..., L, D), (..., S, D) and (..., S, E)'}, of the same "
            f"leading axes{'' if gqa else '; for heads that share keys pass enable_gqa=True'}"
        )
    if mask is not None:
        _check_mask(mask, (*q.shape[:-1], k.shape[-2]))


def _share(q, k, v, gqa):
    """Whether the leading axes are the same, the heads of query but for a factor."""
    if not gqa:
        return q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    heads = q.shape[-3], max(k.shape[-3], 1)
    return q.shape[:-3] == k.shape[:-3] and k.shape[:-2] == v.shape[:-2] and not heads[0] % heads[1]


def _check_mask(mask, shape):
    require_arrays(NAME, attn_mask=mask)
    if mask.dtype != bool and not jnp.issubdtype(mask.dtype, jnp.floating):
        raise DtypeError(
            f"{NAME}: attn_mask is {mask.dtype}{list(mask.shape)}, expected booleans, True where a "
            f"query sees a key, or floating point to add; convert it with attn_mask.astype(bool)"
        )
    sizes = (1,) * (len(shape) - mask.ndim) + mask.shape
    if len(sizes) != len(shape) or any(m not in (1, n) for m, n in zip(sizes, shape, strict=True)):
        raise ShapeError(
            f"{NAME}: attn_mask has shape {mask.shape}, expected one that broadcasts to {shape}, "
            f"(..., L, S); for one mask an example insert an axis for the heads, as mask[:, None]"
        )


def _check_key(p, key):
    if p and key is None:
        raise DtypeError(
            f"{NAME}: there is no key to draw from; pass key=jax.random.key(0), or dropout_p=0"
        )
    if key is not None:
        require_key(key)
