"""When two values are the same to a compiled program: by all that they are made of, or not at all.

JAX compiles again for a static argument that is not equal to an earlier one, and functions are
equal to themselves alone. `optax.adam(1e-2)`, written out again, is a pair of new functions with
the code and the settings of the old ones: it computes the same. `identity` finds that out, and is
strict: what could differ unseen makes a value equal to itself alone, as it was to JAX before.

- Numbers, text and dtypes count by type and value, small arrays by all their bits.
- A function counts by its code, what it closes over and its defaults. One that a package trusted
  here defines in a module counts by itself. For any other function the globals that its code reads
  count as well; if it imports, assigns globals, reads files, uses NumPy (whose random numbers are
  others each time), or closes over what can be changed in place, it is equal to itself alone.
- An object counts by its attributes if its class is optax's. Any other is unknown.

`describe` is for checkpoints: JSON, which names what it does not know. Here that is not enough.
"""

import dis
import functools
import sys
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

# What these define in their modules is taken for constant, and pure.
_TRUSTED = {"chex", "funcnet", "jax", "jaxlib", "math", "numpy", "operator", "optax"}
_VALUES = (bool, int, str, bytes, complex, types.NoneType, types.EllipsisType)
_CHANGEABLE = (list, dict, set, np.ndarray)
_LARGE = 4096  # entries of an array

# Names that a function of a user's own may read besides its globals.
_BUILTINS = {
    *("abs", "all", "any", "bool", "dict", "enumerate", "filter", "float", "int", "isinstance"),
    *("len", "list", "map", "max", "min", "pow", "range", "reversed", "round", "set", "sorted"),
    *("str", "sum", "tuple", "zip"),
}
# Attributes of modules that are not the same each time.
_IMPURE = {"config", "fromfile", "interop", "load", "load_params", "read_idx", "restore"}


class _UnknownError(Exception):
    """A part of which nobody knows what it is made of."""


class _Itself:
    """Equal for the very same value alone, whatever it takes for equal itself."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value


def identity(value: Any) -> tuple[bool, Hashable]:
    """Whether all that a value is made of is known, and what it is compared by.

    Of two values whose second parts are equal, one does for the other in a compiled program. Where
    the parts are known they were read just now: what can be changed in place may change later.

    Args:
        value: a function, or what holds functions, such as an optimizer.

    Returns:
        True and its parts; or False and the value itself, compared as it compares itself.
    """
    try:
        return True, _parts(value, (), True)
    except _UnknownError:
        return False, value if isinstance(value, Hashable) else _Itself(value)


def _parts(value: Any, within: tuple[int, ...], frozen: bool) -> Hashable:
    """What a value is made of.

    Args:
        value: any value.
        within: what is being taken apart, by identity.
        frozen: whether to take what can be changed in place for what it is now.

    Raises:
        _UnknownError: there is something that one cannot look into.
    """
    kind = type(value)
    if kind in _VALUES:
        return kind, value
    if kind is float:
        return kind, value.hex()
    if isinstance(value, np.dtype):
        return "dtype", value
    if id(value) in within:
        return "within", within.index(id(value))
    if kind in _CHANGEABLE and not frozen:
        raise _UnknownError
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return _array(value)
    if _is_constant(value):
        return _Itself(value)
    within = (*within, id(value))
    return kind, *_inside(value, within, frozen)


def _inside(value: Any, within: tuple[int, ...], frozen: bool) -> Iterator[Hashable]:
    """The parts of what holds other values."""
    kind = type(value)
    if isinstance(value, types.FunctionType):
        yield from _function(value, within, frozen)
        return
    if kind is types.MethodType:
        held = value.__func__, value.__self__
    elif kind is functools.partial:
        held = value.func, *value.args, *value.keywords.items()
        frozen = False  # a user's own
    elif kind is dict:
        held = value.items()
    elif kind in (tuple, list) or (isinstance(value, tuple) and _is_constant(kind)):
        held = value
    elif kind in (set, frozenset):
        yield frozenset(_parts(part, within, frozen) for part in value)
        return
    elif _package(kind.__module__) == "optax" and hasattr(value, "__dict__"):
        held = vars(value).items()
    else:
        raise _UnknownError
    for part in held:
        yield _parts(part, within, frozen)


def _array(value: Any) -> Hashable:
    """An array by its bits."""
    if isinstance(value, jax.Array):
        if isinstance(value, Tracer) or value.committed or value.size > _LARGE:
            raise _UnknownError
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            return "key", str(jax.random.key_impl(value)), _array(jax.random.key_data(value))
    elif type(value).__module__ != "numpy" or value.dtype.hasobject or value.size > _LARGE:
        raise _UnknownError
    weak = getattr(value, "weak_type", None)
    return type(value), value.dtype, value.shape, weak, np.asarray(value).tobytes()


def _function(function: Any, within: tuple[int, ...], frozen: bool) -> Iterator[Hashable]:
    """A function by its code, and by all that its code can see."""
    code = function.__code__
    module = sys.modules.get(function.__module__)
    trusted = _package(function.__module__) in _TRUSTED
    trusted = trusted and function.__globals__ is getattr(module, "__dict__", None)
    frozen = frozen and trusted
    yield code
    held = [function.__defaults__, *(function.__kwdefaults__ or {}).items()]
    try:
        held += [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # not filled yet
        raise _UnknownError from None
    if not trusted:
        held += _read(code, function.__globals__)
    for part in (*held, *vars(function).items()):
        yield _parts(part, within, frozen)


def _read(code: types.CodeType, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The globals that the code of a function reads, by name."""
    if not _IMPURE.isdisjoint(code.co_names):
        raise _UnknownError
    for instruction in dis.get_instructions(code):
        operation, name = instruction.opname, instruction.argval
        if operation == "LOAD_GLOBAL" and name in known:
            if _package(getattr(known[name], "__name__", "")) == "numpy":
                raise _UnknownError
            yield name, known[name]
        elif operation == "LOAD_GLOBAL" and name in _BUILTINS:
            continue
        elif "GLOBAL" in operation or "_NAME" in operation or operation == "LOAD_BUILD_CLASS":
            raise _UnknownError
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _read(constant, known)


def _is_constant(value: Any) -> bool:
    """Whether this is what a trusted package calls by this name: a module, a class, a function."""
    if isinstance(value, types.ModuleType):
        return _package(value.__name__) in _TRUSTED and sys.modules.get(value.__name__) is value
    module, name = (getattr(value, of, None) for of in ("__module__", "__qualname__"))
    if isinstance(value, type) and module == "builtins":
        return True
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    if _package(module) not in _TRUSTED or module.startswith("numpy.random"):
        return False
    return _found(module, name) is value


def _found(module: str, name: str) -> Any:
    try:
        return functools.reduce(getattr, name.split("."), sys.modules[module])
    except (AttributeError, KeyError):
        return None


def _package(module: Any) -> str:
    return module.split(".")[0] if isinstance(module, str) else ""


class Shared:
    """A static argument of a compiled program, equal to others that compute the same.

    Attributes:
        value: what the program is traced from.
    """

    def __init__(self, value: Any, parts: Callable[[], Hashable]):
        """Of a value, and a function that tells what it is compared by.

        It is asked now, and again when a program is traced: between, what can be changed in place
        may have changed.
        """
        self.value = value
        self._parts = parts
        self._made = parts()
        self._hash = hash(self._made)

    def unchanged(self) -> bool:
        """Whether it is what it was."""
        return self._parts() == self._made

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Shared) and self._made == other._made
