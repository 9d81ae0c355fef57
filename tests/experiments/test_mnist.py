"""The MNIST experiment in small: what it writes, and that nothing finished is ever lost."""

import csv
import json
import os

import jax
import numpy as np
import pytest

import funcnet as fn
from experiments import __main__, mnist, options, results, runner
from funcnet.errors import ConfigError, DataError
from tests.data.test_idx import write_set

pytest.importorskip("matplotlib", reason="needs the extra plots")


def small(out, **given):
    defaults = {"seeds": 2, "epochs": 3, "hidden": (8,), "train_size": 300, "out": out}
    return mnist.Config(**defaults | given)


def read_params(folder, seed, config):
    like = jax.eval_shape(options.network(config.sizes).init, jax.random.key(0))[0]
    return fn.load_params(folder / mnist.params_name(seed), like)


@pytest.fixture
def finished(tmp_path, small_mnist, capsys):
    config = small(tmp_path / "a" / "run")
    mnist.main(config)
    return config, capsys.readouterr()


def test_what_a_run_writes(finished):
    config, printed = finished
    assert sorted(os.listdir(config.out)) == [
        *("accuracy.png", "confusion.png", "curves.csv", "loss.png", "misread.png"),
        *("params-cross_entropy-0.safetensors", "params-cross_entropy-1.safetensors"),
        *("results.json", "table.md"),
    ]
    content = json.loads((config.out / "results.json").read_text())
    assert content["config"]["hidden"] == [8]
    assert [run["seed"] for run in content["runs"]] == [0, 1]
    for run in content["runs"]:
        assert set(run) == {
            *("framework", "loss", "seed", "accuracy_train", "accuracy_test"),
            *("seconds", "compile_seconds"),
        }
        assert (run["framework"], run["loss"]) == ("funcnet", "cross_entropy")
    assert content["runs"][0]["seconds"] != content["runs"][1]["seconds"]
    table = (config.out / "table.md").read_text()
    assert table in printed.out
    assert "paper, Table III" in table


def test_a_bar_over_the_seeds(finished):
    bars = finished[1].err
    assert "MNIST: 100%" in bars
    assert "2/2 [" in bars
    assert "seed 1, funcnet" in bars


def test_a_seed_is_one_unbroken_run_of_the_library(finished, small_mnist):
    config, _ = finished
    train, test = mnist.load(config)
    trainer = options.make_trainer(config, config.sizes, "cross_entropy")
    run, history = trainer.run(trainer.init(jax.random.key(1)), train[:2], config.epochs)
    jax.tree.map(np.testing.assert_array_equal, read_params(config.out, 1, config), run.params)
    stored = results.read(config.out).runs[1]
    predicted = trainer.predict(run.params, run.state, test.x).argmax(-1)
    assert stored.accuracy_test == fn.metrics.accuracy(test.y, predicted)
    with (config.out / "curves.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "1"]
    np.testing.assert_array_equal([float(row["loss"]) for row in rows], history["loss"])
    assert float(rows[-1]["accuracy_test"]) == stored.accuracy_test
    assert float(rows[-1]["accuracy_train"]) == stored.accuracy_train


def test_images_are_standardised_by_the_training_images_used(small_mnist):
    train, test = mnist.load(small("unused", train_size=50))
    assert train.x.shape == (50, 784)
    assert test.x.shape == (100, 784)
    pixels = small_mnist[0].images[:50].astype(np.float64)
    assert train.x.mean() == pytest.approx(0, abs=1e-5)
    assert train.x.std() == pytest.approx(1, abs=1e-5)
    expected = (small_mnist[1].images - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(test.x, expected.reshape(100, 784), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(test.pictures, small_mnist[1].images)


def test_it_learns(tmp_path, small_mnist):
    config = small(tmp_path, seeds=1, epochs=30, train_size=500, hidden=(32,), learning_rate=0.1)
    mnist.main(config)
    (run,) = results.read(tmp_path).runs
    assert run.accuracy_train > 0.99
    assert run.accuracy_test > 0.8


def test_what_a_seed_has_finished_survives_a_kill(tmp_path, small_mnist, monkeypatch):
    fit, calls = runner.Experiment.fit, []

    def killed_in_the_second_seed(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args)

    monkeypatch.setattr(runner.Experiment, "fit", killed_in_the_second_seed)
    with pytest.raises(KeyboardInterrupt):
        mnist.main(small(tmp_path))
    (run,) = results.read(tmp_path).runs
    assert run.seed == 0
    assert {"curves.csv", "table.md", "params-cross_entropy-0.safetensors"} < {
        *os.listdir(tmp_path)
    }
    assert not (tmp_path / mnist.params_name(1)).exists()


@pytest.mark.slow
def test_after_a_divergence_the_last_finite_parameters_are_there(tmp_path, small_mnist):
    config = small(tmp_path, learning_rate=1e30)
    with pytest.raises(fn.DivergenceError, match=r"seed 0, funcnet: .* in epoch 0"):
        mnist.main(config)
    params = read_params(tmp_path, 0, config)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_fashion_has_no_column_of_the_papers(tmp_path, small_mnist, capsys):
    mnist.main(small(tmp_path, data="fashion", seeds=1))
    assert "paper" not in (tmp_path / "table.md").read_text()
    assert "Fashion-MNIST: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [1]),
        (8, [*range(1, 9)]),
        (50, [1, 2, 3, 4, 5, *range(6, 51, 2)]),
        (100, [1, 2, 3, 4, 5, *range(10, 101, 5)]),
        (101, [1, 2, 3, 4, 5, *range(10, 101, 5), 101]),
    ],
)
def test_when_the_accuracy_is_taken(epochs, expected):
    assert mnist.tested_epochs(epochs) == expected


@pytest.mark.parametrize(
    ("size", "message"), [(0, "--train-size is 0"), (60_001, "60001, expected at most 60000")]
)
def test_train_sizes_that_do_not_exist_are_refused(size, message):
    with pytest.raises(ConfigError, match=message):
        mnist.Config(train_size=size)


def test_a_folder_without_the_files_is_one_sentence(tmp_path, capsys):
    arguments = ["mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "run")]
    assert __main__.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"python -m experiments mnist: {tmp_path}: neither train-images")


def test_a_damaged_file_is_one_sentence(tmp_path, capsys):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"no IDX file")
    assert __main__.main(["mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "train-images-idx3-ubyte: not an IDX file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_seed_reaches_the_papers_accuracy(tmp_path):
    mnist.main(mnist.Config(seeds=1, out=tmp_path))
    (run,) = results.read(tmp_path).runs
    assert run.accuracy_train == 1
    assert run.accuracy_test > 0.95


@pytest.mark.parametrize("model", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_a_folder_may_hold_other_images_with_other_labels(tmp_path, capsys, model):
    """16 x 16 pixels, and letters counted from 1, as EMNIST has them; fewer than are asked for."""
    labels = np.arange(60) % 4 + 1
    pictures = np.random.default_rng(0).integers(0, 100, (60, 16, 16))
    pictures[np.arange(60), labels] += 150  # a bright row for each
    folder = tmp_path / "letters"
    write_set(folder, pictures.astype("u1"), labels.astype("u1"), "emnist-letters-", "test", ".gz")
    out = tmp_path / "out"
    arguments = ["--data-dir", str(folder), "--out", str(out), "--seeds", "1", "--epochs", "2"]
    assert __main__.main(["mnist", "--model", model, *arguments, "--hidden", "8"]) == 0
    config = results.read(out).config
    assert (config["pixels"], config["labels"]) == ([16, 16], [1, 2, 3, 4])
    assert config["train_size"] == 20
    printed = capsys.readouterr()
    assert "paper" not in printed.out
    assert "letters: 100%" in printed.err
    assert __main__.main(["predict", str(out), "--index", "3"]) == 0
    assert "test image 3: 4, read as" in capsys.readouterr().out


def test_a_test_label_without_training_images_is_refused(tmp_path):
    labels = np.where(np.arange(30) < 20, 1, 2).astype("u1")
    write_set(tmp_path / "set", np.arange(30 * 4).reshape(30, 2, 2).astype("u1"), labels)
    with pytest.raises(DataError, match="no training image has the label 2"):
        mnist.main(small(tmp_path / "out", data_dir=tmp_path / "set"))
