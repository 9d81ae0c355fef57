"""Remat: the layer's values, gradients, keys and states, with less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 5, 6))
BLOCK = fn.TransformerEncoderLayer(6, 3, 8, dropout=0.5)


def gradients(layer, params, state, **options):
    def apply(params, x):
        return layer.apply(params, state, x, key=KEY, train=True, **options).value

    @jax.jit
    def passes(params, x):
        y, pullback = jax.vjp(apply, params, x)
        return y, pullback(jax.random.normal(jax.random.key(1), y.shape))

    return passes(params, X)


def agree(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("options", [{}, {"is_causal": True, "src_mask": jnp.eye(5) > 0}])
def test_values_and_gradients_are_the_layers(options):
    params, state = BLOCK.init(KEY)
    wrapped = fn.Remat(BLOCK)
    again, _ = wrapped.init(KEY)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    agree(gradients(wrapped, params, state, **options), gradients(BLOCK, params, state, **options))


def test_states_and_carries_pass():
    norm = fn.BatchNorm1d(6)
    params, state = norm.init(KEY)
    _, after = fn.Remat(norm).apply(params, state, X[0], train=True)
    jax.tree.map(
        np.testing.assert_array_equal, after, norm.apply(params, state, X[0], train=True)[1]
    )
    stack = fn.Stack(fn.Remat(fn.GRUCell(6, 6)))
    params, state = stack.init(KEY)
    (y, carries), _ = stack.apply(params, state, X[0], (jnp.ones((5, 6)),))
    np.testing.assert_array_equal(y, carries[0])


def test_the_backward_pass_keeps_less():
    block = fn.Sequential(*[fn.Linear(8, 8), fn.Tanh()] * 5)

    def memory(wrap):
        model = fn.Sequential(*[wrap(block) for _ in range(6)])
        params, state = model.init(KEY)
        x = jnp.ones((64, 40, 8))

        def loss(params):
            return fn.ops.mse_loss(model.apply(params, state, x).value, x)

        analysis = jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert memory(fn.Remat) < 0.5 * memory(lambda block: block)


def test_a_model_trains_and_travels():
    model = fn.Sequential(fn.Remat(fn.Sequential(fn.Linear(6, 6), fn.Tanh())), fn.Linear(6, 2))
    plain = fn.Sequential(fn.Sequential(fn.Linear(6, 6), fn.Tanh()), fn.Linear(6, 2))
    data = X.reshape(20, 6), jnp.arange(20) % 2
    loss, options = fn.CrossEntropyLoss(), {"epochs": 2, "key": KEY, "progress": False}
    result = fn.fit(model, loss, optax.sgd(0.1), data, **options)
    expected = fn.fit(plain, loss, optax.sgd(0.1), data, **options)
    agree(result.params, expected.params)
    names = fn.interop.state_dict(result.params)
    assert list(names) == list(fn.interop.state_dict(expected.params))


def test_what_is_no_layer_or_is_not_taken_is_refused():
    with pytest.raises(ConfigError, match="Remat's layer is 3"):
        fn.Remat(3)  # pyright: ignore[reportArgumentType]
    params, state = BLOCK.init(KEY)
    for x, key in ((np.ma.masked_array(X, X > 0), KEY), (X, "key"), ("text", KEY)):
        with pytest.raises(DtypeError):
            fn.Remat(BLOCK).apply(params, state, x, key=key)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="got the option 'mask'"):
        fn.Remat(BLOCK).apply(params, state, X, mask=None)
    assert eval(repr(fn.Remat(fn.ReLU())), {**vars(fn)}) == fn.Remat(fn.ReLU())
