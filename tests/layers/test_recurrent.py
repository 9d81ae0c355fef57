"""RNN, LSTM, GRU and their cells: PyTorch's to 1e-9, carries and gradients too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import ConfigError, DtypeError, ShapeError

BATCH, T, INPUTS, HIDDEN = 3, 5, 4, 6
RNG = np.random.default_rng(0)
LENGTHS = np.array([3, 5, 1])

LAYERS = {
    "RNN": (fn.RNN, {}),
    "RNN, relu": (fn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (fn.LSTM, {}),
    "LSTM, projected": (fn.LSTM, {"proj_size": 2}),
    "GRU": (fn.GRU, {}),
}
SHAPES = {
    "one layer": {},
    "no bias": {"bias": False},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
}


def carry_of(layer, leading=(BATCH,)):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    outputs = getattr(layer, "proj_size", 0) or HIDDEN
    h = RNG.normal(size=(rows, *leading, outputs))
    return (h, RNG.normal(size=(rows, *leading, HIDDEN))) if isinstance(layer, fn.LSTM) else h


def torchs(value, **options):
    import torch

    return jax.tree.map(lambda a: torch.tensor(a, **options), value)


def compare(params, found, pullback, theirs, expected, inputs):
    """Outputs, and the cotangents of inputs and parameters, for a random cotangent."""
    import torch

    cotangents = jax.tree.map(lambda y: jnp.asarray(RNG.normal(size=y.shape)), found)
    of_params, *of_inputs = pullback(cotangents)
    torch.autograd.backward(jax.tree.leaves(expected), jax.tree.leaves(torchs(cotangents)))
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    given = jax.tree.leaves(inputs)
    pairs += list(zip(jax.tree.leaves(of_inputs), [a.grad for a in given], strict=True))
    pairs += [(of_params[name], p.grad) for name, p in theirs.named_parameters()]
    for a, b in pairs:
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.torch
@pytest.mark.few(7)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LAYERS)
def test_they_are_pytorchs(name, shape, padded):
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    kind, options = LAYERS[name]
    options = options | SHAPES[shape]
    layer = kind(INPUTS, HIDDEN, **options)
    theirs = getattr(torch.nn, kind.__name__)(INPUTS, HIDDEN, batch_first=True, **options).double()
    params, state = layer.init(jax.random.key(0), dtype=jnp.float64)
    params, state = fn.interop.load_state_dict(theirs.state_dict(), params, state)
    x, carry = RNG.normal(size=(BATCH, T, INPUTS)), carry_of(layer)
    given = torchs((x, carry), requires_grad=True)
    if padded:
        packed = pack_padded_sequence(
            given[0], torchs(LENGTHS), batch_first=True, enforce_sorted=False
        )
        y, last = theirs(packed, given[1])
        y = pad_packed_sequence(y, batch_first=True, total_length=T)[0]
    else:
        y, last = theirs(*given)

    def apply(params, x, carry):
        lengths = jnp.asarray(LENGTHS) if padded else None
        return layer.apply(params, state, x, carry, lengths=lengths)[0]

    found, pullback = jax.vjp(apply, params, *jax.tree.map(jnp.asarray, (x, carry)))
    compare(params, found, pullback, theirs, (y, last), given)


@pytest.mark.torch
@pytest.mark.few(4)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_are_pytorchs(name, bias):
    import torch

    layer = getattr(fn, name)(INPUTS, HIDDEN, bias=bias)
    theirs = getattr(torch.nn, name)(INPUTS, HIDDEN, bias=bias).double()
    params, state = layer.init(jax.random.key(0), dtype=jnp.float64)
    params, state = fn.interop.load_state_dict(theirs.state_dict(), params, state)
    x = RNG.normal(size=(BATCH, INPUTS))
    h, c = RNG.normal(size=(2, BATCH, HIDDEN))
    carry = (h, c) if name == "LSTMCell" else h
    given = torchs((x, carry), requires_grad=True)

    def apply(params, x, carry):
        return layer.apply(params, state, x, carry)[0][1]

    found, pullback = jax.vjp(apply, params, *jax.tree.map(jnp.asarray, (x, carry)))
    compare(params, found, pullback, theirs, theirs(*given), given)


def made(layer):
    return layer.init(jax.random.key(0))


def x_of(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("kind", [fn.RNN, fn.LSTM, fn.GRU])
def test_a_run_in_two_parts_is_one_run(kind):
    """Who gives a carry gets one back, and goes on from it."""
    layer = kind(INPUTS, HIDDEN, num_layers=2)
    params, state = made(layer)
    x = x_of(2, T, INPUTS)
    whole, _ = layer.apply(params, state, x)
    zeros = jax.tree.map(jnp.zeros_like, jax.tree.map(jnp.asarray, carry_of(layer, (2,))))
    zeros = jax.tree.map(lambda a: a.astype(jnp.float32), zeros)
    (first, carry), _ = layer.apply(params, state, x[:, :2], zeros)
    (second, _), _ = layer.apply(params, state, x[:, 2:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)


@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_any_leading_axes(leading):
    layer = fn.LSTM(INPUTS, HIDDEN, bidirectional=True)
    params, state = made(layer)
    x = x_of(*leading, T, INPUTS)
    y, _ = layer.apply(params, state, x)
    assert y.shape == (*leading, T, 2 * HIDDEN)
    flat, _ = layer.apply(params, state, x.reshape(-1, T, INPUTS))
    np.testing.assert_allclose(y, flat.reshape(y.shape), atol=1e-6)


@pytest.mark.parametrize("reverse", [True, False])
def test_padding_counts_nothing(reverse):
    params, _ = made(fn.GRU(INPUTS, HIDDEN))
    weights = {name.removesuffix("_l0"): array for name, array in params.items()}
    x, h = x_of(2, T, INPUTS), x_of(2, HIDDEN)
    lengths = jnp.array([2, 0])

    def run(x, lengths=lengths):
        return ops.gru(x, h, **weights, lengths=lengths, reverse=reverse)

    (y, last), pullback = jax.vjp(run, x)
    alone, alone_last = ops.gru(x[:1, :2], h[:1], **weights, reverse=reverse)
    np.testing.assert_allclose(y[:1, :2], alone, atol=1e-6)
    np.testing.assert_allclose(last[:1], alone_last, atol=1e-6)
    np.testing.assert_array_equal(y[0, 2:], 0)
    np.testing.assert_array_equal(y[1], 0)
    np.testing.assert_array_equal(last[1], h[1])  # of no steps: what it began with
    (dx,) = pullback((x_of(*y.shape), x_of(*last.shape)))
    np.testing.assert_array_equal(dx[0, 2:], 0)
    np.testing.assert_array_equal(dx[1], 0)
    changed = run(x.at[0, 2:].set(jnp.nan).at[1].set(jnp.inf))
    np.testing.assert_array_equal(changed[0], y)
    np.testing.assert_array_equal(changed[1], last)


def test_dropout_stands_between_layers_in_training_alone():
    layer = fn.RNN(INPUTS, HIDDEN, num_layers=2, dropout=0.5)
    params, state = made(layer)
    x = x_of(BATCH, T, INPUTS)
    outputs = [
        layer.apply(params, state, x, key=jax.random.key(seed), train=train)[0]
        for seed, train in ((0, False), (1, False), (0, True), (0, True), (1, True))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], outputs[3])
    assert not np.allclose(outputs[2], outputs[4])
    with pytest.raises(DtypeError, match="no key to draw from"):
        layer.apply(params, state, x, train=True)


def test_a_sequential_trains_one():
    """To say whether there were more ones than minus ones, which needs a memory."""
    x = np.random.default_rng(0).choice([-1.0, 1.0], size=(300, 7, 1)).astype(np.float32)
    y = np.where(x.cumsum(axis=1) > 0, 1, 0)[..., 0]
    model = fn.Sequential(fn.LSTM(1, 8), fn.Linear(8, 2))
    result = fn.fit(
        model,
        fn.CrossEntropyLoss(),
        optax.adam(0.02),
        (x, y),
        epochs=30,
        key=jax.random.key(0),
        progress=False,
    )
    assert result.accuracy is not None
    assert result.accuracy > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.RNN(0, 3), "RNN's input_size is 0, expected at least 1"),
        (lambda: fn.RNN(3, 3, nonlinearity="gelu"), "expected one of"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.LSTM(3, 3, proj_size=3), "less than hidden_size, 3"),
        (lambda: fn.LSTM(3, 3, dropout=0.5), "expected more layers"),
        (lambda: fn.GRU(3, 3, num_layers=2, dropout=1.5), "dropout is 1.5"),
        (lambda: fn.GRU(3, 3, bidirectional=1), "expected True or False"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.RNNCell(3, 3, nonlinearity=""), "expected one of"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.LSTMCell(3, True), "expected an integer"),
    ],
)
def test_options_without_meaning_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "x", "options", "error", "message"),
    [
        (fn.GRU(3, 4), x_of(2, 5, 4), {}, ShapeError, r"expected \(batch, T, 3\), batch first"),
        (fn.GRU(3, 4), x_of(3), {}, ShapeError, r"expected \(batch, T, 3\)"),
        (fn.GRU(3, 4), x_of(2, 5, 3), {"carry": x_of(2, 4)}, ShapeError, r"\(1, 2, 4\)"),
        (fn.LSTM(3, 4), x_of(2, 5, 3), {"carry": x_of(1, 2, 4)}, ShapeError, "of h and of c"),
        (fn.GRU(3, 4), x_of(2, 5, 3), {"lengths": jnp.ones(2)}, DtypeError, "expected integers"),
        (fn.GRU(3, 4), x_of(2, 5, 3), {"lengths": jnp.arange(3)}, ShapeError, r"expected \(2,\)"),
        (fn.LSTMCell(3, 4), x_of(2, 5), {}, ShapeError, "set input_size=5"),
        (fn.LSTMCell(3, 4), x_of(2, 3), {"carry": x_of(2, 4)}, ShapeError, r"a pair \(h, c\)"),
        (fn.GRUCell(3, 4), x_of(2, 3), {"carry": x_of(2, 5)}, ShapeError, r"expected \(2, 4\)"),
        (fn.RNN(3, 4), [1.0], {}, DtypeError, "jnp.asarray"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, x, options, error, message):
    with pytest.raises(error, match=message) as caught:
        layer.apply(*made(layer), x, **options)
    assert type(layer).__name__ in str(caught.value)


def test_layers_compare_by_value():
    layer = fn.LSTM(3, 4, num_layers=np.int64(2))  # pyright: ignore[reportArgumentType]
    assert layer == fn.LSTM(3, 4, 2)
    assert hash(layer) == hash(dataclasses.replace(layer))
