"""Why a run diverged: its last epoch once more, step by step, until something is not finite.

The compiled run only notices that an epoch's result is not finite. Everything in it is a function
of the state before, so the epoch can be run again from there when somebody wants to know; watching
every step of every epoch would cost time. The step at fault is then taken apart, layer by layer.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from funcnet.layers import Loss
from funcnet.layers.tracing import backward
from funcnet.training.state import Data, TrainState, hyperparameters
from funcnet.training.step import batches, watched_update
from funcnet.training.trainer import Trainer
from funcnet.training.weights import weighted_divisor, weighted_loss

SMALLER_STEPS = "lower the step size or clip the gradients (optax.clip_by_global_norm)"
SOME_WEIGHT = "take larger batches, or a small weight instead of 0"

_LOSS = "the loss"


class Diagnosis(NamedTuple):
    """What happened in the epoch that diverged; printing it gives a sentence.

    Attributes:
        step: the batch, counted from 0, with the first number that is not finite.
        origin: where in that step, in words: the first layer, forward or else backward, the loss,
            or the update.
        gradient_norm: the largest finite Euclidean norm of the gradient until then; NaN if none.
        step_size: the update's norm by the gradient's, in the last step where both are finite:
            SGD's learning rate. NaN if there is none.
        learning_rate: the one in the optimizer's state, where `optax.inject_hyperparams` keeps it.
        mend: what is likely to help.
    """

    step: int
    origin: str
    gradient_norm: float
    step_size: float
    learning_rate: float | None
    mend: str = SMALLER_STEPS

    def __str__(self) -> str:
        size = f"step size {self.step_size:.4g} (the update's norm by the gradient's; "
        if self.learning_rate is None:
            size += "optax.inject_hyperparams would show the optimizer's own)"
        else:
            size += f"learning rate {self.learning_rate:.4g})"
        return (
            f"in its step {self.step}, {self.origin} is not finite; largest gradient norm "
            f"{self.gradient_norm:.4g}, {size}"
        )


def diagnose(trainer: Trainer, run: TrainState, data: Data) -> Diagnosis | None:
    """Run an epoch and say where it stops being finite.

    Args:
        trainer: what trains.
        run: the state before the epoch.
        data: what it trains on.

    Returns:
        None if all of it is finite: compiled otherwise, it may round otherwise.
    """
    largest, size = math.nan, math.nan
    for number, batch in enumerate(batches(trainer, run, *data)):
        after, loss, gradient, update, finite = _watched(trainer, run, *batch)
        gradient, update = float(gradient), float(update)
        if math.isfinite(gradient):
            largest = max(gradient, 0.0 if math.isnan(largest) else largest)
            if math.isfinite(update) and gradient > 0:
                size = update / gradient
        # The mean over no label is NaN and teaches nothing: see `Trainer.run`.
        harmless = np.isfinite(loss) or (gradient == 0 and _divides_by_0(trainer.loss, batch[1]))
        if not finite or not harmless:
            origin, mend = _origin(trainer, run, *batch), SMALLER_STEPS
            if origin == _LOSS and _divides_by_0(trainer.loss, batch[1]):
                origin, mend = f"{_LOSS}, whose labels all have class weight 0: 0 / 0,", SOME_WEIGHT
            return Diagnosis(number, origin, largest, size, _learning_rate(run.opt_state), mend)
        run = after
    return None


@partial(jax.jit, static_argnums=0)
def _watched(trainer, run, x, y, key):
    """A step: the run after it, the loss, two norms, and whether the run is finite."""
    after, loss, _, gradient, updates = watched_update(trainer, run, x, y, key)
    return after, loss, _norm(gradient), _norm(updates), _is_finite((after.params, after.state))


def _is_finite(tree: Any) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)] or [True]).all()


def _norm(tree: Any) -> Array:
    """The Euclidean norm of all leaves, which does not overflow before its result does."""
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in leaves] or [0.0]).max()
    scale = jnp.where(largest > 0, largest, 1)
    return scale * optax.tree_utils.tree_norm([leaf / scale for leaf in leaves])


def _origin(trainer, run, x, y, key) -> str:
    """What is first not finite in a step."""
    loss = partial(weighted_loss, trainer.loss)
    seen = backward(trainer.model, run.params, run.state, loss, x, y, key=key)
    for layer in seen.layers:
        if not _is_finite(layer.output):
            return f"the output of {layer.layer!r} (layer {layer.path})"
    if not _is_finite(seen.loss):
        return _LOSS
    if not _is_finite(seen.d_prediction):
        return "the loss's gradient"
    for layer in seen.layers_backward:
        if not _is_finite((layer.d_params, layer.d_input)):
            return f"the gradient of {layer.layer!r} (layer {layer.path})"
    return "the updated parameters or state"


def _divides_by_0(loss, y) -> bool:
    """Whether no label of a batch counts, or the weights of those that do are all 0."""
    return isinstance(loss, Loss) and float(weighted_divisor(loss, y)) == 0


def _learning_rate(opt_state: Any) -> float | None:
    value = hyperparameters(opt_state).get("learning_rate")
    return None if value is None else float(value)
