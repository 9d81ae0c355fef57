"""Metrics are part of the compiled run: scikit-learn's numbers, in training as in evaluation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sk

import funcnet as fn
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.training import step
from tests.same_bits import assert_same_bits
from tests.training.test_fit import CE, KEY, LABELS, MODEL, SGD, VALIDATION, X

ZERO: Any = 0  # scikit-learn's types know words alone


def macro_f1(y_true, y_pred):
    return fn.metrics.f1_score(y_true, y_pred, average="macro")


@dataclasses.dataclass(frozen=True)
class Fraction:
    """The accuracy, added up batch by batch."""

    def init(self):
        return {"right": jnp.int32(0), "all": jnp.int32(0)}

    def update(self, carry, y_true, y_pred):
        right = (y_pred.argmax(axis=-1) == y_true).sum(dtype=jnp.int32)
        return {"right": carry["right"] + right, "all": carry["all"] + len(y_true)}

    def result(self, carry):
        return carry["right"] / carry["all"]


METRICS = {"accuracy": fn.metrics.accuracy, "f1": macro_f1, "fraction": Fraction()}
TRAINER = fn.Trainer(MODEL, CE, SGD, 4, METRICS)


def scores(params, x, y):
    predicted = np.asarray(MODEL.apply(params, ((), (), ()), jnp.asarray(x))[0]).argmax(axis=-1)
    accuracy = sk.accuracy_score(y, predicted)
    f1 = sk.f1_score(y, predicted, average="macro", zero_division=ZERO)
    return {"accuracy": accuracy, "f1": f1, "fraction": accuracy}


@pytest.fixture(scope="module")
def fitted():
    return fn.fit(
        MODEL,
        CE,
        SGD,
        (X, LABELS),
        epochs=3,
        batch_size=4,
        key=KEY,
        validation=VALIDATION,
        metrics=METRICS,
        progress=False,
    )


def test_over_a_set_they_are_scikit_learns(fitted):
    expected = scores(fitted.params, *VALIDATION)
    found = fitted.evaluate(VALIDATION)
    assert list(found) == ["loss", *METRICS]
    assert all(isinstance(value, float) for value in found.values())
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6)
        assert fitted.history[f"validation_{name}"][-1] == pytest.approx(value, abs=1e-6)
    assert found["loss"] == pytest.approx(fitted.history["validation_loss"][-1], rel=1e-6)
    assert list(fitted.evaluate((X[:1], LABELS[:1]))) == ["loss", *METRICS]


@pytest.mark.slow
def test_in_training_they_are_means_over_the_batches_as_seen(fitted):
    run = TRAINER.init(KEY)
    order = np.asarray(step.epoch_order(KEY, 0, 11))
    seen, sizes = [], []
    for batch in np.split(order, [4, 8]):
        seen.append(scores(run.params, X[batch], LABELS[batch]))
        sizes.append(len(batch))
        run, _, _ = step.update(
            TRAINER, run, jnp.asarray(X[batch]), jnp.asarray(LABELS[batch]), KEY
        )
    for name in METRICS:
        expected = np.average([batch[name] for batch in seen], weights=sizes)
        assert fitted.history[name][0] == pytest.approx(expected, abs=1e-6)


def test_they_change_no_bit_of_the_run_and_are_the_runs_own(fitted):
    plain = fn.Trainer(MODEL, CE, SGD, 4)
    run, history = plain.run(plain.init(KEY), (X, LABELS), 3)
    assert_same_bits(fitted.run, run)
    assert_same_bits(fitted.history["loss"], np.asarray(history["loss"]))
    measured, found = TRAINER.run(TRAINER.init(KEY), (X, LABELS), 3)
    assert_same_bits(measured, run)
    for name in METRICS:
        assert_same_bits(np.asarray(found[name]), fitted.history[name])


def test_under_map_seeds():
    def train(key, x, y):
        run, history = TRAINER.run(TRAINER.init(key), (x, y), 3)
        return run, history

    keys = jax.random.split(KEY, 2)
    _, found = fn.map_seeds(train, keys, jnp.asarray(X), jnp.asarray(LABELS))
    for i, key in enumerate(keys):
        _, alone = TRAINER.run(TRAINER.init(key), (X, LABELS), 3)
        for name in METRICS:
            assert_same_bits(np.asarray(found[name][i]), np.asarray(alone[name]))


def test_a_trainer_with_metrics_is_a_value():
    assert fn.Trainer(MODEL, CE, SGD, 4, METRICS) == TRAINER
    assert hash(fn.Trainer(MODEL, CE, SGD, 4, METRICS)) == hash(TRAINER)
    assert dataclasses.replace(TRAINER, batch_size=4) == TRAINER


class Unstable(Fraction):
    def update(self, carry, y_true, y_pred):
        return {"right": carry["right"] + 0.5, "all": carry["all"]}


@pytest.mark.parametrize(
    ("metrics", "error", "says"),
    [
        ({"loss": fn.metrics.accuracy}, ConfigError, "a metric is called 'loss'"),
        ({"validation_f1": macro_f1}, ConfigError, "begins with 'validation_'; choose another"),
        ({"f1": 3}, ConfigError, "'f1' is 3, expected a function"),
        ({"f1": Fraction}, ConfigError, "'f1' is <class"),
        (3, ConfigError, "metrics is 3, expected a dict"),
        ({"f1": lambda t, p: p}, ShapeError, r"'f1' has shape \(4, 3\), .* average='macro'"),
        ({"f1": lambda t, p: "good"}, DtypeError, "'f1' is str, expected one number"),
        ({"f1": Unstable()}, DtypeError, "'f1': update made .* make init return them"),
    ],
)
def test_mistakes(metrics: Any, error, says):
    with pytest.raises(error, match=says):
        fn.fit(MODEL, CE, SGD, (X, LABELS), epochs=1, batch_size=4, key=KEY, metrics=metrics)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("average", ["binary", "macro", "micro", "weighted", None])
@pytest.mark.parametrize("name", ["precision", "recall", "f1_score"])
def test_traced_scores_are_scikit_learns(name, average, classes):
    rng = np.random.default_rng(classes)
    y, logits = rng.integers(0, classes, 12), rng.normal(size=(12, classes))
    ours = getattr(fn.metrics, name)
    theirs = getattr(sk, name if name == "f1_score" else f"{name}_score")
    predicted = logits.argmax(axis=-1)
    score = jax.jit(lambda y, p: ours(y, p, average=average))
    if average == "binary" and classes > 2:
        with pytest.raises(ValueError, match="scores two classes, got 4"):
            score(y, logits)
        return
    expected = theirs(y, predicted, average=average, zero_division=0)
    np.testing.assert_allclose(score(y, logits), expected, atol=1e-6)
    chosen = jax.jit(lambda y, p: ours(y, p, average=average, labels=[1, 0]))
    expected = theirs(y, predicted, average=average, labels=[1, 0], zero_division=0)
    np.testing.assert_allclose(chosen(y, predicted), expected, atol=1e-6)


def test_traced_classes_that_do_not_occur_are_left_out_of_a_mean():
    y, logits = np.array([0, 0, 1]), np.eye(5)[[0, 1, 1]]
    found = jax.jit(macro_f1)(y, logits)
    assert found == pytest.approx(sk.f1_score(y, [0, 1, 1], average="macro"), abs=1e-6)
    matrix = jax.jit(fn.metrics.confusion_matrix)(y, logits)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(y, [0, 1, 1], labels=range(5)))
    one_hot = np.eye(5)[y]
    assert jax.jit(fn.metrics.accuracy)(one_hot, logits) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("y", "pred", "error", "says"),
    [
        (LABELS, LABELS, ValueError, r"pass labels=range\(C\)"),
        (LABELS, X[:, 0], TypeError, "y_pred: .* need an argmax or a threshold first"),
        (LABELS[:3], X, TypeError, "y_pred: expected integer"),
        (LABELS[:3], LABELS, ValueError, "differ in shape"),
        (LABELS[:0], LABELS[:0], ValueError, "at least one label, got none"),
    ],
)
def test_traced_labels_that_are_no_labels_are_refused(y, pred, error, says):
    with pytest.raises(error, match=says):
        jax.jit(macro_f1)(y, pred)


def test_hyperparameters_are_in_the_history():
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    t = fn.Trainer(MODEL, CE, optimizer, 4)
    _, history = t.run(t.init(KEY), (X, LABELS), 2)
    np.testing.assert_allclose(history["learning_rate"], np.array([0.8, 0.5]), rtol=1e-6)


@pytest.mark.slow
def test_they_are_computed_inside_fit_and_can_be_watched():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(int) + (x[:, 2] > 0)
    auc = functools.partial(fn.metrics.roc_auc_score, multi_class="ovr")
    result = fn.fit(
        fn.Sequential(fn.Linear(4, 3)), fn.CrossEntropyLoss(), optax.adam(1e-1), (x, y), epochs=3,
        key=jax.random.key(0), validation=(x, y), progress=False, watch="auc", patience=3,
        metrics={
            "auc": auc, "log_loss": fn.metrics.log_loss, "top": fn.metrics.top_k_accuracy_score,
        },
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
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    answers = (x[:, :3] > 0).astype(np.float32)
    macro = functools.partial(fn.metrics.f1_score, average="macro", threshold=0.0)
    result = fn.fit(
        fn.Sequential(fn.Linear(4, 3)), fn.BCEWithLogitsLoss(), optax.adam(1e-1), (x, answers),
        epochs=3, key=jax.random.key(0), progress=False, metrics={"f1": macro},
    )  # fmt: skip
    expected = sk.f1_score(answers, np.asarray(result.predict(x)) > 0, average="macro")
    assert result.evaluate((x, answers))["f1"] == pytest.approx(expected, abs=1e-6)
    result = fn.fit(
        fn.Sequential(fn.Linear(4, 1)), fn.MSELoss(), optax.adam(1e-1), (x, x[:, :1]), epochs=3,
        key=jax.random.key(0), progress=False,
        metrics={"r2": fn.metrics.r2_score, "mae": fn.metrics.mean_absolute_error},
    )  # fmt: skip
    found, predicted = result.evaluate((x, x[:, :1])), np.asarray(result.predict(x))
    assert found["r2"] == pytest.approx(sk.r2_score(x[:, :1], predicted), abs=1e-5)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(x[:, :1], predicted), abs=1e-6)
