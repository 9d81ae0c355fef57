"""The paper's toy problem: is a point of the square [-1, 1]² inside the disk of area 1/2?

Trains a small network on every seed, once with MSE and once with cross entropy, prints Table I
beside the paper's, and writes results.json, table.md, the loss curves, Figures 1 to 3 and every
seed's parameters into the folder --out. Each seed has its own points, initial weights and order.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import funcnet as fn
from experiments import results, tables
from funcnet._checks import require_positive_int
from funcnet.errors import ConfigError

RADIUS = 1 / math.sqrt(2 * math.pi)
EXAMPLES = 1000
LOSSES = {"mse": fn.MSELoss(), "cross_entropy": fn.CrossEntropyLoss()}
TITLES = {"mse": "MSE", "cross_entropy": "cross entropy"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options; the defaults are the paper's."""

    loss: Literal["mse", "cross_entropy", "both"] = "both"
    """Which loss to train with."""
    seeds: int = 10
    """How many times to train; the results are means over the seeds 0, 1, ..."""
    epochs: int = 2000
    """How often to visit every training point."""
    batch_size: int = 100
    """Points in one step of the descent."""
    learning_rate: float = 0.03
    """Step size of the plain SGD."""
    hidden: tuple[int, ...] = (25, 25, 25)
    """Widths of the hidden layers, ReLU after each."""
    out: Path = Path("runs/disk")
    """Folder for what is written; created if missing."""

    def __post_init__(self):
        for name in ("seeds", "epochs", "batch_size"):
            require_positive_int(f"--{name.replace('_', '-')}", getattr(self, name))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(
                f"--learning-rate is {self.learning_rate}, expected a positive number"
            )


class Outcome(NamedTuple):
    """What one seed's training leaves behind."""

    params: Any
    loss: Array  # (epochs,)
    diverged_at: Array  # ()
    x: Array  # (2, examples, 2): the training points and the test points
    y: Array  # (2, examples): labels
    predicted: Array  # (2, examples): labels


def main(config: Config) -> None:
    """Run the experiment and write everything it found."""
    from experiments import figures  # needs matplotlib: said before anything is trained

    out = results.prepare_out(config.out)
    runs, curves = [], {}
    for loss in LOSSES if config.loss == "both" else [config.loss]:
        outcome, seconds, compile_seconds = train_seeds(config, loss)
        for seed in range(config.seeds):
            params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], outcome.params)
            fn.save_params(out / f"params-{loss}-{seed}.safetensors", params)
        _require_finite(loss, outcome)
        runs += [
            _run(outcome, loss, seed, seconds, compile_seconds) for seed in range(config.seeds)
        ]
        results.write(out, dataclasses.asdict(config), runs)
        curves[TITLES[loss]] = np.asarray(outcome.loss)
        _draw_regions(figures, config, loss, outcome, runs[-config.seeds], out)
    figures.save(figures.points(*_points(outcome), RADIUS), out / "figure-1-points.png")
    figures.save(figures.curves(curves, "training loss", log=True), out / "loss.png")
    table = tables.render(runs, tables.DISK)
    (out / "table.md").write_text(table)
    print(f"\n{table}\nwritten to {out}: results.json, table.md, the parameters, and the figures")


def make_model(hidden: tuple[int, ...]) -> fn.Sequential:
    """Two inputs, hidden layers with ReLU, two outputs."""
    layers = []
    for inputs, outputs in zip((2, *hidden), hidden, strict=False):
        layers += [fn.Linear(inputs, outputs), fn.ReLU()]
    return fn.Sequential(*layers, fn.Linear(hidden[-1] if hidden else 2, 2))


def make_data(key: Array) -> tuple[Array, Array]:
    """Points uniform in the square, (1000, 2), and their labels, 1 inside the disk."""
    x = jax.random.uniform(key, (EXAMPLES, 2), minval=-1, maxval=1)
    return x, (jnp.square(x).sum(axis=-1) < RADIUS**2).astype(jnp.int32)


def make_train(config: Config, loss: str):
    """The pure function of a key that one seed is."""
    model = make_model(config.hidden)
    trainer = fn.Trainer(
        model, LOSSES[loss], optax.sgd(config.learning_rate), batch_size=config.batch_size
    )

    def train(key: Array) -> Outcome:
        train_key, test_key, run_key = jax.random.split(key, 3)
        x, y = make_data(train_key)
        target = jax.nn.one_hot(y, 2) if loss == "mse" else y
        run, history = trainer.run(trainer.init(run_key), (x, target), config.epochs)
        x_test, y_test = make_data(test_key)
        both = jnp.stack([x, x_test])
        logits, _ = model.apply(run.params, run.state, both)
        return Outcome(
            run.params,
            history["loss"],
            history["diverged_at"],
            both,
            jnp.stack([y, y_test]),
            logits.argmax(axis=-1),
        )

    return train


def train_seeds(config: Config, loss: str) -> tuple[Outcome, float, float]:
    """Train every seed: the outcomes stacked, seconds of one seed alone, and of the compilation.

    The first seed has the machine to itself, and is the one that is timed; then the others run on
    every core.
    """
    train = make_train(config, loss)
    keys = jax.vmap(jax.random.key)(jnp.arange(config.seeds))
    start = time.perf_counter()
    program = jax.jit(train).lower(keys[0]).compile()
    compile_seconds = time.perf_counter() - start
    print(f"{TITLES[loss]}: compiled in {compile_seconds:.2f} s", end="", flush=True)
    start = time.perf_counter()
    outcome = jax.block_until_ready(program(keys[0]))
    seconds = time.perf_counter() - start
    print(f", seed 0 trained in {seconds:.2f} s", end="", flush=True)
    outcome = jax.tree.map(lambda leaf: leaf[None], outcome)
    if config.seeds > 1:
        start = time.perf_counter()
        others = fn.map_seeds(train, keys[1:])
        outcome = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), outcome, others)
        elapsed = time.perf_counter() - start
        print(f", {config.seeds - 1} more on every core in {elapsed:.2f} s", end="")
    print()
    return outcome, seconds, compile_seconds


def _run(outcome, loss, seed, seconds, compile_seconds) -> results.Run:
    scores = {}
    for part, split in enumerate(("train", "test")):
        labels, predicted = outcome.y[seed, part], outcome.predicted[seed, part]
        scores[f"accuracy_{split}"] = fn.metrics.accuracy(labels, predicted)
        scores[f"f1_{split}"] = fn.metrics.f1_score(labels, predicted)
    return results.Run(
        framework="funcnet",
        loss=loss,
        seed=seed,
        seconds=seconds,
        compile_seconds=compile_seconds,
        **scores,
    )


def _require_finite(loss, outcome):
    diverged = np.flatnonzero(np.asarray(outcome.diverged_at) >= 0)
    if len(diverged):
        seed = diverged[0]
        raise fn.DivergenceError(
            f"seed {seed} with {TITLES[loss]} became infinite or NaN in epoch "
            f"{outcome.diverged_at[seed]} ({len(diverged)} seeds in all); the parameters of the "
            f"last finite epoch are saved; lower --learning-rate",
            epoch=int(outcome.diverged_at[seed]),
        )


def _points(outcome) -> tuple[np.ndarray, np.ndarray]:
    """Seed 0's training points and labels."""
    return np.asarray(outcome.x[0, 0]), np.asarray(outcome.y[0, 0])


def _draw_regions(figures, config, loss, outcome, run, out):
    model = make_model(config.hidden)
    params = jax.tree.map(lambda leaf: leaf[0], outcome.params)
    state = jax.eval_shape(model.init, jax.random.key(0))[1]

    def predict(x):
        logits, _ = model.apply(params, state, jnp.asarray(x))
        return np.asarray(logits.argmax(axis=-1))

    title = (
        f"learned with {TITLES[loss]}, seed 0\n"
        f"accuracy: train {100 * run.accuracy_train:.2f} %, test {100 * run.accuracy_test:.2f} %"
    )
    number = {"mse": 2, "cross_entropy": 3}[loss]
    figure = figures.decision_regions(predict, *_points(outcome), RADIUS, title)
    figures.save(figure, out / f"figure-{number}-{loss}.png")
