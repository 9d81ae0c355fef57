"""Timing in turns: every candidate once a round, so that what disturbs the machine disturbs all."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm


class DifferentError(ArithmeticError):
    """A candidate computes something else than funcnet: its time would mean nothing."""


class Candidate(NamedTuple):
    """What is timed."""

    title: str
    call: Callable[[], object]
    """Does the work and returns when it is done."""
    units: float
    """Of work in one call: its times are divided by this."""


def interleave(candidates: dict[str, Candidate], rounds: int, what: str) -> dict[str, list[float]]:
    """Time every candidate once a round, in an order that is reversed every other round.

    Args:
        candidates: by name, warmed up.
        rounds: how many.
        what: shown with the progress.

    Returns:
        Seconds per unit for each round, by name.
    """
    seconds = {name: [] for name in candidates}
    for number in tqdm(range(rounds), desc=what, unit="round", leave=False):
        for name in list(candidates)[:: -1 if number % 2 else 1]:
            _, call, units = candidates[name]
            start = time.perf_counter()
            call()
            seconds[name].append((time.perf_counter() - start) / units)
    return seconds


def size_for(run: Callable[[int], object], seconds: float) -> int:
    """Return the size for which run(size) takes about `seconds`, at least 1; it is warmed up.

    Args:
        run: work whose time grows with its size, and which may compile for each size.
        seconds: how long it should take.
    """
    size = 1
    while True:
        run(size)
        elapsed = min(_time(run, size), _time(run, size))  # one of them may be disturbed
        if elapsed >= seconds / 20:
            break
        size *= 20
    fitting = max(1, round(size * seconds / elapsed))
    if fitting != size:
        run(fitting)
    return fitting


def in_fresh_process(module: str, *arguments: Any) -> Any:
    """What `main` of a module of this package prints as JSON, in a process of its own.

    Args:
        module: its name.
        arguments: what it finds in `sys.argv`.
    """
    program = f"from experiments.bench import {module}; {module}.main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def own_peak() -> int:
    """The largest resident memory of this process, bytes.

    Linux's ru_maxrss also counts the process that this one was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _time(run, size):
    start = time.perf_counter()
    run(size)
    return time.perf_counter() - start
