"""Activations at their kinks, at NaN, in their tails; what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from funcnet.errors import ConfigError, DtypeError, ShapeError

DTYPES = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_has_slope_0_at_0(dtype):
    x = jnp.array([-1.0, -0.0, 0.0, 1.0], dtype)
    np.testing.assert_array_equal(ops.relu(x), jnp.array([0, 0, 0, 1], dtype))
    slope = jax.grad(lambda x: ops.relu(x).sum())(x)
    np.testing.assert_array_equal(slope, jnp.array([0, 0, 0, 1], dtype))


def test_relu_hides_no_nan():
    x = jnp.array([jnp.nan, 1.0])
    value, pullback = jax.vjp(ops.relu, x)
    assert np.isnan(value[0])
    np.testing.assert_array_equal(pullback(jnp.array([2.0, 3.0]))[0], [2.0, 3.0])


def test_relu_of_infinities():
    x = jnp.array([-jnp.inf, jnp.inf])
    value, pullback = jax.vjp(ops.relu, x)
    np.testing.assert_array_equal(value, [0, jnp.inf])
    np.testing.assert_array_equal(pullback(jnp.ones(2))[0], [0, 1])


@pytest.mark.parametrize("x", [-9.0, -5.0, 5.0, 8.0])
def test_tanhs_slope_keeps_its_digits_in_the_tails(x):
    """1 - y² at y near 1 loses those that (1 - y)(1 + y) keeps; y itself is rounded."""
    y = np.float32(jax.jit(jnp.tanh)(np.float32(x)))
    expected = (1 - np.float64(y)) * (1 + np.float64(y))
    slope = jax.grad(ops.tanh)(jnp.float32(x))
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_saturates(dtype):
    x = jnp.array([-jnp.inf, -1e4, 1e4, jnp.inf], dtype)
    value, pullback = jax.vjp(ops.tanh, x)
    np.testing.assert_array_equal(value, jnp.array([-1, -1, 1, 1], dtype))
    np.testing.assert_array_equal(pullback(jnp.ones(4, dtype))[0], jnp.zeros(4, dtype))


@pytest.mark.parametrize(
    ("activate", "slope"),
    [
        (ops.leaky_relu, 0.01),
        (lambda x: ops.leaky_relu(x, 0.0), 0.0),
        (lambda x: ops.leaky_relu(x, -0.5), -0.5),
        (ops.elu, 1.0),
        (lambda x: ops.elu(x, 0.75), 0.75),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_0_the_slope_is_that_of_the_left(activate, slope, dtype):
    x = jnp.array([-0.0, 0.0], dtype)
    found = jax.grad(lambda x: activate(x).sum())(x)
    np.testing.assert_array_equal(found, jnp.full(2, slope, dtype))


@pytest.mark.parametrize("x", [-3.0, -8.0, -12.0])
def test_gelu_keeps_the_digits_of_small_probabilities(x):
    """1 + erf(x / √2) has none left below -6 in float32."""
    expected = x * math.erfc(-x / math.sqrt(2)) / 2
    np.testing.assert_allclose(ops.gelu(jnp.float32(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_any_finite_number_has_a_slope(approximate, dtype):
    top = float(jnp.finfo(dtype).max)
    x = jnp.array([-top, -1e4, 1e4, top], dtype)
    value, pullback = jax.vjp(lambda x: ops.gelu(x, approximate), x)
    np.testing.assert_array_equal(value, jnp.array([0, 0, 1e4, top], dtype))
    np.testing.assert_array_equal(pullback(jnp.ones(4, dtype))[0], jnp.array([0, 0, 1, 1], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 100])
def test_softmaxes_of_half_precision_are_rounded_once(width, dtype):
    x = jax.random.normal(jax.random.key(0), (5, width)).astype(dtype)
    for half, full in ((ops.softmax, jax.nn.softmax), (ops.log_softmax, jax.nn.log_softmax)):
        expected = np.asarray(full(x.astype(jnp.float32)), np.float64)
        found = np.asarray(half(x), np.float64)
        np.testing.assert_allclose(found, expected, rtol=max(2e-6, float(jnp.finfo(dtype).eps)))
        assert half(x).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ct", [[1.0, 0.0, 0.0], [1.0, 0.5, -0.25]])
def test_the_slope_of_a_nearly_sure_class_keeps_its_digits(ct, dtype):
    """1 - p is 0 where p has been rounded to 1, as bfloat16 rounds all above 0.998."""
    x = np.array([8.0, 0.0, -1.0])
    p = np.exp(x) / np.exp(x).sum()
    rtol = 3 * float(jnp.finfo(dtype).eps)
    expected = {ops.softmax: p * (ct - p @ ct), ops.log_softmax: ct - p * np.sum(ct)}
    for softmax, slope in expected.items():
        found = jax.vjp(softmax, jnp.array(x, dtype))[1](jnp.array(ct, dtype))[0]
        # Even float32, in which half precision is computed, knows p = 1 - 5e-4 only to 6e-8.
        np.testing.assert_allclose(np.asarray(found, np.float64), slope, rtol=rtol, atol=2e-7)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: ops.elu(x, float("nan")), ConfigError, "elu: alpha is nan, expected a finite"),
        (
            lambda x: ops.elu(x.astype("float16"), 1e9),
            ConfigError,
            r"elu: alpha is 1e\+09, expected at most 65504, float16's largest",
        ),
        (lambda x: ops.leaky_relu(x, True), ConfigError, "leaky_relu: negative_slope is True"),
        (lambda x: ops.softplus(x, 0.0), ConfigError, "softplus: beta is 0, expected another"),
        (lambda x: ops.softplus(x, 1.0, "20"), ConfigError, "softplus: threshold is '20'"),
        (lambda x: ops.gelu(x, "erf"), ConfigError, "gelu: approximate is 'erf', .* 'tanh'"),
        (lambda x: ops.softmax(x, 2), ConfigError, "softmax: dim is 2, expected one of the 2 axes"),
        (lambda x: ops.log_softmax(x, 0.5), ConfigError, "log_softmax: dim is 0.5"),
        (lambda x: ops.softmax(x[0, 0]), ConfigError, "softmax: dim is -1, expected one of the 0"),
        (lambda x: ops.softmax(x[:, :0]), ShapeError, "expected at least 1 along axis -1"),
        (lambda x: ops.silu(x.astype(int)), DtypeError, "silu: x is int32"),
        (lambda x: ops.sigmoid([1.0]), DtypeError, "sigmoid: x is list"),
    ],
)
def test_what_no_activation_takes(call, error, says):
    with pytest.raises(error, match=says):
        call(jnp.ones((2, 3)))
