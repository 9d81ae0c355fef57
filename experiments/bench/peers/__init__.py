"""Who is measured: funcnet, and what people would use instead, each as its own users write it."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from experiments.bench.workloads import Data, Network
from funcnet.training.seeds import cores

Parameters = Sequence[tuple[np.ndarray, np.ndarray]]
"""For each affine layer the weight (out, in) and the bias (out,)."""

Orders = np.ndarray
"""(epochs, examples) integers: in which order each epoch visits the examples."""


class Learner(Protocol):
    """One network in one framework, which keeps its parameters between the calls."""

    def set_parameters(self, parameters: Parameters) -> None:
        """Take these to train from."""
        ...

    def parameters(self) -> Parameters:
        """Return copies of what it has learned."""
        ...

    def train(self, epochs: int, orders: Orders | None = None) -> np.ndarray:
        """Train, and return when all is computed.

        Args:
            epochs: how many.
            orders: of the examples; by default drawn as the framework's users draw them.

        Returns:
            (epochs,): the mean loss over the examples as each epoch saw them.
        """
        ...


class Peer(NamedTuple):
    """A way to train a network."""

    title: str
    module: str
    """In this package; its `make` takes a network, its data, the peer's options."""
    options: dict[str, bool | int | str]
    install: str
    """The command that installs what the module imports."""

    def make(self, network: Network, data: Data, device: str) -> Learner:
        """Build a learner.

        Raises:
            ModuleNotFoundError: what it needs is not installed.
            UnavailableError: it can't work here.
        """
        module = importlib.import_module(f"experiments.bench.peers.{self.module}")
        return module.make(network, data, device=device, **self.options)


class UnavailableError(Exception):
    """A peer is installed but does not work on this machine; the message says why."""


Name = Literal[
    "torch",
    "torch-compile",
    "torch-graph",
    "optax",
    "scan",
    "flax",
    "flax-cached",
    "equinox",
]

_TORCH = "pip install 'funcnet[torch]'"
_BENCH = "pip install 'funcnet[bench]'"

PEERS: dict[str, Peer] = {
    "torch": Peer("PyTorch eager", "pytorch", {}, _TORCH),
    "torch-compile": Peer("torch.compile", "pytorch", {"mode": "compile"}, _TORCH),
    "torch-graph": Peer("PyTorch, CUDA graph of a step", "pytorch", {"mode": "graph"}, _TORCH),
    "optax": Peer("jax.grad + optax, donated step", "plain_jax", {}, ""),
    "scan": Peer("jax.grad + optax, one scan", "plain_jax_scan", {}, ""),
    "flax": Peer("flax.nnx", "flax_nnx", {}, _BENCH),
    "flax-cached": Peer("flax.nnx.cached_partial", "flax_nnx", {"cached": True}, _BENCH),
    "equinox": Peer("equinox", "equinox_loop", {}, _BENCH),
}


def variants(name: str, seeds: int, device: str) -> dict[str, Peer]:
    """The forms in which a peer is timed, by name: the best of PyTorch's thread counts counts.

    Args:
        name: in `PEERS`.
        seeds: to be trained.
        device: "cpu" or "gpu".
    """
    peer = PEERS[name]
    if name in ("torch", "torch-compile") and device == "cpu":
        return {
            f"{name}-{n}": _with(peer, f"{n} thread{'s' if n > 1 else ''}", threads=n)
            for n in sorted({1, cores()})
        }
    if name == "scan" and seeds > 1:
        return {name: _with(peer, "vmap over seeds", seeds=seeds)}
    return {name: peer}


def _with(peer: Peer, what: str, **options: int) -> Peer:
    return peer._replace(title=f"{peer.title}, {what}", options=peer.options | options)


def batches(
    examples: int, size: int, epochs: int, orders: Orders | None
) -> Iterator[list[np.ndarray]]:
    """The index batches of each epoch, as the users of a JAX library draw them: with NumPy."""
    generator = np.random.default_rng(0)
    for epoch in range(epochs):
        order = generator.permutation(examples) if orders is None else orders[epoch]
        yield [order[i : i + size] for i in range(0, examples, size)]


def train_by_steps(
    step: Callable[[np.ndarray, np.ndarray], object],
    network: Network,
    data: Data,
    epochs: int,
    orders: Orders | None,
) -> np.ndarray:
    """The Python loop that JAX libraries document: a jitted step for each batch.

    The losses are fetched once an epoch, so that steps are dispatched without waiting.

    Args:
        step: trains on (x, y) of one batch and returns the loss, a scalar array.
        network: its batch size is used.
        data: host arrays.
        epochs: how many.
        orders: as for `Learner.train`.

    Returns:
        (epochs,): the mean loss of each.
    """
    history = np.empty(epochs)
    for epoch, rows in enumerate(batches(len(data.x), network.batch_size, epochs, orders)):
        losses = [step(data.x[i], data.y[i]) for i in rows]
        history[epoch] = np.mean([np.asarray(loss) for loss in losses])
    return history
