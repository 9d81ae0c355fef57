"""An example of weight k counts as k equal ones, whatever the loss, class weights and batches."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

import funcnet as fn
from funcnet.data import arrays
from funcnet.errors import ConfigError, DataError, DtypeError, ShapeError
from funcnet.training.checkpointing import about_run
from funcnet.training.state import Watching
from tests.same_bits import assert_same_bits
from tests.training.test_evaluation import (
    FEW,
    LABELS,
    MODEL,
    PROBABILITIES,
    STILL,
    WEIGHT,
    C,
    N,
    X,
)
from tests.training.test_fit import KEY

RNG = np.random.default_rng(2)
TIMES = np.array([0, 0, 0, 0, 1, 3, 2, 1, 0, 1, 1, 4, 2])  # the first batch may have none
ANY = RNG.uniform(0, 2, N)

LOSSES: dict[str, tuple[Any, np.ndarray]] = {
    "labels": (fn.CrossEntropyLoss(), LABELS),
    "class weights": (fn.CrossEntropyLoss(weight=WEIGHT), LABELS),
    "a dict": (fn.CrossEntropyLoss(weight={1: 5.0, 2: 0.1}), FEW),
    "all at once": (fn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), FEW),
    "probabilities": (fn.CrossEntropyLoss(weight=WEIGHT), PROBABILITIES),
    "sum": (fn.CrossEntropyLoss(weight=WEIGHT, reduction="sum"), FEW),
    "nll": (fn.NLLLoss(weight={0: 2.0}), FEW),
    "mse": (fn.MSELoss(), PROBABILITIES),
    "mse, sum": (fn.MSELoss("sum"), PROBABILITIES),
    "l1": (fn.L1Loss(), PROBABILITIES),
    "huber": (fn.HuberLoss(delta=0.5), PROBABILITIES),
    "bce": (fn.BCEWithLogitsLoss(pos_weight=WEIGHT), PROBABILITIES),
    "kl, batchmean": (fn.KLDivLoss("batchmean"), PROBABILITIES),
}


def some(*names):
    """All losses, in the slow suite but for these."""
    return [
        name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES
    ]


SIZES = [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(N, marks=pytest.mark.slow)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", some("a dict", "mse"))
def test_a_weight_counts_as_that_many_examples(name, size):
    loss, y = LOSSES[name]
    params, state = MODEL.init(KEY)
    many = jnp.asarray(np.repeat(X, TIMES, axis=0))
    expected = loss(MODEL.apply(params, state, many)[0], jnp.asarray(np.repeat(y, TIMES, axis=0)))
    result = fn.fit(
        MODEL, loss, STILL, (X, y), epochs=1, batch_size=size, key=KEY, progress=False,
        sample_weight=TIMES, validation=(X, y, TIMES),
    )  # fmt: skip
    found = [
        result.history["loss"][0],
        result.history["validation_loss"][0],
        result.evaluate((X, y), sample_weight=TIMES)["loss"],
        float(result.trainer.evaluate(params, state, (X, y), TIMES)),
    ]
    np.testing.assert_allclose(found, float(expected), rtol=2e-6)


@pytest.mark.parametrize("name", some("all at once"))
def test_training_under_weights_is_training_on_repeated_examples(name):
    loss, y = LOSSES[name]
    optimizer = optax.sgd(1e-2)

    def trained(x, y, weight):
        return fn.fit(
            MODEL, loss, optimizer, (x, y), epochs=3, key=KEY, progress=False, sample_weight=weight
        ).params

    repeated = trained(np.repeat(X, TIMES, axis=0), np.repeat(y, TIMES, axis=0), None)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
        trained(X, y, TIMES), repeated,
    )  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("weight", [pytest.param(None, marks=pytest.mark.slow), WEIGHT])
def test_the_loss_is_pytorchs_of_each_example_weighted(weight):
    import torch

    result = fn.fit(
        MODEL, fn.CrossEntropyLoss(weight, label_smoothing=0.1), optax.adam(1e-2), (X, FEW),
        sample_weight=ANY, epochs=5, batch_size=4, key=KEY, progress=False,
        validation=(X, FEW, ANY),
    )  # fmt: skip
    logits = torch.tensor(np.asarray(result.predict(X)))
    by_class = None if weight is None else torch.tensor(weight)
    losses = torch.nn.functional.cross_entropy(
        logits, torch.tensor(FEW), by_class, reduction="none", label_smoothing=0.1
    ).numpy()
    of_class = np.ones(C) if weight is None else np.array(weight)
    shares = np.where(FEW < 0, 0, of_class[FEW % C])
    expected = (ANY * losses).sum() / (ANY * shares).sum()
    assert result.history["validation_loss"][-1] == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_no_weight_teaches_nothing_and_is_no_divergence():
    weight = np.zeros(N)
    weight[5] = 2.0
    result = fn.fit(
        MODEL, fn.CrossEntropyLoss(), optax.sgd(0.1), (X, LABELS), sample_weight=weight, epochs=2,
        batch_size=1, key=KEY, progress=False,
    )  # fmt: skip
    alone = fn.fit(
        MODEL, fn.CrossEntropyLoss(), optax.sgd(0.1), (X[5:6], LABELS[5:6]), epochs=2, key=KEY,
        progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.history["loss"], alone.history["loss"], rtol=1e-6)
    t = fn.Trainer(MODEL, fn.CrossEntropyLoss(), optax.sgd(0.1))
    after, loss = t.step(t.init(KEY), (X[:3], LABELS[:3]), np.zeros(3))
    assert np.isnan(loss)
    assert_same_bits(after.params, t.init(KEY).params)


@pytest.mark.slow
def test_trainer_takes_them_also_compiled_as_fit_does():
    t = fn.Trainer(MODEL, fn.CrossEntropyLoss(), optax.adam(1e-2), 4)
    run, history = t.run(t.init(KEY), (X, LABELS), 3, sample_weight=ANY)
    result = fn.fit(
        t.model, t.loss, t.optimizer, (X, LABELS), epochs=3, batch_size=4, key=KEY,
        sample_weight=ANY.tolist(), progress=False,
    )  # fmt: skip
    assert_same_bits(result.run, run)
    assert_same_bits(result.history["loss"], np.asarray(history["loss"]))

    train = jax.jit(lambda key, data, weight: t.run(t.init(key), data, 3, weight)[0].params)
    assert_same_bits(train(KEY, (X, LABELS), ANY.astype(np.float32)), run.params)


def test_metrics_and_accuracy_see_the_targets_alone():
    @dataclasses.dataclass(frozen=True)
    class Count:
        def init(self):
            return jnp.float32(0)

        def update(self, carry, y_true, y_pred):
            return carry + (y_pred.argmax(axis=-1) == y_true).sum()

        def result(self, carry):
            return carry / N

    metrics = {"accuracy": fn.metrics.accuracy, "count": Count()}
    result = fn.fit(
        MODEL, fn.CrossEntropyLoss(), optax.adam(1e-2), (X, LABELS), sample_weight=ANY, epochs=3,
        batch_size=4, key=KEY, progress=False, metrics=metrics, validation=(X, LABELS, ANY),
    )  # fmt: skip
    assert result.history["validation_accuracy"][-1] == pytest.approx(result.accuracy)
    assert result.history["validation_count"][-1] == pytest.approx(result.accuracy)
    assert result.history["accuracy"] == pytest.approx(result.history["count"])


@pytest.mark.slow
def test_half_precision_adds_weights_up_in_float32():
    weight = np.full(N, 30_000.0)  # whose sum float16 cannot hold
    result = fn.fit(
        MODEL, fn.CrossEntropyLoss(), optax.sgd(0.1), (X, LABELS), sample_weight=weight, epochs=2,
        key=KEY, dtype=jnp.float16, progress=False,
    )  # fmt: skip
    plain = fn.fit(
        MODEL, fn.CrossEntropyLoss(), optax.sgd(0.1), (X, LABELS), epochs=2, key=KEY,
        dtype=jnp.float16, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.history["loss"], plain.history["loss"], rtol=2e-3)


@pytest.mark.slow
def test_a_divergence_under_weights_is_diagnosed():
    with pytest.raises(fn.DivergenceError, match=r"in its step 0, .* is not finite"):
        fn.fit(
            MODEL, fn.MSELoss(), optax.sgd(1e38), (X, PROBABILITIES), sample_weight=ANY, epochs=9,
            key=KEY, progress=False,
        )  # fmt: skip


def test_the_weights_are_a_part_of_what_a_run_is():
    t = fn.Trainer(MODEL, fn.CrossEntropyLoss(), optax.sgd(0.1))

    def about(weight):
        data = arrays.checked("data", (X, LABELS), jnp.float32, weight)
        return about_run(t, t.init(KEY), data, None, None, Watching())["data"]

    assert about(ANY) == about(ANY.copy())
    assert about(ANY) != about(ANY + 1)


@dataclasses.dataclass(frozen=True)
class OneNumber(fn.Loss):
    def __call__(self, prediction, target):
        return fn.ops.mse_loss(prediction, target)


@dataclasses.dataclass(frozen=True)
class Flat(fn.Loss):
    reduction: str = "mean"

    def __call__(self, prediction, target):
        return fn.ops.mse_loss(prediction, target)


def plain(prediction, target):
    return fn.ops.mse_loss(prediction, target)


REFUSED: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    "a function": (plain, (X, PROBABILITIES), ANY, ConfigError, "loss is plain, a function of the"),
    "no reduction": (OneNumber(), (X, PROBABILITIES), ANY, ConfigError, "OneNumber.. has no reduc"),
    "one number": (Flat(), (X, PROBABILITIES), ANY, ShapeError, r"has shape \(\), expected \(13,"),
    "none": (fn.MSELoss("none"), (X, PROBABILITIES), ANY, ShapeError, "reduction='mean'"),
    "three arrays": (fn.CrossEntropyLoss(), (X, LABELS, ANY), None, DataError, "sample_weight="),
    "too few": (fn.CrossEntropyLoss(), (X, LABELS), ANY[1:], ShapeError, r"\(12,\), expected"),
    "a column": (fn.CrossEntropyLoss(), (X, LABELS), ANY[:, None], ShapeError, "weight.:, 0"),
    "a number": (fn.CrossEntropyLoss(), (X, LABELS), 2.0, ShapeError, "a single number"),
    "a dict": (fn.CrossEntropyLoss(), (X, LABELS), {0: 2.0}, DtypeError, r"weight=\{0: 2.0\}"),
    "negative": (fn.CrossEntropyLoss(), (X, LABELS), ANY - 1, DataError, "expected numbers >= 0"),
    "infinite": (fn.CrossEntropyLoss(), (X, LABELS), ANY * np.inf, DataError, "not finite"),
    "zero": (fn.CrossEntropyLoss(), (X, LABELS), 0 * ANY, DataError, "0 everywhere"),
    "words": (fn.CrossEntropyLoss(), (X, LABELS), "balanced", DtypeError, "weight='balanced'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_training(name):
    loss, data, weight, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        fn.fit(MODEL, loss, STILL, data, epochs=1, key=KEY, progress=False, sample_weight=weight)


def test_weights_of_a_validation_set_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"^validation: sample_weight multiplies"):
        fn.fit(
            MODEL, plain, STILL, (X, PROBABILITIES), epochs=1, key=KEY, progress=False,
            validation=(X, PROBABILITIES, ANY),
        )  # fmt: skip


@pytest.mark.slow
def test_a_function_that_takes_the_weights_with_y_is_told_of_and_works():
    def weighted(prediction, target):
        y, weight = target
        return (weight * jnp.square(prediction - y).mean(axis=-1)).sum() / weight.sum()

    result = fn.fit(
        MODEL, weighted, optax.sgd(0.1), (X, (PROBABILITIES, ANY)), epochs=3, key=KEY,
        progress=False,
    )  # fmt: skip
    same = fn.fit(
        MODEL, fn.MSELoss(), optax.sgd(0.1), (X, PROBABILITIES), epochs=3, key=KEY,
        sample_weight=ANY, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(result.history["loss"], same.history["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    "kind", [fn.CrossEntropyLoss, pytest.param(fn.NLLLoss, marks=pytest.mark.slow)]
)
def test_balanced_class_weights_are_scikit_learns(kind):
    few = LABELS[LABELS != 1]  # a class of the model that does not occur
    result = fn.fit(
        MODEL, kind(weight="balanced"), STILL, (X[: len(few)], few), epochs=1, key=KEY,
        progress=False, validation=(X, LABELS),
    )  # fmt: skip
    classes = np.unique(few)
    expected = compute_class_weight("balanced", classes=classes, y=few)
    assert result.trainer.loss.weight == pytest.approx(
        dict(zip(classes.tolist(), expected, strict=True))
    )
    by_hand = kind(weight=[*[dict(result.trainer.loss.weight).get(c, 1.0) for c in range(C)]])
    found = result.history["validation_loss"][-1]
    whole = by_hand(jnp.asarray(result.predict(X)), jnp.asarray(LABELS))
    assert found == pytest.approx(float(whole), rel=1e-6)


def test_balanced_leaves_ignored_labels_out_and_counts_by_sample_weight():
    loss: Any = fn.CrossEntropyLoss(weight="balanced").for_labels(FEW, ANY)
    kept = FEW >= 0
    classes, there = np.unique(FEW[kept], return_inverse=True)
    sums = np.bincount(there, ANY[kept])
    expected = dict(zip(classes.tolist(), sums.sum() / (len(classes) * sums), strict=True))
    assert loss.weight == pytest.approx(expected)
    if "sample_weight" in inspect.signature(compute_class_weight).parameters:
        theirs = compute_class_weight(
            "balanced", classes=classes, y=FEW[kept], sample_weight=ANY[kept]
        )
        assert list(loss.weight.values()) == pytest.approx(theirs.tolist())
    assert fn.MSELoss().for_labels(FEW) == fn.MSELoss()
