"""What every rule does to a cotangent before returning it."""

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.compat import varying_axes


def like(cotangent: Array, primal: Array) -> Array:
    """Give a cotangent its primal's dtype and, under `shard_map`, its primal's replication.

    JAX checks neither: a float32 cotangent of a bfloat16 parameter is accepted in silence and
    fails later. And where each device holds its own examples but the same weight, the weight's
    cotangent is the sum over the devices, which the rule has to take itself.
    """
    summed_over = tuple(varying_axes(cotangent) - varying_axes(primal))
    if summed_over:
        cotangent = jax.lax.psum(cotangent, summed_over)
    return cotangent.astype(jnp.result_type(primal))
