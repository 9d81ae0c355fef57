"""What a run has learned."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np

from funcnet.data import arrays
from funcnet.layers import Loss, Params, State
from funcnet.training.history import History
from funcnet.training.metrics import VALIDATION
from funcnet.training.state import (
    Data,
    Progress,
    TrainState,
    Watching,
    WeightedData,
    dtype_of,
)
from funcnet.training.trainer import Trainer, entries, epoch_entries, evaluated


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` learned.

    Attributes:
        trainer: what was trained.
        run: the training state; `trainer.run(result.run, data, epochs)` goes on from here.
        history: "loss" (epochs,), each metric (epochs,), "diverged_at"; with validation data also
            "validation_loss" (epochs,), each metric as "validation_..." (epochs,), and
            "best_epoch"; and what `optax.inject_hyperparams` keeps, such as "learning_rate".
        accuracy: where the loss is a classification's, the fraction of the training examples
            whose largest output is that of their label, or of the answers of yes or no that are
            right; else None.
        seconds: how long the compiled program ran, with what it took to compile it and without
            checkpoints, callbacks and the progress bar; of a run that was resumed, all of it.
    """

    trainer: Trainer
    run: TrainState
    history: History
    accuracy: float | None
    seconds: float

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.run.params

    @property
    def state(self) -> State:
        """The model's state after training."""
        return self.run.state

    def predict(self, x: Any) -> Any:
        """The model's output for x (examples, ...), in batches: for a classifier the logits."""
        return self.trainer.predict(self.params, self.state, x)

    def evaluate(self, data: Data | WeightedData, sample_weight: Any = None) -> dict[str, float]:
        """The loss over a set, and each metric of it, in the compiled program.

        Args:
            data: (x, y), as for `fit`; or (x, y, sample_weight).
            sample_weight: what each example counts in the loss, (examples,); metrics are not
                weighted.

        Returns:
            "loss" and each metric's name.

        Raises:
            ShapeError, DtypeError, DataError: the data do not fit, as in `fit`.
        """
        data = arrays.with_weight("data", data, sample_weight)
        data = arrays.checked("data", data, dtype_of(self.params))
        require_labels(self.trainer, data, self.predict(jax.tree.map(lambda a: a[:1], data[0])))
        found = evaluated(self.trainer, self.params, self.state, data)
        return {name: float(found[name]) for name in entries(self.trainer)}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the history, a line for each epoch."""
        self.history.to_csv(path)


def require_labels(trainer: Trainer, data: Data, prediction: Any) -> None:
    """Raise what the model or the loss raises for the values of a set, and of these outputs.

    Args:
        trainer: what trains.
        data: the set.
        prediction: what the model makes of a batch; only the shape counts.
    """
    x, y = data[0], arrays.target_of(data[1])
    trainer.model.check_input(x)
    if isinstance(trainer.loss, Loss):
        shape = getattr(prediction, "shape", ())
        trainer.loss.check_labels(y, shape[-1] if shape else 1)


def result_of(
    trainer: Trainer, progress: Progress, data: Data, watching: Watching, seconds: float
) -> FitResult:
    """What has been learned so far; after early stopping, what the best epoch had learned."""
    run = progress.run if progress.watch is None else progress.watch.best
    history = history_of(trainer, progress, watching)
    return FitResult(trainer, run, history, accuracy(trainer, run, *data), seconds)


def history_of(trainer: Trainer, progress: Progress, watching: Watching) -> History:
    """What has been recorded so far."""
    epochs = int(progress.done)
    names = epoch_entries(trainer, progress.run, VALIDATION + "loss" in progress.history)
    history = History({name: np.asarray(progress.history[name])[:epochs] for name in names})
    history["diverged_at"] = np.asarray(progress.diverged_at)
    if watching.entry in history:
        history["best_epoch"] = _best(history[watching.entry], watching.mode)
    return history


def _best(values, mode) -> np.ndarray:
    """The epoch of the best value, (); -1 where none is finite."""
    finite = np.isfinite(values)
    lowered = np.where(finite, values if mode == "min" else -values, np.inf)
    return np.asarray(np.argmin(lowered) if finite.any() else -1)


def accuracy(trainer: Trainer, run: TrainState, x: Any, y: Any) -> float | None:
    """The fraction of examples whose largest output is their label's; None for no classification.

    Of yes-or-no answers, the fraction of answers with the right sign; None where some are neither.
    """
    if not isinstance(trainer.loss, Loss) or trainer.loss.classification is None:
        return None
    y = np.asarray(arrays.target_of(y))
    if trainer.loss.classification == "answers":
        if not ((y == 0) | (y == 1)).all():
            return None
        logits = np.asarray(trainer.predict(run.params, run.state, x))
        return float(((logits > 0) == (y == 1)).mean())
    counted = trainer.loss.counted(y)
    labels = y if np.issubdtype(y.dtype, np.integer) else y.argmax(axis=-1)
    outputs = np.asarray(trainer.predict(run.params, run.state, x))
    if outputs.shape[:-1] != labels.shape or outputs.shape[-1] < 2:
        return None
    correct = outputs.argmax(axis=-1) == labels
    if counted is not None:
        correct = correct[np.asarray(counted)]
    return float(correct.mean()) if correct.size else float("nan")
