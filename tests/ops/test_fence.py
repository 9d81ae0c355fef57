"""fence is the identity under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.ops._fence import fence


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
