"""Weights dropped at random, each row from a key of its own, so that rows can be drawn alone."""

import jax
import jax.numpy as jnp
from jax import Array


def kept(key: Array | None, p: float, rows: Array, columns: int) -> Array | None:
    """Draw what is kept, True with probability 1 - p; None without a key: all is.

    Args:
        key: typed scalar key, or None.
        p: the probability that an entry is dropped.
        rows: (...), integers, the numbers of the rows.
        columns: how many entries a row has.

    Returns:
        (..., columns), booleans.
    """
    if key is None:
        return None

    def drawn(row):
        return jax.random.bits(jax.random.fold_in(key, row), (columns,), jnp.uint16)

    # Integers, not uniform floats: one mask for all dtypes. For p = 1 `dropped` drops the rest.
    bits = jax.vmap(drawn)(rows.reshape(-1)).reshape(*rows.shape, columns)
    return bits >= min(round(p * 2**16), 2**16 - 1)


def dropped(a: Array, kept: Array | None, p: float) -> Array:
    """A / (1 - p) where it is kept, and else 0; 0 where all is dropped."""
    if kept is None:
        return a
    return jnp.where(kept, a * (0 if p == 1 else 1 / (1 - p)), 0)
