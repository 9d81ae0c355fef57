"""One seed's training: the bits of an unbroken run, and of it nothing lost."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments import disk, options, results, runner, tables
from funcnet.training import fit as fitting
from tests.same_bits import assert_same_bits

KEY = jax.random.key(0)


@pytest.fixture
def config(tmp_path):
    return disk.Config(hidden=(5,), epochs=3, batch_size=30, out=tmp_path)


@pytest.fixture
def data():
    """100 points: the last batch is smaller."""
    x = jax.random.normal(jax.random.key(1), (100, 2))
    return x, (x[:, 0] > 0).astype(jnp.int32)


def make_seed(config, data, number=7):
    trainer = options.make_trainer(config, config.sizes, "cross_entropy")
    name, title = f"cross_entropy-{number}", f"seed {number}"
    return runner.Seed("cross_entropy", number, name, title, trainer, data, KEY)


def learn(config, seed, *more):
    with runner.running(config, tables.DISK) as experiment:
        (learned,) = experiment.learn(seed, *more)
        experiment.add(seed, learned, accuracy_train=1.0, accuracy_test=0.5)
    return learned


def test_epoch_by_epoch_gives_the_bits_of_one_run(config, data, tmp_path):
    seed, seen = make_seed(config, data), []
    learned = learn(config, seed, (), {"funcnet": lambda epoch, outputs: seen.append(epoch)})
    assert seen == [1, 2, 3]
    whole, history = seed.trainer.run(seed.trainer.init(KEY), data, 3)
    np.testing.assert_array_equal(learned.losses, history["loss"])
    params = fn.load_params(tmp_path / "params-cross_entropy-7.safetensors", whole.params)
    assert_same_bits(params, whole.params)
    assert learned.apart == {}
    assert learned.seconds > 0


def test_what_is_learned_predicts_and_has_pytorchs_names(config, data, tmp_path):
    seed = make_seed(config, data)
    learned = learn(config, seed)
    like, state = jax.eval_shape(seed.trainer.init, KEY)[:2]
    params = fn.load_params(tmp_path / "params-cross_entropy-7.safetensors", like)
    logits, _ = seed.trainer.model.apply(params, state, data[0])
    np.testing.assert_array_equal(runner.labels(learned.outputs, data[0]), logits.argmax(axis=-1))
    arrays = fn.interop.state_dict(params)
    assert list(arrays) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    scores = learned.scores(train=data)
    assert scores["accuracy_train"] == fn.metrics.accuracy(data[1], logits.argmax(axis=-1))
    assert scores["f1_train"] == fn.metrics.f1_score(data[1], logits.argmax(axis=-1))


def test_after_every_epoch_someone_may_look_at_the_network(config, data):
    seed, seen = make_seed(config, data), []

    def look(epoch, outputs):
        seen.append((epoch, np.asarray(outputs(data[0]))))

    learn(config, seed, (), {"funcnet": look})
    run = seed.trainer.init(KEY)
    for i, (epoch, outputs) in enumerate(seen, start=1):
        run, _ = seed.trainer.run(run, data, 1)
        assert epoch == i
        np.testing.assert_array_equal(outputs, seed.trainer.predict(run.params, run.state, data[0]))
    assert len(seen) == 3


def test_the_bar_shows_the_loss_and_the_time_left(config, data, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "tqdm", partial(fitting.tqdm, mininterval=0))
    learned = learn(config, make_seed(config, data), (), {"funcnet": lambda *_: None})
    bar = capsys.readouterr().err
    assert "seed 7:  67%" in bar
    assert f"loss={learned.losses[0]:.4g}" in bar
    assert re.search(r"2/3 \[00:\d\d<00:\d\d, .*epoch", bar)


@pytest.mark.slow
def test_a_divergence_names_the_seed_and_the_epoch(config, data):
    config = dataclasses.replace(config, learning_rate=1e30)
    seed = make_seed(config, data)
    with pytest.raises(
        fn.DivergenceError, match=r"seed 7: the loss.* in epoch 0 .*norm.*learning-rate"
    ) as raised:
        learn(config, seed)
    assert_same_bits(raised.value.result.params, seed.trainer.init(KEY).params)


def test_compiling_is_measured_once(config, data):
    config = dataclasses.replace(config, learning_rate=0.0123)  # no other test has compiled it
    seeds = [make_seed(config, data)._replace(number=number) for number in (0, 1)]
    seeds[1] = seeds[1]._replace(trainer=seeds[0].trainer)
    with runner.running(config, tables.DISK) as experiment:
        first, second = (next(experiment.learn(seed)) for seed in seeds)
        experiment.add(seeds[0], first, accuracy_train=1.0, accuracy_test=1.0)
    assert first.compile_seconds == second.compile_seconds > first.seconds


def test_every_run_is_written_at_once(config, data, tmp_path):
    seeds = [make_seed(config, data, number) for number in (0, 1)]
    learned = runner.Learned("funcnet", np.zeros(3), lambda x: x, 0.1, 0.2)
    with runner.running(config, tables.DISK) as experiment:
        first, second = (
            results.Run("funcnet", "cross_entropy", seed, 1.0, 0.9, 0.1, 0.2) for seed in (0, 1)
        )
        scores = {"accuracy_train": 1.0, "accuracy_test": 0.9}
        assert experiment.add(seeds[0], learned, **scores) == first
        assert results.read(tmp_path).runs == (first,)
        experiment.add(seeds[1], learned, **scores)
        assert results.read(tmp_path).runs == (first, second)
        assert (tmp_path / "table.md").read_text() == experiment.table
        assert results.read(tmp_path).config["hidden"] == [5]
