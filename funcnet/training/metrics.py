"""Metrics within a run: what is asked of every batch, or of a whole set, beside the loss.

A function (y_true, y_pred) -> number sees the whole set at once where there is one to see, in
validation and evaluation, since an F1 is no mean of F1s; in training, where the parameters change
from batch to batch, its mean over the batches by their sizes is what there is. An object with
`init`, `update` and `result` adds up what it needs, batch by batch, and gives one number.

Either is traced, and becomes part of the compiled run.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.training.state import outline


@runtime_checkable
class Accumulator(Protocol):
    """A metric that adds up over batches; a frozen dataclass, so that it is hashable."""

    def init(self) -> Any:
        """What there is before the first batch: a pytree of arrays or numbers."""
        ...

    def update(self, carry: Any, y_true: Any, y_pred: Any) -> Any:
        """The same after one batch more."""
        ...

    def result(self, carry: Any) -> Array:
        """The metric over all batches, one number."""
        ...


Metric = Callable[[Any, Any], Any] | Accumulator
Metrics = tuple[tuple[str, Metric], ...]
"""Metrics by name, in a form that is hashable."""

VALIDATION = "validation_"
_TAKEN = ("loss", "diverged_at", "best_epoch", "epoch")


def as_metrics(metrics: Mapping[str, Metric] | Metrics | None) -> Metrics:
    """The metrics by name, hashable.

    Raises:
        ConfigError: a name that is no string or is taken; something that is no metric.
    """
    if metrics is None:
        return ()
    if not isinstance(metrics, Mapping | tuple):
        raise ConfigError(
            f"metrics is {metrics!r}, expected a dict from names to metrics, such as "
            f"{{'accuracy': fn.metrics.accuracy}}"
        )
    pairs = tuple(metrics.items()) if isinstance(metrics, Mapping) else metrics
    for name, metric in pairs:
        if not isinstance(name, str) or name in _TAKEN or name.startswith(VALIDATION):
            raise ConfigError(
                f"a metric is called {name!r}, expected a string other than {', '.join(_TAKEN)} "
                f"and what begins with {VALIDATION!r}; choose another name"
            )
        if isinstance(metric, type) or not (callable(metric) or isinstance(metric, Accumulator)):
            raise ConfigError(
                f"the metric {name!r} is {metric!r}, expected a function (y_true, y_pred) -> "
                f"number, or an object with init, update and result"
            )
    return pairs


def mode_of(metric: Metric) -> Any:
    """What a metric says of itself: which values are better; None where it does not."""
    return getattr(getattr(metric, "func", metric), "mode", None)  # a functools.partial's function


def functions(metrics: Metrics) -> tuple[tuple[str, Callable[[Any, Any], Any]], ...]:
    """Those that see a set, or a batch, at once."""
    return tuple((name, m) for name, m in metrics if not isinstance(m, Accumulator))


def _accumulators(metrics: Metrics) -> tuple[tuple[str, Accumulator], ...]:
    return tuple((name, m) for name, m in metrics if isinstance(m, Accumulator))


def begin(metrics: Metrics) -> dict[str, Any]:
    """What the accumulators carry before the first batch."""
    return {name: jax.tree.map(jnp.asarray, m.init()) for name, m in _accumulators(metrics)}


def added(metrics: Metrics, carries: dict[str, Any], y_true: Any, y_pred: Any) -> dict[str, Any]:
    """What the accumulators carry after one batch more.

    Raises:
        DtypeError: a carry changes its structure, shapes or dtypes.
    """
    after = {}
    for name, metric in _accumulators(metrics):
        after[name] = jax.tree.map(jnp.asarray, metric.update(carries[name], y_true, y_pred))
        before, now = outline(carries[name]), outline(after[name])
        if before != now:
            raise DtypeError(
                f"the metric {name!r}: update made {now} of {before}, expected the same shapes and "
                f"dtypes; make init return them, as jnp.float32(0)"
            )
    return after


def values(metrics: Metrics, y_true: Any, y_pred: Any, dtype: Any) -> dict[str, Array]:
    """What the functions make of a batch, or of a set: () each."""
    return {name: _number(name, f(y_true, y_pred), dtype) for name, f in functions(metrics)}


def results(metrics: Metrics, carries: dict[str, Any], dtype: Any) -> dict[str, Array]:
    """What the accumulators make of all batches: () each."""
    found = {name: m.result(carries[name]) for name, m in _accumulators(metrics)}
    return {name: _number(name, value, dtype) for name, value in found.items()}


def _number(name, value, dtype):
    try:
        number = jnp.asarray(value)
    except TypeError:
        raise DtypeError(
            f"the metric {name!r} is {type(value).__name__}, expected one number"
        ) from None
    if number.shape != ():
        raise ShapeError(
            f"the metric {name!r} has shape {number.shape}, expected one number, (); a score for "
            f"each class needs an average, such as average='macro'"
        )
    if not jnp.issubdtype(number.dtype, jnp.number) and number.dtype != bool:
        raise DtypeError(f"the metric {name!r} is {number.dtype}, expected one number")
    return number.astype(dtype)
