"""Convolutions of series, transposes, Upsample, Unflatten, PReLU: PyTorch's, and errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import ConfigError, ShapeError

KEY = jax.random.key(0)
DECODER = fn.Sequential(
    fn.Linear(5, 24),
    fn.Unflatten(-1, (2, 3, 4)),
    fn.PReLU(4),
    fn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=(1, 0), groups=2),
    fn.Identity(),
    fn.Upsample(scale_factor=2),
    fn.ConvTranspose2d(6, 1, (2, 3), bias=False, dilation=(1, 2)),
)
SERIES = fn.Sequential(
    fn.Conv1d(3, 4, 3, stride=2, padding=1, groups=1),
    fn.PReLU(),
    fn.Conv1d(4, 4, 2, padding="same", dilation=2, groups=2, bias=False),
    fn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1),
)


def torch_decoder():
    from torch import nn

    return nn.Sequential(
        nn.Linear(5, 24),
        nn.Unflatten(-1, (4, 2, 3)),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=(1, 0), groups=2),
        nn.Identity(),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(6, 1, (2, 3), bias=False, dilation=(1, 2)),
    )


def torch_series():
    from torch import nn

    return nn.Sequential(
        nn.Conv1d(3, 4, 3, stride=2, padding=1),
        nn.PReLU(),
        nn.Conv1d(4, 4, 2, padding="same", dilation=2, groups=2, bias=False),
        nn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1),
    )


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", ["images", "series"])
def test_a_network_is_pytorchs_with_its_state_dict(name):
    import torch

    model, theirs = (DECODER, torch_decoder()) if name == "images" else (SERIES, torch_series())
    theirs = theirs.double()
    like, state = jax.eval_shape(lambda: model.init(KEY, dtype=jnp.float64))
    found = theirs.state_dict()
    if name == "images":  # features by channel, row and column there; the channel is last here
        for key in ("0.weight", "0.bias"):
            parts = found[key].reshape(4, 6, -1).transpose(0, 1).reshape(found[key].shape)
            found[key] = parts.contiguous()
    params, state = fn.interop.load_state_dict(found, like, state)
    x = np.random.default_rng(0).normal(size=(5, 5) if name == "images" else (5, 9, 3))
    output, pullback = jax.vjp(lambda p: model.apply(p, state, jnp.asarray(x))[0], params)
    g = np.random.default_rng(1).normal(size=output.shape)
    gradient = fn.interop.state_dict(pullback(jnp.asarray(g))[0])
    axes = (0, 2, 1) if name == "series" else (0, 2, 3, 1)
    theirs_x = torch.tensor(x) if name == "images" else torch.tensor(x).permute(axes)
    expected = theirs(theirs_x).permute(axes)
    expected.backward(torch.tensor(g))
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    for key, parameter in theirs.named_parameters():
        if name == "images" and key.startswith("0."):
            continue
        assert parameter.grad is not None
        np.testing.assert_allclose(gradient[key], parameter.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layer", [fn.ConvTranspose2d(40, 8, (2, 5)), fn.ConvTranspose1d(40, 8, 3, groups=4)]
)
def test_transposes_start_as_pytorchs(layer):
    """Kolmogorov and Smirnov's distance from U[-1/√N, 1/√N], at the 0.1 % level."""
    params, _ = jax.vmap(layer.init)(jax.random.split(KEY, 50))
    bound = 1 / math.sqrt(math.prod(params["weight"].shape[2:]))
    assert params["bias"].shape == (50, 8)
    for draws in params.values():
        draws = np.sort(np.asarray(draws, np.float64).ravel())
        assert -bound <= draws[0] < draws[-1] <= bound
        n = len(draws)
        above = np.arange(1, n + 1) / n - (draws / bound + 1) / 2
        assert max(above.max(), (1 / n - above).max()) < 1.95 / math.sqrt(n)


def test_layers_are_values():
    for layer in (*DECODER.layers, *SERIES.layers, fn.Upsample((2, 3))):
        assert eval(repr(layer), {**vars(fn)}) == layer
        assert hash(eval(repr(layer), {**vars(fn)})) == hash(layer)
    assert repr(fn.PReLU(3, init=0.1)) == "PReLU(num_parameters=3, init=0.1)"
    assert fn.Upsample(2) == fn.Upsample((2, 2)) != fn.Upsample(scale_factor=2)


def test_prelu_starts_where_it_is_told():
    params, _ = fn.PReLU(3, init=0.1).init(KEY, jnp.bfloat16)
    np.testing.assert_array_equal(params["weight"], jnp.full(3, 0.1, jnp.bfloat16))


@pytest.mark.parametrize(
    ("sizes", "shape", "expected"),
    [
        ((-1, (2, 3)), (4, 6), (4, 2, 3)),
        ((1, (-1, 3)), (4, 6, 2), (4, 2, 3, 2)),
        ((-2, (6, 1, -1)), (4, 6, 2), (4, 6, 1, 1, 2)),
        ((-1, (2, -1)), (0, 6), (0, 2, 3)),
    ],
)
def test_unflatten(sizes, shape, expected):
    x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    y = fn.Unflatten(*sizes).apply((), (), x).value
    np.testing.assert_array_equal(y, x.reshape(expected))


def test_identity_takes_any_tree():
    tree = {"a": jnp.arange(3), "b": (jnp.ones(2),)}
    output, state = fn.Identity().apply((), (), tree)
    assert output is tree
    assert state == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.Conv1d(0, 3, 3), "Conv1d's in_channels is 0, expected at least 1"),
        (lambda: fn.Conv1d(2, 3, (3, 3)), "Conv1d's kernel_size is (3, 3), expected an integer"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Conv1d(2, 3, 3, padding="full"), "Conv1d's padding is 'full', expected"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Conv1d(2, 3, 3, 2, "same"), "Conv1d's padding is 'same' with stride"),
        (
            lambda: fn.Conv1d(2, 3, 3, padding=-1),
            "Conv1d's padding is -1, expected at least 0",
        ),
        (lambda: fn.ConvTranspose1d(2, 3, 3, padding=-1), "padding is -1, expected at least 0"),
        (
            lambda: fn.ConvTranspose2d(2, 3, 3, output_padding=1),
            "output_padding is (1, 1), expected less than the stride (1, 1)",
        ),
        (lambda: fn.ConvTranspose1d(2, 3, 3, 2, 0, 2), "output_padding is (0, 2), expected less"),
        (lambda: fn.ConvTranspose2d(4, 3, 3, groups=2), "out_channels is 3, expected a multiple"),
        (lambda: fn.Upsample(), "size is None and scale_factor None, expected exactly one"),
        (lambda: fn.Upsample(2, 2.0), "expected exactly one of them"),
        (lambda: fn.Upsample(0), "Upsample: size is 0, expected at least 1"),
        (lambda: fn.Upsample(scale_factor=0.0), "Upsample: scale_factor is 0.0, expected"),
        (lambda: fn.Upsample(2, mode="cubic"), "Upsample's mode is 'cubic', expected"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Unflatten(1, ()), "unflattened_size is (), expected a tuple of sizes"),
        (lambda: fn.Unflatten(1, (-1, -1)), "unflattened_size is (-1, -1), expected sizes of at"),
        (lambda: fn.Unflatten("1", (2,)), "Unflatten's dim is '1', expected an integer"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.PReLU(0), "PReLU's num_parameters is 0, expected at least 1"),
        (lambda: fn.PReLU(1, math.nan), "PReLU's init is nan, expected a finite number"),
    ],
)
def test_options_without_meaning_are_refused(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            fn.Conv1d(3, 4, 2),
            (5, 3, 8),
            "move the channels to the end with jnp.moveaxis(x, -2, -1)",
        ),
        (fn.Conv1d(3, 4, 2), (5, 8, 4), "set in_channels=4"),
        (fn.Conv1d(3, 4, 2), (3,), "conv1d: x has shape (3,) and weight (4, 3, 2), expected"),
        (fn.Conv1d(3, 4, 9), (5, 8, 3), "are smaller than the kernel"),
        (fn.ConvTranspose2d(3, 4, 2), (5, 3, 8, 8), "jnp.moveaxis(x, -3, -1)"),
        (fn.ConvTranspose2d(3, 4, 2), (5, 8, 8, 2), "expected weight.shape[0] = 3 channels"),
        (fn.ConvTranspose2d(3, 4, 1, padding=2), (5, 4, 8, 3), "4 x 8 pixels would become 0 x 4"),
        (fn.Upsample(2), (5, 8), "expected (..., height, width, channels)"),
        (fn.Upsample(2), (0, 8, 3), "expected at least one pixel"),
        (fn.Upsample(scale_factor=0.1), (8, 8, 3), "become 0 x 0"),
        (fn.Unflatten(-1, (2, 3)), (5, 8), "expected an axis -1 that has size 6"),
        (fn.Unflatten(-1, (-1, 3)), (5, 8), "expected an axis -1 that is a multiple of 3"),
        (fn.Unflatten(2, (2, 3)), (5, 8), "expected an axis 2"),
        (fn.PReLU(2), (5, 3), "set num_parameters=3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, shape, message):
    params, state = layer.init(KEY)
    with pytest.raises(ShapeError) as error:
        layer.apply(params, state, jnp.ones(shape))
    assert message in str(error.value)
