"""MultiheadAttention and the transformer's layers: PyTorch's to 1e-9, gradients and weights too."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError, ShapeError

BATCH, L, S, E, HEADS = 2, 4, 5, 6, 3
RNG = np.random.default_rng(0)


def hiding(*shape):
    """Booleans, True hides; never the first key."""
    hidden = RNG.uniform(size=shape) > 0.6
    hidden[..., 0] = False
    return hidden


PADDING, HIDDEN = hiding(BATCH, S), hiding(L, S)
BIASES = RNG.normal(size=(BATCH * HEADS, L, S))
MASKS = {
    "no mask": {},
    "hidden": {"attn_mask": HIDDEN},
    "hidden and padding": {"attn_mask": HIDDEN, "key_padding_mask": PADDING},
    "numbers": {"attn_mask": BIASES},
    "numbers and padding": {
        "attn_mask": BIASES[0],
        "key_padding_mask": np.where(PADDING, -np.inf, 0.3),
    },
}
OPTIONS = {
    "as it is": {},
    "no bias": {"bias": False},
    "more keys": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 7, "vdim": 3},
    "other keys": {"kdim": 7},
}


def with_torchs_weights(layer, theirs):
    """Params and state of a layer, with PyTorch's random weights, of which no bias is 0."""
    import torch

    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    params, state = layer.init(jax.random.key(0), dtype=jnp.float64)
    assert set(fn.interop.state_dict(params)) == set(theirs.state_dict())
    return fn.interop.load_state_dict(theirs.state_dict(), params, state)


def compare(layer, theirs, inputs, ours_of, theirs_of):
    """Outputs, and cotangents of all inputs and parameters, equal."""
    import torch

    theirs = theirs.double()
    params, state = with_torchs_weights(layer, theirs)
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = theirs_of(theirs, *leaves)
    expected = [
        y for y in (expected if isinstance(expected, tuple) else (expected,)) if y is not None
    ]

    def function(params, *inputs):
        return jax.tree.leaves(ours_of(layer, params, state, *inputs)[0])

    found, pullback = jax.vjp(function, params, *map(jnp.asarray, inputs))
    cotangents = [RNG.normal(size=y.shape) for y in found]
    of_params, *of_inputs = pullback([jnp.asarray(g) for g in cotangents])
    torch.autograd.backward(expected, [torch.tensor(g) for g in cotangents])

    pairs = [(a, b.detach().numpy()) for a, b in zip(found, expected, strict=True)]
    pairs += [(a, b.grad.numpy()) for a, b in zip(of_inputs, leaves, strict=True)]  # pyright: ignore[reportOptionalMemberAccess]
    gradient = fn.interop.state_dict(of_params)
    pairs += [(gradient[name], p.grad.numpy()) for name, p in theirs.named_parameters()]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def torch_masks(masks):
    import torch

    return {name: torch.tensor(mask) for name, mask in masks.items()}


@pytest.mark.torch
@pytest.mark.few(9)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("options", OPTIONS)
def test_attention_is_pytorchs(options, masks, need_weights):
    import torch

    options, masks = OPTIONS[options], MASKS[masks]
    sizes = E, options.get("kdim", E), options.get("vdim", E)
    inputs = [RNG.normal(size=(BATCH, n, size)) for n, size in zip((L, S, S), sizes, strict=True)]
    compare(
        fn.MultiheadAttention(E, HEADS, **options),
        torch.nn.MultiheadAttention(E, HEADS, batch_first=True, **options),
        inputs,
        lambda layer, *args: layer.apply(*args, need_weights=need_weights, **masks),
        lambda layer, *args: layer(*args, need_weights=need_weights, **torch_masks(masks)),
    )


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("leading", [(), (BATCH,)])
def test_self_attention_is_pytorchs(leading):
    import torch

    compare(
        fn.MultiheadAttention(E, HEADS),
        torch.nn.MultiheadAttention(E, HEADS, batch_first=True),
        [RNG.normal(size=(*leading, L, E))],
        lambda layer, *args: layer.apply(*args),
        lambda layer, x: layer(x, x, x, need_weights=False),
    )


@pytest.mark.torch
@pytest.mark.few(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_is_pytorchs(activation, norm_first):
    import torch

    options = {"dropout": 0.0, "activation": activation, "norm_first": norm_first}
    later = np.triu(np.ones((L, L), bool), 1)
    masks = {"src_mask": later, "src_key_padding_mask": PADDING[:, :L]}
    ours = {"is_causal": True, "src_key_padding_mask": PADDING[:, :L]}
    compare(
        fn.TransformerEncoderLayer(E, HEADS, 8, **options),
        torch.nn.TransformerEncoderLayer(E, HEADS, 8, batch_first=True, **options),
        [RNG.normal(size=(BATCH, L, E))],
        lambda layer, *args: layer.apply(*args, **ours),
        lambda layer, x: layer(x, **torch_masks(masks)),
    )


@pytest.mark.torch
@pytest.mark.few(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_decoder_layer_is_pytorchs(bias, norm_first):
    import torch

    options = {"dropout": 0.0, "norm_first": norm_first, "bias": bias}
    masks = {
        "tgt_mask": np.triu(np.ones((L, L), bool), 1),
        "memory_mask": HIDDEN,
        "memory_key_padding_mask": PADDING,
    }
    compare(
        fn.TransformerDecoderLayer(E, HEADS, 8, **options),
        torch.nn.TransformerDecoderLayer(E, HEADS, 8, batch_first=True, **options),
        [RNG.normal(size=(BATCH, L, E)), RNG.normal(size=(BATCH, S, E))],
        lambda layer, *args: layer.apply(*args, **masks),
        lambda layer, *args: layer(*args, **torch_masks(masks)),
    )


def x_of(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_weights_are_those_that_made_the_output():
    layer = fn.MultiheadAttention(E, 1, bias=False)
    params, state = layer.init(jax.random.key(0))
    x = x_of(BATCH, L, E)
    (y, weights), _ = layer.apply(params, state, x, is_causal=True, need_weights=True)
    np.testing.assert_array_equal(weights, jnp.tril(weights))
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    v = x @ params["in_proj_weight"][2 * E :].T
    np.testing.assert_allclose(y, (weights @ v) @ params["out_proj"]["weight"].T, atol=1e-6)


def test_keys_behind_the_others_are_seen_by_causal_queries():
    layer = fn.MultiheadAttention(E, HEADS, add_bias_kv=True, add_zero_attn=True)
    params, state = layer.init(jax.random.key(0))
    (_, weights), _ = layer.apply(
        params, state, x_of(BATCH, L, E), is_causal=True, need_weights=True
    )
    assert weights.shape == (BATCH, L, L + 2)
    seen = np.concatenate([np.tril(np.ones((L, L))), np.ones((L, 2))], axis=1) > 0
    np.testing.assert_array_equal(weights > 0, np.broadcast_to(seen, weights.shape))


def test_what_starts_at_zero_and_what_does_not():
    params, _ = fn.MultiheadAttention(E, HEADS, add_bias_kv=True).init(jax.random.key(0))
    assert not params["in_proj_bias"].any()
    assert not params["out_proj"]["bias"].any()
    bound = np.sqrt(6 / (4 * E))
    assert 0.8 * bound < abs(params["in_proj_weight"]).max() <= bound
    assert params["bias_k"].shape == params["bias_v"].shape == (1, 1, E)
    assert not np.array_equal(params["bias_k"], params["bias_v"])


@pytest.mark.slow
def test_dropout_draws_from_the_key_in_training_alone():
    layer = fn.TransformerEncoderLayer(E, HEADS, 8, dropout=0.5)
    params, state = layer.init(jax.random.key(0))
    x = x_of(BATCH, L, E)
    outputs = [
        layer.apply(params, state, x, key=jax.random.key(seed), train=train)[0]
        for seed, train in ((0, False), (1, False), (0, True), (0, True), (1, True))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], outputs[3])
    assert not np.allclose(outputs[2], outputs[4])
    assert not np.allclose(outputs[0], outputs[2])


@pytest.mark.slow
def test_a_transformer_is_trained():
    """To say which of its inputs comes last, which no layer without attention can tell."""
    model = fn.Sequential(
        embedding=fn.Embedding(5, 8),
        block=fn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=True),
        head=fn.Linear(8, 5),
    )
    x = np.random.default_rng(0).integers(0, 5, size=(200, 3))
    y = np.repeat(x.max(axis=1)[:, None], 3, axis=1)
    import optax

    result = fn.fit(
        model,
        fn.CrossEntropyLoss(),
        optax.adam(0.01),
        (x, y),
        epochs=40,
        key=jax.random.key(0),
        progress=False,
    )
    assert result.accuracy is not None
    assert result.accuracy > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.MultiheadAttention(6, 4), "expected a multiple of num_heads, 4"),
        (lambda: fn.MultiheadAttention(0, 1), "embed_dim is 0, expected at least 1"),
        (lambda: fn.MultiheadAttention(6, 3, dropout=2), "dropout is 2, expected a number in"),
        (lambda: fn.MultiheadAttention(6, 3, kdim=0), "kdim is 0, expected at least 1"),
        (lambda: fn.TransformerEncoderLayer(6, 4), "expected a multiple of num_heads, 4"),
        (lambda: fn.TransformerEncoderLayer(6, 3, activation="tanh"), "expected one of"),
        (lambda: fn.TransformerDecoderLayer(6, 3, norm_first=1), "expected True or False"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_options_without_meaning_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        ((x_of(2, 4, 5),), {}, ShapeError, r"expected \(batch, L, 6\)"),
        ((x_of(2, 4, 6), x_of(2, 5, 7)), {}, ShapeError, "kdim and vdim set other sizes"),
        ((x_of(2, 4, 6), x_of(3, 5, 6)), {}, ShapeError, "batch first"),
        ((x_of(2, 4, 6),), {"attn_mask": jnp.ones((4, 5), bool)}, ShapeError, r"\(4, 4\) or"),
        ((x_of(2, 4, 6),), {"attn_mask": jnp.ones((4, 4), int)}, DtypeError, "True where a key is"),
        ((x_of(2, 4, 6),), {"key_padding_mask": jnp.ones((4,), bool)}, ShapeError, r"\(2, 4\)"),
        ((x_of(2, 4, 6),), {"key_padding_mask": [True]}, DtypeError, "jnp.asarray"),
        ((x_of(2, 4, 6),), {"mask": None}, ConfigError, "got the option 'mask'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, options, error, message):
    layer = fn.Sequential(attn=fn.MultiheadAttention(6, 3))
    with pytest.raises(error, match=message) as caught:
        layer.apply(*layer.init(jax.random.key(0)), *inputs, **options)
    if "mask" not in options:
        assert "layer attn" in str(caught.value)


def test_layers_compare_by_value():
    layer = fn.TransformerEncoderLayer(6, 3)
    assert layer == dataclasses.replace(layer)
    assert hash(layer) == hash(dataclasses.replace(layer))


# A cache.

KEY = jax.random.key(0)


def test_steps_with_a_cache_are_steps_of_the_whole():
    layer = fn.MultiheadAttention(6, 3)
    params, state = layer.init(KEY)
    x = jax.random.normal(KEY, (2, 7, 6))
    (whole, weights), _ = layer.apply(params, state, x, is_causal=True, need_weights=True)
    cache = fn.KeyValueCache.empty((2, 3, 9, 2))
    found = []
    step = jax.jit(lambda x, cache: layer.apply(params, state, x, cache=cache).value)
    for begin, end in ((0, 4), (4, 5), (5, 7)):
        y, cache = step(x[:, begin:end], cache)
        found.append(y)
    np.testing.assert_allclose(jnp.concatenate(found, 1), whole, rtol=1e-5, atol=1e-6)
    assert int(cache.length) == 7
    first = fn.KeyValueCache.empty((2, 3, 9, 2))
    ((_, shown), _), _ = layer.apply(params, state, x, cache=first, need_weights=True)
    np.testing.assert_allclose(shown[..., :7], weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(shown[..., 7:], 0)


def test_gradients_flow_through_a_cache():
    layer = fn.MultiheadAttention(6, 3)
    params, state = layer.init(KEY)
    x, ct = jax.random.normal(KEY, (2, 5, 6))

    def stepped(x):
        cache = fn.KeyValueCache.empty((3, 5, 2))
        (first, cache), _ = layer.apply(params, state, x[:2], cache=cache)
        (rest, _), _ = layer.apply(params, state, x[2:], cache=cache)
        return jnp.concatenate([first, rest])

    def at_once(x):
        return layer.apply(params, state, x, is_causal=True).value

    found, whole = (jax.jit(lambda x, f=f: jax.vjp(f, x)[1](ct)[0])(x) for f in (stepped, at_once))
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6)


def test_a_cache_that_does_not_fit_is_refused():
    layer = fn.MultiheadAttention(6, 3)
    params, state = layer.init(KEY)
    x, cache = jnp.zeros((2, 4, 6)), fn.KeyValueCache.empty((2, 3, 5, 2))
    (_, cache), _ = layer.apply(params, state, x, cache=cache)
    with pytest.raises(ShapeError, match="4 more steps behind 4, expected at most 5 together"):
        layer.apply(params, state, x, cache=cache)
    # Where JAX traces, the number of steps is not known: NaN, not the wrong answer.
    (y, _), _ = jax.jit(lambda x, cache: layer.apply(params, state, x, cache=cache))(x, cache)
    assert jnp.isnan(y).all()
    with pytest.raises(ShapeError, match="expected the same but for the steps"):
        layer.apply(params, state, x, cache=fn.KeyValueCache.empty((1, 3, 5, 2)))
    with pytest.raises(ShapeError, match=r"expected \(\.\.\., heads, size, D\)"):
        fn.KeyValueCache.empty((5, 2))


@pytest.mark.parametrize("other", ["attn_mask", "key_padding_mask", "add_zero_attn"])
def test_a_cache_says_alone_what_is_seen(other):
    layer = fn.MultiheadAttention(6, 3, add_zero_attn=other == "add_zero_attn")
    params, state = layer.init(KEY)
    masks: dict[str, Any] = {} if other == "add_zero_attn" else {other: jnp.zeros((4, 4), bool)}
    cache = fn.KeyValueCache.empty((4, 3, 5, 2))
    with pytest.raises(ConfigError, match=f"a cache together with .*{other}"):
        layer.apply(params, state, jnp.zeros((4, 4, 6)), cache=cache, **masks)
