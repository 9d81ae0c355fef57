"""Seeds on the disk while they train, so that an experiment that is killed goes on where it was.

Each seed has a folder of checkpoints in `checkpoints`, in the experiment's own folder. One that is
finished keeps its last checkpoint: with --resume it is read instead of trained.
"""

import contextlib
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import funcnet as fn
from experiments.runner import FuncnetLearner, Learner, Options
from funcnet.errors import CheckpointError
from funcnet.io import checkpoint
from funcnet.training.checkpointing import about_run
from funcnet.training.signals import Held, held_signals

FOLDER = "checkpoints"


class StoppedError(Exception):
    """The experiment was asked to stop, and has saved the seed at hand.

    Attributes:
        signal: what asked.
    """

    def __init__(self, message: str, received: signal.Signals):
        super().__init__(message)
        self.signal = received


class Part(NamedTuple):
    """What is saved of a seed; where it ends is the checkpoint's step."""

    run: fn.TrainState
    losses: np.ndarray  # (epochs,)
    scores: np.ndarray  # what was measured along the way
    seconds: np.ndarray  # ()
    compile_seconds: np.ndarray  # ()


@contextlib.contextmanager
def saving(options: Options) -> Iterator["Saving"]:
    """Save what trains within the block, as the options say, also when a signal ends it.

    Raises:
        CheckpointError: there are checkpoints and `resume` does not ask for them, or another
            process is saving there.
        ModuleNotFoundError: Orbax is not installed.
        StoppedError: a signal came when no seed was training.
    """
    if not options.saving:
        yield Saving(options, Held())
        return
    checkpoint.require_orbax()
    folder = options.out / FOLDER
    with checkpoint.locked(folder):
        if not options.resume and any(path.is_dir() for path in folder.iterdir()):
            raise CheckpointError(
                f"{folder} holds an earlier run; add --resume to go on with it, or remove {folder} "
                f"to start anew"
            )
        with held_signals() as held:
            yield Saving(options, held)
    if held.received is not None:
        raise StoppedError(f"{held.received.name}: stopped between seeds, all saved", held.received)


class Saving:
    """Where seeds are saved, and when. Use `saving`."""

    def __init__(self, options: Options, held: Held):
        self.options, self.held = options, held

    def finished(self, names: list[str]) -> bool:
        """Whether every one of these seeds has been trained to its end."""
        folders = [self.options.out / FOLDER / name for name in names]
        last = self.options.epochs
        return self.options.saving and all(checkpoint.steps(f)[-1:] == [last] for f in folders)

    def seed(self, name: str, learners: Sequence[Learner], test: Any) -> "SavedSeed":
        """One seed, not trained yet.

        Args:
            name: of its folder.
            learners: what trains it. Only funcnet, alone, is saved.
            test: what it is tested on, (x, y).
        """
        learner = learners[0]
        if not self.options.saving or not isinstance(learner, FuncnetLearner):
            return SavedSeed(self, name, None, {})
        about = about_run(learner.trainer, learner.run, learner.data, test, patience=None)
        return SavedSeed(self, name, learner, about | {"epochs": self.options.epochs})


class SavedSeed:
    """A seed's checkpoints; without a learner, none. Use `Saving.seed`."""

    def __init__(
        self, saving: Saving, name: str, learner: FuncnetLearner | None, about: dict[str, Any]
    ):
        self._options, self._held = saving.options, saving.held
        self._name, self._learner, self._about = name, learner, about
        self._folder = self._options.out / FOLDER / name

    def restore(self, scores: np.ndarray) -> np.ndarray:
        """Let the learner go on from what was saved, if there is anything and that is asked for.

        Args:
            scores: what is to be measured along the way; filled with what was.

        Returns:
            The losses of the epochs trained so far.

        Raises:
            CheckpointError: it is of another configuration or other data, or damaged.
        """
        learner = self._learner
        if learner is None or not self._options.resume:
            return np.zeros(0)
        like = self._part(learner, np.zeros(0), scores)
        saved = checkpoint.restore(self._folder, like, about=self._about)
        if saved is None:
            return np.zeros(0)
        part: Part = saved.tree
        learner.run, scores[:] = part.run, part.scores
        learner.seconds, learner.compile_seconds = float(part.seconds), float(part.compile_seconds)
        return part.losses[: saved.step]

    def after(self, epoch: int, losses: np.ndarray, scores: np.ndarray) -> None:
        """Save if it is time, the seed is finished, or a signal has come.

        Args:
            epoch: how many have been trained.
            losses: of them, (epoch,) or (1, epoch).
            scores: as for `restore`.

        Raises:
            StoppedError: a signal has come.
        """
        if self._learner is None:
            return
        every, last = self._options.checkpoint_every, epoch == self._options.epochs
        stop = self._held.received
        saved = True
        if last or stop is not None or (every is not None and epoch % every == 0):
            part = self._part(self._learner, losses.reshape(-1), scores)
            saved = self._save(epoch, part, keep=1 if last else 3)
        if stop is not None:
            raise StoppedError(
                f"{stop.name}: stopped in {self._name} after epoch {epoch} of "
                f"{self._options.epochs}, {'all' if saved else 'which could not be'} saved",
                stop,
            )

    def _part(self, learner: FuncnetLearner, losses: np.ndarray, scores: np.ndarray) -> Part:
        padded = np.zeros(self._options.epochs)
        padded[: len(losses)] = losses
        times = np.asarray(learner.seconds), np.asarray(learner.compile_seconds)
        return Part(learner.run, padded, scores, *times)

    def _save(self, epoch: int, part: Part, keep: int) -> bool:
        try:
            checkpoint.save(self._folder, epoch, part, about=self._about, keep=keep)
        except OSError as error:  # hours of training are worth more than a checkpoint
            message = f"{self._name}, epoch {epoch} is not saved, and training goes on: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return False
        return True
