"""The metrics agree with scikit-learn wherever it has an answer, and refuse what has none."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from funcnet import metrics
from tests.metrics.both import compiled

NAN: Any = math.nan
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")

SCORES = [
    (metrics.precision, sk.precision_score),
    (metrics.recall, sk.recall_score),
    (metrics.f1_score, sk.f1_score),
]


def pairs(low, high):
    """A pair of label arrays of one length, with labels in [low, high] and any integer dtypes."""

    def arrays(size):
        dtype = st.sampled_from(["int8", "int32", "int64"])
        values = st.integers(low, high)
        one = dtype.flatmap(lambda d: hnp.arrays(d, size, elements=values))
        return st.tuples(one, one)

    return st.integers(1, 30).flatmap(arrays)


some_labels = st.lists(st.integers(-1, 5), min_size=1, max_size=5, unique=True)


@given(pairs(-2, 4))
def test_accuracy_is_scikit_learns(pair):
    assert metrics.accuracy(*pair) == pytest.approx(sk.accuracy_score(*pair), abs=1e-15)


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(pairs(-2, 4))
def test_confusion_matrix_is_scikit_learns(pair):
    ours = metrics.confusion_matrix(*pair)
    np.testing.assert_array_equal(ours, sk.confusion_matrix(*pair))
    assert ours.dtype == np.int64
    assert ours.sum() == len(pair[0])


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(pairs(0, 4), some_labels)
def test_confusion_matrix_of_chosen_labels_is_scikit_learns(pair, labels):
    try:
        expected = sk.confusion_matrix(*pair, labels=labels)
    except ValueError:
        with pytest.raises(ValueError, match="occurs in y_true"):
            metrics.confusion_matrix(*pair, labels=labels)
    else:
        np.testing.assert_array_equal(metrics.confusion_matrix(*pair, labels=labels), expected)


@pytest.mark.parametrize(("ours", "reference"), SCORES)
@given(pair=pairs(0, 1), pos_label=st.sampled_from([0, 1]), zero_division=st.sampled_from([0, 1]))
def test_binary_scores_are_scikit_learns(ours, reference, pair, pos_label, zero_division):
    options = {"pos_label": pos_label, "zero_division": zero_division}
    score = ours(*pair, **options)
    assert type(score) is float
    assert score == pytest.approx(reference(*pair, **options), abs=1e-14)


@pytest.mark.few(5)
@pytest.mark.parametrize(("ours", "reference"), SCORES)
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@given(pair=pairs(0, 4), labels=st.none() | some_labels, zero_division=st.sampled_from([0, 1]))
def test_averaged_scores_are_scikit_learns(ours, reference, average, pair, labels, zero_division):
    options = {"average": average, "labels": labels, "zero_division": zero_division}
    np.testing.assert_allclose(ours(*pair, **options), reference(*pair, **options), atol=1e-14)


def test_one_example_worked_by_hand():
    y_true = [1, 1, 1, 0, 0, 0, 0, 0]
    y_pred = [1, 1, 0, 1, 0, 0, 0, 0]
    assert metrics.accuracy(y_true, y_pred) == 0.75
    np.testing.assert_array_equal(metrics.confusion_matrix(y_true, y_pred), [[4, 1], [1, 2]])
    assert metrics.precision(y_true, y_pred) == pytest.approx(2 / 3)
    assert metrics.recall(y_true, y_pred) == pytest.approx(2 / 3)
    assert metrics.f1_score(y_true, y_pred) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [list, np.array, jnp.array])
def test_lists_numpy_and_jax_arrays_and_booleans_are_labels(kind):
    assert metrics.f1_score(kind([True, False, True]), kind([1, 0, 0])) == pytest.approx(2 / 3)


def test_no_positive_anywhere_scores_zero_without_a_warning():
    assert metrics.f1_score([0, 0], [0, 0]) == 0.0
    assert metrics.precision([1, 0], [0, 0]) == 0.0
    assert metrics.recall([0, 0], [1, 0]) == 0.0


TWO_ARGUMENT = [metrics.accuracy, metrics.confusion_matrix, *(ours for ours, _ in SCORES)]


@pytest.mark.parametrize("metric", TWO_ARGUMENT)
@pytest.mark.parametrize(
    ("y_true", "y_pred", "error", "message"),
    [
        ([0, 1], [0], ValueError, "differ in length: 2 and 1"),
        ([], [], ValueError, "y_true: expected at least one label"),
        ([0], [[0, 1]], ValueError, r"y_pred: .*got \(1, 2\); take the argmax"),
        (0, 0, ValueError, r"y_true: expected shape \(examples,\), got \(\)"),
        ([0, 1], [0.1, 0.9], TypeError, "y_pred: .*got float64; scores or probabilities"),
        ([None], [0], TypeError, "y_true: .*got object"),
        (["0"], [0], TypeError, "y_true: expected integer or boolean labels, got <U1"),
        ([2**63], [0], ValueError, "fit int64, got 9223372036854775808"),
    ],
)
def test_labels_that_are_no_labels_are_refused(metric, y_true, y_pred, error, message):
    with pytest.raises(error, match=message):
        metric(y_true, y_pred)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "average='binary' scores two classes, got 3; choose"),
        ({"average": "samples"}, "average='samples': expected one of"),
        ({"average": "macro", "labels": [1, 1]}, r"labels: expected each class once, got \[1, 1\]"),
        ({"average": "macro", "labels": []}, "labels: expected at least one"),
        ({"average": "macro", "zero_division": 0.5}, "zero_division: expected 0 or 1, got 0.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.f1_score([0, 1, 2], [0, 1, 1], **options)


def test_a_positive_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"pos_label: 1 is not one of the classes \[2, 3\]"):
        metrics.recall([2, 3], [3, 3])


# Several labels an example, and zero_division

rows = st.lists(st.tuples(*[st.integers(0, 1)] * 6), min_size=1, max_size=12)


@quiet
@given(rows, st.sampled_from([0, 1, NAN]), st.sampled_from([None, [0, 2], [1]]))
def test_several_labels_an_example_are_scored_as_scikit_learn_does(table, zero_division, labels):
    true, pred = np.split(np.array(table), 2, axis=1)
    assert metrics.accuracy(true, pred) == pytest.approx(sk.accuracy_score(true, pred))
    for ours, theirs in SCORES:
        for average in ("macro", "micro", "weighted", "samples", None):
            options = {"average": average, "zero_division": zero_division, "labels": labels}
            expected = theirs(true, pred, **options)
            np.testing.assert_allclose(ours(true, pred, **options), expected, atol=1e-14)


@pytest.mark.few(4)
@pytest.mark.parametrize("zero_division", [0, 1, NAN])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "samples", None])
def test_several_labels_an_example_compiled(average, zero_division):
    true, pred = np.random.default_rng(0).integers(0, 2, (2, 9, 4))
    true[:, 2] = pred[:, 2] = 0
    true[0] = pred[0] = 0
    for ours, theirs in SCORES:
        options: dict[str, Any] = {"average": average, "zero_division": zero_division}
        expected = theirs(true, pred, labels=range(4), **options)
        found = compiled(ours, true, pred, labels=range(4), **options)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        logits = np.where(pred, 0.3, -0.2)
        found = compiled(ours, true.astype(np.float32), logits, threshold=0.0, labels=range(4),
                         **options)  # fmt: skip
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(ours(true, logits, threshold=0, **options), expected)
    expected = sk.accuracy_score(true, pred)
    assert compiled(metrics.accuracy, true, pred) == pytest.approx(expected)
    assert compiled(metrics.accuracy, true, pred - 0.5, threshold=0) == pytest.approx(expected)


labels_of_one = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20)


@quiet
@given(labels_of_one, st.none() | st.just([3, 5, 0]))
def test_nan_leaves_classes_out_of_a_mean(pairs, labels):
    true, pred = zip(*pairs, strict=True)
    for ours, theirs in SCORES:
        for average in ("macro", "micro", "weighted", None):
            options: dict[str, Any] = {"average": average, "zero_division": NAN, "labels": labels}
            expected = theirs(true, pred, **options)
            np.testing.assert_allclose(ours(true, pred, **options), expected, atol=1e-14)


def test_warn_is_0_with_a_warning():
    with pytest.warns(UserWarning, match="divides by zero, and scores 0"):
        assert metrics.precision([0, 1], [0, 0], zero_division="warn") == 0
    assert metrics.precision([0, 1], [1, 1], zero_division="warn") == 0.5


@pytest.mark.parametrize(
    ("true", "pred", "options", "error", "message"),
    [
        (np.eye(2, dtype=int), np.eye(2), {}, TypeError, r"threshold=0\.0\) for logits"),
        (np.eye(2, dtype=int), np.full((2, 2), 2), {"average": "macro"}, ValueError, "0 or 1"),
        (np.eye(2, dtype=int), np.eye(3, dtype=int), {"average": "macro"}, ValueError, "differ in"),
        (np.eye(2, dtype=int), np.eye(2, dtype=int), {}, ValueError, "'binary'.* several labels"),
        (np.eye(2, dtype=int), np.eye(2, dtype=int), {"average": "macro", "labels": [2]},
         ValueError, "some of 0 to 1"),
        ([0, 1], [0.1, 0.2, 0.3], {"threshold": 0}, ValueError, "a score for each answer"),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit_are_refused(true, pred, options, error, message):
    with pytest.raises(error, match=message):
        metrics.f1_score(true, pred, **options)
