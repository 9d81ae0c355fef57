"""Every call of a `jax.custom_vjp` or `jax.custom_jvp`, recorded as it is made.

A call under jit, grad, vmap or scan is made once, while JAX traces it, and what it is given there
are tracers. Of those of an eager `grad` and `vmap` the values are read; of the others shape and
dtype alone are known. Nothing is added to the program, so that its results keep their bits.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.testing.recorded import judge
from funcnet.testing.recorded.rules import Example, RecordedRule, Traced, where
from funcnet.testing.references.call import without_partial

# Calls of a rule that are kept, each with other shapes, dtypes or static arguments.
MOST_EXAMPLES = 6
# Numbers of an argument that are kept; of larger ones shape and dtype.
MOST_NUMBERS = 100_000


class Recording:
    """The rules that were called while this was recorded, in the order of their first calls.

    Args:
        packages: the names of packages; rules that are defined elsewhere are left out. None of
            them: all rules are recorded but JAX's own.
    """

    def __init__(self, packages: Sequence[str] = ()):
        self.packages: tuple[str, ...] = tuple(packages)
        self._rules: dict[Any, RecordedRule | None] = {}

    @property
    def rules(self) -> tuple[RecordedRule, ...]:
        """What was recorded."""
        return tuple(rule for rule in self._rules.values() if rule is not None)

    def check(self, *, seconds: float = judge.SECONDS, fast: bool = False) -> judge.Verdicts:
        """Judge every rule once, with arguments like those it was called with.

        Args:
            seconds: for each rule: no check begins later.
            fast: only the first checks, as in `check_vjp`.

        Returns:
            A verdict for each rule; a table when printed.

        Raises:
            RulesError: (an AssertionError) some rule is wrong; its text is the table and their
                reports.
        """
        return judge.Verdicts.of(self.rules, seconds, fast).or_raise()

    def saw(self, rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record one call; whatever goes wrong here is not the caller's concern."""
        with contextlib.suppress(Exception):
            self._record(rule, args, kwargs)

    def _record(self, rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        code = _code(rule)
        if code not in self._rules:
            self._rules[code] = self._recorded(rule)
        recorded = self._rules[code]
        if recorded is None:
            return
        recorded.calls += 1
        args = _positional(rule, args, kwargs)
        static = {i: args[i] for i in getattr(rule, "nondiff_argnums", ()) if i < len(args)}
        dynamic = tuple(arg for i, arg in enumerate(args) if i not in static)
        leaves, structure = jax.tree.flatten(dynamic)
        signature = structure, tuple(map(_kind, leaves)), tuple(map(_kind, static.values()))
        known = not any(compat.concrete(leaf) is None for leaf in leaves)
        kept = recorded.examples.get(signature)
        full = kept is None and len(recorded.examples) >= MOST_EXAMPLES
        if full or (kept is not None and (kept.is_known or not known)):
            return
        values = [_value(leaf) for leaf in leaves]
        x64 = jnp.asarray(0.0).dtype == jnp.float64
        example = Example(values, structure, static, len(args), x64)
        if kept is None or example.is_known:
            recorded.examples[signature] = example
        _widen(recorded.ranges, values)

    def _recorded(self, rule: Any) -> RecordedRule | None:
        written = without_partial(compat.described_by(rule))
        module = getattr(written, "__module__", None) or "?"
        package = module.split(".")[0]
        wanted = module.startswith(tuple(f"{p}." for p in self.packages)) or module in self.packages
        if package in ("jax", "jaxlib") or (self.packages and not wanted):
            return None
        name = getattr(written, "__qualname__", type(written).__name__)
        return RecordedRule(rule, name, module, where(written))


@contextlib.contextmanager
def recording(packages: Sequence[str] = ()) -> Iterator[Recording]:
    """Record every call of a hand-written backward pass inside the `with` block.

    Every `jax.custom_vjp` and `jax.custom_jvp` that is called there, also through jit, grad, vmap
    and scan; JAX's own are left out. No result changes. A program that was compiled before is not
    traced, and so not recorded, again.

    Args:
        packages: the names of packages or modules; rules that are defined elsewhere are left out.

    Yields:
        The recording: `.rules`, and `.check()`, which judges each of them once.
    """
    found = Recording(packages)
    with compat.rules_watched(found.saw):
        yield found


def _code(rule: Any) -> tuple[Any, ...]:
    """What tells rules apart: the code of the function and of its rule, not what it closes over."""
    parts = [compat.described_by(rule.__wrapped__)]
    parts += [getattr(rule, name, None) for name in ("fwd", "bwd", "jvp")]
    return tuple(getattr(part, "__code__", part) for part in map(without_partial, parts))


def _positional(rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    if not kwargs:
        return args
    with contextlib.suppress(TypeError, ValueError):
        return inspect.signature(rule.__wrapped__).bind(*args, **kwargs).args
    return args


def _kind(leaf: Any) -> Any:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return tuple(leaf.shape), str(leaf.dtype)
    try:
        return type(leaf), hash(leaf)
    except TypeError:
        return type(leaf), id(leaf)


def _value(leaf: Any) -> Any:
    """An array with its value, if it has one that is not too large."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return leaf
    shape, dtype = tuple(leaf.shape), leaf.dtype
    value = compat.concrete(leaf) if int(np.prod(shape)) <= MOST_NUMBERS else None
    if value is None:
        return Traced(shape, dtype)
    return value if jnp.issubdtype(dtype, jax.dtypes.prng_key) else np.array(value)


def _widen(ranges: dict[int, tuple[float, float]], values: Sequence[Any]) -> None:
    for i, value in enumerate(values):
        if not isinstance(value, np.ndarray) or not _is_real(value.dtype) or not value.size:
            continue
        finite = value[np.isfinite(value)].astype(np.float64)
        if finite.size:
            low, high = ranges.get(i, (np.inf, -np.inf))
            ranges[i] = min(low, float(finite.min())), max(high, float(finite.max()))


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
