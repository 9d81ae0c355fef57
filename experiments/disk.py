"""The paper's toy problem: is a point of the square [-1, 1]² inside the disk of area 1/2?

Trains a small network on every seed, once with MSE and once with cross entropy, prints Table I
beside the paper's, and writes results.json, table.md, the loss curves, Figures 1 to 3 and every
seed's parameters into the folder --out. Each seed has its own points, initial weights and order.
With --compare-torch, PyTorch trains on the same points, and Table II joins in.
"""

import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import funcnet as fn
from experiments import results, runner, tables
from experiments.options import LOSSES, PaperOptions, make_trainer
from experiments.runner import Experiment, Learned, Seed
from experiments.tables import TITLES

RADIUS = 1 / math.sqrt(2 * math.pi)
EXAMPLES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(PaperOptions):
    """Options; the defaults are the paper's."""

    loss: Literal["mse", "cross_entropy", "both"] = "both"
    """Which loss to train with."""
    epochs: int = 2000
    learning_rate: float = 0.03
    hidden: tuple[int, ...] = (25, 25, 25)
    out: Path = Path("runs/disk")

    @property
    def examples(self) -> int:
        """How many points a seed is trained with."""
        return EXAMPLES

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of features: coordinates, hidden layers, classes."""
        return (2, *self.hidden, 2)


def main(config: Config) -> None:
    """Run the experiment and write everything it found."""
    from experiments import figures, same_start  # need matplotlib: said before anything is trained

    if config.with_torch:
        from experiments import torch_peer  # noqa: F401 (and PyTorch)

    losses = [*LOSSES] if config.loss == "both" else [config.loss]
    curves, reports, drawn = {}, [], None
    with runner.running(config, tables.DISK) as experiment:
        for loss in losses:
            found = list(train_seeds(config, loss, experiment))
            for framework in dict.fromkeys(learned.framework for _, learned, _ in found):
                history = [f.losses for _, f, _ in found if f.framework == framework]
                by = f", {TITLES[framework]}" if config.with_torch else ""
                curves[f"{TITLES[loss]}{by}"] = np.stack(history)
            if found:
                drawn, first, run = found[0]
                _draw_regions(figures, config, loss, drawn.train, first, run)
            if found and config.same_start:
                apart = [learned.apart for _, learned, _ in found if learned.apart]
                runs = [run for _, _, run in found]
                reports.append(same_start.write(config.out, loss, apart, runs))
    assert drawn is not None
    x, y = map(np.asarray, drawn.train)
    figures.save(figures.points(x, y, RADIUS), config.out / "figure-1-points.png")
    figures.save(figures.curves(curves, "training loss", log=True), config.out / "loss.png")
    experiment.report("results.json, table.md, the parameters, and the figures", *reports)


class Drawn(NamedTuple):
    """What a seed is trained and tested on, all from one key."""

    train: tuple[Array, Array]
    """Points, (1000, 2), and labels, (1000,)."""
    test: tuple[Array, Array]
    key: Array
    """Of the initial weights and the order."""


def train_seeds(
    config: Config, loss: str, experiment: Experiment
) -> Iterator[tuple[Drawn, Learned, results.Run]]:
    """Train every seed with one loss, in PyTorch too if asked; record each when it is done.

    The first seed has the machine to itself, and is the one that is timed; then the others share
    the cores. In a comparison, and where they are saved, each seed trains alone and is timed. What
    is learned has the same bits either way.

    Yields:
        What a seed has drawn, what it has learned in one framework, and the record of that.
    """
    trainer, peers = make_trainer(config, config.sizes, loss), []
    if config.with_torch:
        from experiments import torch_peer

        data = training_data(loss, draw(jax.random.key(0)))
        peers = torch_peer.make_peers(config, config.sizes, loss, data, torch_peer.Peer)
    alone = config.saving or config.with_torch
    timed, others = None, None
    for number in range(config.seeds):
        drawn = draw(jax.random.key(number))
        title, data = f"{TITLES[loss]}, seed {number}", training_data(loss, drawn)
        seed = Seed(loss, number, f"{loss}-{number}", title, trainer, data, drawn.key)
        if timed and others is None and not alone:
            others = train_side_by_side(config, loss, trainer, range(number, config.seeds))
        if timed and others and number in others:
            params, state, losses = others[number]
            experiment.write_params(seed, params, state)
            outputs = partial(trainer.predict, params, state)
            found = [timed._replace(losses=losses.astype(float), outputs=outputs)]
        else:  # one that diverged beside the others is among these: `fit` says why
            found = experiment.learn(seed, peers)
        for learned in found:
            timed = timed or learned
            scores = learned.scores(train=drawn.train, test=drawn.test)
            yield drawn, learned, experiment.add(seed, learned, **scores)


def train_side_by_side(
    config: Config, loss: str, trainer: fn.Trainer, seeds: range
) -> dict[int, tuple[Any, Any, np.ndarray]]:
    """Train seeds on every core; return parameters, state and losses of the finite ones."""

    def train(key: Array):
        drawn = draw(key)
        data = training_data(loss, drawn)
        run, history = trainer.run(trainer.init(drawn.key), data, config.epochs)
        return (run.params, run.state, history["loss"]), history["diverged_at"]

    start = time.perf_counter()
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    found, diverged_at = jax.device_get(fn.map_seeds(train, keys))
    elapsed = time.perf_counter() - start
    print(f"{TITLES[loss]}: {len(seeds)} more on every core in {elapsed:.2f} s")
    finite = [(i, seed) for i, seed in enumerate(seeds) if diverged_at[i] < 0]
    return {seed: jax.tree.map(lambda leaf, i=i: leaf[i], found) for i, seed in finite}


def draw(key: Array) -> Drawn:
    """Draw what a seed is trained and tested on."""
    train_key, test_key, run_key = split_key(key)
    return Drawn(make_data(train_key), make_data(test_key), run_key)


def split_key(key: Array) -> Array:
    """A seed's keys: of the training points, the test points, and the training itself."""
    return jax.random.split(key, 3)


def make_data(key: Array) -> tuple[Array, Array]:
    """Points uniform in the square, (1000, 2), and their labels, 1 inside the disk."""
    x = jax.random.uniform(key, (EXAMPLES, 2), minval=-1, maxval=1)
    return x, (jnp.square(x).sum(axis=-1) < RADIUS**2).astype(jnp.int32)


def training_data(loss: str, drawn: Drawn) -> tuple[Array, Array]:
    """The training points and what the loss compares with: labels, or for MSE one-hot rows."""
    x, y = drawn.train
    return x, jax.nn.one_hot(y, 2) if loss == "mse" else y


def _draw_regions(figures, config, loss, data, learned, run):
    title = (
        f"learned with {TITLES[loss]}, seed {run.seed}\n"
        f"accuracy: train {100 * run.accuracy_train:.2f} %, test {100 * run.accuracy_test:.2f} %"
    )
    number = {"mse": 2, "cross_entropy": 3}[loss]
    predict = partial(runner.labels, learned.outputs)
    figure = figures.decision_regions(predict, *map(np.asarray, data), RADIUS, title)
    figures.save(figure, config.out / f"figure-{number}-{loss}.png")
