"""scaled_dot_product_attention: PyTorch's to 1e-9, what it does where a key is hidden, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcnet import ops
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.ops.kernels import attention as kernel
from funcnet.testing import check_vjp
from tests.ops.against_torch import agree, gradients, torch_gradients
from tests.ops.cases import normal
from tests.ops.rules_attention import attended, attention, dropping

RNG = np.random.default_rng(0)


def qkv(queries=4, keys=5, heads=(4, 4), leading=(2,)):
    shapes = (heads[0], queries, 3), (heads[1], keys, 3), (heads[1], keys, 6)
    return [RNG.normal(size=(*leading, *shape)) for shape in shapes]


HIDING_ALL = RNG.uniform(size=(2, 1, 4, 5)) > 0.5
HIDING_ALL[0, 0, 2] = False
NUMBERS = RNG.normal(size=(2, 1, 4, 5))
NUMBERS[0, 0, 2] = NUMBERS[1, 0, 1, 3] = -np.inf


@pytest.mark.torch
@pytest.mark.few(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("args", "mask", "options"),
    [
        (qkv(), None, {}),
        (qkv(queries=5), None, {"is_causal": True}),
        (qkv(queries=7), None, {"is_causal": True, "scale": 0.3}),
        (qkv(heads=(4, 2)), None, {"is_causal": True, "enable_gqa": True}),
        (qkv(), HIDING_ALL, {}),
        (qkv(heads=(6, 3)), HIDING_ALL, {"enable_gqa": True}),
        ([*qkv(), NUMBERS], None, {}),
        ([*qkv(), RNG.normal(size=(4, 5))], None, {}),
        ([*qkv(heads=(4, 1)), RNG.normal(size=(2, 4, 1, 5))], None, {"enable_gqa": True}),
        ([a[0, 0] for a in qkv()], None, {}),
    ],
)
def test_it_is_pytorchs(args, mask, options):
    import torch

    def ours(q, k, v, numbers=None):
        given = numbers if mask is None else jnp.asarray(mask)
        return ops.scaled_dot_product_attention(q, k, v, given, **options)

    def theirs(q, k, v, numbers=None):
        given = numbers if mask is None else torch.tensor(mask)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, given, **options)

    g = RNG.normal(size=(*args[0].shape[:-1], args[2].shape[-1]))
    agree(gradients(ours, args, g), torch_gradients(theirs, args, g))


@pytest.mark.usefixtures("x64")
def test_lower_right_is_the_end_of_a_longer_run():
    q, k, v = map(jnp.asarray, qkv(queries=5, keys=5))
    whole = ops.scaled_dot_product_attention(q, k, v, is_causal=True)
    end = ops.scaled_dot_product_attention(q[..., 3:, :], k, v, is_causal="lower_right")
    np.testing.assert_allclose(end, whole[..., 3:, :], rtol=1e-12)


def test_a_query_that_sees_nothing_gives_0_and_no_gradient():
    q, k, v = (jnp.asarray(a, jnp.float32) for a in qkv())
    shown = jnp.asarray(HIDING_ALL)

    def f(q, k, v):
        return ops.scaled_dot_product_attention(q, k, v, shown)

    y, pullback = jax.vjp(f, q, k, v)
    np.testing.assert_array_equal(y[0, :, 2], 0)
    cotangents = pullback(normal(RNG, "float32", y.shape))
    np.testing.assert_array_equal(cotangents[0][0, :, 2], 0)
    for cotangent in cotangents:
        assert jnp.isfinite(cotangent).all()


def test_hidden_keys_and_values_count_for_nothing():
    q, k, v = (jnp.asarray(a, jnp.float32) for a in qkv())
    shown = jnp.arange(5) < 3
    y = ops.scaled_dot_product_attention(q, k, v, shown)
    alone = ops.scaled_dot_product_attention(q, k[..., :3, :], v[..., :3, :])
    np.testing.assert_allclose(y, alone, rtol=1e-5)
    changed = ops.scaled_dot_product_attention(q, k.at[..., 3:, :].set(1e4), v, shown)
    np.testing.assert_array_equal(y, changed)


def test_dropout_drops_with_its_probability_and_by_its_key():
    # With unit vectors as values the weights are the output: here each is 1 / 64, or dropped.
    q = k = jnp.zeros((8, 64, 4))
    units = jnp.broadcast_to(jnp.eye(64), (8, 64, 64))

    def weights(seed, p):
        key = jax.random.key(seed)
        return ops.scaled_dot_product_attention(q, k, units, dropout_p=p, key=key)

    found = weights(0, 0.25)
    np.testing.assert_allclose(jnp.unique(found), [0, 1 / 64 / 0.75], rtol=1e-6)
    assert abs((found == 0).mean() - 0.25) < 0.01
    np.testing.assert_array_equal(found, weights(0, 0.25))
    assert not np.array_equal(found, weights(1, 0.25))
    np.testing.assert_array_equal(weights(0, 1), 0)
    rows = np.asarray(found == 0).reshape(-1, 64)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_mean_over_masks_is_what_nothing_dropped_gives():
    q, k, v = (jnp.asarray(a, jnp.float32) for a in qkv())

    def dropped(key):
        return ops.scaled_dot_product_attention(q, k, v, dropout_p=0.5, key=key)

    mean = jax.vmap(dropped)(jax.random.split(jax.random.key(0), 4000)).mean(axis=0)
    np.testing.assert_allclose(mean, ops.scaled_dot_product_attention(q, k, v), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (attention(is_causal=True), attended(5, 4)),
        (attention(is_causal="lower_right"), attended(3, 5)),
        (attention(), attended(3, 4, mask="booleans")),
        (attention(enable_gqa=True, is_causal=True), attended(3, 3, heads=(4,), shared=2)),
        (dropping, attended(3, 2, key=True)),
    ],
)
def test_the_kernel_is_derived_right(function, arguments, monkeypatch):
    """At sizes at which it would not run: blocks of two queries."""
    monkeypatch.setattr(kernel, "SCORES", 0)
    monkeypatch.setattr(kernel, "QUERIES", 2)

    def fresh(*args):  # nothing compiled of the plain form is taken for it
        return function(*args)

    assert check_vjp(fresh, arguments(np.random.default_rng(0), "float32", (2,))).passed


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@settings(max_examples=20)
@given(st.data())
def test_the_kernel_is_the_plain_form_at_any_size(data):
    with pytest.MonkeyPatch.context() as patch:
        size = st.integers(1, 7)
        queries, keys, heads = data.draw(size), data.draw(size), data.draw(st.integers(1, 3))
        causal = data.draw(st.sampled_from([False, True, "lower_right"]))
        mask = data.draw(st.sampled_from([None, "booleans"]))
        case = attended(queries, keys, heads=(2 * heads,), shared=2, mask=mask)
        args = case(np.random.default_rng(0), "float64", (2,))
        function = attention(is_causal=causal, enable_gqa=True)
        expected = jax.vjp(lambda *args: function(*args), *args)
        patch.setattr(kernel, "SCORES", 0)
        patch.setattr(kernel, "QUERIES", data.draw(st.integers(1, 4)))
        found = jax.vjp(lambda *args: function(*args), *args)
        g = normal(np.random.default_rng(1), "float64", found[0].shape)
        pairs = zip((found[0], *found[1](g)), (expected[0], *expected[1](g)), strict=True)
        for a, b in pairs:
            if a.dtype == jnp.float64:
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def floats(*shapes):
    return tuple(jnp.ones(shape) for shape in shapes)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        (floats((3, 2), (4, 3), (4, 3)), {}, ShapeError, r"\(3, 2\), \(4, 3\) and \(4, 3\)"),
        (floats((3, 2), (4, 2), (5, 3)), {}, ShapeError, "of the same leading axes"),
        (floats((4, 3, 2), (2, 4, 2), (2, 4, 3)), {}, ShapeError, "enable_gqa=True"),
        (floats((3, 3, 2), (2, 4, 2), (2, 4, 3)), {"enable_gqa": True}, ShapeError, "n \\* H"),
        (floats((3, 2), (3, 2), (3, 2)), {"enable_gqa": True}, ShapeError, "n \\* H"),
        (floats((2,), (4, 2), (4, 3)), {}, ShapeError, r"\(..., L, D\)"),
        ((jnp.ones((3, 2), int), *floats((4, 2), (4, 3))), {}, DtypeError, "query is int32"),
        (floats((3, 2), (4, 2), (4, 3), (4, 4)), {}, ShapeError, r"broadcasts to \(3, 4\)"),
        (floats((3, 2), (4, 2), (4, 3)), {"dropout_p": 0.5}, DtypeError, "no key to draw from"),
        (floats((3, 2), (4, 2), (4, 3)), {"dropout_p": 1.5}, ConfigError, "dropout_p is 1.5"),
        (floats((3, 2), (4, 2), (4, 3)), {"is_causal": "left"}, ConfigError, "'lower_right'"),
        (floats((3, 2), (4, 2), (4, 3)), {"scale": float("nan")}, ConfigError, "scale is nan"),
        (
            (*floats((3, 2), (4, 2), (4, 3)), jnp.ones((3, 4), int)),
            {},
            DtypeError,
            r"attn_mask.astype\(bool\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(args, options, error, message):
    with pytest.raises(error, match=message):
        ops.scaled_dot_product_attention(*args, **options)
