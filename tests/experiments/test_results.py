"""A results folder works, or a ResultsError says in one sentence why it doesn't."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from experiments import results
from experiments.results import ResultsError, Run

DISK = Run("funcnet", "mse", 0, 0.99, 0.98, 0.4, 1.5, f1_train=0.97, f1_test=0.96)
MNIST = Run("torch", "cross_entropy", 3, 1.0, 0.955, 60.0, 0.0)


def test_what_is_written_is_read(tmp_path):
    results.write(tmp_path, {"hidden": [25, 25], "out": tmp_path}, [DISK, MNIST])
    found = results.read(tmp_path)
    assert found.config == {"hidden": [25, 25], "out": str(tmp_path)}
    assert found.runs == (DISK, MNIST)
    assert found.versions["python"].startswith("3.")
    assert os.listdir(tmp_path) == ["results.json"]


def test_the_keys_of_a_run(tmp_path):
    results.write(tmp_path, {}, [DISK, MNIST])
    content = json.loads((tmp_path / "results.json").read_text())
    assert list(content) == ["config", "versions", "runs"]
    disk, mnist = content["runs"]
    f1 = {"f1_train", "f1_test"}
    assert set(disk) - f1 == set(mnist)
    assert set(disk) == f1 | {
        *("framework", "loss", "seed", "accuracy_train", "accuracy_test"),
        *("seconds", "compile_seconds"),
    }


def test_versions_name_the_software_and_the_machine(monkeypatch):
    monkeypatch.delitem(results.sys.modules, "torch", raising=False)
    found = results.versions()
    assert {"funcnet", "jax", "jaxlib", "numpy", "optax", "platform", "device"} < set(found)
    assert found["numpy"] == np.__version__
    assert found["cpu"]
    assert isinstance(found["cores"], int)
    assert "torch" not in found


@pytest.mark.torch
def test_versions_name_torch_once_it_is_imported():
    import torch

    assert results.versions()["torch"] == torch.__version__


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    results.write(tmp_path, {}, [DISK])
    with pytest.raises(ValueError, match="Out of range float"):
        results.write(tmp_path, {"rate": float("nan")}, [])
    assert results.read(tmp_path).runs == (DISK,)


def test_prepare_creates_the_folder_with_its_parents(tmp_path):
    out = tmp_path / "a" / "b"
    assert results.prepare_out(str(out)) == out
    assert os.listdir(out) == []


def test_prepare_accepts_other_files_and_earlier_results(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    results.write(tmp_path, {}, [DISK])
    results.prepare_out(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "results.json"]


@pytest.mark.parametrize("inside", [".", "deeper", "deeper/still"])
def test_prepare_names_a_file_in_the_way(tmp_path, inside):
    blocking = tmp_path / "file"
    blocking.touch()
    with pytest.raises(ResultsError, match=f"--out {blocking}.*{blocking} is a file, not a folder"):
        results.prepare_out(blocking / inside)


def test_prepare_names_a_dangling_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ResultsError, match="link is a file, not a folder"):
        results.prepare_out(tmp_path / "link")


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="needs a folder that not even root can write"
)
@pytest.mark.parametrize("path", ["/proc", "/proc/new"])
def test_prepare_refuses_what_cannot_be_written(path):
    with pytest.raises(ResultsError, match=f"--out {path}: cannot be written .*; choose a folder"):
        results.prepare_out(path)


RUN = json.dumps(results._record(DISK))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON",
        b"\xff\xfe\x00",
        pytest.param(b"[" * 100_000, id="deeply nested"),
        b"[]",
        b"null",
        b'{"config": {}, "versions": {}}',
        b'{"config": {}, "versions": {}, "runs": 3}',
        b'{"config": {}, "versions": {}, "runs": [{}]}',
        b'{"config": {}, "versions": {}, "runs": [7]}',
        RUN.join(['{"config": {}, "versions": {}, "runs": [', "]"]).encode(),
        RUN.replace("0.99", '"0.99"')
        .join(['{"config": {}, "versions": {}, "runs": [', "]}"])
        .encode(),
        RUN.replace("seed", "sead")
        .join(['{"config": {}, "versions": {}, "runs": [', "]}"])
        .encode(),
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    for use in (results.read, results.prepare_out):
        with pytest.raises(ResultsError, match=r"results.json: damaged, or not written by this"):
            use(tmp_path)
    assert path.read_bytes() == content


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path):
    with pytest.raises(ResultsError, match=r"results\.json: cannot be read \(No such file"):
        results.read(tmp_path)
    (tmp_path / "results.json").mkdir()
    with pytest.raises(ResultsError, match=r"results\.json: cannot be read \(Is a directory"):
        results.prepare_out(tmp_path)
