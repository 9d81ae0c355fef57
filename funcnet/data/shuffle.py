"""A fresh order of the examples for each epoch, without a sort.

XLA shuffles by sorting random words, which costs more than a training step of a small network.
Here position i goes to place π(i) by arithmetic on i alone: a keyed bijection, as in
format-preserving encryption (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").

Write i = l b + r with 0 <= l < a and 0 <= r < b, where a b >= n barely. A Feistel round adds to one
half a keyed hash of the other,

    l <- l + F(r) mod a        r <- r + F(l) mod b        in turn,

which is undone by subtracting, so any number of rounds permutes {0, ..., a b - 1}. Places >= n are
sent through the rounds again until they fall below n ("cycle walking"), which keeps a bijection.

What is guaranteed: always a permutation; the same one for the same key on every device and JAX
version. What is not: 384 key bits cannot reach all n! orders, and uniformity is not proved but
tested (each example's place, and the joint places of pairs, by chi-square). Few examples leave a
Feistel network little to mix, so up to EXACT of them are sorted by JAX instead, uniform over all
orders; a JAX version may change those.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

ROUNDS = 12  # with 8, pairs of 17 examples fail the chi-square test; 12 leave a margin
EXACT = 64


def permutation(key: Array, n: int) -> Array:
    """A permutation of 0 to n - 1 drawn with `key`.

    Args:
        key: typed scalar key.
        n: how many, at least 1 and below 2**31.

    Returns:
        (n,) int32.
    """
    if n <= EXACT:
        return jax.random.permutation(key, n).astype(jnp.int32)
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    round_keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)

    def two_rounds(i, place):
        left, right = place
        left = _add_modulo(left, _hash(right ^ round_keys[2 * i]), a)
        return left, _add_modulo(right, _hash(left ^ round_keys[2 * i + 1]), b)

    def walk(carry):
        place, outside = carry
        # A loop, not twelve copies: XLA would fuse them into one kernel that computes them again
        # and again, four times slower, and take longer to compile it.
        moved = jax.lax.fori_loop(0, ROUNDS // 2, two_rounds, place)
        left, right = (jnp.where(outside, m, p) for m, p in zip(moved, place, strict=True))
        return (left, right), outside & (left * b + right >= n)

    i = jnp.arange(n, dtype=jnp.uint32)
    start = (i // b, i % b), jnp.ones(n, bool)
    (left, right), _ = jax.lax.while_loop(lambda carry: carry[1].any(), walk, start)
    return (left * b + right).astype(jnp.int32)


def _hash(h: Array) -> Array:
    """The finalizer of MurmurHash3 (Appleby), uint32 to uint32."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _add_modulo(half: Array, hashed: Array, m: int) -> Array:
    """Half + F mod m, where F in [0, m) comes from the hash's high bits, without a division."""
    total = half + (((hashed >> 16) * jnp.uint32(m)) >> 16)
    return jnp.where(total >= m, total - m, total)
