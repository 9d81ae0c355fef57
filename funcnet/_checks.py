"""Checks of sizes, keys and dtypes, shared by layers and training."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.errors import ConfigError, DtypeError, ShapeError


def require_int(name: str, value: Any) -> int:
    """An integer as an int, of numpy's kinds too; ConfigError for anything else."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} is {value!r}, expected an integer") from None


def require_positive_int(name: str, value: Any) -> int:
    """The same for an integer of at least 1."""
    number = require_int(name, value)
    if number < 1:
        raise ConfigError(f"{name} is {number}, expected at least 1")
    return number


def require_loss(loss: Any) -> None:
    """Raise ConfigError unless `loss` can be called."""
    if isinstance(loss, type) or not callable(loss):
        raise ConfigError(f"loss is {loss!r}, expected a loss such as MSELoss()")


def require_key(key: Any) -> None:
    """Raise DtypeError unless `key` is one typed key."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        what = type(key).__name__ if dtype is None else f"{dtype}{list(key.shape)}"
        raise DtypeError(f"key is {what}, expected a typed key; make one with jax.random.key(0)")
    if key.shape != ():
        raise ShapeError(
            f"key has shape {key.shape}, expected one key, shape (); take one, as key[0], or use "
            f"funcnet.map_seeds to train with each"
        )


def require_floating_dtype(dtype: Any) -> Any:
    """`dtype` as a dtype; DtypeError unless it is a floating one that JAX computes in."""
    try:
        # numpy takes None for float64; 8-bit floats promote with nothing
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating) or found.itemsize < 2:
        raise DtypeError(
            f"dtype is {dtype!r}, expected jnp.float16, jnp.bfloat16, jnp.float32 or jnp.float64"
        )
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise DtypeError(
            "dtype is float64, which JAX would make float32; enable it with "
            "jax.config.update('jax_enable_x64', True)"
        )
    return found
