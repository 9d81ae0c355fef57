"""One seed's training: the bits of an unbroken run, and of it nothing lost."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments import disk, results, runner, tables
from funcnet.errors import ConfigError

CONFIG = disk.Config(hidden=(5,), epochs=3, batch_size=30)


@pytest.fixture
def problem():
    """A trainer, a first state, and 100 points: the last batch is smaller."""
    trainer = runner.make_trainer(CONFIG, CONFIG.sizes, "cross_entropy")
    x = jax.random.normal(jax.random.key(1), (100, 2))
    return trainer, trainer.init(jax.random.key(0)), (x, (x[:, 0] > 0).astype(jnp.int32))


def test_epoch_by_epoch_gives_the_bits_of_one_run(problem):
    trainer, start, data = problem
    learner = runner.FuncnetLearner(trainer, start, data)
    losses, differences = runner.train([learner], 3, "title")
    whole, history = trainer.run(start, data, 3)
    np.testing.assert_array_equal(losses, history["loss"][None])
    jax.tree.map(np.testing.assert_array_equal, learner.run.params, whole.params)
    assert differences == {}
    assert learner.seconds > 0


def test_a_learner_predicts_and_names_its_arrays_as_pytorch_does(problem):
    trainer, start, (x, y) = problem
    learner = runner.FuncnetLearner(trainer, start, (x, y))
    logits, _ = trainer.model.apply(start.params, start.state, x)
    np.testing.assert_array_equal(learner.predict(x), logits.argmax(axis=-1))
    arrays = learner.arrays()
    assert list(arrays) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    np.testing.assert_array_equal(arrays["2.weight"], start.params[2]["weight"])


def test_side_by_side_the_largest_difference_of_every_epoch_is_kept(problem):
    _, start, data = problem
    shift = jnp.array([[0.0, 0.0], [0.25, 0.0], [0.0, -0.5], [0.0, 0.0], [0.0, 0.0]])
    params = jax.tree.map(lambda leaf: leaf, start.params)
    params[0]["weight"] = params[0]["weight"] + shift
    config = dataclasses.replace(CONFIG, learning_rate=1e-30)
    frozen = runner.make_trainer(config, config.sizes, "mse")
    data = data[0], jax.nn.one_hot(data[1], 2)
    learners = [
        runner.FuncnetLearner(frozen, run, data) for run in (start, start._replace(params=params))
    ]
    losses, differences = runner.train(learners, 2, "title")
    np.testing.assert_array_equal(differences["loss"], np.abs(losses[0] - losses[1]))
    np.testing.assert_allclose(differences["0.weight"], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(differences["2.bias"], [0, 0])


def test_after_every_epoch_someone_may_look(problem):
    seen = []
    runner.train([runner.FuncnetLearner(*problem)], 3, "title", seen.append)
    assert seen == [1, 2, 3]


def test_the_bar_shows_the_loss_and_the_time_left(problem, capsys, monkeypatch):
    monkeypatch.setattr(runner, "tqdm", partial(runner.tqdm, mininterval=0))
    losses, _ = runner.train([runner.FuncnetLearner(*problem)], 3, "seed 7")
    bar = capsys.readouterr().err
    assert "seed 7:  67%" in bar
    assert f"loss={losses[0, 1]:.4g}" in bar
    assert re.search(r"2/3 \[00:\d\d<00:\d\d, .*epoch", bar)


def test_a_divergence_names_the_seed_and_the_epoch(problem):
    _, start, data = problem
    config = dataclasses.replace(CONFIG, learning_rate=1e30)
    trainer = runner.make_trainer(config, config.sizes, "cross_entropy")
    learner = runner.FuncnetLearner(trainer, start, data)
    with pytest.raises(fn.DivergenceError, match=r"seed 7: the loss .* in epoch 0 .*learning-rate"):
        runner.train([learner], 3, "seed 7")
    jax.tree.map(np.testing.assert_array_equal, learner.run.params, start.params)


def test_no_hidden_layer_is_a_linear_classifier():
    assert runner.network((2, 2)) == fn.Sequential(fn.Linear(2, 2))
    assert runner.network((2, 3, 2)) == fn.Sequential(fn.Linear(2, 3), fn.ReLU(), fn.Linear(3, 2))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"seeds": 0}, "--seeds is 0, expected at least 1"),
        ({"epochs": -1}, "--epochs is -1, expected at least 1"),
        ({"batch_size": 0}, "--batch-size is 0, expected at least 1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0, expected a positive number"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
    ],
)
def test_options_without_meaning_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        disk.Config(**option)


def test_every_run_is_written_at_once(tmp_path):
    record = runner.Record(tmp_path, CONFIG, tables.DISK)
    first, second = (
        results.Run("funcnet", "cross_entropy", seed, 1.0, 0.9, 0.1, 0.2) for seed in (0, 1)
    )
    record.add(first)
    assert results.read(tmp_path).runs == (first,)
    record.add(second)
    assert results.read(tmp_path).runs == (first, second)
    assert (tmp_path / "table.md").read_text() == record.table
    assert results.read(tmp_path).config["hidden"] == [5]
