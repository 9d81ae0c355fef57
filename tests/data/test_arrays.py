"""x and y are any pytrees of arrays with one leading axis, wherever a set is taken."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.data import arrays
from funcnet.errors import DataError, DtypeError, ShapeError
from tests.same_bits import assert_same_bits

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LEFT, RIGHT = RNG.normal(size=(7, 2)), RNG.normal(size=(7, 3))
X = {"left": LEFT, "right": RIGHT}
Y = (RNG.integers(0, 3, 7), RNG.normal(size=(7, 1)))


@dataclasses.dataclass(frozen=True)
class TwoHeads(fn.Module):
    """A dict of two inputs to a tuple of two outputs."""

    body: fn.Module

    def init(self, key, dtype=jnp.float32):
        return self.body.init(key, dtype)

    def apply(self, params, state, x: Any, *, key: Any = None, train=False):
        both = jnp.concatenate([x["left"], x["right"]], axis=-1)
        out, state = self.body.apply(params, state, both)
        return (out[..., :3], out[..., 3:]), state


def loss(prediction, target):
    labels, number = target
    return fn.ops.cross_entropy(prediction[0], labels) + fn.ops.mse_loss(prediction[1], number)


def accuracy(y_true, y_pred):
    return fn.metrics.accuracy(y_true[0], y_pred[0])


def test_fit_run_step_evaluate_and_predict_take_trees():
    model, optimizer = TwoHeads(fn.Linear(5, 4)), optax.sgd(0.1)
    result = fn.fit(
        model, loss, optimizer, (X, Y), epochs=4, batch_size=3, key=KEY, progress=False,
        validation=(X, Y), metrics={"accuracy": accuracy},
    )  # fmt: skip
    t = fn.Trainer(model, loss, optimizer, 3)
    run, history = t.run(t.init(KEY), (X, Y), 4)
    assert_same_bits(result.run, run)
    assert_same_bits(result.history["loss"], np.asarray(history["loss"]))
    assert history["loss"][-1] < history["loss"][0]
    assert result.accuracy is None
    logits, numbers = result.predict(X)
    assert (logits.shape, numbers.shape) == ((7, 3), (7, 1))
    found = result.evaluate((X, Y))
    right = np.asarray(logits).argmax(axis=-1) == Y[0]
    assert found["accuracy"] == pytest.approx(right.mean())
    expected = t.evaluate(result.params, result.state, (X, Y))
    assert found["loss"] == pytest.approx(float(expected), rel=1e-6)
    after, _ = t.step(run, (X, Y))
    assert after.step == run.step + 1


def test_what_is_a_tree_and_what_an_array_in_the_making():
    def shapes(x):
        return jax.tree.map(lambda a: a.shape, arrays.as_examples("x", x, jnp.float32))

    assert shapes([[1.0, 2.0], [3.0, 4.0]]) == (2, 2)
    assert shapes(((1.0, 2.0), (3.0, 4.0))) == (2, 2)
    assert shapes([LEFT[0], LEFT[1]]) == (2, 2)
    assert shapes((LEFT, RIGHT)) == ((7, 2), (7, 3))
    assert shapes({"a": [1, 2], "b": {"c": LEFT[:2]}}) == {"a": (2,), "b": {"c": (2, 2)}}


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (
            {"left": LEFT, "right": RIGHT[:6]},
            ShapeError,
            r"x\['left'\] has 7 examples and data's x",
        ),
        ({"left": LEFT[:6]}, ShapeError, r"data's x has 6 examples and y has 7"),
        ({}, DtypeError, "data's x is {}, expected an array"),
        ({"left": None}, DtypeError, r"data's x\['left'\] is None, expected an array"),
        ({"left": LEFT * np.nan}, DataError, r"data's x\['left'\] is nan at \[0, 0\]"),
        ({"left": ["a"] * 7}, DtypeError, r"data's x\['left'\] has dtype <U1"),
    ],
)
def test_what_does_not_fit_is_named(x, error, says):
    with pytest.raises(error, match=says):
        arrays.checked("data", (x, Y), jnp.float32)
