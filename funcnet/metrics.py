"""Classification metrics with scikit-learn's names, argument order and answers.

Every function takes `(y_true, y_pred)`: integer (or boolean) class labels of shape (examples,), as
lists, NumPy or JAX arrays. They run on the host in NumPy and return Python floats or NumPy arrays:
a score is read by people, so it gains nothing from being compiled, and int64 counts are exact at
any size of data set.

With C classes in use, `matrix = confusion_matrix(y_true, y_pred)` of shape (C, C) counts the
examples of true class i predicted as class j.  For class c:

    hits       matrix[c, c]             precision = hits / predicted
    predicted  matrix[:, c].sum()       recall    = hits / actual
    actual     matrix[c, :].sum()       F1        = 2 * hits / (predicted + actual)

F1 is the harmonic mean of the two above it.  A class that divides by zero scores `zero_division`, 0
by default, without scikit-learn's warning.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Average = Literal["binary", "macro", "micro", "weighted", None]
"""How the scores of the classes become one: see `precision`."""


def accuracy(y_true: Any, y_pred: Any) -> float:
    """Return the fraction of examples whose predicted label is the true one.

    Args:
        y_true: true labels, integers or booleans, shape (examples,).
        y_pred: predicted labels, integers or booleans, shape (examples,).

    Returns:
        A float in [0, 1].

    Raises:
        TypeError: labels are not integers or booleans.
        ValueError: labels are empty, not one-dimensional, or of different length.
    """
    true, pred = _check_pair(y_true, y_pred)
    return float(np.mean(true == pred))


def confusion_matrix(
    y_true: Any, y_pred: Any, *, labels: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
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


def precision(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: float = 0.0,
) -> float | np.ndarray:
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
    return _average(counts.hits, counts.predicted, counts.actual, average, zero_division)


def recall(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: float = 0.0,
) -> float | np.ndarray:
    """Return the fraction of the examples of a class that were predicted to be of it.

    Arguments, result and errors are those of `precision`; `zero_division` is the score of a class
    that has no true example.
    """
    counts = _count(y_true, y_pred, labels, pos_label, average)
    return _average(counts.hits, counts.actual, counts.actual, average, zero_division)


def f1_score(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: float = 0.0,
) -> float | np.ndarray:
    """Return F1, the harmonic mean of precision and recall.

    Arguments, result and errors are those of `precision`; `zero_division` is the score of a class
    that occurs in neither `y_true` nor `y_pred`. "macro" and "weighted" average the classes' F1,
    not their precision and recall.
    """
    counts = _count(y_true, y_pred, labels, pos_label, average)
    total = counts.predicted + counts.actual
    return _average(2 * counts.hits, total, counts.actual, average, zero_division)


class _Counts(NamedTuple):
    """Examples per scored class, each int64 of shape (C,); C is 1 for "binary" and "micro"."""

    hits: np.ndarray
    predicted: np.ndarray
    actual: np.ndarray


def _count(y_true: Any, y_pred: Any, labels: Any, pos_label: int, average: Average) -> _Counts:
    """Count what the scores divide, over all examples: `labels` chooses classes, not examples."""
    if average not in get_args(Average):
        raise ValueError(f"average: expected one of {get_args(Average)}, got {average!r}")
    true, pred = _check_pair(y_true, y_pred)
    present = np.union1d(true, pred)
    if average == "binary":
        classes = _check_binary(present, pos_label)
    else:
        classes = present if labels is None else _check_classes(labels)
    everything = np.union1d(present, classes)
    chosen = np.searchsorted(everything, classes)
    matrix = confusion_matrix(true, pred, labels=everything)
    counts = _Counts(matrix.diagonal()[chosen], matrix.sum(0)[chosen], matrix.sum(1)[chosen])
    return _Counts(*(c.sum(keepdims=True) for c in counts)) if average == "micro" else counts


def _average(
    numerator: np.ndarray,
    denominator: np.ndarray,
    support: np.ndarray,
    average: Average,
    zero_division: float,
) -> float | np.ndarray:
    """Divide class by class, then average over the classes; every array has shape (C,)."""
    if zero_division not in (0, 1):
        raise ValueError(f"zero_division: expected 0 or 1, got {zero_division!r}")
    scores = np.full(len(numerator), float(zero_division))
    np.divide(numerator, denominator, out=scores, where=denominator > 0)
    if average is None:
        return scores
    # Where no scored class has a true example, scikit-learn weighs them equally.
    weights = support if average == "weighted" and support.any() else None
    return float(np.average(scores, weights=weights))


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
