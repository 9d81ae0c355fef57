"""What is kept of a rule that was called, and the rules that a module defines."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcnet.testing.references.call import RULES


@dataclasses.dataclass(frozen=True)
class Traced:
    """An array of which the value is not known.

    Attributes:
        shape: its shape.
        dtype: its dtype.
    """

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass
class Example:
    """The arguments of a call.

    Attributes:
        leaves: arrays as NumPy's (keys as JAX's), or `Traced`; whatever else as it was.
        structure: their structure, a tuple of the arguments.
        static: the static arguments by position, as `nondiff_argnums` names them.
        count: how many arguments there are, static ones included.
        x64: whether 64-bit types were on.
    """

    leaves: list[Any]
    structure: Any
    static: dict[int, Any]
    count: int
    x64: bool

    @property
    def is_known(self) -> bool:
        """Whether every value is."""
        return not any(isinstance(leaf, Traced) for leaf in self.leaves)

    @property
    def is_finite(self) -> bool:
        """Whether every floating-point number that is known is finite."""
        arrays = (leaf for leaf in self.leaves if isinstance(leaf, np.ndarray))
        return all(
            bool(jnp.isfinite(a).all()) for a in arrays if jnp.issubdtype(a.dtype, jnp.inexact)
        )

    @property
    def size(self) -> int:
        """How many numbers there are."""
        shapes = (leaf.shape for leaf in self.leaves if hasattr(leaf, "shape"))
        return sum(int(np.prod(shape)) for shape in shapes)


@dataclasses.dataclass
class RecordedRule:
    """One rule: all that have the same code.

    Attributes:
        fn: the first of them that was called.
        name: the name of the function that it rules.
        module: where that is defined.
        where: the file and the line.
        calls: how often Python called it; a compiled program is called, and recorded, once.
        examples: some of the calls' arguments.
        ranges: the smallest and largest finite number seen of each leaf.
    """

    fn: Any
    name: str
    module: str
    where: str
    calls: int = 0
    examples: dict[Any, Example] = dataclasses.field(default_factory=dict)
    ranges: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """What it is called in a file: its module and name, and where it stands."""
        return f"{self.module}:{self.name} {self.where}"


def rules_of(module: Any) -> Iterator[tuple[str, Any]]:
    """The rules that a module defines, its classes' included, with their names."""
    for name, value in vars(module).items():
        if isinstance(value, RULES) and value.__module__ == module.__name__:
            yield name, value
        if isinstance(value, type) and value.__module__ == module.__name__:
            for inner, rule in vars(value).items():
                if isinstance(rule, RULES):
                    yield f"{name}.{inner}", rule


def where(fn: Any) -> str:
    """The file and the line where a function is defined, or "?"."""
    fn = getattr(fn, "__wrapped__", fn)
    code = getattr(fn, "__code__", None)
    if code is None:
        return "?"
    path = Path(code.co_filename)
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return f"{path}:{code.co_firstlineno}"
