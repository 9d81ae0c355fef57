"""What the machine can do: its best rate in a large matrix product, on all cores and on one."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp

from experiments.bench.measure import Candidate, interleave, size_for
from experiments.results import cores

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
    return _repeated(lambda: multiply(a, b).block_until_ready(), seconds, side)


def torch_product(rounds: int, side: int = SIDE) -> list[float] | None:
    """Seconds per operation of PyTorch's product on the CPU, all cores; None without PyTorch.

    Networks of large layers are as fast as the product that a framework brings.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return None
    torch.set_num_threads(cores())
    a, b = torch.rand(2, side, side)
    return _rounds(_repeated(lambda: a @ b, 0.1, side), rounds)


def _repeated(multiply, seconds, side):
    def repeat(times):
        for _ in range(times):
            multiply()

    times = size_for(repeat, seconds)
    return Candidate("large matrix product", lambda: repeat(times), 2 * side**3 * times)


def _rounds(candidate, rounds):
    return interleave({"product": candidate}, rounds, candidate.title)["product"]


def one_core(rounds: int, side: int = SIDE) -> list[float]:
    """Seconds per floating-point operation on one core, from a process that may use no other."""
    program = f"from experiments.bench import limits; limits.main({rounds}, {side})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def main(rounds: int, side: int) -> None:
    """Bind this process to one core before JAX starts its threads; print what `one_core` says."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(json.dumps(_rounds(product(0.1, side), rounds)))
