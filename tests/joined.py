"""Several real processes on this machine, joined by jax.distributed: for tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
JOIN = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def run_joined(script: str, *arguments: str, processes: int = 2) -> list[str]:
    """Run a script in processes that have joined; what each has printed.

    The script finds its arguments from sys.argv[4] on.

    Raises:
        AssertionError: one of them has failed, with what it said.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN + script, coordinator, str(processes), str(i), *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        said = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, said, strict=True):
        assert rank.returncode == 0, errors
    return [_without_gloo(output) for output, _ in said]


def _without_gloo(output: str) -> str:
    """Without the lines of XLA's transport."""
    lines = output.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("[Gloo]"))
