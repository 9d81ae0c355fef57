"""A network too deep to train, and two that train: the disk problem with 24 hidden layers.

The same layers three times: plain, with batch normalisation after each, and with residual
connections around every two. Trains each on every seed, prints a table, and writes results.json,
table.md and deep.png into the folder --out: the loss over the epochs, and how large the gradient of
each layer's weight is before the first step. In the plain network it shrinks from layer to layer on
its way back, until the first layers get nothing to learn from.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import funcnet as fn
from experiments import disk, runner
from experiments.options import Options, require
from experiments.runner import Experiment, Seed

LOSS = "cross_entropy"
NETWORKS = ("plain", "batch norm", "residual")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options."""

    seeds: int = 5
    depth: int = 24
    """Hidden layers, an even number: the first, then pairs but for the last."""
    width: int = 25
    """Features of every hidden layer."""
    epochs: int = 300
    learning_rate: float = 0.03
    out: Path = Path("runs/deep")

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("depth", "width")
        require("depth", self.depth, self.depth % 2 == 0, "an even number")


def main(config: Config) -> None:
    """Run the experiment and write everything it found."""
    from experiments import figures  # needs matplotlib: said before anything is trained

    losses, gradients = {}, {}
    with runner.running(config, {}, keep_params=False) as experiment:
        for name in NETWORKS:
            if found := list(train_network(config, name, experiment)):
                losses[name], gradients[name] = map(np.stack, zip(*found, strict=True))
    figures.save(figures.depths(losses, gradients), config.out / "deep.png")
    experiment.report("results.json, table.md, deep.png")


def network(config: Config, name: str) -> fn.Sequential:
    """Two features, `depth` hidden layers, two classes; `name` is one of NETWORKS."""
    width = config.width

    def hidden(inputs: int) -> list[fn.Module]:
        normalised = [fn.BatchNorm1d(width)] if name == "batch norm" else []
        return [fn.Linear(inputs, width), *normalised, fn.ReLU()]

    layers = hidden(2)
    if name == "residual":
        for _ in range(config.depth // 2 - 1):
            layers += [fn.Residual(*hidden(width), fn.Linear(width, width)), fn.ReLU()]
        layers += hidden(width)
    else:
        for _ in range(config.depth - 1):
            layers += hidden(width)
    return fn.Sequential(*layers, fn.Linear(width, 2))


def train_network(
    config: Config, name: str, experiment: Experiment
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train one network on every seed, each alone on the machine, and record it.

    Yields:
        For each seed the losses, (epochs,), and the norms of the gradients of the weights before
        the first step, (layers,).
    """
    optimizer = optax.sgd(config.learning_rate)
    trainer = fn.Trainer(network(config, name), fn.CrossEntropyLoss(), optimizer, config.batch_size)
    for number in range(config.seeds):
        drawn, title = disk.draw(jax.random.key(number)), f"{name}, seed {number}"
        folder = f"{name.replace(' ', '-')}-{number}"
        seed = Seed(LOSS, number, folder, title, trainer, drawn.train, drawn.key, name)
        for learned in experiment.learn(seed):
            scores = learned.scores(train=drawn.train, test=drawn.test)
            experiment.add(seed, learned, **scores)
            print(f"{title}: test accuracy {100 * scores['accuracy_test']:.2f} %", flush=True)
            norms = gradient_norms(trainer, trainer.init(drawn.key), drawn.train)
            yield learned.losses, np.asarray(norms)


@partial(jax.jit, static_argnums=0)
def gradient_norms(trainer: fn.Trainer, run: fn.TrainState, data: tuple[Array, Array]) -> Array:
    """The Euclidean norm of the gradient of each affine map's weight, first layer first."""
    x, y = data

    def loss(params: Any) -> Array:
        return trainer.loss(trainer.model.apply(params, run.state, x, train=True)[0], y)

    gradients = jax.tree.leaves(jax.grad(loss)(run.params))
    return jnp.stack([jnp.linalg.norm(g) for g in gradients if g.ndim == 2])
