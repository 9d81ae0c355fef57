"""Training in funcnet and in its peers: first that all compute the same, then how fast."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.bench import limits
from experiments.bench.measure import Candidate, DifferentError, interleave, size_for
from experiments.bench.peers import PEERS, Learner, UnavailableError, variants
from experiments.bench.peers.ours import Run, Seeds
from experiments.bench.workloads import Data, Network, Workload

# Seconds of one timing. A program that trains many seeds initialises them too, which is not to
# weigh: a real run is longer.
ALONE, TOGETHER = 0.4, 2.0

CHECKED_BATCHES, CHECKED_EPOCHS, CHECKED_SEEDS = 4, 3, 2
# Sums in another order differ by about 1e-6; another step size, loss or gradient by far more.
TOLERANCE = 2e-5


class Entrant(NamedTuple):
    """A way to train, checked."""

    title: str
    peer: str
    """Its name in `PEERS`, or "funcnet" or "funcnet-vectorized"."""
    train: Callable[[int], Any]
    """Trains for so many epochs and waits."""
    seeds: int
    """Trained by one call."""


def measure(
    workload: Workload, peers: Iterable[str], rounds: int, device: str, hurry: float
) -> dict[str, Any]:
    """Check and time one workload.

    Args:
        workload: what to train.
        peers: names in `PEERS`.
        rounds: how often each is timed.
        device: "cpu" or "gpu".
        hurry: every timing is made shorter by this factor.

    Returns:
        What bench.json holds of a workload: seconds of each round per step and seed.

    Raises:
        DifferentError: a candidate does not do the same work.
    """
    network = workload.network
    data, keys = network.data(), jax.random.split(jax.random.key(0), workload.seeds)
    theirs, left_out = peer_entrants(workload, data, peers, keys[0], device)
    entrants = our_entrants(workload, data, keys) | theirs

    candidates = {}
    for name, (title, _, train, seeds) in entrants.items():
        epochs = size_for(train, (ALONE if seeds == 1 else TOGETHER) / hurry)
        candidates[name] = Candidate(
            title, lambda train=train, epochs=epochs: train(epochs), epochs * network.steps * seeds
        )
    # The limit, in the same rounds. Its unit is a floating-point operation.
    candidates["product"] = limits.product(ALONE / hurry)
    seconds = interleave(candidates, rounds, workload.title)
    return {
        "title": workload.title,
        "seeds": workload.seeds,
        "flops": network.flops,
        "product": seconds.pop("product"),
        "entrants": {
            name: {
                "title": entrants[name].title,
                "peer": entrants[name].peer,
                "seconds": values,
            }
            for name, values in seconds.items()
        },
        "left_out": left_out,
    }


def our_entrants(workload: Workload, data: Data, keys: jax.Array) -> dict[str, Entrant]:
    """Funcnet's one run, or its two ways with many seeds."""
    network = workload.network
    if workload.seeds == 1:
        run = Run(network, data, keys[0])
        return {"funcnet": Entrant("funcnet, Trainer.run", "funcnet", run.train, 1)}
    found = {}
    for name, title, vectorized in (
        ("funcnet", "funcnet, map_seeds", False),
        ("funcnet-vectorized", "funcnet, map_seeds, vectorized", True),
    ):
        require_same_seeds(title, network, first_batches(network, data), keys, vectorized)
        train = Seeds(network, data, keys, vectorized).train
        found[name] = Entrant(title, name, train, workload.seeds)
    return found


def peer_entrants(
    workload: Workload, data: Data, names: Iterable[str], key: jax.Array, device: str
) -> tuple[dict[str, Entrant], list[str]]:
    """The peers that can be had, each checked; and a sentence for each that can't.

    One that trains seeds one after another takes as long for each as for one, so it trains one.
    """
    network, found, left_out = workload.network, {}, []
    reference = Reference(network, first_batches(network, data), key)
    for name in names:
        try:
            for variant, peer in variants(name, workload.seeds, device).items():
                checked = peer.make(network, reference.data, device)
                reference.require_same(peer.title, checked)
                learner = peer.make(network, data, device)
                learner.set_parameters(reference.start)
                seeds = peer.options.get("seeds", 1)
                found[variant] = Entrant(peer.title, name, learner.train, int(seeds))
        except ModuleNotFoundError as error:
            left_out.append(f"{PEERS[name].title}: {error.name} is missing, {PEERS[name].install}")
        except UnavailableError as error:
            left_out.append(f"{PEERS[name].title}: {error}")
    return found, left_out


def first_batches(network: Network, data: Data) -> Data:
    """The little that checks are done with."""
    rows = CHECKED_BATCHES * network.batch_size
    return Data(data.x[:rows], data.y[:rows])


class Reference:
    """What funcnet makes of a start and of its orders, for others to agree with."""

    def __init__(self, network: Network, data: Data, key: jax.Array):
        run = Run(network, data, key)
        self.data = data
        self.start = run.parameters()
        self._orders = run.orders(CHECKED_EPOCHS)
        self._losses = run.train(CHECKED_EPOCHS)
        self._parameters = run.parameters()

    def require_same(self, title: str, learner: Learner) -> None:
        """Raise DifferentError unless it gets the same losses and the same parameters."""
        learner.set_parameters(self.start)
        losses = learner.train(CHECKED_EPOCHS, self._orders)
        require_close(title, "loss", losses, self._losses)
        for layer, (got, expected) in enumerate(
            zip(learner.parameters(), self._parameters, strict=True)
        ):
            for part, theirs, ours in zip(("weight", "bias"), got, expected, strict=True):
                require_close(title, f"{part} of layer {layer}", theirs, ours)


def require_same_seeds(
    title: str, network: Network, data: Data, keys: jax.Array, vectorized: bool
) -> None:
    """Raise DifferentError unless many seeds are what single runs are: bit by bit, or nearly."""
    together = Seeds(network, data, keys[:CHECKED_SEEDS], vectorized).train(CHECKED_EPOCHS)
    for seed, losses in enumerate(together):
        alone = Run(network, data, keys[seed]).train(CHECKED_EPOCHS)
        if vectorized:
            require_close(title, f"loss of seed {seed}", losses, alone)
        elif not np.array_equal(losses, alone):
            raise DifferentError(f"{title}: seed {seed} has other bits than when run alone")


def require_close(title: str, what: str, got: Any, expected: Any) -> None:
    """Raise DifferentError unless they agree to the precision of float32."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        raise DifferentError(
            f"{title}: its {what} has shape {got.shape}, funcnet's {expected.shape}"
        )
    error = np.abs(got - expected).max() / np.abs(expected).max()
    if not error <= TOLERANCE:  # NaN fails too
        raise DifferentError(
            f"{title}: after {CHECKED_EPOCHS * CHECKED_BATCHES} steps from the same start its "
            f"{what} differs from funcnet's by {error:.1e} of the largest, more than "
            f"{TOLERANCE:.0e}; it does not compute the same"
        )
