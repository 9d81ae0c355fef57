"""A run that stops anywhere and goes on ends with the bits of one that never stopped."""

import os
import signal
import threading
from datetime import timedelta
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet.errors import ConfigError
from funcnet.io import checkpoint
from funcnet.training import checkpointing
from funcnet.training import fit as fitting
from tests.same_bits import assert_same_bits
from tests.training.test_fit import CE, KEY, LABELS, MODEL, SGD, VALIDATION, X

pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")

ADAM = optax.adam(optax.cosine_decay_schedule(0.1, 30))
OPTIONS: dict[str, Any] = {"model": MODEL, "loss": CE, "optimizer": ADAM, "data": (X, LABELS)}
SAVING: dict[str, Any] = {"checkpoint_every": 2}


def fit(folder=None, **options):
    given = OPTIONS | {"epochs": 6, "batch_size": 4, "key": KEY, "progress": False} | options
    if folder is not None:
        given = {"checkpoint_dir": folder} | SAVING | given
    model, loss, optimizer, data = (given.pop(name) for name in OPTIONS)
    return fn.fit(model, loss, optimizer, data, **given)


def assert_same_results(found, expected):
    assert_same_bits(found.run, expected.run)
    assert_same_bits(found.history, expected.history)
    assert found.accuracy == expected.accuracy


def slow(parameter):
    return pytest.param(parameter, marks=pytest.mark.slow)


class StopError(Exception):
    """Stands for whatever ends a process."""


def stop_after(monkeypatch, epochs):
    """Let the next fit end once it has trained so many epochs."""
    train = fitting.train_donating

    def train_or_stop(trainer, carry, *others):
        if int(carry.done) >= epochs:
            raise StopError
        return train(trainer, carry, *others)

    monkeypatch.setattr(fitting, "train_donating", train_or_stop)


VARIANTS = {
    "plain": {},
    "validation": {"validation": VALIDATION},
    "patience": {"validation": VALIDATION, "patience": 2, "optimizer": optax.adam(0.3)},
    "bfloat16": {"dtype": jnp.bfloat16},
    "another key": {"key": jax.random.key(1, impl="rbg")},
    "momentum": {"optimizer": optax.sgd(0.1, momentum=0.9)},
}


@pytest.mark.parametrize("name", ["patience", *map(slow, sorted({*VARIANTS} - {"patience"}))])
def test_stopped_and_resumed_has_the_bits_of_an_unbroken_run(tmp_path, monkeypatch, name):
    options = VARIANTS[name]
    whole = fit(**options)
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(StopError):
            fit(tmp_path, checkpoint_every=1, **options)
    assert checkpoint.steps(tmp_path) == [1, 2, 3]
    assert_same_results(fit(tmp_path, resume=True, **options), whole)


@pytest.mark.parametrize("progress", [True, slow(False)])
@pytest.mark.parametrize("every", [1, slow(4), slow(100), timedelta(0), slow(timedelta(days=1))])
def test_checkpoints_do_not_change_the_bits(tmp_path, every, progress):
    result = fit(tmp_path, checkpoint_every=every, progress=progress, validation=VALIDATION)
    assert_same_results(result, fit(validation=VALIDATION))
    assert checkpoint.steps(tmp_path)[-1] == 6


def test_when_it_saves(tmp_path, monkeypatch):
    fit(tmp_path / "2", epochs=7)
    assert checkpoint.steps(tmp_path / "2") == [4, 6, 7]
    monkeypatch.setattr(fitting, "PROGRESS_INTERVAL", 0)  # pieces of one epoch
    fit(tmp_path / "0 s", checkpoint_every=timedelta(0))
    assert checkpoint.steps(tmp_path / "0 s") == [4, 5, 6]
    fit(tmp_path / "default", checkpoint_every=None)
    assert checkpoint.steps(tmp_path / "default") == [6]


def test_nothing_saved_starts_and_everything_finished_returns(tmp_path, monkeypatch):
    first = fit(tmp_path, resume=True)
    assert_same_results(first, fit())
    stop_after(monkeypatch, 0)
    assert_same_results(fit(tmp_path, resume=True), first)


@pytest.mark.slow
def test_the_epochs_may_grow(tmp_path):
    fit(tmp_path, epochs=3)
    assert_same_results(fit(tmp_path, epochs=6, resume=True), fit())
    with pytest.raises(fn.CheckpointError, match="holds a run of 6 epochs, and epochs is 5"):
        fit(tmp_path, epochs=5, resume=True)


@pytest.mark.slow
def test_early_stopping_is_not_forgotten(tmp_path):
    """Resumed after it had stopped early, it has stopped."""
    options = {"validation": VALIDATION, "patience": 1, "optimizer": optax.sgd(20.0)}
    whole = fit(tmp_path, epochs=40, **options)
    assert len(whole.history["loss"]) < 40
    assert_same_results(fit(tmp_path, epochs=40, resume=True, **options), whole)


def test_a_run_is_not_started_over_by_accident(tmp_path):
    fit(tmp_path)
    with pytest.raises(fn.CheckpointError, match="holds the checkpoints of a run; continue it"):
        fit(tmp_path)


CHANGED = X + (np.arange(11) == 5)[:, None].astype(np.float32)


OTHERS = {
    "model": (
        {"model": fn.Sequential(fn.Linear(2, 5), fn.Tanh(), fn.Linear(5, 3))},
        "model.Sequential.layers.0.Linear.out_features was 4 and is now 5",
    ),
    "loss": (
        {"loss": fn.CrossEntropyLoss(label_smoothing=0.1)},
        "loss.CrossEntropyLoss.label_smoothing was 0.0 and is now 0.1",
    ),
    "schedule": (
        {"optimizer": optax.adam(optax.cosine_decay_schedule(0.2, 30))},
        "init_value was 0.1 and is now 0.2",
    ),
    "optimizer": ({"optimizer": SGD}, "optimizer."),
    "batch size": ({"batch_size": 5}, "batch_size was 4 and is now 5"),
    "key": ({"key": jax.random.key(4)}, "key was"),
    "dtype": (
        {"dtype": jnp.float16},
        "data.x.array was 'float32[11, 2]' and is now 'float16[11, 2]'",
    ),
    "fewer data": (
        {"data": (X[:10], LABELS[:10])},
        "data.y.array was 'int32[11]' and is now 'int32[10]'",
    ),
    "other data": ({"data": (CHANGED, LABELS)}, "data.x.sha256 was"),
    "validation": ({"validation": VALIDATION}, "validation was None and is now"),
}


@pytest.mark.parametrize(
    "name", ["schedule", "other data", *map(slow, sorted({*OTHERS} - {"schedule", "other data"}))]
)
def test_another_run_is_refused_with_the_difference(tmp_path, name):
    change, says = OTHERS[name]
    fit(tmp_path, epochs=1)
    with pytest.raises(fn.CheckpointError, match="is of another run: ") as raised:
        fit(tmp_path, resume=True, **change)
    assert says in str(raised.value)
    assert checkpoint.steps(tmp_path) == [1]


def test_another_computation_under_the_same_name_is_refused(tmp_path):
    def make_loss(power):
        def loss(prediction, target):
            return jnp.abs(prediction - target).mean() ** 1

        def other(prediction, target):
            return jnp.abs(prediction - target).mean() ** 2

        other.__qualname__ = loss.__qualname__
        return loss if power == 1 else other

    options = {"model": fn.Linear(2, 2), "data": (X, X), "epochs": 1}
    fit(tmp_path, loss=make_loss(1), **options)
    fit(tmp_path, loss=make_loss(1), resume=True, **options)
    with pytest.raises(fn.CheckpointError, match="another run: program was"):
        fit(tmp_path, loss=make_loss(2), resume=True, **options)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    fit(tmp_path, checkpoint_every=1, epochs=4)
    manifest = tmp_path / "00000004" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match="checkpoint of step 3 is used"):
        result = fit(tmp_path, resume=True)
    assert_same_results(result, fit())


def test_a_disk_that_fills_up_does_not_end_the_training(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    fit(tmp_path, epochs=2)
    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.warns(RuntimeWarning, match=r"epoch \d is not saved, and training goes on: .*No"):
        result = fit(tmp_path, resume=True)
    assert_same_results(result, fit())
    assert checkpoint.steps(tmp_path) == [2]


def test_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    stop_after(monkeypatch, 0)
    with (
        checkpoint.locked(tmp_path),
        pytest.raises(fn.CheckpointError, match=r"in use by process .*wait until it has ended"),
    ):
        fit(tmp_path, resume=True)


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    train = fitting.train_donating

    def train_elsewhere(*arguments):
        os.chdir("/")
        return train(*arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "train_donating", train_elsewhere)
    fit("run", epochs=4)
    assert checkpoint.steps(tmp_path / "run") == [2, 4]


def test_another_runs_checkpoint_copied_in_is_refused(tmp_path):
    fit(tmp_path / "one", epochs=2)
    fit(tmp_path / "two", epochs=4, key=jax.random.key(9))
    (tmp_path / "two" / "00000004").rename(tmp_path / "one" / "00000004")
    with pytest.raises(fn.CheckpointError, match="00000004 is of another run: key was"):
        fit(tmp_path / "one", resume=True)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody can write")
def test_a_folder_that_cannot_be_written_is_said_before_training(monkeypatch):
    stop_after(monkeypatch, 0)
    with pytest.raises(OSError, match="/proc/self"):
        fit("/proc/self/run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_says_how_to_go_on_and_acts(tmp_path, monkeypatch, capsys, number):
    """SIGTERM's usual action would end this process, so that here it is only looked at."""
    delivered = []
    monkeypatch.setattr(signal, "raise_signal", delivered.append)
    train = fitting.train_donating

    def train_and_signal(*arguments):
        os.kill(os.getpid(), number)
        return train(*arguments)

    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "train_donating", train_and_signal)
        fit(tmp_path, checkpoint_every=100)
    assert delivered == [number]
    assert signal.getsignal(number) == before
    said = capsys.readouterr().err
    assert f"{number.name}: stopped after epoch 1 of 6, all saved" in said
    assert f"the same call with resume=True goes on from {tmp_path}" in said
    assert checkpoint.steps(tmp_path) == [1]
    assert_same_results(fit(tmp_path, resume=True), fit())


def test_ctrl_c_ends_in_a_keyboard_interrupt(tmp_path, monkeypatch):
    train = fitting.train_donating

    def train_and_signal(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return train(*arguments)

    monkeypatch.setattr(fitting, "train_donating", train_and_signal)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    assert checkpoint.steps(tmp_path) == [1]


def test_sigterm_may_be_handled_as_ctrl_c(tmp_path, monkeypatch):
    train = fitting.train_donating

    def train_and_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        monkeypatch.setattr(fitting, "train_donating", train_and_signal)
        with pytest.raises(KeyboardInterrupt) as raised:
            fit(tmp_path)
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised.value.args == (signal.SIGTERM,)
    assert checkpoint.steps(tmp_path) == [1]


@pytest.mark.slow
def test_the_time_of_a_run_is_saved_with_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(StopError):
            fit(tmp_path)
    resumed = fit(tmp_path, resume=True)
    again = fit(tmp_path, resume=True)
    assert again.seconds == resumed.seconds > 0
    longer = fit(tmp_path, resume=True, epochs=8)
    assert longer.seconds > resumed.seconds


def test_the_second_signal_does_not_wait(tmp_path, monkeypatch):
    def signal_twice(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second one waited")

    monkeypatch.setattr(fitting, "train_donating", signal_twice)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    assert checkpoint.steps(tmp_path) == []


def test_a_handler_of_ones_own_stays(tmp_path, monkeypatch):
    seen = []
    train = fitting.train_donating

    def train_and_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments)

    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        monkeypatch.setattr(fitting, "train_donating", train_and_signal)
        assert_same_results(fit(tmp_path), fit())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen


def test_in_another_thread_signals_are_left_alone(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(tmp_path)))
    thread.start()
    thread.join()
    assert_same_results(found[0], fit())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"checkpoint_every": 3}, "checkpoint_every needs a folder: pass checkpoint_dir"),
        ({"resume": True}, "resume needs a folder: pass checkpoint_dir"),
        ({"resume": 1}, "resume is 1, expected True or False"),
        ({"checkpoint_dir": 3}, "checkpoint_dir is 3, expected a path"),
        (
            {"checkpoint_dir": ".", "checkpoint_every": 0},
            "checkpoint_every is 0, expected at least",
        ),
        ({"checkpoint_dir": ".", "checkpoint_every": 1.5}, r"1.5, .*timedelta\(minutes=5\)"),
        ({"checkpoint_dir": ".", "checkpoint_every": True}, "checkpoint_every is True"),
        ({"checkpoint_dir": ".", "checkpoint_every": timedelta(-1)}, "not negative"),
        ({"on_divergence": "ignore"}, r"'ignore', expected one of \('raise', 'keep'\)"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    stop_after(monkeypatch, 0)
    with pytest.raises(ConfigError, match=says):
        fit(**options)


def test_the_default_interval_is_documented():
    assert str(checkpointing.EVERY) == "0:05:00"
    assert "every five minutes" in str(fn.fit.__doc__)
