"""An experiment stopped anywhere and resumed leaves the files of one that was never stopped."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

import funcnet as fn
from experiments import __main__ as command
from experiments import cnn, disk, results, runner
from funcnet.errors import ConfigError
from funcnet.io import checkpoint
from tests.experiments.left_behind import content

pytest.importorskip("matplotlib", reason="needs the extra plots")
pytest.importorskip("orbax.checkpoint", reason="needs the extra checkpoint")

BOTH = ["disk", pytest.param("mnist", marks=pytest.mark.slow)]
SMALL = {
    "disk": ["--seeds", "2", "--epochs", "5", "--hidden", "4", "--loss", "mse"],
    "mnist": ["--seeds", "2", "--epochs", "5", "--hidden", "4", "--train-size", "200"],
}
EVERY_2 = ["--checkpoint-every", "2"]


@pytest.fixture(autouse=True)
def small(small_mnist):
    """Every test here trains on a few hundred images."""


def run(name, out, *options):
    return command.main([name, *SMALL[name], "--out", str(out), *options])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_files):
    """The same without checkpoints and without a stop."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("experiments.datasets.load", lambda *_: small_files)
        out = {name: tmp_path_factory.mktemp(name) for name in SMALL}
        assert all(run(name, folder) == 0 for name, folder in out.items())
    return {name: content(folder) for name, folder in out.items()}


def signal_after(monkeypatch, seed, epoch):
    """Send SIGTERM when this seed has trained so many epochs, before they are saved."""
    train = runner.Experiment._fit

    def train_and_signal(experiment, given, callbacks=(), **options):
        def after(event):
            if given.number == seed and event.epoch + 1 == epoch:
                os.kill(os.getpid(), signal.SIGTERM)

        watched = [*callbacks, after] if options["progress"] else callbacks
        return train(experiment, given, callbacks=watched, **options)

    monkeypatch.setattr(runner.Experiment, "_fit", train_and_signal)


def count_epochs(monkeypatch):
    """Count the epochs that `fit` trains, but for those that only compile."""
    train, trained = runner.Experiment._fit, []

    def train_and_count(experiment, given, callbacks=(), **options):
        counted = [*callbacks, lambda event: trained.append(event.epoch)]
        return train(experiment, given, callbacks=counted, **options)

    monkeypatch.setattr(runner.Experiment, "_fit", train_and_count)
    return trained


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_stopped_and_resumed_leaves_the_same_files(tmp_path, monkeypatch, capsys, whole, name):
    monkeypatch.setattr(runner.Experiment, "_warm_up", lambda *_: 0.0)
    with monkeypatch.context() as patched:
        signal_after(patched, seed=1, epoch=4)
        assert run(name, tmp_path, *EVERY_2) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "SIGTERM: stopped after epoch 4 of 5, all saved; the same call" in said
    loss = {"disk": "mse", "mnist": "cross_entropy"}[name]
    assert f"{tmp_path / 'checkpoints' / loss}-1\n" in said
    assert f"python -m experiments {name}: stopped; to go on:" in said
    again = said.strip().splitlines()[-1].split()
    options = [*SMALL[name], "--out", str(tmp_path), *EVERY_2, "--resume"]
    assert again == ["python", "-m", "experiments", name, *options]
    trained = count_epochs(monkeypatch)
    assert command.main(again[3:]) == 0
    assert trained == [4]  # the last epoch of the second seed
    assert content(tmp_path) == whole[name]


@pytest.mark.slow
def test_the_convolutional_network_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    """It has a state, an optimizer with a schedule, and masks drawn anew at every step."""
    monkeypatch.setattr(cnn, "CHANNELS", (2, 3, 4))
    small = ["--model", "cnn", "--seeds", "1", "--epochs", "4", "--train-size", "200"]

    def run_cnn(out, *options):
        return command.main(["mnist", *small, "--out", str(out), *options])

    assert run_cnn(tmp_path / "whole") == 0
    every = ["--checkpoint-every", "1"]
    with monkeypatch.context() as patched:
        signal_after(patched, seed=0, epoch=2)
        assert run_cnn(tmp_path / "stopped", *every) == 128 + signal.SIGTERM
    assert run_cnn(tmp_path / "stopped", *every, "--resume") == 0
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_a_signal_between_two_seeds_is_not_forgotten(tmp_path, monkeypatch, capsys):
    add = runner.Experiment.add

    def add_and_signal(experiment, *arguments, **scores):
        add(experiment, *arguments, **scores)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runner.Experiment, "add", add_and_signal)
    assert run("disk", tmp_path, "--resume", "--seeds", "1") == 128 + signal.SIGINT
    assert "python -m experiments disk: stopped; to go on:" in capsys.readouterr().err


@pytest.mark.slow
def test_debug_counts_what_was_compiled(tmp_path, capsys, whole):
    assert run("disk", tmp_path, "--debug") == 0
    assert "traced  compiled  function" in capsys.readouterr().out
    assert content(tmp_path) == whole["disk"]


@pytest.mark.few(2)
@pytest.mark.parametrize("name", BOTH)
def test_nothing_saved_starts_and_everything_finished_says_so(tmp_path, capsys, whole, name):
    assert run(name, tmp_path, "--resume") == 0
    assert content(tmp_path) == whole[name]
    assert runner.FINISHED not in capsys.readouterr().out
    seconds = [finished.seconds for finished in results.read(tmp_path).runs]
    assert run(name, tmp_path, "--resume", *EVERY_2) == 0
    assert runner.FINISHED in capsys.readouterr().out
    assert content(tmp_path) == whole[name]
    assert [finished.seconds for finished in results.read(tmp_path).runs] == seconds


def complaint(capsys):
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_another_configuration_is_refused_with_the_difference(tmp_path, capsys):
    assert run("disk", tmp_path, *EVERY_2) == 0
    before = results.read(tmp_path).runs
    assert run("disk", tmp_path, "--resume", "--learning-rate", "0.1") == 1
    assert "step_size was -0.03 and is now -0.1" in complaint(capsys)
    assert run("disk", tmp_path, "--resume", "--epochs", "6") == 1
    assert "epochs was 5 and is now 6" in complaint(capsys)
    assert results.read(tmp_path).runs == before


def test_other_data_are_refused(tmp_path, capsys):
    assert run("mnist", tmp_path, "--resume", "--seeds", "1") == 0
    assert run("mnist", tmp_path, "--resume", "--seeds", "1", "--train-size", "150") == 1
    assert "data.x.array was 'float32[200, 784]' and is now 'float32[150, 784]'" in complaint(
        capsys
    )


def test_an_earlier_run_is_not_overwritten_by_accident(tmp_path, capsys):
    assert run("disk", tmp_path, "--resume", "--seeds", "1") == 0
    assert run("disk", tmp_path, *EVERY_2) == 1
    assert "holds an earlier run; add --resume to go on with it" in complaint(capsys)


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    with checkpoint.locked(tmp_path / "checkpoints"):
        assert run("disk", tmp_path, *EVERY_2) == 1
        assert run("disk", tmp_path, "--resume") == 1
    assert f"checkpoints is in use by process {os.getpid()} on" in complaint(capsys)


def test_killed_before_the_first_save_it_may_start_anew(tmp_path, whole):
    """The lock's file is no earlier run."""
    with checkpoint.locked(tmp_path / "checkpoints"):
        pass
    assert run("disk", tmp_path, *EVERY_2) == 0
    assert content(tmp_path) == whole["disk"]


@pytest.mark.slow
def test_more_seeds_go_on_from_fewer(tmp_path, whole):
    assert run("disk", tmp_path, "--resume", "--seeds", "1") == 0
    assert run("disk", tmp_path, "--resume") == 0
    assert content(tmp_path) == whole["disk"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"checkpoint_every": 0}, "--checkpoint-every is 0, expected at least 1"),
        ({"resume": True, "same_start": True}, "leave out --compare-torch and --same-start"),
    ],
)
def test_mistakes(options, says):
    with pytest.raises(ConfigError, match=says):
        disk.Config(**options)


@pytest.mark.slow
@pytest.mark.few(3)
@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_one_seed_that_diverges_does_not_lose_the_others(
    tmp_path, monkeypatch, whole, name, options
):
    """Seed 0 has its weights blown up."""
    init = fn.Trainer.init

    def init_badly(trainer, key, *arguments):
        begun = init(trainer, key, *arguments)
        blown = jax.tree.map(lambda leaf: leaf * 1e30, begun.params)
        bad = jnp.all(jax.random.key_data(key) == jax.random.key_data(bad_key))
        return begun._replace(
            params=jax.tree.map(lambda a, b: jnp.where(bad, a, b), blown, begun.params)
        )

    bad_key = jax.random.key(0)
    if name == "disk":
        bad_key = disk.split_key(bad_key)[-1]
    monkeypatch.setattr(fn.Trainer, "init", init_badly)
    assert run(name, tmp_path, "--on-divergence", "keep", *options) == 0
    _, record = content(tmp_path)
    loss = {"disk": "mse", "mnist": "cross_entropy"}[name]
    assert record["diverged"] == [{"framework": "funcnet", "loss": loss, "seed": 0, "epoch": 0}]
    assert record["runs"] == whole[name][1]["runs"][1:]
    assert "seed 0, funcnet: diverged in epoch 0, left out" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
def test_when_every_seed_diverges_there_is_no_result(tmp_path, capsys, name):
    bad = ["--on-divergence", "keep", "--learning-rate", "1e30"]
    assert run(name, tmp_path, *bad) == 1
    assert "every seed diverged, the first one in epoch 0; lower --learning-rate" in complaint(
        capsys
    )
    assert results.read(tmp_path).runs == ()
