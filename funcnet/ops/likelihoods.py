"""nll_loss, binary_cross_entropy_with_logits and kl_div: losses of probabilities.

Each makes a loss l for every example or entry, then a reduction, see _reductions.py: dl is the
cotangent of l, D what a mean divides by.


nll_loss: S (..., C) are the log-probabilities of C classes, y (...) labels, w (C,) class weights:

    l_n = - w_y S_ny,  y the label of n;  0 where it is ignored,      D = Σ_n w_y over the others

    δl_n = - w_y δS_ny - S_ny δw_y          dS_nc = - dl_n w_c  for c = y,  else 0
                                            dw_c  = - Σ dl_n S_nc  over the n with y = c

    For a mean D depends on w too: with L = N / D, δL = δN / D - L δD / D, so dw_c also gets
    -dL (L / D) times the number of labels c.

    Residuals: the labels, w, D, and S at each label, one number an example.


binary_cross_entropy_with_logits: X (...) are logits, T of the same shape the probabilities of
"yes", w weights of the entries, v of "yes" against "no" (pos_weight), both broadcast to X's shape.
With σ the sigmoid and s(X) = log(1 + exp X), so that log σ(X) = -s(-X) and s' = σ,

    l = w (T v s(-X) + (1 - T) s(X))

    dX = dl * w ((1 - T) σ(X) - T v σ(-X))
    dT = dl * w (v s(-X) - s(X))            which is -dl * w X for v = 1, as s(X) - s(-X) = X
    dw = dl * (T v s(-X) + (1 - T) s(X))    both summed over what was broadcast
    dv = dl * w T s(-X)

    s(X) = max(X, 0) + log(1 + exp -|X|) never overflows, and no two large numbers cancel in l.

    Residuals: the slope dX / dl, which would cost the exponentials once more, and the arguments.


kl_div: S (...) are log-probabilities, T of the same shape probabilities, or their logarithms U:

    l = T (log T - S),  and -T S where T = 0       D = the number of entries, or for "batchmean"
    l = exp U (U - S)                                  the size of the first axis

    dS = - dl * T            dT = dl * (log T + 1 - S)
    dS = - dl * exp U        dU = dl * exp U (U + 1 - S)

    Residuals: S and T, which the caller holds, and exp U. The logarithm of T is taken again, and
    only where dT is asked for.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_bool, require_int
from funcnet.errors import DtypeError, ShapeError
from funcnet.ops._checks import require_floating, require_same_shape
from funcnet.ops._cotangents import like
from funcnet.ops._indices import as_int32
from funcnet.ops._labels import inf_if_none, is_labels, kept, known, require_target
from funcnet.ops._precision import wide
from funcnet.ops._reductions import REDUCTIONS, Reduction, reduced, require_reduction, spread

KLReduction = Literal["none", "mean", "sum", "batchmean"]


def _nll_loss(
    log_probabilities: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Array:
    """Negative log-likelihood of labels, as PyTorch defines it: what follows a `log_softmax`.

    Args:
        log_probabilities: (..., C), floating; classes last.
        target: integer labels (...).
        weight: (C,) floating, the weight of each class; None for 1.
        ignore_index: the label whose examples count nothing, in the sum or in the mean's divisor.
        reduction: "none" for (...); "sum" or "mean" over the examples for (). The mean divides
            by the weights of the labels.

    Returns:
        (...) or (), in the dtype of the log-probabilities. A label that is no class gives NaN; so
        does a mean over no example, whose gradient is 0.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check_nll_loss(log_probabilities, target, weight, ignore_index, reduction)
    S, w = _at_label(log_probabilities, target, weight)
    counts = kept(target, ignore_index)
    S = jnp.where(counts, S, 0)  # an ignored label's may be NaN
    losses = jnp.where(counts, -w * S, 0)
    if reduction == "mean":
        losses = losses.sum() / jnp.where(counts, w, 0).sum()
    elif reduction == "sum":
        losses = losses.sum()
    return losses.astype(log_probabilities.dtype)


def _nll_loss_fwd(
    log_probabilities, target, weight=None, ignore_index=-100, reduction: Reduction = "mean"
):
    loss = _nll_loss(log_probabilities, target, weight, ignore_index, reduction)
    S, w = _at_label(log_probabilities, target, weight)
    counts = kept(target, ignore_index)
    D = None
    if reduction == "mean":
        total = jnp.where(counts, w, 0).sum()
        D = inf_if_none(total > 0 if weight is None else counts, total)
    shape_and_dtype = log_probabilities[None][:0]
    return loss, (shape_and_dtype, target, weight, S, D)


def _nll_loss_bwd(ignore_index, reduction, residuals, dL):
    shape_and_dtype, target, weight, S, D = residuals
    classes = shape_and_dtype.shape[-1]
    dl = dL.astype(S.dtype)
    if reduction == "mean":
        dl = dl / D  # losses.sum() / D
    counts, labels = kept(target, ignore_index), as_int32(target)
    # losses = -w[y] * S[y]; in the row of a label that counts and is no class, everything is NaN
    astray = counts & ~known(labels, classes)
    at_label = jnp.where(counts, -dl * _weight_at(labels, weight, S.dtype), 0)  # (...)
    at_label = jnp.where(astray, jnp.nan, at_label)[..., None]
    column = jnp.arange(classes).reshape((1,) * target.ndim + (-1,))
    dS = jnp.where((labels[..., None] == column) | astray[..., None], at_label, 0)  # (..., C)
    if weight is None:
        return like(dS, shape_and_dtype), None, None
    hot = jnp.where(astray[..., None], jnp.nan, labels[..., None] == column)
    hot = jnp.where(counts[..., None], hot, 0)  # (..., C)
    chosen = jnp.where(hot == 0, 0, hot * S[..., None])  # S[y] where y is, (..., C)
    batch = tuple(range(target.ndim))
    dw = (-jnp.broadcast_to(dl, target.shape)[..., None] * chosen).sum(axis=batch)  # -> (C,)
    if reduction == "mean":
        # D = Σ w[y]
        w = weight.astype(S.dtype).reshape((1,) * target.ndim + (-1,))
        loss = -(w * chosen).sum() / D
        dw = dw - dL.astype(S.dtype) / D * loss * hot.sum(axis=batch)
    return like(dS, shape_and_dtype), None, like(dw, weight)


nll_loss = jax.custom_vjp(_nll_loss, nondiff_argnums=(3, 4))
nll_loss.defvjp(_nll_loss_fwd, _nll_loss_bwd)


def _at_label(S, target, weight):
    """S and w at each label, (...), in at least float32; NaN where a label is no class."""
    labels, classes = as_int32(target), S.shape[-1]
    index = jnp.clip(labels, 0, classes - 1)
    chosen = jnp.take_along_axis(wide(S), index[..., None], axis=-1)[..., 0]
    chosen = jnp.where(known(labels, classes), chosen, jnp.nan)
    return chosen, _weight_at(labels, weight, chosen.dtype)


def _weight_at(labels, weight, dtype):
    """W at each label in int32, (...), or at the class next to one that is no class; 1 for None."""
    if weight is None:
        return jnp.ones((), dtype)
    return jnp.take(weight.astype(dtype), jnp.clip(labels, 0, len(weight) - 1))


def _binary_cross_entropy_with_logits(
    logits: Array,
    target: Array,
    weight: Array | None = None,
    reduction: Reduction = "mean",
    pos_weight: Array | None = None,
) -> Array:
    """Cross entropy between the sigmoid of logits and the probability of "yes", entry by entry.

    Args:
        logits: (...), floating.
        target: logits' shape, floating, in [0, 1].
        weight: floating, of a shape that is broadcast to the logits'; None for 1.
        reduction: "none" for (...), "sum" or "mean" over all entries for (). The mean divides
            by the number of entries, whatever the weights.
        pos_weight: how much more a "yes" counts, floating, broadcast likewise; None for 1.

    Returns:
        (...) or (), in the dtype that logits and target promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check_binary_cross_entropy(logits, target, weight, reduction, pos_weight)
    x, t = wide(logits), wide(target)
    w, v = _broadcast(weight, x), _broadcast(pos_weight, x)
    losses = w * (t * v * _softplus(-x) + (1 - t) * _softplus(x))
    return reduced(losses, reduction).astype(jnp.result_type(logits, target))


def _binary_cross_entropy_with_logits_fwd(
    logits, target, weight=None, reduction: Reduction = "mean", pos_weight=None
):
    loss = _binary_cross_entropy_with_logits(logits, target, weight, reduction, pos_weight)
    x, t = wide(logits), wide(target)
    w, v = _broadcast(weight, x), _broadcast(pos_weight, x)
    E = jnp.exp(-jnp.abs(x))  # as in the primal: XLA computes it once
    yes, no = jnp.where(x < 0, E, 1) / (1 + E), jnp.where(x < 0, 1, E) / (1 + E)
    slope = w * ((1 - t) * yes - t * v * no)
    return loss, (logits, target, weight, pos_weight, slope)


def _binary_cross_entropy_with_logits_bwd(reduction, residuals, dL):
    logits, target, weight, pos_weight, slope = residuals
    x, t = wide(logits), wide(target)
    w, v = _broadcast(weight, x), _broadcast(pos_weight, x)
    dl = spread(wide(dL), reduction, logits.size)
    # l = w * (t * v * softplus(-x) + (1 - t) * softplus(x))
    dX = like(dl * slope, logits)  # () or (...), (...) -> (...)
    dv = None
    if pos_weight is None:
        dT = like(-dl * w * x, target)
    else:
        dT = like(dl * w * (v * _softplus(-x) - _softplus(x)), target)
        dv = like(_summed_to(dl * w * t * _softplus(-x), pos_weight), pos_weight)
    if weight is None:
        return dX, dT, None, dv
    unweighted = t * v * _softplus(-x) + (1 - t) * _softplus(x)
    return dX, dT, like(_summed_to(dl * unweighted, weight), weight), dv


binary_cross_entropy_with_logits = jax.custom_vjp(
    _binary_cross_entropy_with_logits, nondiff_argnums=(3,)
)
binary_cross_entropy_with_logits.defvjp(
    _binary_cross_entropy_with_logits_fwd, _binary_cross_entropy_with_logits_bwd
)


def _softplus(x):
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _broadcast(weight, x):
    """The weight with x's number of axes and dtype; 1 for None."""
    if weight is None:
        return jnp.ones((), x.dtype)
    return weight.astype(x.dtype).reshape((1,) * (x.ndim - weight.ndim) + weight.shape)


def _summed_to(cotangent, weight):
    """The cotangent (...) of a broadcast weight, summed to the weight's shape."""
    shape = (1,) * (cotangent.ndim - weight.ndim) + weight.shape
    copied = tuple(i for i, n in enumerate(shape) if n == 1)
    return cotangent.sum(axis=copied, keepdims=True).reshape(weight.shape)


def _kl_div(
    log_probabilities: Array,
    target: Array,
    reduction: KLReduction = "mean",
    log_target: bool = False,
) -> Array:
    """Kullback and Leibler's divergence of a prediction from a target, entry by entry.

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
    _check_kl_div(log_probabilities, target, reduction, log_target)
    S, T = wide(log_probabilities), wide(target)
    losses = jnp.exp(T) * (T - S) if log_target else T * _log(T) - T * S
    loss = losses.sum() / _rows(S) if reduction == "batchmean" else reduced(losses, reduction)
    return loss.astype(jnp.result_type(log_probabilities, target))


def _kl_div_fwd(log_probabilities, target, reduction: KLReduction = "mean", log_target=False):
    loss = _kl_div(log_probabilities, target, reduction, log_target)
    return loss, (log_probabilities, target, jnp.exp(wide(target)) if log_target else None)


def _kl_div_bwd(reduction, log_target, residuals, dL):
    log_probabilities, target, P = residuals
    S, T, g = wide(log_probabilities), wide(target), wide(dL)
    dl = g / _rows(S) if reduction == "batchmean" else spread(g, reduction, S.size)
    # l = T * (log(T) - S), or exp(T) * (T - S)
    if log_target:
        dS, dT = -dl * P, dl * P * (T + 1 - S)
    else:
        dS, dT = -dl * T, dl * (jnp.log(T) + 1 - S)
    return like(dS, log_probabilities), like(dT, target)


kl_div = jax.custom_vjp(_kl_div, nondiff_argnums=(2, 3))
kl_div.defvjp(_kl_div_fwd, _kl_div_bwd)


def _rows(S):
    """What "batchmean" divides by: the size of the first axis; as in PyTorch, 1 of one number."""
    return len(S) if S.ndim else 1


def _log(T):
    """The logarithm; 0 for 0, where it is multiplied by 0."""
    return jnp.where(T == 0, 0, jnp.log(jnp.where(T == 0, 1, T)))


def _check_nll_loss(log_probabilities, target, weight, ignore_index, reduction):
    require_reduction("nll_loss", reduction)
    require_int("nll_loss: ignore_index", ignore_index)
    require_floating("nll_loss", log_probabilities=log_probabilities)
    shape = log_probabilities.shape
    if shape[-1:] in ((), (0,)):
        raise ShapeError(
            f"nll_loss: log_probabilities have shape {shape}, expected (..., classes) with at "
            f"least one class"
        )
    require_target("nll_loss", target)
    given = f"nll_loss: target is {target.dtype}{list(target.shape)}"
    if not is_labels(target):
        raise DtypeError(
            f"{given}, expected integer labels of shape {shape[:-1]}; convert it, for example with "
            f"target.astype(jnp.int32); for class probabilities use cross_entropy"
        )
    if target.shape != shape[:-1]:
        raise ShapeError(f"{given}, expected integer labels of shape {shape[:-1]}; reshape them")
    if weight is not None:
        require_floating("nll_loss", weight=weight)
        if weight.shape != shape[-1:]:
            raise ShapeError(
                f"nll_loss: weight has shape {weight.shape}, expected {shape[-1:]}, one weight a "
                f"class"
            )


def _check_binary_cross_entropy(logits, target, weight, reduction, pos_weight):
    function = "binary_cross_entropy_with_logits"
    require_reduction(function, reduction)
    require_floating(function, logits=logits, target=target)
    require_same_shape(function, logits=logits, target=target)
    for name, array in (("weight", weight), ("pos_weight", pos_weight)):
        if array is None:
            continue
        require_floating(function, **{name: array})
        shape = (1,) * (logits.ndim - array.ndim) + array.shape
        fits = len(shape) == logits.ndim and all(
            n in (1, m) for n, m in zip(shape, logits.shape, strict=True)
        )
        if not fits:
            raise ShapeError(
                f"{function}: {name} has shape {array.shape}, expected one that is broadcast to "
                f"the logits' {logits.shape}"
            )


def _check_kl_div(log_probabilities, target, reduction, log_target):
    require_reduction("kl_div", reduction, (*REDUCTIONS, "batchmean"))
    require_bool("kl_div: log_target", log_target)
    require_floating("kl_div", log_probabilities=log_probabilities, target=target)
    require_same_shape("kl_div", log_probabilities=log_probabilities, target=target)
