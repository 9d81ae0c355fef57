"""Integers of any dtype as indices."""

import jax.numpy as jnp
from jax import Array


def as_int32(indices: Array) -> Array:
    """The indices in int32; those that it cannot hold become its largest or smallest number."""
    # Clipped first: an index of 2**32 must not become 0.
    limits = jnp.iinfo(jnp.int32)
    if jnp.iinfo(indices.dtype).max > limits.max:
        indices = jnp.minimum(indices, limits.max)
    if jnp.iinfo(indices.dtype).min < limits.min:
        indices = jnp.maximum(indices, limits.min)
    return indices.astype(jnp.int32)
