"""What a user feels first: the cold first call, and the peak memory, each in a fresh process."""

import json
import sys
import time
from typing import Any

import jax
from tqdm import tqdm

from experiments.bench.measure import in_fresh_process, own_peak
from experiments.bench.peers import PEERS, UnavailableError
from experiments.bench.workloads import DISK, MNIST, TINY_DISK, TINY_MNIST, Network

NETWORKS = {"disk": DISK, "mnist": MNIST, "tiny-disk": TINY_DISK, "tiny-mnist": TINY_MNIST}


def cold_calls(rounds: int, tiny: bool) -> dict[str, Any]:
    """Measure the first call of a run of D, and the second, in turns.

    The first call initialises, traces, compiles and trains; nothing of an earlier process is used.

    Args:
        rounds: processes for each program.
        tiny: train a little only.

    Returns:
        What bench.json holds: seconds of the first and of the second call for each round.
    """
    network, epochs = ("tiny-disk", 20) if tiny else ("disk", 2000)
    found = {name: {"first": [], "second": []} for name in ("funcnet", "scan")}
    for number in tqdm(range(rounds), desc="cold first call", unit="round", leave=False):
        for name in list(found)[:: -1 if number % 2 else 1]:
            for call, seconds in in_fresh_process("startup", "cold", name, network, epochs).items():
                found[name][call].append(seconds)
    return {"steps": epochs * NETWORKS[network].steps, "programs": found}


def peak_memory(peers: list[str], rounds: int, tiny: bool) -> dict[str, Any]:
    """Measure the largest resident memory of a process that trains M for an epoch.

    Args:
        peers: names in `PEERS`; those that can't be had are left out.
        rounds: processes for each.
        tiny: train a tiny network.

    Returns:
        What bench.json holds: bytes for each round, and of a process that only loads the data.
    """
    network = "tiny-mnist" if tiny else "mnist"
    titles = {"nothing": "the data alone", "funcnet": "funcnet"}
    titles |= {name: PEERS[name].title for name in peers}
    found = {}
    for name, title in tqdm(titles.items(), desc="peak memory", leave=False):
        results = [in_fresh_process("startup", "memory", name, network, 1) for _ in range(rounds)]
        if all("bytes" in result for result in results):
            found[name] = {"title": title, "bytes": [result["bytes"] for result in results]}
    return found


def time_calls(name: str, network: Network, epochs: int) -> dict[str, float]:
    """Seconds of the first and of the second call, for "funcnet" or "scan"."""
    data, trainer = jax.device_put(network.data()), network.trainer()

    def call():
        key = jax.random.key(0)
        if name == "funcnet":
            return trainer.run(trainer.init(key), data, epochs)
        from experiments.bench.peers import plain_jax_scan

        return plain_jax_scan.train_from_key(network, epochs, key, *data)

    seconds = {}
    for which in ("first", "second"):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds[which] = time.perf_counter() - start
    return seconds


def peak_bytes(name: str, network: Network, epochs: int) -> dict[str, float]:
    """The largest resident memory of this process, once it has trained; {} where it can't."""
    data = network.data()
    try:
        if name == "funcnet":
            from experiments.bench.peers.ours import Run

            Run(network, data, jax.random.key(0)).train(epochs)
        elif name != "nothing":
            from experiments.bench.peers.plain_jax import to_numpy
            from experiments.bench.peers.plain_jax_scan import init

            learner = PEERS[name].make(network, data, "cpu")
            learner.set_parameters(to_numpy(init(network, jax.random.key(0))))
            learner.train(epochs)
    except (ModuleNotFoundError, UnavailableError):
        return {}
    return {"bytes": own_peak()}


def main() -> None:
    """Measure in this process what its arguments say; print it as the last line."""
    what, name, network, epochs = sys.argv[1:]
    measured = {"cold": time_calls, "memory": peak_bytes}[what]
    print(json.dumps(measured(name, NETWORKS[network], int(epochs))))
