"""A FitResult pickles and copies: all but the optimizer, which says what to do."""

import copy
import dataclasses
import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import ConfigError
from tests.same_bits import assert_same_bits

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (50, 3))
Y = (X[:, 0] > 0).astype(int)
MODEL = fn.Sequential(fn.Linear(3, 8), fn.BatchNorm1d(8), fn.ReLU(), fn.Linear(8, 2))


@pytest.fixture(scope="module")
def result():
    return fn.fit(
        MODEL, fn.CrossEntropyLoss((1.0, 2.0)), optax.adam(1e-2), (X, Y), epochs=3, key=KEY,
        batch_size=10, validation=(X, Y), metrics={"accuracy": fn.metrics.accuracy}, progress=False,
    )  # fmt: skip


def test_everything_but_the_optimizer(result):
    again = pickle.loads(pickle.dumps(result))
    assert_same_bits(again.run, result.run)
    assert list(again.history) == list(result.history)
    for name, values in result.history.items():
        np.testing.assert_array_equal(again.history[name], values)
    assert (again.accuracy, again.seconds) == (result.accuracy, result.seconds)
    np.testing.assert_array_equal(again.predict(X), result.predict(X))
    assert again.evaluate((X, Y)) == result.evaluate((X, Y))
    assert again.trainer.model == MODEL


def test_the_optimizer_is_asked_for_again(result):
    again = pickle.loads(pickle.dumps(result))
    with pytest.raises(ConfigError, match=r"dataclasses\.replace\(result\.trainer"):
        again.trainer.run(again.run, (X, Y), epochs=1)
    trainer = dataclasses.replace(again.trainer, optimizer=optax.adam(1e-2))
    after, _ = trainer.run(again.run, (X, Y), epochs=2)
    expected, _ = result.trainer.run(result.run, (X, Y), epochs=2)
    assert_same_bits(after, expected)


def test_it_may_be_pickled_again(result):
    once = pickle.loads(pickle.dumps(result))
    twice = pickle.loads(pickle.dumps(once))
    np.testing.assert_array_equal(twice.predict(X), result.predict(X))


def no_init(params):
    return ()


def downhill(updates, state, params=None):
    return jax.tree.map(lambda g: -0.1 * g, updates), state


def test_an_optimizer_of_named_functions_is_kept(result):
    named = dataclasses.replace(
        result.trainer, optimizer=optax.GradientTransformation(no_init, downhill)
    )
    again = pickle.loads(pickle.dumps(dataclasses.replace(result, trainer=named)))
    assert again.trainer == named


def test_copies_keep_the_optimizer(result):
    for made in (copy.copy(result), copy.deepcopy(result)):
        assert made.trainer == result.trainer
        assert_same_bits(made.run, result.run)
    made.history["loss"][0] = 7.0
    assert result.history["loss"][0] != 7.0


class Recording(pickle.Unpickler):
    """Notes what a pickle names: all that it can call."""

    def __init__(self, file):
        super().__init__(file)
        self.named = {}

    def find_class(self, module, name):
        found = super().find_class(module, name)
        self.named[f"{module}.{name}"] = found
        return found


# What is no class: it rebuilds arrays, or is named and not called.
REBUILD = {
    "numpy._core.multiarray._reconstruct",
    "jax._src.array._reconstruct_array",
    "funcnet.training.result._not_pickled",
    "funcnet.metrics.labels.accuracy",
}


# A key is rebuilt with the functions of its generator.
PRNG = ("jax._src.random.", "jax._src.prng.")


def test_unpickling_runs_constructors_alone(result):
    reader = Recording(io.BytesIO(pickle.dumps(result)))
    reader.load()
    functions = {name for name, found in reader.named.items() if not isinstance(found, type)}
    assert "funcnet.training.result.FitResult" in reader.named
    rebuild = {name for name in functions if not name.startswith(PRNG)}
    assert rebuild <= REBUILD, functions


def test_functions_as_layers_are_found_by_their_name():
    """A jitted function, as JAX's are, is none that pickle can store by itself."""
    for function in (jnp.tanh, jax.nn.relu, no_init):
        model = fn.Sequential(fn.Linear(3, 2), function)
        assert pickle.loads(pickle.dumps(model)) == model
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(fn.Sequential(lambda x: x))


def test_a_loss_without_a_name_is_pickles_own_error(result):
    unnamed = dataclasses.replace(result.trainer, loss=lambda a, b: jnp.mean(a) * 0)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(dataclasses.replace(result, trainer=unnamed))
