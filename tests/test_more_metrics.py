"""Metrics of scores, probabilities and numbers, and of several labels an example: scikit-learn's.

Each on the host and compiled.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning

import funcnet as fn
from funcnet import metrics

RNG = np.random.default_rng(0)
NAN: Any = math.nan
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")


def compiled(metric, *arrays, **options):
    return np.asarray(jax.jit(functools.partial(metric, **options))(*map(np.asarray, arrays)))


def both_are(ours, theirs, *arrays, rtol=2e-5, **options):
    """The metric's value on the host and compiled is scikit-learn's."""
    expected = theirs(*arrays, **options)
    np.testing.assert_allclose(ours(*arrays, **options), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(compiled(ours, *arrays, **options), expected, rtol=rtol, atol=1e-6)


# Numbers

REGRESSION = {
    "mse": (metrics.mean_squared_error, sk.mean_squared_error),
    "mae": (metrics.mean_absolute_error, sk.mean_absolute_error),
    "r2": (metrics.r2_score, sk.r2_score),
}
SHAPES = [((9,), (9,)), ((9, 1), (9,)), ((9,), (9, 1)), ((9, 3), (9, 3))]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", REGRESSION)
def test_metrics_of_numbers_are_scikit_learns(name, shapes, weighted):
    ours, theirs = REGRESSION[name]
    true, pred = (RNG.normal(size=shape) for shape in shapes)
    weight = RNG.uniform(0, 2, 9) if weighted else None
    several: list[Any] = ["raw_values", "uniform_average"]
    several += [[0.2, 0.5, 0.3]] if shapes[0] == (9, 3) else []
    several += ["variance_weighted"] if name == "r2" else []
    for multioutput in several:
        both_are(ours, theirs, true, pred, sample_weight=weight, multioutput=multioutput)


@quiet
@pytest.mark.parametrize("multioutput", ["raw_values", "uniform_average", "variance_weighted"])
@pytest.mark.parametrize("force_finite", [True, False])
def test_r2_where_nothing_varies(force_finite, multioutput):
    constant = np.stack([np.ones(4), np.arange(4.0), np.ones(4)], axis=1)
    off = constant + np.array([0.0, 0.5, 1.0])
    options = {"force_finite": force_finite, "multioutput": multioutput}
    if not force_finite and multioutput == "variance_weighted":
        off, constant = off[:, 1:2], constant[:, 1:2]  # NaN times 0 in theirs
    with np.errstate(all="ignore"):
        expected = sk.r2_score(constant, off, **options)
    np.testing.assert_allclose(metrics.r2_score(constant, off, **options), expected)
    np.testing.assert_allclose(compiled(metrics.r2_score, constant, off, **options), expected)
    still = np.ones((4, 2))
    assert metrics.r2_score(still, still, multioutput="variance_weighted") == 1
    assert math.isnan(float(np.asarray(metrics.r2_score([1.0], [2.0]))))


@pytest.mark.parametrize(
    ("true", "pred", "options", "error", "message"),
    [
        ([1.0, 2.0], [1.0], {}, ValueError, r"differ in shape: \(2,\) and \(1,\)"),
        ([], [], {}, ValueError, "at least one example"),
        ([1.0], ["a"], {}, TypeError, "y_pred: expected real numbers, got <U1"),
        ([1.0], [1j], {}, TypeError, "y_pred: expected real numbers, got complex128"),
        ([1.0], [np.nan], {}, ValueError, "y_pred: expected finite numbers"),
        ([1.0], [1.0], {"multioutput": "mean"}, ValueError, "multioutput: expected one of"),
        ([[1.0, 2]], [[1.0, 2]], {"multioutput": [1.0]}, ValueError, "expected 2 weights"),
        ([1.0], [1.0], {"sample_weight": [1, 2]}, ValueError, r"expected shape \(1,\)"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(true, pred, options, error, message):
    for metric, _ in REGRESSION.values():
        with pytest.raises(error, match=message):
            metric(true, pred, **options)


# ROC AUC

scores = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=25)


@quiet
@settings(deadline=None)
@given(scores, st.none() | st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_auc_of_two_classes_is_scikit_learns_ties_and_all(pairs, max_fpr, weighted):
    true, score = (np.array(part) for part in zip(*pairs, strict=True))
    weight = np.arange(1, len(true) + 1) / 3 if weighted else None
    options = {"max_fpr": max_fpr, "sample_weight": weight}
    expected = sk.roc_auc_score(true, score, **options)
    found = metrics.roc_auc_score(true.astype(int), score, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("max_fpr", [None, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_of_two_classes_compiled(max_fpr, weighted):
    true, score = RNG.integers(0, 2, 40), RNG.integers(0, 9, 40) / 3.0
    weight = RNG.uniform(0, 2, 40) if weighted else None
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


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "samples", None])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_of_several_answers_is_scikit_learns(average, weighted):
    true = np.vstack([np.eye(3, dtype=int), RNG.integers(0, 2, (20, 3))])
    true = true[(true.sum(axis=1) % 3) > 0]  # each example has both answers
    score = RNG.integers(0, 5, true.shape) / 4
    weight = RNG.uniform(0, 2, len(true)) if weighted else None
    both_are(
        metrics.roc_auc_score, sk.roc_auc_score, true, score,
        average=average, sample_weight=weight,
    )  # fmt: skip


MULTICLASS = [("ovr", a) for a in ("macro", "micro", "weighted", None)]
MULTICLASS += [("ovo", a) for a in ("macro", "weighted")]


@pytest.mark.parametrize(("multi_class", "average"), MULTICLASS)
def test_auc_of_several_classes_is_scikit_learns(multi_class, average):
    true, logits = RNG.integers(0, 4, 50), RNG.normal(size=(50, 4))
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)), np.float64)
    options: dict[str, Any] = {"multi_class": multi_class, "average": average}
    both_are(metrics.roc_auc_score, sk.roc_auc_score, true, probabilities, **options)
    expected = sk.roc_auc_score(true, probabilities, **options)
    for found in (
        metrics.roc_auc_score(true, logits, from_logits=True, **options),
        compiled(metrics.roc_auc_score, true, logits, **options),
        metrics.roc_auc_score(true + 3, probabilities, labels=[3, 4, 5, 6], **options),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@quiet
def test_auc_where_a_class_does_not_occur():
    with pytest.warns(UndefinedMetricWarning):
        assert math.isnan(sk.roc_auc_score([1, 1], [0.1, 0.2]))
    assert math.isnan(float(np.asarray(metrics.roc_auc_score([1, 1], [0.1, 0.2]))))
    assert np.isnan(compiled(metrics.roc_auc_score, np.array([1, 1]), np.array([0.1, 0.2])))
    true, probabilities = np.array([0, 0, 1, 1]), RNG.dirichlet(np.ones(3), 4)
    options: dict[str, Any] = {"multi_class": "ovr", "labels": [0, 1, 2], "average": None}
    both_are(metrics.roc_auc_score, sk.roc_auc_score, true, probabilities, **options)
    options |= {"multi_class": "ovo", "average": "macro"}
    both_are(metrics.roc_auc_score, sk.roc_auc_score, true, probabilities, **options)


# Log loss


def test_log_loss_is_scikit_learns():
    true, pred = RNG.integers(0, 3, 30), RNG.dirichlet(np.ones(3), 30)
    pred[0] = [1, 0, 0]
    weight: Any = RNG.uniform(0, 2, 30)
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
    yes = RNG.uniform(size=20)
    both_are(metrics.log_loss, sk.log_loss, RNG.permutation(np.arange(20) % 2), yes)
    both_are(metrics.log_loss, sk.log_loss, RNG.permutation(np.arange(20) % 2), yes[:, None])
    with pytest.warns(UserWarning, match="sum to"):
        expected = sk.log_loss(true, pred / 2)
    with pytest.warns(UserWarning, match="does not sum to 1"):
        assert metrics.log_loss(true, pred / 2) == pytest.approx(expected)


def test_log_loss_of_logits():
    true, logits = RNG.integers(0, 3, 30), RNG.normal(size=(30, 3)) * 3
    expected = float(fn.CrossEntropyLoss()(jnp.asarray(logits), jnp.asarray(true)))
    assert metrics.log_loss(true, logits, from_logits=True) == pytest.approx(expected, rel=1e-5)
    assert compiled(metrics.log_loss, true, logits) == pytest.approx(expected, rel=1e-5)
    yes = logits[:, :1] * 4
    answers = np.arange(30) % 2
    loss = fn.BCEWithLogitsLoss()
    expected = float(loss(jnp.asarray(yes), jnp.asarray(answers, jnp.float32)[:, None]))
    for column in (yes, yes[:, 0]):
        found = metrics.log_loss(answers, column, from_logits=True)
        assert found == pytest.approx(expected, rel=1e-5)
        assert compiled(metrics.log_loss, answers, column) == pytest.approx(expected, rel=1e-4)
    inside = np.array([[0.2, 0.8], [0.4, 0.6]])  # could be either
    expected = float(fn.CrossEntropyLoss()(jnp.asarray(inside), jnp.asarray([0, 1])))
    found = compiled(metrics.log_loss, np.array([0, 1]), inside, from_logits=True)
    assert found == pytest.approx(expected, rel=1e-5)


# Top-k


@pytest.mark.filterwarnings("ignore:'k' .* greater than or equal")
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_is_scikit_learns_ties_and_all(k):
    true, score = RNG.permutation(np.arange(30) % 4), RNG.integers(0, 3, (30, 4)) / 2
    weight = RNG.uniform(0, 2, 30)
    for options in ({}, {"sample_weight": weight}, {"normalize": False},
                    {"normalize": False, "sample_weight": weight}):  # fmt: skip
        both_are(metrics.top_k_accuracy_score, sk.top_k_accuracy_score, true, score, k=k, **options)
    labels: Any = [2, 3, 5, 7]
    both_are(
        metrics.top_k_accuracy_score, sk.top_k_accuracy_score,
        np.array(labels)[true][true < 3], score[true < 3], k=k, labels=labels,
    )  # fmt: skip
    answers = np.arange(30) % 2
    for alone in (RNG.uniform(size=30), RNG.normal(size=30)):
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


# Several labels an example, and zero_division

SCORES = {
    "precision": (metrics.precision, sk.precision_score),
    "recall": (metrics.recall, sk.recall_score),
    "f1": (metrics.f1_score, sk.f1_score),
}
rows = st.lists(st.tuples(*[st.integers(0, 1)] * 6), min_size=1, max_size=12)


@quiet
@settings(deadline=None)
@given(rows, st.sampled_from([0, 1, NAN]), st.sampled_from([None, [0, 2], [1]]))
def test_several_labels_an_example_are_scored_as_scikit_learn_does(table, zero_division, labels):
    true, pred = np.split(np.array(table), 2, axis=1)
    assert metrics.accuracy(true, pred) == pytest.approx(sk.accuracy_score(true, pred))
    for ours, theirs in SCORES.values():
        for average in ("macro", "micro", "weighted", "samples", None):
            options = {"average": average, "zero_division": zero_division, "labels": labels}
            expected = theirs(true, pred, **options)
            np.testing.assert_allclose(ours(true, pred, **options), expected, atol=1e-14)


@pytest.mark.parametrize("zero_division", [0, 1, NAN])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "samples", None])
def test_several_labels_an_example_compiled(average, zero_division):
    true, pred = RNG.integers(0, 2, (9, 4)), RNG.integers(0, 2, (9, 4))
    true[:, 2] = pred[:, 2] = 0
    true[0] = pred[0] = 0
    for ours, theirs in SCORES.values():
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
@settings(deadline=None)
@given(labels_of_one, st.none() | st.just([3, 5, 0]))
def test_nan_leaves_classes_out_of_a_mean(pairs, labels):
    true, pred = zip(*pairs, strict=True)
    for ours, theirs in SCORES.values():
        for average in ("macro", "micro", "weighted", None):
            options: dict[str, Any] = {"average": average, "zero_division": NAN, "labels": labels}
            expected = theirs(true, pred, **options)
            np.testing.assert_allclose(ours(true, pred, **options), expected, atol=1e-14)


def test_warn_is_0_with_a_warning():
    with pytest.warns(RuntimeWarning, match="divides by zero, and scores 0"):
        assert metrics.precision([0, 1], [0, 0], zero_division="warn") == 0
    assert metrics.precision([0, 1], [1, 1], zero_division="warn") == 0.5


@pytest.mark.parametrize(
    ("true", "pred", "options", "error", "message"),
    [
        (np.eye(2, dtype=int), np.eye(2), {}, TypeError, r"threshold=0\.0\) for logits"),
        (np.eye(2, dtype=int), np.full((2, 2), 2), {"average": "macro"}, ValueError, "0 or 1"),
        (np.eye(2, dtype=int), np.eye(3, dtype=int), {"average": "macro"}, ValueError, "differ in"),
        (np.eye(2, dtype=int), np.eye(2, dtype=int), {}, ValueError, "several labels .*'binary'"),
        (np.eye(2, dtype=int), np.eye(2, dtype=int), {"average": "macro", "labels": [2]},
         ValueError, "some of 0 to 1"),
        ([0, 1], [0.1, 0.2, 0.3], {"threshold": 0}, ValueError, "a score for each answer"),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit_are_refused(true, pred, options, error, message):
    with pytest.raises(error, match=message):
        metrics.f1_score(true, pred, **options)


# Within a run


def test_they_are_computed_inside_fit_and_can_be_watched():
    x = RNG.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(int) + (x[:, 2] > 0)
    auc = functools.partial(metrics.roc_auc_score, multi_class="ovr")
    result = fn.fit(
        fn.Sequential(fn.Linear(4, 3)), fn.CrossEntropyLoss(), optax.adam(1e-1), (x, y), epochs=3,
        key=jax.random.key(0), validation=(x, y), progress=False, watch="auc", patience=3,
        metrics={"auc": auc, "log_loss": metrics.log_loss, "top": metrics.top_k_accuracy_score},
    )  # fmt: skip
    assert result.history["best_epoch"] == result.history["validation_auc"].argmax()
    probabilities = np.asarray(jax.nn.softmax(result.predict(x)), np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = result.evaluate((x, y))
    expected = sk.roc_auc_score(y, probabilities, multi_class="ovr")
    assert found["auc"] == pytest.approx(expected, abs=1e-5)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, probabilities), abs=1e-5)
    assert found["log_loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert found["top"] == pytest.approx(sk.top_k_accuracy_score(y, probabilities), abs=1e-6)


@pytest.mark.slow
def test_numbers_and_answers_inside_fit():
    x = RNG.normal(size=(40, 4)).astype(np.float32)
    answers = (x[:, :3] > 0).astype(np.float32)
    macro = functools.partial(metrics.f1_score, average="macro", threshold=0.0)
    result = fn.fit(
        fn.Sequential(fn.Linear(4, 3)), fn.BCEWithLogitsLoss(), optax.adam(1e-1), (x, answers),
        epochs=3, key=jax.random.key(0), progress=False, metrics={"f1": macro},
    )  # fmt: skip
    expected = sk.f1_score(answers, np.asarray(result.predict(x)) > 0, average="macro")
    assert result.evaluate((x, answers))["f1"] == pytest.approx(expected, abs=1e-6)
    result = fn.fit(
        fn.Sequential(fn.Linear(4, 1)), fn.MSELoss(), optax.adam(1e-1), (x, x[:, :1]), epochs=3,
        key=jax.random.key(0), progress=False,
        metrics={"r2": metrics.r2_score, "mae": metrics.mean_absolute_error},
    )  # fmt: skip
    found, predicted = result.evaluate((x, x[:, :1])), np.asarray(result.predict(x))
    assert found["r2"] == pytest.approx(sk.r2_score(x[:, :1], predicted), abs=1e-5)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(x[:, :1], predicted), abs=1e-6)
