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
    runner.train(
        [runner.FuncnetLearner(*problem)], 3, "title", lambda epoch, losses: seen.append(epoch)
    )
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
    with pytest.raises(
        fn.DivergenceError, match=r"seed 7: the loss .* in epoch 0 .*norm.*learning-rate"
    ):
        runner.train([learner], 3, "seed 7")
    jax.tree.map(np.testing.assert_array_equal, learner.run.params, start.params)


def test_no_hidden_layer_is_a_linear_classifier():
    assert runner.network((2, 2)) == fn.Sequential(fn.Linear(2, 2))
    assert runner.network((2, 3, 2)) == fn.Sequential(fn.Linear(2, 3), fn.ReLU(), fn.Linear(3, 2))


def updates(config, params, gradient, steps=1):
    """What the optimizer adds to the parameters in each of some steps of one gradient."""
    optimizer = runner.make_optimizer(config)
    state, found = optimizer.init(params), []
    for _ in range(steps):
        step, state = optimizer.update(gradient, state, params)
        found.append(step)
    return found


PARAMS = ({"weight": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 5.0)}, ())
GRADIENT = ({"weight": jnp.ones((2, 2)), "bias": jnp.full(2, 2.0)}, ())


def test_weights_decay_and_biases_do_not():
    config = dataclasses.replace(CONFIG, learning_rate=0.5, weight_decay=0.1)
    ((step, _),) = updates(config, PARAMS, GRADIENT)
    np.testing.assert_allclose(step["weight"], -0.5 * (1 + 0.1 * 3), rtol=1e-6)
    np.testing.assert_allclose(step["bias"], -0.5 * 2, rtol=1e-6)


def test_a_long_gradient_is_scaled_down_and_a_short_one_stays():
    # Four entries of 1 and two of 2: length √12.
    for norm, factor in ((1.0, 1 / np.sqrt(12)), (4.0, 1.0)):
        config = dataclasses.replace(CONFIG, learning_rate=0.5, clip_norm=norm)
        ((step, _),) = updates(config, PARAMS, GRADIENT)
        np.testing.assert_allclose(step["weight"], -0.5 * factor, rtol=1e-6)
        np.testing.assert_allclose(step["bias"], -factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2]),
    ],
)
def test_the_step_size_falls_over_all_epochs(schedule, rates):
    # 1000 examples in batches of 600 are two steps an epoch.
    config = disk.Config(learning_rate=0.5, schedule=schedule, epochs=2, batch_size=600)
    assert config.steps == 4
    for (step, _), rate in zip(updates(config, PARAMS, GRADIENT, 4), rates, strict=True):
        np.testing.assert_allclose(step["bias"], -rate, rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"weight_decay": -0.1}, "--weight-decay is -0.1, expected a number >= 0"),
        ({"weight_decay": float("inf")}, "--weight-decay is inf"),
        ({"clip_norm": 0.0}, "--clip-norm is 0, expected a positive number"),
        ({"clip_norm": float("nan")}, "--clip-norm is nan"),
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
