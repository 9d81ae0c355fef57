"""What a run has learned."""

import copy
import dataclasses
import os
import pickle
from typing import Any, NoReturn, Self

import numpy as np
import optax

from funcnet._internal import notebook
from funcnet.data import arrays
from funcnet.errors import ConfigError
from funcnet.layers import Loss, Params, State
from funcnet.layers.module import dtype_of
from funcnet.training.history import History
from funcnet.training.metrics import VALIDATION
from funcnet.training.optimizers import evaluation_params
from funcnet.training.state import Data, Progress, TrainState, Watching
from funcnet.training.trainer import Trainer, entries, epoch_entries, evaluated


@dataclasses.dataclass(frozen=True, repr=False)
class FitResult:
    """What `fit` learned; a notebook shows the first and the last epoch.

    It can be pickled where the model, the loss and the metrics can. Pickle stores functions by
    their name, and those of an optax optimizer have none: all is kept but the optimizer. To train
    on from what was unpickled, give it again:
    `dataclasses.replace(result.trainer, optimizer=optax.adam(1e-2)).run(result.run, data, epochs)`.
    Unpickling imports what is named and rebuilds arrays, as pickle does for any object; it runs
    nothing else. Still, load no pickle that you do not trust: `fn.save` writes files that are safe.

    Attributes:
        trainer: what was trained.
        run: the training state; `trainer.run(result.run, data, epochs)` goes on from here. Its
            parameters are those that the optimizer trains: see `params`.
        history: "loss" (epochs,), each metric (epochs,), "diverged_at"; with validation data also
            "validation_loss" (epochs,), each metric as "validation_..." (epochs,), and
            "best_epoch"; and what `optax.inject_hyperparams` and `optax.monitor` keep, such as
            "learning_rate".
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
        """The trained parameters, to use: of a schedule-free optimizer the average."""
        return evaluation_params(self.run.opt_state, self.run.params)

    @property
    def state(self) -> State:
        """The model's state after training."""
        return self.run.state

    def predict(self, x: Any) -> Any:
        """The model's output for x (examples, ...), in batches: for a classifier the logits."""
        return self.trainer.predict(self.params, self.state, x)

    def evaluate(self, data: Data, sample_weight: Any = None) -> dict[str, float]:
        """The loss over a set, and each metric of it, in the compiled program.

        Args:
            data: (x, y), as for `fit`.
            sample_weight: what each example counts in the loss, (examples,); metrics are not
                weighted.

        Returns:
            "loss" and each metric's name.

        Raises:
            ShapeError, DtypeError, DataError: the data do not fit, as in `fit`.
        """
        data = arrays.checked("data", data, dtype_of(self.params), sample_weight)
        require_labels(self.trainer, data, self.predict(arrays.part(data[0], 0, 1)))
        found = evaluated(self.trainer._scoring, self.params, self.state, data)
        return {name: float(found[name]) for name in entries(self.trainer)}

    def _told(self) -> dict[str, str]:
        """What it is in few words, from name to value."""
        curves = self.history.curves()
        told = {"epochs": str(len(curves["loss"]))}
        told |= {name: f"{curve[-1]:.4g}" for name, curve in curves.items() if len(curve)}
        if self.accuracy is not None:
            told["accuracy"] = f"{self.accuracy:.4g}"
        return told

    def __repr__(self) -> str:
        return f"FitResult({', '.join(f'{name}={value}' for name, value in self._told().items())})"

    def _repr_html_(self) -> str:
        curves = {name: curve for name, curve in self.history.curves().items() if len(curve)}
        rows = [(name, f"{curve[0]:.4g}", f"{curve[-1]:.4g}") for name, curve in curves.items()]
        title = f"{self._told()['epochs']} epochs in {self.seconds:.1f} s"
        if self.accuracy is not None:
            title += f", accuracy {self.accuracy:.4g} on the training data"
        notes = [
            f"{name.replace('_', ' ')} {int(self.history[name])}"
            for name in ("best_epoch", "diverged_at")
            if int(self.history.get(name, -1)) >= 0
        ]
        columns = ("history", "first epoch", "last epoch")
        return notebook.table(title, columns, rows, ", ".join(notes))

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self.trainer.optimizer)
        except (pickle.PicklingError, AttributeError, TypeError):
            return vars(self) | {
                "trainer": dataclasses.replace(self.trainer, optimizer=NOT_PICKLED)
            }
        return vars(self)

    def __copy__(self) -> Self:
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        run, history = copy.deepcopy((self.run, self.history), memo)
        return dataclasses.replace(self, run=run, history=history)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the history, a line for each epoch."""
        self.history.to_csv(path)


def _not_pickled(*args: Any, **extra: Any) -> NoReturn:
    raise ConfigError(
        "this result was unpickled, and pickle can't keep an optimizer of optax; to train on, give "
        "it again: dataclasses.replace(result.trainer, optimizer=optax.adam(1e-2)), with yours"
    )


NOT_PICKLED = optax.GradientTransformation(_not_pickled, _not_pickled)


def require_labels(trainer: Trainer, data: Data, prediction: Any) -> None:
    """Raise what the model or the loss raises for the values of a set, and of these outputs.

    Args:
        trainer: what trains.
        data: the set.
        prediction: what the model makes of a batch; only the shape counts.
    """
    x, y = arrays.contents((data[0], arrays.target_of(data[1])))
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

    None of windows too: to predict every step of a series in many places would take as long as an
    epoch. Of yes-or-no answers, the fraction with the right sign; None where some are neither.
    """
    if not isinstance(trainer.loss, Loss) or trainer.loss.classification is None:
        return None
    if arrays.has_windows((x, y)):
        return None
    y = np.asarray(arrays.target_of(y))
    params = evaluation_params(run.opt_state, run.params)
    if trainer.loss.classification == "answers":
        if not ((y == 0) | (y == 1)).all():
            return None
        logits = np.asarray(trainer.predict(params, run.state, x))
        return float(((logits > 0) == (y == 1)).mean())
    counted = trainer.loss.counted(y)
    labels = y if np.issubdtype(y.dtype, np.integer) else y.argmax(axis=-1)
    outputs = np.asarray(trainer.predict(params, run.state, x))
    if outputs.shape[:-1] != labels.shape or outputs.shape[-1] < 2:
        return None
    correct = outputs.argmax(axis=-1) == labels
    if counted is not None:
        correct = correct[np.asarray(counted)]
    return float(correct.mean()) if correct.size else float("nan")
