"""linear and its cotangents equal PyTorch's to 1e-9 in float64."""

import numpy as np
import pytest

from funcnet import ops
from tests.ops.against_torch import agree, gradients, torch_gradients

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("x64")]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (5,), (3, 4), (2, 3, 2), (0,)])
def test_linear(leading, bias):
    import torch

    rng = np.random.default_rng(0)
    args = [rng.normal(size=(*leading, 3)), rng.normal(size=(4, 3))]
    args += [rng.normal(size=4)] if bias else []
    g = rng.normal(size=(*leading, 4))
    agree(gradients(ops.linear, args, g), torch_gradients(torch.nn.functional.linear, args, g))
