"""A file written atomically is the old one or the new one, and nothing else is left behind."""

import errno
import os
import stat

import pytest

from funcnet.io.files import write_atomically


def test_creates_and_replaces(tmp_path):
    path = tmp_path / "file"
    for data in (b"old", b"new"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_has_the_permissions_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "ours", b"")
    (tmp_path / "usual").write_bytes(b"")
    ours, usual = (stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("ours", "usual"))
    assert ours == usual


def test_a_missing_folder_is_named_by_the_file_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing/file'"):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_a_folder_in_the_way_stays(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match=r"/file'"):
        write_atomically(tmp_path / "file", b"")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
