"""The cases of rules.py for attention and rotary embedding."""

import jax
import jax.numpy as jnp

from funcnet import ops
from tests.ops.cases import Arguments, Case, normal


def attention(**options):
    def function(query, keys, values, attn_mask=None):
        return ops.scaled_dot_product_attention(query, keys, values, attn_mask, **options)

    return function


def dropping(query, keys, values, key):
    return ops.scaled_dot_product_attention(query, keys, values, dropout_p=0.4, key=key)


def attended(queries=3, keys=4, heads=(), shared=1, mask=None, key=False) -> Arguments:
    """Q (..., queries, 2), K (..., keys, 2), V (..., keys, 3), and a mask or a random key.

    A boolean mask hides every key from the first query.
    """

    def arguments(rng, dtype, leading):
        of_keys = (*heads[:-1], heads[-1] // shared) if heads else ()
        args = (
            normal(rng, dtype, (*leading, *heads, queries, 2)),
            normal(rng, dtype, (*leading, *of_keys, keys, 2)),
            normal(rng, dtype, (*leading, *of_keys, keys, 3)),
        )
        if mask == "booleans":
            shown = rng.uniform(size=(queries, keys)) > 0.4
            shown[0] = False
            return (*args, jnp.asarray(shown))
        if mask == "numbers":
            return (*args, normal(rng, dtype, (*(1 for _ in heads), queries, keys)))
        return (*args, jax.random.key(int(rng.integers(100)))) if key else args

    return arguments


def rotary(**options):
    return lambda x, positions: ops.rotary_embedding(x, positions, **options)


def placed(rng, dtype, leading):
    """X (..., 3, 4) and positions (3,)."""
    return normal(rng, dtype, (*leading, 3, 4)), jnp.asarray(rng.integers(0, 9, size=3))


RULES: dict[str, list[Case]] = {
    "rotary_embedding": [
        Case("halves", rotary(), placed),
        Case("interleaved", rotary(base=30.0, interleaved=True), placed, minor=True),
    ],
    "scaled_dot_product_attention": [
        Case("no mask", attention(), attended()),
        Case("causal", attention(is_causal=True, scale=0.7), attended(queries=4), minor=True),
        Case("lower right", attention(is_causal="lower_right"), attended(2, 4), minor=True),
        Case("booleans", attention(), attended(mask="booleans"), minor=True),
        Case("numbers", attention(is_causal=True), attended(mask="numbers"), minor=True),
        Case(
            "grouped queries",
            attention(enable_gqa=True),
            attended(3, 2, heads=(4,), shared=2, mask="numbers"),
            minor=True,
        ),
        Case("dropout", dropping, attended(2, 3, key=True), minor=True),
    ],
}
