"""Integer labels: which count, which are classes, and the mean over those that count."""

import jax.numpy as jnp
from jax import Array

from funcnet.errors import DtypeError


def is_labels(target: Array) -> bool:
    """Whether the target is integers."""
    return jnp.issubdtype(target.dtype, jnp.integer)


def kept(labels: Array, ignore_index: int) -> Array:
    """Which labels count, (...); all of them where their dtype cannot hold ignore_index."""
    limits = jnp.iinfo(labels.dtype)
    if not limits.min <= ignore_index <= limits.max:
        return jnp.ones(labels.shape, bool)
    return labels != jnp.array(ignore_index, labels.dtype)


def known(labels: Array, classes: int) -> Array:
    """Which labels are classes, (...), of labels in int32."""
    return (labels >= 0) & (labels < classes)


def inf_if_none(counts: Array, divisor: Array) -> Array:
    """The divisor of a mean's cotangent: infinity where no label counts.

    Such a mean is NaN, and there is nothing to learn from: dL / infinity is 0.
    """
    return jnp.where(counts.any(), divisor, jnp.inf)


def require_target(function: str, target: object) -> None:
    """Raise DtypeError unless `target` is an array."""
    if not hasattr(target, "shape"):
        raise DtypeError(
            f"{function}: target is {type(target).__name__}, expected an array; convert it "
            f"with jnp.asarray"
        )
