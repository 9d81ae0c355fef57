"""relu at its kink and at NaN, tanh in its tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops

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
