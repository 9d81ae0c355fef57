"""Normalisation equals PyTorch's in float64, and keeps its digits in narrower dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from tests.ops.test_against_torch import agree, gradients, torch_gradients

RNG = np.random.default_rng(0)
PARAMETERS = [(True, True), (True, False), (False, True), (False, False)]
PLACES = {2: (6,), 3: (4, 5), 4: (3, 2, 4)}


def channels_first(x):
    """As PyTorch wants it; of two axes, the same."""
    return x.movedim(-1, 1)


def channels_last(y):
    return y.movedim(1, -1)


def arguments(shape, parameter_shape, weight, bias):
    args = [1.5 * RNG.normal(size=shape) + 0.5]
    args += [RNG.normal(size=parameter_shape)] if weight else []
    return args + ([RNG.normal(size=parameter_shape)] if bias else [])


def split(parameters, weight, bias):
    """Weight and bias, None where there is none."""
    left = list(parameters)
    return (left.pop(0) if weight else None), (left.pop(0) if bias else None)


@pytest.mark.few(5, 2)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("weight", "bias"), PARAMETERS)
@pytest.mark.parametrize("ndim", PLACES)
def test_batch_norm_is_pytorchs(ndim, weight, bias, training, eps):
    import torch

    args = arguments((*PLACES[ndim], 3), 3, weight, bias)
    mean, var = RNG.normal(size=3), RNG.uniform(0.5, 2, size=3)
    torch_mean, torch_var = torch.tensor(mean), torch.tensor(var)

    def ours(x, *parameters):
        return ops.batch_norm(
            x, jnp.asarray(mean), jnp.asarray(var), *split(parameters, weight, bias), training,
            0.3, eps,
        )  # fmt: skip

    def theirs(x, *parameters):
        w, b = split(parameters, weight, bias)
        y = torch.nn.functional.batch_norm(
            channels_first(x), torch_mean, torch_var, w, b, training, 0.3, eps
        )
        return channels_last(y)

    g = RNG.normal(size=args[0].shape)
    agree(gradients(lambda *a: ours(*a)[0], args, g), torch_gradients(theirs, args, g))
    _, next_mean, next_var = ours(*map(jnp.asarray, args))
    np.testing.assert_allclose(next_mean, torch_mean, rtol=1e-9)
    np.testing.assert_allclose(next_var, torch_var, rtol=1e-9)
    assert training != np.array_equal(next_mean, mean)


@pytest.mark.few(5, 2)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize(("weight", "bias"), PARAMETERS)
@pytest.mark.parametrize("normalized_shape", [(4,), (3, 4), (2, 3, 4)])
def test_layer_norm_is_pytorchs(normalized_shape, weight, bias, eps):
    import torch

    args = arguments((5, 2, 3, 4), normalized_shape, weight, bias)
    g = RNG.normal(size=args[0].shape)

    def with_options(f):
        return lambda x, *p: f(x, normalized_shape, *split(p, weight, bias), eps)

    agree(
        gradients(with_options(ops.layer_norm), args, g),
        torch_gradients(with_options(torch.nn.functional.layer_norm), args, g),
    )


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eps", [None, 1e-5, 0.1])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("normalized_shape", [(4,), (3, 4)])
def test_rms_norm_is_pytorchs(normalized_shape, weight, eps):
    import torch

    args = arguments((5, 3, 4), normalized_shape, weight, False)
    g = RNG.normal(size=args[0].shape)

    def with_options(f):
        return lambda x, weight=None: f(x, normalized_shape, weight, eps)

    agree(
        gradients(with_options(ops.rms_norm), args, g),
        torch_gradients(with_options(torch.nn.functional.rms_norm), args, g),
    )


@pytest.mark.few(11, 2)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize(("weight", "bias"), PARAMETERS)
@pytest.mark.parametrize("ndim", PLACES)
def test_group_norm_is_pytorchs(ndim, weight, bias, groups):
    import torch

    args = arguments((*PLACES[ndim], 6), 6, weight, bias)
    g = RNG.normal(size=args[0].shape)

    def ours(x, *parameters):
        return ops.group_norm(x, groups, *split(parameters, weight, bias), 0.01)

    def theirs(x, *parameters):
        w, b = split(parameters, weight, bias)
        if w is None:  # PyTorch's backward pass fails for a bias without a weight
            w = torch.ones(6, dtype=torch.float64)
        y = torch.nn.functional.group_norm(channels_first(x), groups, w, b, 0.01)
        return channels_last(y)

    agree(gradients(ours, args, g), torch_gradients(theirs, args, g))


@pytest.mark.torch
def test_rms_norms_default_eps_in_half_precision_is_pytorchs():
    import torch

    x = torch.full((1, 4), 1e-3, dtype=torch.bfloat16)
    theirs = torch.nn.functional.rms_norm(x, (4,)).float().numpy()
    ours = ops.rms_norm(jnp.full((1, 4), 1e-3, jnp.bfloat16), 4)
    np.testing.assert_array_equal(ours.astype(jnp.float32), theirs)


@pytest.mark.parametrize("mean", [0, 1e4])
def test_a_large_mean_costs_no_more_digits_than_it_must(mean):
    """The inputs are known to half an ulp of the mean, so the outputs to that over the spread."""
    x = (RNG.normal(size=(20_000, 3)) + mean).astype(np.float32)
    exact = x.astype(float)
    expected = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    ulp = np.spacing(np.float32(mean + 1))
    found = {
        "batch_norm": ops.batch_norm(jnp.asarray(x), None, None, training=True, eps=0.0)[0],
        "layer_norm": ops.layer_norm(jnp.asarray(x.T), len(x), eps=0.0).T,
        "group_norm": ops.group_norm(jnp.asarray(x)[None], 3, eps=0.0)[0],
    }
    for name, y in found.items():
        assert np.abs(y - expected).max() < 8 * ulp, name


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = jnp.asarray(RNG.normal(size=(1000, 8)) + 5, dtype)
    wide = x.astype(jnp.float32)
    for f in (
        lambda x: ops.batch_norm(x, None, None, training=True)[0],
        lambda x: ops.layer_norm(x, 8),
        lambda x: ops.rms_norm(x, 8, eps=1e-5),
        lambda x: ops.group_norm(x, 2),
    ):
        y = f(x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, f(wide).astype(dtype))


def test_running_statistics_have_no_gradient():
    x, running = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), jnp.ones(3)

    def total(x, mean, var):
        y, mean, var = ops.batch_norm(x, mean, var, training=True)
        return (y**3).sum() + (mean + var).sum()

    _, *d_running = jax.grad(total, argnums=(0, 1, 2))(x, running, running)
    np.testing.assert_array_equal(d_running, 0)

    def of_x(x):
        return sum(a.sum() for a in ops.batch_norm(x, running, running, training=True)[1:])

    np.testing.assert_array_equal(jax.grad(of_x)(x), 0)


def test_an_empty_batch_leaves_the_running_statistics():
    mean, var = jnp.arange(3.0), jnp.ones(3)
    y, *after = ops.batch_norm(jnp.ones((0, 3)), mean, var, training=True)
    assert y.shape == (0, 3)
    np.testing.assert_array_equal(after, [mean, var])


def test_without_running_statistics_none_come_back():
    assert ops.batch_norm(jnp.ones((4, 3)), None, None, training=True)[1:] == (None, None)
