"""How parameters start: PyTorch's default distributions, each for all layers that share it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_floating_dtype, require_key


def fan_in_uniform(key: Array, shape: tuple[int, ...], bias: bool, dtype: Any) -> dict[str, Array]:
    """Weight and bias uniform in [-1/√N, 1/√N], each drawn on its own.

    PyTorch's default of linear layers and convolutions (`kaiming_uniform_` with a = √5; He et al.,
    2015).

    Args:
        key: typed scalar key.
        shape: the weight's, outputs first; N, which an output is summed over, is the product of
            the rest.
        bias: whether there is one, (outputs,).
        dtype: floating dtype.
    """
    require_key(key)
    outputs, *summed = shape
    inputs = math.prod(summed)
    bound = 1 / math.sqrt(inputs)
    # Drawn at once, the bias as one more column: each draw adds to what has to be compiled.
    columns = (outputs, inputs + bias)
    drawn = jax.random.uniform(key, columns, require_floating_dtype(dtype), -bound, bound)
    params = {"weight": drawn[:, :inputs].reshape(shape)}
    return params | {"bias": drawn[:, -1]} if bias else params


def identity_affine(
    key: Array, shapes: Mapping[str, tuple[int, ...]], dtype: Any
) -> dict[str, Array] | tuple[()]:
    """Weights of 1 and biases of 0, as a normalisation starts; () where there are none.

    Args:
        key: typed scalar key; nothing is drawn.
        shapes: of "weight" and "bias", as far as there are any.
        dtype: floating dtype.
    """
    require_key(key)
    dtype = require_floating_dtype(dtype)
    make = {"weight": jnp.ones, "bias": jnp.zeros}
    return {name: make[name](shape, dtype) for name, shape in shapes.items()} or ()


def xavier_uniform(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    """A weight (outputs, inputs), uniform in [-b, b] with b = √(6 / (inputs + outputs)).

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010, eq. 16.
    """
    require_key(key)
    bound = math.sqrt(6 / sum(shape))
    return jax.random.uniform(key, shape, require_floating_dtype(dtype), -bound, bound)
