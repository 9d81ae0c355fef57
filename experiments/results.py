"""A run's folder and the `results.json` in it.

`results.json` is {"config": {...}, "versions": {...}, "runs": [{...}, ...]}; the fields of `Run`
are the keys of a run. Runs by torch.compile, where there are any, stand in a list of their own,
"torch_compile", so that "torch" in "runs" always means eager PyTorch. The file is written
atomically, so that whoever reads it while a run goes on, or after one was killed, finds the last
complete state.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

import funcnet
from funcnet.io.files import write_atomically

FILE_NAME = "results.json"


class ResultsError(OSError):
    """A results folder that can't be used: the user's to mend, not a bug."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one seed's training came to. Accuracies and F1 are fractions in [0, 1]."""

    framework: str
    """"funcnet", "torch" or, in a list of its own, "torch.compile"."""
    loss: str
    """"mse" or "cross_entropy"."""
    seed: int
    accuracy_train: float
    accuracy_test: float
    seconds: float
    """One seed's training, measured alone: this seed's, or that of the first for all of them."""
    compile_seconds: float
    """Before that, not part of `seconds`."""
    f1_train: float | None = None
    """None where F1 means nothing: ten classes. Left out of the file then."""
    f1_test: float | None = None
    model: str | None = None
    """Which network, where an experiment compares several; left out of the file otherwise."""


@dataclasses.dataclass(frozen=True)
class Diverged:
    """A seed that is in no table: its loss or a parameter became infinite or NaN."""

    framework: str
    loss: str
    seed: int
    epoch: int
    """Counted from 0."""


@dataclasses.dataclass(frozen=True)
class Results:
    """The content of `results.json`."""

    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    runs: tuple[Run, ...]


def prepare_out(path: str | os.PathLike[str]) -> Path:
    """Prepare a folder for `write`, and return it.

    It may hold the results of an earlier run, which the next write replaces.

    Raises:
        ResultsError: see `prepare_folder`; or it holds a `results.json` that is no results file
            and must not be overwritten.
    """
    folder = prepare_folder(path)
    if (folder / FILE_NAME).exists():
        read(folder)
    return folder


def prepare_folder(path: str | os.PathLike[str]) -> Path:
    """Make sure, before hours are spent, that a folder can be written to, and return it.

    It is created with its parents. It may hold other files.

    Raises:
        ResultsError: a file is in the way, or the folder can't be created or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions don't tell: root has them all, and the disk may still be read-only or full.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\x00" * 4096)
    except (FileExistsError, NotADirectoryError) as error:
        blocking = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
        raise ResultsError(
            f"--out {folder}: {blocking} is a file, not a folder; choose another folder"
        ) from error
    except OSError as error:
        raise ResultsError(
            f"--out {folder}: cannot be written ({error.strerror}); choose a folder that can"
        ) from error
    return folder


def write(
    folder: Path, config: Mapping[str, Any], runs: Iterable[Run], diverged: Iterable[Diverged] = ()
) -> None:
    """Write `results.json`, replacing the one that is there.

    The config holds JSON values and paths; the runs that diverged are in a list of their own,
    "diverged", if there are any.

    Raises:
        OSError: it can't be written; the old file is unchanged.
        TypeError: `config` holds something that JSON can't.
        ValueError: a number is not finite.
    """
    content: dict[str, Any] = {"config": config, "versions": versions(), "runs": []}
    for run in runs:
        place = "torch_compile" if run.framework == "torch.compile" else "runs"
        content.setdefault(place, []).append(_record(run))
    if left_out := [dataclasses.asdict(seed) for seed in diverged]:
        content["diverged"] = left_out
    text = json.dumps(content, indent=2, allow_nan=False, default=os.fspath)
    write_atomically(folder / FILE_NAME, f"{text}\n".encode())


def read(folder: Path) -> Results:
    """Return what `write` wrote into a folder; ResultsError if that can't be read or is damaged."""
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_bytes())
        runs = [*content["runs"], *content.get("torch_compile", ())]
        return Results(content["config"], content["versions"], _runs(runs))
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsError(
            f"{path}: damaged, or not written by this program "
            f"({type(error).__name__}: {error}); move it away or choose another folder"
        ) from error


def versions() -> dict[str, str | int]:
    """Return what a result may depend on beside the configuration: software and machine."""
    found: dict[str, str | int] = {
        "funcnet": funcnet.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax")},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        "device": jax.devices()[0].device_kind,
    }
    # Asked for only if it took part: importing it takes seconds.
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].__version__
        found["torch_threads"] = sys.modules["torch"].get_num_threads()
    return found


def _record(run: Run) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(run).items() if v is not None}


def _runs(records: Any) -> tuple[Run, ...]:
    runs = tuple(Run(**record) for record in records)
    for run in runs:
        for name, value in _record(run).items():
            expected = str if name in ("framework", "loss", "model") else (int, float)
            if not isinstance(value, expected):
                raise TypeError(f"{name} is {value!r}")
    return runs


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
