"""One process at a time in a folder of checkpoints."""

import contextlib
import errno
import os
import socket
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from funcnet.errors import CheckpointError

_LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Keep every other process, and this one's other threads, out of a folder of checkpoints.

    The system takes the lock back when the process ends, however it ends; the file `.lock` stays,
    and means nothing. Where nothing can be locked, as on some network file systems, a warning says
    so and the block runs.

    Args:
        folder: of the run's checkpoints; created if missing.

    Raises:
        CheckpointError: another one holds it.
        OSError: the folder can't be written.
        ModuleNotFoundError: filelock is not installed.
    """
    filelock = _require_filelock()
    path = Path(folder).absolute() / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a"):  # an OSError here is about the folder, a later one about locks
        pass
    # A lock that is a file's existence would outlive a process that is killed.
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        if isinstance(lock, filelock.SoftFileLock):
            raise OSError(errno.ENOTSUP, "this system has no flock")
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise CheckpointError(
            f"{path.parent} is in use by {_holder(path)}; wait until it has ended, stop it, or "
            f"choose another folder"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{path.parent} can't be locked ({error.strerror}): see to it that no other process "
            f"saves there",
            RuntimeWarning,
            stacklevel=3,
        )
    try:
        with contextlib.suppress(OSError):  # who holds it is for people only
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.release()


def _require_filelock() -> Any:
    try:
        import filelock
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"checkpoints need filelock ({error}): pip install 'funcnet[checkpoint]'"
        ) from error
    return filelock


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text().strip() or "another run"
    return "another run"
