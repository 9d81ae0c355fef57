"""Equality of pytrees to the last bit, NaN included."""

import jax
import numpy as np


def assert_same_bits(found, expected):
    """The trees have one structure, and their arrays one dtype, shape and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for i, (a, b) in enumerate(pairs):
        a, b = as_numpy(a), as_numpy(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"leaf {i}"
        assert a.tobytes() == b.tobytes(), f"leaf {i}: {a} is not {b}"


def as_numpy(leaf) -> np.ndarray:
    """An array as numpy's, a key as its bits."""
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
