"""What the machine can do: its best rate in a large matrix product, on all cores and on one."""

import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from experiments.bench.measure import Candidate, size_for

SIDE = 2048
"""Of the square float32 matrices; 1,024 and 4,096 were no faster."""


def product(seconds: float, side: int = SIDE) -> Candidate:
    """The product as a candidate; a unit is one floating-point operation.

    Args:
        seconds: that one call should take.
        side: of the matrices.
    """
    a, b = jax.random.normal(jax.random.key(0), (2, side, side))
    multiply = jax.jit(jnp.matmul)

    def repeat(times):
        for _ in range(times):
            multiply(a, b).block_until_ready()

    times = size_for(repeat, seconds)
    return Candidate("best large matrix product", lambda: repeat(times), 2 * side**3 * times)


def one_core(rounds: int, side: int = SIDE) -> list[float]:
    """Seconds per floating-point operation on one core, from a process that may use no other."""
    program = f"from experiments.bench import limits; limits.main({rounds}, {side})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main(rounds: int, side: int) -> None:
    """Bind this process to one core before JAX starts its threads; print what `one_core` says."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _, call, operations = product(0.1, side)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - start) / operations)
    print(json.dumps(seconds))
