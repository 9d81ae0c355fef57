"""`backward` shows what `jax.grad` computes, layer by layer and call by call."""

import dataclasses
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError
from tests.layers.test_composition import BATCH, GPT, IDS, Recurrent, Scaled, Towers, Twice
from tests.same_bits import assert_same_bits

KEY = jax.random.key(2)
INNER = fn.Sequential(fn.Tanh(), fn.Linear(3, 4, bias=False), fn.ReLU())
NESTED = fn.Sequential(fn.Linear(2, 3), INNER, fn.Linear(4, 3))
X = jax.random.normal(KEY, (5, 2))
LABELS = jnp.array([0, 2, 1, 1, 0])


@pytest.mark.few(5)
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


def test_a_loss_that_is_no_array_is_refused():
    model, x = fn.Linear(2, 1), jnp.ones((2, 2))
    params, state = model.init(jax.random.key(0))

    def no_loss(prediction, target) -> Any:
        return 3.0

    with pytest.raises(DtypeError, match="the loss is float, expected one"):
        fn.backward(model, params, state, no_loss, x, x)


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.slow
def test_a_model_with_names_is_taken_apart():
    model = GPT(vocabulary=11, context=6, width=8, heads=2, depth=1)
    params, state = model.init(KEY)
    loss, targets = fn.CrossEntropyLoss(), jnp.roll(IDS, -1, axis=1)
    found = fn.backward(model, params, state, loss, IDS, targets)
    forward = [
        *("wte", "wpe", "h.0.ln_1", "h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.attn", "h.0.ln_2"),
        *("h.0.mlp.c_fc", "h.0.mlp.act", "h.0.mlp.c_proj", "h.0", "ln_f", ""),
    ]
    assert [trace.path for trace in found.layers] == forward
    # In both directions a container comes behind its layers.
    assert [trace.path for trace in found.layers_backward] == [
        *("ln_f", "h.0.mlp.c_proj", "h.0.mlp.act", "h.0.mlp.c_fc", "h.0.ln_2"),
        *("h.0.attn.c_proj", "h.0.attn.c_attn", "h.0.attn", "h.0.ln_1", "h.0", "wpe", "wte", ""),
    ]
    d_params = jax.grad(lambda p: loss(model.apply(p, state, IDS)[0], targets))(params)
    assert_close(found.d_params, d_params)
    rows = {trace.path: trace for trace in found.layers}
    assert_close(rows["h.0.attn.c_proj"].d_params, d_params["h"][0]["attn"]["c_proj"])
    block = rows["h.0"]
    assert_close(block.d_input, rows["wte"].d_output)
    assert block.d_params == ()
    # The embedding's row has its part of the tied weight's cotangent, the head has the other.
    x, head = rows["ln_f"].output, found.d_prediction
    of_head = jnp.einsum("bto,bti->oi", head, x)
    assert_close(rows["wte"].d_params["weight"] + of_head, d_params["wte"]["weight"])
    assert rows["wte"].d_input is None
    text = str(found)
    assert "layer h.0.mlp.c_proj: Linear(" in text
    assert "layer h.0: Block" in text


def test_each_call_of_a_shared_layer_has_its_row():
    model = Twice(fn.Linear(2, 2))
    params, state = model.init(KEY)
    y = jnp.ones((5, 2))
    found = fn.backward(model, params, state, fn.MSELoss(), X, y)
    assert [(t.path, t.call) for t in found.layers] == [
        *(("shared", 0), ("shared", 1), ("first", 0), ("", 0))
    ]
    first, second, *_ = found.layers
    assert_same_bits(first.output, second.input)
    assert_same_bits(first.d_output, second.d_input)
    d_params = jax.grad(lambda p: fn.MSELoss()(model.apply(p, state, X)[0], y))(params)
    assert_close(jax.tree.map(jnp.add, first.d_params, second.d_params), d_params["shared"])
    assert_close(found.d_params, d_params)
    assert second.title == "layer shared: Linear(in_features=2, out_features=2, bias=True), call 2"


def test_a_container_called_twice_has_the_rows_of_both_calls():
    model = Twice(fn.Residual(fn.Linear(2, 2)))
    params, state = model.init(KEY)
    found = fn.backward(model, params, state, fn.MSELoss(), X, jnp.ones((5, 2)))
    forward = ["shared.0", "shared", "shared.0", "shared", "first", ""]
    backward = ["first", "shared.0", "shared", "shared.0", "shared", ""]
    assert [trace.path for trace in found.layers] == forward
    assert [trace.path for trace in found.layers_backward] == backward


def product_loss(prediction, target):
    return jnp.square(prediction["product"] - target["product"]).mean()


def test_inputs_and_outputs_may_be_trees():
    model = Towers()
    params, state = model.init(KEY)
    target = {"product": jnp.ones((5, 4))}
    found = fn.backward(model, params, state, product_loss, BATCH, target)

    def total(params, pixels):
        x = {**BATCH, "pixels": pixels}
        return product_loss(model.apply(params, state, x)[0], target)

    d_params, d_pixels = jax.grad(total, argnums=(0, 1))(params, BATCH["pixels"])
    assert_close(found.d_params, d_params)
    whole = found.layers[-1]
    assert whole.path == ""
    assert whole.output["product"].shape == (5, 4)
    assert_close(whole.d_input["pixels"], d_pixels)
    assert whole.d_input["label"] is whole.d_output["label"] is None
    assert_close(whole.d_params, {"scale": d_params["scale"]})
    text = str(found)
    assert "X['pixels'] (5, 3)" in text
    assert "dX['pixels'] (5, 3)" in text
    assert "d scale (4,)" in text


def test_further_inputs_and_options_are_passed_on():
    x, h = jnp.ones((2, 2, 3)), jnp.full((2, 4), 0.5)
    model = Recurrent()
    params, state = model.init(KEY)

    def loss(prediction, target):
        return (prediction[0].sum() + prediction[1].sum() - target) ** 2

    found = fn.backward(model, params, state, loss, x, 1.0, inputs=(h,))
    d_h = jax.grad(lambda h: loss(model.apply(params, state, x, h)[0], 1.0))(h)
    assert_close(found.layers[-1].d_inputs, (d_h,))
    assert "dX[1] (2, 4)" in str(found)
    scaled = fn.Sequential(Scaled(), fn.ReLU())
    found = fn.backward(scaled, ((), ()), ((), ()), fn.MSELoss(), X, X, scale=3.0)
    assert_same_bits(found.layers[0].output, X * 3)
    with pytest.raises(ConfigError, match="option 'size'"):
        fn.backward(scaled, ((), ()), ((), ()), fn.MSELoss(), X, X, size=3.0)
    with pytest.raises(
        DtypeError, match=r"backward: x\['a'\] is list|backward: x\['a'\]\[0\] is int"
    ):
        fn.backward(model, params, state, fn.MSELoss(), {"a": [1]}, X)


@dataclasses.dataclass(frozen=True)
class Overflow(fn.Container):
    @property
    def children(self):
        return {"fc": fn.Linear(2, 2), "big": lambda x: jnp.exp(x * 1e4), "last": fn.Linear(2, 2)}

    def connect(self, call, x):
        return x + call.last(call.big(call.fc(x)))


def test_a_divergence_names_the_layer_by_its_path():
    model = fn.Sequential(block=Overflow(), head=fn.Linear(2, 2))
    data = (np.full((4, 2), 3, np.float32), np.ones((4, 2), np.float32))
    fit: Any = {"epochs": 1, "key": KEY, "progress": False}
    with pytest.raises(
        fn.DivergenceError, match=r"the output of Function\(<lambda>\) \(layer block.big\)"
    ):
        fn.fit(model, fn.MSELoss(), optax.sgd(0.1), data, **fit)
