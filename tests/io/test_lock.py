"""One process at a time: a second one is refused at once, and told by whom."""

import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import pytest

import funcnet as fn
from funcnet.io import checkpoint

filelock = pytest.importorskip("filelock", reason="needs the extra checkpoint")
pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")


def test_a_locked_folder_is_refused_with_who_holds_it(tmp_path):
    with checkpoint.locked(tmp_path):
        with (
            pytest.raises(
                fn.CheckpointError, match=f"{tmp_path} is in use by process {os.getpid()} "
            ),
            checkpoint.locked(tmp_path),
        ):
            pytest.fail("locked twice")
        checkpoint.save(tmp_path, 1, {"a": jnp.ones(2)})
    with checkpoint.locked(tmp_path):  # free again, whatever the file says
        assert checkpoint.steps(tmp_path) == [1]


def test_a_lock_that_says_nothing_readable(tmp_path):
    with checkpoint.locked(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\xff")
        with (
            pytest.raises(fn.CheckpointError, match="is in use by another run; wait"),
            checkpoint.locked(tmp_path),
        ):
            pytest.fail("locked twice")


def raise_error(number):
    raise OSError(number, os.strerror(number))


@pytest.mark.skipif(os.name != "posix", reason="POSIX locks")
@pytest.mark.parametrize("how", ["no flock at all", "ENOSYS", "ENOTSUP", "ENOLCK"])
def test_where_nothing_can_be_locked_a_warning_says_so(tmp_path, monkeypatch, how):
    if how == "no flock at all":
        monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
        says = "this system has no flock"
    else:
        error = getattr(errno, how)
        monkeypatch.setattr("fcntl.flock", lambda *arguments: raise_error(error))
        says = os.strerror(error)
    with (
        pytest.warns(RuntimeWarning, match=rf"can't be locked \({says}\): see to it"),
        checkpoint.locked(tmp_path),
    ):
        checkpoint.save(tmp_path, 1, {"a": jnp.ones(2)})


def test_another_thread_is_refused(tmp_path):
    with checkpoint.locked(tmp_path), ThreadPoolExecutor(1) as pool:
        refused = pool.submit(checkpoint.locked(tmp_path).__enter__)
        with pytest.raises(fn.CheckpointError, match=r"in use by process .*; wait until"):
            refused.result()


def test_an_error_in_the_block_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), checkpoint.locked(tmp_path):
        raise ZeroDivisionError
    with checkpoint.locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_no_matter_of_locks(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), checkpoint.locked(tmp_path / "file"):
        pytest.fail("locked")


def test_without_filelock_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    with (
        pytest.raises(ModuleNotFoundError, match=r"pip install 'funcnet\[checkpoint\]'"),
        checkpoint.locked(tmp_path),
    ):
        pytest.fail("locked")
