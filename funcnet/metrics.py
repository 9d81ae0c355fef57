"""Classification metrics with scikit-learn's names, argument order and answers.

Every function takes `(y_true, y_pred)`: integer (or boolean) class labels of shape (examples,), as
lists, NumPy or JAX arrays. They run on the host in NumPy and return Python floats or NumPy arrays:
a score that is read by people gains nothing from being compiled, and int64 counts are exact at any
size of data set.

With C classes in use, `matrix = confusion_matrix(y_true, y_pred)` of shape (C, C) counts the
examples of true class i predicted as class j.  For class c:

    hits       matrix[c, c]             precision = hits / predicted
    predicted  matrix[:, c].sum()       recall    = hits / actual
    actual     matrix[c, :].sum()       F1        = 2 * hits / (predicted + actual)

F1 is the harmonic mean of the two above it.  A class that divides by zero scores `zero_division`, 0
by default, without scikit-learn's warning.

Inside a compiled program, as in `fit(..., metrics={"f1": f1_score})`, the arguments have shapes but
no values, and the same formulas are computed by JAX, with these differences:

- y_pred may be a classifier's floating output, (..., C), of one axis more than the labels: its
  argmax over the last axis is taken. So may y_true be probabilities or one-hot, of y_pred's shape.
- Any number of leading axes are examples.
- Which labels occur isn't known: the classes are 0 to C - 1, or else `labels`, which integer
  predictions need. Classes that don't occur are left out of a mean, as scikit-learn leaves them
  out, but have a row in `confusion_matrix` and a score with `average=None`.
- What depends on values is not checked: a label that is no class matches none.
- Numbers are float32 and int32 arrays.

`mode`, "max" for each score, tells `fit` which values are better.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

Average = Literal["binary", "macro", "micro", "weighted", None]
"""How the scores of the classes become one: see `precision`."""

P = ParamSpec("P")
T = TypeVar("T")


def _more_is_better(metric: Callable[P, T]) -> Callable[P, T]:
    metric.mode = "max"  # pyright: ignore[reportFunctionMemberAccess]
    return metric


@_more_is_better
def accuracy(y_true: Any, y_pred: Any) -> float | Array:
    """Return the fraction of examples whose predicted label is the true one.

    Args:
        y_true: true labels, integers or booleans, shape (examples,).
        y_pred: predicted labels, integers or booleans, shape (examples,).

    Returns:
        A float in [0, 1]; under `jit` an array (), where y_pred may be (..., C): see above.

    Raises:
        TypeError: labels are not integers or booleans.
        ValueError: labels are empty, not one-dimensional, or of different length.
    """
    if _is_traced(y_true, y_pred):
        true, pred, _ = _traced_pair(y_true, y_pred)
        return (true == pred).mean()
    true, pred = _check_pair(y_true, y_pred)
    return float(np.mean(true == pred))


def confusion_matrix(
    y_true: Any, y_pred: Any, *, labels: Sequence[int] | np.ndarray | None = None
) -> np.ndarray | Array:
    """Count the examples of each true class by the class predicted for them.

    Args:
        y_true: true labels, integers or booleans, shape (examples,).
        y_pred: predicted labels, integers or booleans, shape (examples,).
        labels: the C classes to count, in the order of the rows and columns. An example whose true
            or predicted label is not among them is left out. By default every label that occurs, in
            ascending order.

    Returns:
        int64 counts of shape (C, C); row i is true class i, column j predicted class j.

    Raises:
        TypeError: labels are not integers or booleans.
        ValueError: labels are empty, not one-dimensional, or of different length; or `labels`
            repeats itself or has none of the labels in `y_true`.
    """
    if _is_traced(y_true, y_pred):
        true, pred, size = _traced_pair(y_true, y_pred)
        is_true, is_pred = _one_hot(true, pred, _traced_classes(labels, size))
        return jnp.einsum("nc,nd->cd", is_true.astype(jnp.int32), is_pred.astype(jnp.int32))
    true, pred = _check_pair(y_true, y_pred)
    if labels is None:
        classes = np.union1d(true, pred)
    else:
        classes = _check_classes(labels)
        if not np.isin(classes, true).any():
            raise ValueError(f"labels: none of {classes.tolist()} occurs in y_true")
    kept = np.isin(true, classes) & np.isin(pred, classes)
    order = np.argsort(classes)
    row = order[np.searchsorted(classes, true[kept], sorter=order)]
    column = order[np.searchsorted(classes, pred[kept], sorter=order)]
    size = len(classes)
    return np.bincount(row * size + column, minlength=size * size).reshape(size, size)


@_more_is_better
def precision(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: float = 0.0,
) -> float | np.ndarray | Array:
    """Return the fraction of the examples predicted to be of a class that are of it.

    Args:
        y_true: true labels, integers or booleans, shape (examples,).
        y_pred: predicted labels, integers or booleans, shape (examples,).
        labels: the C classes to score, in that order; one that never occurs is allowed. By default
            every label that occurs, in ascending order. Not used by "binary".
        pos_label: the class that "binary" scores. Not used otherwise.
        average: "binary" scores `pos_label` alone, for at most two classes; "macro" is the mean
            over the classes; "weighted" the mean weighted by each class's number of true examples;
            "micro" adds the counts of all classes up before it divides; None returns each class's
            score.
        zero_division: the score of a class that was never predicted, 0 or 1.

    Returns:
        A float in [0, 1], or with `average=None` float64 scores of shape (C,).

    Raises:
        TypeError: labels are not integers or booleans.
        ValueError: labels are empty, not one-dimensional, or of different length; `average` or
            `zero_division` is none of the above; `labels` is empty or repeats itself; or, for
            "binary", there are more than two classes, or `pos_label` is neither of the two.
    """
    counts = _count(y_true, y_pred, labels, pos_label, average)
    return _average(counts.hits, counts.predicted, counts, average, zero_division, labels)


@_more_is_better
def recall(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: float = 0.0,
) -> float | np.ndarray | Array:
    """Return the fraction of the examples of a class that were predicted to be of it.

    Arguments, result and errors are those of `precision`; `zero_division` is the score of a class
    that has no true example.
    """
    counts = _count(y_true, y_pred, labels, pos_label, average)
    return _average(counts.hits, counts.actual, counts, average, zero_division, labels)


@_more_is_better
def f1_score(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: float = 0.0,
) -> float | np.ndarray | Array:
    """Return F1, the harmonic mean of precision and recall.

    Arguments, result and errors are those of `precision`; `zero_division` is the score of a class
    that occurs in neither `y_true` nor `y_pred`. "macro" and "weighted" average the classes' F1,
    not their precision and recall.
    """
    counts = _count(y_true, y_pred, labels, pos_label, average)
    total = counts.predicted + counts.actual
    return _average(2 * counts.hits, total, counts, average, zero_division, labels)


class _Counts(NamedTuple):
    """Examples per scored class, each an integer array of shape (C,).

    C is 1 for "binary" and "micro".
    """

    hits: Any
    predicted: Any
    actual: Any


def _count(y_true: Any, y_pred: Any, labels: Any, pos_label: int, average: Average) -> _Counts:
    """Count what the scores divide, over all examples: `labels` chooses classes, not examples."""
    if average not in get_args(Average):
        raise ValueError(f"average: expected one of {get_args(Average)}, got {average!r}")
    if _is_traced(y_true, y_pred):
        counts = _traced_count(y_true, y_pred, labels, pos_label, average)
    else:
        counts = _host_count(y_true, y_pred, labels, pos_label, average)
    return _Counts(*(c.sum(keepdims=True) for c in counts)) if average == "micro" else counts


def _host_count(y_true: Any, y_pred: Any, labels: Any, pos_label: int, average: Average) -> _Counts:
    true, pred = _check_pair(y_true, y_pred)
    present = np.union1d(true, pred)
    if average == "binary":
        classes = _check_binary(present, pos_label)
    else:
        classes = present if labels is None else _check_classes(labels)
    everything = np.union1d(present, classes)
    chosen = np.searchsorted(everything, classes)
    matrix = np.asarray(confusion_matrix(true, pred, labels=everything))
    return _Counts(matrix.diagonal()[chosen], matrix.sum(0)[chosen], matrix.sum(1)[chosen])


def _traced_count(
    y_true: Any, y_pred: Any, labels: Any, pos_label: int, average: Average
) -> _Counts:
    true, pred, size = _traced_pair(y_true, y_pred)
    if average == "binary":
        if size is not None:
            _check_binary(np.arange(size), pos_label)
        classes = np.array([pos_label])
    else:
        classes = _traced_classes(labels, size)
    is_true, is_pred = _one_hot(true, pred, classes)
    hits = is_true & is_pred
    return _Counts(*(hot.sum(axis=0, dtype=jnp.int32) for hot in (hits, is_pred, is_true)))


def _average(
    numerator: Any,
    denominator: Any,
    counts: _Counts,
    average: Average,
    zero_division: float,
    labels: Any,
) -> float | np.ndarray | Array:
    """Divide class by class, then average over the classes; every array has shape (C,)."""
    if zero_division not in (0, 1):
        raise ValueError(f"zero_division: expected 0 or 1, got {zero_division!r}")
    if _is_traced(numerator):
        # A class that does not occur at all was not asked for, unless by name.
        asked = (counts.predicted + counts.actual > 0) | (labels is not None)
        asked |= average in ("binary", "micro")
        return _traced_average(numerator, denominator, counts.actual, asked, average, zero_division)
    scores = np.full(len(numerator), float(zero_division))
    np.divide(numerator, denominator, out=scores, where=denominator > 0)
    if average is None:
        return scores
    # Where no scored class has a true example, scikit-learn weighs them equally.
    weights = counts.actual if average == "weighted" and counts.actual.any() else None
    return float(np.average(scores, weights=weights))


def _traced_average(
    numerator: Array,
    denominator: Array,
    actual: Array,
    asked: Array,
    average: Average,
    zero_division: float,
) -> Array:
    scores = jnp.where(
        denominator > 0, numerator / jnp.maximum(denominator, 1), jnp.float32(zero_division)
    )
    if average is None:
        return scores
    weights = asked.astype(jnp.float32)
    if average == "weighted":
        weights = jnp.where(actual.any(), actual.astype(jnp.float32), weights)
    return (scores * weights).sum() / weights.sum()


def _is_traced(*arrays: Any) -> bool:
    return any(isinstance(array, Tracer) for array in arrays)


def _traced_pair(y_true: Any, y_pred: Any) -> tuple[Array, Array, int | None]:
    """Both as labels of shape (examples,), and the number of classes where y_pred tells it."""
    true, pred = jnp.asarray(y_true), jnp.asarray(y_pred)
    size = None
    if jnp.issubdtype(pred.dtype, jnp.floating) and pred.ndim > 0:
        if true.shape == pred.shape and jnp.issubdtype(true.dtype, jnp.floating):
            true = true.argmax(axis=-1)
        if true.shape == pred.shape[:-1]:
            size = pred.shape[-1]
            pred = pred.argmax(axis=-1)
    for name, array in (("y_true", true), ("y_pred", pred)):
        if array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(
                f"{name}: expected integer or boolean labels, got {array.dtype}{list(array.shape)};"
                f" scores or probabilities need an argmax or a threshold first"
            )
    if true.shape != pred.shape:
        raise ValueError(
            f"y_true and y_pred differ in shape: {true.shape} and {pred.shape}; "
            "give one predicted label for each true one, or outputs (..., classes)"
        )
    if true.size == 0:
        raise ValueError("y_true: expected at least one label, got none")
    return true.reshape(-1), pred.reshape(-1), size


def _traced_classes(labels: Any, size: int | None) -> np.ndarray:
    if labels is not None:
        return _check_classes(labels)
    if size is None:
        raise ValueError(
            "labels: which labels occur isn't known inside a compiled program; pass labels=range(C)"
        )
    return np.arange(size)


def _one_hot(true: Array, pred: Array, classes: np.ndarray) -> tuple[Array, Array]:
    """Which example is of which class, (examples, C) booleans."""
    return true[:, None] == classes[None, :], pred[:, None] == classes[None, :]


def _check_pair(y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    true, pred = _check_labels("y_true", y_true), _check_labels("y_pred", y_pred)
    if len(true) != len(pred):
        raise ValueError(
            f"y_true and y_pred differ in length: {len(true)} and {len(pred)}; "
            "give one predicted label for each true one"
        )
    return true, pred


def _check_labels(name: str, values: Any) -> np.ndarray:
    """Return `values` as int64 of shape (examples,), or say what is wrong with them."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: {error}") from None
    if array.ndim != 1:
        mend = "; take the argmax over the classes first" if array.ndim == 2 else ""
        raise ValueError(f"{name}: expected shape (examples,), got {array.shape}{mend}")
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one label, got none")
    if array.dtype.kind not in "iub":
        mend = "; scores or probabilities need an argmax or a threshold first"
        raise TypeError(
            f"{name}: expected integer or boolean labels, got {array.dtype}"
            + (mend if array.dtype.kind == "f" else "")
        )
    labels = array.astype(np.int64)
    if (labels != array).any():
        raise ValueError(f"{name}: expected labels that fit int64, got {array.max()}")
    return labels


def _check_classes(labels: Any) -> np.ndarray:
    classes = _check_labels("labels", labels)
    if len(np.unique(classes)) != len(classes):
        raise ValueError(f"labels: expected each class once, got {classes.tolist()}")
    return classes


def _check_binary(present: np.ndarray, pos_label: int) -> np.ndarray:
    if len(present) > 2:
        raise ValueError(
            f"average='binary' scores two classes, got {len(present)}; "
            "choose average='macro', 'micro', 'weighted' or None"
        )
    if len(present) == 2 and pos_label not in present:
        raise ValueError(f"pos_label: {pos_label!r} is not one of the classes {present.tolist()}")
    return _check_classes([pos_label])
