"""The disk experiment in small: its files, its exit codes, and (slow) the paper's Table I."""

import json
import os
import re
import statistics
import subprocess
import sys

import jax
import numpy as np
import pytest

import funcnet as fn
from experiments import __main__ as command
from experiments import disk, results, tables

TINY = ["--seeds", "2", "--epochs", "3", "--hidden", "4", "5"]
PNG = b"\x89PNG\r\n\x1a\n"


def run(out, *options):
    return command.main(["disk", *TINY, "--out", str(out), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run, in a folder that already held a file."""
    out = tmp_path_factory.mktemp("runs") / "a" / "b"
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    assert run(out) == 0
    return out


@pytest.mark.slow
def test_every_file_is_there_and_no_other(finished):
    assert {path.name for path in finished.iterdir()} == {
        "notes.txt",
        "results.json",
        "table.md",
        "loss.png",
        "figure-1-points.png",
        "figure-2-mse.png",
        "figure-3-cross_entropy.png",
        *(
            f"params-{loss}-{seed}.safetensors"
            for loss in ("mse", "cross_entropy")
            for seed in (0, 1)
        ),
    }
    assert (finished / "notes.txt").read_text() == "mine"
    for figure in finished.glob("*.png"):
        assert figure.read_bytes().startswith(PNG)


def test_results_have_the_promised_keys(finished):
    content = json.loads((finished / "results.json").read_text())
    assert set(content) == {"config", "versions", "runs"}
    assert content["config"]["hidden"] == [4, 5]
    assert content["config"]["epochs"] == 3
    assert {"jax", "python", "funcnet"} <= set(content["versions"])
    assert [(r["framework"], r["loss"], r["seed"]) for r in content["runs"]] == [
        ("funcnet", loss, seed) for loss in ("mse", "cross_entropy") for seed in (0, 1)
    ]
    for record in content["runs"]:
        assert set(record) == {
            *("framework", "loss", "seed", "seconds", "compile_seconds"),
            *("accuracy_train", "f1_train", "accuracy_test", "f1_test"),
        }
        assert record["seconds"] > 0
        for name in ("accuracy_train", "f1_train", "accuracy_test", "f1_test"):
            assert 0 <= record[name] <= 1


def test_the_table_stands_beside_the_papers(finished):
    table = (finished / "table.md").read_text()
    assert "paper, Table I" in table
    for published in ("99.69 %", "99.97 %", "98.20 %", "98.47 %", "0.987", "0.998"):
        assert published in table
    for row in ("training time", "accuracy train", "F1 train", "accuracy test", "F1 test"):
        assert row in table


def test_params_are_pytorchs_and_give_the_accuracies(finished):
    """What is saved is what was scored: seed 1's data from its own key."""
    model = fn.Sequential(fn.Linear(2, 4), fn.ReLU(), fn.Linear(4, 5), fn.ReLU(), fn.Linear(5, 2))
    like, state = jax.eval_shape(model.init, jax.random.key(0))
    params = fn.load_params(finished / "params-mse-1.safetensors", like)
    keys = jax.random.split(jax.random.key(1), 3)
    record = json.loads((finished / "results.json").read_text())["runs"][1]
    for split, key in (("train", keys[0]), ("test", keys[1])):
        x, y = disk.make_data(key)
        predicted = model.apply(params, state, x)[0].argmax(axis=-1)
        assert fn.metrics.accuracy(y, predicted) == record[f"accuracy_{split}"]
        assert fn.metrics.f1_score(y, predicted) == record[f"f1_{split}"]


def test_the_same_seed_gives_the_same_bytes(finished, tmp_path):
    assert run(tmp_path, "--seeds", "1", "--loss", "cross_entropy") == 0
    name = "params-cross_entropy-0.safetensors"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    other = (finished / "params-cross_entropy-1.safetensors").read_bytes()
    assert (tmp_path / name).read_bytes() != other
    assert {path.name for path in tmp_path.glob("figure-*")} == {
        "figure-1-points.png",
        "figure-3-cross_entropy.png",
    }


def test_regularisation_is_an_option(finished, tmp_path):
    options = ["--weight-decay", "0.01", "--clip-norm", "0.5", "--schedule", "cosine"]
    assert run(tmp_path, "--seeds", "1", "--loss", "mse", *options) == 0
    name = "params-mse-0.safetensors"
    assert (tmp_path / name).read_bytes() != (finished / name).read_bytes()
    config = json.loads((tmp_path / "results.json").read_text())["config"]
    assert (config["weight_decay"], config["clip_norm"]) == (0.01, 0.5)
    assert config["schedule"] == "cosine"


def test_points_are_uniform_and_labelled_by_the_disk():
    x, y = disk.make_data(jax.random.key(0))
    assert x.shape == (1000, 2)
    assert np.abs(x).max() <= 1
    np.testing.assert_array_equal(y, (np.asarray(x) ** 2).sum(axis=1) < 1 / (2 * np.pi))
    inside = [int(disk.make_data(jax.random.key(seed))[1].sum()) for seed in range(30)]
    # An eighth of the square; a mean of 30 sets of 1,000 has standard deviation 1.9.
    assert abs(statistics.fmean(inside) - 125) < 8


def complaint(capsys):
    """The single sentence on stderr, below what is left of a progress bar."""
    *bars, error = capsys.readouterr().err.removesuffix("\n").splitlines()
    assert all(re.search(r"seed \d: +\d+%\|", bar) or not bar for bar in bars)
    assert error.startswith("python -m experiments disk: ")
    return error


def test_a_file_in_the_way(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert run(tmp_path / "taken") == 1
    assert "is a file, not a folder; choose another" in complaint(capsys)
    assert run(tmp_path / "taken" / "below") == 1
    assert "taken is a file" in complaint(capsys)


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a folder not even root can write"
)
def test_a_folder_that_cannot_be_written(capsys):
    assert run("/proc/self/nowhere") == 1
    assert "cannot be written" in complaint(capsys)


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": 3}', "", "\xff"])
def test_damaged_results_are_not_overwritten(tmp_path, capsys, content):
    (tmp_path / "results.json").write_bytes(content.encode("latin-1"))
    assert run(tmp_path) == 1
    assert "damaged" in complaint(capsys)
    assert (tmp_path / "results.json").read_bytes() == content.encode("latin-1")
    assert len(list(tmp_path.iterdir())) == 1


def test_divergence_names_the_seed_and_keeps_what_was_learned(tmp_path, capsys):
    assert run(tmp_path, "--learning-rate", "1e30", "--loss", "mse") == 1
    error = complaint(capsys)
    assert "seed 0" in error
    assert re.search(r"epoch \d .* step \d, .*largest gradient norm \S+, step size 1e\+30", error)
    assert "--learning-rate" in error
    assert (tmp_path / "params-mse-0.safetensors").exists()


def test_a_bug_is_no_sentence(tmp_path, monkeypatch):
    def broken(config):
        raise ZeroDivisionError

    monkeypatch.setattr(disk, "main", broken)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--epochs", "-1"], "--epochs is -1"),
        (["--epochs", "1.5"], "1.5"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--learning-rate", "-0.1"], "--learning-rate is -0.1"),
        (["--learning-rate", "fast"], "fast"),
        (["--hidden", "25", "0"], "--hidden is 0"),
        (["--loss", "hinge"], "hinge"),
        (["--schedule", "steps"], "steps"),
        (["--weight-decay", "-1"], "--weight-decay is -1"),
        (["--clip-norm", "0"], "--clip-norm is 0"),
        (["--unknown", "1"], "--unknown"),
    ],
)
def test_bad_options_stop_with_2_and_leave_nothing(tmp_path, capsys, options, says):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        command.main(["disk", "--out", str(out), *options])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert says in printed.out + printed.err
    assert not out.exists()


def test_help_tells_every_option_and_default(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["disk", "--help"])
    assert stopped.value.code == 0
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    for option in ("--loss", "--seeds", "--epochs", "--batch-size", "--learning-rate", "--hidden"):
        assert option in text
    for default in ("10", "2000", "100", "0.03", "25 25 25", "runs/disk", "both"):
        assert default in text
    assert "Table I" in text


def test_names_of_experiments(capsys):
    assert command.main([]) == command.main(["--help"]) == 0
    assert "disk" in capsys.readouterr().out
    assert command.main(["dsik"]) == 2
    assert "no experiment is called 'dsik'" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_command(tmp_path):
    """From a shell: the table on stdout, and one sentence and code 1 for a bad folder."""
    start = [sys.executable, "-m", "experiments", "disk"]
    options = ["--seeds", "1", "--epochs", "1", "--loss", "mse", "--out", str(tmp_path / "out")]
    done = subprocess.run([*start, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "paper, Table I" in done.stdout
    assert "Traceback" not in done.stderr
    (tmp_path / "taken").write_text("")
    failed = subprocess.run(
        [*start, "--out", str(tmp_path / "taken")], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "is a file" in failed.stderr


@pytest.mark.slow
def test_table_i(tmp_path):
    """Ten seeds at the paper's settings.

    On test data no cell may be worse than the paper's. On training data its means, of ten runs
    too, are allowed to differ by two standard errors of ours: 0.12 points of accuracy, 0.0045
    of F1.
    """
    assert command.main(["disk", "--out", str(tmp_path)]) == 0
    runs = results.read(tmp_path).runs
    for loss in ("mse", "cross_entropy"):
        paper = tables.DISK[("funcnet", loss)]
        chosen = [run for run in runs if run.loss == loss]
        assert len(chosen) == 10

        def mean(field, chosen=chosen):
            return statistics.fmean(getattr(run, field) for run in chosen)

        assert mean("accuracy_test") >= paper.accuracy_test
        assert paper.f1_test is not None
        assert paper.f1_train is not None
        assert mean("f1_test") >= paper.f1_test
        assert mean("accuracy_train") >= paper.accuracy_train - 0.0012
        assert mean("f1_train") >= paper.f1_train - 0.0045
