"""The form of an exhibit: a function, its backward pass, arguments, and what it teaches.

An exhibit is written as its backward pass, decorated. The decorator's arguments say the rest; the
docstring's first paragraph is the mistake (or, for a right rule, why it is hard to judge):

    @wrong(square_sum, arrays("n"), caught_by="formula")
    def missing_factor(residuals, g):
        \"\"\"d(x²) = 2x dx, and the 2 is gone.\"\"\"
        (x,) = residuals
        return (g * x,)

`fwd` defaults to keeping all arguments as residuals.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FLOATS = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One exhibit.

    Attributes:
        name: Its name in tables and test ids.
        fn: The function under test, a `jax.custom_vjp` or a function that contains one.
        args: Makes the arguments from (seed, size, dtype).
        lesson: The mistake in one sentence; for a right rule, what makes it hard to judge.
        caught_by: The check that must catch it, the earliest that can. None: a right rule.
        options: Keyword arguments for `check_vjp`.
        dtypes: Those it is judged in. A wrong rule is judged in the first.
        source: The discussion or defect report that inspired it.
    """

    name: str
    fn: Callable[..., Any]
    args: Callable[[int, int, str], tuple[Any, ...]]
    lesson: str
    caught_by: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtypes: tuple[str, ...] = FLOATS
    source: str = ""


def wrong(
    primal: Callable[..., Any],
    args: Callable[[int, int, str], tuple[Any, ...]],
    *,
    caught_by: str,
    fwd: Callable[..., Any] | None = None,
    dtypes: tuple[str, ...] = ("float32",),
    nondiff_argnums: tuple[int, ...] = (),
    source: str = "",
    **options: Any,
) -> Callable[[Callable[..., Any]], Rule]:
    """Turn a wrong backward pass into an exhibit. `options` go to `check_vjp`."""

    def exhibit(bwd: Callable[..., Any]) -> Rule:
        fn = with_rule(primal, bwd, fwd, nondiff_argnums)
        return _rule(
            bwd, fn, args, caught_by=caught_by, options=options, dtypes=dtypes, source=source
        )

    return exhibit


def right(
    primal: Callable[..., Any],
    args: Callable[[int, int, str], tuple[Any, ...]],
    *,
    fwd: Callable[..., Any] | None = None,
    dtypes: tuple[str, ...] = FLOATS,
    nondiff_argnums: tuple[int, ...] = (),
    **options: Any,
) -> Callable[[Callable[..., Any]], Rule]:
    """Turn a right backward pass into an exhibit. `options` go to `check_vjp`."""

    def exhibit(bwd: Callable[..., Any]) -> Rule:
        fn = with_rule(primal, bwd, fwd, nondiff_argnums)
        return _rule(bwd, fn, args, options=options, dtypes=dtypes)

    return exhibit


def wrong_function(
    args: Callable[[int, int, str], tuple[Any, ...]],
    *,
    caught_by: str,
    dtypes: tuple[str, ...] = ("float32",),
    source: str = "",
    **options: Any,
) -> Callable[[Callable[..., Any]], Rule]:
    """Turn a function that contains a wrong rule, or registers one its own way, into an exhibit."""

    def exhibit(fn: Callable[..., Any]) -> Rule:
        return _rule(
            fn, fn, args, caught_by=caught_by, options=options, dtypes=dtypes, source=source
        )

    return exhibit


def right_function(
    args: Callable[[int, int, str], tuple[Any, ...]],
    *,
    dtypes: tuple[str, ...] = FLOATS,
    **options: Any,
) -> Callable[[Callable[..., Any]], Rule]:
    """Turn a function that contains right rules into an exhibit."""

    def exhibit(fn: Callable[..., Any]) -> Rule:
        return _rule(fn, fn, args, options=options, dtypes=dtypes)

    return exhibit


def with_rule(
    primal: Callable[..., Any],
    bwd: Callable[..., Any],
    fwd: Callable[..., Any] | None = None,
    nondiff_argnums: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Register a backward pass; `fwd` defaults to keeping every argument."""

    def keep_arguments(*args: Any) -> tuple[Any, tuple[Any, ...]]:
        return primal(*args), args

    fn = jax.custom_vjp(primal, nondiff_argnums=nondiff_argnums)
    fn.defvjp(fwd or keep_arguments, bwd)
    return fn


def rules_in(namespace: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The exhibits defined in a module, in order: `rules_in(globals())`."""
    return tuple(value for value in namespace.values() if isinstance(value, Rule))


def arrays(
    *shapes: str, scale: float = 1.0, offset: float = 0.0
) -> Callable[[int, int, str], tuple[jax.Array, ...]]:
    """Normal arrays of the given shapes: `arrays("n 3", "3")` is one of (size, 3) and one of (3,).

    Args:
        *shapes: Space-separated lengths, `n` for the exhibit's size; "" for a scalar.
        scale: Multiplies every element.
        offset: Then added to every element.
    """

    def make(seed: int, size: int, dtype: str) -> tuple[jax.Array, ...]:
        rng = np.random.default_rng(seed)
        return tuple(normal(rng, _lengths(shape, size), dtype) * scale + offset for shape in shapes)

    return make


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> jax.Array:
    """Standard normal numbers; complex ones where the dtype is complex."""
    values = rng.normal(size=shape)
    if np.issubdtype(jnp.dtype(dtype), np.complexfloating):
        return jnp.asarray(values + 1j * rng.normal(size=shape), dtype)
    return jnp.asarray(values, dtype)


def _lengths(shape: str, size: int) -> tuple[int, ...]:
    return tuple(size if length == "n" else int(length) for length in shape.split())


def _rule(described: Callable[..., Any], fn: Callable[..., Any], args: Any, **fields: Any) -> Rule:
    lesson = " ".join((described.__doc__ or "").split("\n\n")[0].split())
    return Rule(described.__name__.replace("_", " ").strip(), fn, args, lesson, **fields)
