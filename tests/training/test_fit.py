"""`fit` is `Trainer.run` with checks, a bar, early stopping and an exception for divergence."""

import dataclasses
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import DataError
from funcnet.training import fit as fitting
from funcnet.training import step
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


@pytest.mark.few(2)
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


@pytest.mark.slow
def test_accuracy_of_one_hot_and_of_probabilities():
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    assert fit((X, one_hot)).accuracy == fit().accuracy
    accuracy = {"accuracy": fn.metrics.accuracy}
    mse = fit((X, one_hot), loss=fn.MSELoss(), metrics=accuracy)
    predicted = np.asarray(mse.predict(X)).argmax(axis=-1)
    assert mse.accuracy is None  # one-hot or not, the loss is no classification's
    found = mse.evaluate((X, one_hot))["accuracy"]
    np.testing.assert_allclose(found, (predicted == LABELS).mean(), rtol=1e-6)
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


@pytest.mark.few(3)
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


def test_divergence_says_in_which_step_and_why():
    optimizer = optax.sgd(1e15)
    with pytest.raises(fn.DivergenceError) as raised:
        fit((X, X[:, :1]), model=fn.Linear(2, 1), loss=fn.MSELoss(), optimizer=optimizer)
    found, said = raised.value.diagnosis, str(raised.value)
    t = fn.Trainer(fn.Linear(2, 1), fn.MSELoss(), optimizer, 4)
    run, norms = t.init(KEY), []
    while all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params)):
        batch = step.epoch_order(KEY, 0, 11)[4 * len(norms) :][:4]
        x, y = jnp.asarray(X)[batch], jnp.asarray(X)[batch, :1]
        prediction, pullback = jax.vjp(lambda p, x=x: t.model.apply(p, (), x)[0], run.params)
        gradient = pullback(jax.grad(t.loss)(prediction, y))[0]
        norms.append(optax.tree_utils.tree_norm(jax.tree.map(lambda g: g / 1e30, gradient)))
        run, _, _ = step.update(t, run, x, y, KEY)
    assert found.step == len(norms) - 1 == 2
    assert found.gradient_norm == pytest.approx(1e30 * float(norms[-1]), rel=1e-5)
    assert found.step_size == pytest.approx(1e15, rel=1e-5)
    assert "in epoch 0 (counted from 0): in its step 2, the loss is not finite;" in said
    assert f"largest gradient norm {found.gradient_norm:.4g}, step size 1e+15" in said
    assert "optax.inject_hyperparams would show the optimizer's own" in said


@pytest.mark.slow
def test_divergence_names_the_learning_rate_that_the_optimizer_keeps():
    with pytest.raises(
        fn.DivergenceError, match=r"the gradient's; learning rate 1e\+30\)"
    ) as raised:
        fit(optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=1e30), loss=BLOWN_UP)
    assert raised.value.diagnosis.learning_rate == pytest.approx(1e30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (MODEL, fn.CrossEntropyLoss(weight=(0, 0, 1))),
        (fn.Sequential(MODEL, fn.LogSoftmax()), fn.NLLLoss(weight=(0, 0, 1))),
    ],
)
def test_class_weights_of_0_are_named_as_the_cause(model, loss):
    """The mean divides by the weights' sum: in PyTorch too it is NaN."""
    with pytest.raises(fn.DivergenceError) as raised:
        fit((X, LABELS % 2), model, loss)
    said = str(raised.value)
    assert "in its step 0, the loss, whose labels all have class weight 0: 0 / 0, is not" in said
    assert "; take larger batches, or a small weight instead of 0; error.result" in said
    assert "step size or clip" not in said


def test_a_gradient_that_is_never_finite():
    def loss(prediction, target):
        return jnp.square(prediction).mean() / 0.0

    with pytest.raises(fn.DivergenceError, match=r"in its step 0, the loss .* norm nan"):
        fit(loss=loss)


@dataclasses.dataclass(frozen=True)
class Root(fn.Module):
    """The square root: no number below 0, no slope at it."""

    def apply(self, params, state, x, *, key=None, train=False):
        return jnp.sqrt(x), state


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("shift", "origin"),
    [
        (-10.0, r"the output of Root\(\) \(layer 2\)"),
        (0.0, r"the gradient of Root\(\) \(layer 2\)"),
    ],
)
def test_a_divergence_names_the_layer_where_it_began(shift, origin):
    @dataclasses.dataclass(frozen=True)
    class Shifted(fn.Module):
        def apply(self, params, state, x, *, key=None, train=False):
            return x * 0 + shift, state

    model = fn.Sequential(fn.Linear(2, 3), Shifted(), Root())
    with pytest.raises(fn.DivergenceError, match=f"in its step 0, {origin} is not finite"):
        fit(model=model)


def BLOWN_UP(prediction, target):  # noqa: N802
    return jnp.square(prediction).mean()


def test_on_divergence_keep_returns_the_last_finite_epoch_with_a_warning():
    options = {
        "data": (X, X[:, :1]),
        "model": fn.Linear(2, 1),
        "loss": fn.MSELoss(),
        "optimizer": BURSTING,
        "epochs": 10,
    }
    with pytest.warns(RuntimeWarning, match="in epoch 3 .*; the result is the last finite epoch's"):
        kept = fit(**options, on_divergence="keep")
    with pytest.raises(fn.DivergenceError) as raised:
        fit(**options)
    assert_same_bits(kept.run, raised.value.result.run)
    assert_same_bits(kept.history, raised.value.result.history)
    assert kept.history["diverged_at"] == 3


# 11 examples in batches of 4: with 6 labels ignored some batch has none that counts.
FEW = np.where(np.arange(11) < 6, -100, LABELS)


def test_a_batch_in_which_no_label_counts_is_left_out_of_the_mean():
    """Its gradient is 0, so that training goes on, as PyTorch's does."""

    def batches(key):
        return np.split(np.asarray(step.epoch_order(key, 0, 11)), [4, 8])

    keys = map(jax.random.key, range(20))
    key = next(k for k in keys if any((FEW[batch] < 0).all() for batch in batches(k)))
    result = fit((X, FEW), epochs=3, key=key, validation=(X, FEW))
    assert np.isfinite(result.history["loss"]).all()
    assert np.isfinite(result.history["validation_loss"]).all()
    run, losses, counts = TRAINER.init(key), [], []
    for batch in batches(key):
        x, y = jnp.asarray(X[batch]), jnp.asarray(FEW[batch])
        run, loss, _ = step.update(TRAINER, run, x, y, key)
        if not (FEW[batch] < 0).all():
            losses.append(loss)
            counts.append((FEW[batch] >= 0).sum())
    assert len(losses) < 3
    expected = np.average(losses, weights=counts)
    np.testing.assert_allclose(result.history["loss"][0], expected, rtol=1e-6)


def test_labels_of_which_none_counts_are_refused():
    with pytest.raises(DataError, match=r"no label counts: each one is the ignore_index of Cross"):
        fit((X, np.full(11, -100)))


def test_the_bar_has_a_title(capsys):
    result = fit(progress="seed 7", epochs=3)
    assert "seed 7: 100%" in capsys.readouterr().err
    assert result.seconds > 0


# Ctrl-C without a folder.


def signal_in(epoch):
    return lambda event: signal.raise_signal(signal.SIGINT) if event.epoch == epoch else None


def raise_in(epoch):
    def callback(event):
        if event.epoch == epoch:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("callback", [signal_in(1), raise_in(1)])
def test_ctrl_c_hands_over_what_was_learned(callback):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as raised:
        fit(callbacks=[callback])
    assert isinstance(raised.value, fn.TrainingInterrupted)
    assert not isinstance(raised.value, Exception)
    assert "Ctrl-C: stopped after epoch 2 of 6; what was learned so far is in" in str(raised.value)
    assert signal.getsignal(signal.SIGINT) == before
    result = raised.value.result
    assert_same_bits(result.params, fit(epochs=2).params)
    assert result.history["loss"].shape == (2,)
    run, _ = TRAINER.run(result.run, (X, LABELS), 4)
    assert_same_bits(run.params, fit().params)


def test_ctrl_c_stops_a_run_that_shows_nothing(monkeypatch):
    train, calls = fitting.train_donating, []

    def train_and_signal(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return train(*arguments)

    monkeypatch.setattr(fitting, "train_donating", train_and_signal)
    monkeypatch.setattr(fitting, "PROGRESS_INTERVAL", 0)
    with pytest.raises(fn.TrainingInterrupted) as raised:
        fit(epochs=1000)
    assert raised.value.result.history["loss"].shape == (2,)


def test_a_second_ctrl_c_does_not_wait(monkeypatch):
    def signal_twice(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second one waited")

    monkeypatch.setattr(fitting, "train_donating", signal_twice)
    with pytest.raises(KeyboardInterrupt):
        fit()


def test_sigterm_without_a_folder_is_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []
    fit(callbacks=[lambda event: seen.append(signal.getsignal(signal.SIGTERM))])
    assert set(seen) == {before}


def test_a_thread_trains_as_ever(six):
    with ThreadPoolExecutor(1) as pool:
        assert_same_bits(pool.submit(fit).result().run, six[0])
