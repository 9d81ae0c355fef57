"""mse_loss and cross_entropy: from predictions and targets to a number.

Both take any number of leading axes (...), and end alike: a loss l_n for every entry or example
n, then a reduction; _reductions.py tells dl_n, the cotangent of l_n, from dL, that of the result,
and D, what the mean divides by.


mse_loss: l = (P - T)², P and T of one shape (...); no factor 1/2; D = the number of entries.

    δl = 2 (P - T) * (δP - δT)           dP = 2 dl * (P - T),     dT = -dP

    Residuals: P and T, which the caller holds; their difference costs one subtraction.


cross_entropy, fused with the softmax. Z (..., C) are the logits of C classes, and for each
example n

    S_nc = log softmax(Z_n)_c = Z_nc - log Σ_k exp Z_nk

    l_n  = - Σ_c Q_nc S_nc,         Q_nc = w_c T_nc

T (..., C) is the target: the class probabilities given, or 1 at the label and 0 elsewhere, in
either case smoothed to (1 - ε) T + ε / C (Szegedy et al., 2016, section 7); then zero for a label
that equals ignore_index. w (C,) are the class weights. PyTorch's mean divides by

    D = Σ_n w at the label of n, over the labels not ignored       (labels)
    D = the number of examples                                     (probabilities)

Derivation. Let p = exp S = softmax(Z), so that Σ_k p_nk = 1. Then

    δS_nc = δZ_nc - Σ_k p_nk δZ_nk

    δl_n  = - Σ_c Q_nc δS_nc - Σ_c S_nc δQ_nc
          = Σ_k (p_nk Σ_c Q_nc - Q_nk) δZ_nk - Σ_c S_nc (w_c δT_nc + T_nc δw_c)

    dZ_nc = dl_n (p_nc Σ_k Q_nk - Q_nc)
    dT_nc = - dl_n w_c S_nc                      times (1 - ε) for the target before smoothing
    dw_c  = - Σ_n dl_n T_nc S_nc

For a mean over labels D depends on w too: with L = N / D, δL = δN / D - L δD / D, so dw_c also
gets -dL (L / D) times the number of labels c.

For labels Σ_k Q_nk needs no sum: it is (1 - ε) w + ε Σ_k w_k / C, with the label's weight w.

Residuals: target and weights, which the caller holds; D; p, made of the exponentials whose sum is
taken, since they take most of the time; and for dT and dw, Z and of each example the two numbers
that make S again from it without a reduction: the maximum m_n and r_n = log Σ_k exp(Z_nk - m_n),
with S = (Z - m) - r. The maximum makes logits of any finite size safe, and S does not depend on it:
m is a constant to the derivative. Half-precision arguments are computed with in float32.
"""

import numbers

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_int
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.ops._checks import require_floating, require_same_shape
from funcnet.ops._cotangents import like
from funcnet.ops._indices import as_int32
from funcnet.ops._labels import inf_if_none, is_labels, kept, known, require_target
from funcnet.ops._reductions import Reduction, reduced, require_reduction, spread
from funcnet.ops.kernels.sums import sums


def _mse_loss(prediction: Array, target: Array, reduction: Reduction = "mean") -> Array:
    """Squared error, `(prediction - target)**2`, reduced over all entries.

    Args:
        prediction: (...), floating.
        target: prediction's shape, floating.
        reduction: "none" for (...), "sum" or "mean" over all entries for ().

    Returns:
        (...) or (), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check_mse_loss(prediction, target, reduction)
    return reduced(jnp.square(prediction - target), reduction)


def _mse_loss_fwd(prediction, target, reduction: Reduction = "mean"):
    return _mse_loss(prediction, target, reduction), (prediction, target)


def _mse_loss_bwd(reduction, residuals, dL):
    prediction, target = residuals
    dl = spread(dL, reduction, prediction.size)
    # l = (prediction - target)**2
    dP = 2 * dl * (prediction - target)  # () or (...), (...) -> (...)
    return like(dP, prediction), like(-dP, target)


mse_loss = jax.custom_vjp(_mse_loss, nondiff_argnums=(2,))
mse_loss.defvjp(_mse_loss_fwd, _mse_loss_bwd)


def _cross_entropy(
    logits: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Cross entropy between the softmax of logits and a target, as PyTorch defines it.

    Args:
        logits: (..., C), floating, unnormalised log-probabilities; classes last.
        target: integer labels (...), or floating class probabilities (..., C).
        weight: (C,) floating, the weight of each class; None for 1.
        ignore_index: the label whose examples count nothing, in the sum or in the mean's
            divisor. Probabilities have no labels to ignore.
        reduction: "none" for (...); "sum" or "mean" over the examples for (). The mean over
            labels is weighted: it divides by the weights of the labels; the mean over
            probabilities by the number of examples.
        label_smoothing: ε in [0, 1]: the target becomes (1 - ε) target + ε / C.

    Returns:
        (...) or (), in the dtype of the logits. A label that is no class gives NaN; so does a
        mean over no example, whose gradient is 0.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check_cross_entropy(logits, target, weight, ignore_index, reduction, label_smoothing)
    m, _, total = _exponentials(logits)
    S = _log_softmax(logits, m, jnp.log(total))
    hard, T, w = _target(S, target, weight, ignore_index, label_smoothing)
    losses = -_product(w * T, S).sum(axis=-1)  # l_n: (..., C) -> (...)
    if reduction == "mean":
        losses = losses.sum() / _divisor(hard, target, weight, ignore_index)
    elif reduction == "sum":
        losses = losses.sum()
    return losses.astype(logits.dtype)


def _cross_entropy_fwd(
    logits,
    target,
    weight=None,
    ignore_index=-100,
    reduction: Reduction = "mean",
    label_smoothing=0.0,
):
    loss = _cross_entropy(logits, target, weight, ignore_index, reduction, label_smoothing)
    m, E, total = _exponentials(logits)  # as in the primal: XLA computes them once
    r = jnp.log(total)
    S = _log_softmax(logits, m, r)
    hard, _, _ = _target(S, target, weight, ignore_index, label_smoothing)
    D = _divisor(hard, target, weight, ignore_index) if reduction == "mean" else None
    if D is not None and is_labels(target):
        # Without weights D is how many count; with them, it may be 0 though some do.
        D = inf_if_none(D > 0 if weight is None else kept(target, ignore_index), D)
    needs_S = weight is not None or not is_labels(target)
    kept_for_S = (logits, m, r) if needs_S else None
    return loss, (logits[None][:0], target, weight, E / total, kept_for_S, D)


def _cross_entropy_bwd(ignore_index, reduction, label_smoothing, residuals, dL):
    like_logits, target, weight, p, kept_for_S, D = residuals
    hard, T, w = _target(p, target, weight, ignore_index, label_smoothing)
    batch = tuple(range(p.ndim - 1))
    dl = dL.astype(p.dtype)  # () or (...)
    if reduction == "none":
        dl = dl[..., None]
    elif reduction == "mean":
        dl = dl / D  # losses.sum() / D
    # losses = -product(Q, S).sum(axis=-1), Q = w * T, S = logits - log Σ exp(logits)
    total = _total(w * T, target, weight, ignore_index, label_smoothing)
    dZ = like(dl * (p * total - w * T), like_logits)  # (..., C)
    if kept_for_S is None:  # labels, and no weight to have a cotangent
        return dZ, None, None
    S = _log_softmax(*kept_for_S)
    # T = (1 - ε) target + ε / C; labels have no cotangent
    dT = None if is_labels(target) else like((1 - label_smoothing) * w * -dl * S, target)
    if weight is None:
        return dZ, dT, None
    # Q = w * T
    dw = -(dl * _product(T, S)).sum(axis=batch)  # T * dQ: (..., C) -> (C,)
    if reduction == "mean" and is_labels(target):
        # D = Σ hard * w
        loss = -_product(w * T, S).sum() / D
        dw = dw - dl * loss * hard.sum(axis=batch)
    return dZ, dT, like(dw, weight)


cross_entropy = jax.custom_vjp(_cross_entropy, nondiff_argnums=(3, 4, 5))
cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def _exponentials(logits):
    """M (..., 1), E = exp(Z - m) (..., C) and Σ_k E_k (..., 1), in at least float32."""
    z = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    m = jax.lax.stop_gradient(z.max(axis=-1, keepdims=True))
    E = jnp.exp(z - m)
    return m, E, sums(E)


def _log_softmax(logits, m, r):
    return logits.astype(m.dtype) - m - r


def _product(Q, S):
    """Q * S, and 0 where Q is 0 and S is -inf, a class that is impossible and unasked for."""
    return Q * jnp.where((Q == 0) & ~jnp.isfinite(S), 0, S)


def _target(S, target, weight, ignore_index, label_smoothing):
    """The target before and after smoothing, (..., C) each, and the weights, (1, ..., C)."""
    classes = S.shape[-1]
    if is_labels(target):
        labels = as_int32(target)
        counts = kept(target, ignore_index)[..., None]
        one_hot = jax.nn.one_hot(labels, classes, dtype=S.dtype)
        one_hot = jnp.where(known(labels, classes)[..., None], one_hot, jnp.nan)
        hard = jnp.where(counts, one_hot, 0)
        smooth = jnp.where(counts, label_smoothing / classes, 0).astype(S.dtype)
    else:
        hard, smooth = target.astype(S.dtype), label_smoothing / classes
    w = jnp.ones((), S.dtype) if weight is None else weight.astype(S.dtype)
    # By jnp: NumPy would multiply a target that is a constant, and warn.
    smoothed = jnp.multiply(1 - label_smoothing, hard) + smooth
    return hard, smoothed, w.reshape((1,) * (S.ndim - 1) + (-1,))


def _total(Q, target, weight, ignore_index, label_smoothing):
    """Σ_k Q_nk, (..., 1)."""
    if not is_labels(target):
        return sums(Q)
    total = jnp.ones((), Q.dtype)
    if weight is not None:
        w = weight.astype(Q.dtype)
        own = jnp.take(w, as_int32(target)[..., None], mode="clip")
        total = (1 - label_smoothing) * own + label_smoothing * w.mean()
    return jnp.where(kept(target, ignore_index)[..., None], total, 0)


def _divisor(hard, target, weight, ignore_index):
    """D of the derivation, ()."""
    if not is_labels(target):
        return jnp.asarray(hard[..., 0].size, hard.dtype)
    if weight is None:
        return kept(target, ignore_index).sum(dtype=hard.dtype)
    return (hard.sum(axis=tuple(range(target.ndim))) * weight.astype(hard.dtype)).sum()


def require_label_smoothing(function: str, label_smoothing: float) -> None:
    """Raise ConfigError unless `label_smoothing` is a number in [0, 1]."""
    number = isinstance(label_smoothing, numbers.Real) and not isinstance(label_smoothing, bool)
    if not number or not 0 <= label_smoothing <= 1:
        raise ConfigError(
            f"{function}: label_smoothing is {label_smoothing!r}, expected a number in [0, 1]"
        )


def _check_mse_loss(prediction, target, reduction):
    require_reduction("mse_loss", reduction)
    require_floating("mse_loss", prediction=prediction)
    integers = hasattr(target, "dtype") and jnp.issubdtype(target.dtype, jnp.integer)
    if integers and target.shape == prediction.shape[:-1] != ():
        raise DtypeError(
            f"mse_loss: target is {target.dtype}{list(target.shape)}, expected floating point of "
            f"shape {prediction.shape}; for labels, use jax.nn.one_hot(target, "
            f"{prediction.shape[-1]})"
        )
    require_floating("mse_loss", target=target)
    require_same_shape("mse_loss", prediction=prediction, target=target)


def _check_cross_entropy(logits, target, weight, ignore_index, reduction, label_smoothing):
    require_reduction("cross_entropy", reduction)
    require_int("cross_entropy: ignore_index", ignore_index)
    require_label_smoothing("cross_entropy", label_smoothing)
    require_floating("cross_entropy", logits=logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ShapeError(
            f"cross_entropy: logits have shape {logits.shape}, expected (..., classes) with at "
            f"least one class"
        )
    _check_target(logits, target)
    if weight is None:
        return
    require_floating("cross_entropy", weight=weight)
    if weight.shape != logits.shape[-1:]:
        raise ShapeError(
            f"cross_entropy: weight has shape {weight.shape}, expected {logits.shape[-1:]}, one "
            f"weight a class"
        )


def _check_target(logits, target):
    require_target("cross_entropy", target)
    given = f"cross_entropy: target is {target.dtype}{list(target.shape)}"
    labels, probabilities = logits.shape[:-1], logits.shape
    if is_labels(target):
        if target.shape == labels:
            return
        mend = "reshape them"
        if target.shape == probabilities:
            mend = "for one-hot rows, take target.argmax(axis=-1) or make them floating"
        raise ShapeError(f"{given}, expected integer labels of shape {labels}; {mend}")
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise DtypeError(
            f"{given}, expected integer labels of shape {labels} or floating probabilities of "
            f"shape {probabilities}; convert it with astype"
        )
    if target.shape != probabilities:
        mend = "reshape them"
        if target.shape == labels:
            mend = "for labels, use target.astype(jnp.int32)"
        raise ShapeError(f"{given}, expected class probabilities of shape {probabilities}; {mend}")
