"""Checks of sizes, keys and dtypes, shared by layers and training."""

import math
import numbers
import operator
from collections.abc import Mapping
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


def require_shape(name: str, value: Any) -> tuple[int, ...]:
    """One positive integer or a sequence of them, at least one, as a tuple; else ConfigError."""
    sizes = value if isinstance(value, tuple | list) else (value,)
    if not sizes:
        raise ConfigError(f"{name} is {value!r}, expected at least one size")
    return tuple(require_positive_int(name, size) for size in sizes)


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {choices}")


def require_bool(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}, expected True or False")


def require_number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf
) -> float:
    """A finite number between two bounds, as a float; ConfigError for anything else."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    number = float(value) if real else math.nan
    if not math.isfinite(number) or not least <= number <= most:
        bounds = f"a number >= {least}" if most == math.inf else f"a number in [{least}, {most}]"
        expected = "a finite number" if least == -math.inf else bounds
        raise ConfigError(f"{name} is {value!r}, expected {expected}")
    return number


def require_arrays(function: str, **arrays: Any) -> None:
    """Raise DtypeError unless every named argument is an array that JAX takes."""
    for name, array in arrays.items():
        if not (hasattr(array, "dtype") and hasattr(array, "shape")):
            raise DtypeError(
                f"{function}: {name} is {type(array).__name__}, expected an array; "
                f"{how_to_convert(name, array)}"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise DtypeError(f"{function}: {name} is masked; fill it in, as {name}.filled(0)")
        if isinstance(array, np.ndarray) and array.dtype.kind in "OSUMm":
            raise DtypeError(
                f"{function}: {name} has dtype {array.dtype}, expected numbers; convert it, for "
                f"example with {name}.astype(np.float32)"
            )


def how_to_convert(name: str, value: Any) -> str:
    """How to make one array of what is none, in words."""
    several = isinstance(value, Mapping)
    parts = list(value.values()) if several else value
    if isinstance(parts, tuple | list) and any(getattr(part, "ndim", 0) for part in parts):
        stacked = f"list({name}.values())" if several else name
        return (
            f"join the features with np.column_stack({stacked}), or write a Container whose "
            f"connect takes them apart"
        )
    return "convert it with jnp.asarray"


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
