"""The cases of rules.py for activations, softmaxes and concatenation."""

from collections.abc import Callable
from typing import Any

from funcnet import ops
from tests.ops.cases import Case, normal


def elementwise(rng, dtype, leading):
    return (normal(rng, dtype, (*leading, 3)),)


def sloped(slopes: int):
    def arguments(rng, dtype, leading):
        return normal(rng, dtype, (*leading, 3)), normal(rng, dtype, (slopes,))

    return arguments


def two_axes(rng, dtype, leading):
    return (normal(rng, dtype, (*leading, 2, 3)),)


def large(rng, dtype, leading):
    """Numbers of which half are where these functions are almost 0 or almost linear."""
    return (normal(rng, dtype, (*leading, 4), scale=8),)


def with_options(op: Callable[..., Any], *options: Any) -> Callable[..., Any]:
    return lambda x: op(x, *options)


RULES: dict[str, list[Case]] = {
    "concatenate": [
        Case(
            "last axis, mixed dtypes",
            lambda *arrays: ops.concatenate(arrays, -1),
            lambda rng, dtype, leading: (
                normal(rng, dtype, (*leading, 3)),
                normal(rng, "float32", (*leading, 1)),
                normal(rng, dtype, (*leading, 2)),
            ),
        ),
        Case(
            "first axis",
            lambda *arrays: ops.concatenate(list(arrays)),
            lambda rng, dtype, leading: tuple(normal(rng, dtype, (n, *leading, 3)) for n in (1, 2)),
        ),
    ],
    "elu": [
        Case("default", ops.elu, elementwise),
        Case("alpha", with_options(ops.elu, 0.7), elementwise, minor=True),
        Case("negative alpha", with_options(ops.elu, -0.5), elementwise, minor=True),
    ],
    "gelu": [
        Case("exact", ops.gelu, elementwise),
        Case("tanh", with_options(ops.gelu, "tanh"), elementwise),
        Case("exact, large", ops.gelu, large, minor=True),
        Case("tanh, large", with_options(ops.gelu, "tanh"), large, minor=True),
    ],
    "leaky_relu": [
        Case("default", ops.leaky_relu, elementwise),
        Case("no slope", with_options(ops.leaky_relu, 0.0), elementwise, minor=True),
        Case("negative slope", with_options(ops.leaky_relu, -0.5), elementwise, minor=True),
    ],
    "log_softmax": [
        Case("last axis", ops.log_softmax, elementwise),
        Case("another axis", with_options(ops.log_softmax, -2), two_axes, minor=True),
        Case("large", ops.log_softmax, large, minor=True),
    ],
    "prelu": [
        Case("one slope", ops.prelu, sloped(1)),
        Case("a slope a channel", ops.prelu, sloped(3), minor=True),
    ],
    "relu": [Case("relu", ops.relu, elementwise)],
    "sigmoid": [
        Case("sigmoid", ops.sigmoid, elementwise),
        Case("large", ops.sigmoid, large, minor=True),
    ],
    "silu": [
        Case("silu", ops.silu, elementwise),
        Case("large", ops.silu, large, minor=True),
    ],
    "softmax": [
        Case("last axis", ops.softmax, elementwise),
        Case("another axis", with_options(ops.softmax, -2), two_axes, minor=True),
        Case("large", ops.softmax, large, minor=True),
    ],
    "softplus": [
        Case("default", ops.softplus, elementwise),
        Case("beta and threshold", with_options(ops.softplus, 2.0, 1.5), elementwise, minor=True),
        Case("large", ops.softplus, large, minor=True),
    ],
    "tanh": [Case("tanh", ops.tanh, elementwise)],
}
