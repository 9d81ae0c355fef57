"""ROC AUC, log loss and top-k accuracy are scikit-learn's, on the host and compiled."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning

from funcnet import metrics
from tests.metrics.both import both_are, compiled

quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")

# ROC AUC

scores = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=25)


@quiet
@given(scores, st.none() | st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_auc_of_two_classes_is_scikit_learns_ties_and_all(pairs, max_fpr, weighted):
    true, score = (np.array(part) for part in zip(*pairs, strict=True))
    weight = np.arange(1, len(true) + 1) / 3 if weighted else None
    options = {"max_fpr": max_fpr, "sample_weight": weight}
    expected = sk.roc_auc_score(true, score, **options)
    found = metrics.roc_auc_score(true.astype(int), score, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.few(4)
@pytest.mark.parametrize("max_fpr", [None, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_of_two_classes_compiled(max_fpr, weighted):
    rng = np.random.default_rng(0)
    true, score = rng.integers(0, 2, 40), rng.integers(0, 9, 40) / 3.0
    weight = rng.uniform(0, 2, 40) if weighted else None
    both_are(
        metrics.roc_auc_score, sk.roc_auc_score, true, score,
        max_fpr=max_fpr, sample_weight=weight,
    )  # fmt: skip
    logits = np.stack([-score, score], axis=1)
    expected = sk.roc_auc_score(true, score)
    assert metrics.roc_auc_score(true, logits) == pytest.approx(expected)
    assert compiled(metrics.roc_auc_score, true, logits) == pytest.approx(expected)
    assert compiled(metrics.roc_auc_score, true, score[:, None]) == pytest.approx(expected)
    assert metrics.roc_auc_score(np.where(true, 5, 3), score) == pytest.approx(expected)


@pytest.mark.few(5)
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "samples", None])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_of_several_answers_is_scikit_learns(average, weighted):
    rng = np.random.default_rng(0)
    true = np.vstack([np.eye(3, dtype=int), rng.integers(0, 2, (20, 3))])
    true = true[(true.sum(axis=1) % 3) > 0]  # each example has both answers
    score = rng.integers(0, 5, true.shape) / 4
    weight = rng.uniform(0, 2, len(true)) if weighted else None
    both_are(
        metrics.roc_auc_score, sk.roc_auc_score, true, score,
        average=average, sample_weight=weight,
    )  # fmt: skip


MULTICLASS = [("ovr", a) for a in ("macro", "micro", "weighted", None)]
MULTICLASS += [("ovo", a) for a in ("macro", "weighted")]


@pytest.mark.few(6)
@pytest.mark.parametrize(("multi_class", "average"), MULTICLASS)
def test_auc_of_several_classes_is_scikit_learns(multi_class, average):
    rng = np.random.default_rng(0)
    true, logits = rng.integers(0, 4, 50), rng.normal(size=(50, 4))
    probabilities = softmax(logits, axis=1)
    options: dict[str, Any] = {"multi_class": multi_class, "average": average}
    both_are(metrics.roc_auc_score, sk.roc_auc_score, true, probabilities, **options)
    expected = sk.roc_auc_score(true, probabilities, **options)
    for found in (
        metrics.roc_auc_score(true, logits, from_logits=True, **options),
        compiled(metrics.roc_auc_score, true, logits, **options),
        metrics.roc_auc_score(true + 3, probabilities, labels=[3, 4, 5, 6], **options),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@quiet
def test_auc_where_a_class_does_not_occur():
    rng = np.random.default_rng(0)
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(sk.roc_auc_score([1, 1], [0.1, 0.2]))
    assert math.isnan(float(np.asarray(metrics.roc_auc_score([1, 1], [0.1, 0.2]))))
    assert np.isnan(compiled(metrics.roc_auc_score, np.array([1, 1]), np.array([0.1, 0.2])))
    true, probabilities = np.array([0, 0, 1, 1]), rng.dirichlet(np.ones(3), 4)
    options: dict[str, Any] = {"multi_class": "ovr", "labels": [0, 1, 2], "average": None}
    both_are(metrics.roc_auc_score, sk.roc_auc_score, true, probabilities, **options)
    options |= {"multi_class": "ovo", "average": "macro"}
    both_are(metrics.roc_auc_score, sk.roc_auc_score, true, probabilities, **options)


# Log loss


def test_log_loss_is_scikit_learns():
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 3, 30), rng.dirichlet(np.ones(3), 30)
    pred[0] = [1, 0, 0]
    weight: Any = rng.uniform(0, 2, 30)
    several: list[dict[str, Any]] = [{}, {"sample_weight": weight}, {"normalize": False}]
    for options in several:
        both_are(metrics.log_loss, sk.log_loss, true[1:], pred[1:], **{
            name: value[1:] if name == "sample_weight" else value for name, value in options.items()
        })  # fmt: skip
        expected = sk.log_loss(true, pred, **options)
        assert metrics.log_loss(true, pred, **options) == pytest.approx(expected)
    single = pred.astype(np.float32)  # clipped by its own eps
    assert metrics.log_loss(true, single) == pytest.approx(sk.log_loss(true, single), rel=1e-5)
    assert compiled(metrics.log_loss, true, single) == pytest.approx(
        sk.log_loss(true, single), rel=1e-5
    )
    few = np.array([0, 2, 2])
    labels: Any = [0, 1, 2]
    both_are(metrics.log_loss, sk.log_loss, few, pred[1:4], labels=labels)
    both_are(metrics.log_loss, sk.log_loss, np.eye(3, dtype=int)[few], pred[1:4])
    yes = rng.uniform(size=20)
    both_are(metrics.log_loss, sk.log_loss, rng.permutation(np.arange(20) % 2), yes)
    both_are(metrics.log_loss, sk.log_loss, rng.permutation(np.arange(20) % 2), yes[:, None])
    with pytest.warns(UserWarning, match="sum to"):
        expected = sk.log_loss(true, pred / 2)
    with pytest.warns(UserWarning, match="does not sum to 1"):
        assert metrics.log_loss(true, pred / 2) == pytest.approx(expected)


def test_log_loss_of_logits():
    rng = np.random.default_rng(0)
    true, logits = rng.permutation(np.arange(30) % 3), rng.normal(size=(30, 3)) * 3
    expected = sk.log_loss(true, softmax(logits, axis=1))
    assert metrics.log_loss(true, logits, from_logits=True) == pytest.approx(expected)
    assert compiled(metrics.log_loss, true, logits) == pytest.approx(expected, rel=1e-5)
    inside = np.array([[0.2, 0.8], [0.4, 0.6]])  # could be either
    expected = sk.log_loss([0, 1], softmax(inside, axis=1))
    found = compiled(metrics.log_loss, [0, 1], inside, from_logits=True)
    assert found == pytest.approx(expected, rel=1e-5)
    true, yes = np.arange(30) % 2, logits[:, 0] * 10
    expected = np.logaddexp(0, np.where(true, -yes, yes)).mean()  # 1 - p would round to 0
    for column in (yes, yes[:, None]):
        found = metrics.log_loss(true, column, from_logits=True)
        assert found == pytest.approx(expected)
    assert compiled(metrics.log_loss, true, yes) == pytest.approx(expected, rel=1e-5)


def test_nothing_that_is_no_number_scores():
    """A run that diverged gets no score that looks like one."""
    true, logits = np.array([0, 1, 1]), np.array([[0.0, 1], [np.nan, np.nan], [1, 2]])
    assert np.isnan(compiled(metrics.log_loss, true, logits))
    assert np.isnan(compiled(metrics.roc_auc_score, true, logits))
    assert compiled(metrics.top_k_accuracy_score, true, logits) == pytest.approx(2 / 3)


# Top-k


@pytest.mark.filterwarnings("ignore:'k' .* greater than or equal")
@pytest.mark.few(2)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_is_scikit_learns_ties_and_all(k):
    rng = np.random.default_rng(0)
    true, score = rng.permutation(np.arange(30) % 4), rng.integers(0, 3, (30, 4)) / 2
    weight = rng.uniform(0, 2, 30)
    for options in ({}, {"sample_weight": weight}, {"normalize": False},
                    {"normalize": False, "sample_weight": weight}):  # fmt: skip
        both_are(metrics.top_k_accuracy_score, sk.top_k_accuracy_score, true, score, k=k, **options)
    labels: Any = [2, 3, 5, 7]
    both_are(
        metrics.top_k_accuracy_score, sk.top_k_accuracy_score,
        np.array(labels)[true][true < 3], score[true < 3], k=k, labels=labels,
    )  # fmt: skip
    answers = np.arange(30) % 2
    for alone in (rng.uniform(size=30), rng.normal(size=30)):
        both_are(metrics.top_k_accuracy_score, sk.top_k_accuracy_score, answers, alone, k=k)


REFUSED = [
    (metrics.roc_auc_score, ([0, 1], [0.1]), {}, ValueError, "differ in length: 2 and 1"),
    (metrics.roc_auc_score, ([0, 1, 2], np.ones(3)), {}, ValueError, r"shape \(examples, 3\)"),
    (metrics.roc_auc_score, ([0, 1, 2], np.eye(3)), {}, ValueError, "functools.partial"),
    (metrics.roc_auc_score, ([0, 1], [0.1, 0.2]), {"max_fpr": 0}, ValueError, "max_fpr: expected"),
    (metrics.roc_auc_score, ([0, 1, 2], 2 * np.eye(3)), {"multi_class": "ovr"}, ValueError,
     "give jax.nn.softmax"),
    (metrics.roc_auc_score, ([0, 1, 2], np.eye(3)), {"multi_class": "ovo", "average": None},
     ValueError, "'macro' or 'weighted' with 'ovo'"),
    (metrics.roc_auc_score, ([0.5, 1], [0.1, 0.2]), {}, TypeError, "float64 with fractions"),
    (metrics.roc_auc_score, (["a", "b"], [0.1, 0.2]), {}, TypeError, "y_true: expected integer"),
    (metrics.log_loss, ([0, 1], [[-1, 2.0], [0, 1]]), {}, ValueError, "from_logits=True"),
    (metrics.log_loss, ([0, 0], [[0.5, 0.5]] * 2), {}, ValueError, r"pass labels=range\(2\)"),
    (metrics.log_loss, ([0, 5], [[0.5, 0.5]] * 2), {"labels": [0, 1]}, ValueError, "got 5"),
    (metrics.log_loss, ([0, 1], [[0.5, 0.5]] * 2), {"labels": [1, 0]}, ValueError, "ascending"),
    (metrics.top_k_accuracy_score, ([0, 1], [0.1, 0.2]), {"k": 0}, ValueError, "k: expected an"),
    (metrics.top_k_accuracy_score, ([0, 1, 3], np.eye(2)), {}, ValueError, "has 3 classes"),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "arrays", "options", "error", "message"), REFUSED)
def test_scores_that_do_not_fit_are_refused(metric, arrays, options, error, message):
    with pytest.raises(error, match=message):
        metric(*arrays, **options)
