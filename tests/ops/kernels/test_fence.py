"""fence is the identity under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from funcnet.ops.kernels.fence import fence, product
from funcnet.ops.kernels.thresholds import FEW


def test_identity_under_transformations():
    x = jnp.arange(6.0).reshape(2, 3)
    f = lambda x: fence(x * x)  # noqa: E731
    np.testing.assert_array_equal(jax.jit(f)(x), x * x)
    np.testing.assert_array_equal(jax.vmap(jax.vmap(f))(x), x * x)
    np.testing.assert_array_equal(jax.grad(lambda x: f(x).sum())(x), 2 * x)
    np.testing.assert_array_equal(jax.jvp(f, (x,), (x,))[1], 2 * x * x)
    np.testing.assert_array_equal(jax.hessian(lambda x: f(x).sum())(x[0]), 2 * jnp.eye(3))
    np.testing.assert_array_equal(jax.vmap(jax.hessian(lambda x: f(x).sum()))(x)[1], 2 * jnp.eye(3))


def test_there_until_vmapped():
    x = jnp.ones((2, 3))
    assert "optimization_barrier" in jax.jit(fence).lower(x).as_text()
    assert "optimization_barrier" not in jax.jit(jax.vmap(fence)).lower(x).as_text()


def test_a_stackable_one_stays_under_one_vmap():
    x = jnp.ones((2, 3, 4))
    stays = jax.vmap(lambda x: fence(x, True))
    assert "optimization_barrier" in jax.jit(stays).lower(x).as_text()
    assert "optimization_barrier" not in jax.jit(jax.vmap(stays)).lower(x).as_text()
    np.testing.assert_array_equal(stays(x), x)


@pytest.mark.few(5)
@pytest.mark.parametrize("contracted", [1, FEW, FEW + 1])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (None, None)])
def test_product_is_matmul(contracted, axes):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, contracted)), rng.normal(size=(2, contracted, 4))
    a, b = (x if axis == 0 else x[0] for x, axis in zip((a, b), axes, strict=True))
    with jax.enable_x64(True):
        mapped = product if axes == (None, None) else jax.vmap(product, axes)
        np.testing.assert_allclose(mapped(a, b), a @ b, rtol=1e-14, atol=1e-14)
        check_grads(mapped, (a, b), order=2)
