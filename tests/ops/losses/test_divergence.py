"""kl_div: PyTorch's values and cotangents to 1e-9 in float64, over the grid of options."""

import warnings
from typing import Any

import numpy as np
import pytest

import funcnet
from tests.ops.against_torch import agree, gradients, torch_gradients

ops: Any = funcnet.ops  # they take NumPy's arrays too

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("x64")]


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_kl_div(shape, reduction, log_target):
    import torch

    rng = np.random.default_rng(0)
    S, T = (np.log(rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])) for _ in range(2))
    args = [S, T if log_target else np.exp(T)]
    g = np.asarray(rng.normal(size=shape if reduction == "none" else ()))

    def theirs(S, T):
        with warnings.catch_warnings():  # of the mean over all entries, that it is no divergence
            warnings.simplefilter("ignore")
            return torch.nn.functional.kl_div(S, T, reduction=reduction, log_target=log_target)

    agree(
        gradients(lambda S, T: ops.kl_div(S, T, reduction, log_target), args, g),
        torch_gradients(theirs, args, g),
    )


@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_of_one_number_has_a_batchmean(log_target):
    import torch

    args = [np.array(-0.7), np.array(-0.4 if log_target else 0.3)]
    agree(
        gradients(lambda S, T: ops.kl_div(S, T, "batchmean", log_target), args, 1.5),
        torch_gradients(
            lambda S, T: torch.nn.functional.kl_div(
                S, T, reduction="batchmean", log_target=log_target
            ),
            args,
            1.5,
        ),
    )


def test_kl_div_of_a_target_without_some_classes():
    import torch

    S, T = np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    ours = gradients(lambda S: ops.kl_div(S, T, "sum"), [S], 1.5)
    kl_div = torch.nn.functional.kl_div
    theirs = torch_gradients(lambda S: kl_div(S, torch.tensor(T), reduction="sum"), [S], 1.5)
    agree(ours, theirs)
