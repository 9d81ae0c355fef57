"""cross_entropy, nll_loss and binary_cross_entropy_with_logits: losses of classes.

Each is derived for one example or entry, with the cotangent dl of its loss. How dl comes from that
of the result, which labels count, and what smoothing does, is in reduction.py.


cross_entropy, fused with the softmax. Z (..., C) are the logits of C classes, T (..., C) what the
target asks of each, smoothed, and w (C,) the class weights. For each example n

    S_nc = log softmax(Z_n)_c = Z_nc - log Σ_k exp Z_nk

    l_n  = - Σ_c Q_nc S_nc,         Q_nc = w_c T_nc

Derivation. Let p = exp S = softmax(Z), so that Σ_k p_nk = 1. Then

    δS_nc = δZ_nc - Σ_k p_nk δZ_nk

    δl_n  = - Σ_c Q_nc δS_nc - Σ_c S_nc δQ_nc
          = Σ_k (p_nk Σ_c Q_nc - Q_nk) δZ_nk - Σ_c S_nc (w_c δT_nc + T_nc δw_c)

    dZ_nc = dl_n (p_nc Σ_k Q_nk - Q_nc)
    dT_nc = - dl_n w_c S_nc
    dw_c  = - Σ_n dl_n T_nc S_nc           and from the divisor of a mean over labels its share

For labels Σ_k Q_nk needs no sum: it is (1 - ε) w + ε Σ_k w_k / C, with the label's weight w.

Residuals: target and weights, which the caller holds; a mean and its divisor; p, made of the
exponentials whose sum is taken, since they take most of the time; and for dT and dw, Z and of each
example the two numbers that make S again from it without a reduction: the maximum m_n and
r_n = log Σ_k exp(Z_nk - m_n), with S = (Z - m) - r. The maximum makes logits of any finite size
safe, and S does not depend on it: m is a constant to the derivative. Half-precision arguments are
computed with in float32.


nll_loss: S (..., C) are the log-probabilities of C classes, y (...) labels, w (C,) class weights:

    l_n  = - w_y S_ny,  y the label of n

    δl_n = - w_y δS_ny - S_ny δw_y          dS_nc = - dl_n w_c  for c = y,  else 0
                                            dw_c  = - Σ dl_n S_nc  over the n with y = c
                                                    and from the divisor of a mean its share

Residuals: the labels, w, a mean and its divisor, and S at each label, one number an example.


binary_cross_entropy_with_logits: X (...) are logits, T of the same shape the probabilities of
"yes", w weights of the entries, v of "yes" against "no" (pos_weight), both broadcast to X's shape.
With σ the sigmoid and s(X) = log(1 + exp X), so that log σ(X) = -s(-X) and s' = σ,

    l = w (T v s(-X) + (1 - T) s(X))

    dX = dl * w ((1 - T) σ(X) - T v σ(-X))
    dT = dl * w (v s(-X) - s(X))            which is -dl * w X for v = 1, as s(X) - s(-X) = X
    dw = dl * (T v s(-X) + (1 - T) s(X))    both summed over what was broadcast
    dv = dl * w T s(-X)

A mean divides by the number of entries, whatever the weights. With E = exp -|X|, which can't
overflow, s(X) is max(X, 0) + log(1 + E), and σ(X) is 1 / (1 + E), or E / (1 + E) for a negative X.

Residuals: the slope dX / dl, which would cost the exponential once more, and the arguments. The
other cotangents take s again, and only where they are asked for.
"""

import numbers
from typing import Final

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from funcnet._internal.checks import require_int
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.ops._checks import require_floating, require_same_shape
from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide
from funcnet.ops._rule import rule
from funcnet.ops.kernels.sums import sums
from funcnet.ops.losses.reduction import (
    Reduction,
    at_label,
    class_index,
    distribution,
    divisor,
    divisor_cotangent,
    is_labels,
    masked,
    reduced,
    require_reduction,
    require_target,
    smoothed,
    spread,
    weight_at,
)


def _cross_entropy(
    logits: Float[Array, "*batch classes"],
    target: Integer[Array, "*batch"] | Float[Array, "*batch classes"],
    weight: Float[Array, " classes"] | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Float[Array, "..."]:
    """Cross entropy between the softmax of logits and a target, as PyTorch defines it.

    The backward pass is derived in the docstring of funcnet/ops/losses/classification.py.

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
        (...) or (), in the dtype of the logits. An unknown label, one that is no class, gives
        NaN; so does a mean over no example, whose gradient is 0.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    return _cross_entropy_fwd(logits, target, weight, ignore_index, reduction, label_smoothing)[0]


def _cross_entropy_fwd(logits, target, weight, ignore_index, reduction, label_smoothing):
    _check_cross_entropy(logits, target, weight, ignore_index, reduction, label_smoothing)
    z, classes = wide(logits), logits.shape[-1]
    m = jax.lax.stop_gradient(z.max(axis=-1, keepdims=True))  # (..., 1)
    E = jnp.exp(z - m)  # (..., C)
    total = sums(E)  # (..., 1)
    r = jnp.log(total)
    S = z - m - r  # (..., C)
    T = smoothed(distribution(target, classes, S.dtype), label_smoothing)
    Q = masked(_row(weight, S) * T, target, classes, ignore_index)  # (..., C)
    losses = -_product(Q, S).sum(axis=-1)  # (..., C) -> (...)
    D = divisor(target, weight, ignore_index, S.dtype)
    loss = reduced(losses, reduction, D)
    needs_S = weight is not None or not is_labels(target)
    kept_for_S = (logits, m, r) if needs_S else None
    residuals = logits[None][:0], target, weight, E / total, kept_for_S, D, loss
    return loss.astype(logits.dtype), residuals


def _cross_entropy_bwd(ignore_index, reduction, label_smoothing, residuals, dL):
    like_logits, target, weight, p, kept_for_S, D, loss = residuals
    classes, dL = p.shape[-1], dL.astype(p.dtype)
    w = _row(weight, p)
    T = smoothed(distribution(target, classes, p.dtype), label_smoothing)
    # loss = reduced(losses), of the examples that Q = masked(w * T) leaves
    dl = masked(spread(dL, reduction, D), target, classes, ignore_index)
    dl = jnp.broadcast_to(dl, p.shape[:-1])[..., None]  # (..., 1)
    # losses = -product(Q, S).sum(axis=-1), S = logits - log Σ exp(logits)
    dZ = like(dl * (p * _total(target, weight, label_smoothing, w * T) - w * T), like_logits)
    if kept_for_S is None:  # labels, and no weight to have a cotangent
        return dZ, None, None
    logits, m, r = kept_for_S
    S = wide(logits) - m - r
    # T = (1 - ε) target + ε / C; labels have no cotangent
    dT = None if is_labels(target) else like((1 - label_smoothing) * w * -dl * S, target)
    if weight is None:
        return dZ, dT, None
    # Q = masked(w * T)
    dw = masked(-dl * _product(T, S), target, classes, ignore_index)  # T * dQ: (..., C)
    if reduction == "mean" and is_labels(target):
        # loss = losses.sum() / D, D = Σ w at the label
        dD = masked(divisor_cotangent(dL, loss, D), target, classes, ignore_index)  # (...)
        dw = dw + at_label(dD, target, classes)
    return dZ, dT, like(dw.sum(axis=tuple(range(p.ndim - 1))), weight)  # (..., C) -> (C,)


cross_entropy: Final = rule(
    _cross_entropy, _cross_entropy_fwd, _cross_entropy_bwd, nondiff_argnums=(3, 4, 5)
)


def _product(Q, S):
    """Q * S, and 0 where Q is 0 and S is -inf, a class that is impossible and unasked for."""
    return Q * jnp.where((Q == 0) & ~jnp.isfinite(S), 0, S)


def _row(weight, S):
    """The class weights with S's number of axes and dtype, (1, ..., C); 1 for None."""
    if weight is None:
        return jnp.ones((), S.dtype)
    return weight.astype(S.dtype).reshape((1,) * (S.ndim - 1) + (-1,))


def _total(target, weight, label_smoothing, Q):
    """Σ_k Q_nk, (..., 1) or ()."""
    if not is_labels(target):
        return sums(Q)
    if weight is None:
        return jnp.ones((), Q.dtype)
    own = weight_at(target, weight, Q.dtype)[..., None]
    return (1 - label_smoothing) * own + label_smoothing * weight.astype(Q.dtype).mean()


def _nll_loss(
    log_probabilities: Float[Array, "*batch classes"],
    target: Integer[Array, "*batch"],
    weight: Float[Array, " classes"] | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """Negative log-likelihood of labels, as PyTorch defines it: what follows a `log_softmax`.

    The backward pass is derived in the docstring of funcnet/ops/losses/classification.py.

    Args:
        log_probabilities: (..., C), floating; classes last.
        target: integer labels (...).
        weight: (C,) floating, the weight of each class; None for 1.
        ignore_index: the label whose examples count nothing, in the sum or in the mean's divisor.
        reduction: "none" for (...); "sum" or "mean" over the examples for (). The mean divides
            by the weights of the labels.

    Returns:
        (...) or (), in the dtype of the log-probabilities. An unknown label, one that is no
        class, gives NaN; so does a mean over no example, whose gradient is 0.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    return _nll_loss_fwd(log_probabilities, target, weight, ignore_index, reduction)[0]


def _nll_loss_fwd(log_probabilities, target, weight, ignore_index, reduction):
    _check_nll_loss(log_probabilities, target, weight, ignore_index, reduction)
    classes = log_probabilities.shape[-1]
    index = class_index(target, classes)[..., None]
    S = jnp.take_along_axis(wide(log_probabilities), index, axis=-1)[..., 0]  # (..., C) -> (...)
    losses = masked(-weight_at(target, weight, S.dtype) * S, target, classes, ignore_index)
    D = divisor(target, weight, ignore_index, S.dtype)
    loss = reduced(losses, reduction, D)
    residuals = log_probabilities[None][:0], target, weight, S, D, loss
    return loss.astype(log_probabilities.dtype), residuals


def _nll_loss_bwd(ignore_index, reduction, residuals, dL):
    like_S, target, weight, S, D, loss = residuals
    classes, dL = like_S.shape[-1], dL.astype(S.dtype)

    def each(cotangent):
        """The cotangent of every example, at the class of its label, (..., C)."""
        return at_label(masked(cotangent, target, classes, ignore_index), target, classes)

    # loss = reduced(masked(losses))
    dl = spread(dL, reduction, D)  # () or (...)
    # losses = -w * S at the label
    dS = like(each(-dl * weight_at(target, weight, S.dtype)), like_S)
    if weight is None:
        return dS, None, None
    dw = each(-dl * S)
    if reduction == "mean":
        # loss = losses.sum() / D, D = Σ w at the label
        dw = dw + each(divisor_cotangent(dL, loss, D))
    return dS, None, like(dw.sum(axis=tuple(range(target.ndim))), weight)  # (..., C) -> (C,)


nll_loss: Final = rule(_nll_loss, _nll_loss_fwd, _nll_loss_bwd, nondiff_argnums=(3, 4))


def _binary_cross_entropy_with_logits(
    logits: Float[Array, "..."],
    target: Float[Array, "..."],
    weight: Float[Array, "..."] | None = None,
    reduction: Reduction = "mean",
    pos_weight: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Cross entropy between the sigmoid of logits and the probability of "yes", entry by entry.

    The backward pass is derived in the docstring of funcnet/ops/losses/classification.py.

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
    return _binary_fwd(logits, target, weight, reduction, pos_weight)[0]


def _binary_fwd(logits, target, weight, reduction, pos_weight):
    _check_binary(logits, target, weight, reduction, pos_weight)
    x, t = wide(logits), wide(target)
    w, v = _broadcast(weight, x), _broadcast(pos_weight, x)
    E = jnp.exp(-jnp.abs(x))
    yes, no = _softplus(x, E)
    losses = w * (t * v * yes + (1 - t) * no)  # (...)
    positive, negative = jnp.where(x < 0, E, 1) / (1 + E), jnp.where(x < 0, 1, E) / (1 + E)
    slope = w * ((1 - t) * positive - t * v * negative)
    loss = reduced(losses, reduction).astype(jnp.result_type(logits, target))
    return loss, (logits, target, weight, pos_weight, slope)


def _binary_bwd(reduction, residuals, dL):
    logits, target, weight, pos_weight, slope = residuals
    x, t = wide(logits), wide(target)
    w, v = _broadcast(weight, x), _broadcast(pos_weight, x)
    dl = spread(wide(dL), reduction, x.size)
    # losses = w * (t * v * yes + (1 - t) * no), yes, no = softplus(-x), softplus(x)
    dX = like(dl * slope, logits)  # () or (...), (...) -> (...)
    if weight is None and pos_weight is None:
        return dX, like(-dl * w * x, target), None, None
    yes, no = _softplus(x, jnp.exp(-jnp.abs(x)))
    dT = like(-dl * w * x if pos_weight is None else dl * w * (v * yes - no), target)
    dw = _summed_to(dl * (t * v * yes + (1 - t) * no), weight)
    return dX, dT, dw, _summed_to(dl * w * t * yes, pos_weight)


binary_cross_entropy_with_logits: Final = rule(
    _binary_cross_entropy_with_logits, _binary_fwd, _binary_bwd, nondiff_argnums=(3,)
)


def _softplus(x, E):
    """s(-x) and s(x), which a "yes" and a "no" cost, of E = exp(-abs(x))."""
    rest = jnp.log1p(E)
    return jnp.maximum(-x, 0) + rest, jnp.maximum(x, 0) + rest


def _broadcast(weight, x):
    """The weight with x's number of axes and dtype; 1 for None."""
    if weight is None:
        return jnp.ones((), x.dtype)
    return weight.astype(x.dtype).reshape((1,) * (x.ndim - weight.ndim) + weight.shape)


def _summed_to(cotangent, weight):
    """The cotangent (...) of a broadcast weight, summed to the weight's shape; None for None."""
    if weight is None:
        return None
    shape = (1,) * (cotangent.ndim - weight.ndim) + weight.shape
    copied = tuple(i for i, n in enumerate(shape) if n == 1)
    return like(cotangent.sum(axis=copied, keepdims=True).reshape(weight.shape), weight)


def require_label_smoothing(function: str, label_smoothing: float) -> None:
    """Raise ConfigError unless `label_smoothing` is a number in [0, 1]."""
    number = isinstance(label_smoothing, numbers.Real) and not isinstance(label_smoothing, bool)
    if not number or not 0 <= label_smoothing <= 1:
        raise ConfigError(
            f"{function}: label_smoothing is {label_smoothing!r}, expected a number in [0, 1]"
        )


def _check_cross_entropy(logits, target, weight, ignore_index, reduction, label_smoothing):
    require_reduction("cross_entropy", reduction)
    require_int("cross_entropy: ignore_index", ignore_index)
    require_label_smoothing("cross_entropy", label_smoothing)
    _check_classes("cross_entropy", weight, logits=logits)
    require_target("cross_entropy", target)
    given = f"cross_entropy: target is {target.dtype}{list(target.shape)}"
    labels, probabilities = logits.shape[:-1], logits.shape
    if is_labels(target):
        if target.shape == labels:
            return
        fix = "reshape them"
        if target.shape == probabilities:
            fix = "for one-hot rows, take target.argmax(axis=-1) or make them floating"
        elif target.shape == (*labels, 1):
            fix = "reshape them, a column as target[..., 0]"
        raise ShapeError(f"{given}, expected integer labels of shape {labels}; {fix}")
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise DtypeError(
            f"{given}, expected integer labels of shape {labels} or floating probabilities of "
            f"shape {probabilities}; for labels, use target.astype(jnp.int32)"
        )
    if target.shape != probabilities:
        fix = "reshape them"
        if target.shape == labels:
            fix = "for labels, use target.astype(jnp.int32)"
        raise ShapeError(f"{given}, expected class probabilities of shape {probabilities}; {fix}")


def _check_nll_loss(log_probabilities, target, weight, ignore_index, reduction):
    require_reduction("nll_loss", reduction)
    require_int("nll_loss: ignore_index", ignore_index)
    _check_classes("nll_loss", weight, log_probabilities=log_probabilities)
    require_target("nll_loss", target)
    given = f"nll_loss: target is {target.dtype}{list(target.shape)}"
    labels = log_probabilities.shape[:-1]
    if not is_labels(target):
        raise DtypeError(
            f"{given}, expected integer labels of shape {labels}; convert it, for example with "
            f"target.astype(jnp.int32); for class probabilities use cross_entropy"
        )
    if target.shape != labels:
        raise ShapeError(f"{given}, expected integer labels of shape {labels}; reshape them")


def _check_classes(function, weight, **scores):
    """Raise unless the scores are floating, (..., C) with C > 0, and the weights (C,) or None."""
    require_floating(function, **scores)
    ((name, array),) = scores.items()
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ShapeError(
            f"{function}: {name} have shape {array.shape}, expected (..., classes) with at least "
            f"one class"
        )
    if weight is None:
        return
    require_floating(function, weight=weight)
    if weight.shape != array.shape[-1:]:
        raise ShapeError(
            f"{function}: weight has shape {weight.shape}, expected {array.shape[-1:]}, one weight "
            f"a class"
        )


def _check_binary(logits, target, weight, reduction, pos_weight):
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
