"""Losses of differences: their conventions, and PyTorch's values and cotangents to 1e-9."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from tests.ops.against_torch import agree, gradients, torch_gradients

REDUCTIONS = ["none", "mean", "sum"]
SHAPES = [(), (5,), (3, 2), (2, 3, 4)]
LOSSES = [
    ("mse_loss", {}),
    ("l1_loss", {}),
    *(("smooth_l1_loss", {"beta": beta}) for beta in (1.0, 0.3, 0.0)),
    *(("huber_loss", {"delta": delta}) for delta in (1.0, 0.3)),
]


def test_mse_is_a_mean_over_entries_without_a_half():
    prediction, target = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 5.0]])
    assert ops.mse_loss(prediction, target) == 5
    assert ops.mse_loss(prediction, target, "sum") == 10
    np.testing.assert_array_equal(ops.mse_loss(prediction, target, "none"), [[1, 9]])
    gradient = jax.grad(ops.mse_loss)(prediction, target)
    np.testing.assert_array_equal(gradient, [[1, -3]])


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "options"), LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_cotangents_are_pytorchs(name, options, reduction, shape):
    import torch

    rng = np.random.default_rng(0)
    args = [rng.normal(size=shape), rng.normal(size=shape)]
    g = np.asarray(rng.normal(size=shape if reduction == "none" else ()))
    options = {"reduction": reduction} | options
    agree(
        gradients(lambda p, t: getattr(ops, name)(p, t, **options), args, g),
        torch_gradients(lambda p, t: getattr(torch.nn.functional, name)(p, t, **options), args, g),
    )


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "options"), LOSSES)
def test_kinks_far_ends_and_nan_are_pytorchs(name, options):
    import torch

    distances = [-np.inf, -1e200, -1.0, -0.3, -0.0, 0.0, 0.3, 1.0, 1e200, np.inf, np.nan]
    args = [jnp.array(distances), jnp.zeros(len(distances))]
    g = np.random.default_rng(0).normal(size=len(distances))
    options = {"reduction": "none"} | options
    ours = gradients(lambda p, t: getattr(ops, name)(p, t, **options), args, g)
    theirs = torch_gradients(
        lambda p, t: getattr(torch.nn.functional, name)(p, t, **options),
        [np.array(a) for a in args],
        g,
    )
    agree(ours, theirs)
