"""fit: training for people. Checks everything first, shows progress, raises when it fails."""

import dataclasses
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from tqdm import tqdm

from funcnet._internal.checks import (
    require_choice,
    require_floating_dtype,
    require_key,
    require_positive_int,
)
from funcnet.data import arrays
from funcnet.errors import ConfigError, DataError, DivergenceError, DtypeError, FuncnetError
from funcnet.io import checkpoint
from funcnet.layers import BCEWithLogitsLoss, CrossEntropyLoss, Module, Params, State
from funcnet.training.checkpointing import Checkpoints, about_run
from funcnet.training.divergence import SMALLER_STEPS, diagnose
from funcnet.training.signals import held_signals
from funcnet.training.trainer import (
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
            label; with BCEWithLogitsLoss, of the answers of yes or no that are right; None for a
            regression.
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
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta | None = None,
    resume: bool = False,
    on_divergence: Literal["raise", "keep"] = "raise",
) -> FitResult:
    """Train a model; check everything first, show progress, raise on divergence.

    With `checkpoint_dir` the run is saved as it goes, at its end, and when SIGINT or SIGTERM asks
    it to stop: then a sentence says how to go on, and the signal acts. The same call with
    `resume=True` goes on from the last checkpoint and ends with the bits of an unbroken run.

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
        checkpoint_dir: folder of this run's checkpoints; needs the extra `checkpoint`.
        checkpoint_every: how often to save: a number of epochs, or a `datetime.timedelta`. None
            for every five minutes. The last three checkpoints are kept.
        resume: go on with the run in `checkpoint_dir`, whose settings and data must be the same;
            `epochs` may be more. If nothing is saved there, start.
        on_divergence: "raise" the error below, or "keep" the last finite epoch's result, with a
            warning; `history["diverged_at"]` tells.

    Raises:
        ShapeError, DtypeError, DataError, ConfigError: before training.
        CheckpointError: before training: `checkpoint_dir` holds another run, or one that is not to
            be resumed, or is in use by another process, or none of its checkpoints is whole.
        OSError, ModuleNotFoundError: before training: the folder can't be written; Orbax is
            missing. A checkpoint that can't be written later is a warning.
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
    _require_checkpointing(checkpoint_dir, checkpoint_every, resume)
    require_choice("on_divergence", on_divergence, ("raise", "keep"))
    require_floating_dtype(dtype)
    data = arrays.checked("data", data, dtype)
    validation = None if validation is None else arrays.checked("validation", validation, dtype)
    _require_fitting(trainer, data, dtype)
    _require_counted(trainer, data[1])
    if validation is not None:
        try:
            _require_fitting(trainer, validation, dtype)
        except FuncnetError as error:
            error.subject = "validation"
            raise

    run = trainer.init(key, dtype)
    carry = start(run, epochs, validated=validation is not None, patience=patience)
    train = functools.partial(_train_in_pieces, trainer, data, validation, epochs, progress)
    if checkpoint_dir is None:
        carry = train(carry)
    else:
        about = about_run(trainer, run, data, validation, patience)
        checkpoints = Checkpoints(checkpoint_dir, checkpoint_every, about)
        with checkpoint.locked(checkpoints.folder):
            carry = checkpoints.begin(carry, resume, epochs)
            carry = _train_saving(train, checkpoints, carry, epochs)
    result = _result(trainer, carry, data)
    diverged_at = int(carry.diverged_at)
    if diverged_at < 0:
        return result
    diagnosis = diagnose(trainer, carry.run, data)
    found = "" if diagnosis is None else f": {diagnosis}"
    mend = SMALLER_STEPS if diagnosis is None else diagnosis.mend
    message = (
        f"the loss, a parameter or the model's state became infinite or NaN in epoch {diverged_at} "
        f"(counted from 0){found}; {mend}"
    )
    if on_divergence == "keep":
        kept = f"{message}; the result is the last finite epoch's"
        warnings.warn(kept, RuntimeWarning, stacklevel=2)
        return result
    raise DivergenceError(
        f"{message}; error.result holds the last finite epoch's parameters",
        epoch=diverged_at,
        result=result,
        diagnosis=diagnosis,
    )


def _train_in_pieces(
    trainer, data, validation, epochs, show, carry, checkpoints=None, held=None
) -> Progress:
    """The epochs left, in pieces short enough to move a bar, to save, and to stop when asked to.

    The bits are those of one piece.
    """
    done = int(carry.done)
    piece = 1 if show or checkpoints else epochs
    with tqdm(total=epochs, unit="epoch", disable=not show, initial=done) as bar:
        while done < epochs:
            started, until = time.perf_counter(), min(done + piece, epochs)
            if checkpoints:
                until = min(until, checkpoints.until(done))
            carry = train_donating(trainer, carry, data, validation, until)
            trained = int(carry.done) - done  # waits for the program
            done += trained
            bar.update(trained)
            if done < until:  # diverged or stopped early
                break
            bar.set_postfix(loss=f"{np.asarray(carry.loss)[done - 1]:.4g}", refresh=False)
            pace = (time.perf_counter() - started) / trained
            piece = max(1, round(PROGRESS_INTERVAL / pace))
            if checkpoints:
                checkpoints.after(carry, done)
            if held is not None and held.received is not None:
                break
    return carry


def _train_saving(train, checkpoints, carry, epochs) -> Progress:
    """Train under checkpoints; asked to stop, save, say so and let the signal act."""
    with held_signals() as held:
        carry = train(carry, checkpoints, held)
        saved = checkpoints.save(carry, int(carry.done))
    if held.received is not None:
        what = f"{held.received.name}: stopped after epoch {int(carry.done)} of {epochs}"
        where = f"the last checkpoint is of epoch {checkpoints.saved}" if not saved else "all saved"
        print(
            f"{what}, {where}; the same call with resume=True goes on from {checkpoints.folder}",
            file=sys.stderr,
            flush=True,
        )
        held.deliver()
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
    """The fraction of examples whose largest output is their label's; None for a regression.

    Of yes-or-no answers, the fraction of answers with the right sign.
    """
    if isinstance(trainer.loss, BCEWithLogitsLoss):
        return _binary_accuracy(trainer, run, x, np.asarray(y))
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


def _binary_accuracy(trainer, run, x, y) -> float | None:
    if not ((y == 0) | (y == 1)).all():
        return None
    logits = np.asarray(trainer.predict(run.params, run.state, x))
    return float(((logits > 0) == (y == 1)).mean())


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


def _require_checkpointing(folder, every, resume):
    if not isinstance(resume, bool):
        raise ConfigError(f"resume is {resume!r}, expected True or False")
    if folder is None and (resume or every is not None):
        given = "resume" if resume else "checkpoint_every"
        raise ConfigError(f"{given} needs a folder: pass checkpoint_dir")
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"checkpoint_dir is {folder!r}, expected a path")


def _require_fitting(trainer, data, dtype):
    """Trace the model and the loss on the shapes of one batch; check inputs' and labels' values."""
    x, y = data
    rows = min(trainer.batch_size, len(x))
    shapes = [jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for a in (x, y)]
    prediction = _traced_prediction(trainer, dtype, *shapes)
    trainer.model.check_input(x)
    check_labels = getattr(trainer.loss, "check_labels", None)
    if check_labels is not None:
        check_labels(y, prediction.shape[-1] if prediction.ndim else 1)


def _require_counted(trainer, y):
    counted = trainer.loss.counted(y) if hasattr(trainer.loss, "counted") else None
    if counted is not None and not counted.any():
        raise DataError(
            f"no label counts: each one is the ignore_index of {trainer.loss!r}; there is nothing "
            f"to train on"
        )


@functools.lru_cache(maxsize=256)
def _traced_prediction(trainer, dtype, x, y) -> jax.ShapeDtypeStruct:
    """What the model returns for a batch; raises what the model or the loss raises."""
    run = jax.eval_shape(lambda: trainer.init(jax.random.key(0), dtype))

    def prediction_of(run, x, y):
        loss_and_state(trainer, run.params, run.state, x, y, run.key)
        return trainer.model.apply(run.params, run.state, x, key=run.key, train=True)[0]

    return jax.eval_shape(prediction_of, run, x, y)
