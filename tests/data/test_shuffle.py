"""The shuffle permutes any number of examples, afresh each epoch, and uniformly to a test's eye."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcnet.data.shuffle import EXACT, permutation
from funcnet.training.step import epoch_order

KEY = jax.random.key(5)
draw = jax.jit(permutation, static_argnums=1)


def check_permutation(order, n):
    assert (order.shape, order.dtype) == ((n,), jnp.int32)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.few(3)
@pytest.mark.parametrize("n", [*range(1, 8), 63, 64, 65, 66, 80, 81, 82, 99, 100, 121, 255, 1000])
def test_every_size_gives_a_permutation(n):
    check_permutation(draw(KEY, n), n)


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", range(1, 301, 50))
def test_all_sizes_to_300_give_permutations(first):
    for n in range(first, first + 50):
        check_permutation(draw(KEY, n), n)


@settings(max_examples=6)
@given(n=st.integers(301, 200_000), seed=st.integers(0, 2**32 - 1))
def test_large_sizes_give_permutations(n, seed):
    check_permutation(draw(jax.random.key(seed), n), n)


@given(seed=st.integers(0, 2**32 - 1))
def test_every_key_gives_a_permutation(seed):
    check_permutation(draw(jax.random.key(seed), 97), 97)


def test_ten_million():
    check_permutation(draw(KEY, 10_000_019), 10_000_019)


@pytest.mark.parametrize("n", [10, EXACT, 1000])
def test_the_same_key_gives_the_same_order(n):
    first = np.asarray(draw(KEY, n))
    np.testing.assert_array_equal(permutation(KEY, n), first)
    assert not np.array_equal(draw(jax.random.key(6), n), first)


def test_the_order_never_changes():
    """By arithmetic alone: the same on every device and in every version of JAX."""
    order = np.asarray(draw(jax.random.key(0), 100))
    assert order[:8].tolist() == [39, 41, 16, 59, 37, 84, 23, 97]


@pytest.mark.parametrize("n", [20, 500])
def test_each_epoch_has_an_order_of_its_own(n):
    order = jax.jit(epoch_order, static_argnums=2)
    orders = {tuple(np.asarray(order(KEY, epoch, n)).tolist()) for epoch in range(20)}
    assert len(orders) == 20


def chi_square(counts):
    """Pearson's statistic against equal counts, in standard deviations from its mean."""
    expected = counts.mean()
    degrees = counts.size - 1
    statistic = np.square(counts - expected).sum() / expected
    return (statistic - degrees) / np.sqrt(2 * degrees)


def orders(n, draws):
    keys = jax.random.split(jax.random.key(1), draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: permutation(key, n)))(keys))


def check_uniform(n, draws):
    found = orders(n, draws)
    places = sorted({0, 1, n // 2, n - 1})
    for place in places:
        assert abs(chi_square(np.bincount(found[:, place], minlength=n))) < 5
    for a, b in itertools.combinations(places, 2):
        # The pair (i, j) has n (n - 1) values: fold them, so that each cell is hit often.
        i, j = found[:, a].astype(np.int64), found[:, b].astype(np.int64)
        pair = i * (n - 1) + j - (j > i)
        cells = np.bincount(pair % (n - 1), minlength=n - 1)
        assert abs(chi_square(cells)) < 5
        difference = np.bincount((i - j) % n, minlength=n)[1:]
        assert abs(chi_square(difference)) < 5


@pytest.mark.slow
@pytest.mark.parametrize("n", [17, 65, 67, 100])
def test_places_and_pairs_are_uniform(n):
    check_uniform(n, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 17, 65, 66, 73, 100, 257, 1000])
def test_places_and_pairs_are_uniform_in_a_large_sample(n):
    check_uniform(n, 400_000)


@pytest.mark.slow
@pytest.mark.parametrize("n", [65, 80])
def test_every_joint_place_of_two_is_uniform(n):
    found = orders(n, 1_000_000)
    for a, b in [(0, 1), (0, n - 1), (n // 2, n // 2 + 1)]:
        i, j = found[:, a].astype(np.int64), found[:, b].astype(np.int64)
        counts = np.bincount(i * (n - 1) + j - (j > i), minlength=n * (n - 1))
        assert abs(chi_square(counts)) < 5


def test_runs_under_vmap_and_jit_are_the_single_ones():
    keys = jax.random.split(KEY, 3)
    together = jax.vmap(lambda key: permutation(key, 100))(keys)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_array_equal(found, permutation(key, 100))
