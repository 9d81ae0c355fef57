"""The deep experiment in small: its networks, its files, and what depth does to gradients."""

import json
from functools import partial

import jax
import numpy as np
import optax
import pytest

import funcnet as fn
from experiments import __main__ as command
from experiments import deep, disk, figures, results
from funcnet.errors import ConfigError

KEY = jax.random.key(0)
TINY = ["--seeds", "2", "--depth", "2", "--width", "3", "--epochs", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("deep")
    assert command.main(["deep", *TINY, "--out", str(out)]) == 0
    return out


def test_every_file_is_there_and_no_other(finished):
    assert {path.name for path in finished.iterdir()} == {"results.json", "table.md", "deep.png"}
    assert (finished / "deep.png").read_bytes().startswith(b"\x89PNG")


def test_results_name_the_network(finished):
    content = json.loads((finished / "results.json").read_text())
    assert content["config"]["depth"] == 2
    assert [(run["model"], run["seed"]) for run in content["runs"]] == [
        (name, seed) for name in deep.NETWORKS for seed in (0, 1)
    ]
    assert len(results.read(finished).runs) == 6
    table = (finished / "table.md").read_text()
    assert all(name in table for name in (*deep.NETWORKS, "accuracy test", "F1 test"))


@pytest.mark.parametrize("name", deep.NETWORKS)
@pytest.mark.parametrize("depth", [2, 24])
def test_networks_have_the_same_affine_maps(name, depth):
    model = deep.network(deep.Config(depth=depth, width=5), name)
    params, _ = jax.eval_shape(model.init, KEY)
    weights = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    assert weights == [(5, 2), *[(5, 5)] * (depth - 1), (2, 5)]


@pytest.mark.slow
def test_gradients_vanish_in_the_plain_network_alone():
    config = deep.Config(depth=12)
    for name in deep.NETWORKS:
        trainer = fn.Trainer(deep.network(config, name), fn.CrossEntropyLoss(), optax.sgd(0.03))
        data = disk.make_data(jax.random.key(1))
        norms = jax.jit(partial(deep.gradient_norms, trainer))(trainer.init(KEY), data)
        assert norms.shape == (13,)
        assert (norms[0] / norms[-1] < 1e-3) == (name == "plain")
        assert norms[0] > 0


def test_the_figure_shows_every_network_twice():
    values = {name: np.full((2, 5), 10.0**-i) for i, name in enumerate(deep.NETWORKS)}
    figure = figures.depths(values, values)
    for axes in figure.axes:
        assert axes.get_yscale() == "log"
        assert [np.max(line.get_ydata()) for line in axes.lines] == [1, 0.1, 0.01]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == [f"{name}, 2 seeds" for name in deep.NETWORKS]


@pytest.mark.parametrize(
    "options", [{"depth": 3}, {"depth": 0}, {"seeds": 0}, {"learning_rate": float("nan")}]
)
def test_options_without_a_meaning_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is"):
        deep.Config(**options)


@pytest.mark.slow
def test_divergence_is_one_sentence(tmp_path, capsys):
    options = ["--learning-rate", "1e30", "--out", str(tmp_path)]
    assert command.main(["deep", *TINY, *options]) == 1
    assert (
        "plain, seed 0: the loss, a parameter or the model's state became infinite"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_the_plain_network_does_not_train_and_the_others_do(tmp_path):
    assert command.main(["deep", "--seeds", "2", "--out", str(tmp_path)]) == 0
    for run in results.read(tmp_path).runs:
        if run.model == "plain":
            assert run.f1_test == 0
        else:
            assert run.accuracy_test > 0.96
