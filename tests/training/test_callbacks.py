"""Callbacks run on the host between two epochs, may stop the run, and change no bit of it."""

import csv
from typing import Any

import jax
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, ParamsError
from tests.same_bits import assert_same_bits
from tests.training.test_fit import CE, KEY, LABELS, MODEL, SGD, VALIDATION, X, fit

METRICS = {"accuracy": fn.metrics.accuracy}


@pytest.fixture(scope="module")
def plain():
    return fit(epochs=3, validation=VALIDATION)


def test_a_callback_sees_every_epoch_and_changes_no_bit(plain):
    seen = []

    def look(event):
        assert len(event.history["loss"]) == event.epoch + 1
        assert event.run.epoch == event.epoch + 1
        seen.append((event.epoch, event.run, event.result))

    result = fit(epochs=3, validation=VALIDATION, callbacks=[look])
    assert_same_bits(result.run, plain.run)
    assert_same_bits(result.history, plain.history)
    assert [epoch for epoch, _, _ in seen] == [0, 1, 2]
    assert_same_bits(seen[-1][1], result.run)
    assert seen[-1][2].accuracy == result.accuracy
    one = fit(epochs=1, validation=VALIDATION)
    assert_same_bits(seen[0][2].params, one.params)
    assert_same_bits(seen[0][2].history, one.history)


def test_returning_true_stops(plain):
    result = fit(epochs=3, validation=VALIDATION, callbacks=[lambda event: event.epoch == 1])
    assert len(result.history["loss"]) == 2
    assert_same_bits(result.run, fit(epochs=2, validation=VALIDATION).run)
    assert_same_bits(result.history["loss"], plain.history["loss"][:2])


def test_an_object_may_have_hooks():
    calls = []

    class Hooks:
        def on_epoch_begin(self, event):
            calls.append(("begin", event.epoch, len(event.history["loss"])))

        def on_epoch_end(self, event):
            calls.append(("end", event.epoch, len(event.history["loss"])))
            return event.epoch == 1

    fit(epochs=3, callbacks=[Hooks()])
    assert calls == [("begin", 0, 0), ("end", 0, 1), ("begin", 1, 1), ("end", 1, 2)]


def test_what_a_callback_raises_comes_through():
    def fail(event):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fit(callbacks=[fail])


def test_early_stopping_tells_no_epoch_that_is_not_trained():
    begun: list[int] = []

    class Hooks:
        def on_epoch_begin(self, event):
            begun.append(event.epoch)

    result = fit(
        epochs=40,
        validation=VALIDATION,
        patience=1,
        optimizer=optax.sgd(20.0),
        callbacks=[Hooks()],
    )
    assert len(begun) == len(result.history["loss"]) < 40


@pytest.mark.parametrize("callbacks", [[3], 3, "csv", [fn.callbacks.CSVLogger]])
def test_mistakes(callbacks: Any):
    with pytest.raises(ConfigError, match="callback"):
        fit(callbacks=callbacks)


def test_csv_is_written_epoch_by_epoch_and_is_the_histories(tmp_path):
    lines = []
    path = tmp_path / "run.csv"
    result = fit(
        epochs=3,
        validation=VALIDATION,
        metrics=METRICS,
        callbacks=[
            fn.callbacks.CSVLogger(path),
            lambda event: lines.append(len(path.read_text().splitlines())),
        ],
    )
    assert lines == [2, 3, 4]
    result.to_csv(tmp_path / "result.csv")
    assert (tmp_path / "result.csv").read_text() == path.read_text()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    names = ["epoch", "loss", "accuracy", "validation_loss", "validation_accuracy"]
    assert list(rows[0]) == names
    for name in names[1:]:
        found = np.array([row[name] for row in rows], np.float32)
        assert_same_bits(found, result.history[name])


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    board = fn.callbacks.TensorBoard(tmp_path)
    result = fit(epochs=2, callbacks=[board])
    board.close()
    (written,) = tmp_path.iterdir()
    assert written.read_bytes().count(b"loss") >= len(result.history["loss"])


# What is watched
def watched(**options):
    return fit(
        validation=VALIDATION, metrics=METRICS, optimizer=optax.sgd(2.0), epochs=12, **options
    )


@pytest.mark.slow
def test_a_metric_can_be_watched():
    result = watched(watch="accuracy", patience=2)
    values = result.history["validation_accuracy"]
    best = int(result.history["best_epoch"])
    assert best == np.argmax(values)
    assert len(values) == min(best + 3, 12)
    t = result.trainer
    assert_same_bits(result.run, t.run(t.init(KEY), (X, LABELS), best + 1)[0])
    lowest = watched(watch="accuracy", watch_mode="min")
    assert lowest.history["best_epoch"] == np.argmin(lowest.history["validation_accuracy"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"watch": "f1", "validation": VALIDATION}, "watch is 'f1', expected one of 'loss'"),
        ({"watch": "loss"}, "watch needs validation data"),
        ({"watch_mode": "best", "validation": VALIDATION}, "watch_mode is 'best'"),
        (
            {
                "watch": "mine",
                "metrics": {"mine": lambda y, p: p.mean()},
                "validation": VALIDATION,
            },
            "pass watch_mode='min' or watch_mode='max'",
        ),
    ],
)
def test_what_cannot_be_watched(options, says):
    with pytest.raises(ConfigError, match=says):
        fit(**options)


# What a run starts from
def test_a_run_may_start_from_parameters_that_are_there():
    first = fit(epochs=2)
    params = jax.tree.map(np.asarray, first.params)
    again = fit(epochs=2, params=params, state=first.state)
    t = first.trainer
    start = t.init(KEY)._replace(params=first.params, opt_state=SGD.init(first.params))
    assert_same_bits(again.run, t.run(start, (X, LABELS), 2)[0])
    assert_same_bits(jax.tree.map(np.asarray, first.params), params)  # donated is a copy


def test_parameters_of_another_model_are_refused():
    other, _ = fn.Sequential(fn.Linear(2, 5), fn.Tanh(), fn.Linear(5, 3)).init(KEY)
    with pytest.raises(ParamsError, match=r"params is .*as model\.init makes it"):
        fn.fit(MODEL, CE, SGD, (X, LABELS), epochs=1, key=KEY, params=other)
