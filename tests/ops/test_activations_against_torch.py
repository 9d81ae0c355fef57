"""Activations and softmaxes equal PyTorch's to 1e-9 in float64, at the far ends and NaN too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from tests.ops.test_against_torch import agree, gradients, torch_gradients

pytestmark = pytest.mark.torch

OPTIONS = {
    "elu": [(), (0.7,), (0.0,), (-0.5,)],
    "gelu": [(), ("tanh",)],
    "leaky_relu": [(), (0.0,), (0.3,), (-0.5,)],
    "sigmoid": [()],
    "silu": [()],
    "softplus": [(), (2.0,), (0.5, 1.0), (-1.0, 20.0), (3.0, 1000.0)],
}
GRID = [(name, options) for name in OPTIONS for options in OPTIONS[name]]
INNER = [-30.0, -9.5, -1.5, -1e-12, -0.0, 0.0, 1e-12, 0.3, 0.7, 2.0, 9.5, 19.9, 20.0, 20.1, 30.0]
OUTER = [-np.inf, -1e4, -400.0, 400.0, 1e4, np.inf, np.nan]


def theirs(name, options):
    import torch

    if name == "gelu":
        return functools.partial(torch.nn.functional.gelu, approximate=(*options, "none")[0])
    return lambda x: getattr(torch.nn.functional, name)(x, *options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "options"), GRID)
def test_activations(name, options):
    x = jnp.array(INNER + OUTER)
    g = np.random.default_rng(0).normal(size=x.shape)
    ours = gradients(lambda x: getattr(ops, name)(x, *options), [x], g)
    agree(ours, torch_gradients(theirs(name, options), [x], g))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("name", "options"), GRID)
def test_activations_keep_their_digits(name, options, dtype):
    """Within the dtype's rounding of the float64 truth, relative to each number of its own."""
    import torch

    x = jnp.asarray(INNER, dtype)
    g = jnp.asarray(np.random.default_rng(0).normal(size=x.shape), dtype)
    value, pullback = jax.vjp(lambda x: getattr(ops, name)(x, *options), x)
    exact = torch.tensor(np.asarray(x, np.float64), requires_grad=True)
    expected = theirs(name, options)(exact)
    expected.backward(torch.tensor(np.asarray(g, np.float64)))
    assert exact.grad is not None
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_normal)
    # PyTorch's 1 + erf has its own floor in float64; ours is tested in test_activations.py.
    floor = 1e-15 if name == "gelu" else tiny
    # 1 - sigmoid(x), taken from the rounded sigmoid as PyTorch does, keeps its absolute digits.
    slope_floor = 2 * eps if name == "sigmoid" else floor
    relative = 4e-6 if dtype == "float32" else 4 * eps  # where silu and gelu turn, digits cancel
    for found, truth, absolute in (
        (value, expected.detach(), floor),
        (pullback(g)[0], exact.grad, slope_floor),
    ):
        found = np.asarray(found, np.float64)
        np.testing.assert_allclose(found, truth.numpy(), rtol=relative, atol=absolute)


SOFTMAXES = [("softmax", d) for d in (0, 1, 2, -1)] + [("log_softmax", d) for d in (0, 1, 2, -2)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "dim"), SOFTMAXES)
@pytest.mark.parametrize("width", [1, 5, 70])
def test_softmaxes(name, dim, width):
    import torch

    rng = np.random.default_rng(0)
    x, g = 3 * rng.normal(size=(2, 3, width)), rng.normal(size=(2, 3, width))
    ours = gradients(lambda x: getattr(ops, name)(x, dim), [x], g)
    agree(ours, torch_gradients(lambda x: getattr(torch.nn.functional, name)(x, dim), [x], g))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "x",
    [
        [1.0, -np.inf, 2.0],
        [np.inf, 1.0, 2.0],
        [np.nan, 1.0, 2.0],
        [-np.inf, -np.inf, -np.inf],
        [1e4, -1e4, 0.0],
        [1e300, -1e300, 1e300],
    ],
)
def test_softmaxes_at_the_far_ends(name, x):
    import torch

    g = np.array([0.5, -1.5, 2.0])
    ours = gradients(getattr(ops, name), [jnp.array(x)], g)
    torchs = getattr(torch.nn.functional, name)
    agree(ours, torch_gradients(lambda x: torchs(x, -1), [np.array(x)], g))
