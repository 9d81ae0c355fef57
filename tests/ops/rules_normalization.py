"""The cases of rules.py for normalisation, dropout and embedding."""

import jax
import jax.numpy as jnp

from funcnet import ops
from tests.ops.cases import Arguments, Case, normal, positive

CHANNELS = 3


def with_parameters(*parameters: str, rows=4) -> Arguments:
    """X (..., rows, C), so that there is always a mean to take, and parameters (C,)."""

    def arguments(rng, dtype, leading):
        x = normal(rng, dtype, (*leading, rows, CHANNELS))
        return (x, *(normal(rng, dtype, (CHANNELS,)) for _ in parameters))

    return arguments


def batch_norm(x, weight=None, bias=None):
    return ops.batch_norm(x, None, None, weight, bias, training=True)[0]


def batch_norm_followed(x, running_mean, running_var, weight, bias):
    return ops.batch_norm(x, running_mean, running_var, weight, bias, training=True)


def batch_norm_evaluating(x, weight=None, bias=None):
    running_mean, running_var = jnp.array([0.25, -1.5, 0.75]), jnp.array([0.5, 2.25, 1.25])
    return ops.batch_norm(x, running_mean, running_var, weight, bias)[0]


def followed(rng, dtype, leading):
    x, weight, bias = with_parameters("weight", "bias")(rng, dtype, leading)
    return x, normal(rng, dtype, (CHANNELS,)), positive(rng, dtype, (CHANNELS,)), weight, bias


def layer_norm(x, weight=None, bias=None):
    return ops.layer_norm(x, CHANNELS, weight, bias)


def layer_norm_of_two_axes(x, weight, bias):
    return ops.layer_norm(x, (4, CHANNELS), weight, bias)


def rms_norm(x, weight=None):
    return ops.rms_norm(x, CHANNELS, weight)


def group_norm(groups):
    return lambda x, weight=None, bias=None: ops.group_norm(x, groups, weight, bias)


def two_axes(rng, dtype, leading):
    return tuple(normal(rng, dtype, (*axes, 4, CHANNELS)) for axes in (leading, (), ()))


def grouped(*parameters: str, channels=9) -> Arguments:
    """X (..., 2, 4, C): examples first, places between, so that no group is of one or two entries.

    Of two entries the gradient is next to nothing: what is left of it in float32 is rounding.
    """

    def arguments(rng, dtype, leading):
        x = normal(rng, dtype, (*leading, 2, 4, channels))
        return (x, *(normal(rng, dtype, (channels,)) for _ in parameters))

    return arguments


def dropout(p):
    return lambda x, key: ops.dropout(x, p, key=key)


def keyed(rng, dtype, leading):
    return normal(rng, dtype, (*leading, 3)), jax.random.key(int(rng.integers(100)))


def indexed(rng, dtype, leading):
    """Integers, some of them more than once, and a table of five rows."""
    return jnp.asarray(rng.integers(0, 5, size=leading)), normal(rng, dtype, (5, 3))


RULES: dict[str, list[Case]] = {
    "batch_norm": [
        Case("training", batch_norm, with_parameters("weight", "bias")),
        Case("training, no bias", batch_norm, with_parameters("weight"), minor=True),
        Case("training, no parameters", batch_norm, with_parameters(), minor=True),
        Case("running statistics", batch_norm_followed, followed, minor=True),
        Case("evaluation", batch_norm_evaluating, with_parameters("weight", "bias"), minor=True),
        Case("evaluation, no parameters", batch_norm_evaluating, with_parameters(), minor=True),
    ],
    "layer_norm": [
        Case("weight and bias", layer_norm, with_parameters("weight", "bias")),
        Case("no bias", layer_norm, with_parameters("weight"), minor=True),
        Case("no parameters", layer_norm, with_parameters(), minor=True),
        Case("two axes", layer_norm_of_two_axes, two_axes, minor=True),
    ],
    "rms_norm": [
        Case("weight", rms_norm, with_parameters("weight")),
        Case("no weight", rms_norm, with_parameters(), minor=True),
    ],
    "group_norm": [
        Case("three groups", group_norm(3), grouped("weight", "bias")),
        Case("one group, no bias", group_norm(1), grouped("weight"), minor=True),
        Case("a channel a group, no parameters", group_norm(9), grouped(), minor=True),
    ],
    "embedding": [
        Case("embedding", ops.embedding, indexed),
        Case("padding", lambda i, weight: ops.embedding(i, weight, -3), indexed, minor=True),
    ],
    "dropout": [
        Case("p = 0.5", dropout(0.5), keyed),
        Case("p = 0.1", dropout(0.1), keyed, minor=True),
        Case("p = 1", dropout(1), keyed, minor=True),
    ],
}
