"""fence: the identity, which XLA does not look through."""

import jax
from jax import Array


@jax.custom_batching.custom_vmap
def _fence(x: Array) -> Array:
    return jax.lax.optimization_barrier(x)


@_fence.def_vmap
def _fence_vmap(axis_size, in_batched, x):
    # XLA's CPU compiler (jaxlib 0.10.2) aborts the process on some products of stacks of matrices
    # whose layout a barrier has fixed.
    return x, in_batched[0]


@jax.custom_jvp
def fence(x: Array) -> Array:
    """Return x; stop XLA from moving operations across. Under `vmap` it is not there at all."""
    return _fence(x)


@fence.defjvp
def _fence_jvp(primals, tangents):
    return fence(*primals), tangents[0]
