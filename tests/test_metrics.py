"""The metrics agree with scikit-learn wherever it has an answer, and refuse what has none."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from funcnet import metrics

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
        ({"average": "samples"}, "average: expected one of .*got 'samples'"),
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
