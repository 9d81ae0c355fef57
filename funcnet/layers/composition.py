"""Container: a layer made of layers, and how it calls them.

A container names its children and says in `connect` what feeds what. `Call` hands each child its
parameters, its state and its key, so that `connect` reads as the formula.
"""

import functools
import keyword
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_key
from funcnet.errors import ConfigError, ParamsError
from funcnet.layers.module import (
    Function,
    Module,
    Output,
    Params,
    State,
    Takes,
    as_pair,
    located,
    require_params,
    taken_by,
)

Name = int | str
Layer = Module | Callable[[Any], Any]
Children = tuple[Layer, ...] | Mapping[str, Layer]

# Folds that are no child's place: a path of places never leads to the key of another purpose.
OWN = 2**31


class Container(Module):
    """A layer made of layers; a subclass says in `children` which, in `connect` what feeds what.

    Children are a tuple, whose paths are 0, 1, ..., or a dict from names to layers. Params and
    state are then a tuple or a dict with the same entries, so that the path of a leaf is PyTorch's
    key. Child i, counted by its place, draws from fold_in(key, i), in `init` and in `apply`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        children = cls.__dict__.get("children")
        if isinstance(children, property | functools.cached_property):
            make = children.fget if isinstance(children, property) else children.func
            cls.children = _MadeOnce(make)  # pyright: ignore

    @property
    def children(self) -> Children:
        """The layers inside, in the order of their places; made once for each container.

        A name is one that can stand behind a dot, but not `params`, and does not begin with "_". A
        function of an array is a layer without parameters.
        """
        raise NotImplementedError(f"{type(self).__name__} has no children")

    def connect(self, call: "Call", x: Any, *inputs: Any, **options: Any) -> Any:
        """Map the inputs to the output.

        Args:
            call: `call.attn(x, mask=m)`, `call("attn", x)` or `call(0, x)` is what that child makes
                of x.
            x: the container's input.
            inputs: its other inputs; name in the signature those that it takes, with defaults.
            options: what it takes by name.
        """
        raise NotImplementedError(f"{type(self).__name__} has no connect")

    def own(self, key: Array, dtype: Any) -> dict[str, Array]:
        """Make the arrays of the container itself, which stand beside its children's params.

        `connect` finds them in `call.params`. None, unless a subclass says otherwise; one that has
        some needs children with names.

        Args:
            key: typed scalar key.
            dtype: floating dtype of the parameters.
        """
        return {}

    @property
    def combines(self) -> str:
        """What it does beside calling its children, in a few words; empty where it does nothing.

        It heads the row of the container's own output in `summary` and `backward`.
        """
        return type(self).__name__

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params and state: tuples with one entry per child, or dicts where they have names."""
        require_key(key)
        params, state = {}, {}
        for place, (name, child) in enumerate(children_of(self).items()):
            with located((name,), child):
                made = child.init(jax.random.fold_in(key, place), dtype)
                params[name], state[name] = as_pair(child, "init", made)
        params |= self._make_own(key, dtype)
        return _like_children(self, params), _like_children(self, state)

    def _make_own(self, key: Array, dtype: Any) -> dict[str, Array]:
        if type(self).own is Container.own:
            return {}
        made = self.own(jax.random.fold_in(key, OWN), dtype)
        children = children_of(self)
        for name in made:
            require_name(self, "own array", name)
            if name in children:
                raise ConfigError(
                    f"{type(self).__name__}'s own array {name!r} has the name of a child, expected "
                    f"another; rename one of them"
                )
        if made and isinstance(self.children, tuple):
            raise ConfigError(
                f"{type(self).__name__} has arrays of its own and children without names, expected "
                f"a dict of children"
            )
        return made

    @functools.cached_property
    def own_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the container's own arrays, by name."""
        if type(self).own is Container.own:
            return {}
        key = jax.eval_shape(lambda: jax.random.key(0))
        made = jax.eval_shape(lambda key: self._make_own(key, jnp.float32), key)
        return {name: array.shape for name, array in made.items()}

    def apply(
        self,
        params: Params,
        state: State,
        x: Any,
        *inputs: Any,
        key: Array | None = None,
        train: bool = False,
        **options: Any,
    ) -> Output:
        """Map the inputs to what `connect` makes of them, and the children's next states."""
        call = Call(self, params, state, key, train)
        return connected(self, call, (x, *inputs), options)

    def takes(self) -> Takes:
        """What `connect` takes besides x, told by its signature."""
        if type(self).apply is not Container.apply:
            return super().takes()
        return taken_by(type(self).connect, behind=3)

    def __getstate__(self) -> dict[str, Any]:
        # What is made once is made again: a child may be a function that cannot be pickled.
        return {name: value for name, value in self.__dict__.items() if name not in _MADE}


_MADE = ("_children", "own_shapes")


class _MadeOnce:
    """The `children` of a container, checked, and kept beside its fields once they were made.

    Kept by who defines them: a subclass may extend what `super().children` gives.
    """

    def __init__(self, make: Callable[[Any], Children]):
        self.make = make
        self.__doc__ = make.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        kept = instance.__dict__.setdefault("_children", {})
        if self not in kept:
            kept[self] = _as_children(instance, self.make(instance))
        return kept[self]


def _as_children(container: Container, made: Any) -> tuple[Module, ...] | dict[str, Module]:
    name = type(container).__name__
    if isinstance(made, tuple):
        return tuple(as_layer(f"{name}'s child {i}", child) for i, child in enumerate(made))
    if not isinstance(made, Mapping):
        raise ConfigError(
            f"{name}'s children are {type(made).__name__}, expected a tuple of layers or a dict "
            f"from names to layers"
        )
    for child in made:
        require_name(container, "child", child)
    return {child: as_layer(f"{name}'s child {child!r}", made[child]) for child in made}


def require_name(container: Container, what: str, name: Any) -> None:
    """Raise ConfigError unless `name` can be called as `call.name` and is no other thing's."""
    usable = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
    if not usable or name == "params" or name.startswith("_"):
        raise ConfigError(
            f"{type(container).__name__} has the {what} {name!r}, expected a name that can stand "
            f"behind a dot, other than 'params', and not beginning with '_'; rename it"
        )


def as_layer(what: str, value: Any, container: str = "Sequential") -> Module:
    """A layer as it is, a function as a layer; ConfigError for anything else."""
    if isinstance(value, Module):
        return value
    if isinstance(value, type):
        fix = f", a class; expected a layer: {value.__name__}(...)"
    elif isinstance(value, list | tuple):
        fix = f"; expected layers one by one: {container}(*layers)"
    elif callable(value):
        return Function(value)
    else:
        fix = (
            f" of type {type(value).__name__}; expected a layer, an instance of funcnet.Module, or "
            f"a function"
        )
    raise ConfigError(f"{what} is {value!r}{fix}")


def children_of(container: Container) -> dict[Any, Module]:
    """A container's children by name, or by index where they have none."""
    children: Any = container.children
    return children if isinstance(children, dict) else dict(enumerate(children))


def _like_children(container: Container, made: dict[Any, Any]) -> Any:
    return tuple(made.values()) if isinstance(container.children, tuple) else made


class ApplyChild(Protocol):
    """How `Call` applies a child; `backward` and `summary` watch it doing so."""

    def __call__(
        self,
        name: Name,
        child: Module,
        params: Params,
        state: State,
        inputs: tuple[Any, ...],
        options: dict[str, Any],
        key: Array | None,
        train: bool,
    ) -> tuple[Any, State]:
        """The child's output and its next state."""
        ...


def apply_child(
    name: int | str,
    child: Module,
    params: Params,
    state: State,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    key: Array | None,
    train: bool,
) -> tuple[Any, State]:
    """Apply a child, and nothing else."""
    output = child.apply(params, state, *inputs, key=key, train=train, **options)
    return as_pair(child, "apply", output)


class Call:
    """What `connect` gets: `call.attn(x)`, `call("attn", x)` or `call(0, x)` applies a child.

    The first call of child i draws from fold_in(key, i), where i is its place. A child that is
    called again has the same parameters and the state that its last call left, and draws from a
    fold of its key for each call.
    """

    def __init__(
        self,
        container: Container,
        params: Params,
        state: State,
        key: Array | None,
        train: bool,
        apply_child: ApplyChild = apply_child,
    ):
        require_entries(container, "params", params)
        require_entries(container, "state", state)
        if key is not None:
            require_key(key)
        children = children_of(container)
        self._container = container
        self._children = children
        self._places = {name: place for place, name in enumerate(children)}
        self._params = params
        self._states = {name: state[name] for name in children}
        self._key = key
        self._train = train
        self._calls = dict.fromkeys(children, 0)
        self._apply_child = apply_child

    def __call__(self, name: Name, x: Any, *inputs: Any, **options: Any) -> Any:
        """What a child makes of its inputs.

        Args:
            name: the child's name, or its index where children have none.
            x: its input.
            inputs: more inputs that it takes.
            options: masks and what else it takes by name; the key and the train flag are given.

        Raises:
            ConfigError: no such child, or it does not take an input or option.
        """
        if name not in self._children:
            raise ConfigError(
                f"{type(self._container).__name__} has no child {name!r}, expected one of "
                f"{list(self._children)}"
            )
        child = self._children[name]
        key, again = self._key, self._calls[name]
        self._calls[name] += 1
        if key is not None:
            key = jax.random.fold_in(key, self._places[name])
            key = jax.random.fold_in(key, OWN + again) if again else key
        given = self._params[name], self._states[name], (x, *inputs), options, key, self._train
        with located((name,), child):
            require_taken(child, inputs, options)
            value, self._states[name] = self._apply_child(name, child, *given)
        return value

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self._children:
            raise AttributeError(
                f"{type(self._container).__name__} has no child {name!r}, expected one of "
                f"{list(self._children)}"
            )
        return functools.partial(self, name)

    @property
    def params(self) -> Any:
        """The container's params: those of its children by name or index, and its own arrays."""
        return self._params

    @property
    def states(self) -> Any:
        """The children's states after the calls so far."""
        return _like_children(self._container, dict(self._states))

    @property
    def train(self) -> Any:
        """Whether this is a training pass; a child of this name comes first."""
        return functools.partial(self, "train") if "train" in self._children else self._train

    @property
    def key(self) -> Any:
        """The key `connect` itself may draw from, or None; a child of this name comes first."""
        if "key" in self._children:
            return functools.partial(self, "key")
        return None if self._key is None else jax.random.fold_in(self._key, OWN)


def connected(
    container: Container, call: Call, inputs: tuple[Any, ...], options: Mapping[str, Any]
) -> Output:
    """What a container makes of its inputs through a call."""
    require_taken(container, inputs[1:], options)
    value = container.connect(call, *inputs, **options)
    return Output(value, call.states)


def require_taken(layer: Module, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a layer takes these inputs behind x, and these options."""
    if not inputs and not options:
        return
    takes = layer.takes()
    name = type(layer).__name__ if isinstance(layer, Container) else repr(layer)
    if len(inputs) > takes.inputs:
        raise ConfigError(
            f"{name} got {1 + len(inputs)} inputs, expected at most {1 + takes.inputs}; name each "
            f"input in the layer's signature, with a default"
        )
    unknown = [option for option in options if not takes.knows(option)]
    if unknown:
        known = f"one of {sorted(takes.options)}" if takes.options else "none"
        raise ConfigError(
            f"{name} got the option {unknown[0]!r}, expected {known}; no layer here names it in "
            f"its signature"
        )


def require_entries(container: Container, what: str, given: Any) -> None:
    """Raise ParamsError unless `given` has one entry per child, and params the container's own."""
    name = type(container).__name__
    children = children_of(container)
    if isinstance(container.children, tuple):
        if not isinstance(given, tuple) or len(given) != len(children):
            got = f"{len(given)} entries" if isinstance(given, tuple) else type(given).__name__
            raise ParamsError(
                f"{name} got {what} of {got}, expected a tuple of {len(children)}, one entry per "
                f"layer; make it with model.init(key), of the same model"
            )
        return
    own = container.own_shapes if what == "params" else {}
    if not isinstance(given, Mapping) or set(given) != {*children, *own}:
        got = f"entries {sorted(given)}" if isinstance(given, Mapping) else type(given).__name__
        raise ParamsError(
            f"{name} got {what} of {got}, expected a dict of {sorted([*children, *own])}; make it "
            f"with model.init(key), of the same model"
        )
    if own:
        require_params(container, {each: given[each] for each in own}, own)
