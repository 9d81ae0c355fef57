"""What stands behind a Flatten of images is found, or it is said that it can't be."""

import dataclasses
from typing import Any

import pytest

import funcnet as fn
from funcnet.errors import ConfigError
from funcnet.io.layout import Order, orders_behind_flatten, warn_of_flattened_images
from funcnet.layers.containers import Container

CONV = fn.Conv2d(3, 4, 3)
LINEAR = fn.Linear(24, 5, bias=False)


def sequential(*layers):
    return fn.Sequential(CONV, *layers)


BLOCK = fn.Residual(fn.Conv2d(4, 4, 1), fn.ReLU())
SIDES = fn.Parallel(fn.Conv2d(4, 2, 1), fn.Sequential(), combine="concatenate")


@dataclasses.dataclass(frozen=True)
class Reshaped(fn.Module):
    """Flattens, but is no Flatten."""

    def apply(self, params, state, x, *, key=None, train=False):
        return x.reshape(len(x), -1), state


@pytest.mark.parametrize(
    ("layers", "key", "order"),
    [
        ((fn.Flatten(), LINEAR), "2.weight", Order(1, 4)),
        ((fn.Flatten(-3), LINEAR), "2.weight", Order(1, 4)),
        ((Reshaped(), LINEAR), "2.weight", Order(1, 4)),
        ((fn.Conv2d(4, 6, 1), fn.Flatten(), LINEAR), "3.weight", Order(1, 6)),
        ((BLOCK, fn.Flatten(), LINEAR), "3.weight", Order(1, 4)),
        (
            (SIDES, fn.Flatten(), LINEAR),
            "3.weight",
            Order(1, 6),
        ),
        ((fn.Parallel(BLOCK, BLOCK), fn.Flatten(), LINEAR), "3.weight", Order(1, 4)),
        ((fn.Flatten(), fn.Parallel(LINEAR, fn.Sequential(LINEAR))), "2.1.0.weight", Order(1, 4)),
        ((fn.GroupNorm(2, 4), fn.AvgPool2d(2), fn.Flatten(), LINEAR), "4.weight", Order(1, 4)),
        ((fn.Flatten(), fn.LayerNorm(24), fn.ReLU()), "2.bias", Order(0, 4)),
    ],
)
def test_where_it_is(layers, key, order):
    assert orders_behind_flatten(sequential(*layers))[key] == order


@pytest.mark.parametrize(
    "model",
    [
        fn.Sequential(fn.Flatten(), fn.Linear(784, 10)),
        sequential(fn.Flatten(1, 2), fn.Linear(4, 10)),
        sequential(fn.Linear(4, 10)),
        sequential(fn.Flatten(), fn.ReLU()),
        fn.Linear(2, 2),
    ],
)
def test_where_it_is_not(model):
    assert orders_behind_flatten(model) == {}


def test_behind_the_linear_features_are_ordered_alike():
    orders = orders_behind_flatten(
        sequential(fn.Flatten(), LINEAR, fn.BatchNorm1d(5), fn.Linear(5, 5))
    )
    assert orders == {"2.weight": Order(1, 4)}


@dataclasses.dataclass(frozen=True)
class Own(fn.Module):
    """Has parameters that nobody knows."""

    def init(self, key, dtype=float):
        return fn.Linear(24, 2).init(key)


class Block(Container):
    """Connects by arithmetic, or by a function of arrays."""

    def __init__(self, function=lambda x: x):
        self.function = function

    @property
    def children(self):
        return (fn.Conv2d(3, 4, 1), fn.Conv2d(3, 4, 3, padding=1), fn.Flatten(), LINEAR)

    def connect(self, call, x):
        return call(3, call(2, self.function(0.5 * call(0, x) + call(1, x))))


class Named(Block):
    """Its children have names, and are called by them in every way."""

    @property
    def children(self) -> Any:
        return dict(zip(("one", "three", "flat", "head"), super().children, strict=True))

    def connect(self, call, x):
        return call.head(call("flat", call.one(x) + call("three", x)))


def test_a_container_of_ones_own_is_followed():
    assert orders_behind_flatten(fn.Sequential(Named())) == {"0.head.weight": Order(1, 4)}
    assert orders_behind_flatten(Block()) == {"3.weight": Order(1, 4)}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            sequential(fn.Flatten(), Own()),
            r"layer 2, Own\(\): .* it is a layer with param",
        ),
        (
            sequential(fn.Flatten(), fn.GroupNorm(2, 24)),
            "layer 2, .*its groups depend",
        ),
        (
            sequential(fn.Flatten(), fn.Residual(fn.Linear(24, 24))),
            "flat and other arrays",
        ),
        (sequential(fn.Flatten(2, 3), LINEAR), "layer 1, .*: it merges other axes than rows"),
        (
            sequential(fn.Parallel(fn.Flatten(), fn.Flatten(), combine="concatenate"), LINEAR),
            "layer 1, .*put Flatten behind the Parallel",
        ),
        (Block(lambda x: x.mean()), "its connect computes with arrays"),
    ],
)
def test_where_it_cannot_be_told(model, says):
    with pytest.raises(ConfigError, match=says):
        orders_behind_flatten(model)


def test_channels_that_are_not_known_are_taken_for_one_with_a_warning():
    model = fn.Sequential(fn.MaxPool2d(2), fn.Flatten(), fn.Linear(196, 10))
    with pytest.warns(RuntimeWarning, match=r"Linear\(in_features=196.*is not known"):
        assert orders_behind_flatten(model) == {}


@pytest.mark.parametrize(
    ("shapes", "warns"),
    [
        ([(8, 3, 3, 3), (10, 32)], True),
        ([(8, 3, 3, 3), (8,), (10, 32), (10, 10)], True),
        ([(8, 3, 3, 3), (10, 8), (10, 16)], False),
        ([(1, 3, 3, 3), (10, 8)], False),
        ([(8, 3, 3, 3), (10, 9)], False),
        ([(10, 16), (8, 3, 3, 3)], False),
        ([(10, 16)], False),
    ],
)
def test_what_looks_like_it(shapes, warns, recwarn):
    warn_of_flattened_images({f"{i}.weight": shape for i, shape in enumerate(shapes)}, "f")
    assert bool(recwarn.list) == warns
