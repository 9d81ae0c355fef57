"""Sample weights: an example of weight k counts as k equal examples do.

With l_i the loss of example i, its class's weight included, D_i what a mean divides by for it alone
(`Loss.divisor`: its entries, or the weights of its labels), and w_i its weight, a batch or a set
has

    L = Σ_i w_i l_i / Σ_i w_i D_i        with reduction "sum" L = Σ_i w_i l_i

so that class weights and ignored labels go on counting as they do.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from funcnet.data.arrays import Weighted
from funcnet.errors import ConfigError, ShapeError
from funcnet.layers import Loss

MEANS = ("mean", "batchmean")


def weighted_loss(loss: Callable[[Any, Any], Any], prediction: Any, y: Any) -> Any:
    """The loss of a batch, whether its examples have weights or not."""
    if not isinstance(y, Weighted):
        return loss(prediction, y)
    if getattr(loss, "reduction", None) == "none":  # refused, as it is without weights
        return loss(prediction, y.target)
    losses = _of_each(loss, prediction, y)
    total = (losses * y.weight.astype(losses.dtype)).sum()
    if loss.reduction not in MEANS:
        return total
    divisor = weighted_divisor(loss, y).astype(losses.dtype)
    # The mean over nothing is NaN and teaches nothing, as where all labels are ignored.
    counts = divisor > 0
    return jnp.where(counts, total / jnp.where(counts, divisor, 1), jnp.nan)


def weighted_divisor(loss: Any, y: Any) -> Array:
    """What the loss of a batch with these targets was divided by, ()."""
    if not isinstance(y, Weighted):
        return loss.divisor(y)
    if loss.reduction not in MEANS:
        return jnp.ones((), y.weight.dtype)

    def of_one(target):
        return loss.divisor(jax.tree.map(lambda a: a[None], target))

    return (jax.vmap(of_one)(y.target) * y.weight).sum()


def _of_each(loss: Any, prediction: Any, y: Weighted) -> Array:
    """The loss of each example, (examples,), in float32 at least."""
    require_weightable(loss)
    losses = dataclasses.replace(loss, reduction="none")(prediction, y.target)
    count = len(y.weight)
    if losses.ndim == 0 or len(losses) != count:
        raise ShapeError(
            f"{loss!r} with reduction='none' has shape {losses.shape}, expected ({count}, ...), "
            f"the loss of each example; sample_weight multiplies those"
        )
    wide = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
    return wide.reshape(count, -1).sum(axis=1)


def for_labels(trainer: Any, y: Any) -> Any:
    """The trainer, its loss with the class weights that the training labels ask for.

    Raises:
        ConfigError: the examples have weights, which this loss cannot take.
        DataError: the class weights are "balanced", and the targets no labels.
    """
    weight = None
    if isinstance(y, Weighted):
        require_weightable(trainer.loss)
        y, weight = y
    if not isinstance(trainer.loss, Loss):
        return trainer
    loss = trainer.loss.for_labels(y, weight)
    return trainer if loss is trainer.loss else dataclasses.replace(trainer, loss=loss)


def require_weightable(loss: Any) -> None:
    """Raise ConfigError unless this loss gives that of each example."""
    if not isinstance(loss, Loss):
        raise ConfigError(
            f"sample_weight multiplies the loss of each example, and loss is "
            f"{getattr(loss, '__name__', repr(loss))}, a function of the whole batch; use an "
            f"object such as fn.MSELoss() or fn.CrossEntropyLoss(), or give the function the "
            f"weights as a part of y: (x, (y, sample_weight))"
        )
    record: Any = loss
    names = [f.name for f in dataclasses.fields(record)] if dataclasses.is_dataclass(loss) else []
    if "reduction" not in names:
        raise ConfigError(
            f"sample_weight multiplies the loss of each example, and {loss!r} has no reduction="
            f"'none' that gives it; make reduction a field of {type(loss).__name__}, a frozen "
            f"dataclass, and return the loss of each example where it is 'none'"
        )
