"""The paper's second experiment: which digit does a handwritten image show?

Trains the network on every seed, prints Table III beside the paper's, and writes results.json,
table.md, curves.csv, every seed's parameters, and figures into the folder --out: the curves, seed
0's confusion matrix, and the test images it misreads with the most confidence. What a seed has
finished is on disk before the next one starts. The seeds share the images and differ in their
initial weights and order; they run one after the other, each timed alone on the machine.
"""

import contextlib
import csv
import dataclasses
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm
from tyro.conf import Suppress

import funcnet as fn
from experiments import cnn, datasets, options, runner, tables
from experiments.runner import Experiment, Learned, Outputs, Seed
from experiments.tables import TITLES
from funcnet.errors import ConfigError, DataError
from funcnet.io.files import write_atomically

LOSS = "cross_entropy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.PaperOptions):
    """Options; the defaults are the paper's."""

    model: Literal["mlp", "cnn"] = "mlp"
    """The paper's linear layers, or a convolutional network, which has other defaults."""
    data: Literal["mnist", "fashion"] = "mnist"
    """MNIST comes along; Fashion-MNIST is looked for on the system, else downloaded."""
    data_dir: Path | None = None
    """Folder with the four files of any such set, compressed or not; nothing else is searched."""
    train_size: int = 10_000
    """How many training images to use, the first ones; at most as many as there are."""
    epochs: int = 100
    learning_rate: float = 0.02
    hidden: tuple[int, ...] = (512, 512, 512)
    out: Path = Path("runs/mnist")
    pixels: Suppress[tuple[int, int]] = (28, 28)
    labels: Suppress[tuple[int, ...]] = tuple(range(10))
    """What the files in --data-dir have, as `of_files` found."""

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("train_size")
        there = self.data_dir is not None or self.train_size <= 60_000
        options.require("train_size", self.train_size, there, "at most 60000")
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
        return (*self.pixels, 1) if self.model == "cnn" else (math.prod(self.pixels),)

    @property
    def examples(self) -> int:
        """How many images a seed is trained with."""
        return self.train_size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of features of the linear layers: pixels, hidden ones, classes."""
        return (math.prod(self.pixels), *self.hidden, len(self.labels))

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called: by their labels, if these are not the data set's own."""
        names = datasets.DATA_SETS[self.data].class_names
        return names if self.labels == tuple(range(len(names))) else tuple(map(str, self.labels))

    def of_files(self) -> "Config":
        """The same with what the files in --data-dir are like: their images and labels."""
        if self.data_dir is None:
            return self
        train, test = datasets.load(self.data, self.data_dir)
        labels = np.unique(train.labels)
        if (unknown := np.setdiff1d(test.labels, labels)).size:
            raise DataError(f"{self.data_dir}: no training image has the label {unknown[0]}")
        size, pixels = min(self.train_size, len(train.labels)), train.images.shape[1:]
        labels = tuple(labels.tolist())
        return dataclasses.replace(self, train_size=size, pixels=pixels, labels=labels)


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
    """(examples, height, width), 0 the background: as they were before."""


Curves = Mapping[str, dict[int, tuple[np.ndarray, ...]]]
"""For each framework and seed the losses, (epochs,), and both rows of `Accuracies.taken`."""


class Accuracies:
    """The accuracies along the way of a seed.

    Args:
        epochs: how many it is trained.
        sets: the training and the test images.
        folder: where to keep them as they are taken, for a seed that is resumed; None for nowhere.

    Attributes:
        taken: on both sets after each of `tested_epochs`, (2, tests).
    """

    def __init__(self, epochs: int, sets: Sequence[Images], folder: Path | None = None):
        self.tested, self._sets, self._folder = tested_epochs(epochs), sets, folder
        self.taken = np.full((len(sets), len(self.tested)), np.nan)
        if folder is not None and (saved := fn.checkpoint.restore(folder, self.taken)):
            self.taken = np.array(saved.tree)

    def __call__(self, epoch: int, outputs: Outputs) -> None:
        """Test a network after so many epochs, if it is time."""
        if epoch not in self.tested:
            return
        for part, images in enumerate(self._sets):
            score = fn.metrics.accuracy(images.y, runner.labels(outputs, images.x))
            self.taken[part, self.tested.index(epoch)] = score
        if self._folder is not None:
            with contextlib.suppress(OSError):  # `fit`, which saves next, warns of a full disk
                fn.checkpoint.save(self._folder, epoch, self.taken, keep=2)


def main(config: Config) -> None:
    """Run the experiment and write everything it found."""
    from experiments import figures, same_start  # need matplotlib: said before anything is trained

    if config.with_torch:
        from experiments import torch_peer  # noqa: F401 (and PyTorch)

    config = config.of_files()
    sets = load(config)
    paper = tables.MNIST if config.data == "mnist" and config.data_dir is None else {}
    curves: Curves = defaultdict(dict)
    apart = []
    with runner.running(config, paper) as experiment:
        for seed, learned, accuracies in train_seeds(config, experiment, sets):
            curves[learned.framework][seed] = learned.losses, *accuracies
            write_atomically(config.out / "curves.csv", as_csv(config, curves).encode())
            if learned.framework == "funcnet" and len(curves["funcnet"]) == 1:
                _draw_errors(figures, config, learned, sets[1])
            if learned.apart:
                apart.append(learned.apart)
    _draw_curves(figures, config, curves)
    reports = []
    if config.same_start:
        reports = [same_start.write(config.out, LOSS, apart, experiment.runs)]
    experiment.report(
        f"results.json, table.md, curves.csv, the parameters, and the figures; see an image "
        f"classified with: python -m experiments predict {config.out} --index 0",
        *reports,
    )


def load(config: Config) -> tuple[Images, Images]:
    """Return the training and the test images, standardised by the training images used."""
    train, test = datasets.load(config.data, config.data_dir)
    train = datasets.Split(*(array[: config.train_size] for array in train))
    images = datasets.standardise(train.images, test.images)
    labels = (np.searchsorted(config.labels, split.labels) for split in (train, test))
    train, test = (
        Images(x.reshape(-1, *config.image), y.astype(np.int32), split.images)
        for x, y, split in zip(images, labels, (train, test), strict=True)
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
        return options.make_trainer(config, config.sizes, LOSS)
    optimizer = cnn.optimizer(config.learning_rate, config.steps)
    network = cnn.network(config.data, config.pixels, len(config.labels))
    return fn.Trainer(network, cnn.LOSS, optimizer, batch_size=config.batch_size)


def train_seeds(
    config: Config, experiment: Experiment, sets: Sequence[Images]
) -> Iterator[tuple[int, Learned, np.ndarray]]:
    """Train one seed after the other, in PyTorch too if asked; record each when it is done.

    Yields:
        The seed, what it has learned in one framework, and its `Accuracies.taken`.
    """
    trainer, peers = make_trainer(config), []
    data = jnp.asarray(sets[0].x), jnp.asarray(sets[0].y)
    if config.with_torch:
        from experiments import cnn_torch, torch_peer

        kind = cnn_torch.CnnPeer if config.model == "cnn" else torch_peer.Peer
        peers = torch_peer.make_peers(config, config.sizes, LOSS, data, kind)
    title = (
        config.data_dir.resolve().name if config.data_dir else datasets.DATA_SETS[config.data].title
    )
    for number in tqdm(range(config.seeds), unit="seed", desc=title):
        name, key = seed_name(number), jax.random.key(number)
        seed = Seed(LOSS, number, name, f"seed {number}, funcnet", trainer, data, key)
        folder = experiment.checkpoints / f"{name}-accuracies" if config.saving else None
        tests = {peer.framework: Accuracies(config.epochs, sets) for peer in peers}
        tests["funcnet"] = Accuracies(config.epochs, sets, folder)
        for learned in experiment.learn(seed, peers, tests):
            taken = tests[learned.framework].taken
            train, test = taken[:, -1].tolist()
            experiment.add(seed, learned, accuracy_train=train, accuracy_test=test)
            yield number, learned, taken


def params_name(seed: int) -> str:
    """Return the name of the file with a seed's parameters."""
    return f"params-{seed_name(seed)}.safetensors"


def seed_name(seed: int) -> str:
    """Return the name of a seed's files."""
    return f"{LOSS}-{seed}"


def as_csv(config: Config, curves: Curves) -> str:
    """Return the curves of all seeds so far; an accuracy is empty where none was taken."""
    tested = tested_epochs(config.epochs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["framework", "seed", "epoch", "loss", "accuracy_train", "accuracy_test"])
    for framework, seeds in curves.items():
        for seed, (losses, *taken) in seeds.items():
            accuracies = dict(zip(tested, zip(*taken, strict=True), strict=True))
            for epoch, loss in enumerate(losses, start=1):
                writer.writerow([framework, seed, epoch, loss, *accuracies.get(epoch, ("", ""))])
    return text.getvalue()


def _draw_errors(figures, config, learned, test):
    names = config.class_names
    probabilities = np.asarray(jax.nn.softmax(learned.outputs(test.x)))
    matrix = fn.metrics.confusion_matrix(test.y, probabilities.argmax(1), labels=range(len(names)))
    figures.save(figures.confusion(matrix, names), config.out / "confusion.png")
    figure = figures.misread(test.pictures, test.y, probabilities, names)
    figures.save(figure, config.out / "misread.png")


def _draw_curves(figures, config, curves):
    losses, accuracies = {}, {}
    for framework, seeds in curves.items():
        title = TITLES[framework]
        losses[title], train, test = map(np.stack, zip(*seeds.values(), strict=True))
        accuracies |= {f"{title}, training images": train, f"{title}, test images": test}
    figures.save(figures.curves(losses, "training loss", log=True), config.out / "loss.png")
    figure = figures.curves(accuracies, "accuracy", epochs=tested_epochs(config.epochs))
    figures.save(figure, config.out / "accuracy.png")
