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
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
import optax
from tqdm import tqdm

import funcnet as fn
from experiments import results, tables
from funcnet._internal.checks import require_number, require_positive_int
from funcnet.errors import ConfigError
from funcnet.io.files import write_atomically
from funcnet.training.divergence import diagnose

FINISHED = "every seed was finished already: nothing was trained"

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
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the step size goes: it stays, or falls to 0 over all epochs."""
    weight_decay: float = 0.0
    """How much of each weight is added to its gradient; biases and norms are spared."""
    clip_norm: float | None = None
    """The longest that a gradient may be; longer ones are scaled down to it."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers, ReLU after each."""
    compare_torch: bool = False
    """Train every seed in PyTorch as well, in turn with funcnet, each alone on the machine."""
    same_start: bool = False
    """Give PyTorch funcnet's first weights and batch order; report how far the two come apart."""
    checkpoint_every: int | None = None
    """Save the seed at hand after every so many epochs, and each seed at its end."""
    resume: bool = False
    """Go on with what was saved; seeds that are finished are not trained again."""
    on_divergence: Literal["raise", "keep"] = "raise"
    """Where a loss becomes infinite or NaN: stop, or leave that seed out and train the others."""
    debug: bool = False
    """Check for keys used twice, and count at the end what was traced and compiled."""
    out: Path
    """Folder for what is written; created if missing."""

    def __post_init__(self):
        if self.checkpoint_every is not None:
            require_positive_int("--checkpoint-every", self.checkpoint_every)
        if self.saving and self.with_torch:
            raise ConfigError(
                "--checkpoint-every and --resume save funcnet's training alone; leave out "
                "--compare-torch and --same-start"
            )
        for name in ("seeds", "epochs", "batch_size"):
            require_positive_int(f"--{name.replace('_', '-')}", getattr(self, name))
        for width in self.hidden:
            require_positive_int("--hidden", width)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(
                f"--learning-rate is {self.learning_rate}, expected a positive number"
            )
        require_number("--weight-decay", self.weight_decay, least=0)
        if self.clip_norm is not None and require_number("--clip-norm", self.clip_norm, 0) == 0:
            raise ConfigError("--clip-norm is 0, expected a positive number")

    @property
    def examples(self) -> int:
        """How many training examples a seed has."""
        raise NotImplementedError(f"{type(self).__name__} has no examples")

    @property
    def steps(self) -> int:
        """How many steps a seed is trained."""
        return self.epochs * math.ceil(self.examples / self.batch_size)

    @property
    def with_torch(self) -> bool:
        """Whether PyTorch takes part."""
        return self.compare_torch or self.same_start

    @property
    def saving(self) -> bool:
        """Whether seeds are saved as they train."""
        return self.checkpoint_every is not None or self.resume

    def recorded(self) -> dict[str, Any]:
        """The options that results depend on: not whether, and from where, a run was resumed."""
        options = dataclasses.asdict(self)
        del options["checkpoint_every"], options["resume"], options["debug"]
        return options


def network(sizes: Sequence[int]) -> fn.Sequential:
    """Linear layers between these numbers of features, ReLU between every two of them."""
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [fn.Linear(inputs, outputs), fn.ReLU()]
    return fn.Sequential(*layers[:-1])


def make_trainer(options: Options, sizes: Sequence[int], loss: str) -> fn.Trainer:
    """SGD as the options say."""
    optimizer = make_optimizer(options)
    return fn.Trainer(network(sizes), LOSSES[loss], optimizer, batch_size=options.batch_size)


def make_optimizer(options: Options) -> optax.GradientTransformation:
    """Clip the gradient, add the weight decay to it, then step: as PyTorch's SGD does."""
    chain = []
    if options.clip_norm is not None:
        chain.append(optax.clip_by_global_norm(options.clip_norm))
    if options.weight_decay:
        chain.append(optax.add_decayed_weights(options.weight_decay, mask=decayed))
    rate = options.learning_rate
    schedule = {
        "constant": lambda: rate,
        "cosine": lambda: optax.cosine_decay_schedule(rate, options.steps),
        "linear": lambda: optax.linear_schedule(rate, 0.0, options.steps),
    }[options.schedule]()
    return optax.chain(*chain, optax.sgd(schedule))


def decayed(params: Any) -> Any:
    """Which parameters decay: matrices and kernels, but no bias, and no scale of a norm."""
    return jax.tree.map(lambda array: array.ndim > 1, params)


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
        self.trainer, self.data = trainer, data

    def epoch(self) -> float:
        """Train one epoch, with the bits of a longer run; return its loss, NaN if it diverged."""
        return float(self.epochs(1)[0])

    def epochs(self, number: int) -> np.ndarray:
        """Train some epochs; return their losses, (number,), NaN from a divergence on."""
        start = time.perf_counter()
        self.run, history = jax.block_until_ready(self.trainer.run(self.run, self.data, number))
        self.seconds += time.perf_counter() - start
        return np.asarray(history["loss"])

    def predict(self, x: Any) -> np.ndarray:
        """Return the labels of x."""
        return np.asarray(self.logits(x).argmax(axis=-1))

    def logits(self, x: Any) -> jax.Array:
        """Return the network's output, (examples, classes)."""
        return self.trainer.predict(self.run.params, self.run.state, x)

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the parameters under PyTorch's keys."""
        return fn.interop.state_dict(self.run.params)


def warm_up(
    trainer: fn.Trainer, run: fn.TrainState, data: tuple[jax.Array, jax.Array], epochs: int = 1
) -> float:
    """Compile so many epochs at once for all seeds; return the seconds that took."""
    first, second = FuncnetLearner(trainer, run, data), FuncnetLearner(trainer, run, data)
    first.epochs(epochs)
    second.epochs(epochs)
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
    after: Callable[[int, np.ndarray], None] = lambda epoch, losses: None,
    begun: Sequence[float] | np.ndarray = (),
) -> Trained:
    """Train learners side by side, an epoch of each in turn, under a progress bar.

    Args:
        learners: one, or two that started from the same weights: then the largest absolute
            difference of the loss and of each parameter is kept for every epoch.
        epochs: how many.
        title: of the progress bar.
        after: called after every epoch with the number of epochs trained and their losses,
            (learners, epochs trained).
        begun: the losses of the epochs that a single learner has been trained already.

    Raises:
        DivergenceError: a loss or a parameter became infinite or NaN.
    """
    losses = np.zeros((len(learners), epochs))
    losses[:, : len(begun)] = begun
    differences: dict[str, list[float]] = {}
    with tqdm(total=epochs, initial=len(begun), unit="epoch", desc=title, leave=False) as bar:
        for epoch in range(len(begun), epochs):
            for i, learner in enumerate(learners):
                losses[i, epoch] = learner.epoch()
                if not math.isfinite(losses[i, epoch]):
                    raise divergence(title, epoch, learner)
            if len(learners) == 2:
                arrays, others = (learner.arrays() for learner in learners)
                _append(differences, "loss", *losses[:, epoch])
                for key in arrays:
                    _append(differences, key, arrays[key], others[key])
            after(epoch + 1, losses[:, : epoch + 1])
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
        self.diverged: list[results.Diverged] = []
        self._out, self._config, self._paper = out, options.recorded(), paper

    @property
    def table(self) -> str:
        """The table of all runs beside the paper's, and the seeds left out of it."""
        notes = [
            f"{tables.TITLES[d.loss]}, seed {d.seed}, {tables.TITLES[d.framework]}: diverged in "
            f"epoch {d.epoch}, left out.\n"
            for d in self.diverged
        ]
        return "\n".join([tables.render(self.runs, self._paper) if self.runs else "", *notes])

    def add(self, *runs: results.Run) -> None:
        """Keep what a seed has finished: killing the program later can't lose it."""
        self.runs += runs
        self._write()

    def leave_out(self, error: fn.DivergenceError, loss: str, seed: int, *frameworks: str) -> None:
        """Note a seed that diverged, or raise the error again: as the options say."""
        if self._config["on_divergence"] == "raise":
            raise error
        tqdm.write(f"left out: {error}")
        self.diverged += [results.Diverged(name, loss, seed, error.epoch) for name in frameworks]
        self._write()

    def require_some(self) -> None:
        """Raise DivergenceError if every seed was left out."""
        if not self.runs:
            first = self.diverged[0]
            raise fn.DivergenceError(
                f"every seed diverged, the first one in epoch {first.epoch}; lower --learning-rate",
                epoch=first.epoch,
            )

    def _write(self) -> None:
        results.write(self._out, self._config, self.runs, self.diverged)
        write_atomically(self._out / "table.md", self.table.encode())


def divergence(title: str, epoch: int, learner: Learner) -> fn.DivergenceError:
    """Return the exception for a seed whose loss or parameters are no longer finite."""
    found = None
    if isinstance(learner, FuncnetLearner):  # it has stopped before the epoch
        found = diagnose(learner.trainer, learner.run, learner.data)
    where = "" if found is None else f": {found}"
    return fn.DivergenceError(
        f"{title}: the loss or a parameter became infinite or NaN in epoch {epoch} (counted from "
        f"0){where}; funcnet's parameters of the last finite epoch are saved; lower "
        f"--learning-rate",
        epoch=epoch,
        diagnosis=found,
    )


def _append(differences: dict[str, list[float]], key: str, ours: Any, theirs: Any) -> None:
    differences.setdefault(key, []).append(float(np.max(np.abs(ours - theirs))))
