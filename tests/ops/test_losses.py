"""cross_entropy never takes a label for another, and bears logits of any finite size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcnet import ops

NARROW = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
WIDE = [*NARROW, "int64", "uint64"]
LOGITS = jnp.array([[3.0, -1.0, 0.5], [0.25, 1.0, -2.0]])


@jax.jit
def per_example(labels):
    return ops.cross_entropy(LOGITS, labels, None, -100, "none")


@partial(jax.jit, static_argnums=1)
def reduced(labels, reduction):
    return ops.cross_entropy(LOGITS, labels, None, -100, reduction)


def check_label_is_no_class(label, dtype):
    labels = jnp.asarray(np.array([1, label], dtype))
    assert labels.dtype == dtype
    losses = per_example(labels)
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])
    assert np.isnan(reduced(labels, "mean"))
    assert np.isnan(reduced(labels, "sum"))
    gradient = jax.grad(lambda z: ops.cross_entropy(z, labels, None, -100, "none")[0])(LOGITS)
    assert np.isfinite(gradient[0]).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_label_beyond_the_classes_is_nan(dtype):
    for label in {3, 100, np.iinfo(dtype).max}:
        check_label_is_no_class(label, dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_a_negative_label_is_nan_and_not_the_last_class(dtype):
    for label in (-1, -3, -101, np.iinfo(dtype).min):
        check_label_is_no_class(label, dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "label"),
    [
        ("int64", 2**32),
        ("int64", 2**32 + 1),
        ("int64", -(2**32)),
        ("int64", 2**63 - 1),
        ("uint64", 2**32),
        ("uint64", 2**63),
        ("uint64", 2**64 - 100),
        ("uint32", 2**32 - 100),
    ],
)
def test_a_label_that_wraps_is_nan(dtype, label):
    check_label_is_no_class(label, dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", WIDE)
def test_every_integer_dtype_means_the_same(dtype):
    expected = -jax.nn.log_softmax(LOGITS)[jnp.arange(2), jnp.array([2, 0])]
    np.testing.assert_allclose(per_example(jnp.array([2, 0], dtype)), expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "ignored"),
    [("uint8", 255), ("int8", -128), ("int64", 2**40), ("uint64", 2**64 - 1), ("int64", 2**31 - 1)],
)
def test_ignore_index_is_compared_in_the_labels_own_dtype(dtype, ignored):
    labels = jnp.asarray(np.array([1, ignored], dtype))
    losses = ops.cross_entropy(LOGITS, labels, None, ignored, "none")
    assert losses[1] == 0
    assert losses[0] == ops.cross_entropy(LOGITS, labels, None, ignored)
    gradient = jax.grad(lambda z: ops.cross_entropy(z, labels, None, ignored, "sum"))(LOGITS)
    np.testing.assert_array_equal(gradient[1], 0)
    assert gradient[0].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("dtype", "index"), [("uint8", -100), ("int32", 2**40), ("uint8", 256)])
def test_an_ignore_index_the_dtype_cannot_hold_ignores_nothing(dtype, index):
    labels = jnp.array([1, 0], dtype)
    found = ops.cross_entropy(LOGITS, labels, None, index, "none")
    np.testing.assert_array_equal(found, per_example(labels))
    # What it would be, cut to the dtype, is a label like others.
    aliased = jnp.asarray(np.array([1, index % 256], "uint8"))
    if index % 256 < 3:
        assert (ops.cross_entropy(LOGITS, aliased, None, index, "none") != 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_huge_logits_give_finite_numbers(dtype, smoothing):
    top = float(jnp.finfo(dtype).max)
    z = jnp.array([[top / 2, -top / 2, 0.0], [-top, -top, -top], [1e4, 1e4, -1e4]], dtype)
    labels = jnp.array([0, 1, 0])
    losses, pullback = jax.vjp(
        lambda z: ops.cross_entropy(z, labels, None, -100, "none", smoothing), z
    )
    (gradient,) = pullback(jnp.ones(3, dtype))
    assert np.isfinite(np.asarray(gradient, float)).all()
    np.testing.assert_allclose(np.asarray(losses[1], float), np.log(3), rtol=1e-2)
    if not smoothing:
        np.testing.assert_allclose(
            np.asarray(losses, float), [0, np.log(3), np.log(2)], rtol=1e-2, atol=1e-6
        )
    third = np.array([0.5 - 1, 0.5, 0]) + smoothing * np.array([2 / 3, -1 / 3, -1 / 3])
    np.testing.assert_allclose(np.asarray(gradient[2], float), third, atol=1e-2)


def test_a_logit_of_minus_infinity_rules_its_class_out():
    z = jnp.array([[0.0, 1.0, -jnp.inf]])
    loss, gradient = jax.value_and_grad(lambda z: ops.cross_entropy(z, jnp.array([0])))(z)
    np.testing.assert_allclose(loss, np.log1p(np.e), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.7310586, 0.7310586, 0.0]], rtol=1e-6)


@settings(max_examples=30)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=5), st.floats(-1e3, 1e3))
def test_shifting_all_logits_changes_nothing(row, shift):
    z = jnp.array([row], jnp.float32)
    loss = ops.cross_entropy(z, jnp.array([0]))
    shifted = ops.cross_entropy(z + jnp.float32(shift), jnp.array([0]))
    np.testing.assert_allclose(shifted, loss, rtol=1e-4, atol=2e-4)


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(2, 4), st.floats(0, 1))
def test_labels_are_their_one_hot_rows(n, classes, smoothing):
    rng = np.random.default_rng(n)
    z = jnp.asarray(rng.normal(size=(n, classes)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, classes, n))
    for reduction in ("none", "mean", "sum"):
        options = (None, -100, reduction, smoothing)
        hard = ops.cross_entropy(z, labels, *options)
        soft = ops.cross_entropy(z, jax.nn.one_hot(labels, classes), *options)
        np.testing.assert_allclose(hard, soft, rtol=1e-5, atol=1e-6)


def test_probabilities_ignore_ignore_index():
    target = jax.nn.one_hot(jnp.array([1, 2]), 3)
    for index in (0, 1, 2):
        assert ops.cross_entropy(LOGITS, target, None, index) == ops.cross_entropy(LOGITS, target)


def test_one_class_costs_nothing():
    z = jnp.array([[7.0], [-3.0]])
    loss, gradient = jax.value_and_grad(lambda z: ops.cross_entropy(z, jnp.array([0, 0])))(z)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


def test_mse_is_a_mean_over_entries_without_a_half():
    prediction, target = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 5.0]])
    assert ops.mse_loss(prediction, target) == 5
    assert ops.mse_loss(prediction, target, "sum") == 10
    np.testing.assert_array_equal(ops.mse_loss(prediction, target, "none"), [[1, 9]])
    gradient = jax.grad(ops.mse_loss)(prediction, target)
    np.testing.assert_array_equal(gradient, [[1, -3]])
