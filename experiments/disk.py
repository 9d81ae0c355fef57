"""The paper's toy problem: is a point of the square [-1, 1]² inside the disk of area 1/2?

Trains a small network on every seed, once with MSE and once with cross entropy, prints Table I
beside the paper's, and writes results.json, table.md, the loss curves, Figures 1 to 3 and every
seed's parameters into the folder --out. Each seed has its own points, initial weights and order.
With --compare-torch, PyTorch trains on the same points, and Table II joins in.
"""

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import funcnet as fn
from experiments import results, runner, tables
from experiments.runner import FuncnetLearner, Options
from experiments.saving import Saving, saving
from experiments.tables import TITLES

RADIUS = 1 / math.sqrt(2 * math.pi)
EXAMPLES = 1000
PIECE = 100  # epochs between two looks for a signal, where no checkpoints are asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Options):
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


class Outcome(NamedTuple):
    """What one seed's training leaves behind; on the host, NumPy arrays."""

    params: Any
    loss: Array  # (epochs,)
    diverged_at: Array  # ()
    x: Array  # (2, examples, 2): the training points and the test points
    y: Array  # (2, examples): labels
    predicted: Array  # (2, examples): labels


def main(config: Config) -> None:
    """Run the experiment and write everything it found."""
    from experiments import figures, same_start  # need matplotlib: said before anything is trained

    if config.with_torch:
        from experiments import torch_peer  # noqa: F401 (and PyTorch)

    out = results.prepare_out(config.out)
    record = runner.Record(out, config, tables.DISK)
    losses = [*runner.LOSSES] if config.loss == "both" else [config.loss]
    curves, reports, first = {}, [], None
    with saving(config) as on_disk:
        names = [seed_name(loss, seed) for loss in losses for seed in range(config.seeds)]
        finished = on_disk.finished(names)
        for loss in losses:
            outcomes, histories, differences = run_loss(config, loss, record, on_disk)
            for framework, history in histories.items():
                title = TITLES[loss]
                title = f"{title}, {TITLES[framework]}" if config.with_torch else title
                curves[title] = np.stack(history)
            runs = [run for run in record.runs if run.loss == loss]
            if not runs:  # each of them diverged
                continue
            first = outcomes[0]
            _draw_regions(figures, config, loss, first, runs[0], out)
            if config.same_start:
                reports.append(same_start.write(out, loss, differences, runs))
    record.require_some()
    assert first is not None
    figures.save(
        figures.points(np.asarray(first.x[0]), np.asarray(first.y[0]), RADIUS),
        out / "figure-1-points.png",
    )
    figures.save(figures.curves(curves, "training loss", log=True), out / "loss.png")
    print("\n".join(["", record.table, *reports]))
    if finished:
        print(runner.FINISHED)
    print(f"written to {out}: results.json, table.md, the parameters, and the figures")


def run_loss(config: Config, loss: str, record: runner.Record, on_disk: Saving):
    """Train every seed with one loss, in PyTorch too if asked; record each seed when it is done.

    Returns:
        The outcomes of the seeds that did not diverge; each framework's losses, an array (epochs,)
        a seed; and each seed's `runner.Trained.differences`, where both frameworks started from
        the same weights.
    """
    outcomes, histories, differences = [], defaultdict(list), []
    compare = make_comparison(config, loss) if config.with_torch else None
    seeds = train_saving(config, loss, on_disk) if config.saving else train_seeds(config, loss)
    for seed, (outcome, seconds, compile_seconds) in enumerate(seeds):
        title = f"{TITLES[loss]}, seed {seed}"
        fn.save_params(config.out / f"params-{seed_name(loss, seed)}.safetensors", outcome.params)
        if outcome.diverged_at >= 0:
            stopped = stopped_learner(config, loss, seed, outcome)
            error = runner.divergence(title, int(outcome.diverged_at), stopped)
            record.leave_out(error, loss, seed, "funcnet")
            continue
        times = seconds, compile_seconds
        record.add(_run("funcnet", loss, seed, outcome, outcome.predicted, *times))
        histories["funcnet"].append(outcome.loss)
        for learner, trained in compare(seed, outcome, title) if compare else ():
            predicted = [learner.predict(x) for x in outcome.x]
            times = learner.seconds, learner.compile_seconds
            record.add(_run(learner.framework, loss, seed, outcome, predicted, *times))
            histories[learner.framework].append(trained.losses[-1])
            differences.append(trained.differences)
        outcomes.append(outcome)
    return outcomes, histories, differences


def make_comparison(config: Config, loss: str):
    """Return a function that trains a seed in PyTorch as well, on the same points.

    It takes the seed, what funcnet's training left and a title, and yields a learner and what
    `runner.train` returned for eager PyTorch, then for torch.compile.
    """
    from experiments import torch_peer

    trainer = runner.make_trainer(config, config.sizes, loss)
    x, y = make_data(jax.random.key(0))
    peers = torch_peer.make_peers(config, config.sizes, loss, (x, make_target(loss, y)))

    def compare(seed: int, outcome: Outcome, title: str):
        data = outcome.x[0], make_target(loss, outcome.y[0])
        start, beside = None, []
        if config.same_start:
            # Once more, epoch by epoch: the timed run was one program from end to end.
            start = trainer.init(split_key(jax.random.key(seed))[-1])
            beside = [FuncnetLearner(trainer, start, data)]
        for peer in peers:
            learner = peer.learner(data, seed, start)
            name = f"{title}, {TITLES[peer.framework]}"
            yield learner, runner.train([*beside, learner], config.epochs, name)

    return compare


def stopped_learner(config: Config, loss: str, seed: int, outcome: Outcome) -> FuncnetLearner:
    """Return the learner of a seed that diverged, before the epoch in which it did."""
    trainer = runner.make_trainer(config, config.sizes, loss)
    run = trainer.init(split_key(jax.random.key(seed))[-1])
    run = run._replace(params=outcome.params, epoch=jnp.asarray(outcome.diverged_at))
    data = jnp.asarray(outcome.x[0]), make_target(loss, jnp.asarray(outcome.y[0]))
    return FuncnetLearner(trainer, run, data)


def split_key(key: Array) -> Array:
    """A seed's keys: of the training points, the test points, and the training itself."""
    return jax.random.split(key, 3)


def make_data(key: Array) -> tuple[Array, Array]:
    """Points uniform in the square, (1000, 2), and their labels, 1 inside the disk."""
    x = jax.random.uniform(key, (EXAMPLES, 2), minval=-1, maxval=1)
    return x, (jnp.square(x).sum(axis=-1) < RADIUS**2).astype(jnp.int32)


def make_target(loss: str, y: Array) -> Array:
    """What the loss compares with: labels, or for MSE one-hot rows."""
    return jax.nn.one_hot(y, 2) if loss == "mse" else y


def make_train(config: Config, loss: str):
    """The pure function of a key that one seed is."""
    trainer = runner.make_trainer(config, config.sizes, loss)

    def train(key: Array) -> Outcome:
        train_key, test_key, run_key = split_key(key)
        x, y = make_data(train_key)
        data = x, make_target(loss, y)
        run, history = trainer.run(trainer.init(run_key), data, config.epochs)
        x_test, y_test = make_data(test_key)
        both = jnp.stack([x, x_test])
        logits, _ = trainer.model.apply(run.params, run.state, both)
        return Outcome(
            run.params,
            history["loss"],
            history["diverged_at"],
            both,
            jnp.stack([y, y_test]),
            logits.argmax(axis=-1),
        )

    return train


def train_seeds(config: Config, loss: str) -> Iterator[tuple[Outcome, float, float]]:
    """Yield each seed's outcome, the seconds of a seed alone, and those of the compilation.

    The first seed has the machine to itself, and is the one that is timed; then the others run on
    every core. In a comparison each seed is trained, and timed, only when it is asked for. The
    outcome has the same bits either way.
    """
    train = make_train(config, loss)
    keys = [jax.random.key(seed) for seed in range(config.seeds)]
    start = time.perf_counter()
    program = jax.jit(train).lower(keys[0]).compile()
    compile_seconds = time.perf_counter() - start
    print(f"{TITLES[loss]}: compiled in {compile_seconds:.2f} s", flush=True)

    alone = config.seeds if config.with_torch else 1
    seconds = 0.0
    for seed in range(alone):
        start = time.perf_counter()
        outcome = jax.block_until_ready(program(keys[seed]))
        seconds = time.perf_counter() - start
        print(f"{TITLES[loss]}, seed {seed}: trained in {seconds:.2f} s", flush=True)
        yield jax.device_get(outcome), seconds, compile_seconds
    if config.seeds > alone:
        start = time.perf_counter()
        others = jax.device_get(fn.map_seeds(train, jnp.stack(keys[alone:])))
        elapsed = time.perf_counter() - start
        print(f"{TITLES[loss]}: {config.seeds - 1} more on every core in {elapsed:.2f} s")
        for i in range(config.seeds - alone):
            yield jax.tree.map(lambda leaf, i=i: leaf[i], others), seconds, compile_seconds


def train_saving(
    config: Config, loss: str, on_disk: Saving
) -> Iterator[tuple[Outcome, float, float]]:
    """Yield the same with the same bits, every seed trained in pieces between checkpoints.

    One after the other and each timed: two at a time would leave a signal waiting for both.

    Raises:
        StoppedError: a signal asked to stop; the seed at hand is saved.
        CheckpointError: what was saved is of another configuration.
    """
    trainer = runner.make_trainer(config, config.sizes, loss)
    piece = min(config.checkpoint_every or PIECE, config.epochs)
    compile_seconds, none = 0.0, np.zeros(0)
    compiled = on_disk.finished([seed_name(loss, seed) for seed in range(config.seeds)])
    for seed in range(config.seeds):
        train_key, test_key, run_key = split_key(jax.random.key(seed))
        (x, y), (x_test, y_test) = make_data(train_key), make_data(test_key)
        data = x, make_target(loss, y)
        run = trainer.init(run_key)
        if not compiled:
            lengths = {piece, config.epochs % piece} - {0}  # each is a program of its own
            compile_seconds = sum(runner.warm_up(trainer, run, data, n) for n in lengths)
            compiled = True
        learner = FuncnetLearner(trainer, run, data, compile_seconds)
        saved = on_disk.seed(seed_name(loss, seed), [learner], (x_test, y_test))
        losses = saved.restore(none)
        while len(losses) < config.epochs and np.isfinite(losses).all():
            more = learner.epochs(min(piece - len(losses) % piece, config.epochs - len(losses)))
            losses = np.append(losses, more)
            if np.isfinite(more).all():
                saved.after(len(losses), losses, none)
        both = jnp.stack([x, x_test])
        logits, _ = trainer.model.apply(learner.run.params, learner.run.state, both)
        finite = np.isfinite(losses)
        outcome = Outcome(
            learner.run.params,
            jnp.asarray(losses, jnp.float32),
            jnp.int32(-1 if finite.all() else finite.argmin()),
            both,
            jnp.stack([y, y_test]),
            logits.argmax(axis=-1),
        )
        print(f"{TITLES[loss]}, seed {seed}: trained in {learner.seconds:.2f} s", flush=True)
        yield jax.device_get(outcome), learner.seconds, learner.compile_seconds


def seed_name(loss: str, seed: int) -> str:
    """Return the name of a seed's files."""
    return f"{loss}-{seed}"


def _run(framework, loss, seed, outcome, predicted, seconds, compile_seconds) -> results.Run:
    scores = {}
    for part, split in enumerate(("train", "test")):
        scores[f"accuracy_{split}"] = fn.metrics.accuracy(outcome.y[part], predicted[part])
        scores[f"f1_{split}"] = fn.metrics.f1_score(outcome.y[part], predicted[part])
    return results.Run(
        framework=framework,
        loss=loss,
        seed=seed,
        seconds=seconds,
        compile_seconds=compile_seconds,
        **scores,
    )


def _draw_regions(figures, config, loss, outcome, run, out):
    model = runner.network(config.sizes)
    state = jax.eval_shape(model.init, jax.random.key(0))[1]

    def predict(x):
        logits, _ = model.apply(outcome.params, state, jnp.asarray(x))
        return np.asarray(logits.argmax(axis=-1))

    title = (
        f"learned with {TITLES[loss]}, seed 0\n"
        f"accuracy: train {100 * run.accuracy_train:.2f} %, test {100 * run.accuracy_test:.2f} %"
    )
    number = {"mse": 2, "cross_entropy": 3}[loss]
    points = np.asarray(outcome.x[0]), np.asarray(outcome.y[0])
    figure = figures.decision_regions(predict, *points, RADIUS, title)
    figures.save(figure, out / f"figure-{number}-{loss}.png")
