"""`fit` is `Trainer.run` with checks, a bar, early stopping and an exception for divergence."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import fitting
from tests.same_bits import assert_same_bits

KEY = jax.random.key(3)
MODEL = fn.Sequential(fn.Linear(2, 4), fn.Tanh(), fn.Linear(4, 3))
CE, SGD = fn.CrossEntropyLoss(), optax.sgd(0.5)
RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(11, 2)).astype(np.float32), RNG.integers(0, 3, 11)
VALIDATION = RNG.normal(size=(6, 2)).astype(np.float32), RNG.integers(0, 3, 6)
TRAINER = fn.Trainer(MODEL, CE, SGD, 4)


def fit(data=(X, LABELS), model: fn.Module = MODEL, loss: Any = CE, optimizer=SGD, **options):
    options = {"epochs": 6, "batch_size": 4, "key": KEY, "progress": False} | options
    return fn.fit(model, loss, optimizer, data, **options)


@pytest.fixture(scope="module")
def six():
    """The state after six epochs, and the history, by `Trainer.run`."""
    return TRAINER.run(TRAINER.init(KEY), (X, LABELS), 6)


@pytest.mark.parametrize("progress", [True, False])
def test_fit_has_the_bits_of_run(six, progress):
    result = fit(progress=progress)
    assert_same_bits(result.run, six[0])
    assert_same_bits(result.history["loss"], np.asarray(six[1]["loss"]))
    assert result.history["diverged_at"] == -1
    assert result.trainer == TRAINER
    assert result.params is result.run.params
    assert result.state == ((), (), ())


def test_pieces_of_any_length_have_the_same_bits(six, monkeypatch):
    monkeypatch.setattr(fitting, "PROGRESS_INTERVAL", 1e9)  # one epoch, then all the others
    assert_same_bits(fit(progress=True).run, six[0])
    monkeypatch.setattr(fitting, "PROGRESS_INTERVAL", 0)  # one at a time
    assert_same_bits(fit(progress=True).run, six[0])


def test_the_bar_counts_epochs_and_shows_the_loss(capsys):
    fit(progress=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "loss=" in shown
    fit(progress=False)
    assert capsys.readouterr() == ("", "")


def test_training_goes_on_from_the_result(six):
    run, _ = TRAINER.run(fit(epochs=2).run, (X, LABELS), 4)
    assert_same_bits(run, six[0])


def test_float64_data_are_cast_once(six):
    assert_same_bits(fit((X.astype(np.float64), LABELS)).run, six[0])
    assert_same_bits(fit((X.tolist(), LABELS.tolist())).run, six[0])


@pytest.mark.parametrize("progress", [True, False])
def test_epochs_zero(progress):
    result = fit(epochs=0, validation=VALIDATION, progress=progress)
    assert_same_bits(result.run, TRAINER.init(KEY))
    assert result.history["loss"].shape == (0,)
    assert result.history["best_epoch"] == -1


def test_accuracy_is_the_models_on_the_training_data():
    result = fit()
    predicted = np.asarray(result.predict(X)).argmax(axis=-1)
    assert result.accuracy == (predicted == LABELS).mean()
    assert isinstance(result.accuracy, float)


def test_accuracy_leaves_ignored_labels_out():
    labels = np.where(np.arange(11) < 5, -100, LABELS)
    result = fit((X, labels), batch_size=11)
    predicted = np.asarray(result.predict(X)).argmax(axis=-1)
    assert result.accuracy == (predicted == LABELS)[5:].mean()


def test_accuracy_of_one_hot_and_of_probabilities():
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    assert fit((X, one_hot)).accuracy == fit().accuracy
    mse = fit((X, one_hot), loss=fn.MSELoss())
    predicted = np.asarray(mse.predict(X)).argmax(axis=-1)
    assert mse.accuracy == (predicted == LABELS).mean()
    soft = fit((X, 0.9 * one_hot + np.float32(0.1 / 3)))
    predicted = np.asarray(soft.predict(X)).argmax(axis=-1)
    assert soft.accuracy == (predicted == LABELS).mean()


@pytest.mark.parametrize("columns", [1, 3])
def test_a_regression_has_no_accuracy(columns):
    target = RNG.normal(size=(11, columns)).astype(np.float32)
    model = fn.Sequential(fn.Linear(2, columns))
    assert fit((X, target), model=model, loss=fn.MSELoss(), epochs=1).accuracy is None


def test_a_regression_on_integers_has_no_accuracy():
    def loss(prediction, target):
        return jnp.square(prediction[:, 0] - target).mean()

    assert fit((X, LABELS), model=fn.Linear(2, 1), loss=loss, epochs=1).accuracy is None


def test_validation_losses_are_evaluates(six):
    result = fit(validation=VALIDATION)
    assert_same_bits(result.run, six[0])
    recorded = result.history["validation_loss"]
    run, expected = TRAINER.init(KEY), []
    for _ in range(6):
        run, _ = TRAINER.run(run, (X, LABELS), 1)
        expected.append(TRAINER.evaluate(run.params, run.state, VALIDATION))
    np.testing.assert_allclose(recorded, expected, rtol=1e-6)
    assert result.history["best_epoch"] == np.argmin(recorded)


# Training drives the weight to 1; the validation set likes 0.5 best, on the way there.
LINE = fn.Linear(1, 1, bias=False)
ONES = np.ones((4, 1), np.float32)
STEADY = optax.sgd(0.05)


def stop_early(**options):
    return fit(
        (ONES, ONES),
        model=LINE,
        loss=fn.MSELoss(),
        optimizer=STEADY,
        validation=(ONES, 0.5 * ONES),
        **{"epochs": 40, "key": jax.random.key(1)} | options,
    )


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize("progress", [True, False])
def test_early_stopping_returns_the_best_epochs_state(patience, progress):
    start = float(LINE.init(jax.random.key(1))[0]["weight"][0, 0])
    assert start < 0.4  # or there is no way through 0.5
    result = stop_early(patience=patience, progress=progress)
    losses = result.history["validation_loss"]
    best = int(result.history["best_epoch"])
    assert 0 < best == np.argmin(losses)
    assert len(losses) == best + 1 + patience < 40
    assert len(result.history["loss"]) == len(losses)
    t = result.trainer
    exactly, history = t.run(t.init(jax.random.key(1)), (ONES, ONES), best + 1)
    assert_same_bits(result.run, exactly)
    assert_same_bits(result.history["loss"][: best + 1], np.asarray(history["loss"]))


def test_patience_that_outlasts_the_epochs_still_returns_the_best():
    result = stop_early(patience=10**12)
    assert len(result.history["loss"]) == 40
    assert result.run.epoch == result.history["best_epoch"] + 1


def test_validation_alone_returns_the_last_epochs_state():
    assert stop_early().run.epoch == 40


def test_a_validation_loss_that_is_never_finite_has_no_best_epoch():
    ignored = VALIDATION[0], np.full(6, -100)
    result = fit(validation=ignored)
    assert np.isnan(result.history["validation_loss"]).all()
    assert result.history["best_epoch"] == -1
    stopped = fit(validation=ignored, patience=2)
    assert len(stopped.history["loss"]) == 2
    assert_same_bits(stopped.run, TRAINER.init(KEY))


@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.parametrize("validated", [True, False])
def test_divergence_raises_with_what_was_learned(progress, validated):
    # Three batches an epoch: tame for three epochs, then absurd.
    optimizer = BURSTING
    with pytest.raises(fn.DivergenceError, match="in epoch 3 ") as raised:
        fit(
            (X, X[:, :1]),
            model=fn.Linear(2, 1),
            loss=fn.MSELoss(),
            optimizer=optimizer,
            epochs=10,
            validation=(X, X[:, :1]) if validated else None,
            progress=progress,
        )
    assert isinstance(raised.value, ArithmeticError)
    assert raised.value.epoch == 3
    result = raised.value.result
    t = fn.Trainer(fn.Linear(2, 1), fn.MSELoss(), optimizer, 4)
    run, history = t.run(t.init(KEY), (X, X[:, :1]), 3)
    assert_same_bits(result.run, run)
    assert_same_bits(result.history["loss"], np.asarray(history["loss"]))
    assert result.history["diverged_at"] == 3
    if validated:
        assert np.isfinite(result.history["validation_loss"]).all()
        assert len(result.history["validation_loss"]) == 3


BURSTING = optax.adam(optax.piecewise_constant_schedule(1e-3, {9: 1e30}))


def test_predict_takes_numpy_and_lists():
    result = fit(epochs=1)
    found = result.predict(X.tolist())
    assert_same_bits(found, result.predict(X))
    assert found.shape == (11, 3)


@dataclasses.dataclass(frozen=True, eq=False)
class CountedLoss:
    traces: list = dataclasses.field(default_factory=list)

    def __call__(self, prediction, target):
        self.traces.append(prediction.shape)
        return fn.ops.cross_entropy(prediction, target)


def test_a_second_fit_of_the_same_sizes_traces_no_program():
    loss = CountedLoss()
    fit(loss=loss)
    traced = len(loss.traces)
    fit((X + 1, LABELS), loss=loss, key=jax.random.key(9))
    assert len(loss.traces) == traced
