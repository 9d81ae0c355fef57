"""When two values are the same to a compiled program: by all that they are made of, or not at all.

JAX compiles again for a static argument that is not equal to an earlier one, and functions are
equal to themselves alone. `optax.adam(1e-2)`, written out again, is a pair of new functions with
the code and the settings of the old ones: it computes the same. `identity` finds that out, and is
strict: what could differ unseen makes a value equal to itself alone, as it was to JAX before.

- Numbers, text, types and dtypes count by type and value, small arrays by all their bits.
- A function of optax, `fn.ops` or `fn.metrics` counts by its code, its defaults and what it closes
  over; its module, and what it reads there, is taken for constant, as by JAX's own caches.
- A function of anybody else's counts likewise if it is arithmetic alone: it names nothing outside
  itself, no global, attribute or import, and holds numbers and immutable arrays. Any other could
  read what changes.
- An object counts by its attributes if its class is optax's. Any other is unknown.

`describe` is for checkpoints: JSON, which names what it does not know. Here that is not enough.
"""

import dis
import functools
import sys
import types
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from funcnet.errors import ConfigError

_TRUSTED = ("optax", "funcnet.metrics", "funcnet.ops")  # and what is below them
_NUMBERS = (bool, int, float, complex, types.NoneType, np.generic, jax.Array)
_LARGE = 4096  # entries of an array


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
        return True, _parts(value, {})
    except (_UnknownError, RecursionError):
        return False, value if isinstance(value, Hashable) else _Itself(value)


def _parts(value: Any, seen: dict[int, tuple[int, Any]]) -> Hashable:
    """What a value is made of.

    Args:
        value: any value.
        seen: what was taken apart before, by id: its number and itself, which keeps the id its own.

    Raises:
        _UnknownError: there is something that one cannot look into.
    """
    kind = type(value)
    if kind in (bool, int, str, bytes, types.NoneType, types.EllipsisType, types.CodeType):
        return kind, value
    if kind in (float, complex):
        return kind, np.asarray(value).tobytes()  # -0.0 is not 0.0
    if isinstance(value, np.dtype):
        return "dtype", value
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return _array(value)
    if isinstance(value, type) and _is_named(value):
        return _Itself(value)
    if id(value) in seen:
        return "seen", seen[id(value)][0]
    seen[id(value)] = len(seen), value
    return kind, *(_parts(part, seen) for part in _inside(value))


def _array(value: Any) -> Hashable:
    """An array by its bits."""
    if isinstance(value, jax.Array):
        if isinstance(value, Tracer) or value.is_deleted() or value.committed:
            raise _UnknownError
    elif type(value).__module__ != "numpy" or value.dtype.hasobject:
        raise _UnknownError
    if value.size > _LARGE:
        raise _UnknownError
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.dtype, _array(jax.random.key_data(value))
    bits = np.asarray(value).tobytes()
    return _Itself(type(value)), value.dtype, value.shape, getattr(value, "weak_type", None), bits


def _inside(value: Any) -> Iterable[Any]:
    """The parts of what holds other values."""
    kind = type(value)
    if kind is types.FunctionType:
        return _of_function(value)
    if kind is types.MethodType:
        return value.__func__, value.__self__
    if kind is functools.partial:
        return value.func, value.args, value.keywords
    if kind is dict:
        return value.items()
    if kind in (tuple, list):
        return value
    if _is_trusted(kind.__module__) and _is_named(kind):
        return value if isinstance(value, tuple) else (vars(value),)
    raise _UnknownError


def _of_function(function: types.FunctionType) -> Iterable[Any]:
    """All that a function computes with, where that is known."""
    code = function.__code__
    try:
        held = tuple(cell.cell_contents for cell in function.__closure__ or ())
    except ValueError:  # not filled yet
        raise _UnknownError from None
    written = _written(code)
    held = tuple(_settled(*named, written) for named in zip(code.co_freevars, held, strict=True))
    defaults, by_name, attributes = function.__defaults__, function.__kwdefaults__, vars(function)
    module = str(function.__globals__.get("__name__"))
    if _is_trusted(module) and function.__globals__ is vars(sys.modules[module]):
        return module, code, defaults, by_name, attributes, held
    numbers = (*held, *(defaults or ()), *(by_name or {}).values())
    if attributes or not all(isinstance(a, _NUMBERS) for a in numbers) or not _is_arithmetic(code):
        raise _UnknownError
    return code, defaults, by_name, held


def _settled(name: str, value: Any, written: set[str]) -> Any:
    """What a function closes over, as it is from the first call on.

    optax's cosine decay makes a float of its number of steps when it is called.
    """
    if name not in written:
        return value
    if type(value) not in (int, float):
        raise _UnknownError
    return float(value)


def _written(code: types.CodeType) -> set[str]:
    """The names that code assigns to, of those that it shares with other code."""
    return {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_DEREF"}


def _is_arithmetic(code: types.CodeType) -> bool:
    """Whether code names nothing, and changes nothing that it closes over."""
    operations = {instruction.opname for instruction in dis.get_instructions(code)}
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    names = code.co_names or not operations.isdisjoint({"STORE_DEREF", "DELETE_DEREF"})
    return not names and all(_is_arithmetic(inner) for inner in nested)


def _is_trusted(module: str) -> bool:
    """Whether a module is one of those that are taken for constant, and pure."""
    if module not in sys.modules:
        return False
    return module.startswith(tuple(f"{name}." for name in _TRUSTED)) or module in _TRUSTED


def _is_named(kind: type) -> bool:
    """Whether a package that leaves its types as they are calls this type by its name."""
    package = kind.__module__.split(".")[0]
    found = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None)
    return package in ("builtins", "jax", "numpy", "optax") and found is kind


class Shared:
    """A static argument of a compiled program, equal to others that compute the same."""

    def __init__(self, value: Any, parts: Callable[[], Hashable]):
        """Of a value, and a function that tells what it is compared by.

        It is asked now, and again when a program is traced: between, what can be changed in place
        may have changed.
        """
        self._value = value
        self._parts = parts
        self._made = parts()
        self._hash = hash(self._made)

    @property
    def value(self) -> Any:
        """What a program is traced from.

        Raises:
            ConfigError: it is no longer what the program will be found by.
        """
        if self._parts() != self._made:
            raise ConfigError(
                "what the optimizer, the loss or a metric is made of (a list, a dict, an array or "
                "a variable) was changed after the Trainer was made; make the Trainer again"
            )
        return self._value

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Shared) and self._made == other._made
