"""Softmaxes in half precision, of nearly sure classes, at the far ends; what they refuse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet
from funcnet.errors import ConfigError, ShapeError
from tests.ops.against_torch import agree, gradients, torch_gradients

ops: Any = funcnet.ops  # called with what they refuse too

DTYPES = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 100])
def test_half_precision_is_rounded_once(width, dtype):
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


SOFTMAXES = [("softmax", d) for d in (0, 1, 2, -1)] + [("log_softmax", d) for d in (0, 1, 2, -2)]


@pytest.mark.few(5)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "dim"), SOFTMAXES)
@pytest.mark.parametrize("width", [1, 5, 70])
def test_values_and_cotangents_are_pytorchs(name, dim, width):
    import torch

    rng = np.random.default_rng(0)
    x, g = 3 * rng.normal(size=(2, 3, width)), rng.normal(size=(2, 3, width))
    ours = gradients(lambda x: getattr(ops, name)(x, dim), [x], g)
    agree(ours, torch_gradients(lambda x: getattr(torch.nn.functional, name)(x, dim), [x], g))


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "x",
    [
        [1.0, -np.inf, 2.0],
        [np.inf, 1.0, 2.0],
        [np.nan, 1.0, 2.0],
        [-np.inf, -np.inf, -np.inf],
        [1e4, -1e4, 0.0],
        [1e300, -1e300, 1e300],
    ],
)
def test_far_ends_are_pytorchs(name, x):
    import torch

    g = np.array([0.5, -1.5, 2.0])
    ours = gradients(getattr(ops, name), [jnp.array(x)], g)
    torchs = getattr(torch.nn.functional, name)
    agree(ours, torch_gradients(lambda x: torchs(x, -1), [np.array(x)], g))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: ops.softmax(x, 2), ConfigError, "softmax: dim is 2, expected one of the 2 axes"),
        (lambda x: ops.log_softmax(x, 0.5), ConfigError, "log_softmax: dim is 0.5"),
        (lambda x: ops.softmax(x[0, 0]), ConfigError, "softmax: dim is -1, expected one of the 0"),
        (lambda x: ops.softmax(x[:, :0]), ShapeError, "expected at least 1 along axis -1"),
    ],
)
def test_what_no_softmax_takes(call, error, says):
    with pytest.raises(error, match=says):
        call(jnp.ones((2, 3)))
