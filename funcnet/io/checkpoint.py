"""Checkpoints: a run that was killed goes on from the last one, and ends with the same bits.

A folder of checkpoints holds one folder a checkpoint, named by its step, with the last few kept:

    00000040/
    00000050/
        arrays/          the arrays, as Orbax writes them: any tool that reads Orbax reads them
        manifest.json    what they are, of which run, and the checksums of all of it

A checkpoint is written under another name, forced to the disk (the data by Orbax) and renamed: one
that has its name is whole. Disks fail all the same, and power does, so that nothing is believed
before its checksum was compared: of the manifest, of each file, and of each array after it was
read. A damaged checkpoint is passed over with a warning, and the one before it is used.

Keys are stored as their data under their implementation's name. Nothing is unpickled and no name in
a checkpoint is imported, so a checkpoint from elsewhere can be wrong, but it can't execute code.

Orbax comes with the extra `checkpoint`, and is imported when a checkpoint is written or read.
"""

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import secrets
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal.checks import require_int, require_positive_int
from funcnet.errors import CheckpointError, ConfigError, DtypeError
from funcnet.io.files import sync, write_atomically

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

FORMAT = 1
PROGRAM = "program"
"""The entry of `about` that is a checksum of compiled code: other versions compile otherwise."""

_ARRAYS, _MANIFEST, _UNFINISHED, _LOCK = "arrays", "manifest.json", ".tmp", ".lock"
_SHOWN = 10  # differences in a message


class Saved(NamedTuple):
    """What `restore` found.

    Attributes:
        step: of the checkpoint.
        tree: what was saved.
    """

    step: int
    tree: Any


def save(
    folder: str | os.PathLike[str],
    step: int,
    tree: Any,
    *,
    about: Mapping[str, Any] | None = None,
    keep: int = 3,
) -> None:
    """Write a checkpoint, then remove the oldest: whole or not at all.

    One process at a time: where another may save in the same folder, hold `locked(folder)`.

    Args:
        folder: of the run's checkpoints; created if missing.
        step: how far the run is; at least 0. A checkpoint of the same step is replaced.
        tree: a pytree of arrays, typed keys included.
        about: what the run is, as JSON values: `restore` compares them. Under "program", a checksum
            of compiled code.
        keep: how many checkpoints to leave, this one and the newest others; at least 1.

    Raises:
        OSError: the folder can't be written, or the disk is full. What was there is unchanged.
        DtypeError: a leaf is no array.
        ConfigError: `step` or `keep` is no such number, or `about` is not made of JSON values.
        ModuleNotFoundError: Orbax is not installed.
    """
    folder = Path(folder).absolute()
    if require_int("step", step) < 0:
        raise ConfigError(f"step is {step}, expected at least 0")
    keep = require_positive_int("keep", keep)
    orbax = require_orbax()
    outline = _outline(tree)
    arrays = {name: _to_host(leaf) for name, leaf in _named(tree).items()}
    manifest = {
        "format": FORMAT,
        "step": step,
        "about": _as_json(about),
        "versions": versions(),
        "arrays": outline,
        "checksums": {name: _sha256(array) for name, array in arrays.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    with _named_when_whole(folder / _name(step)) as unfinished:
        _write_arrays(orbax, unfinished / _ARRAYS, arrays)
        manifest["files"] = {name: _digest(path) for name, path in _files(unfinished).items()}
        write_atomically(unfinished / _MANIFEST, _sealed(manifest))
    others = [other for other in steps(folder) if other != step]
    for old in others[: max(len(others) - keep + 1, 0)]:
        _remove(folder / _name(old))


def restore(
    folder: str | os.PathLike[str], like: Any, *, about: Mapping[str, Any] | None = None
) -> Saved | None:
    """Read the newest checkpoint that is whole.

    Args:
        folder: of the run's checkpoints.
        like: what it must look like: a tree of the same structure, shapes and dtypes, or a function
            of the step that returns one. `jax.ShapeDtypeStruct` leaves will do.
        about: what the run is. Where the checkpoint was written by other versions, "program" is
            not compared, and a warning says that the bits may differ.

    Returns:
        The step and the tree, in JAX arrays where `like` has none of NumPy's; None if there is no
        checkpoint.

    Raises:
        CheckpointError: the checkpoint is of another run, with the differences; or there are
            checkpoints and none is whole.
        OSError: the folder can't be read.
        ConfigError: `about` is not made of JSON values.
        ModuleNotFoundError: Orbax is not installed.
    """
    folder, expected = Path(folder).absolute(), _as_json(about)
    orbax = require_orbax()
    damages = []
    for step in reversed(steps(folder)):
        path = folder / _name(step)
        wanted = like(step) if callable(like) else like
        try:
            manifest = _read_manifest(path)
            _require_same_run(path, manifest, expected, _outline(wanted))
            tree = _read_arrays(orbax, path, manifest["checksums"], wanted)
        except _DamageError as damage:
            damages.append(f"{path}: {damage}")
            continue
        for damage in damages:
            _warn(f"{damage}; the checkpoint of step {step} is used, the last one that is whole")
        return Saved(step, tree)
    if damages:
        raise CheckpointError(
            f"no checkpoint is whole: {'; '.join(damages)}; put a copy in their place, or remove "
            f"{folder} to start anew"
        )
    return None


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """Return the steps of the checkpoints in a folder, whole or damaged, the oldest first.

    Raises:
        OSError: the folder can't be read; none at all is no error.
    """
    folder = Path(folder)
    if not folder.exists():
        return []
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal() and _name(int(name)) == name)


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep every other process, and this one's other threads, out of a folder of checkpoints.

    The system takes the lock back when the process ends, however it ends; the file `.lock` stays,
    and means nothing. Where nothing can be locked, as on some network file systems, a warning says
    so and the block runs.

    Args:
        folder: of the run's checkpoints; created if missing.

    Raises:
        CheckpointError: another one holds it.
        OSError: the folder can't be written.
    """
    path = Path(folder).absolute() / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            _lock(file)
        except BlockingIOError:
            raise CheckpointError(
                f"{path.parent} is in use by {_holder(path)}; wait until it has ended, stop it, or "
                f"choose another folder"
            ) from None
        except OSError as error:
            _warn(
                f"{path.parent} can't be locked ({error.strerror}): see to it that no other "
                f"process saves there"
            )
        with contextlib.suppress(OSError):  # who holds it is for people only
            file.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield


def _lock(file: Any) -> None:
    """Take the system's lock on a file; BlockingIOError if somebody has it."""
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no flock")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text().strip() or "another run"
    return "another run"


def versions() -> dict[str, str]:
    """Return what may change the bits of a run: versions, and what computes."""
    found = dict(_installed())
    # The package itself imports this module, and runs from a checkout too.
    found["funcnet"] = sys.modules["funcnet"].__version__
    return {**found, "device": jax.devices()[0].device_kind}


@functools.cache
def _installed() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax")}


def fingerprint(array: Any) -> dict[str, str]:
    """Return what an array is: its dtype and shape, and a checksum of its bytes."""
    return {"array": _outline(array)[""], "sha256": _sha256(_to_host(array))}


def require_orbax() -> Any:
    """Return Orbax.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the extra.
    """
    try:
        import orbax.checkpoint as orbax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"checkpoints need Orbax ({error}): pip install 'funcnet[checkpoint]'"
        ) from error
    return orbax


class _DamageError(Exception):
    """Why a checkpoint can't be believed."""


def _checkpointer(orbax: Any) -> Any:
    # Trained numbers hardly shrink, and compressing them takes a sixth of a save's time.
    return orbax.Checkpointer(orbax.PyTreeCheckpointHandler(use_compression=False))


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by the path to them, in Python's notation: no two have the same."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")


def _outline(tree: Any) -> dict[str, str]:
    """What the leaves are, such as "float32[3, 2]"; a key's dtype names its implementation."""
    outline = {}
    for name, leaf in _named(tree).items():
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
            raise DtypeError(
                f"{name or 'tree'} is {type(leaf).__name__}, expected an array; use jnp.asarray"
            )
        outline[name] = f"{leaf.dtype}{list(leaf.shape)}"
    return outline


def _sha256(array: np.ndarray) -> str:
    # A view, not a copy, and of bytes: foreign dtypes such as bfloat16 lend no buffer.
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _as_json(about: Mapping[str, Any] | None) -> Any:
    try:
        return json.loads(json.dumps(about or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"about is {about!r}, expected JSON values: {error}") from None


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest with its own checksum, as JSON that people can read."""
    return f"{json.dumps({'sha256': _seal(manifest), **manifest}, indent=1)}\n".encode()


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are what it says."""
    try:
        _require_file(path / _MANIFEST)
        manifest = json.loads((path / _MANIFEST).read_bytes())
        seal = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _DamageError(
            f"{_MANIFEST} can't be read ({type(error).__name__}: {error})"
        ) from error
    if _seal(manifest) != seal:
        raise _DamageError(f"{_MANIFEST} does not have the checksum that stands in it")
    if manifest.get("format") != FORMAT:
        raise _DamageError(
            f"it has format {manifest.get('format')!r}, and this funcnet reads {FORMAT}"
        )
    try:
        found = {name: _digest(file) for name, file in _files(path).items()}
    except OSError as error:
        raise _DamageError(f"it can't be read: {error}") from error
    changed = sorted({name for name, _ in found.items() ^ manifest["files"].items()})
    if changed:
        raise _DamageError(f"missing, surplus or changed: {', '.join(changed[:_SHOWN])}")
    return manifest


def _files(path: Path) -> dict[str, Path]:
    """Every file of the arrays by its name in the checkpoint."""
    files = sorted(file for file in (path / _ARRAYS).rglob("*") if not file.is_dir())
    return {file.relative_to(path).as_posix(): file for file in files}


def _require_file(path: Path) -> None:
    """Raise OSError for a pipe or a device, whose reader may wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))


def _digest(path: Path) -> str:
    _require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_arrays(orbax: Any, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # Orbax refuses arrays without elements: the outline says all there is to know of them.
    filled = {name: array for name, array in arrays.items() if array.size}
    try:
        _checkpointer(orbax).save(path, filled)
    except OSError:
        raise
    except Exception as error:  # a full disk is a ValueError of tensorstore's
        raise OSError(f"{path.parents[1]}: cannot write a checkpoint: {error}") from error


def _read_arrays(orbax: Any, path: Path, checksums: Mapping[str, str], like: Any) -> Any:
    """A tree like `like` with the arrays of a checkpoint."""
    data = {name: _data_of(leaf) for name, leaf in _named(like).items()}
    args = {
        name: orbax.RestoreArgs(restore_type=np.ndarray)
        for name, array in data.items()
        if array.size
    }
    try:
        arrays = _checkpointer(orbax).restore(
            path / _ARRAYS, args=orbax.args.PyTreeRestore(restore_args=args)
        )
    except Exception as error:  # whatever Orbax raises on files that it did not write
        raise _DamageError(f"Orbax can't read it ({type(error).__name__}: {error})") from error
    leaves = []
    for (name, leaf), expected in zip(_named(like).items(), data.values(), strict=True):
        array = arrays[name] if expected.size else np.zeros(expected.shape, expected.dtype)
        if _sha256(array) != checksums[name]:
            raise _DamageError(f"{name} does not have the checksum that it was saved with")
        leaves.append(_placed(array.reshape(expected.shape), leaf))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _data_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """What a leaf is stored as: a key as its data."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _placed(array: np.ndarray, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return array
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=like.dtype)
    return jnp.array(array)  # a copy: a buffer that numpy owns can't be donated


def _require_same_run(
    path: Path, manifest: Mapping[str, Any], about: Mapping[str, Any], outline: Mapping[str, str]
) -> None:
    """Raise CheckpointError unless the checkpoint is of the run described; warn of versions."""
    stored, here = manifest["about"], versions()
    if manifest["versions"] != here:
        stored, about = ({**given, PROGRAM: None} for given in (stored, about))
    problems = _differences(stored, about) or _differences(manifest["arrays"], outline)
    if problems:
        rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(problems[:_SHOWN])}{rest}; continue with what "
            f"it was started with, or choose another folder"
        )
    if manifest["versions"] != here:
        differing = "; ".join(_differences(manifest["versions"], here))
        _warn(f"{path} was written elsewhere: {differing}; the run goes on, its bits may differ")


def _differences(stored: Any, given: Any, place: str = "") -> list[str]:
    """Where two JSON values differ, a sentence each."""
    if isinstance(stored, dict) and isinstance(given, dict):
        pairs = {key: (stored.get(key), given.get(key)) for key in {**stored, **given}}
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        pairs = {str(i): pair for i, pair in enumerate(zip(stored, given, strict=True))}
    else:
        return [] if stored == given else [f"{place} was {stored!r} and is now {given!r}"]
    found = (_differences(*pair, f"{place}.{key}" if place else key) for key, pair in pairs.items())
    return [difference for differences in found for difference in differences]


def _name(step: int) -> str:
    return f"{step:08d}"


@contextlib.contextmanager
def _named_when_whole(path: Path) -> Iterator[Path]:
    """A new folder that gets the name `path` when the block has ended well, or is removed."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        unfinished.mkdir()
        yield unfinished
        sync(unfinished)
        if path.exists():  # a folder can't be renamed over another
            _remove(path)
        unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(path.parent)


def _remove(path: Path) -> None:
    """Take the name away first: half a checkpoint must not have one."""
    nameless = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")
    path.rename(nameless)
    shutil.rmtree(nameless, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    """Clear away what a killed process was writing."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        shutil.rmtree(path, ignore_errors=True)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
