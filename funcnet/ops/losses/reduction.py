"""From the losses of examples to one number, and what a target says of each example.

l (...) is the loss of every example or entry n, as its own file derives it. Two decisions are made
here, for all losses: what becomes of l, and which examples count how much.


The reduction.  L is what is returned, dL its cotangent, D what a mean divides by:

    "none"  L_n = l_n              dl_n = dL_n
    "sum"   L = Σ_n l_n            dl_n = dL
    "mean"  L = Σ_n l_n / D        dl_n = dL / D,        dD = -dL L / D

The last from δL = Σ_n δl_n / D - (Σ_n l_n / D²) δD. dL is never assumed to be 1.


The target.  T (..., C) is what is asked of each of C classes, in probabilities:

    labels y (...)            T_nc = 1 for c = y_n, else 0
    probabilities (..., C)    T_nc as given

    smoothed                  (1 - ε) T_nc + ε / C        (Szegedy et al., 2016, section 7)

so that a cotangent of the smoothed target is one of T when multiplied by 1 - ε.


The examples that count.  D is the number of entries or examples; for labels those that count,
each by its share a_n, the weight w_c of its class c = y_n, or 1 where there are no weights:

    D = Σ_n a_n,    a_n = w at y_n, but 0 where y_n is ignored

    da_n = dD,      dw_c = Σ_n da_n over the n with y_n = c, besides what l_n gives

A label is one of three kinds, and the loss of its example is

    known     a class, and
    ignored   equal to ignore_index: the constant 0, and a_n = 0. Nothing reaches it: dl_n = 0.
    unknown   neither: NaN, so that no other class is learned for it; so are w at y_n and dl_n.

`masked` says so of what makes the losses and shares, and again of their cotangents: what it makes
a constant gets none, and what it makes NaN gets NaN. With all labels ignored, D is 0 and the mean
0 / 0, NaN; yet every dl_n is 0: nothing is learned. Where labels count, but all have weight 0,
dL / 0 is infinite. PyTorch does the same in each case, but refuses unknown labels.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from funcnet.errors import ConfigError, DtypeError
from funcnet.ops._indices import as_int32

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS = ("none", "mean", "sum")


def reduced(losses: Array, reduction: str, divisor: Array | int | None = None) -> Array:
    """The losses (...), or their sum or mean (), which divides by their number or by `divisor`."""
    if reduction == "mean":
        return losses.mean() if divisor is None else losses.sum() / divisor
    return losses.sum() if reduction == "sum" else losses


def spread(dL: Array, reduction: str, divisor: Array | int) -> Array:
    """The cotangent of each loss, () for all or (...): dl of the derivation."""
    # L = l, or Σ l, or Σ l / D
    return jnp.divide(dL, divisor) if reduction == "mean" else dL


def divisor_cotangent(dL: Array, mean: Array, divisor: Array) -> Array:
    """The cotangent of what a mean divides by, (): dD of the derivation."""
    # L = Σ l / D
    return -(dL / divisor) * mean


def divisor(
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """What the mean over examples divides by, (): D of the derivation.

    Args:
        target: integer labels (...), or floating class probabilities (..., C).
        weight: (C,) floating, the weight of each class; None for 1. Probabilities have no class
            whose weight would count.
        ignore_index: the label whose examples do not count; probabilities all do.
        dtype: of the result.
    """
    if not is_labels(target):
        return jnp.asarray(target[..., 0].size, dtype)
    if weight is None:
        return jnp.asarray(counted(target, ignore_index)).sum(dtype=dtype)
    shares = weight_at(target, weight, dtype)
    return masked(shares, target, len(weight), ignore_index).sum()


def masked(values: Array, target: Array, classes: int, ignore_index: int) -> Array:
    """What belongs to each example, but 0 for an ignored label and NaN for an unknown one.

    Args:
        values: () for all, (...), or (..., C).
        target: integer labels (...); probabilities (..., C) all keep their values.
        classes: C.
        ignore_index: the label that is ignored.
    """
    if not is_labels(target):
        return values
    is_known, counts = known(target, classes), counted(target, ignore_index)
    if values.ndim > target.ndim:
        is_known, counts = is_known[..., None], counts[..., None]
    return jnp.where(counts, jnp.where(is_known, values, jnp.nan), 0)


def is_labels(target: Array) -> bool:
    """Whether the target is integers."""
    return jnp.issubdtype(target.dtype, jnp.integer)


def counted(labels: Array, ignore_index: int) -> Array:
    """Which labels count, (...); all of them where their dtype cannot hold ignore_index."""
    limits = jnp.iinfo(labels.dtype)
    if not limits.min <= ignore_index <= limits.max:
        return jnp.ones(labels.shape, bool)
    return labels != jnp.array(ignore_index, labels.dtype)


def known(labels: Array, classes: int) -> Array:
    """Which labels are classes, (...)."""
    index = as_int32(labels)
    return (index >= 0) & (index < classes)


def class_index(labels: Array, classes: int) -> Array:
    """The class of each label, (...), int32; the nearest for an unknown one, which is masked."""
    return jnp.clip(as_int32(labels), 0, classes - 1)


def distribution(target: Array, classes: int, dtype: DTypeLike) -> Array:
    """What the target asks of each class, (..., C): T of the derivation."""
    if is_labels(target):
        return jax.nn.one_hot(class_index(target, classes), classes, dtype=dtype)
    return jnp.asarray(target, dtype)


def smoothed(T: Array, label_smoothing: float) -> Array:
    """The target (1 - ε) T + ε / C, (..., C)."""
    return (1 - label_smoothing) * T + label_smoothing / T.shape[-1]


def weight_at(labels: Array, weight: Array | None, dtype: DTypeLike) -> Array:
    """The weight of each label's class, (...), or () where there are no weights: then 1."""
    if weight is None:
        return jnp.ones((), dtype)
    return jnp.take(weight.astype(dtype), class_index(labels, len(weight)))


def at_label(values: Array, labels: Array, classes: int) -> Array:
    """Each example's number (...) at its label's class, and 0 at the others, (..., C).

    At every class for a label that is none, whose number is 0 or NaN.
    """
    column = jnp.arange(classes).reshape((1,) * labels.ndim + (-1,))
    there = (as_int32(labels)[..., None] == column) | ~known(labels, classes)[..., None]
    return jnp.where(there, values[..., None], 0)


def require_target(function: str, target: object) -> None:
    """Raise DtypeError unless `target` is an array."""
    if not hasattr(target, "shape"):
        raise DtypeError(
            f"{function}: target is {type(target).__name__}, expected an array; convert it "
            f"with jnp.asarray"
        )


def require_reduction(function: str, reduction: Any, choices: tuple[str, ...] = REDUCTIONS) -> None:
    """Raise ConfigError unless `reduction` is a known one."""
    if not isinstance(reduction, str) or reduction not in choices:
        raise ConfigError(f"{function}: reduction is {reduction!r}, expected one of {choices}")
