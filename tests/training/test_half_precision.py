"""What float16 breaks is named as its fault, with a fix that works; not the step size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import funcnet as fn
from funcnet.training.optimizers import vanishing_epsilon

RNG = np.random.default_rng(0)
X = RNG.random((60, 4)).astype(np.float32)
X[:, 3] = 0  # the first layer's gradient is 0 there
LABELS = (X[:, 0] > 0.5).astype(np.int32)
TARGETS = RNG.normal(size=(60, 2)).astype(np.float32)
MODEL = fn.Sequential(fn.Linear(4, 8), fn.ReLU(), fn.Linear(8, 2))
WIDER = "train with dtype=jnp.bfloat16 or jnp.float32"
RATE = optax.sgd(0.01)


def fit(optimizer, x: Any = X, y: Any = LABELS, loss: Any = None, **options):
    options = {"epochs": 3, "key": jax.random.key(0), "batch_size": 20, "progress": False} | options
    options = {"dtype": jnp.float16} | options
    return fn.fit(MODEL, loss or fn.CrossEntropyLoss(), optimizer, (x, y), **options)


def said(call):
    with pytest.raises(fn.DivergenceError) as raised:
        call()
    assert "lower the step size" not in str(raised.value)
    return str(raised.value)


injected = optax.inject_hyperparams(optax.adamw)
EPSILONS = {
    "adam": optax.adam,
    "rmsprop": optax.rmsprop,
    "injected": lambda rate, **eps: injected(learning_rate=rate, **eps),
    "clipped": lambda rate, **eps: optax.chain(optax.clip(1.0), optax.adam(rate, **eps)),
    "accumulated": lambda rate, **eps: optax.MultiSteps(optax.adam(rate, **eps), 3),
    "adafactor": optax.adafactor,
    "adabelief": optax.adabelief,
    "muon": contrib.muon,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EPSILONS)
def test_an_epsilon_that_rounds_to_0_is_named_and_the_fix_works(name):
    make = EPSILONS[name]
    message = said(lambda: fit(make(1e-2)))
    assert "state is not finite: the optimizer's eps" in message
    assert "rounds to 0 in float16, and it divides by 0;" in message
    assert f"; give the optimizer a larger one (eps=1e-4), or {WIDER}; error.result" in message
    losses = fit(make(1e-2, eps=1e-4)).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_wider_dtypes_train_with_the_epsilon_as_it_is():
    for dtype in (jnp.bfloat16, jnp.float32):
        losses = fit(optax.adam(1e-2), dtype=dtype).history["loss"]
        assert losses[-1] < losses[0]


def test_the_epsilon_is_found_where_an_optimizer_keeps_it():
    assert vanishing_epsilon(optax.adam(0.1), jnp.float16) == ("eps", 1e-8)
    assert vanishing_epsilon(injected(0.1, eps=1e-9), jnp.float16) == ("eps", 1e-9)
    for optimizer in (optax.sgd(1e-8), optax.adam(0.1, eps=1e-4), optax.adagrad(0.1, eps=0)):
        assert vanishing_epsilon(optimizer, jnp.float16) == ("", 0.0)
    assert vanishing_epsilon(optax.adam(0.1), jnp.bfloat16) == ("", 0.0)


@pytest.mark.slow
def test_an_activation_beyond_the_range_is_named():
    message = said(lambda: fit(RATE, x=X * 60000, loss=lambda p, y: p.mean() * 1e-3 + y.sum()))
    assert "the output of Linear(in_features=" in message
    assert "is not finite: float16 holds no number beyond 65504, and it is " in message
    assert f"; {WIDER}, or scale the data so that the numbers stay small; error.result" in message


@pytest.mark.slow
def test_a_gradient_beyond_the_range_is_named():
    message = said(lambda: fit(RATE, x=X * 60000, loss=lambda p, y: 12 * p.mean() + 0 * y.sum()))
    assert "the gradient of Linear(in_features=8" in message
    assert "float16 holds no number beyond 65504, and it is " in message


@pytest.mark.slow
def test_a_loss_beyond_the_range_is_named():
    message = said(lambda: fit(RATE, y=300 * TARGETS, loss=fn.MSELoss()))
    assert "in its step 0, the loss is not finite: float16 holds no number beyond 65504" in message


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_what_rounding_makes_infinite_is_named(dtype):
    def loss(prediction, target):
        return -jnp.log(1 - (1 - 1e-5 * jnp.exp(prediction * 0)).astype(prediction.dtype)).mean()

    message = said(lambda: fit(RATE, y=TARGETS, loss=loss, dtype=dtype))
    assert f"at most), so {jnp.dtype(dtype)}'s range or rounding is at fault" in message
    assert "jnp.float32" in message


@pytest.mark.slow
def test_what_float32_does_not_mend_is_no_fault_of_float16():
    for dtype in (jnp.float16, jnp.float32):
        with pytest.raises(fn.DivergenceError) as raised:
            fit(RATE, loss=lambda p, y: jnp.log(p * 0 - 1).mean() + 0 * y.sum(), dtype=dtype)
        assert raised.value.diagnosis.cause == ""
        assert "float16" not in str(raised.value)


@pytest.mark.parametrize(
    ("which", "data"),
    [
        ("data's x", {"x": X * 70000}),
        ("data's y", {"y": TARGETS * 70000, "loss": fn.MSELoss()}),
        ("validation's x", {"validation": ([list(map(float, row)) for row in X * 70000], LABELS)}),
    ],
)
def test_numbers_that_the_dtype_cannot_hold_are_told_with_their_value(which, data):
    with pytest.raises(fn.errors.DataError) as raised:
        fit(RATE, **data)
    message = str(raised.value)
    assert message.startswith(f"{which} is ")
    assert " inf " not in message
    assert ", and float16 holds no number beyond 65504 (in " in message
    assert f"; scale the data, or {WIDER}" in message


def test_numbers_beyond_float32_are_to_be_scaled():
    with pytest.raises(fn.errors.DataError, match=r"beyond 3\.4028e\+38 .*; scale the data$"):
        fit(RATE, x=X.astype(np.float64) * 1e39, dtype=jnp.float32)


@pytest.mark.slow
def test_an_average_of_squares_that_overflows_is_told():
    with pytest.warns(RuntimeWarning, match="the square of a gradient beyond 256 is beyond 65504"):
        fit(optax.adam(1e-3, eps=1e-4), x=X * 1000, y=TARGETS, loss=fn.MSELoss())
