"""kl_div: how far a predicted distribution is from its target.

S (...) are the logarithms of what was predicted, T of the same shape probabilities, or their
logarithms U. Entry by entry, the loss is

    l = T (log T - S),  and -T S where T = 0
    l = exp U (U - S)

    δl = - T δS + (log T + 1 - S) δT             dS = - dl * T        dT = dl * (log T + 1 - S)
    δl = - exp U δS + exp U (U + 1 - S) δU       dS = - dl * exp U    dU = dl * exp U (U + 1 - S)

with dl the cotangent of l, which reduction.py derives from that of the result. A "mean" divides by
the number of entries, a "batchmean" by the size of the first axis.

Residuals: S and T, which the caller holds, and exp U. The logarithm of T is taken again, and only
where dT is asked for. Half precision is computed in float32.
"""

from typing import Final, Literal

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet._internal.checks import require_bool
from funcnet.ops._checks import require_floating, require_same_shape
from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide
from funcnet.ops._rule import rule
from funcnet.ops.losses.reduction import REDUCTIONS, reduced, require_reduction, spread

KLReduction = Literal["none", "mean", "sum", "batchmean"]


def _kl_div(
    log_probabilities: Float[Array, "..."],
    target: Float[Array, "..."],
    reduction: KLReduction = "mean",
    log_target: bool = False,
) -> Float[Array, "..."]:
    """Kullback and Leibler's divergence of a prediction from a target, entry by entry.

    The backward pass is derived in the docstring of funcnet/ops/losses/divergence.py.

    Args:
        log_probabilities: (...), floating: the logarithm of what was predicted.
        target: the same shape, floating: probabilities, or their logarithms.
        reduction: "none" for (...); "sum", "mean" over all entries, or "batchmean" for (). What
            the divergence of a batch means is "batchmean": the sum over the size of the first axis.
        log_target: whether target holds logarithms.

    Returns:
        (...) or (), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    return _kl_div_fwd(log_probabilities, target, reduction, log_target)[0]


def _kl_div_fwd(log_probabilities, target, reduction, log_target):
    _check(log_probabilities, target, reduction, log_target)
    S, T = wide(log_probabilities), wide(target)
    P = jnp.exp(T) if log_target else None
    losses = T * _log(T) - T * S if P is None else P * (T - S)
    if reduction == "batchmean":
        loss = reduced(losses, "mean", _rows(S))
    else:
        loss = reduced(losses, reduction)
    dtype = jnp.result_type(log_probabilities, target)
    return loss.astype(dtype), (log_probabilities, target, P)


def _kl_div_bwd(reduction, log_target, residuals, dL):
    log_probabilities, target, P = residuals
    S, T = wide(log_probabilities), wide(target)
    # loss = losses.sum() / rows(S), or losses reduced
    if reduction == "batchmean":
        dl = spread(wide(dL), "mean", _rows(S))
    else:
        dl = spread(wide(dL), reduction, S.size)  # () or (...)
    if P is None:
        # losses = T * log(T) - T * S
        dS, dT = -dl * T, dl * (jnp.log(T) + 1 - S)
    else:
        # losses = P * (T - S), P = exp(T)
        dS, dT = -dl * P, dl * P * (T + 1 - S)
    return like(dS, log_probabilities), like(dT, target)


kl_div: Final = rule(_kl_div, _kl_div_fwd, _kl_div_bwd, nondiff_argnums=(2, 3))


def _rows(S):
    """What "batchmean" divides by: the size of the first axis; as in PyTorch, 1 of one number."""
    return len(S) if S.ndim else 1


def _log(T):
    """The logarithm; 0 for 0, where it is multiplied by 0."""
    return jnp.where(T == 0, 0, jnp.log(jnp.where(T == 0, 1, T)))


def _check(log_probabilities, target, reduction, log_target):
    require_reduction("kl_div", reduction, (*REDUCTIONS, "batchmean"))
    require_bool("kl_div: log_target", log_target)
    require_floating("kl_div", log_probabilities=log_probabilities, target=target)
    require_same_shape("kl_div", log_probabilities=log_probabilities, target=target)
