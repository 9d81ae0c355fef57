"""Over a set: the loss, whatever its batches, and what the metrics say of it."""

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
from funcnet.training.weights import MEANS, weighted_divisor


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
        carries = metrics.added(trainer.metrics, carries, arrays.target_of(y), prediction)
        loss = batch_loss(trainer, prediction, y).astype(dtype)
        return carries, (loss, prediction if sees_all else ())

    batched = arrays.batched(data, size)
    carry = metrics.begin(trainer.metrics)
    carries, (losses, y_pred) = jax.lax.scan(
        lambda carry, batch: on_batch(carry, batched.fetch(batch)), carry, batched.full
    )
    y_pred = jax.tree.map(lambda a: a.reshape(full * size, *a.shape[2:]), y_pred)
    last = None
    if n > full * size:
        carries, (last, rest) = on_batch(carries, batched.rest)
        y_pred = jax.tree.map(lambda *parts: jnp.concatenate(parts), y_pred, rest)
    y_true = arrays.target_of(data[1])
    if sees_all and arrays.has_windows(y_true):
        y_true = arrays.part(y_true, 0)
    return {
        "loss": mean_loss(trainer, data[1], losses, last),
        **metrics.values(trainer.metrics, y_true, y_pred, dtype),
        **metrics.results(trainer.metrics, carries, dtype),
    }


def mean_loss(
    trainer: Any, y: Any, losses: Array, last: Array | None, order: Array | None = None
) -> Array:
    """The loss over a set, of the losses of its batches: Σ_b loss_b D_b / D, ().

    D_b is what the loss of batch b was divided by, D that of the whole set (`Loss.divisor`). A
    plain function is taken for a mean over examples. Where all examples count alike that is the
    mean of the batches by their sizes, and computed so.

    Args:
        trainer: what trains.
        y: the targets.
        losses: of the full batches, (batches,).
        last: of the smaller batch after them, or None.
        order: (examples,), in which the batches take them; None for the order given.
    """
    n = arrays.examples(y)
    size = min(trainer.batch_size, n)
    rest = n % size
    total = losses.sum() * size
    if last is not None:
        total += last * rest
    if not isinstance(trainer.loss, Loss):
        return total / n

    def divisor(y):
        return weighted_divisor(trainer.loss, y).astype(losses.dtype)

    batched = arrays.batched(y, size, order)
    divided = divisor(batched.rest) if rest else None
    if arrays.has_windows(y):
        divisors = jax.lax.map(lambda batch: divisor(batched.fetch(batch)), batched.full)
        whole = divisors[0]  # of a sum 1; a mean's adds up
        if trainer.loss.reduction in MEANS:
            whole = divisors.sum() + (divided if rest else 0)
    else:
        divisors, whole = jax.vmap(divisor)(batched.full), divisor(y)
    alike = (divisors == divisors[0]).all() & (whole * size == divisors[0] * n)
    if divided is not None:
        alike &= divided * size == divisors[0] * rest

    def by_divisors():
        numerator = _numerators(losses, divisors).sum()
        if last is not None:
            numerator += _numerators(last, divided)
        return numerator / whole

    # Two branches, so that XLA does not compute the two sums together: it would round otherwise.
    return jax.lax.cond(alike, lambda: total / n, by_divisors)


def _numerators(losses, divisors):
    """Each loss times what it was divided by; 0 where that is 0, of which the mean is NaN."""
    return jnp.where(divisors == 0, 0, losses * divisors)
