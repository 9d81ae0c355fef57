"""fence and product: keep XLA from folding transposes into the products of narrow layers.

Under `vmap` a fence may stay only where `eigen_multiplies` says so. XLA's CPU compiler computes
vectors and very small matrices by loops of its own and leaves all others to Eigen
(`GetDotImplementationStrategy` in its `dot_op_emitter.cc`). For a stack of such small ones whose
layout a fence has fixed, jaxlib 0.10.2 aborts the process.
"""

from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import Array

from funcnet.ops.kernels.thresholds import EIGEN_FEATURES, EIGEN_ROWS, FEW


def eigen_multiplies(rows: int, features: tuple[int, int], dtype: jnp.dtype) -> bool:
    """Whether Eigen computes every `product` of a layer with so many rows, forward and backward.

    XLA's own loops take what has a side of 1, or of at most 3 on both sides of the contraction.
    """
    return (
        dtype in (jnp.float32, jnp.float64)
        and rows >= EIGEN_ROWS
        and max(features) >= EIGEN_FEATURES
        and min(features) > 1
    )


@jax.custom_batching.custom_vmap
def _fence(x: Array) -> Array:
    return jax.lax.optimization_barrier(x)


@_fence.def_vmap
def _fence_vmap(axis_size, in_batched, x):
    return x, in_batched[0]


@jax.custom_batching.custom_vmap
def _stackable_fence(x: Array) -> Array:
    return jax.lax.optimization_barrier(x)


@_stackable_fence.def_vmap
def _stackable_fence_vmap(axis_size, in_batched, x):
    return _fence(x), in_batched[0]


@partial(jax.custom_jvp[Array], nondiff_argnums=(1,))
def fence(x: Array, stackable: bool = False) -> Array:
    """Return x; stop XLA from moving operations across.

    Args:
        x: any array.
        stackable: whether it stays there under one `vmap`, around the stack, batch axis first.
    """
    return (_stackable_fence if stackable else _fence)(x)


@fence.defjvp
def _fence_jvp(stackable, primals, tangents):
    return fence(*primals, stackable), tangents[0]


def over_rows(a: Array, b: Array) -> Array:
    """AᵀB, summed over all axes but the last: (..., M), (..., N) -> (M, N), where N is narrower.

    Of a product over rows XLA's CPU compiler copies the left operand, so that is B; the fence keeps
    it from turning that around again.
    """
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    return fence(jnp.matmul(b.T, a)).T


@jax.custom_batching.custom_vmap
def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b)


@_product.def_vmap
def _product_vmap(axis_size, in_batched, a, b):
    # The standard rule would put the batch axis elsewhere where only one of the two has one.
    a, b = (
        x if batched else jax.lax.optimization_barrier(jnp.broadcast_to(x, (axis_size, *x.shape)))
        for x, batched in zip((a, b), in_batched, strict=True)
    )
    return jnp.matmul(a, b), True


@jax.custom_jvp
def product(a: Array, b: Array) -> Array:
    """The matrix product (M, K) (K, N) -> (M, N); under `vmap` a stack of such products."""
    if 0 < a.shape[1] <= FEW and {a.dtype, b.dtype} <= {jnp.dtype("f4"), jnp.dtype("f8")}:
        return reduce(add, (a[:, k, None] * b[None, k, :] for k in range(a.shape[1])))
    return _product(a, b)


@product.defjvp
def _product_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    return product(a, b), jnp.matmul(da, b) + jnp.matmul(a, db)
