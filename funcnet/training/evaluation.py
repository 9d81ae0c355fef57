"""Over a set: the loss, whatever its batches, and what the metrics say of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from funcnet.data import arrays
from funcnet.layers import Loss
from funcnet.layers.module import as_pair
from funcnet.training import metrics
from funcnet.training.state import loss_dtype
from funcnet.training.step import batch_loss


def evaluate(trainer: Any, params: Any, state: Any, data: Any) -> dict[str, Array]:
    """The loss over a set and every metric, () each, not training; in the order given."""
    n = arrays.examples(data)
    size = min(trainer.batch_size, n)
    full = n // size
    dtype = loss_dtype(params)
    sees_all = metrics.functions(trainer.metrics)

    def on_batch(carries, batch):
        x, y = batch
        output = trainer.model.apply(params, state, x, key=None, train=False)
        prediction, _ = as_pair(trainer.model, "apply", output)
        carries = metrics.added(trainer.metrics, carries, y, prediction)
        loss = batch_loss(trainer, prediction, y).astype(dtype)
        return carries, (loss, prediction if sees_all else ())

    split = _split(data, full, size)
    carries, (losses, y_pred) = jax.lax.scan(on_batch, metrics.begin(trainer.metrics), split)
    y_pred = jax.tree.map(lambda a: a.reshape(full * size, *a.shape[2:]), y_pred)
    last = None
    if n > full * size:
        carries, (last, rest) = on_batch(carries, jax.tree.map(lambda a: a[full * size :], data))
        y_pred = jax.tree.map(lambda *parts: jnp.concatenate(parts), y_pred, rest)
    return {
        "loss": mean_loss(trainer, data[1], losses, last),
        **metrics.values(trainer.metrics, data[1], y_pred, dtype),
        **metrics.results(trainer.metrics, carries, dtype),
    }


def mean_loss(
    trainer: Any, y: Any, losses: Array, last: Array | None, order: Array | None = None
) -> Array:
    """The loss over a set, of the losses of its batches: Σ_b loss_b D_b / D, ().

    D_b is what the loss of batch b was divided by, D that of the whole set (`Loss.divisor`). A
    plain function is taken for a mean over examples.

    Every D is taken in units of a full example's, so that the loss is the plain mean over the
    examples, to the last bit, where they all count alike.

    Args:
        trainer: what trains.
        y: the targets.
        losses: of the full batches, (batches,).
        last: of the smaller batch after them, or None.
        order: (examples,), in which the batches take them; None for the order given.
    """
    n = arrays.examples(y)
    size = min(trainer.batch_size, n)
    full, rest = n // size, n % size
    divisor: Callable[[Any], Array] = (
        trainer.loss.divisor
        if isinstance(trainer.loss, Loss)
        else lambda y: jnp.asarray(arrays.examples(y), losses.dtype)
    )
    taken = y if order is None else arrays.take(y, order)
    divisors = jax.vmap(divisor)(_split(taken, full, size)).astype(losses.dtype)
    unit = divisors.max() / size
    if last is not None:
        rest_divisor = divisor(jax.tree.map(lambda a: a[full * size :], taken))
        rest_divisor = rest_divisor.astype(losses.dtype)
        unit = jnp.maximum(unit, rest_divisor / rest)
    total = _shares(losses, divisors / (unit * size)).sum() * size
    if last is not None:
        total += _shares(last, rest_divisor / (unit * rest)) * rest
    whole = divisor(y).astype(losses.dtype) / unit
    return total / n * (n / whole)


def _shares(losses, counts):
    """Each loss times how much of its batch counts, 0 where nothing does: that mean is NaN."""
    return jnp.where(counts == 0, 0, losses * counts)


def _split(tree, full, size):
    return jax.tree.map(lambda a: a[: full * size].reshape(full, size, *a.shape[1:]), tree)
