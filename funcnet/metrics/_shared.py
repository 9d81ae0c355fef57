"""What metrics share: arrays on the host in float64, or traced by JAX, and means with weights."""

from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
T = TypeVar("T")


def better(mode: Literal["max", "min"]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Say which values of a metric are better."""

    def mark(metric: Callable[P, T]) -> Callable[P, T]:
        metric.mode = mode  # pyright: ignore[reportFunctionMemberAccess]
        return metric

    return mark


def is_traced(*arrays: Any) -> bool:
    """Whether this is inside a compiled program."""
    return any(isinstance(array, Tracer) for array in arrays)


def namespace(*arrays: Any) -> Any:
    """`jax.numpy` inside a compiled program, else `numpy`."""
    return jnp if is_traced(*arrays) else np


def as_numbers(name: str, values: Any, xp: Any) -> Any:
    """Real numbers, finite where that can be seen: float64 on the host, float32 or wider traced."""
    if xp is jnp:
        array = jnp.asarray(values)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: {error}") from None
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool) or (
        array.dtype.kind in "cm"
    ):
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def as_weight(sample_weight: Any, count: int, xp: Any) -> Any:
    """(examples,) weights, or None."""
    if sample_weight is None:
        return None
    weight = as_numbers("sample_weight", sample_weight, xp)
    if weight.shape != (count,):
        raise ValueError(f"sample_weight: expected shape ({count},), got {weight.shape}")
    if xp is np and not weight.any():
        raise ValueError("sample_weight: it is 0 everywhere, so that no example counts")
    return weight


def mean(values: Any, weight: Any = None, axis: int | None = None) -> Any:
    """The mean over an axis, or over all; weighted along that axis."""
    if weight is None:
        return values.mean(axis=axis)
    if axis is not None:
        weight = weight.reshape(-1, *[1] * (values.ndim - 1))
        return (values * weight).sum(axis=axis) / weight.sum(axis=axis)
    return (values * weight).sum() / weight.sum()


def one(value: Any, xp: Any) -> Any:
    """One number: a float on the host, an array () traced."""
    return float(value) if xp is np else value
