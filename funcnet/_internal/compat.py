"""Everything that differs between the JAX versions funcnet supports (0.10.2 to 0.12)."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core
import jaxlib.version
from jax._src import core as _core

# Rules in a jaxpr. JAX has renamed this primitive before, so every name known is listed.
RULE_PRIMITIVES = ("custom_vjp_call", "custom_vjp_call_jaxpr")

# Correctness needs no optimised code, and this halves the time XLA takes to compile on a CPU.
QUICK_COMPILE: dict[str, Any] = {"xla_backend_optimization_level": 0}
# The same without XLA's silent widening of bfloat16 and float16 inside a fusion.
QUICK_STRICT_COMPILE: dict[str, Any] = {**QUICK_COMPILE, "xla_allow_excess_precision": False}

# Whether XLA divides a convolution among a CPU's cores by images; before 0.11 by columns alone.
DIVIDES_BY_IMAGES = tuple(map(int, jaxlib.version.__version__.split(".")[:2])) >= (0, 11)


def being_traced() -> bool:
    """Whether the caller runs inside jit, vmap, grad or another transformation."""
    return not _core.trace_state_clean()


def fresh_variable(variable: Any) -> Any:
    """A new jaxpr variable of the same abstract value."""
    return _core.Var(variable.aval)


def literal(value: Any, aval: Any) -> Any:
    """A jaxpr literal that holds a constant of any shape."""
    return _core.Literal(value, aval)


def is_literal(atom: Any) -> bool:
    """Whether a jaxpr's atom is a literal."""
    return isinstance(atom, _core.Literal)


def open_jaxpr(jaxpr: Any) -> Any:
    """The jaxpr inside a closed one (before jax 0.12 they were two classes)."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def closed_jaxpr(jaxpr: Any) -> Any:
    """`jaxpr`, which has no constants, as a closed one."""
    # Found at run time in every version; jax 0.12 leaves it out of its types.
    return jax.extend.core.ClosedJaxpr(jaxpr, [])  # pyright: ignore


def with_open_jaxpr(closed: Any, jaxpr: Any) -> Any:
    """`closed` with its equations replaced by those of `jaxpr`, its constants kept."""
    return closed.replace(jaxpr=jaxpr) if hasattr(closed, "jaxpr") else jaxpr


def is_jaxpr(value: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr, open or closed."""
    return (hasattr(value, "eqns") and hasattr(value, "outvars")) or hasattr(value, "jaxpr")


def rule_functions(rule: Any) -> tuple[Callable | None, Callable | None]:
    """A `jax.custom_vjp`'s `fwd` and `bwd`, None when they cannot be called as they were given.

    Rules with `symbolic_zeros=True` receive wrapped arguments; rules that log or that accumulate
    have another calling convention.
    """
    special = ("symbolic_zeros", "with_logs", "with_accums")
    if any(getattr(rule, name, False) for name in special):
        return None, None
    return getattr(rule, "fwd", None), getattr(rule, "bwd", None)


def varying_axes(x: jax.Array) -> frozenset[str]:
    """The mesh axes over which `x` differs inside `shard_map`; empty outside of one."""
    # 0.9 and earlier called this `typeof(x).vma`.
    return jax.typeof(x).manual_axis_type.varying


def make_mesh(devices: int, axis: str, explicit: bool) -> jax.sharding.Mesh:
    """A mesh of one axis, Explicit or Auto; a mesh's default has changed between versions."""
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    return jax.make_mesh((devices,), (axis,), (kind,), devices=jax.devices()[:devices])


# Equations that do no more than call the one jaxpr they hold.
CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "checkpoint",
    "remat",
    "remat2",
    "custom_jvp_call",
)
JVP_PRIMITIVE = "custom_jvp_call"
_JAX = os.path.dirname(jax.__file__) + os.sep


def is_own_jvp_rule(equation: Any) -> bool:
    """Whether an equation calls a `jax.custom_jvp` that is not JAX's own, such as `jax.nn.relu`."""
    if equation.primitive.name != JVP_PRIMITIVE:
        return False
    rule = equation.params.get("jvp_jaxpr_fun")
    sources = [info for info in map(_source, (equation.params["call_jaxpr"], rule)) if info]
    # `defjvps` makes the rule inside of JAX, of a function that is not JAX's.
    return any(_JAX not in source for source in sources)


def _source(traced: Any) -> str:
    return getattr(getattr(open_jaxpr(traced), "debug_info", None), "func_src_info", None) or ""


def described_by(fn: Any) -> Any:
    """The function that was written: `jax.custom_gradient` hides it in a closure."""
    inner = getattr(fn, "__wrapped__", fn)
    code = getattr(inner, "__code__", None)
    if code is None or _JAX not in code.co_filename or "fun" not in code.co_freevars:
        return fn
    return inner.__closure__[code.co_freevars.index("fun")].cell_contents


@contextlib.contextmanager
def _rules_call(replace: Callable[[Any], Any]) -> Iterator[None]:
    """Calls of `custom_vjp` and `custom_jvp` go to `replace(call)` instead of their own `call`."""
    kinds: tuple[Any, Any] = jax.custom_vjp, jax.custom_jvp
    kept = [kind.__call__ for kind in kinds]
    try:
        for kind, call in zip(kinds, kept, strict=True):
            kind.__call__ = replace(call)
        yield
    finally:
        for kind, call in zip(kinds, kept, strict=True):
            kind.__call__ = call


@contextlib.contextmanager
def rules_erased() -> Iterator[list[Any]]:
    """Rules, but JAX's own of tangents, call what they rule; gives those that were called."""
    called: list[Any] = []

    def replace(call: Any) -> Any:
        def plain(rule: Any, *args: Any, **kwargs: Any) -> Any:
            is_jaxs = getattr(rule, "__module__", "").split(".")[0] == "jax"
            if is_jaxs and isinstance(rule, jax.custom_jvp):
                return call(rule, *args, **kwargs)
            called.append(rule)
            return rule.fun(*args, **kwargs)

        return plain

    with _rules_call(replace):
        yield called


@contextlib.contextmanager
def rules_watched(saw: Callable[[Any, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Call `saw(rule, args, kwargs)` before each call of a rule."""

    def replace(call: Any) -> Any:
        @functools.wraps(call)
        def seen(rule: Any, *args: Any, **kwargs: Any) -> Any:
            saw(rule, args, kwargs)
            return call(rule, *args, **kwargs)

        return seen

    with _rules_call(replace):
        yield


def concrete(value: Any) -> Any:
    """An array's value, of a tracer too if it has one: the primal's, or one of a mapped stack's."""
    while isinstance(value, _core.Tracer):
        if hasattr(value, "primal"):
            value = value.primal
        elif hasattr(value, "batch_dim"):
            stack, axis = concrete(value.val), value.batch_dim
            if stack is None or not isinstance(axis, (int, type(None))):
                return None
            value = stack if axis is None else stack.take(0, axis)
        else:
            return None
    return value
