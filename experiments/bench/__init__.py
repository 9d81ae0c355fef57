"""How fast funcnet trains, beside what people would use instead and what the machine can do.

Every candidate must first compute the same as funcnet. Then all are timed in turns, and their times
compared within each round. Writes bench.json, after every part, and from it benchmark.md and
benchmark.png into the folder --out. Peers that are not installed are left out with a sentence.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

import jax

from experiments import results
from experiments.bench import backward, checker, limits, report, sequences, startup, training
from experiments.bench.peers import Name
from experiments.bench.workloads import (
    DISK,
    MNIST,
    TINY_DISK,
    TINY_MNIST,
    TINY_WIDE,
    WIDE,
    every_workload,
)
from funcnet.errors import ConfigError
from funcnet.io.files import write_atomically

FILE_NAME = "bench.json"
# How much shorter --tiny makes every timing.
HURRY = 10_000
# Memory hardly varies, and each process takes seconds.
MEMORY_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    workloads: tuple[str, ...] = ()
    """Which parts to measure: disk-1, disk-10, disk-100, mnist-1, mnist-10, wide, backward, cold,
    memory, checker, sequences. By default all."""
    peers: tuple[Name, ...] = get_args(Name)
    """Whom to measure beside funcnet."""
    rounds: int = 9
    """How often each is timed."""
    tiny: bool = False
    """Small networks and short timings: whether it works, not how fast it is."""
    gpu: bool = False
    """On a GPU: the disk and MNIST networks with 1, 10, 100 and 1,000 seeds."""
    render: Path | None = None
    """Measure nothing; write the page and the figure of this bench.json into --out."""
    out: Path = Path("runs/bench")
    """Folder for what is written; created if missing."""

    def __post_init__(self):
        if self.rounds < 1:
            raise ConfigError(f"--rounds is {self.rounds}, expected at least 1")
        known = parts(self)
        for name in self.workloads:
            if name not in known:
                raise ConfigError(f"--workloads: {name!r} is none of {', '.join(known)}")


def main(config: Config) -> None:
    """Measure what is asked for and write it, part by part."""
    from experiments import figures  # needs matplotlib: said before anything is measured

    out = results.prepare_out(config.out)
    if config.render is not None:
        write_page(figures, read(config.render), out)
        print(f"written to {out}: benchmark.md, benchmark.png")
        return
    if config.gpu and jax.default_backend() != "gpu" and not config.tiny:
        print(
            "JAX finds no GPU, so nothing was measured: pip install 'jax[cuda12]', or --tiny to "
            "try the command on the CPU"
        )
        return
    bench = {
        "command": command(config),
        "config": dataclasses.asdict(config),
        "versions": versions(),
        "load": load(),
        "workloads": {},
    }
    for reason in report.disturbances(bench):
        print(f"{reason}: these timings will not be trustworthy", file=sys.stderr)
    # PyTorch multiplies float32 as float32; on a GPU, JAX would round the factors first.
    precision = jax.default_matmul_precision("highest") if config.gpu else contextlib.nullcontext()
    with precision:
        for name in config.workloads or parts(config):
            add_part(name, config, bench)
            bench["versions"] = versions()
            text = json.dumps(bench, indent=1, allow_nan=False, default=os.fspath)
            write_atomically(out / FILE_NAME, f"{text}\n".encode())
    write_page(figures, bench, out)
    print((out / "benchmark.md").read_text())
    print(f"written to {out}: {FILE_NAME}, benchmark.md, benchmark.png")


def load() -> float | None:
    """How many processes wanted to run in the last minute; None where the system can't tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def parts(config: Config) -> list[str]:
    """What can be measured with these options."""
    alone = [] if config.gpu else ["backward", "cold", "memory", "checker", "sequences"]
    return [*every_workload(config.tiny, config.gpu), *alone]


def add_part(name: str, config: Config, bench: dict[str, Any]) -> None:
    """Measure one part and add it to `bench`."""
    hurry, rounds = HURRY if config.tiny else 1, config.rounds
    every = [TINY_DISK, TINY_MNIST, TINY_WIDE] if config.tiny else [DISK, MNIST, WIDE]
    # A graph of a step can be had on a GPU only: on a CPU there is nothing to leave out.
    names = [peer for peer in config.peers if config.gpu or peer != "torch-graph"]
    if name == "backward":
        bench["backward"] = backward.measure(every[:2], rounds, hurry)
        bench["networks"] = backward.networks_bytes(every)
    elif name == "cold":
        bench["cold"] = startup.cold_calls(rounds, config.tiny)
    elif name == "checker":
        bench["checker"] = checker.measure(config.tiny)
    elif name == "sequences":
        bench["sequences"] = sequences.measure(rounds, config.tiny)
    elif name == "memory":
        bench["memory"] = startup.peak_memory(names, min(rounds, MEMORY_ROUNDS), config.tiny)
    else:
        if "one_core" not in bench and not config.gpu:
            bench["one_core"] = limits.one_core(rounds)
        workload = every_workload(config.tiny, config.gpu)[name]
        device = jax.default_backend()
        found = training.measure(workload, names, rounds, device, hurry)
        bench["workloads"][name] = found


def write_page(figures: Any, bench: report.Bench, out: Path) -> None:
    """Write benchmark.md and, if any training was timed, benchmark.png."""
    write_atomically(out / "benchmark.md", report.page(bench, "benchmark.png").encode())
    if panels := report.panels(bench):
        from experiments.bench.figure import relative

        shown = {label for panel in panels.values() for label in panel}
        labels = [label for label in report.FAMILIES.values() if label in shown]
        figures.save(relative(panels, labels, "time of a step"), out / "benchmark.png")


def read(path: Path) -> dict[str, Any]:
    """Return the content of a bench.json.

    Raises:
        ResultsError: it can't be read, or is something else.
    """
    try:
        content = json.loads(path.read_bytes())
        report.page(content, "")
    except OSError as error:
        raise results.ResultsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise results.ResultsError(
            f"{path}: damaged, or not written by this program ({type(error).__name__}: {error})"
        ) from error
    return content


def versions() -> dict[str, str | int]:
    """The software and the machine, the peers that are installed included."""
    found = results.versions()
    for name in ("torch", "flax", "equinox"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def command(config: Config) -> str:
    """The command with these options, where they change what is measured and are no defaults."""
    words = ["python -m experiments bench"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in ("out", "render") and value != field.default:
            words.append(f"--{field.name}")
            values = value if isinstance(value, tuple) else (value,)
            words += [str(v) for v in values if v is not True]
    return " ".join(words)
