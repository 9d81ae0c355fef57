"""Why a run diverged: its last epoch once more, step by step, until something is not finite.

The compiled run only notices that an epoch's result is not finite. Everything in it is a function
of the state before, so the epoch can be run again from there when somebody wants to know; watching
every step of every epoch would cost time. The step at fault is then taken apart, layer by layer.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from funcnet.errors import FuncnetError
from funcnet.layers import Loss
from funcnet.layers.module import dtype_of
from funcnet.layers.tracing import backward
from funcnet.training.optimizers import vanishing_epsilon
from funcnet.training.precision import widened
from funcnet.training.state import Data, TrainState, hyperparameters, is_finite
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
        cause: what it comes from, in words, where that is known; else "".
    """

    step: int
    origin: str
    gradient_norm: float
    step_size: float
    learning_rate: float | None
    mend: str = SMALLER_STEPS
    cause: str = ""

    def __str__(self) -> str:
        size = f"step size {self.step_size:.4g} (the update's norm by the gradient's; "
        if self.learning_rate is None:
            size += "optax.inject_hyperparams would show the optimizer's own)"
        else:
            size += f"learning rate {self.learning_rate:.4g})"
        because = f": {self.cause}" if self.cause else ""
        return (
            f"in its step {self.step}, {self.origin} is not finite{because}; largest gradient norm "
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
            origin, mend, cause = _explained(trainer, run, *batch)
            rate = _learning_rate(run.opt_state)
            return Diagnosis(number, origin, largest, size, rate, mend, cause)
        run = after
    return None


@partial(jax.jit, static_argnums=0)
def _watched(trainer, run, x, y, key):
    """A step: the run after it, the loss, two norms, and whether the run is finite."""
    after, loss, _, gradient, updates = watched_update(trainer, run, x, y, key)
    return after, loss, _norm(gradient), _norm(updates), is_finite((after.params, after.state))


def _norm(tree: Any) -> Array:
    """The Euclidean norm of all leaves, which does not overflow before its result does."""
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in leaves] or [0.0]).max()
    scale = jnp.where(largest > 0, largest, 1)
    return scale * optax.tree_utils.tree_norm([leaf / scale for leaf in leaves])


def _explained(trainer, run, x, y, key) -> tuple[str, str, str]:
    """What is first not finite in a step, what is likely to help, and what it comes from."""
    parts = enumerate(_in_order(trainer, run, x, y, key))
    wrong = ((place, name) for place, (name, tree) in parts if not is_finite(tree))
    place, origin = next(wrong, (None, "the updated parameters or state"))
    if origin == _LOSS and _divides_by_0(trainer.loss, y):
        return f"{_LOSS}, whose labels all have class weight 0: 0 / 0,", SOME_WEIGHT, ""
    if place is None and (found := _vanished(trainer.optimizer, dtype_of(run.params))):
        return origin, *found

    def again(run, x, y):
        if place is not None:
            return list(_in_order(trainer, run, x, y, key))[place][1]
        after = watched_update(trainer, run, x, y, key)[0]
        return after.params, after.state

    return origin, *_of_half_precision(again, run, x, y)


def _in_order(trainer, run, x, y, key) -> Iterator[tuple[str, Any]]:
    """What a step computes before it updates, and its name."""
    loss = partial(weighted_loss, trainer.loss)
    seen = backward(trainer.model, run.params, run.state, loss, x, y, key=key)
    for layer in seen.layers:
        yield f"the output of {layer.layer!r} (layer {layer.path})", layer.output
    yield _LOSS, seen.loss
    yield "the loss's gradient", seen.d_prediction
    for layer in seen.layers_backward:
        parts = layer.d_params, layer.d_input
        yield f"the gradient of {layer.layer!r} (layer {layer.path})", parts


def _of_half_precision(compute, run, x, y) -> tuple[str, str]:
    """What helps, and the cause, where `compute(run, x, y)` is not finite in half precision alone.

    Else smaller steps, and no cause.
    """
    dtype = dtype_of(run.params)
    if jnp.finfo(dtype).bits >= 32:
        return SMALLER_STEPS, ""
    try:
        found = compute(widened(run), widened(x), widened(y))
    except (FuncnetError, TypeError, ValueError):  # a layer that knows its own dtype alone
        return SMALLER_STEPS, ""
    if not is_finite(found):
        return SMALLER_STEPS, ""
    mend = f"train with {_wider(dtype)}, or scale the data so that the numbers stay small"
    limit = float(jnp.finfo(dtype).max)
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(found)]
    largest = max(float(jnp.abs(leaf).max(initial=0)) for leaf in leaves)
    cause = f"in float32 it is ({largest:.4g} at most), so {dtype}'s range or rounding is at fault"
    if largest > limit:
        cause = f"{dtype} holds no number beyond {limit:.5g}, and it is {largest:.4g} in float32"
    return mend, cause


def _vanished(optimizer, dtype) -> tuple[str, str] | None:
    """What helps, and the cause, where an optimizer's epsilon is 0; None where it isn't."""
    name, value = vanishing_epsilon(optimizer, dtype)
    if not value:
        return None
    mend = f"give the optimizer a larger one (eps=1e-4), or train with {_wider(dtype)}"
    return mend, f"the optimizer's {name}={value:g} rounds to 0 in {dtype}, and it divides by 0"


def _wider(dtype: Any) -> str:
    return "dtype=jnp.bfloat16 or jnp.float32" if dtype == jnp.float16 else "dtype=jnp.float32"


def _divides_by_0(loss, y) -> bool:
    """Whether no label of a batch counts, or the weights of those that do are all 0."""
    return isinstance(loss, Loss) and float(weighted_divisor(loss, y)) == 0


def _learning_rate(opt_state: Any) -> float | None:
    value = hyperparameters(opt_state).get("learning_rate")
    return None if value is None else float(value)
