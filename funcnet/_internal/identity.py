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
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from funcnet.errors import ConfigError

_TRUSTED = ("optax", "funcnet.metrics", "funcnet.ops")  # and what is below them
_NUMBERS = (bool, int, float, complex, types.NoneType, np.generic, jax.Array)
_LARGE = 4096  # entries of an array
# The one function of optax that assigns to what it closes over: an int becomes a float, once.
_REWRITER = "cosine_decay_schedule.<locals>.schedule"


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
    if _is_named(value):
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
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
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
    cells = (cell for cell in function.__closure__ or ())
    held = tuple(None if cell == types.CellType() else (cell.cell_contents,) for cell in cells)
    defaults, by_name, attributes = function.__defaults__, function.__kwdefaults__, vars(function)
    module = str(function.__globals__.get("__name__"))
    if _is_trusted(module) and function.__globals__ is vars(sys.modules[module]):
        if _rewrites(code):
            if function.__qualname__ != _REWRITER:
                raise _UnknownError
            held = tuple((float(a[0]),) if a and type(a[0]) is int else a for a in held)
        return module, code, defaults, by_name, attributes, held
    numbers = (*sum(filter(None, held), ()), *(defaults or ()), *(by_name or {}).values())
    if attributes or not all(isinstance(a, _NUMBERS) for a in numbers) or not _is_arithmetic(code):
        raise _UnknownError
    return code, defaults, by_name, held


def _is_arithmetic(code: types.CodeType) -> bool:
    """Whether code names nothing, and changes nothing that it closes over."""
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return not code.co_names and not _rewrites(code) and all(map(_is_arithmetic, nested))


@functools.lru_cache(maxsize=1024)
def _rewrites(code: types.CodeType) -> bool:
    """Whether code assigns to a variable that it closes over."""
    written = {"STORE_DEREF", "DELETE_DEREF"}
    operations = (op for op in dis.get_instructions(code) if op.opname in written)
    return any(operation.argval in code.co_freevars for operation in operations)


def _is_trusted(module: str) -> bool:
    """Whether a module is one of those that are taken for constant, and pure."""
    if module not in sys.modules:
        return False
    return module.startswith(tuple(f"{name}." for name in _TRUSTED)) or module in _TRUSTED


def _is_named(value: Any) -> bool:
    """Whether this is a type, or a ufunc of jnp, that its package calls by its name."""
    if isinstance(value, jnp.ufunc):
        return any(value is known for known in vars(jnp).values())
    if not isinstance(value, type):
        return False
    module = sys.modules.get(value.__module__)
    package = value.__module__.split(".")[0]
    found = getattr(module, value.__qualname__, None)
    return found is value and package in ("builtins", "jax", "numpy", "optax")


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
