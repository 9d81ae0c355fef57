"""How `fit` saves a run as it goes, and goes on with one that was saved.

The carry of the compiled loop is what is saved: parameters, optimizer state, key, history, and
what early stopping remembers. Since every epoch draws from fold_in(key, epoch), nothing else is
needed to end with the bits of a run that was never interrupted.
"""

import os
import tempfile
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcnet._internal.checks import require_positive_int
from funcnet._internal.describe import describe, program_digest
from funcnet.data import arrays
from funcnet.data.windows import Windows, is_windows
from funcnet.errors import CheckpointError, ConfigError
from funcnet.io import checkpoint
from funcnet.training.state import Clock, Data, Progress, TrainState, Watching, cut, resumed
from funcnet.training.step import update
from funcnet.training.trainer import Trainer

EVERY = timedelta(minutes=5)


class Checkpoints:
    """Where and when `fit` saves.

    Args:
        folder: of the run's checkpoints.
        every: a number of epochs, or a time; None for `EVERY`.
        about: what the run is: see `about_run`.
        clock: of the run, saved with it.

    Raises:
        ConfigError: `every` is neither, or this process is not the one that writes.
        OSError: the folder can't be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int | timedelta | None,
        about: dict[str, Any],
        clock: Clock,
    ):
        self.folder: Path = Path(folder).absolute()
        self._about, self._clock = about, clock
        self._epochs, self._seconds = _interval(EVERY if every is None else every)
        self.saved: int = 0
        self._when = time.monotonic()
        checkpoint.require_orbax()
        checkpoint.require_writer()
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder):  # said before hours are spent
            pass

    def begin(self, progress: Progress, resume: bool, epochs: int) -> Progress:
        """The carry to start with: the saved one, if there is one and it is asked for.

        Raises:
            CheckpointError: the folder holds another run, or one that is not to be resumed.
        """
        if not resume:
            if checkpoint.steps(self.folder):
                raise CheckpointError(
                    f"{self.folder} holds the checkpoints of a run; continue it with resume=True, "
                    f"or choose another folder"
                )
            return progress

        def like(done):
            if done > epochs:
                raise CheckpointError(
                    f"{self.folder} holds a run of {done} epochs, and epochs is {epochs}; expected "
                    f"at least as many"
                )
            return self._tree(progress, done)

        saved = checkpoint.restore(self.folder, like, about=self._about)
        if saved is None:
            return progress
        self.saved = saved.step
        self._clock.seconds = float(saved.tree["seconds"])
        return resumed(progress, saved.tree["progress"])

    def until(self, done: int) -> float:
        """The epoch, after `done`, by which to save."""
        return np.inf if self._epochs is None else (done // self._epochs + 1) * self._epochs

    def after(self, progress: Progress, done: int) -> None:
        """Save if it is time. A failure is a warning: hours of training are worth more."""
        if self._epochs is None:
            due = time.monotonic() - self._when >= self._seconds
        else:
            due = done % self._epochs == 0
        if due:
            self.save(progress, done)

    def save(self, progress: Progress, done: int) -> bool:
        """Save unless that has been done; say whether all is saved."""
        if done == self.saved:
            return True
        try:
            checkpoint.save(self.folder, done, self._tree(progress, done), about=self._about)
        except OSError as error:
            warnings.warn(
                f"epoch {done} is not saved, and training goes on: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
            return False
        self.saved, self._when = done, time.monotonic()
        return True

    def _tree(self, progress: Progress, done: int) -> dict[str, Any]:
        """What there is to save."""
        return {"progress": cut(progress, done), "seconds": np.asarray(self._clock.seconds)}


def _interval(every: Any) -> tuple[int | None, float]:
    """The interval in epochs, or else in seconds."""
    if isinstance(every, timedelta):
        if every < timedelta(0):
            raise ConfigError(f"checkpoint_every is {every}, expected a time that is not negative")
        return None, every.total_seconds()
    try:
        return require_positive_int("checkpoint_every", every), 0.0
    except ConfigError as error:
        raise ConfigError(
            f"{error} of epochs, or a datetime.timedelta such as timedelta(minutes=5)"
        ) from None


def about_run(
    trainer: Trainer,
    run: TrainState,
    data: Data,
    validation: Data | None,
    patience: int | None,
    watching: Watching,
    given: Any = None,
) -> dict[str, Any]:
    """What decides on the bits of a run, as JSON: but for the number of epochs, which may grow.

    Args:
        trainer: what trains.
        run: the state before the first epoch.
        data: what it trains on.
        validation: what it is validated on.
        patience: of early stopping.
        watching: what early stopping looks at.
        given: the parameters and the state it starts from, where they are not drawn.
    """
    size = min(trainer.batch_size, arrays.examples(data))
    batch = arrays.of_batch(data, size)
    mixed = {"compute_dtype": trainer.compute_dtype, "loss_scale": trainer.loss_scale}
    return {
        **{name: str(value) for name, value in mixed.items() if value is not None},
        "model": describe(trainer.model),
        "loss": describe(trainer.loss),
        "optimizer": describe(trainer.optimizer),
        "batch_size": trainer.batch_size,
        "metrics": describe(dict(trainer.metrics or ())),
        "patience": patience,
        "watch": describe(watching),
        "key": describe(run.key),
        "start": None if given is None else _fingerprints(given),
        "data": _about_data(data),
        "validation": None if validation is None else _about_data(validation),
        checkpoint.PROGRAM: program_digest(
            lambda run, x, y: update(trainer, run, x, y, run.key)[:2], run, *batch
        ),
    }


def _about_data(data: Data) -> dict[str, Any]:
    return {name: _fingerprints(tree) for name, tree in zip("xy", data, strict=True)}


def _fingerprints(tree: Any) -> Any:
    """That of an array; of a tree, that of each by its path."""
    if isinstance(tree, Windows):
        return {"series": checkpoint.fingerprint(tree.series), "windows": repr(tree)}
    if jax.tree_util.all_leaves([tree]):
        return checkpoint.fingerprint(tree)
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_windows)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): _fingerprints(array)
        for path, array in leaves
    }
