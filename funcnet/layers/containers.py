"""Containers: layers one after the other or side by side."""

import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, Literal

from funcnet import ops
from funcnet._internal.checks import require_arrays
from funcnet._internal.fields import set_fields
from funcnet.errors import ConfigError, ShapeError
from funcnet.layers.composition import Call, Container, Layer, as_layer, children_of, require_name
from funcnet.layers.module import Module, Takes, located


class _HandsOn(Container):
    """A container that hands its further inputs and options to each child that takes them."""

    def takes(self) -> Takes:
        """What any child takes."""
        each = [child.takes() for child in children_of(self).values()]
        return Takes(
            max((takes.inputs for takes in each), default=0),
            frozenset().union(*(takes.options for takes in each)),
            any(takes.any_option for takes in each),
        )

    def _hand(
        self, call: Call, name: int | str, x: Any, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """What a child makes of x and of what it takes of the rest."""
        if not inputs and not options:
            return call(name, x)
        takes = children_of(self)[name].takes()
        taken = [given for i, given in enumerate(inputs) if i < takes.inputs]
        known = {option: value for option, value in options.items() if takes.knows(option)}
        return call(name, x, *taken, **known)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Sequential(_HandsOn):
    """Layers applied one after the other (`torch.nn.Sequential`); they may be containers too.

    Given one by one, layers have the paths 0, 1, ..., and params and state are tuples with one
    entry per layer. Given by keyword, as in `Sequential(c_fc=Linear(2, 8), act=GELU())`, they have
    names, and params and state are dicts. Layer i, counted from 0, draws from fold_in(key, i), in
    `init` and in `apply`.

    `apply` hands further inputs and options, such as `mask=`, to each layer that takes them, and
    refuses those that no layer takes.

    Args:
        layers: any number of modules, or functions of an array; none for the identity.
        named: the same, by name.

    Raises:
        ConfigError: something that is not a layer, a name that is none, or layers given both ways.
    """

    layers: tuple[Module, ...]
    names: tuple[str, ...]

    def __init__(self, /, *layers: Layer, **named: Layer):
        if layers and named:
            raise ConfigError(
                f"Sequential got {len(layers)} layers without and {len(named)} with a name, "
                f"expected one kind; name all or none"
            )
        for name in named:
            require_name(self, "layer", name)
        made = _as_layers("Sequential", named or dict(enumerate(layers)))
        set_fields(self, layers=made, names=tuple(named))

    def __repr__(self) -> str:
        if not self.names:
            return f"Sequential({', '.join(map(repr, self.layers))})"
        pairs = zip(self.names, self.layers, strict=True)
        return f"Sequential({', '.join(f'{name}={layer!r}' for name, layer in pairs)})"

    @property
    def children(self) -> tuple[Module, ...] | dict[str, Module]:
        """The layers, by name where they have names."""
        return dict(zip(self.names, self.layers, strict=True)) if self.names else self.layers

    @property
    def combines(self) -> str:
        """Nothing: its output is its last layer's."""
        return ""

    def connect(self, call: Call, x: Any, *inputs: Any, **options: Any) -> Any:
        """Each layer gets the output of the one before."""
        for name in children_of(self):
            x = self._hand(call, name, x, inputs, options)
        return x

    def check_input(self, x: Any) -> None:
        """Let the first layer check what it will get."""
        for name, layer in list(children_of(self).items())[:1]:
            with located((name,), layer):
                layer.check_input(x)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Stack(Container):
    """Layers one after the other, each with a carry of its own: cells of a network, cached blocks.

    `stack(x)` is what `Sequential` makes of x. `stack(x, carries)` hands carry i to layer i as its
    second input and is (y, carries), those that the layers gave back. Params and state are tuples,
    as of a Sequential.

    Args:
        layers: at least one module, of the same kind as a rule.

    Raises:
        ConfigError: something that is not a layer, or no layers.
    """

    layers: tuple[Module, ...]

    def __init__(self, *layers: Layer):
        made = _as_layers("Stack", dict(enumerate(layers)), at_least_one=True)
        set_fields(self, layers=made)

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.layers))})"

    @property
    def children(self) -> tuple[Module, ...]:
        """The layers."""
        return self.layers

    @property
    def combines(self) -> str:
        """Nothing: its output is its last layer's."""
        return ""

    def connect(self, call: Call, x: Any, carries: Any = None) -> Any:
        """Each layer gets the output of the one before, and its carry."""
        if carries is None:
            for i in range(len(self.layers)):
                x = call(i, x)
            return x
        if not isinstance(carries, tuple | list) or len(carries) != len(self.layers):
            got = len(carries) if isinstance(carries, tuple | list) else type(carries).__name__
            raise ShapeError(
                f"Stack got carries of {got}, expected a tuple of {len(self.layers)}, one a layer"
            )
        after = []
        for i, carry in enumerate(carries):
            x, carry = call(i, x, carry)
            after.append(carry)
        return x, tuple(after)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Residual(_HandsOn):
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

    def __init__(self, *layers: Layer, shortcut: Layer | None = None):
        made = _as_layers("Residual", dict(enumerate(layers)), at_least_one=True)
        if shortcut is not None:
            shortcut = as_layer("Residual's shortcut", shortcut)
        set_fields(self, layers=made, shortcut=shortcut)

    def __repr__(self) -> str:
        shortcut = [] if self.shortcut is None else [f"shortcut={self.shortcut!r}"]
        return f"Residual({', '.join([*map(repr, self.layers), *shortcut])})"

    @property
    def children(self) -> tuple[Module, ...]:
        """The layers, then the shortcut if there is one."""
        return self.layers if self.shortcut is None else (*self.layers, self.shortcut)

    @property
    def combines(self) -> str:
        """Which two arrays it adds."""
        beside = "its input" if self.shortcut is None else f"layer {len(self.layers)}"
        return f"Residual: sum of layer {len(self.layers) - 1} and {beside}"

    def connect(self, call: Call, x: Any, *inputs: Any, **options: Any) -> Any:
        """The layers' output plus the shortcut's."""
        y = x
        for i in range(len(self.layers)):
            y = self._hand(call, i, y, inputs, options)
        beside = x
        if self.shortcut is not None:
            beside = self._hand(call, len(self.layers), x, inputs, options)
        require_arrays("Residual", output=y, shortcut=beside)
        if y.shape != beside.shape:
            way = "its input has" if self.shortcut is None else "its shortcut makes"
            raise ShapeError(
                f"Residual: its layers make shape {y.shape} and {way} {beside.shape}, expected the "
                f"same; give it a shortcut that makes {y.shape}, such as one Linear or Conv2d"
            )
        return y + beside


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Parallel(_HandsOn):
    """Branches side by side: each gets the same input, and their outputs are combined.

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

    def __init__(self, *branches: Layer, combine: Literal["sum", "concatenate"] = "sum"):
        made = _as_layers("Parallel", dict(enumerate(branches)), at_least_one=True)
        if combine not in ("sum", "concatenate"):
            raise ConfigError(f"Parallel's combine is {combine!r}, expected 'sum' or 'concatenate'")
        set_fields(self, branches=made, combine=combine)

    def __repr__(self) -> str:
        return f"Parallel({', '.join(map(repr, self.branches))}, combine={self.combine!r})"

    @property
    def children(self) -> tuple[Module, ...]:
        """The branches."""
        return self.branches

    @property
    def combines(self) -> str:
        """What it does with the branches' outputs."""
        made = {"sum": "sum", "concatenate": "concatenation"}[self.combine]
        return f"Parallel: {made} of {len(self.branches)} branches"

    def connect(self, call: Call, x: Any, *inputs: Any, **options: Any) -> Any:
        """The branches' outputs, combined."""
        outputs = [self._hand(call, i, x, inputs, options) for i in range(len(self.branches))]
        require_arrays("Parallel", **{f"output {i}": y for i, y in enumerate(outputs)})
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

    def check_input(self, x: Any) -> None:
        """Let each branch check what it will get."""
        for i, branch in enumerate(self.branches):
            with located((i,), branch):
                branch.check_input(x)


def _as_layers(
    container: str, given: Mapping[Any, Layer], at_least_one: bool = False
) -> tuple[Module, ...]:
    if at_least_one and not given:
        raise ConfigError(f"{container} has no layers, expected at least one")
    return tuple(
        as_layer(f"{container}'s layer {name}", layer, container) for name, layer in given.items()
    )
