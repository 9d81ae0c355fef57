"""The dtype that a rule computes in."""

import jax.numpy as jnp
from jax import Array


def wide(x: Array) -> Array:
    """Give x at least float32's precision, so that half precision is rounded once, at the end."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
