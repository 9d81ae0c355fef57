"""`backward` shows what `jax.grad` computes; `summary` shows what `init` and `apply` make."""

import dataclasses
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import DtypeError
from tests.same_bits import assert_same_bits

KEY = jax.random.key(2)
INNER = fn.Sequential(fn.Tanh(), fn.Linear(3, 4, bias=False), fn.ReLU())
NESTED = fn.Sequential(fn.Linear(2, 3), INNER, fn.Linear(4, 3))
X = jax.random.normal(KEY, (5, 2))
LABELS = jnp.array([0, 2, 1, 1, 0])


@pytest.mark.parametrize("model", [NESTED, fn.Linear(2, 3), fn.Sequential(fn.Linear(2, 3))])
@pytest.mark.parametrize("loss", [fn.CrossEntropyLoss(label_smoothing=0.1), fn.MSELoss()])
def test_the_numbers_are_those_of_grad(model, loss):
    params, state = model.init(KEY)
    y = jax.nn.one_hot(LABELS, 3) if isinstance(loss, fn.MSELoss) else LABELS
    found = fn.backward(model, params, state, loss, X, y)

    def total(params, x):
        return loss(model.apply(params, state, x)[0], y)

    value, (d_params, d_x) = jax.value_and_grad(total, argnums=(0, 1))(params, X)
    assert jax.tree.structure(found.d_params) == jax.tree.structure(params)
    np.testing.assert_allclose(found.loss, value, rtol=1e-6)
    close: Any = {"rtol": 1e-5, "atol": 1e-7}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), found.d_params, d_params)
    np.testing.assert_allclose(found.layers[0].d_input, d_x, **close)
    prediction, _ = model.apply(params, state, X)
    assert_same_bits(found.layers[-1].output, prediction)
    np.testing.assert_allclose(found.d_prediction, jax.grad(loss)(prediction, y), **close)


def test_each_layer_stands_with_its_neighbours():
    params, state = NESTED.init(KEY)
    found = fn.backward(NESTED, params, state, fn.CrossEntropyLoss(), X, LABELS)
    assert [trace.path for trace in found.layers] == ["0", "1.0", "1.1", "1.2", "2"]
    assert [trace.layer for trace in found.layers] == [
        NESTED.layers[0],
        *INNER.layers,
        NESTED.layers[2],
    ]
    assert_same_bits(found.layers[0].input, X)
    assert_same_bits(found.layers[-1].d_output, found.d_prediction)
    for before, after in zip(found.layers, found.layers[1:], strict=False):
        assert before.output is after.input
        assert_same_bits(before.d_output, after.d_input)
    for trace in found.layers:
        assert trace.d_input.shape == trace.input.shape
        assert trace.d_output.shape == trace.output.shape
    relu = found.layers[3]
    np.testing.assert_array_equal(relu.d_input, np.where(relu.input > 0, relu.d_output, 0))
    assert found.layers[1].d_params == ()


@dataclasses.dataclass(frozen=True)
class Noise(fn.Module):
    def apply(self, params, state, x, *, key: Any = None, train=False):
        return (x + jax.random.normal(key, x.shape) if train else x), state


def test_random_layers_draw_as_in_apply():
    model = fn.Sequential(fn.Linear(2, 3), fn.Sequential(fn.Tanh(), Noise()))
    params, state = model.init(KEY)
    key = jax.random.key(8)
    loss = fn.CrossEntropyLoss()
    for train in (True, False):
        found = fn.backward(model, params, state, loss, X, LABELS, key=key, train=train)
        expected, _ = model.apply(params, state, X, key=key, train=train)
        np.testing.assert_allclose(found.layers[-1].output, expected, rtol=1e-6)


def test_printing_shows_every_number_of_a_tiny_network():
    model = fn.Sequential(fn.Linear(2, 1), fn.ReLU())
    params = ({"weight": jnp.array([[2.0, -1.0]]), "bias": jnp.array([0.5])}, ())
    found = fn.backward(
        model, params, ((), ()), fn.MSELoss(), jnp.array([[1.0, 1.0]]), jnp.array([[0.0]])
    )
    assert repr(found) == "Backward(2 layers, loss=2.25)"
    assert str(found) == textwrap.dedent("""\
        forward
            X (1, 2)
              [[1. 1.]]
          layer 0: Linear(in_features=2, out_features=1, bias=True)
            Y (1, 1)
              [[1.5]]
          layer 1: ReLU()
            Y (1, 1)
              [[1.5]]
          loss = 2.25

        backward
            d prediction (1, 1)
              [[3.]]
          layer 1: ReLU()
            dX (1, 1)
              [[3.]]
          layer 0: Linear(in_features=2, out_features=1, bias=True)
            d bias (1,)
              [3.]
            d weight (1, 2)
              [[3. 3.]]
            dX (1, 2)
              [[ 6. -3.]]""")


def test_large_arrays_are_printed_in_part():
    model = fn.Linear(200, 100)
    params, state = model.init(KEY)
    x = jnp.ones((50, 200))
    found = fn.backward(model, params, state, fn.MSELoss(), x, jnp.ones((50, 100)))
    assert "..." in str(found)
    assert len(str(found)) < 5000


def test_a_model_without_layers():
    found = fn.backward(fn.Sequential(), (), (), fn.MSELoss(), jnp.ones(2), jnp.zeros(2))
    assert found.loss == 1
    assert found.layers == found.d_params == ()
    assert "d prediction" in str(found)


@pytest.mark.parametrize("batch", [(), (100,), (3, 4)])
def test_summary_tells_shapes_and_counts(batch, capsys):
    table = fn.summary(NESTED, (*batch, 2))
    assert [(row.path, row.output_shape, row.parameters) for row in table.rows] == [
        ("0", (*batch, 3), 9),
        ("1.0", (*batch, 3), 0),
        ("1.1", (*batch, 4), 12),
        ("1.2", (*batch, 4), 0),
        ("2", (*batch, 3), 15),
    ]
    assert [row.layer for row in table.rows] == [
        repr(layer) for layer in (NESTED.layers[0], *INNER.layers, NESTED.layers[2])
    ]
    params, _ = NESTED.init(KEY)
    assert table.parameters == 36 == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert capsys.readouterr().out == f"{table}\n"
    assert repr(table) == "Summary(5 layers, 36 parameters)"


def test_summary_lines_up(capsys):
    table = str(fn.summary(fn.Sequential(fn.Linear(784, 512), fn.ReLU()), (784,)))
    assert table == textwrap.dedent("""\
           layer                                                 output shape  parameters
        ---------------------------------------------------------------------------------
        0  Linear(in_features=784, out_features=512, bias=True)  (512,)           401,920
        1  ReLU()                                                (512,)                 0
        ---------------------------------------------------------------------------------
           total                                                                  401,920""")


def test_summary_of_a_lone_layer():
    assert [row.path for row in fn.summary(fn.Linear(2, 3), (2,)).rows] == ["0"]


def test_summary_computes_nothing():
    """A model that no memory holds."""
    table = fn.summary(fn.Linear(10**6, 10**6), (10**6,))
    assert table.parameters == 10**12 + 10**6


def test_a_loss_that_is_no_array_is_refused():
    model, x = fn.Linear(2, 1), jnp.ones((2, 2))
    params, state = model.init(jax.random.key(0))

    def no_loss(prediction, target) -> Any:
        return 3.0

    with pytest.raises(DtypeError, match="the loss is float, expected one"):
        fn.backward(model, params, state, no_loss, x, x)
