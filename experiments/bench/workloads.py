"""What is trained: the disk network, the MNIST network, a wide one, and how many seeds of each."""

import dataclasses
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
import optax

import funcnet as fn
from experiments import datasets, disk


class Data(NamedTuple):
    """Host arrays."""

    x: np.ndarray  # (examples, features) float32
    y: np.ndarray  # (examples,) int32


@dataclasses.dataclass(frozen=True)
class Network:
    """An affine network with ReLU between its layers, trained by plain SGD on cross entropy."""

    title: str
    sizes: tuple[int, ...]
    """Numbers of features, from the input's to the output's."""
    batch_size: int
    examples: int
    """A multiple of the batch size: peers compile for one shape."""
    learning_rate: float

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return self.examples // self.batch_size

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products of one step.

        A product of (B, N) and (N, M) takes 2 B N M. Each layer has one forward and two backward,
        for the weight and for the input; the first layer's input needs none.
        """
        products = [n * m for n, m in pairwise(self.sizes)]
        return 2 * self.batch_size * (3 * sum(products) - products[0])

    def model(self) -> fn.Sequential:
        """The network in funcnet."""
        layers = []
        for inputs, outputs in pairwise(self.sizes):
            layers += [fn.Linear(inputs, outputs), fn.ReLU()]
        return fn.Sequential(*layers[:-1])

    def trainer(self) -> fn.Trainer:
        """Its training in funcnet."""
        optimizer = optax.sgd(self.learning_rate)
        return fn.Trainer(self.model(), fn.CrossEntropyLoss(), optimizer, self.batch_size)

    def data(self) -> Data:
        """What it is trained on."""
        if self.sizes[0] == 2:
            x, y = disk.make_data(jax.random.key(1))
            data = Data(np.asarray(x), np.asarray(y))
        else:
            train, test = datasets.load("mnist")
            images, _ = datasets.standardise(train.images[:10_000], test.images[:1])
            data = Data(images.reshape(len(images), -1)[:, : self.sizes[0]], train.labels)
        return Data(data.x[: self.examples].copy(), data.y[: self.examples].astype(np.int32))


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network, trained from one or several seeds."""

    network: Network
    seeds: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.network.title}, {self.seeds} seed{'s' if self.seeds > 1 else ''}"


DISK = Network("D: 2-25-25-25-2, batch 100", (2, 25, 25, 25, 2), 100, 1_000, 0.03)
MNIST = Network("M: 784-512-512-512-10, batch 100", (784, 512, 512, 512, 10), 100, 10_000, 0.02)
WIDE = Network("W: 784-2048-2048-10, batch 512", (784, 2048, 2048, 10), 512, 5_120, 0.02)

# For the tests: the same shapes of program, done in no time.
TINY_DISK = Network("tiny D: 2-25-25-2, batch 50", (2, 25, 25, 2), 50, 200, 0.03)
TINY_MNIST = Network("tiny M: 784-16-10, batch 50", (784, 16, 10), 50, 200, 0.02)

TINY_WIDE = dataclasses.replace(
    TINY_MNIST, title="tiny W: 784-32-10, batch 50", sizes=(784, 32, 10)
)


def every_workload(tiny: bool, gpu: bool) -> dict[str, Workload]:
    """Every workload by name.

    Args:
        tiny: small networks and few seeds, for the tests.
        gpu: the disk and MNIST networks with up to 1,000 seeds, instead of what suits a CPU.
    """
    counts = (1, 10, 100, 1000) if gpu else (1, 10, 100)
    if tiny:
        counts = (1, 3)
    small, middle = (TINY_DISK, TINY_MNIST) if tiny else (DISK, MNIST)
    found = {f"disk-{seeds}": Workload(small, seeds) for seeds in counts}
    found |= {
        f"mnist-{seeds}": Workload(middle, seeds) for seeds in (counts if gpu else counts[:2])
    }
    if not gpu:
        found["wide"] = Workload(TINY_WIDE if tiny else WIDE, 1)
    return found
