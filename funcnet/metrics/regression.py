"""Metrics of numbers: R², mean absolute and mean squared error, as scikit-learn defines them.

y_true and y_pred are (examples,) or (examples, outputs); (examples, 1) and (examples,) are the
same, and further axes are outputs as well. Each output has a score of its own; `multioutput` says
how they become one: "uniform_average", their mean; "raw_values", all of them; (outputs,) weights;
and for R² "variance_weighted", by the variance of each output in y_true.
"""

from typing import Any

import numpy as np
from jax import Array

from funcnet.metrics._shared import as_numbers, as_weight, better, mean, namespace, one


@better("min")
def mean_squared_error(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: Any = "uniform_average"
) -> float | np.ndarray | Array:
    """Return the mean of the squared errors.

    Args:
        y_true: what was to be predicted, (examples,) or (examples, outputs).
        y_pred: what was predicted, of the same shape.
        sample_weight: what each example counts, (examples,); None for 1.
        multioutput: "uniform_average", "raw_values", or (outputs,) weights.

    Returns:
        A float, or with "raw_values" (outputs,); under `jit` arrays.

    Raises:
        TypeError: something is no real number.
        ValueError: the shapes differ, there are no examples, a number is not finite, or
            `multioutput` is something else.
    """
    xp, true, pred, weight = _checked(y_true, y_pred, sample_weight)
    return _over_outputs(mean(xp.square(true - pred), weight, axis=0), multioutput, xp)


@better("min")
def mean_absolute_error(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, multioutput: Any = "uniform_average"
) -> float | np.ndarray | Array:
    """Return the mean of the absolute errors; arguments and result are `mean_squared_error`'s."""
    xp, true, pred, weight = _checked(y_true, y_pred, sample_weight)
    return _over_outputs(mean(xp.abs(true - pred), weight, axis=0), multioutput, xp)


@better("max")
def r2_score(
    y_true: Any,
    y_pred: Any,
    *,
    sample_weight: Any = None,
    multioutput: Any = "uniform_average",
    force_finite: bool = True,
) -> float | np.ndarray | Array:
    """Return R², the coefficient of determination: 1 - Σ(y - prediction)² / Σ(y - mean y)².

    1 at best, 0 for a prediction of the mean, below 0 for worse ones; NaN of a single example.
    Result and errors are `mean_squared_error`'s.

    Args:
        y_true: what was to be predicted, (examples,) or (examples, outputs).
        y_pred: what was predicted, of the same shape.
        sample_weight: what each example counts, (examples,); None for 1.
        multioutput: "uniform_average", "raw_values", "variance_weighted", or (outputs,) weights.
        force_finite: where y does not vary, say 1 for a perfect prediction and 0 for another,
            instead of NaN and -inf.
    """
    xp, true, pred, weight = _checked(y_true, y_pred, sample_weight)
    each = 1 if weight is None else weight[:, None]
    numerator = (each * xp.square(true - pred)).sum(axis=0)
    denominator = (each * xp.square(true - mean(true, weight, axis=0)[None])).sum(axis=0)
    missed, varies = numerator != 0, denominator != 0
    ratio = numerator / xp.where(varies, denominator, 1)
    undefined = xp.where(missed, 0.0 if force_finite else -xp.inf, 1.0 if force_finite else xp.nan)
    scores = xp.where(varies, 1 - ratio, undefined)
    if len(true) < 2:
        scores = xp.full_like(scores, xp.nan)
    if isinstance(multioutput, str) and multioutput == "variance_weighted":
        weights = xp.where(varies.any(), denominator, xp.ones_like(denominator))
        return one(mean(scores, weights), xp)
    return _over_outputs(scores, multioutput, xp, "variance_weighted")


def _checked(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any, Any]:
    """NumPy or jax.numpy, both as (examples, outputs), and the weights."""
    xp = namespace(y_true, y_pred, sample_weight)
    true, pred = as_numbers("y_true", y_true, xp), as_numbers("y_pred", y_pred, xp)
    if true.ndim == 0 or pred.ndim == 0 or true.shape[0] == 0:
        raise ValueError(
            f"y_true and y_pred: expected at least one example, (examples, ...), got shapes "
            f"{true.shape} and {pred.shape}"
        )
    shapes = [a.shape[:-1] if a.ndim == 2 and a.shape[1] == 1 else a.shape for a in (true, pred)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"y_true and y_pred differ in shape: {true.shape} and {pred.shape}; give one "
            f"prediction for each number"
        )
    count = true.shape[0]
    true, pred = true.reshape(count, -1), pred.reshape(count, -1)
    return xp, true, pred, as_weight(sample_weight, count, xp)


def _over_outputs(scores: Any, multioutput: Any, xp: Any, *others: str) -> Any:
    """One number of the scores of the outputs, (outputs,), or all of them."""
    if isinstance(multioutput, str) and multioutput == "raw_values":
        return scores
    if multioutput is None or (isinstance(multioutput, str) and multioutput == "uniform_average"):
        return one(scores.mean(), xp)
    if isinstance(multioutput, str):
        known = ("uniform_average", "raw_values", *others)
        raise ValueError(
            f"multioutput: expected one of {known} or a weight for each output, got {multioutput!r}"
        )
    weights = xp.asarray(multioutput, scores.dtype)
    if weights.shape != scores.shape:
        raise ValueError(
            f"multioutput: expected {scores.shape[0]} weights, one for each output, got shape "
            f"{weights.shape}"
        )
    return one(mean(scores, weights), xp)
