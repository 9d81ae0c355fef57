"""Module: what every layer is; functions as layers, and the checks that layers share."""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_arrays, require_key
from funcnet.errors import ConfigError, DtypeError, FuncnetError, ParamsError, ShapeError

Params = Any
State = Any


class Output(NamedTuple):
    """What `Module.apply` returns; unpacks into two.

    Attributes:
        value: the layer's output, an array or any pytree of arrays.
        state: the state to give the next call.
    """

    value: Any
    state: State


class Takes(NamedTuple):
    """What `apply` takes besides the first input, the key and the train flag.

    Attributes:
        inputs: how many more inputs by position; infinity for any number.
        options: the names it knows.
        any_option: whether it takes names it does not list, as `**options`.
    """

    inputs: float
    options: frozenset[str]
    any_option: bool

    def knows(self, option: str) -> bool:
        """Whether an option may be passed."""
        return self.any_option or option in self.options


class Module:
    """The base of every layer; subclass it, as a frozen dataclass, for a layer of your own.

    Override `apply`, and `init` where the layer has parameters or state. The fields of the
    dataclass are the layer's sizes and options: hashable, no arrays.
    """

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Make the parameters and the state; none, unless a subclass says otherwise.

        Args:
            key: typed scalar key, as from `jax.random.key(0)`.
            dtype: floating dtype of the parameters.

        Returns:
            (params, state), each a pytree of arrays.
        """
        require_key(key)
        return (), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Any,
        *inputs: Any,
        key: Array | None = None,
        train: bool = False,
        **options: Any,
    ) -> Output | tuple[Any, State]:
        """Map inputs to an output. A pure function: nothing in the layer changes.

        A layer names in its signature the inputs and options it takes, each with a default, so
        that it fits in a Sequential; most take `x` alone. Who gives a carry gets one back: a
        recurrent layer returns y for x alone, and (y, carry) where it was given x and a carry. A
        carry is an input like any other, and gradients flow through it; none flow through a state.

        Args:
            params: as `init` made them, or as training left them.
            state: as `init` or the last call returned it.
            x: the input, an array with the features last, or any pytree of arrays.
            inputs: more inputs, such as a carry, or the keys and values of attention.
            key: typed scalar key for a layer that draws random numbers in training.
            train: whether this is a training pass.
            options: masks and what else a layer takes by name.

        Returns:
            (output, next state); the output is an array or any pytree of arrays.
        """
        raise NotImplementedError(f"{type(self).__name__} has no apply")

    def check_input(self, x: Any) -> None:
        """Raise DataError where `apply` has no output for the values of an input.

        `fit` calls it once with all the data, since a compiled program cannot raise. Nothing,
        unless a subclass says otherwise.

        Args:
            x: an input for `apply`.
        """

    def takes(self) -> Takes:
        """What `apply` takes besides x, told by its signature."""
        return taken_by(type(self).apply, behind=4)


@functools.cache
def taken_by(method: Callable[..., Any], behind: int) -> Takes:
    """What a method takes behind its first parameters, the key and the train flag left out."""
    kinds = inspect.Parameter
    parameters = list(inspect.signature(method).parameters.values())[behind:]
    parameters = [p for p in parameters if p.name not in ("key", "train")]
    by_place = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, _EITHER_WAY)]
    by_name = [p.name for p in parameters if p.kind in (kinds.KEYWORD_ONLY, _EITHER_WAY)]
    any_number = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
    any_option = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
    return Takes(math.inf if any_number else len(by_place), frozenset(by_name), any_option)


_EITHER_WAY = inspect.Parameter.POSITIONAL_OR_KEYWORD


class OneFunction(Module):
    """What layers without parameters share; each says in `function` what it computes."""

    def function(self, x: Any) -> Array:
        """The function of the input, an array."""
        raise NotImplementedError(f"{type(self).__name__} has no function")

    def apply(
        self,
        params: Params,
        state: State,
        x: Any,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """The function of x, an array."""
        require_params(self, params, {})
        require_stateless(self, state)
        with naming(self, x):
            return Output(self.function(x), state)


@dataclasses.dataclass(frozen=True, repr=False)
class Function(Module):
    """A function of the input as a layer without parameters; containers make it of a callable.

    Args:
        function: maps the input to the output. Two of these layers are equal where their functions
            are: a function equals itself alone.

    Raises:
        ConfigError: not a function.
    """

    function: Callable[[Any], Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"Function got {self.function!r}, expected a function")

    def __repr__(self) -> str:
        return f"Function({_name_of(self.function)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle stores a jitted function, as jnp.tanh is, by what is inside; its name is enough.
        name = getattr(self.function, "__module__", ""), getattr(self.function, "__qualname__", "")
        with contextlib.suppress(AttributeError, ImportError, ValueError):
            if _named(*name).function is self.function:
                return _named, name
        return Function, (self.function,)

    def apply(
        self,
        params: Params,
        state: State,
        x: Any,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """The function of x."""
        require_params(self, params, {})
        require_stateless(self, state)
        return Output(self.function(x), state)


def _named(module: str, name: str) -> Function:
    """The layer of a function that stands in a module under a name."""
    return Function(operator.attrgetter(name)(importlib.import_module(module)))


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        options = [f"{name}={value!r}" for name, value in function.keywords.items()]
        return ", ".join([_name_of(function.func), *map(repr, function.args), *options])
    return getattr(function, "__name__", None) or repr(function)


@contextlib.contextmanager
def located(path: tuple[int | str, ...], layer: Module) -> Iterator[None]:
    """Say in which layer an error happened; nested containers prefix their own step."""
    try:
        yield
    except FuncnetError as error:
        error.layer_path = (*path, *error.layer_path)
        error.layer = error.layer or repr(layer)
        raise
    except Exception as error:
        place = f"layer {'.'.join(map(str, path))}, " if path else ""
        error.add_note(f"funcnet: raised in {place}{layer!r}")
        raise


@contextlib.contextmanager
def naming(layer: Module, x: Any, fix: Callable[[], str] | None = None) -> Iterator[None]:
    """Name a layer in what an op within it refuses: the op checks, the layer says its sizes.

    What is no array is refused here: JAX looks at it before a rule can.

    Args:
        layer: the layer.
        x: its input.
        fix: what else helps where a shape does not fit, such as an option; empty for nothing.
    """
    require_arrays(repr(layer), x=x)
    try:
        yield
    except FuncnetError as error:
        advice = fix() if fix is not None and isinstance(error, ShapeError) else ""
        message = f"{error.args[0]}; {advice}" if advice else error.args[0]
        error.args = (f"{layer!r}: {message}", *error.args[1:])
        raise


def dtype_of(params: Params) -> Any:
    """The dtype of floating inputs: that of the first floating parameter, or float32."""
    dtypes = (jnp.result_type(leaf) for leaf in jax.tree.leaves(params))
    floating = (dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))
    return next(floating, jnp.dtype(jnp.float32))


def as_pair(layer: Module, method: str, returned: Any) -> tuple[Any, Any]:
    """What a layer's `init` or `apply` returned; an array of two rows must not pass for it."""
    if isinstance(returned, tuple) and len(returned) == 2:
        return returned
    expected = {"init": "(params, state)", "apply": "(output, state)"}[method]
    raise DtypeError(
        f"{layer!r}'s {method} returned {kind(returned)}, expected a tuple {expected}; a layer "
        f"without state returns the () it was given"
    )


def require_module(model: Any) -> None:
    """Raise ConfigError unless `model` is a layer."""
    if not isinstance(model, Module):
        raise ConfigError(f"model is {model!r}, expected an instance of funcnet.Module")


def require_params(layer: Module, params: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ParamsError unless `params` is a dict of arrays of these shapes, or () for none.

    And DtypeError unless the arrays are floating.
    """
    if not shapes:
        if not isinstance(params, tuple) or params:
            raise ParamsError(f"{layer!r} got params {outline(params)}, expected ()")
        return
    fits = isinstance(params, Mapping) and {k: _shape(v) for k, v in params.items()} == shapes
    if not fits:
        raise ParamsError(
            f"{layer!r} got params {outline(params)}, expected {_expected(shapes)}; make them with "
            f"model.init(key), of the same model"
        )
    for name, array in params.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise DtypeError(
                f"{layer!r} got params whose {name} is {array.dtype}, expected floating point; "
                f"convert it, for example with astype(jnp.float32)"
            )


def require_state(layer: Module, state: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ParamsError unless `state` is a dict of arrays of these shapes, or () for none."""
    if not shapes:
        return require_stateless(layer, state)
    fits = isinstance(state, Mapping) and {k: _shape(v) for k, v in state.items()} == shapes
    if not fits:
        raise ParamsError(
            f"{layer!r} got state {outline(state)}, expected {_expected(shapes)}; make it with "
            f"model.init(key), of the same model"
        )


def require_stateless(layer: Module, state: Any) -> None:
    """Raise ParamsError unless `state` is (), a layer's that has none."""
    if not isinstance(state, tuple) or state:
        raise ParamsError(
            f"{layer!r} got state {outline(state)}, expected (); make it with model.init(key), of "
            f"the same model"
        )


def _expected(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return "{" + ", ".join(f"{name}: {list(shape)}" for name, shape in shapes.items()) + "}"


def outline(params: Any) -> str:
    """Parameters or a state in words, for a message."""
    if isinstance(params, Mapping):
        return "{" + ", ".join(f"{k}: {kind(v)}" for k, v in params.items()) + "}"
    return kind(params)


def _shape(value: Any) -> tuple[int, ...] | None:
    return getattr(value, "shape", None)


def kind(value: Any) -> str:
    """The shape of an array, the length of a tuple, the type of anything else."""
    if (shape := _shape(value)) is not None:
        return str(list(shape))
    return f"tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
