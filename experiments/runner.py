"""What the experiments share: options, the training of one seed, and keeping what it found.

A seed of either framework is a `Learner`: it trains an epoch when it is told to, and keeps the time
that takes apart from everything else. Where two start from the same weights, they train side by
side, an epoch of each in turn, and are compared after every one.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from tqdm import tqdm

import funcnet as fn
from experiments import results, tables
from funcnet._checks import require_positive_int
from funcnet._files import write_atomically
from funcnet.errors import ConfigError

LOSSES = {"mse": fn.MSELoss(), "cross_entropy": fn.CrossEntropyLoss()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options that every experiment has."""

    seeds: int = 10
    """How many times to train; the results are means over the seeds 0, 1, ..."""
    epochs: int
    """How often to visit every training example."""
    batch_size: int = 100
    """Examples in one step of the descent."""
    learning_rate: float
    """Step size of the plain SGD."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers, ReLU after each."""
    compare_torch: bool = False
    """Train every seed in PyTorch as well, in turn with funcnet, each alone on the machine."""
    same_start: bool = False
    """Give PyTorch funcnet's first weights and batch order; report how far the two come apart."""
    out: Path
    """Folder for what is written; created if missing."""

    def __post_init__(self):
        for name in ("seeds", "epochs", "batch_size"):
            require_positive_int(f"--{name.replace('_', '-')}", getattr(self, name))
        for width in self.hidden:
            require_positive_int("--hidden", width)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(
                f"--learning-rate is {self.learning_rate}, expected a positive number"
            )

    @property
    def with_torch(self) -> bool:
        """Whether PyTorch takes part."""
        return self.compare_torch or self.same_start


def network(sizes: Sequence[int]) -> fn.Sequential:
    """Linear layers between these numbers of features, ReLU between every two of them."""
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [fn.Linear(inputs, outputs), fn.ReLU()]
    return fn.Sequential(*layers[:-1])


def make_trainer(options: Options, sizes: Sequence[int], loss: str) -> fn.Trainer:
    """Plain SGD as the options say."""
    optimizer = optax.sgd(options.learning_rate)
    return fn.Trainer(network(sizes), LOSSES[loss], optimizer, batch_size=options.batch_size)


class Learner(Protocol):
    """One seed's training in one framework."""

    framework: str
    """As in `results.Run`."""
    seconds: float
    """Spent on training so far."""
    compile_seconds: float
    """Spent before, once for all seeds."""

    def epoch(self) -> float:
        """Train one epoch; return the mean loss over the examples as they were seen."""
        ...

    def predict(self, x: Any) -> np.ndarray:
        """Return the labels, (examples,), of a NumPy array of features (examples, features)."""
        ...

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the parameters under PyTorch's keys."""
        ...


class FuncnetLearner:
    """A `Learner` in funcnet.

    Args:
        trainer: what trains; learners that share it share the compiled program.
        run: where to start.
        data: (x, y), JAX arrays.
        compile_seconds: what `warm_up` returned.
    """

    framework = "funcnet"

    def __init__(
        self,
        trainer: fn.Trainer,
        run: fn.TrainState,
        data: tuple[jax.Array, jax.Array],
        compile_seconds: float = 0.0,
    ):
        self.run = run
        self.seconds = 0.0
        self.compile_seconds = compile_seconds
        self._trainer, self._data = trainer, data

    def epoch(self) -> float:
        """Train one epoch, with the bits of a longer run; return its loss, NaN if it diverged."""
        start = time.perf_counter()
        self.run, history = jax.block_until_ready(self._trainer.run(self.run, self._data, 1))
        self.seconds += time.perf_counter() - start
        return float(history["loss"][0])

    def predict(self, x: Any) -> np.ndarray:
        """Return the labels of x."""
        return np.asarray(self.logits(x).argmax(axis=-1))

    def logits(self, x: Any) -> jax.Array:
        """Return the network's output, (examples, classes)."""
        return self._trainer.predict(self.run.params, self.run.state, x)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the parameters under PyTorch's keys."""
        return fn.interop.state_dict(self.run.params)


def warm_up(trainer: fn.Trainer, run: fn.TrainState, data: tuple[jax.Array, jax.Array]) -> float:
    """Compile one epoch for all seeds; return the seconds that took."""
    first, second = FuncnetLearner(trainer, run, data), FuncnetLearner(trainer, run, data)
    first.epoch()
    second.epoch()
    return first.seconds - second.seconds


class Trained(NamedTuple):
    """How the training of one seed went."""

    losses: np.ndarray
    """(learners, epochs)"""
    differences: Mapping[str, np.ndarray]
    """For "loss" and each parameter (epochs,): see `train`. Empty for a single learner."""


def train(
    learners: Sequence[Learner],
    epochs: int,
    title: str,
    after: Callable[[int], None] = lambda epoch: None,
) -> Trained:
    """Train learners side by side, an epoch of each in turn, under a progress bar.

    Args:
        learners: one, or two that started from the same weights: then the largest absolute
            difference of the loss and of each parameter is kept for every epoch.
        epochs: how many.
        title: of the progress bar.
        after: called after every epoch with the number of epochs trained.

    Raises:
        DivergenceError: a loss or a parameter became infinite or NaN.
    """
    losses = np.zeros((len(learners), epochs))
    differences: dict[str, list[float]] = {}
    with tqdm(total=epochs, unit="epoch", desc=title, leave=False) as bar:
        for epoch in range(epochs):
            for i, learner in enumerate(learners):
                losses[i, epoch] = learner.epoch()
                if not math.isfinite(losses[i, epoch]):
                    raise divergence(title, epoch)
            if len(learners) == 2:
                arrays, others = (learner.arrays() for learner in learners)
                _append(differences, "loss", *losses[:, epoch])
                for key in arrays:
                    _append(differences, key, arrays[key], others[key])
            after(epoch + 1)
            bar.set_postfix(loss=f"{losses[0, epoch]:.4g}", refresh=False)
            bar.update()
    return Trained(losses, {key: np.array(values) for key, values in differences.items()})


class Record:
    """The runs finished so far; written to the folder each time one more is.

    Args:
        out: the folder, see `results.prepare_out`.
        options: of the experiment.
        paper: the tables to put beside.
    """

    def __init__(self, out: Path, options: Options, paper: tables.Paper):
        self.runs: list[results.Run] = []
        self._out, self._config, self._paper = out, dataclasses.asdict(options), paper

    @property
    def table(self) -> str:
        """The table of all runs beside the paper's."""
        return tables.render(self.runs, self._paper)

    def add(self, *runs: results.Run) -> None:
        """Keep what a seed has finished: killing the program later can't lose it."""
        self.runs += runs
        results.write(self._out, self._config, self.runs)
        write_atomically(self._out / "table.md", self.table.encode())


def divergence(title: str, epoch: int) -> fn.DivergenceError:
    """Return the exception for a seed whose loss or parameters are no longer finite."""
    return fn.DivergenceError(
        f"{title}: the loss or a parameter became infinite or NaN in epoch {epoch} (counted from "
        f"0); funcnet's parameters of the last finite epoch are saved; lower --learning-rate",
        epoch=epoch,
    )


def _append(differences: dict[str, list[float]], key: str, ours: Any, theirs: Any) -> None:
    differences.setdefault(key, []).append(float(np.max(np.abs(ours - theirs))))
