"""embedding: PyTorch's values and gradients; an integer without a row is NaN, never another row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from tests.ops.test_against_torch import agree, gradients, torch_gradients

TABLE = np.random.default_rng(0).normal(size=(5, 3))


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("padding_idx", [None, 0, 2, -1])
@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (0,)])
def test_values_and_gradients_are_pytorchs(shape, padding_idx):
    import torch

    rng = np.random.default_rng(1)
    indices, g = rng.integers(0, 5, size=shape), rng.normal(size=(*shape, 3))
    agree(
        gradients(lambda w: ops.embedding(jnp.asarray(indices), w, padding_idx), [TABLE], g),
        torch_gradients(
            lambda w: torch.nn.functional.embedding(torch.tensor(indices), w, padding_idx),
            [TABLE],
            g,
        ),
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32"])
def test_an_index_without_a_row_is_nan_and_gets_no_gradient(dtype):
    indices = jnp.array([0, 5, 2, -1 if dtype.startswith("int") else 100], dtype)
    weight = jnp.asarray(TABLE, jnp.float32)
    y, pullback = jax.vjp(jax.jit(lambda w: ops.embedding(indices, w)), weight)
    assert np.isnan(y[1]).all()
    assert np.isnan(y[3]).all()
    np.testing.assert_array_equal(y[::2], weight[:3:2])
    (gradient,) = pullback(jnp.ones_like(y))
    np.testing.assert_array_equal(gradient.sum(axis=1), [3, 0, 3, 0, 0])


@pytest.mark.usefixtures("x64")
def test_a_large_index_does_not_wrap_around():
    indices = jnp.array([2**32, -(2**32), 2**32 + 4])
    assert np.isnan(ops.embedding(indices, jnp.asarray(TABLE))).all()


def test_many_half_precision_gradients_are_added_in_float32():
    indices = jnp.zeros(3000, jnp.int32)
    weight = jnp.ones((2, 1), jnp.bfloat16)
    gradient = jax.grad(lambda w: ops.embedding(indices, w).astype(jnp.float32).sum())(weight)
    # in bfloat16 the sum would stop at 256, where 1 is half a unit
    np.testing.assert_array_equal(gradient, jnp.array([[3000], [0]], jnp.bfloat16))
