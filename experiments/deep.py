"""A network too deep to train, and two that train: the disk problem with 24 hidden layers.

The same layers three times: plain, with batch normalisation after each, and with residual
connections around every two. Trains each on every seed, prints a table, and writes results.json,
table.md and deep.png into the folder --out: the loss over the epochs, and how large the gradient of
each layer's weight is before the first step. In the plain network it shrinks from layer to layer on
its way back, until the first layers get nothing to learn from.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import funcnet as fn
from experiments import disk, results, tables
from funcnet._internal.checks import require_positive_int
from funcnet.errors import ConfigError
from funcnet.io.files import write_atomically

LOSS = "cross_entropy"
NETWORKS = ("plain", "batch norm", "residual")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Options."""

    seeds: int = 5
    """How many times to train; the results are means over the seeds 0, 1, ..."""
    depth: int = 24
    """Hidden layers, an even number: the first, then pairs but for the last."""
    width: int = 25
    """Features of every hidden layer."""
    epochs: int = 300
    """How often to visit every training example."""
    batch_size: int = 100
    """Examples in one step of the descent."""
    learning_rate: float = 0.03
    """Step size of the plain SGD."""
    out: Path = Path("runs/deep")
    """Folder for what is written; created if missing."""

    def __post_init__(self):
        for name in ("seeds", "depth", "width", "epochs", "batch_size"):
            require_positive_int(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.depth % 2:
            raise ConfigError(f"--depth is {self.depth}, expected an even number")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(
                f"--learning-rate is {self.learning_rate}, expected a positive number"
            )


class Outcome(NamedTuple):
    """What one seed's training leaves behind."""

    loss: Array  # (epochs,)
    diverged_at: Array  # ()
    gradients: Array  # (layers,): norms of the gradients of the weights before the first step
    y: Array  # (2, examples): labels of the training points and the test points
    predicted: Array  # (2, examples)


def main(config: Config) -> None:
    """Run the experiment and write everything it found."""
    from experiments import figures  # needs matplotlib: said before anything is trained

    out = results.prepare_out(config.out)
    runs: list[results.Run] = []
    losses, gradients = {}, {}
    for name in NETWORKS:
        outcomes = train_seeds(config, name, runs)
        losses[name] = np.stack([outcome.loss for outcome in outcomes])
        gradients[name] = np.stack([outcome.gradients for outcome in outcomes])
        results.write(out, dataclasses.asdict(config), runs)
    table = tables.render(runs, {})
    write_atomically(out / "table.md", table.encode())
    figures.save(figures.depths(losses, gradients), out / "deep.png")
    print(f"\n{table}\nwritten to {out}: results.json, table.md, deep.png")


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


def train_seeds(config: Config, name: str, runs: list[results.Run]) -> list[Outcome]:
    """Train one network on every seed, each alone on the machine, and append its `Run`.

    Raises:
        DivergenceError: the loss or a parameter became infinite or NaN.
    """
    keys = [jax.random.key(seed) for seed in range(config.seeds)]
    start = time.perf_counter()
    program = jax.jit(make_train(config, name)).lower(keys[0]).compile()
    compile_seconds = time.perf_counter() - start
    outcomes = []
    for seed, key in enumerate(keys):
        start = time.perf_counter()
        outcome = jax.device_get(program(key))
        seconds = time.perf_counter() - start
        if outcome.diverged_at >= 0:
            raise fn.DivergenceError(
                f"{name}, seed {seed}: the loss or a parameter became infinite or NaN in epoch "
                f"{outcome.diverged_at} (counted from 0); lower --learning-rate",
                epoch=int(outcome.diverged_at),
            )
        runs.append(_run(name, seed, outcome, seconds, compile_seconds))
        outcomes.append(outcome)
        accuracy = 100 * runs[-1].accuracy_test
        print(f"{name}, seed {seed}: {seconds:.2f} s, test accuracy {accuracy:.2f} %", flush=True)
    return outcomes


def make_train(config: Config, name: str):
    """The pure function of a key that one seed is."""
    optimizer = optax.sgd(config.learning_rate)
    trainer = fn.Trainer(
        network(config, name), fn.CrossEntropyLoss(), optimizer, batch_size=config.batch_size
    )

    def train(key: Array) -> Outcome:
        train_key, test_key, run_key = disk.split_key(key)
        data, (x_test, y_test) = disk.make_data(train_key), disk.make_data(test_key)
        first = trainer.init(run_key)
        run, history = trainer.run(first, data, config.epochs)
        both = jnp.stack([data[0], x_test])
        logits, _ = trainer.model.apply(run.params, run.state, both)
        return Outcome(
            history["loss"],
            history["diverged_at"],
            gradient_norms(trainer, first, data),
            jnp.stack([data[1], y_test]),
            logits.argmax(axis=-1),
        )

    return train


def gradient_norms(trainer: fn.Trainer, run: fn.TrainState, data: tuple[Array, Array]) -> Array:
    """The Euclidean norm of the gradient of each affine map's weight, first layer first."""
    x, y = data

    def loss(params: Any) -> Array:
        return trainer.loss(trainer.model.apply(params, run.state, x, train=True)[0], y)

    gradients = jax.tree.leaves(jax.grad(loss)(run.params))
    return jnp.stack([jnp.linalg.norm(g) for g in gradients if g.ndim == 2])


def _run(name, seed, outcome, seconds, compile_seconds) -> results.Run:
    scores = {}
    for split, y, predicted in zip(("train", "test"), outcome.y, outcome.predicted, strict=True):
        scores[f"accuracy_{split}"] = fn.metrics.accuracy(y, predicted)
        scores[f"f1_{split}"] = fn.metrics.f1_score(y, predicted)
    return results.Run(
        framework="funcnet",
        loss=LOSS,
        seed=seed,
        seconds=seconds,
        compile_seconds=compile_seconds,
        model=name,
        **scores,
    )
