"""The paper's second experiment: which digit does a handwritten image show?

Trains the network on every seed, prints Table III beside the paper's, and writes results.json,
table.md, curves.csv, every seed's parameters, and figures into the folder --out: the curves, seed
0's confusion matrix, and the test images it misreads with the most confidence. What a seed has
finished is on disk before the next one starts. The seeds share the images and differ in their
initial weights and order; they run one after the other, each timed alone on the machine.
"""

import csv
import dataclasses
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import funcnet as fn
from experiments import cnn, datasets, results, runner, tables
from experiments.runner import FuncnetLearner, Learner, Options
from experiments.saving import Saving, saving
from experiments.tables import TITLES
from funcnet._internal.checks import require_positive_int
from funcnet.errors import ConfigError
from funcnet.io.files import write_atomically

LOSS = "cross_entropy"
PIXELS = 28 * 28
CLASSES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options; the defaults are the paper's."""

    model: Literal["mlp", "cnn"] = "mlp"
    """The paper's linear layers, or a convolutional network, which has other defaults."""
    data: Literal["mnist", "fashion"] = "mnist"
    """MNIST comes along; Fashion-MNIST is looked for on the system, else downloaded."""
    data_dir: Path | None = None
    """Folder with the data set's four files, compressed or not; nothing else is searched then."""
    train_size: int = 10_000
    """How many training images to use, the first ones; at most 60000."""
    epochs: int = 100
    learning_rate: float = 0.02
    hidden: tuple[int, ...] = (512, 512, 512)
    out: Path = Path("runs/mnist")

    def __post_init__(self):
        super().__post_init__()
        if require_positive_int("--train-size", self.train_size) > 60_000:
            raise ConfigError(f"--train-size is {self.train_size}, expected at most 60000")
        plain = (self.schedule, self.weight_decay, self.clip_norm) == ("constant", 0, None)
        if self.model == "cnn" and not plain:
            raise ConfigError(
                "--schedule, --weight-decay and --clip-norm are for plain SGD; leave them out with "
                "--model cnn, which has an optimizer of its own"
            )
        if self.model == "cnn" and self.same_start:
            raise ConfigError(
                "--same-start is for networks that draw nothing while they train; leave it out "
                "with --model cnn, and use --compare-torch"
            )

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of an image as the network takes it."""
        return cnn.IMAGE if self.model == "cnn" else (PIXELS,)

    @property
    def examples(self) -> int:
        """How many images a seed is trained with."""
        return self.train_size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of features of the linear layers: pixels, hidden ones, classes."""
        return (PIXELS, *self.hidden, CLASSES)


CNN = Config(model="cnn", train_size=60_000, epochs=12, batch_size=128, learning_rate=0.003)
"""The defaults with --model cnn."""

CNN_EPOCHS = {"mnist": CNN.epochs, "fashion": 20}
"""Clothes take longer."""


def defaults(arguments: Sequence[str]) -> Config:
    """Return the options where the command line does not give them."""
    line = " ".join(arguments)
    if not re.search(r"(^| )--model[ =]cnn( |$)", line):
        return Config()
    data = "fashion" if re.search(r"(^| )--data[ =]fashion( |$)", line) else "mnist"
    return dataclasses.replace(CNN, epochs=CNN_EPOCHS[data])


class Images(NamedTuple):
    """Images as the network takes them, and their labels."""

    x: np.ndarray
    """(examples, *Config.image) float32, standardised."""
    y: np.ndarray
    """(examples,) int32."""
    pictures: np.ndarray
    """(examples, 28, 28) uint8, 0 the background: as they were before."""


class Curves(NamedTuple):
    """What was seen while a seed was trained."""

    loss: np.ndarray
    """(epochs,), the mean over the training images as they were seen."""
    accuracy_train: np.ndarray
    """(tests,), after each of `tested_epochs`."""
    accuracy_test: np.ndarray
    """(tests,)"""


def main(config: Config) -> None:
    """Run the experiment and write everything it found."""
    from experiments import figures, same_start  # need matplotlib: said before anything is trained

    if config.with_torch:
        from experiments import torch_peer  # noqa: F401 (and PyTorch)

    out = results.prepare_out(config.out)
    data_set = datasets.DATA_SETS[config.data]
    train, test = load(config)
    record = runner.Record(out, config, tables.MNIST if config.data == "mnist" else {})
    curves: dict[str, dict[int, Curves]] = defaultdict(dict)
    differences = []
    with saving(config) as on_disk:
        finished = on_disk.finished([seed_name(seed) for seed in range(config.seeds)])
        make_learners = prepare(config, train, compiled=not finished)
        for seed in tqdm(range(config.seeds), unit="seed", desc=data_set.title):
            for learners in make_learners(seed):
                try:
                    seen, apart = train_seed(config, seed, learners, train, test, on_disk)
                except fn.DivergenceError as error:
                    record.leave_out(error, LOSS, seed, *(lr.framework for lr in learners))
                    continue
                differences.append(apart)
                for learner, curve in zip(learners, seen, strict=True):
                    curves[learner.framework][seed] = curve
                write_atomically(out / "curves.csv", as_csv(config, curves).encode())
                record.add(*map(partial(_run, seed), learners, seen))
                if isinstance(learners[0], FuncnetLearner) and len(curves["funcnet"]) == 1:
                    _draw_errors(figures, config, learners[0], test)
    record.require_some()
    _draw_curves(figures, config, curves)
    reports = [same_start.write(out, LOSS, differences, record.runs)] if config.same_start else []
    print("\n".join(["", record.table, *reports]))
    if finished:
        print(runner.FINISHED)
    print(
        f"written to {out}: results.json, table.md, curves.csv, the parameters, and the figures; "
        f"see an image classified with: python -m experiments predict {out} --index 0"
    )


def load(config: Config) -> tuple[Images, Images]:
    """Return the training and the test images, standardised by the training images used."""
    train, test = datasets.load(config.data, config.data_dir)
    train = datasets.Split(*(array[: config.train_size] for array in train))
    standardised = datasets.standardise(train.images, test.images)
    train, test = (
        Images(x.reshape(-1, *config.image), split.labels.astype(np.int32), split.images)
        for x, split in zip(standardised, (train, test), strict=True)
    )
    return train, test


def tested_epochs(epochs: int) -> list[int]:
    """Return after how many epochs the accuracy is taken: 1 to 5, then some 20 more, and the last.

    After each one, on both sets of images, it would cost about as much as the training itself.
    """
    every = max(1, epochs // 20)
    return [n for n in range(1, epochs + 1) if n <= 5 or n % every == 0 or n == epochs]


def make_trainer(config: Config) -> fn.Trainer:
    """Return what trains the network that the options name."""
    if config.model == "mlp":
        return runner.make_trainer(config, config.sizes, LOSS)
    optimizer = cnn.optimizer(config.learning_rate, config.steps)
    return fn.Trainer(cnn.network(config.data), cnn.LOSS, optimizer, batch_size=config.batch_size)


def prepare(
    config: Config, train: Images, compiled: bool = True
) -> Callable[[int], Iterator[list[Learner]]]:
    """Compile for every seed, unless there is nothing left to train.

    Returns:
        A function of the seed, to the learners that train it: one after the other, each alone,
        or, if they start from the same weights, side by side.
    """
    trainer = make_trainer(config)
    data = jnp.asarray(train.x), jnp.asarray(train.y)
    begin = trainer.init(jax.random.key(0))
    compile_seconds = runner.warm_up(trainer, begin, data) if compiled else 0.0
    peers = []
    if config.with_torch:
        from experiments import cnn_torch, torch_peer

        kind = cnn_torch.CnnPeer if config.model == "cnn" else torch_peer.Peer
        peers = torch_peer.make_peers(config, config.sizes, LOSS, train[:2], kind)

    def make_learners(seed: int) -> Iterator[list[Learner]]:
        run = trainer.init(jax.random.key(seed))
        funcnet = FuncnetLearner(trainer, run, data, compile_seconds)
        if config.same_start:
            yield [funcnet, peers[0].learner(train[:2], seed, start=run)]
            return
        yield [funcnet]
        for peer in peers:
            yield [peer.learner(train[:2], seed)]

    return make_learners


def train_seed(
    config: Config,
    seed: int,
    learners: Sequence[Learner],
    train: Images,
    test: Images,
    on_disk: Saving,
) -> tuple[list[Curves], Mapping[str, np.ndarray]]:
    """Train one seed from where it was, testing it now and then; save funcnet's parameters.

    Returns:
        What was seen of each learner, and how far they came apart: `runner.Trained.differences`.

    Raises:
        DivergenceError: a loss or a parameter became infinite or NaN.
        StoppedError: a signal asked to stop; the seed is saved.
        CheckpointError: what was saved is of another configuration or other data.
    """
    tested = tested_epochs(config.epochs)
    accuracies = np.zeros((2, len(learners), len(tested)))
    saved = on_disk.seed(seed_name(seed), learners, test[:2])
    begun = saved.restore(accuracies)

    def after(epoch: int, losses: np.ndarray) -> None:
        if epoch in tested:
            for part, images in enumerate((train, test)):
                for i, learner in enumerate(learners):
                    score = fn.metrics.accuracy(images.y, learner.predict(images.x))
                    accuracies[part, i, tested.index(epoch)] = score
        saved.after(epoch, losses, accuracies)

    def save() -> None:
        for learner in learners:
            if isinstance(learner, FuncnetLearner):
                # With the state beside the parameters: the running statistics belong to a network.
                arrays = fn.interop.state_dict(learner.run.params, learner.run.state)
                fn.save_params(config.out / params_name(seed), arrays)

    title = f"seed {seed}, {' and '.join(TITLES[learner.framework] for learner in learners)}"
    try:
        losses, differences = runner.train(learners, config.epochs, title, after, begun)
    except fn.DivergenceError:
        save()  # funcnet stopped at the last finite epoch
        raise
    save()
    return [Curves(*curves) for curves in zip(losses, *accuracies, strict=True)], differences


def params_name(seed: int) -> str:
    """Return the name of the file with a seed's parameters."""
    return f"params-{seed_name(seed)}.safetensors"


def seed_name(seed: int) -> str:
    """Return the name of a seed's files."""
    return f"{LOSS}-{seed}"


def as_csv(config: Config, curves: Mapping[str, Mapping[int, Curves]]) -> str:
    """Return the curves of all seeds so far; an accuracy is empty where none was taken."""
    tested = tested_epochs(config.epochs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["framework", "seed", "epoch", "loss", "accuracy_train", "accuracy_test"])
    for framework, seeds in curves.items():
        for seed, curve in seeds.items():
            accuracies = dict(zip(tested, zip(*curve[1:], strict=True), strict=True))
            for epoch, loss in enumerate(curve.loss, start=1):
                writer.writerow([framework, seed, epoch, loss, *accuracies.get(epoch, ("", ""))])
    return text.getvalue()


def _run(seed: int, learner: Learner, curve: Curves) -> results.Run:
    return results.Run(
        framework=learner.framework,
        loss=LOSS,
        seed=seed,
        accuracy_train=float(curve.accuracy_train[-1]),
        accuracy_test=float(curve.accuracy_test[-1]),
        seconds=learner.seconds,
        compile_seconds=learner.compile_seconds,
    )


def _draw_errors(figures, config, learner, test):
    names = datasets.DATA_SETS[config.data].class_names
    probabilities = np.asarray(jax.nn.softmax(learner.logits(test.x)))
    matrix = fn.metrics.confusion_matrix(
        test.y, probabilities.argmax(axis=1), labels=range(CLASSES)
    )
    figures.save(figures.confusion(matrix, names), config.out / "confusion.png")
    figures.save(
        figures.misread(test.pictures, test.y, probabilities, names), config.out / "misread.png"
    )


def _draw_curves(figures, config, curves):
    losses = {
        TITLES[name]: np.stack([c.loss for c in seeds.values()]) for name, seeds in curves.items()
    }
    accuracies = {
        f"{TITLES[name]}, {part} images": np.stack([c[i] for c in seeds.values()])
        for name, seeds in curves.items()
        for i, part in ((1, "training"), (2, "test"))
    }
    figures.save(figures.curves(losses, "training loss", log=True), config.out / "loss.png")
    figure = figures.curves(accuracies, "accuracy", epochs=tested_epochs(config.epochs))
    figures.save(figure, config.out / "accuracy.png")
