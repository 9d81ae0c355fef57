"""The history is a dict of arrays that plots itself, and a pytree."""

import jax
import numpy as np
import pytest

import funcnet as fn

HISTORY = fn.History(
    loss=np.array([2.0, 1.0]),
    validation_loss=np.array([3.0, 2.0]),
    learning_rate=np.array([0.1, 0.1]),
    diverged_at=np.array(-1),
)


def test_it_is_a_dict_and_a_pytree():
    assert isinstance(HISTORY, dict)
    doubled = jax.tree.map(lambda a: 2 * a, HISTORY)
    assert type(doubled) is fn.History
    assert list(doubled["loss"]) == [4, 2]
    assert list(HISTORY.curves()) == ["loss", "validation_loss", "learning_rate"]


def test_a_csv_has_a_line_for_each_epoch(tmp_path):
    HISTORY.to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().splitlines() == [
        "epoch,loss,validation_loss,learning_rate",
        "0,2.0,3.0,0.1",
        "1,1.0,2.0,0.1",
    ]


def test_it_plots_itself():
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    figure = HISTORY.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning_rate"]
    training, validation = figure.axes[0].lines
    np.testing.assert_array_equal(training.get_ydata(), HISTORY["loss"])
    np.testing.assert_array_equal(validation.get_ydata(), HISTORY["validation_loss"])
