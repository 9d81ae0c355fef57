"""dropout: the right share at random, the rest scaled, the same mask backward."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops

KEY = jax.random.key(0)


@pytest.mark.few(5)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 9), (2, 3, 16), (0, 4)])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_entries_are_kept_and_scaled_or_zero_and_so_are_cotangents(shape, p):
    x = 1 + jax.random.uniform(KEY, shape)
    y, pullback = jax.vjp(lambda x: ops.dropout(x, p, key=KEY), x)
    kept = np.asarray(y != 0)
    np.testing.assert_allclose(y, np.where(kept, x / np.float32(1 - p or 1), 0), rtol=1e-6)
    (dx,) = pullback(2 * x)
    np.testing.assert_allclose(dx, 2 * y, rtol=1e-6)
    assert kept.all() if p == 0 else not (p == 1 and kept.any())


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_is_p_and_entries_are_independent(p):
    """Counts of a binomial, and neighbours' correlations, within five standard deviations."""
    kept = np.asarray(ops.dropout(jnp.ones((500, 401)), p, key=KEY) != 0, float)
    n = kept.size
    assert abs(kept.mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n) + 2**-17
    z = (kept - (1 - p)) / math.sqrt(p * (1 - p))
    # beside, below, and from the other half of the same random word
    for other in (np.roll(z, 1, axis=1), np.roll(z, 1, axis=0), np.roll(z, 201, axis=1)):
        assert abs((z * other).mean()) < 5 / math.sqrt(n)


def test_the_mean_over_masks_is_x():
    x = jnp.arange(1.0, 9)
    keys = jax.random.split(KEY, 20_000)
    mean = jax.vmap(lambda key: ops.dropout(x, 0.25, key=key))(keys).mean(axis=0)
    deviation = math.sqrt(0.25 / 0.75 / 20_000)
    assert np.abs(mean / x - 1).max() < 5 * deviation


def test_one_key_one_mask_in_every_dtype():
    masks = [
        np.asarray(ops.dropout(jnp.ones((4, 5), dtype), 0.5, key=KEY) != 0)
        for dtype in (jnp.bfloat16, jnp.float16, jnp.float32)
    ]
    with jax.enable_x64(True):
        masks.append(np.asarray(ops.dropout(jnp.ones((4, 5), jnp.float64), 0.5, key=KEY) != 0))
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    other = ops.dropout(jnp.ones((4, 5)), 0.5, key=jax.random.key(1)) != 0
    assert not np.array_equal(other, masks[0])


def test_half_precision_is_scaled_by_the_exact_factor():
    y = ops.dropout(jnp.ones(1000, jnp.bfloat16), 0.3, key=KEY)
    assert set(np.asarray(y, np.float32)) == {0, float(jnp.bfloat16(1 / 0.7))}


def test_nothing_happens_outside_of_training():
    x = jnp.arange(5.0)
    np.testing.assert_array_equal(ops.dropout(x, 0.9, training=False), x)


def test_the_residual_is_a_bit_an_entry():
    x = jnp.ones((10, 64))
    pullback = jax.vjp(lambda x: ops.dropout(x, 0.5, key=KEY), x)[1]
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pullback)) <= 10 * 64 / 8
