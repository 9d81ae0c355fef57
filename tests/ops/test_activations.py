"""Activations at their kinks, at NaN, in their tails; as PyTorch's; what they refuse."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet
from funcnet.errors import ConfigError, DtypeError, ShapeError
from tests.ops.against_torch import agree, gradients, torch_gradients

ops: Any = funcnet.ops  # called with what they refuse too

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


OPTIONS = {
    "elu": [(), (0.7,), (0.0,), (-0.5,)],
    "gelu": [(), ("tanh",)],
    "leaky_relu": [(), (0.0,), (0.3,), (-0.5,)],
    "sigmoid": [()],
    "silu": [()],
    "relu": [()],
    "softplus": [(), (2.0,), (0.5, 1.0), (-1.0, 20.0), (3.0, 1000.0)],
    "tanh": [()],
}
GRID = [(name, options) for name in OPTIONS for options in OPTIONS[name]]
INNER = [-30.0, -9.5, -1.5, -1e-12, -0.0, 0.0, 1e-12, 0.3, 0.7, 2.0, 9.5, 19.9, 20.0, 20.1, 30.0]
OUTER = [-np.inf, -1e4, -400.0, 400.0, 1e4, np.inf, np.nan]


def theirs(name, options):
    import torch

    if name == "gelu":
        return functools.partial(torch.nn.functional.gelu, approximate=(*options, "none")[0])
    module = torch if name == "tanh" else torch.nn.functional
    return lambda x: getattr(module, name)(x, *options)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "options"), GRID)
def test_values_and_cotangents_are_pytorchs(name, options):
    x = jnp.array(INNER + OUTER)
    g = np.random.default_rng(0).normal(size=x.shape)
    ours = gradients(lambda x: getattr(ops, name)(x, *options), [x], g)
    agree(ours, torch_gradients(theirs(name, options), [x], g))


@pytest.mark.torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), GRID)
def test_every_dtype_keeps_its_digits(name, options, dtype):
    """Within the dtype's rounding of the float64 truth, relative to each number of its own."""
    import torch

    x = jnp.asarray(INNER, dtype)
    g = jnp.asarray(np.random.default_rng(0).normal(size=x.shape), dtype)
    value, pullback = jax.vjp(lambda x: getattr(ops, name)(x, *options), x)
    exact = torch.tensor(np.asarray(x, np.float64), requires_grad=True)
    expected = theirs(name, options)(exact)
    expected.backward(torch.tensor(np.asarray(g, np.float64)))
    assert exact.grad is not None
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_normal)
    # PyTorch's 1 + erf has its own floor in float64; ours is tested above.
    floor = 1e-15 if name == "gelu" else tiny
    # 1 - y, taken from the rounded y as PyTorch does, keeps its absolute digits.
    slope_floor = 2 * eps if name in ("sigmoid", "tanh") else floor
    relative = 4e-6 if dtype == "float32" else 4 * eps  # where silu and gelu turn, digits cancel
    for found, truth, absolute in (
        (value, expected.detach(), floor),
        (pullback(g)[0], exact.grad, slope_floor),
    ):
        found = np.asarray(found, np.float64)
        np.testing.assert_allclose(found, truth.numpy(), rtol=relative, atol=absolute)


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
        (lambda x: ops.silu(x.astype(int)), DtypeError, "silu: x is int32"),
        (lambda x: ops.sigmoid([1.0]), DtypeError, "sigmoid: x is list"),
    ],
)
def test_what_no_activation_takes(call, error, says):
    with pytest.raises(error, match=says):
        call(jnp.ones((2, 3)))


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("slopes", [[0.25], [0.3, -0.5, 0.0]])
def test_prelu_is_pytorchs(slopes):
    """At 0 and at infinities too; PyTorch's channels are the second axis."""
    import torch

    x = np.array([*INNER[:12], -1e4, 1e4, 5.0]).reshape(5, 3)
    g = np.random.default_rng(0).normal(size=x.shape)
    args = [x, np.array(slopes)]
    agree(gradients(ops.prelu, args, g), torch_gradients(torch.nn.functional.prelu, args, g))


@pytest.mark.parametrize(
    ("x", "weight"), [((4, 3), (2,)), ((4, 3), ()), ((4, 3), (1, 1)), ((), (2,)), ((), ())]
)
def test_slopes_of_prelu_that_do_not_fit_are_refused(x, weight):
    with pytest.raises(ShapeError, match="one entry for each channel"):
        ops.prelu(jnp.ones(x), jnp.ones(weight))


def test_prelu_of_a_single_number():
    value, pullback = jax.vjp(ops.prelu, jnp.float32(-2), jnp.array([0.5]))
    assert value == -1
    assert pullback(jnp.float32(3)) == (1.5, jnp.array([-6.0]))
