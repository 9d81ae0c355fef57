"""The convolutional network of the mnist experiment: its options, its shifts, its peer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments import __main__, cnn, mnist, predict, results, runner
from funcnet.errors import ConfigError
from tests.same_bits import assert_same_bits

pytest.importorskip("matplotlib", reason="needs the extra plots")

KEY = jax.random.key(0)


def small(out, **options):
    defaults = {
        "model": "cnn",
        "seeds": 1,
        "epochs": 1,
        "train_size": 64,
        "batch_size": 32,
        "out": out,
    }
    return mnist.Config(**defaults | options)


@pytest.fixture
def narrow(monkeypatch):
    """Fewer channels: the wiring is what is tested."""
    monkeypatch.setattr(cnn, "CHANNELS", (2, 3, 4))


@pytest.mark.parametrize("arguments", [["--model", "cnn"], ["--model=cnn", "--seeds", "3"]])
def test_the_model_decides_on_the_defaults(monkeypatch, tmp_path, arguments):
    seen = []
    monkeypatch.setattr(mnist, "main", seen.append)
    assert __main__.main(["mnist", *arguments, "--epochs", "7", "--out", str(tmp_path)]) == 0
    assert __main__.main(["mnist"]) == 0
    convolutional, plain = seen
    assert (convolutional.model, convolutional.epochs) == ("cnn", 7)
    assert (convolutional.batch_size, convolutional.train_size) == (128, 60_000)
    assert (plain.model, plain.epochs, plain.train_size) == ("mlp", 100, 10_000)


@pytest.mark.parametrize("data", [["--data", "fashion"], ["--data=fashion"]])
def test_clothes_take_longer(data):
    assert mnist.defaults(["--model", "cnn", *data]).epochs == 20
    assert mnist.defaults(data) == mnist.Config()


def test_the_same_start_is_refused():
    with pytest.raises(ConfigError, match="leave it out with --model cnn"):
        mnist.Config(model="cnn", same_start=True)


@pytest.mark.slow
def test_a_run_and_a_prediction(tmp_path, small_mnist, narrow, capsys):
    """The running statistics are saved with the parameters: predict sees the network trained."""
    config = small(tmp_path / "run")
    mnist.main(config)
    (run,) = results.read(config.out).runs
    train, test = mnist.load(config)
    assert train.x.shape == (64, 28, 28, 1)
    trainer = mnist.make_trainer(config)
    model, state = predict.load_network(predict.Config(run=config.out, index=0), trainer.model)
    after, _ = trainer.run(trainer.init(KEY), train[:2], 1)
    assert_same_bits((model, state), (after.params, after.state))
    predicted = trainer.predict(model, state, test.x).argmax(-1)
    assert run.accuracy_test == fn.metrics.accuracy(test.y, predicted)
    predict.main(predict.Config(run=config.out, index=3))
    assert "test image 3" in capsys.readouterr().out
    assert (config.out / "predict-test-3.png").exists()


@pytest.mark.slow
def test_fashion_is_the_same_experiment(tmp_path, small_mnist, narrow):
    mnist.main(small(tmp_path, data="fashion"))
    assert results.read(tmp_path).config["data"] == "fashion"


def test_images_are_shifted_in_training_alone():
    image = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    x = jnp.broadcast_to(image, (200, 4, 4, 1))
    layer = cnn.RandomShift(1)
    assert_same_bits(layer.apply((), (), x)[0], x)
    moved = np.asarray(layer.apply((), (), x, key=KEY, train=True)[0])[..., 0]
    expected = {}
    padded = np.pad(image[0, :, :, 0], 1, mode="edge")
    for down in range(3):
        for right in range(3):
            expected[padded[down : down + 4, right : right + 4].tobytes()] = 0
    for found in moved:
        expected[found.tobytes()] += 1
    # Nine shifts, each with probability 1/9: a count of 22 has standard deviation 4.4.
    assert len(expected) == 9
    assert min(expected.values()) > 22 - 4 * 4.4
    assert max(expected.values()) < 22 + 4 * 4.4


def test_half_of_the_images_are_mirrored():
    image = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    layer = cnn.RandomShift(1, mirror=True)
    moved = layer.apply((), (), jnp.broadcast_to(image, (400, 4, 4, 1)), key=KEY, train=True)[0]
    # From left to right, pixels grow by 1 or, at a border that is repeated, stay.
    steps = np.sign(np.diff(np.asarray(moved)[..., 0], axis=2)).sum(axis=(1, 2))
    assert set(np.sign(steps)) == {-1, 1}
    assert abs(np.mean(steps < 0) - 0.5) < 4 * 0.025


def test_the_step_size_rises_and_falls_and_biases_do_not_decay():
    optimizer = cnn.optimizer(0.5, steps=10)
    params = {"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    update: Any = optimizer.update
    decays = []
    for _ in range(10):
        updates, state = update(zero, state, params)
        np.testing.assert_array_equal(updates["bias"], 0)
        decays.append(-float(updates["weight"][0, 0]) / cnn.WEIGHT_DECAY)
    assert max(decays) == pytest.approx(0.5)
    assert np.argmax(decays) == 10 * cnn.WARM_UP
    assert decays[0] < 0.05
    assert decays[-1] < 0.05


@pytest.mark.torch
def test_the_peer_is_the_same_network(narrow, small_mnist):
    """With funcnet's parameters and state: the same output, in the order behind Flatten too."""
    from experiments import cnn_torch

    config = small("unused")
    train, test = mnist.load(config)
    trainer = mnist.make_trainer(config)
    run, _ = trainer.run(trainer.init(KEY), train[:2], 1)
    peer = cnn_torch.CnnPeer(config, config.sizes, mnist.LOSS)
    arrays = fn.interop.state_dict(run.params, run.state, model=trainer.model)
    peer.network.load_state_dict({k: cnn_torch.torch.from_numpy(a) for k, a in arrays.items()})
    x, _ = peer.tensors(test[:2])
    theirs = peer.network.eval()(x).detach().numpy()
    ours = trainer.predict(run.params, run.state, test.x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.torch
def test_the_peer_trains(narrow, small_mnist):
    from experiments import cnn_torch

    config = small("unused", epochs=15, learning_rate=0.02)
    train, _ = mnist.load(config)
    peer = cnn_torch.CnnPeer(config, config.sizes, mnist.LOSS)
    peer.prepare(train[:2])
    learned = peer.learner(train[:2], 0).train(15)
    assert learned.losses[-1] < learned.losses[0] - 0.1
    assert runner.labels(learned.outputs, train.x).shape == (64,)


@pytest.mark.torch
def test_the_peer_steps_alike():
    """AdamW moves by the step size where the gradient stays 1; weights decay besides."""
    import torch

    from experiments import cnn_torch

    config = small("unused", epochs=50, learning_rate=0.5)
    peer = cnn_torch.CnnPeer(config, config.sizes, mnist.LOSS)
    step = peer.make_step()
    optimizer = cnn.optimizer(0.5, config.steps)
    theirs: dict[str, Any] = {"weight": peer.network[1].weight, "bias": peer.network[3].bias}
    params = {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in theirs.items()}
    state = optimizer.init(params)
    ones = jax.tree.map(jnp.ones_like, params)
    update: Any = jax.jit(optimizer.update)
    for _ in range(config.steps):
        before = {name: tensor.detach().clone() for name, tensor in theirs.items()}
        for parameter in peer.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        step()
        updates, state = update(ones, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for name, tensor in theirs.items():
            moved = (tensor.detach() - before[name]).numpy()
            # PyTorch's schedule counts its steps a little differently.
            np.testing.assert_allclose(moved, updates[name], rtol=0, atol=0.03)
