"""How losses end: a loss for every entry or example, then a reduction.

With l_n the loss of entry or example n, dL the cotangent of the result and D what the mean divides
by, the cotangent of l_n is

    "none"  dl_n = dL_n        "sum"  dl_n = dL        "mean"  dl_n = dL / D

dL is never assumed to be 1.
"""

from typing import Any, Literal

from jax import Array

from funcnet.errors import ConfigError

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS = ("none", "mean", "sum")


def reduced(losses: Array, reduction: str) -> Array:
    """The losses (...), or their sum or mean (); the mean divides by the number of losses."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


def spread(dL: Array, reduction: str, count: int) -> Array:
    """The cotangent of each loss, () or (...): that of `reduced` undone."""
    # losses.mean() divides by their number; where there are none, nothing is returned
    return dL / max(count, 1) if reduction == "mean" else dL


def require_reduction(function: str, reduction: Any, known: tuple[str, ...] = REDUCTIONS) -> None:
    """Raise ConfigError unless `reduction` is a known one."""
    if not isinstance(reduction, str) or reduction not in known:
        raise ConfigError(f"{function}: reduction is {reduction!r}, expected one of {known}")
