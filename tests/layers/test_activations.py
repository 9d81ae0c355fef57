"""Activation layers are their ops with options, and PyTorch's by name and default."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import ConfigError

X = jax.random.normal(jax.random.key(0), (4, 3))
LAYERS = {
    "ReLU": (fn.ReLU(), ops.relu),
    "LeakyReLU": (fn.LeakyReLU(0.2), lambda x: ops.leaky_relu(x, 0.2)),
    "ELU": (fn.ELU(0.5), lambda x: ops.elu(x, 0.5)),
    "Softplus": (fn.Softplus(2, 3), lambda x: ops.softplus(x, 2.0, 3.0)),
    "Tanh": (fn.Tanh(), ops.tanh),
    "Sigmoid": (fn.Sigmoid(), ops.sigmoid),
    "SiLU": (fn.SiLU(), ops.silu),
    "GELU": (fn.GELU("tanh"), lambda x: ops.gelu(x, "tanh")),
    "Softmax": (fn.Softmax(0), lambda x: ops.softmax(x, 0)),
    "LogSoftmax": (fn.LogSoftmax(0), lambda x: ops.log_softmax(x, 0)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_op(name):
    layer, op = LAYERS[name]
    params, state = layer.init(jax.random.key(0))
    assert params == state == ()
    output = layer.apply(params, state, X)
    np.testing.assert_array_equal(output.value, op(X))
    assert output.state == ()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_value(name):
    layer, _ = LAYERS[name]
    names = {name: getattr(fn, name) for name in fn.__all__}
    assert eval(repr(layer), names) == layer
    assert hash(eval(repr(layer), names)) == hash(layer)
    default = type(layer)()
    assert (default == layer) == (not dataclasses.fields(layer))


def test_options_are_stored_as_pythons():
    assert repr(fn.LeakyReLU(1)) == "LeakyReLU(negative_slope=1.0)"
    beta: Any = np.float32(2)
    dim: Any = np.int64(1)
    assert repr(fn.Softplus(beta, 3)) == "Softplus(beta=2.0, threshold=3.0)"
    assert repr(fn.Softmax(dim)) == "Softmax(dim=1)"


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_names_and_defaults_are_pytorchs(name):
    import torch

    theirs = dict(inspect.signature(getattr(torch.nn, name)).parameters)
    for other in ("inplace", "args", "kwargs"):
        theirs.pop(other, None)
    ours = {f.name: f.default for f in dataclasses.fields(getattr(fn, name))}
    assert list(ours) == list(theirs)
    for option, default in ours.items():
        assert default == theirs[option].default or option == "dim"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: fn.LeakyReLU(float("inf")),
            "LeakyReLU's negative_slope is inf",
        ),
        (lambda: fn.ELU(None), "ELU's alpha is None"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Softplus(0), "Softplus's beta is 0, expected another number"),
        (lambda: fn.Softplus(1, float("nan")), "Softplus's threshold is nan"),
        (lambda: fn.GELU("erf"), "GELU: approximate is 'erf'"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.Softmax(1.5), "Softmax's dim is 1.5"),  # pyright: ignore[reportArgumentType]
        (lambda: fn.LogSoftmax(None), "LogSoftmax's dim"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_options_without_meaning_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_an_axis_that_is_not_there_is_named_with_the_layer():
    model = fn.Sequential(fn.ReLU(), fn.Softmax(2))
    with pytest.raises(ConfigError, match=r"layer 1: Softmax\(dim=2\): softmax: dim is 2"):
        model.apply(((), ()), ((), ()), jnp.ones((2, 3)))
