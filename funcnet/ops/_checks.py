"""Checks that run while a function is traced: they cost nothing in the compiled program."""

from typing import Any

import jax.numpy as jnp

from funcnet._internal.checks import how_to_convert
from funcnet.errors import ConfigError, DtypeError, ShapeError


def require_floating(function: str, **arrays: Any) -> None:
    """Raise DtypeError unless every named argument is an array of a real floating dtype."""
    for name, array in arrays.items():
        if not (hasattr(array, "dtype") and hasattr(array, "shape")):
            raise DtypeError(
                f"{function}: {name} is {type(array).__name__}, expected an array; "
                f"{how_to_convert(name, array)}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise DtypeError(
                f"{function}: {name} is {array.dtype}{list(array.shape)}, expected floating "
                f"point; convert it, for example with {name}.astype(jnp.float32)"
            )


def require_same_shape(function: str, **arrays: Any) -> None:
    """Raise ShapeError unless the two named arrays have one shape: nothing is broadcast."""
    (first, a), (second, b) = arrays.items()
    if a.shape != b.shape:
        raise ShapeError(
            f"{function}: {first} has shape {a.shape} and {second} has shape {b.shape}, "
            f"expected the same; reshape one of them: nothing is broadcast"
        )


def require_held(name: str, value: float, dtype: Any) -> None:
    """Raise ConfigError unless a dtype can hold a number: it would be infinite."""
    largest = float(jnp.finfo(dtype).max)
    if abs(value) > largest:
        raise ConfigError(f"{name} is {value:g}, expected at most {largest:g}, {dtype}'s largest")


def require_linear(x: Any, weight: Any, bias: Any) -> None:
    """Raise ShapeError or DtypeError unless these are arguments of linear."""
    require_floating("linear", x=x, weight=weight)
    if weight.ndim != 2:
        raise ShapeError(
            f"linear: weight has shape {weight.shape}, expected (out_features, in_features)"
        )
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"linear: x has shape {x.shape} and weight {weight.shape}; expected x to be (..., "
            f"{weight.shape[1]}), features last (weight is stored as (out_features, in_features))"
        )
    if bias is None:
        return
    require_floating("linear", bias=bias)
    if bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"linear: bias has shape {bias.shape}, expected {weight.shape[:1]}, one entry a row "
            f"of weight"
        )
