"""Metrics of scores and probabilities, as scikit-learn defines them: ROC AUC, log loss, top-k.

With C classes a score is (examples, C), and of two classes (examples,) as well: that of the larger
label. On the host the classes are the labels that occur, or `labels`. Inside a compiled program
they are 0 to C - 1, and two columns are taken for two classes.

A probability is what scikit-learn wants from a classifier, and a network gives logits. On the host
numbers that are no probabilities are refused, unless `from_logits=True` turns them into some, by a
softmax, or a sigmoid of one column. Inside a compiled program `from_logits=None` decides by the
values of the batch or set: where one is outside [0, 1] or a row does not sum to 1, all are logits.
True or False says so for good, and is needed where one column of logits may lie within [0, 1].
"""

import warnings
from itertools import combinations
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet.metrics._shared import as_numbers, as_weight, better, mean, namespace, one

ScoreAverage = Literal["macro", "micro", "weighted", "samples", None]
"""How the areas of classes or answers become one: see `roc_auc_score`."""


@better("max")
def roc_auc_score(
    y_true: Any,
    y_score: Any,
    *,
    average: ScoreAverage = "macro",
    sample_weight: Any = None,
    max_fpr: float | None = None,
    multi_class: Literal["raise", "ovr", "ovo"] = "raise",
    labels: Any = None,
    from_logits: bool | None = None,
) -> float | np.ndarray | Array:
    """Return the area under the ROC curve: how often an example of a class scores above another.

    Args:
        y_true: labels (examples,); or 0 and 1 for each of several answers, (examples, answers).
        y_score: of two classes (examples,), (examples, 1) or (examples, 2), any numbers; of several
            answers (examples, answers), any numbers; of C > 2 classes (examples, C), probabilities.
        average: of several answers or classes: "macro" is the mean; "weighted" that by how often
            each is true; "micro" takes all entries together; "samples" is the mean over the
            examples; None gives the score of each.
        sample_weight: what each example counts, (examples,); None for 1. Not with "ovo".
        max_fpr: the area up to this rate of false positives, standardised to 0.5 for a guess; for
            two classes or several answers.
        multi_class: for C > 2 "ovr", each class against the rest, or "ovo", the mean over all pairs
            of classes (Hand and Till, 2001).
        labels: the C > 2 classes in ascending order, where some don't occur.
        from_logits: see the module's docstring; for C > 2 only, since elsewhere any score will do.

    Returns:
        A float, or with `average=None` (answers,) or (C,); NaN where only one class occurs.

    Raises:
        TypeError: something is no number.
        ValueError: shapes, labels or options do not fit.
    """
    xp = namespace(y_true, y_score, sample_weight)
    score = as_numbers("y_score", y_score, xp)
    true, kind = _kind_of_target(y_true, score, labels, xp)
    if score.shape[:1] != true.shape[:1]:
        raise ValueError(f"y_true and y_score differ in length: {len(true)} and {len(score)}")
    weight = as_weight(sample_weight, len(true), xp)
    if max_fpr is not None and not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr: expected a number in (0, 1], got {max_fpr!r}")
    if kind == "binary":
        if score.ndim == 2:
            score = score[:, 0] if score.shape[1] == 1 else score[:, 1] - score[:, 0]
        return one(_area(xp, true, score, weight, max_fpr), xp)
    if kind == "answers":
        return _averaged_areas(xp, true, score, average, weight, max_fpr)
    if multi_class not in ("ovr", "ovo"):
        raise ValueError(
            f"multi_class: expected 'ovr' or 'ovo' for {score.shape[1]} classes, got "
            f"{multi_class!r}; in fit, functools.partial(fn.metrics.roc_auc_score, "
            f"multi_class='ovr')"
        )
    if max_fpr is not None and max_fpr != 1:
        raise ValueError("max_fpr: expected None for more than two classes")
    probable = _are_probabilities("y_score", score, from_logits, xp, _eps(y_score))
    score = xp.where(probable, score, _log_softmax(score, xp))  # any rising function will do
    several = _pairwise_areas if multi_class == "ovo" else _rest_areas
    return several(xp, true, score, average, weight)


@better("min")
def log_loss(
    y_true: Any,
    y_pred: Any,
    *,
    normalize: bool = True,
    sample_weight: Any = None,
    labels: Any = None,
    from_logits: bool | None = None,
) -> float | Array:
    """Return the cross entropy of labels and predicted probabilities, in nats.

    Args:
        y_true: labels (examples,), or 0 and 1 for each class, (examples, C).
        y_pred: probabilities (examples, C); of two classes also (examples,) or (examples, 1), that
            of the larger label. They are clipped to [eps, 1 - eps], of their dtype's eps; logits
            are not.
        normalize: whether to return the mean over the examples, or the sum.
        sample_weight: what each example counts, (examples,); None for 1.
        labels: the C classes in ascending order, where some don't occur.
        from_logits: see the module's docstring.

    Returns:
        A float; under `jit` an array ().

    Raises:
        TypeError: something is no number.
        ValueError: y_pred is no probability, or shapes and labels do not fit.
    """
    xp = namespace(y_true, y_pred, sample_weight)
    pred = as_numbers("y_pred", y_pred, xp)
    if pred.ndim not in (1, 2):
        raise ValueError(f"y_pred: expected shape (examples, classes), got {pred.shape}")
    eps = _eps(y_pred)
    probable = _are_probabilities("y_pred", pred, from_logits, xp, eps, refused=False)
    logits = pred
    if pred.ndim == 1 or pred.shape[1] == 1:  # of yes; the softmax of (0, z) is the sigmoid of z
        yes = pred.reshape(-1)
        pred, logits = (xp.stack([no, yes], axis=1) for no in (1 - yes, xp.zeros_like(yes)))
    target = _one_hot(y_true, pred.shape[1], labels, xp)
    if target.shape != pred.shape:
        raise ValueError(
            f"y_true and y_pred differ: {len(target)} examples and {target.shape[1]} classes, "
            f"{len(pred)} and {pred.shape[1]}"
        )
    log = xp.where(probable, xp.log(xp.clip(pred, eps, 1 - eps)), _log_softmax(logits, xp))
    losses = -(target * log).sum(axis=1)
    return _mean_or_sum(losses, sample_weight, normalize, xp)


@better("max")
def top_k_accuracy_score(
    y_true: Any,
    y_score: Any,
    *,
    k: int = 2,
    normalize: bool = True,
    sample_weight: Any = None,
    labels: Any = None,
) -> float | Array:
    """Return how often the label is among the k largest scores; of equal ones the last come first.

    Args:
        y_true: labels (examples,).
        y_score: (examples, C); of two classes also (examples,), that of the larger label, which
            is told by a score above 0.5 where all are in [0, 1], else above 0.
        k: how many, at least 1.
        normalize: whether to return the fraction of the examples, or their number.
        sample_weight: what each example counts, (examples,); None for 1.
        labels: the C classes in ascending order, where some don't occur.

    Returns:
        A float; under `jit` an array ().

    Raises:
        TypeError: something is no number.
        ValueError: shapes, labels or options do not fit.
    """
    xp = namespace(y_true, y_score, sample_weight)
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise ValueError(f"k: expected an integer of at least 1, got {k!r}")
    score = as_numbers("y_score", y_score, xp)
    if score.ndim == 2 and score.shape[1] == 1:
        score = score[:, 0]
    if score.ndim not in (1, 2):
        raise ValueError(f"y_score: expected shape (examples, classes), got {score.shape}")
    true = _encoded(y_true, 2 if score.ndim == 1 else score.shape[1], labels, xp)
    if len(true) != len(score):
        raise ValueError(f"y_true and y_score differ in length: {len(true)} and {len(score)}")
    if score.ndim == 1:
        threshold = xp.where((score.min() >= 0) & (score.max() <= 1), 0.5, 0.0)
        hits = (score > threshold) == (true == 1) if k == 1 else xp.ones(len(score), bool)
    else:
        classes = xp.arange(score.shape[1])[None]
        own = xp.take_along_axis(score, xp.clip(true, 0, score.shape[1] - 1)[:, None], axis=1)
        before = (score > own) | ((score == own) & (classes > true[:, None]))
        known = (true >= 0) & (true < score.shape[1]) & ~xp.isnan(score).any(axis=1)
        hits = (before.sum(axis=1) < k) & known
    return _mean_or_sum(hits.astype(score.dtype), sample_weight, normalize, xp)


def _mean_or_sum(values: Any, sample_weight: Any, normalize: bool, xp: Any) -> Any:
    weight = as_weight(sample_weight, len(values), xp)
    if normalize:
        return one(mean(values, weight), xp)
    return one((values if weight is None else values * weight).sum(), xp)


def _eps(values: Any) -> float:
    """The eps of the dtype that numbers came in."""
    dtype = getattr(values, "dtype", None)
    floating = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    return float(jnp.finfo(dtype if floating else np.float64).eps)


def _log_softmax(scores: Any, xp: Any) -> Any:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))


def _are_probabilities(
    name: str, scores: Any, from_logits: bool | None, xp: Any, eps: float, refused: bool = True
) -> Any:
    """Whether these are probabilities, of the rows or of yes alone, rather than logits: see above.

    On the host other numbers are refused; but rows in [0, 1] that do not sum to 1 are only warned
    of where scikit-learn does no more.
    """
    if from_logits:
        return False
    inside = ((scores >= 0) & (scores <= 1)).all()
    alone = scores.ndim == 1 or scores.shape[1] == 1
    whole = alone or xp.abs(scores.sum(axis=1) - 1).max() <= max(1e-5, eps**0.5)
    if xp is jnp:
        return from_logits is not None or inside & whole
    if inside and not whole and not refused:
        warnings.warn(f"{name} does not sum to 1 in each row", UserWarning, stacklevel=3)
    elif not inside or not whole:
        came = "are not in [0, 1]" if not inside else "do not sum to 1 in each row"
        raise ValueError(
            f"{name}: expected probabilities, and they {came}; of a network's outputs give "
            f"jax.nn.softmax({name}), or of one column jax.nn.sigmoid({name}), or from_logits=True"
        )
    return True


def _integers(y_true: Any, xp: Any) -> Any:
    """Labels, or answers 0 and 1, as integers; of any axes."""
    array = xp.asarray(y_true)
    if array.dtype.kind not in "iub" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"y_true: expected integer or boolean labels, got {array.dtype}")
    if xp is np and array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise TypeError(f"y_true: expected labels, got {array.dtype} with fractions")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"y_true: expected shape (examples,), at least one, got {array.shape}")
    return array.astype(np.int64 if xp is np else jnp.int32)


def _kind_of_target(y_true: Any, score: Any, labels: Any, xp: Any) -> tuple[Any, str]:
    """The target as classes 0, 1, ... or answers, and "binary", "classes" or "answers"."""
    true = _integers(y_true, xp)
    if true.ndim == 2 and true.shape[1] > 1:
        if true.shape != score.shape:
            raise ValueError(f"y_true and y_score differ in shape: {true.shape}, {score.shape}")
        if xp is np and not np.isin(true, (0, 1)).all():
            raise ValueError("y_true: expected 0 or 1 for each of several answers")
        return true == 1, "answers"
    true = true.reshape(-1)
    columns = score.shape[1] if score.ndim == 2 else 1
    if score.ndim not in (1, 2):
        raise ValueError(f"y_score: expected shape (examples, classes), got {score.shape}")
    if columns > 2:
        return _encoded(true, columns, labels, xp), "classes"
    if xp is np:
        present = np.unique(true)
        if len(present) > 2:
            raise ValueError(
                f"y_score: expected shape (examples, {len(present)}), a score for each class of "
                f"y_true, got {score.shape}"
            )
        return true == present[-1] if len(present) == 2 else np.ones(len(true), bool), "binary"
    return true == 1, "binary"


def _encoded(y_true: Any, columns: int, labels: Any, xp: Any) -> Any:
    """The place of each label among the classes, (examples,)."""
    true = _integers(y_true, xp).reshape(-1)
    if labels is None:
        if xp is jnp:
            return true
        classes = np.unique(true)
        if len(classes) != columns:
            raise ValueError(
                f"y_true has {len(classes)} classes, {classes.tolist()}, expected {columns} as the "
                f"scores have; pass labels=range({columns}), or whatever the classes are"
            )
        return np.searchsorted(classes, true)
    classes = np.asarray(labels)
    if classes.ndim != 1 or (np.diff(classes) <= 0).any() or len(classes) != columns:
        raise ValueError(
            f"labels: expected {columns} different ones in ascending order, got {classes.tolist()}"
        )
    if xp is np and not np.isin(true, classes).all():
        unknown = np.setdiff1d(true, classes)[0]
        raise ValueError(f"y_true: expected labels among {classes.tolist()}, got {unknown}")
    place = xp.searchsorted(xp.asarray(classes), true)
    known = xp.asarray(classes)[xp.clip(place, 0, columns - 1)] == true
    return xp.where(known, place, -1)


def _one_hot(y_true: Any, columns: int, labels: Any, xp: Any) -> Any:
    """(examples, C), what is asked of each class."""
    array = xp.asarray(y_true)
    if array.ndim == 2 and array.shape[1] > 1:
        return as_numbers("y_true", array, xp)
    hot = _encoded(array, columns, labels, xp)[:, None] == xp.arange(columns)[None]
    return hot.astype(np.float64 if xp is np else jnp.float32)


def _area(xp: Any, true: Any, score: Any, weight: Any, max_fpr: float | None = None) -> Any:
    """The area under one ROC curve, (); NaN where a class has no weight.

    The curve goes through a point for each score that occurs, between which it is a straight line:
    from (F0, T0), the rates at higher scores alone, to (F1, T1), with those of this score. Each
    example looks its two points up; the first of equal ones counts.
    """
    dtype = score.dtype
    weight = xp.ones(len(score), dtype) if weight is None else weight.astype(dtype)
    order = xp.argsort(-score)
    falling, yes, each = -score[order], true[order], weight[order]
    begin = xp.searchsorted(falling, falling, side="left")
    end = xp.searchsorted(falling, falling, side="right")
    start = xp.zeros(1, dtype)
    T = xp.concatenate([start, xp.cumsum(xp.where(yes, each, 0))])
    F = xp.concatenate([start, xp.cumsum(xp.where(yes, 0, each))])
    positive, negative = T[-1], F[-1]
    defined = (positive > 0) & (negative > 0) & ~xp.isnan(score).any()
    T = T / xp.where(defined, positive, 1)
    F = F / xp.where(defined, negative, 1)
    limit = 1.0 if max_fpr is None else max_fpr
    F0, F1, T0, T1 = F[begin], F[end], T[begin], T[end]
    width = xp.clip(F1, None, limit) - xp.clip(F0, None, limit)
    slope = (T1 - T0) / xp.where(F1 > F0, F1 - F0, 1)
    pieces = width * (T0 + 0.5 * slope * width)
    area = xp.where(xp.arange(len(score)) == begin, pieces, 0).sum()
    if limit < 1:
        least, most = 0.5 * limit**2, limit
        area = 0.5 * (1 + (area - least) / (most - least))
    return xp.where(defined, area, xp.nan)


def _averaged_areas(
    xp: Any, true: Any, score: Any, average: Any, weight: Any, max_fpr: float | None
) -> Any:
    """Over the columns, (examples, columns): each one's area, and what `average` makes of them."""
    if average not in ("macro", "micro", "weighted", "samples", None):
        raise ValueError(
            f"average: expected macro, micro, weighted, samples or None, got {average!r}"
        )
    if average == "micro":
        weight = None if weight is None else xp.repeat(weight, true.shape[1])
        return one(_area(xp, true.reshape(-1), score.reshape(-1), weight, max_fpr), xp)
    over = None
    if average == "samples":
        true, score, over, weight = true.T, score.T, weight, None
    if average == "weighted":
        over = (true if weight is None else true * weight[:, None]).sum(axis=0)
    areas = _each_area(xp, true, score, weight, max_fpr)
    if average is None:
        return areas
    if over is None:
        return one(areas.mean(), xp)
    return one(_over(xp, xp.where(over == 0, 0, areas), over, 0.0), xp)


def _rest_areas(xp: Any, true: Any, score: Any, average: Any, weight: Any) -> Any:
    """Each class against the rest, averaged."""
    if average not in ("macro", "micro", "weighted", None):
        raise ValueError(f"average: expected macro, micro, weighted or None, got {average!r}")
    is_class = true[:, None] == xp.arange(score.shape[1])[None]
    return _averaged_areas(xp, is_class, score, average, weight, None)


def _each_area(xp: Any, true: Any, score: Any, weight: Any, max_fpr: float | None = None) -> Any:
    """The area of each column, (columns,)."""
    if xp is np:
        columns = zip(true.T, score.T, strict=True)
        return np.array([_area(np, t, s, weight, max_fpr) for t, s in columns])
    return jax.vmap(lambda t, s: _area(jnp, t, s, weight, max_fpr), in_axes=1)(true, score)


def _pairwise_areas(xp: Any, true: Any, score: Any, average: Any, weight: Any) -> Any:
    """The mean over all pairs of classes that occur, either being the one to tell."""
    if weight is not None:
        raise ValueError("sample_weight: expected None with multi_class='ovo'")
    if average not in ("macro", "weighted"):
        raise ValueError(f"average: expected 'macro' or 'weighted' with 'ovo', got {average!r}")
    pairs = np.array(list(combinations(range(score.shape[1]), 2)))

    def of_pair(a, b):
        is_a, is_b = true == a, true == b
        both = (is_a | is_b).astype(score.dtype)
        areas = _area(xp, is_a, score[:, a], both) + _area(xp, is_b, score[:, b], both)
        return areas / 2, both.mean()

    if xp is np:
        areas, share = map(np.array, zip(*(of_pair(*pair) for pair in pairs), strict=True))
    else:
        areas, share = jax.vmap(of_pair)(*jnp.asarray(pairs.T))
    occurs = ~xp.isnan(areas)
    over = xp.where(occurs, share if average == "weighted" else 1.0, 0)
    return one(_over(xp, xp.where(occurs, areas, 0), over, xp.nan), xp)


def _over(xp: Any, values: Any, weight: Any, otherwise: float) -> Any:
    """The weighted mean, or another number where all weights are 0."""
    total = weight.sum()
    found = (values * weight).sum() / xp.where(total > 0, total, 1)
    return xp.where(total > 0, found, otherwise)
