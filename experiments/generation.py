"""Text from a language model: step by step, with a cache, one compiled program a stretch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpt import GPT
from experiments.options import require


def generate(
    model: GPT,
    params: Any,
    prompt: Any,
    length: int,
    key: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """Return the tokens behind a prompt.

    When the context is full, its second half is read again and goes on from there.

    Args:
        model: what maps tokens to logits.
        params: its parameters.
        prompt: (tokens,), at least one.
        length: how many to add.
        key: typed scalar key; token i is drawn with fold_in(key, i).
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from so many of the likeliest tokens.
        top_p: draw from the likeliest tokens that together have this probability, at least one.

    Returns:
        (length,) int32.
    """
    require("temperature", temperature, temperature >= 0, "a number >= 0")
    require("top_k", top_k, top_k is None or top_k >= 1, "at least 1")
    require("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0 and at most 1")
    tokens = list(map(int, prompt))
    begin = len(tokens)
    require("prompt", repr(prompt), begin >= 1, "at least one character")
    while (made := len(tokens) - begin) < length:
        room = model.context
        known = tokens if len(tokens) < room else tokens[-max(room // 2, 1) :]
        steps = min(length - made, room - len(known) + 1)
        given = jnp.asarray([known], jnp.int32), key, made, temperature, top_p or 1.0
        tokens += map(int, _stretch(model, steps, top_k, params, *given))
    return np.array(tokens[begin:], np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stretch(model, steps, top_k, params, known, key, first, temperature, top_p):
    """So many tokens behind those known, as many as find room."""
    state = jax.tree.map(jnp.zeros_like, jax.eval_shape(model.init, key)[1])

    def drawn(logits, place):
        logits = filtered(logits, temperature, top_k, top_p)
        return jax.random.categorical(jax.random.fold_in(key, place), logits).astype(jnp.int32)

    (logits, caches), _ = model.apply(params, state, known, model.caches(1))
    token = drawn(logits[0, -1], first)

    def step(carry, place):
        token, caches = carry
        (logits, caches), _ = model.apply(params, state, token[None, None], caches)
        token = drawn(logits[0, -1], place)
        return (token, caches), token

    _, rest = jax.lax.scan(step, (token, caches), first + jnp.arange(1, steps))
    return jnp.concatenate([token[None], rest])


def filtered(logits: Any, temperature: Any, top_k: int | None, top_p: Any) -> Any:
    """The logits (tokens,) to draw from: those left out are -∞."""
    logits = jnp.asarray(logits)
    ordered = jnp.sort(logits, descending=True)
    least = ordered[0 if top_k is None else min(top_k, len(ordered)) - 1]
    kept = logits >= jnp.where(temperature == 0, ordered[0], -jnp.inf if top_k is None else least)
    logits = logits / jnp.where(temperature == 0, 1, temperature)
    logits = jnp.where(kept, logits, -jnp.inf)
    # A token stays while those before it have less than top_p together.
    ordered = jnp.sort(jax.nn.softmax(logits), descending=True)
    before = jnp.cumsum(ordered) - ordered
    smallest = jnp.min(jnp.where(before < top_p, ordered, jnp.inf))
    return jnp.where(jax.nn.softmax(logits) >= smallest, logits, -jnp.inf)
