"""What a row of the rule table is made of, and arguments that many rows share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

Leading = tuple[int, ...]
Arguments = Callable[[np.random.Generator, Any, Leading], tuple[Any, ...]]


class Case(NamedTuple):
    """A function and how its arguments are made.

    Attributes:
        name: which options it has.
        function: what is judged; it holds the rule.
        arguments: (generator, dtype, leading axes) to a tuple of arguments.
        empty: whether it has a value for an empty batch; a mean has none.
        minor: whether it differs little from the case before: few rows suffice.
    """

    name: str
    function: Callable[..., Any]
    arguments: Arguments
    empty: bool = True
    minor: bool = False


def normal(rng, dtype, shape, scale=1.5):
    """Random numbers, none of them near a kink at 0."""
    x = scale * rng.normal(size=shape)
    return jnp.asarray(x + 0.1 * np.sign(x), dtype)


def positive(rng, dtype, shape):
    return jnp.asarray(rng.uniform(0.5, 2.0, size=shape), dtype)
