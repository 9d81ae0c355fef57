"""What a value is, as JSON: equal in every process, and apart where a setting differs.

A model, a loss and an optimizer are told apart by what they are made of. An optax transformation is
a pair of functions that keep their settings in their closures, so a function is described by its
name and what it closes over. Where that is not enough (a function's code), `program_digest` is.
"""

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe(value: Any, within: tuple[int, ...] = ()) -> Any:
    """Return JSON values that say what `value` is.

    Args:
        value: a number, an array, a module, a loss, an optimizer, a function, or a container.
        within: what is being described already, by identity: a function may close over itself.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if id(value) in within:
        return "..."
    within = (*within, id(value))

    def inside(parts: Mapping[str, Any]) -> dict[str, Any]:
        return {str(name): describe(part, within) for name, part in parts.items()}

    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _array(value)
    if isinstance(value, functools.partial):
        return {"partial": inside({"func": value.func, "args": value.args, **value.keywords})}
    if hasattr(value, "__code__"):
        return _function(value, inside)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {_name(type(value)): inside({name: getattr(value, name) for name in names})}
    if isinstance(value, Mapping):
        return inside(value)
    if isinstance(value, tuple | list):
        fields = getattr(value, "_asdict", None)  # a named tuple's
        if fields is not None:
            return inside(fields())
        return [describe(part, within) for part in value]
    return shown(value)


def shown(value: Any) -> str:
    """The repr of a value without the addresses that functions have in theirs."""
    return _ADDRESS.sub("", repr(value))


def differences(stored: Any, given: Any, place: str = "") -> list[str]:
    """Return where two JSON values differ, a sentence each."""
    if isinstance(stored, dict) and isinstance(given, dict):
        pairs = {key: (stored.get(key), given.get(key)) for key in {**stored, **given}}
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        pairs = {str(i): pair for i, pair in enumerate(zip(stored, given, strict=True))}
    else:
        return [] if stored == given else [f"{place} was {stored!r} and is now {given!r}"]
    found = (differences(*pair, f"{place}.{key}" if place else key) for key, pair in pairs.items())
    return [difference for found_there in found for difference in found_there]


def _array(value) -> str:
    array = np.asarray(jax.random.key_data(value) if _is_key(value) else value)
    if array.size == 1:
        return f"{value.dtype}({array.item()!r})"
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"{value.dtype}{list(value.shape)} {digest}"


def _is_key(value) -> bool:
    return jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def _function(function, inside) -> Any:
    names = function.__code__.co_freevars
    cells = zip(names, function.__closure__ or (), strict=True)
    closed = {name: _content(cell) for name, cell in cells}
    defaults = {"defaults": function.__defaults__} if function.__defaults__ else {}
    return {_name(function): inside({**closed, **defaults})}


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _name(thing) -> str:
    return thing.__qualname__.replace(".<locals>", "")


def program_digest(function: Any, *arguments: Any) -> str | None:
    """Return a checksum of the program that `function` is for such arguments, before XLA's passes.

    It is the same in every process with the same versions on the same kind of device. None for a
    program that calls back into Python: there it names addresses.
    """
    text = jax.jit(function).lower(*arguments).as_text()
    return None if "callback" in text else hashlib.sha256(text.encode()).hexdigest()
