"""fit: training for people. Checks everything first, shows progress, raises when it fails."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from tqdm import tqdm

from funcnet import _data
from funcnet._checks import require_floating_dtype, require_key, require_positive_int
from funcnet.errors import ConfigError, DivergenceError, DtypeError, FuncnetError
from funcnet.layers import CrossEntropyLoss, Module, Params, State
from funcnet.training import (
    Data,
    Progress,
    Trainer,
    TrainState,
    loss_and_state,
    require_epochs,
    start,
    train_donating,
)

# fit returns to Python about this often, in seconds, to move the progress bar.
PROGRESS_INTERVAL = 0.2


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` learned.

    Attributes:
        trainer: what was trained.
        run: the training state; `trainer.run(result.run, data, epochs)` goes on from here.
        history: "loss" (epochs,), "diverged_at", and with validation data
            "validation_loss" (epochs,) and "best_epoch".
        accuracy: fraction of the training examples whose largest output is that of their
            label; None for a regression.
    """

    trainer: Trainer
    run: TrainState
    history: dict[str, np.ndarray]
    accuracy: float | None

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.run.params

    @property
    def state(self) -> State:
        """The model's state after training."""
        return self.run.state

    def predict(self, x: Any) -> Array:
        """The model's output for x (examples, ...), in batches: for a classifier the logits."""
        return self.trainer.predict(self.params, self.state, x)


def fit(
    model: Module,
    loss: Callable[[Array, Array], Array],
    optimizer: optax.GradientTransformation,
    data: Data,
    *,
    epochs: int,
    key: Array,
    batch_size: int = 100,
    validation: Data | None = None,
    patience: int | None = None,
    progress: bool = True,
    dtype: Any = jnp.float32,
) -> FitResult:
    """Train a model; check everything first, show progress, raise on divergence.

    Args:
        model: a `Module`.
        loss: maps (prediction, target) to a scalar.
        optimizer: an optax transformation.
        data: (x, y), arrays of the same first axis, the examples.
        epochs: how many, at least 0.
        key: typed scalar key. The same key gives the same bits.
        batch_size: examples a step; a last, smaller batch is trained on.
        validation: (x, y) whose loss is recorded after each epoch.
        patience: stop after this many epochs in a row without a lower validation loss, and
            return the state after the best one. None never stops.
        progress: whether to show a progress bar.
        dtype: floating dtype of the parameters, to which floating data are cast once.

    Raises:
        ShapeError, DtypeError, DataError, ConfigError: before training.
        DivergenceError: the loss or a parameter became non-finite; `.epoch` says when, and
            `.result` holds what was learned until then.
    """
    for name, values in (("key", (key,)), ("data", data), ("validation", validation)):
        if isinstance(values, tuple | list) and any(isinstance(v, Tracer) for v in values):
            raise DtypeError(
                f"fit's {name} is traced: fit runs on the host and cannot be jitted or mapped; "
                f"use Trainer.run, which can"
            )
    trainer = Trainer(model, loss, optimizer, batch_size)
    epochs = require_epochs(epochs)
    require_key(key)
    _require_patience(patience, validation)
    require_floating_dtype(dtype)
    data = _data.checked("data", data, dtype)
    validation = None if validation is None else _data.checked("validation", validation, dtype)
    _require_fitting(trainer, data, dtype)
    if validation is not None:
        try:
            _require_fitting(trainer, validation, dtype)
        except FuncnetError as error:
            error.subject = "validation"
            raise

    run = trainer.init(key, dtype)
    carry = start(run, epochs, validated=validation is not None, patience=patience)
    carry = _train_in_pieces(trainer, carry, data, validation, epochs, progress)
    result = _result(trainer, carry, data)
    diverged_at = int(carry.diverged_at)
    if diverged_at >= 0:
        raise DivergenceError(
            f"the loss or a parameter became infinite or NaN in epoch {diverged_at} (counted from "
            f"0); lower the step size or clip the gradients (optax.clip_by_global_norm); "
            f"error.result holds the last finite epoch's parameters",
            epoch=diverged_at,
            result=result,
        )
    return result


def _train_in_pieces(trainer, carry, data, validation, epochs, show) -> Progress:
    """All epochs, in pieces short enough to move a progress bar; the same bits as in one."""
    piece = 1 if show else epochs
    with tqdm(total=epochs, unit="epoch", disable=not show) as bar:
        done = 0
        while done < epochs:
            started, until = time.perf_counter(), min(done + piece, epochs)
            carry = train_donating(trainer, carry, data, validation, until)
            trained = int(carry.done) - done  # waits for the program
            done += trained
            bar.update(trained)
            if done < until:  # diverged or stopped early
                break
            bar.set_postfix(loss=f"{np.asarray(carry.loss)[done - 1]:.4g}", refresh=False)
            pace = (time.perf_counter() - started) / trained
            piece = max(1, round(PROGRESS_INTERVAL / pace))
    return carry


def _result(trainer, carry, data) -> FitResult:
    epochs = int(carry.done)
    history = {
        "loss": np.asarray(carry.loss)[:epochs],
        "diverged_at": np.asarray(carry.diverged_at),
    }
    if carry.validation_loss is not None:
        validation_loss = np.asarray(carry.validation_loss)[:epochs]
        history |= {"validation_loss": validation_loss, "best_epoch": _best(validation_loss)}
    run = carry.run if carry.watch is None else carry.watch.best
    return FitResult(trainer, run, history, _accuracy(trainer, run, *data))


def _best(losses) -> np.ndarray:
    """The epoch of the lowest loss, (); -1 where none is finite."""
    finite = np.isfinite(losses)
    return np.asarray(np.argmin(np.where(finite, losses, np.inf)) if finite.any() else -1)


def _accuracy(trainer, run, x, y) -> float | None:
    """The fraction of examples whose largest output is their label's; None for a regression."""
    if jnp.issubdtype(y.dtype, jnp.integer):
        labels = np.asarray(y)
        counted = labels != getattr(trainer.loss, "ignore_index", None)
    elif isinstance(trainer.loss, CrossEntropyLoss) or _is_one_hot(y):
        labels, counted = np.asarray(y.argmax(axis=-1)), np.True_
    else:
        return None
    outputs = trainer.predict(run.params, run.state, x)
    if outputs.shape[:-1] != labels.shape or outputs.shape[-1] < 2:
        return None
    correct = np.asarray(outputs.argmax(axis=-1)) == labels
    return float(correct[counted].mean()) if counted.any() else float("nan")


def _is_one_hot(y) -> bool:
    """Whether each row of the last axis is one 1 and otherwise 0, with at least two columns."""
    if y.ndim < 2 or y.shape[-1] < 2:
        return False
    y = np.asarray(y)
    return bool((((y == 0) | (y == 1)).all(axis=-1) & (y.sum(axis=-1) == 1)).all())


def _require_patience(patience, validation):
    if patience is None:
        return
    require_positive_int("patience", patience)
    if validation is None:
        raise ConfigError("patience needs validation data: pass validation=(x, y)")


def _require_fitting(trainer, data, dtype):
    """Trace the model and the loss on the shapes of one batch; check the labels' values."""
    x, y = data
    rows = min(trainer.batch_size, len(x))
    shapes = [jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for a in (x, y)]
    prediction = _traced_prediction(trainer, dtype, *shapes)
    if isinstance(trainer.loss, CrossEntropyLoss):
        trainer.loss.check_labels(y, prediction.shape[-1])


@functools.lru_cache(maxsize=256)
def _traced_prediction(trainer, dtype, x, y) -> jax.ShapeDtypeStruct:
    """What the model returns for a batch; raises what the model or the loss raises."""
    run = jax.eval_shape(lambda: trainer.init(jax.random.key(0), dtype))

    def prediction_of(run, x, y):
        loss_and_state(trainer, run.params, run.state, x, y, run.key)
        return trainer.model.apply(run.params, run.state, x, key=run.key, train=True)[0]

    return jax.eval_shape(prediction_of, run, x, y)
