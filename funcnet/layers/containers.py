"""Containers: layers made of layers, one after the other or side by side."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from funcnet import ops
from funcnet._internal.checks import require_key
from funcnet.errors import ConfigError, ParamsError, ShapeError
from funcnet.layers.module import Module, Output, as_pair, located


class Container(Module):
    """What layers made of layers share; a subclass says in `connect` what feeds what.

    Child i draws from fold_in(key, i), in `init` and in `apply`. Params and state are tuples
    with one entry per child.
    """

    @property
    def children(self) -> tuple[Module, ...]:
        """The layers inside, in the order of their indices."""
        raise NotImplementedError(f"{type(self).__name__} has no children")

    def connect(self, call: Callable[[int, Array], Array], x: Array) -> Array:
        """Map x to the output; `call(i, x)` is what child i makes of x, each called once."""
        raise NotImplementedError(f"{type(self).__name__} has no connect")

    @property
    def joins(self) -> str:
        """How it joins its children's outputs, in a few words; empty where it does nothing."""
        return ""

    def init(self, key, dtype=jnp.float32):
        """Params and state: tuples with one entry per child."""
        require_key(key)
        made = []
        for i, child in enumerate(self.children):
            with located((i,), child):
                made.append(as_pair(child, "init", child.init(jax.random.fold_in(key, i), dtype)))
        return tuple(params for params, _ in made), tuple(state for _, state in made)

    def apply(self, params, state, x, *, key=None, train=False):
        """Map an input to an output and the children's next states."""
        require_entries(self, "params", params)
        require_entries(self, "state", state)
        if key is not None:
            require_key(key)
        states = list(state)

        def call(i, x):
            child = self.children[i]
            child_key = None if key is None else jax.random.fold_in(key, i)
            with located((i,), child):
                output = child.apply(params[i], state[i], x, key=child_key, train=train)
                y, states[i] = as_pair(child, "apply", output)
            return y

        return Output(self.connect(call, x), tuple(states))


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Sequential(Container):
    """Layers applied one after the other (`torch.nn.Sequential`); they may be containers too.

    Layer i draws from fold_in(key, i), in `init` and in `apply`. Params and state are tuples
    with one entry per layer.

    Args:
        layers: any number of modules; none for the identity.

    Raises:
        ConfigError: something that is not a layer.
    """

    layers: tuple[Module, ...]

    def __init__(self, *layers: Module):
        _require_layers("Sequential", layers)
        object.__setattr__(self, "layers", layers)

    def __repr__(self):
        return f"Sequential({', '.join(map(repr, self.layers))})"

    @property
    def children(self):
        """The layers."""
        return self.layers

    def connect(self, call, x):
        """Each layer gets the output of the one before."""
        for i in range(len(self.layers)):
            x = call(i, x)
        return x

    def check_input(self, x):
        """Let the first layer check what it will get."""
        if self.layers:
            with located((0,), self.layers[0]):
                self.layers[0].check_input(x)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Residual(Container):
    """Layers one after the other, and their input added to what they make of it.

    y = layers(x) + x, or y = layers(x) + shortcut(x) where the layers change the shape (He et
    al., 2016, equations 1 and 2). The block of a residual network is

        Sequential(
            Residual(
                Conv2d(64, 128, 3, stride=2, padding=1, bias=False), BatchNorm2d(128), ReLU(),
                Conv2d(128, 128, 3, padding=1, bias=False), BatchNorm2d(128),
                shortcut=Sequential(Conv2d(64, 128, 1, stride=2, bias=False), BatchNorm2d(128)),
            ),
            ReLU(),
        )

    Params and state are tuples with one entry per layer, and the shortcut's, if there is one,
    behind them; keys are counted alike.

    Args:
        layers: at least one module.
        shortcut: a module for the other way; None for the identity.

    Raises:
        ConfigError: something that is not a layer, or no layers.
    """

    layers: tuple[Module, ...]
    shortcut: Module | None

    def __init__(self, *layers: Module, shortcut: Module | None = None):
        _require_layers("Residual", layers, at_least_one=True)
        if shortcut is not None and not isinstance(shortcut, Module):
            raise ConfigError(f"Residual's shortcut is {shortcut!r}{_no_layer_mend(shortcut)}")
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "shortcut", shortcut)

    def __repr__(self):
        shortcut = [] if self.shortcut is None else [f"shortcut={self.shortcut!r}"]
        return f"Residual({', '.join([*map(repr, self.layers), *shortcut])})"

    @property
    def children(self):
        """The layers, then the shortcut if there is one."""
        return self.layers if self.shortcut is None else (*self.layers, self.shortcut)

    @property
    def joins(self):
        """Which two arrays it adds."""
        beside = "its input" if self.shortcut is None else f"layer {len(self.layers)}"
        return f"Residual: sum of layer {len(self.layers) - 1} and {beside}"

    def connect(self, call, x):
        """The layers' output plus the shortcut's."""
        y = x
        for i in range(len(self.layers)):
            y = call(i, y)
        beside = x if self.shortcut is None else call(len(self.layers), x)
        if y.shape != beside.shape:
            way = "its input has" if self.shortcut is None else "its shortcut makes"
            raise ShapeError(
                f"Residual: its layers make shape {y.shape} and {way} {beside.shape}, expected the "
                f"same; give it a shortcut that makes {y.shape}, such as one Linear or Conv2d"
            )
        return y + beside


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Parallel(Container):
    """Branches side by side: each gets the same input, and their outputs are joined.

    Branch i draws from fold_in(key, i). Params and state are tuples with one entry per branch.
    A branch of several layers is a Sequential; Sequential() is the identity.

    Args:
        branches: at least one module.
        combine: "sum", for outputs of one shape, or "concatenate", along the last axis.

    Raises:
        ConfigError: something that is not a layer, no branches, or an unknown way to combine.
    """

    branches: tuple[Module, ...]
    combine: Literal["sum", "concatenate"]

    def __init__(self, *branches: Module, combine: Literal["sum", "concatenate"] = "sum"):
        _require_layers("Parallel", branches, at_least_one=True)
        if combine not in ("sum", "concatenate"):
            raise ConfigError(f"Parallel's combine is {combine!r}, expected 'sum' or 'concatenate'")
        object.__setattr__(self, "branches", branches)
        object.__setattr__(self, "combine", combine)

    def __repr__(self):
        return f"Parallel({', '.join(map(repr, self.branches))}, combine={self.combine!r})"

    @property
    def children(self):
        """The branches."""
        return self.branches

    @property
    def joins(self):
        """What it does with the branches' outputs."""
        made = {"sum": "sum", "concatenate": "concatenation"}[self.combine]
        return f"Parallel: {made} of {len(self.branches)} branches"

    def connect(self, call, x):
        """The branches' outputs, joined."""
        outputs = [call(i, x) for i in range(len(self.branches))]
        shapes = [y.shape for y in outputs]
        compared = shapes if self.combine == "sum" else [shape[:-1] for shape in shapes]
        if len(set(compared)) > 1 or (self.combine == "concatenate" and () in shapes):
            expected = "the same" if self.combine == "sum" else "the same but for the last axis"
            raise ShapeError(
                f"Parallel: its branches make the shapes {', '.join(map(str, shapes))}, expected "
                f"{expected} for combine={self.combine!r}"
            )
        if self.combine == "sum":
            return functools.reduce(operator.add, outputs)
        return ops.concatenate(outputs, dim=-1)

    def check_input(self, x):
        """Let each branch check what it will get."""
        for i, branch in enumerate(self.branches):
            with located((i,), branch):
                branch.check_input(x)


def require_entries(container: Container, name: str, given: Any) -> None:
    """Raise ParamsError unless `given` is a tuple with one entry per child."""
    expected = len(container.children)
    if not isinstance(given, tuple) or len(given) != expected:
        what = f"{len(given)} entries" if isinstance(given, tuple) else type(given).__name__
        raise ParamsError(
            f"{type(container).__name__} got {name} of {what}, expected a tuple of {expected}, one "
            f"entry per layer; make it with model.init(key), of the same model"
        )


def _require_layers(container: str, layers: tuple[Any, ...], at_least_one: bool = False) -> None:
    for i, layer in enumerate(layers):
        if not isinstance(layer, Module):
            mend = _no_layer_mend(layer, container)
            raise ConfigError(f"{container}'s layer {i} is {layer!r}{mend}")
    if at_least_one and not layers:
        raise ConfigError(f"{container} has no layers, expected at least one")


def _no_layer_mend(value: Any, container: str = "Sequential") -> str:
    if isinstance(value, type) and issubclass(value, Module):
        return f", a class; expected a layer: {value.__name__}(...)"
    if isinstance(value, list | tuple):
        return f"; expected layers one by one: {container}(*layers)"
    return f" of type {type(value).__name__}; expected a layer, an instance of funcnet.Module"
