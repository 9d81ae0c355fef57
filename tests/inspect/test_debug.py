"""debugging finds a key used twice, counts traces and compilations, and leaves nothing behind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from tests.same_bits import assert_same_bits

X, LABELS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2), np.arange(10) % 3
MODEL = fn.Sequential(fn.Linear(2, 4), fn.Dropout(0.5), fn.Linear(4, 3))


def fit(model: fn.Module = MODEL):
    return fn.fit(
        model,
        fn.CrossEntropyLoss(),
        optax.sgd(0.1),
        (X, LABELS),
        epochs=2,
        batch_size=4,
        key=jax.random.key(0),
        validation=(X, LABELS),
        patience=1,
        progress=False,
    )


@dataclasses.dataclass(frozen=True)
class Noise(fn.Module):
    """Adds noise; too much of it from the same key."""

    draws: int

    def apply(self, params, state, x, *, key=None, train=False):
        if key is not None:
            for _ in range(self.draws):
                x = x + jax.random.normal(key, x.shape)
        return x, state


def test_a_key_used_twice_is_found():
    with fn.debugging(), pytest.raises(jax.errors.KeyReuseError):
        fit(fn.Sequential(fn.Linear(2, 3), Noise(2)))
    with fn.debugging():
        fit(fn.Sequential(fn.Linear(2, 3), Noise(1)))
    fit(fn.Sequential(fn.Linear(2, 3), Noise(2)))  # outside nothing is checked


def test_traces_are_counted_and_the_bits_are_the_same():
    expected = fit()

    @jax.jit
    def again(x):
        return x + 1

    with fn.debugging() as seen:
        assert_same_bits(fit().run, expected.run)
        for size in (3, 4, 4):
            again(jnp.ones(size))
    assert seen.traced["again"] == seen.compiled["again"] == 2
    assert seen.compiled["_train_epochs"] == 1
    assert "     2         2  again" in str(seen)
    before = dict(seen.traced)
    again(jnp.ones(5))
    assert seen.traced == before
