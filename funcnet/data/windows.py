"""Windows over a long series, cut out as they are needed: no copy of the series is made."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_positive_int
from funcnet.data.convert import from_host
from funcnet.errors import ShapeError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Windows:
    """Example i is series[i * stride + ahead :][:length]; stands where an array could, in a set.

    There are as many examples with `ahead` 0 as with 1: those behind which a step is left.

    Attributes:
        series: (steps, ...).
        length: steps of an example.
        stride: steps from the beginning of one example to that of the next.
        ahead: how many steps at the beginning are passed over, 0 or 1.
    """

    series: Any
    length: int = dataclasses.field(metadata={"static": True})
    stride: int = dataclasses.field(metadata={"static": True})
    ahead: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """(examples, length, ...)."""
        steps, *features = self.series.shape
        return ((steps - 1 - self.length) // self.stride + 1, self.length, *features)

    @property
    def dtype(self) -> Any:
        """The series'."""
        return self.series.dtype

    @property
    def ndim(self) -> int:
        """One axis more than the series has."""
        return self.series.ndim + 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        """The examples at an index, a slice or an array of indices."""
        return self.take(jnp.arange(len(self))[index])

    def take(self, indices: Array) -> Array:
        """The examples at these places, (*indices.shape, length, ...), each of which is there."""
        begins = indices[..., None] * self.stride + self.ahead
        within = jnp.arange(self.length, dtype=indices.dtype)
        steps = begins + within.reshape((1,) * indices.ndim + within.shape)
        return jnp.asarray(self.series).at[steps].get(mode="promise_in_bounds")

    def whole(self) -> Any:
        """All steps that an example holds, as one example, (1, steps, ...)."""
        end = self.ahead + (len(self) - 1) * self.stride + self.length
        return self.series[None, self.ahead : end]

    def __repr__(self) -> str:
        return f"Windows(shape={self.shape}, dtype={self.dtype}, stride={self.stride})"


def is_windows(value: Any) -> bool:
    """Whether a node of a pytree is windows, which count as one array."""
    return isinstance(value, Windows)


def windows(series: Any, length: int, stride: int = 1) -> tuple[Windows, Windows]:
    """A data set (x, y) to predict each next step from those before it.

    Example i of x is series[i * stride :][:length], of y the same one step later. `fit` and all
    else that takes a data set takes the two in the place of arrays; the series is stored once, and
    examples are cut out within the compiled run. With stride 1 an epoch begins an example at every
    step, in an order drawn from the run's key; with `stride=length` it reads each step once.

    `FitResult.accuracy` is None for such a set: `metrics` tell what one wants to know.

    Args:
        series: (steps, ...), such as the tokens of a text, integers.
        length: steps of an example.
        stride: steps from the beginning of one example to that of the next.

    Returns:
        Two `Windows`, (examples, length, ...) each; x[0] and x[:3] are arrays.

    Raises:
        ShapeError: the series is too short for one example.
        ConfigError: a length or stride that is no positive integer.
        DtypeError, DataError: the series is no array of numbers.
    """
    length = require_positive_int("windows' length", length)
    stride = require_positive_int("windows' stride", stride)
    if not isinstance(series, Array):
        series = jnp.asarray(from_host("series", series, jnp.result_type(float)))
    if series.ndim == 0 or len(series) <= length:
        raise ShapeError(
            f"windows: the series has shape {series.shape}, expected more than length = {length} "
            f"steps on its first axis: an example and the step behind it; lower length"
        )
    return Windows(series, length, stride, ahead=0), Windows(series, length, stride, ahead=1)
