"""What the options mean, and which have no meaning."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments import disk, options
from funcnet.errors import ConfigError

CONFIG = disk.Config(hidden=(5,), epochs=3, batch_size=30)


def test_no_hidden_layer_is_a_linear_classifier():
    assert options.network((2, 2)) == fn.Sequential(fn.Linear(2, 2))
    assert options.network((2, 3, 2)) == fn.Sequential(fn.Linear(2, 3), fn.ReLU(), fn.Linear(3, 2))


def updates(config, params, gradient, steps=1):
    """What the optimizer adds to the parameters in each of some steps of one gradient."""
    optimizer = options.make_optimizer(config)
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
        ({"clip_norm": 0.0}, "--clip-norm is 0.0, expected a positive number"),
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
