"""One update: the gradient of one batch's loss, and what the optimizer makes of it."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from funcnet.data import arrays, shuffle
from funcnet.errors import DtypeError, ParamsError, ShapeError
from funcnet.layers.module import as_pair
from funcnet.training import precision
from funcnet.training.optimizers import optimizer_update, require_same_outline
from funcnet.training.state import TrainState, chosen, loss_dtype, outline
from funcnet.training.weights import weighted_loss

# No epoch's number: what a single step draws is not what an epoch draws.
SINGLE_STEPS = 2**31


def epoch_order(key: Array, epoch: Any, examples: int) -> Array:
    """The order in which an epoch visits the examples.

    Args:
        key: the run's key.
        epoch: which epoch, counted from 0.
        examples: how many there are.

    Returns:
        (examples,) int32; batch i takes the entries from i * batch_size on.
    """
    return shuffle.permutation(jax.random.fold_in(epoch_key(key, epoch), 0), examples)


def epoch_key(key: Array, epoch: Any) -> Array:
    """What an epoch draws from."""
    return jax.random.fold_in(key, epoch)


def batch_key(epoch_key: Array, number: Any) -> Array:
    """What a batch of an epoch draws from."""
    return jax.random.fold_in(jax.random.fold_in(epoch_key, 1), number)


def single_key(run: TrainState) -> Array:
    """What an update outside of any epoch draws from: told by the count of steps."""
    return jax.random.fold_in(jax.random.fold_in(run.key, SINGLE_STEPS), run.step)


def batches(trainer: Any, run: TrainState, x: Any, y: Any) -> Iterator[tuple[Any, Any, Array]]:
    """The batches of the next epoch, as it takes them: x, y and the key of each."""
    n = arrays.examples(x)
    order = epoch_order(run.key, run.epoch, n)
    key = epoch_key(run.key, run.epoch)
    for number, begin in enumerate(range(0, n, trainer.batch_size)):
        batch = arrays.take((x, y), order[begin : begin + trainer.batch_size])
        yield *batch, batch_key(key, number)


def update(
    trainer: Any, run: TrainState, x: Any, y: Any, key: Array
) -> tuple[TrainState, Array, Any]:
    """One update on one batch.

    Returns:
        The run after it, its counts as they were; the loss before it, (); what the model
        predicted.
    """
    return watched_update(trainer, run, x, y, key)[:3]


def watched_update(
    trainer: Any, run: TrainState, x: Any, y: Any, key: Array
) -> tuple[TrainState, Array, Any, Any, Any]:
    """The same, and the gradient and the updates."""

    def loss_of(params):
        loss, (state, prediction) = loss_and_state(trainer, params, run.state, x, y, key)
        return precision.times(run.loss_scale, loss), (loss, state, prediction)

    gradient, (loss, state, prediction) = jax.grad(loss_of, has_aux=True)(run.params)
    gradient = precision.divided(run.loss_scale, gradient)
    updates, opt_state = optimizer_update(
        trainer.optimizer,
        gradient,
        run.opt_state,
        run.params,
        value=loss,
        value_fn=lambda params: loss_of(params)[1][0],
    )
    require_same_outline(run.opt_state, opt_state)
    params = optax.apply_updates(run.params, updates)
    after = run._replace(params=params, state=state, opt_state=opt_state)
    run = after if trainer.loss_scale is None else _scaled(trainer, run, after, gradient)
    return run, loss.astype(loss_dtype(params)), prediction, gradient, updates


def _scaled(trainer: Any, before: TrainState, after: TrainState, gradient: Any) -> TrainState:
    """The run after a step under a loss scale: the one before, where the gradient is not finite."""
    taken = precision.is_taken(trainer.loss_scale, before.loss_scale, gradient)
    scale = precision.next_scale(trainer.loss_scale, before.loss_scale, taken)
    return chosen(taken, after, before)._replace(loss_scale=scale)


def loss_and_state(
    trainer: Any, params: Any, state: Any, x: Any, y: Any, key: Array
) -> tuple[Array, tuple[Any, Any]]:
    """The training loss of one batch, (); the model's next state and what it predicted."""
    dtype = trainer.compute_dtype
    if dtype is not None:
        params, x = precision.narrowed((params, x), dtype)
    output = trainer.model.apply(params, state, x, key=key, train=True)
    prediction, after = as_pair(trainer.model, "apply", output)
    if dtype is not None:
        prediction = precision.widened(prediction)
    if outline(after) != outline(state):
        raise ParamsError(
            f"the model's state changed from {outline(state)} to {outline(after)}, expected the "
            f"same shapes and dtypes; convert them in the layer's apply"
        )
    return batch_loss(trainer, prediction, y), (after, prediction)


def batch_loss(trainer: Any, prediction: Any, y: Any) -> Array:
    """The loss of a batch, ().

    Raises:
        DtypeError, ShapeError: the loss is not one floating number.
    """
    loss = weighted_loss(trainer.loss, prediction, y)
    if not isinstance(loss, Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
        what = outline(loss) if isinstance(loss, Array) else type(loss).__name__
        raise DtypeError(f"the loss of a batch is {what}, expected one floating number, an array")
    if loss.shape != ():
        raise ShapeError(
            f"the loss of a batch has shape {loss.shape}, expected one number, (); "
            f"{_to_one_number(trainer.loss)}"
        )
    return loss


def _to_one_number(loss: Any) -> str:
    """How to make one number of what a loss returns for a batch."""
    if hasattr(loss, "reduction"):
        return "use reduction='mean' or 'sum'"
    name = getattr(loss, "__name__", "loss")
    shown = name if name.isidentifier() else "loss"
    return (
        f"return its mean, jnp.mean(losses) or losses.mean(), as lambda prediction, y: "
        f"jnp.mean({shown}(prediction, y))"
    )
