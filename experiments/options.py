"""The options that experiments share, and the network and the optimizer that they describe."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import jax
import optax

import funcnet as fn
from funcnet.errors import ConfigError

LOSSES = {"mse": fn.MSELoss(), "cross_entropy": fn.CrossEntropyLoss()}


def require(name: str, value: Any, valid: bool, expected: str) -> None:
    """Raise ConfigError for the value of an option, named as in Python, unless it is valid."""
    if not valid:
        raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected {expected}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Options of every experiment that trains."""

    epochs: int
    """How often to visit every training example."""
    batch_size: int = 100
    """Examples in one step of the descent."""
    learning_rate: float
    """Step size of the plain SGD."""
    checkpoint_every: int | None = None
    """Save after every so many epochs, and at the end."""
    resume: bool = False
    """Go on with what was saved."""
    debug: bool = False
    """Check for keys used twice, and count at the end what was traced and compiled."""
    out: Path
    """Folder for what is written; created if missing."""

    def __post_init__(self):
        rate = self.learning_rate
        require("learning_rate", rate, math.isfinite(rate) and rate > 0, "a positive number")
        self.require_counts("epochs", "batch_size", "checkpoint_every")

    def require_counts(self, *names: str) -> None:
        """Raise ConfigError unless each of these options is at least 1, or left out."""
        for name in names:
            value = getattr(self, name)
            require(name, value, value is None or value >= 1, "at least 1")

    @property
    def saving(self) -> bool:
        """Whether what is trained is saved as it goes."""
        return self.checkpoint_every is not None or self.resume

    def recorded(self) -> dict[str, Any]:
        """The options that results depend on: not whether, and from where, a run was resumed."""
        options = dataclasses.asdict(self)
        del options["checkpoint_every"], options["resume"], options["debug"]
        return options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Options of the experiments that train several seeds."""

    seeds: int = 10
    """How many times to train; the results are means over the seeds 0, 1, ..."""
    checkpoint_every: int | None = None
    """Save the seed at hand after every so many epochs, and each seed at its end."""
    resume: bool = False
    """Go on with what was saved; seeds that are finished are not trained again."""
    on_divergence: Literal["raise", "keep"] = "raise"
    """Where a loss becomes infinite or NaN: stop, or leave that seed out and train the others."""

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("seeds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperOptions(Options):
    """Options of the paper's experiments."""

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

    def __post_init__(self):
        super().__post_init__()
        if self.saving and self.with_torch:
            raise ConfigError(
                "--checkpoint-every and --resume save funcnet's training alone; leave out "
                "--compare-torch and --same-start"
            )
        for width in self.hidden:
            require("hidden", width, width >= 1, "at least 1")
        decay, clip = self.weight_decay, self.clip_norm
        require("weight_decay", decay, math.isfinite(decay) and decay >= 0, "a number >= 0")
        valid = clip is None or (math.isfinite(clip) and clip > 0)
        require("clip_norm", clip, valid, "a positive number")

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


def network(sizes: Sequence[int]) -> fn.Sequential:
    """Linear layers between these numbers of features, ReLU between every two of them."""
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [fn.Linear(inputs, outputs), fn.ReLU()]
    return fn.Sequential(*layers[:-1])


def make_optimizer(options: PaperOptions) -> optax.GradientTransformation:
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


def make_trainer(options: PaperOptions, sizes: Sequence[int], loss: str) -> fn.Trainer:
    """What trains `network(sizes)` with one of LOSSES, as the options say."""
    optimizer = make_optimizer(options)
    return fn.Trainer(network(sizes), LOSSES[loss], optimizer, batch_size=options.batch_size)


def decayed(params: Any) -> Any:
    """Which parameters decay: matrices and kernels, but no bias, and no scale of a norm."""
    return jax.tree.map(lambda array: array.ndim > 1, params)
