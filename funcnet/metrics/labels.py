"""Metrics of predicted labels, with scikit-learn's names, argument order and answers.

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

Several labels an example are rows of answers, both (examples, answers), 0 or 1 each: an answer is
scored as a class is, and accuracy counts the rows that are wholly right.  With `threshold`, y_pred
may be scores, of several answers (examples, answers) or of one (examples,) or (examples, 1): yes is
what is above it, 0 for logits.

Inside a compiled program, as in `fit(..., metrics={"f1": f1_score})`, the arguments have shapes but
no values, and the same formulas are computed by JAX, with these differences:

- y_pred may be a classifier's floating output, (..., C), of one axis more than the labels: its
  argmax over the last axis is taken. So may y_true be probabilities or one-hot, of y_pred's shape.
- Any number of leading axes are examples; but integers or booleans (examples, answers) on both
  sides are several labels an example, as everywhere.
- Which labels occur isn't known: the classes are 0 to C - 1, or else `labels`, which integer
  predictions need. Classes that don't occur are left out of a mean, as scikit-learn leaves them
  out, but have a row in `confusion_matrix` and a score with `average=None`.
- What depends on values is not checked: a label that is no class matches none.
- Numbers are float32 and int32 arrays.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet.metrics._shared import better
from funcnet.metrics._shared import is_traced as _is_traced

Average = Literal["binary", "macro", "micro", "weighted", "samples", None]
"""How the scores of the classes become one: see `precision`."""

ZeroDivision = float | Literal["warn"]
"""The score of what divides by zero: 0, 1, NaN, or "warn" for 0 with a warning."""

_AVERAGES = ("binary", "macro", "micro", "weighted", None)


@better("max")
def accuracy(y_true: Any, y_pred: Any, *, threshold: float | None = None) -> float | Array:
    """Return the fraction of examples whose predicted label is the true one.

    Args:
        y_true: true labels, integers or booleans, shape (examples,); or (examples, answers), of
            which every answer of a row must be right.
        y_pred: predicted labels, likewise.
        threshold: above which number of y_pred an answer is yes; None for labels.

    Returns:
        A float in [0, 1]; under `jit` an array (), where y_pred may be (..., C): see above.

    Raises:
        TypeError: labels are not integers or booleans.
        ValueError: labels are empty, not one-dimensional, or of different length.
    """
    y_true, y_pred = _answered(y_true, y_pred, threshold)
    traced = _is_traced(y_true, y_pred)
    if _are_answers(y_true, y_pred):
        true, pred = _check_answers(y_true, y_pred)
        rows = (true == pred).all(axis=1)
        return rows.mean() if traced else float(rows.mean())
    if traced:
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


@better("max")
def precision(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: ZeroDivision = 0.0,
    threshold: float | None = None,
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
            score. Of several labels an example "samples" is the mean over the examples, and
            "binary" has no meaning.
        zero_division: the score of a class that was never predicted: 0 or 1; NaN, which leaves the
            class out of a mean; or "warn", which is 0 with a UserWarning.
        threshold: above which number of y_pred an answer is yes; None for labels.

    Returns:
        A float in [0, 1], or with `average=None` float64 scores of shape (C,).

    Raises:
        TypeError: labels are not integers or booleans.
        ValueError: labels are empty, not one-dimensional, or of different length; `average` or
            `zero_division` is none of the above; `labels` is empty or repeats itself; or, for
            "binary", there are more than two classes, or `pos_label` is neither of the two.
    """
    counts = _count(*_answered(y_true, y_pred, threshold), labels, pos_label, average)
    return _average(counts.hits, counts.predicted, counts, average, zero_division, labels)


@better("max")
def recall(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: ZeroDivision = 0.0,
    threshold: float | None = None,
) -> float | np.ndarray | Array:
    """Return the fraction of the examples of a class that were predicted to be of it.

    Arguments, result and errors are those of `precision`; `zero_division` is the score of a class
    that has no true example.
    """
    counts = _count(*_answered(y_true, y_pred, threshold), labels, pos_label, average)
    return _average(counts.hits, counts.actual, counts, average, zero_division, labels)


@better("max")
def f1_score(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    pos_label: int = 1,
    average: Average = "binary",
    zero_division: ZeroDivision = 0.0,
    threshold: float | None = None,
) -> float | np.ndarray | Array:
    """Return F1, the harmonic mean of precision and recall.

    Arguments, result and errors are those of `precision`; `zero_division` is the score of a class
    that occurs in neither `y_true` nor `y_pred`. "macro" and "weighted" average the classes' F1,
    not their precision and recall.
    """
    counts = _count(*_answered(y_true, y_pred, threshold), labels, pos_label, average)
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
    answers = _are_answers(y_true, y_pred)
    known = ("macro", "micro", "weighted", "samples", None) if answers else _AVERAGES
    if average not in known:
        of = " for several labels an example" if answers else ""
        raise ValueError(f"average={average!r}: expected one of {known}{of}")
    if answers:
        counts = _answer_count(y_true, y_pred, labels, axis=1 if average == "samples" else 0)
    elif _is_traced(y_true, y_pred):
        counts = _traced_count(y_true, y_pred, labels, pos_label, average)
    else:
        counts = _host_count(y_true, y_pred, labels, pos_label, average)
    return _Counts(*(c.sum(keepdims=True) for c in counts)) if average == "micro" else counts


def _answered(y_true: Any, y_pred: Any, threshold: float | None) -> tuple[Any, Any]:
    """Scores as answers, yes where they are above the threshold, and what they should be."""
    if threshold is None:
        return y_true, y_pred
    xp = jnp if _is_traced(y_true, y_pred) else np
    true, pred = (
        array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        for array in (xp.asarray(y_true), xp.asarray(y_pred))
    )
    if true.shape != pred.shape:
        raise ValueError(
            f"y_true and y_pred differ in shape: {true.shape} and {pred.shape}; with a threshold "
            f"give a score for each answer"
        )
    return true > 0.5, pred > threshold


def _are_answers(y_true: Any, y_pred: Any) -> bool:
    """Whether each example has several answers: both (examples, answers), of no floating dtype."""
    shapes = [getattr(labels, "shape", None) for labels in (y_true, y_pred)]
    if None in shapes:  # lists; ragged ones are refused as labels
        try:
            y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
        except ValueError:
            return False
    floating = [jnp.issubdtype(labels.dtype, jnp.floating) for labels in (y_true, y_pred)]
    if y_true.ndim == 2 and y_true.shape == y_pred.shape and floating == [False, True]:
        raise TypeError(
            f"y_pred: expected an answer, 0 or 1, for each in y_true, got {y_pred.dtype}; give a "
            f"threshold, as functools.partial(fn.metrics.accuracy, threshold=0.0) for logits"
        )
    return y_true.ndim == y_pred.ndim == 2 and not any(floating)


def _check_answers(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Both as booleans (examples, answers)."""
    xp = jnp if _is_traced(y_true, y_pred) else np
    true, pred = xp.asarray(y_true), xp.asarray(y_pred)
    if true.shape != pred.shape or true.size == 0:
        raise ValueError(
            f"y_true and y_pred differ in shape, or are empty: {true.shape} and {pred.shape}; give "
            f"an answer for each"
        )
    for name, answers in (("y_true", true), ("y_pred", pred)):
        if answers.dtype != bool and not jnp.issubdtype(answers.dtype, jnp.integer):
            raise TypeError(f"{name}: expected integers or booleans, got {answers.dtype}")
        if xp is np and not np.isin(answers, (0, 1)).all():
            raise ValueError(
                f"{name}: expected 0 or 1 for each of several labels an example; take the argmax "
                f"over the classes first"
            )
    return true == 1, pred == 1


def _answer_count(y_true: Any, y_pred: Any, labels: Any, axis: int) -> _Counts:
    """Counts for each answer, or with axis 1 for each example."""
    true, pred = _check_answers(y_true, y_pred)
    if labels is not None:
        chosen = _check_classes(labels)
        if chosen.min() < 0 or chosen.max() >= true.shape[1]:
            raise ValueError(
                f"labels: expected some of 0 to {true.shape[1] - 1}, got {chosen.tolist()}"
            )
        true, pred = true[:, chosen], pred[:, chosen]
    return _Counts(*(part.sum(axis=axis) for part in (true & pred, pred, true)))


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
    zero_division: ZeroDivision,
    labels: Any,
) -> float | np.ndarray | Array:
    """Divide class by class, then average over the classes; every array has shape (C,)."""
    value = _zero_division(zero_division)
    if _is_traced(numerator):
        # A class that does not occur at all was not asked for, unless by name.
        asked = (counts.predicted + counts.actual > 0) | (labels is not None)
        asked |= average in ("binary", "micro", "samples")
        return _traced_average(numerator, denominator, counts.actual, asked, average, value)
    scores = np.full(len(numerator), value)
    np.divide(numerator, denominator, out=scores, where=denominator > 0)
    if zero_division == "warn" and not (denominator > 0).all():
        warnings.warn(
            "a class divides by zero, and scores 0; zero_division says another number",
            UserWarning,  # as scikit-learn's UndefinedMetricWarning is one
            stacklevel=3,
        )
    if average is None:
        return scores
    told = ~np.isnan(scores)
    if not told.any():
        return math.nan
    weights = counts.actual[told] if average == "weighted" else None
    # Where no scored class has a true example, scikit-learn weighs them equally.
    return float(np.average(scores[told], weights=weights if np.any(weights) else None))


def _zero_division(given: ZeroDivision) -> float:
    if isinstance(given, str) and given == "warn":
        return 0.0
    if isinstance(given, str) or not (given in (0, 1) or math.isnan(given)):
        raise ValueError(
            f"zero_division: expected 0 or 1, got {given!r}; or NaN, which leaves such classes out "
            f"of a mean, or 'warn'"
        )
    return float(given)


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
    told = asked & ~jnp.isnan(scores)
    weights = told.astype(jnp.float32)
    if average == "weighted":
        by_size = jnp.where(told, actual, 0)
        weights = jnp.where(by_size.any(), by_size.astype(jnp.float32), weights)
    return (jnp.where(told, scores, 0) * weights).sum() / weights.sum()


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
