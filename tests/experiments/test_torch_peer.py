"""Both frameworks train alike from the same start, and a comparison changes nothing in funcnet."""

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from experiments import disk, mnist, options, results, runner, tables

pytest.importorskip("matplotlib", reason="needs the extra plots")
from experiments import same_start


@pytest.fixture
def torch_peer():
    from experiments import torch_peer

    return torch_peer


@pytest.fixture
def eager_only(monkeypatch, torch_peer):
    """Leave torch.compile out: it takes many seconds."""

    def broken(module):
        raise RuntimeError("no compiler here\nand a long explanation")

    monkeypatch.setattr(torch_peer.torch, "compile", broken)


CONFIG = disk.Config(hidden=(6, 5), batch_size=30, learning_rate=0.1, same_start=True)


def points(dtype, loss):
    """100 of them: the last batch is smaller."""
    x = jax.random.uniform(jax.random.key(5), (100, 2), dtype, minval=-1)
    y = (x[:, 0] > x[:, 1]).astype(jnp.int32)
    return x, jax.nn.one_hot(y, 2, dtype=dtype) if loss == "mse" else y


def side_by_side(trainer, peer, start, data, epochs):
    """Train an epoch of each in turn; return funcnet's run and losses, and PyTorch's learner."""
    learner = peer.learner(data, 0, start)
    run, losses = start, []
    for _ in range(epochs):
        run, history = trainer.run(run, data, 1)
        losses.append(history["loss"][0])
        learner.beside(SimpleNamespace(run=run, history=history))
    return run, np.array(losses), learner


def both_trained(torch_peer, loss, dtype, epochs):
    trainer = options.make_trainer(CONFIG, CONFIG.sizes, loss)
    data = points(dtype, loss)
    (peer,) = torch_peer.make_peers(CONFIG, CONFIG.sizes, loss, data, torch_peer.Peer)
    # Not the first epoch of its history: the orders must follow.
    start, _ = trainer.run(trainer.init(jax.random.key(2), dtype), data, 3)
    return trainer, data[0], *side_by_side(trainer, peer, start, data, epochs)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", [pytest.param("mse", marks=pytest.mark.slow), "cross_entropy"])
def test_in_float64_the_frameworks_go_the_same_way(torch_peer, loss):
    trainer, x, run, losses, learner = both_trained(torch_peer, loss, jnp.float64, 50)
    assert losses[-1] < losses[0]
    differences = learner.learned().apart
    assert {"loss", "0.weight", "0.bias", "4.weight", "4.bias"} < set(differences)
    for values in differences.values():
        assert np.shape(values) == (50,)
        assert np.max(values) < 1e-12
    ours = trainer.predict(run.params, run.state, x).argmax(axis=-1)
    np.testing.assert_array_equal(ours, runner.labels(learner.outputs, x))


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("regularised", "closeness"),
    [
        pytest.param({"schedule": "cosine"}, 1e-12, marks=pytest.mark.slow),
        pytest.param({"weight_decay": 0.01}, 1e-12, marks=pytest.mark.slow),
        # optax's is computed in float32.
        pytest.param({"schedule": "linear"}, 1e-8, marks=pytest.mark.slow),
        # PyTorch divides by the norm + 1e-6.
        ({"clip_norm": 0.05, "weight_decay": 0.01}, 1e-5),
    ],
)
def test_regularised_alike_they_go_the_same_way(torch_peer, regularised, closeness):
    config = dataclasses.replace(CONFIG, epochs=1, **regularised)
    trainer = options.make_trainer(config, config.sizes, "cross_entropy")
    data = points(jnp.float64, "cross_entropy")
    peer = torch_peer.Peer(config, config.sizes, "cross_entropy")
    start = trainer.init(jax.random.key(2), jnp.float64)
    run, _, learner = side_by_side(trainer, peer, start, data, 8)
    plain = options.make_trainer(CONFIG, CONFIG.sizes, "cross_entropy")
    unlike, _ = plain.run(plain.init(jax.random.key(2), jnp.float64), data, 8)
    for key, values in learner.apart.items():
        assert max(values) < closeness, key
    ours, others = (jax.tree.leaves(params) for params in (run.params, unlike.params))
    assert all(np.abs(a - b).max() > 1e-5 for a, b in zip(ours, others, strict=True))


@pytest.mark.torch
def test_side_by_side_the_largest_difference_of_every_epoch_is_kept(torch_peer):
    config = dataclasses.replace(CONFIG, hidden=(5,), learning_rate=1e-30)
    trainer = options.make_trainer(config, config.sizes, "mse")
    start, data = trainer.init(jax.random.key(0)), points(jnp.float32, "mse")
    peer = torch_peer.Peer(config, config.sizes, "mse")
    shift = jnp.array([[0.0, 0.0], [0.25, 0.0], [0.0, -0.5], [0.0, 0.0], [0.0, 0.0]])
    params = jax.tree.map(lambda leaf: leaf, start.params)
    params[0]["weight"] = params[0]["weight"] + shift
    learner = peer.learner(data, 0, start._replace(params=params))
    for _ in range(2):
        _, history = trainer.run(start, data, 1)
        learner.beside(SimpleNamespace(run=start, history=history))
    differences = np.abs(float(history["loss"][0]) - np.array(learner.losses))
    np.testing.assert_array_equal(learner.apart["loss"], differences)
    np.testing.assert_allclose(learner.apart["0.weight"], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(learner.apart["2.bias"], [0, 0])


@pytest.mark.torch
def test_a_divergence_in_pytorch_names_the_seed_and_the_epoch(torch_peer):
    config = dataclasses.replace(CONFIG, learning_rate=1e30)
    learner = torch_peer.Peer(config, config.sizes, "mse").learner(points(jnp.float32, "mse"), 7)
    says = r"MSE, seed 7, PyTorch: the loss became infinite or NaN in epoch 0 .*--learning-rate"
    with pytest.raises(fn.DivergenceError, match=says):
        learner.train(3)


@pytest.mark.slow
@pytest.mark.torch
def test_in_float32_they_differ_by_rounding(torch_peer):
    *_, losses, learner = both_trained(torch_peer, "cross_entropy", jnp.float32, 50)
    assert losses.shape == learner.learned().losses.shape == (50,)
    assert 0 < max(learner.apart["4.weight"]) < 1e-4
    assert max(learner.apart["loss"]) < 1e-5


@pytest.mark.torch
def test_a_trained_models_logits_are_the_same_in_pytorch(torch_peer, small_mnist):
    config = mnist.Config(train_size=500, hidden=(64,))
    train, test = mnist.load(config)
    trainer = options.make_trainer(config, config.sizes, "cross_entropy")
    run, _ = trainer.run(trainer.init(jax.random.key(0)), train[:2], 20)
    peer = torch_peer.Peer(config, config.sizes, "cross_entropy")
    peer.learner(train[:2], 0, start=run)
    theirs = peer.network(torch_peer.torch.from_numpy(test.x)).detach().numpy()
    ours = trainer.predict(run.params, run.state, test.x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.torch
def test_without_a_given_start_the_seed_decides(torch_peer):
    data = points(jnp.float32, "cross_entropy")
    peer = torch_peer.Peer(CONFIG, CONFIG.sizes, "cross_entropy")

    def trained(seed):
        learner = peer.learner(data, seed)
        learned = learner.train(5)
        assert learned.seconds > 0
        return learned.losses

    first = trained(0)
    np.testing.assert_array_equal(trained(0), first)
    assert (trained(1) != first).all()


@pytest.mark.torch
def test_an_epoch_visits_every_example_once_and_steps_like_sgd(torch_peer):
    """One epoch against the same steps by hand: the mean of squares of a linear map."""
    config = disk.Config(hidden=(), batch_size=2, learning_rate=0.1)
    peer = torch_peer.Peer(config, (1, 1), "mse")
    x, y = np.array([[1.0], [2.0], [3.0]], np.float32), np.array([[1.0], [1.0], [2.0]], np.float32)
    params = ({"weight": jnp.ones((1, 1)), "bias": jnp.zeros(1)},)
    start = fn.TrainState(params, ((),), (), jax.random.key(0), jnp.int32(0), jnp.int32(0))
    learner = peer.learner((x, y), 0, start)
    order = torch_peer.order_of(start, 3)(0)
    assert sorted(order) == [0, 1, 2]
    w, b, total = 1.0, 0.0, 0.0
    for rows in (order[:2], order[2:]):
        error = w * x[rows, 0] + b - y[rows, 0]
        total += (error**2).sum()
        w, b = w - 0.1 * 2 * (error * x[rows, 0]).mean(), b - 0.1 * 2 * error.mean()
    assert learner.epoch() == pytest.approx(total / 3, rel=1e-5)
    assert learner.arrays()["0.weight"].item() == pytest.approx(w, rel=1e-5)
    assert learner.arrays()["0.bias"].item() == pytest.approx(b, rel=1e-5)


def run_mnist(out, **options):
    mnist.main(mnist.Config(seeds=2, epochs=2, hidden=(8,), train_size=250, out=out, **options))


def run_disk(out, **options):
    disk.main(disk.Config(seeds=2, epochs=4, hidden=(5,), loss="mse", out=out, **options))


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("experiment", [run_mnist, run_disk])
def test_funcnets_bits_are_the_same_in_every_mode(
    tmp_path, small_mnist, eager_only, capsys, experiment
):
    modes = {"alone": {}, "compared": {"compare_torch": True}, "same start": {"same_start": True}}
    scores = {}
    for mode, given in modes.items():
        experiment(tmp_path / mode, **given)
        runs = results.read(tmp_path / mode).runs
        scores[mode] = [
            (run.seed, run.accuracy_train, run.accuracy_test)
            for run in runs
            if run.framework == "funcnet"
        ]
        frameworks = ["funcnet"] if mode == "alone" else ["funcnet", "torch"]
        assert [run.framework for run in runs] == 2 * frameworks
    assert scores["alone"] == scores["compared"] == scores["same start"]
    for path in (tmp_path / "alone").glob("params-*.safetensors"):
        for mode in modes:
            assert (tmp_path / mode / path.name).read_bytes() == path.read_bytes()
    reports = [path.name for path in tmp_path.glob("*/same-start*")]
    loss = "mse" if experiment is run_disk else "cross_entropy"
    assert sorted(reports) == [f"same-start-{loss}.md", f"same-start-{loss}.png"]
    assert "torch.compile does not work: no compiler here\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.torch
def test_the_disk_report_compares_the_run_that_was_timed(tmp_path, capsys):
    run_disk(tmp_path, same_start=True)
    runs = {(run.framework, run.seed): run for run in results.read(tmp_path).runs}
    report = (tmp_path / "same-start-mse.md").read_text()
    assert report in capsys.readouterr().out
    for seed in (0, 1):
        ours, theirs = runs["funcnet", seed], runs["torch", seed]
        # The same points from the same start: nobody can tell the two apart after four epochs.
        assert (ours.accuracy_test, ours.f1_test) == (theirs.accuracy_test, theirs.f1_test)
        train, test = (f"{100 * x:.2f} %" for x in (ours.accuracy_train, ours.accuracy_test))
        row = next(line for line in report.splitlines() if line.startswith(f"| {seed} "))
        assert [cell.strip() for cell in row.split("|")[2:-1]] == [train, train, test, test]
    assert (tmp_path / "table.md").read_text().count("paper, Table II ") == 1


@pytest.mark.torch
@pytest.mark.slow
# PyTorch's own, when its compiler is first imported.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is:DeprecationWarning")
def test_torch_compile_has_a_list_and_a_column_of_its_own(tmp_path, small_mnist):
    run_mnist(tmp_path, compare_torch=True)
    found = results.read(tmp_path).runs
    assert [run.framework for run in found].count("torch.compile") in (0, 2)
    if any(run.framework == "torch.compile" for run in found):
        assert "PyTorch compiled" in (tmp_path / "table.md").read_text()


def test_the_report_shows_the_worst_seed_and_where(tmp_path):
    differences = [
        {"loss": np.array([0.0, 0.0]), "0.weight": np.array([1e-8, 3e-6])},
        {"loss": np.array([0.0, 2e-7]), "0.weight": np.array([1e-8, 1e-6])},
    ]
    runs = [
        results.Run(framework, "mse", seed, 0.5 + seed / 10, score, 0.1, 0.1)
        for seed in (0, 1)
        for framework, score in (("funcnet", 0.25), ("torch", 0.26))
    ]
    report = same_start.write(tmp_path, "mse", differences, runs)
    assert sorted(os.listdir(tmp_path)) == ["same-start-mse.md", "same-start-mse.png"]
    assert (tmp_path / "same-start-mse.md").read_text() == report
    header = ["", "after epoch 1", "after epoch 2", "along the way", "in epoch"]
    differ = [["loss", "0.0e+00", "2.0e-07", "2.0e-07", "2"]]
    differ += [["0.weight", "1.0e-08", "3.0e-06", "3.0e-06", "2"]]
    assert tables.markdown([header, *differ]) in report
    assert "| 0    |        50.00 % |        50.00 % |       25.00 % |       26.00 % |" in report
    assert "| 1    |        60.00 % |        60.00 % |       25.00 % |       26.00 % |" in report


def test_frameworks_that_never_differ_can_be_drawn(tmp_path):
    runs = [results.Run(name, "mse", 0, 1.0, 1.0, 0.1, 0.1) for name in ("funcnet", "torch")]
    report = same_start.write(tmp_path, "mse", [{"loss": np.zeros(3)}], runs)
    assert "0.0e+00" in report


def test_without_pytorch_one_sentence_says_how_to_get_it(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from experiments import __main__; "
        f"sys.exit(__main__.main(['mnist', '--compare-torch', '--out', {str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "python -m experiments mnist: --compare-torch and --same-start need PyTorch: "
        "pip install 'funcnet[torch]'\n"
    )
    assert not (tmp_path / "run").exists()
