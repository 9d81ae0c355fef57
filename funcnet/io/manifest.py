"""What a checkpoint says of itself: of which run it is, and the checksums of all that is in it."""

import errno
import functools
import hashlib
import importlib.metadata
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from funcnet._internal.describe import differences
from funcnet.errors import CheckpointError, ConfigError
from funcnet.io.trees import SHOWN

FORMAT = 1
ARRAYS, MANIFEST = "arrays", "manifest.json"
PROGRAM = "program"
"""The entry of `about` that is a checksum of compiled code: other versions compile otherwise."""


class DamageError(Exception):
    """Why a checkpoint can't be believed."""


def versions() -> dict[str, str]:
    """Return what may change the bits of a run: versions, and what computes."""
    found = dict(_installed())
    # The package itself imports this module, and runs from a checkout too.
    found["funcnet"] = sys.modules["funcnet"].__version__
    return {**found, "device": jax.devices()[0].device_kind}


@functools.cache
def _installed() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax")}


def as_json(about: Mapping[str, Any] | None) -> Any:
    """What a run is, as JSON gives it back; ConfigError for what JSON has not."""
    try:
        return json.loads(json.dumps(about or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"about is {about!r}, expected JSON values: {error}") from None


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest with its own checksum, as JSON that people can read."""
    return f"{json.dumps({'sha256': _seal(manifest), **manifest}, indent=1)}\n".encode()


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are what it says."""
    try:
        _require_file(path / MANIFEST)
        manifest = json.loads((path / MANIFEST).read_bytes())
        seal = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamageError(f"{MANIFEST} can't be read ({type(error).__name__}: {error})") from error
    if _seal(manifest) != seal:
        raise DamageError(f"{MANIFEST} does not have the checksum that stands in it")
    if manifest.get("format") != FORMAT:
        raise DamageError(
            f"it has format {manifest.get('format')!r}, and this funcnet reads {FORMAT}"
        )
    try:
        found = checksums_of(path)
    except OSError as error:
        raise DamageError(f"it can't be read: {error}") from error
    changed = sorted({name for name, _ in found.items() ^ manifest["files"].items()})
    if changed:
        raise DamageError(f"missing, surplus or changed: {', '.join(changed[:SHOWN])}")
    return manifest


def checksums_of(path: Path) -> dict[str, str]:
    """The checksum of every file of the arrays, by its name in the checkpoint."""
    files = sorted(file for file in (path / ARRAYS).rglob("*") if not file.is_dir())
    return {file.relative_to(path).as_posix(): _digest(file) for file in files}


def _require_file(path: Path) -> None:
    """Raise OSError for a pipe or a device, whose reader may wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))


def _digest(path: Path) -> str:
    _require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_same_run(
    path: Path,
    manifest: Mapping[str, Any],
    about: Mapping[str, Any] | None,
    outline: Mapping[str, str],
) -> None:
    """Raise CheckpointError unless the checkpoint is of the run described; warn of versions.

    Args:
        path: of the checkpoint.
        manifest: its.
        about: what the run is; None if any will do.
        outline: what its arrays must be.
    """
    stored, here = manifest["about"], versions()
    given = stored if about is None else about
    if manifest["versions"] != here:
        stored, given = ({**run, PROGRAM: None} for run in (stored, given))
    problems = differences(stored, given) or differences(manifest["arrays"], outline)
    if problems:
        rest = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(problems[:SHOWN])}{rest}; continue with what "
            f"it was started with, or choose another folder"
        )
    if manifest["versions"] != here:
        differing = "; ".join(differences(manifest["versions"], here))
        warnings.warn(
            f"{path} was written elsewhere: {differing}; the run goes on, its bits may differ",
            RuntimeWarning,
            stacklevel=3,
        )
