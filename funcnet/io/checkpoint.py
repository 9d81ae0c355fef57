"""Checkpoints: a run that was killed goes on from the last one, and ends with the same bits.

A folder of checkpoints holds one folder a checkpoint, named by its step, with the last few kept:

    00000040/
    00000050/
        arrays/          the arrays, as Orbax writes them: any tool that reads Orbax reads them
        manifest.json    what they are, of which run, and the checksums of all of it

A checkpoint is written under another name, forced to the disk (the data by Orbax) and renamed: one
that has its name is whole. Orbax's CheckpointManager, which names and removes checkpoints too, does
not promise that: it writes three files of each when nobody can compute their checksums any more,
can't replace a step, removes a checkpoint file by file under its name, and leaves what a failed
save has begun.

Disks fail all the same, and power does, so that nothing is believed before its checksum was
compared: of the manifest, of each file, and of each array after it was read. A damaged checkpoint
is passed over with a warning, and the one before it is used.

Keys are stored as their data under their implementation's name. Nothing is unpickled and no name in
a checkpoint is imported, so a checkpoint from elsewhere can be wrong, but it can't execute code.

Orbax comes with the extra `checkpoint`, and is imported when a checkpoint is written or read.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import warnings
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal.checks import require_int, require_positive_int
from funcnet.errors import CheckpointError, ConfigError, DtypeError
from funcnet.io.files import sync, write_atomically
from funcnet.io.kinds import kind_of
from funcnet.io.lock import locked
from funcnet.io.manifest import (
    ARRAYS,
    FORMAT,
    MANIFEST,
    PROGRAM,
    DamageError,
    as_json,
    checksums_of,
    read_manifest,
    require_same_run,
    sealed,
    versions,
)

__all__ = [
    "PROGRAM",
    "Saved",
    "fingerprint",
    "locked",
    "require_orbax",
    "restore",
    "save",
    "steps",
    "versions",
]

_UNFINISHED = ".tmp"


class _StepAndTree(NamedTuple):
    step: int
    tree: Any


class Saved(_StepAndTree):
    """What `restore` found; unpacks into the first two.

    Attributes:
        step: of the checkpoint.
        tree: what was saved.
        about: what the run is, as it was given to `save`; {} if nothing was.
    """

    about: dict[str, Any]

    def __new__(cls, step: int, tree: Any, about: dict[str, Any] | None = None) -> "Saved":
        """A pair with one thing more to say."""
        saved = super().__new__(cls, step, tree)
        saved.about = about or {}
        return saved


def save(
    folder: str | os.PathLike[str],
    step: int,
    tree: Any,
    *,
    about: Mapping[str, Any] | None = None,
    keep: int = 3,
) -> None:
    """Write a checkpoint, then remove the oldest: whole or not at all.

    One process at a time: where another may save in the same folder, hold `locked(folder)`. Of
    processes joined by `jax.distributed`, number 0 writes: `if jax.process_index() == 0`; each of
    them may restore.

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
        ConfigError: `step` or `keep` is no such number, or `about` is not made of JSON values; or
            this is not process 0, or an array is spread over several processes.
        ModuleNotFoundError: Orbax is not installed.
    """
    folder = Path(folder).absolute()
    require_writer()
    if require_int("step", step) < 0:
        raise ConfigError(f"step is {step}, expected at least 0")
    keep = require_positive_int("keep", keep)
    orbax = require_orbax()
    outline = _outline(tree)
    arrays = {name: _to_host(leaf) for name, leaf in _named(tree).items()}
    manifest = {
        "format": FORMAT,
        "step": step,
        "about": as_json(about),
        "versions": versions(),
        "arrays": outline,
        "checksums": {name: _sha256(array) for name, array in arrays.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    with _named_when_whole(folder / _name(step)) as unfinished:
        _write_arrays(orbax, unfinished / ARRAYS, arrays)
        manifest["files"] = checksums_of(unfinished)
        write_atomically(unfinished / MANIFEST, sealed(manifest))
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
        about: what the run is, to be compared with what was saved; None to compare nothing. Where
            the checkpoint was written by other versions, "program" is not compared, and a warning
            says that the bits may differ.

    Returns:
        The step and the tree, in JAX arrays where `like` has none of NumPy's, and as `.about` what
        was saved; None if there is no checkpoint.

    Raises:
        CheckpointError: the checkpoint is of another run, with the differences; or there are
            checkpoints and none is whole; or `folder` is itself one checkpoint of a run.
        OSError: the folder can't be read, or is a file.
        ConfigError: `about` is not made of JSON values.
        ModuleNotFoundError: Orbax is not installed.
    """
    folder = Path(folder).absolute()
    _require_folder(folder)
    expected = None if about is None else as_json(about)
    orbax = require_orbax()
    damages: list[str] = []
    for step in reversed(steps(folder)):
        path = folder / _name(step)
        wanted = like(step) if callable(like) else like
        try:
            manifest = read_manifest(path)
            require_same_run(path, manifest, expected, _outline(wanted))
            tree = _read_arrays(orbax, path, manifest["checksums"], wanted)
        except DamageError as damage:
            damages.append(f"{path}: {damage}")
            continue
        for damage in damages:
            _warn(f"{damage}; the checkpoint of step {step} is used, the last one that is whole")
        return Saved(step, tree, manifest["about"])
    if damages:
        raise CheckpointError(
            f"no checkpoint is whole: {'; '.join(damages)}; put a copy in their place, or remove "
            f"{folder} to start anew"
        )
    return None


def _require_folder(folder: Path) -> None:
    """Raise for a file, and for one checkpoint in the place of the folder that holds it."""
    if folder.is_file():
        kind = kind_of(folder.read_bytes())
        fix = f"it is {kind}" if kind else "parameters in a file are read by fn.load(path, like)"
        raise NotADirectoryError(f"{folder} is a file, expected a folder of checkpoints; {fix}")
    if (folder / MANIFEST).exists():
        raise CheckpointError(
            f"{folder} is one checkpoint, expected the folder of its run: {folder.parent}"
        )


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


def fingerprint(array: Any) -> dict[str, str]:
    """Return what an array is: its dtype and shape, and a checksum of its bytes."""
    return {"array": _outline(array)[""], "sha256": _sha256(_to_host(array))}


def require_writer() -> None:
    """Raise ConfigError unless this process may write: Orbax has the others write nothing.

    Raises:
        ConfigError: it is not the first of several that `jax.distributed` has joined.
    """
    if jax.process_index():
        raise ConfigError(
            f"this is process {jax.process_index()} of {jax.process_count()}, and checkpoints are "
            f"written by process 0 alone; save under `if jax.process_index() == 0`, in a folder "
            f"that all see: each of them may restore"
        )


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


def _checkpointer(orbax: Any) -> Any:
    """What writes and reads without waiting for other processes."""
    rank = jax.process_index()
    alone = orbax.options.MultiprocessingOptions(
        primary_host=rank, active_processes={rank}, barrier_sync_key_prefix=f"process{rank}"
    )
    # Trained numbers hardly shrink, and compressing them takes a sixth of a save's time.
    handler = orbax.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    return orbax.Checkpointer(handler, multiprocessing_options=alone)


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by the path to them, in Python's notation: no two have the same."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ConfigError(
            f"an array {leaf.dtype}{list(leaf.shape)} is spread over several processes; gather it "
            f"first, in all of them: jax.experimental.multihost_utils.process_allgather(array, "
            f"tiled=True)"
        )
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
            path / ARRAYS, args=orbax.args.PyTreeRestore(restore_args=args)
        )
    except Exception as error:  # whatever Orbax raises on files that it did not write
        raise DamageError(f"Orbax can't read it ({type(error).__name__}: {error})") from error
    leaves = []
    for (name, leaf), expected in zip(_named(like).items(), data.values(), strict=True):
        array = arrays[name] if expected.size else np.zeros(expected.shape, expected.dtype)
        if _sha256(array) != checksums[name]:
            raise DamageError(f"{name} does not have the checksum that it was saved with")
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


def _name(step: int) -> str:
    return f"{step:08d}"


@contextlib.contextmanager
def _named_when_whole(path: Path) -> Generator[Path, None, None]:
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
