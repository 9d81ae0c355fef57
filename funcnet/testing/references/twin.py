"""The un-ruled twin: the same function with every hand-written backward pass erased.

A `jax.custom_vjp` is one equation of a jaxpr which holds the undecorated function. Replacing the
equation by what it holds, wherever it stands (in jit, scan, while, cond, checkpoint), leaves a
function with the same values whose derivative is JAX's own. That derivative is what a rule has to
equal. `custom_jvp` functions are kept, but where they are what is judged: `jax.nn.relu` is one, and
its convention at 0 is JAX's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.errors import DtypeError

P = ParamSpec("P")
R = TypeVar("R")
IsRule = Callable[[Any], bool]

# Equations that move or widen numbers without rounding them.
_EXACT = {
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "rev", "copy"),
    *("slice", "dynamic_slice", "gather", "concatenate", "pad", "select_n"),
    *("stop_gradient", "neg", "abs", "max", "min"),
}


# Decompositions whose parts are determined but for a phase, a sign or a scale.
_FREE = {"svd", "eigh", "eig", "qr", "geqrf", "householder_product", "schur", "hessenberg"}


def has_free_factors(jaxpr: Any) -> bool:
    """Whether a jaxpr decomposes a matrix into parts that a phase or a scale may turn."""
    return any(
        equation.primitive.name in _FREE or any(map(has_free_factors, sub_jaxprs(equation.params)))
        for equation in compat.open_jaxpr(jaxpr).eqns
    )


def sub_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters, those in tuples included."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if compat.is_jaxpr(item):
                yield item


def is_rule(equation: Any) -> bool:
    """Whether an equation calls a `jax.custom_vjp`."""
    return equation.primitive.name in compat.RULE_PRIMITIVES


def holds_rule(jaxpr: Any, is_rule: IsRule = is_rule) -> bool:
    """Whether a rule is called anywhere in a jaxpr."""
    return any(
        is_rule(equation)
        or any(holds_rule(inner, is_rule) for inner in sub_jaxprs(equation.params))
        for equation in compat.open_jaxpr(jaxpr).eqns
    )


def erase_rules(jaxpr: Any, is_rule: IsRule = is_rule) -> Any:
    """A jaxpr, open or closed, with every call of a rule replaced by the function it rules."""
    inner = compat.open_jaxpr(jaxpr)
    names: dict[Any, Any] = {}
    equations = []
    for equation in inner.eqns:
        equation = equation.replace(invars=[_renamed(names, atom) for atom in equation.invars])
        if is_rule(equation):
            equations += _inlined(equation, names, is_rule)
        else:
            params = _erased_params(equation.params, is_rule)
            equations.append(equation.replace(params=params))
    outvars = [_renamed(names, atom) for atom in inner.outvars]
    return compat.with_open_jaxpr(jaxpr, inner.replace(eqns=equations, outvars=outvars))


def _renamed(names: dict[Any, Any], atom: Any) -> Any:
    return atom if compat.is_literal(atom) else names.get(atom, atom)


def _erased_params(params: dict[str, Any], is_rule: IsRule) -> dict[str, Any]:
    def erased(value: Any) -> Any:
        if compat.is_jaxpr(value):
            return erase_rules(value, is_rule) if holds_rule(value, is_rule) else value
        if isinstance(value, (tuple, list)) and any(compat.is_jaxpr(item) for item in value):
            items = map(erased, value)
            make: Any = getattr(value, "_make", type(value))
            return make(items)
        return value

    return {key: erased(value) for key, value in params.items()}


def _inlined(equation: Any, names: dict[Any, Any], is_rule: IsRule) -> list[Any]:
    """The equations of a ruled function, with its results named as the call's were."""
    closed = erase_rules(equation.params["call_jaxpr"], is_rule)
    body = compat.open_jaxpr(closed)
    local = dict(zip(body.invars, equation.invars, strict=True))
    for variable, value in zip(body.constvars, closed.consts, strict=True):
        local[variable] = compat.literal(value, variable.aval)
    inlined = []
    for inner in body.eqns:
        # New names: the same function may be called, and so inlined, twice.
        local |= {variable: compat.fresh_variable(variable) for variable in inner.outvars}
        inlined.append(
            inner.replace(
                invars=[_renamed(local, atom) for atom in inner.invars],
                outvars=[local[variable] for variable in inner.outvars],
            )
        )
    results = [_renamed(local, atom) for atom in body.outvars]
    names |= dict(zip(equation.outvars, results, strict=True))
    return inlined


def as_function(closed: Any) -> Callable[..., list[Any]]:
    """A closed jaxpr as a Python function of its flat inputs."""
    return jax.extend.core.jaxpr_as_fun(closed)


def without_rules(f: Callable[P, R]) -> Callable[P, R]:
    """The same function with its `jax.custom_vjp` rules erased, so that JAX derives it by itself.

    JAX cannot push a tangent through a `jax.custom_vjp`: `jax.jvp`, `jax.jacfwd` and
    `jax.linearize` of a function that holds one raise TypeError. Of this one they work, and so does
    all else: `grad`, `jit`, `vmap`, `scan`. The values are the same. The derivatives are JAX's own:
    equal but for rounding, and at a kink by the conventions of what the function is made of.

    Args:
        f: a function of pytrees, such as `fn.ops.softmax`, or one that applies a model. Arrays
            among its arguments are traced; numbers, text and other objects are passed as they are.

    Returns:
        The function, traced anew at each call: jit it where it is called often.

    Raises:
        TypeError: `f` cannot be called.
    """
    if not callable(f):
        raise DtypeError(f"without_rules got {type(f).__name__}, expected a function")

    @functools.wraps(f)
    def erased(*args: P.args, **kwargs: P.kwargs) -> R:
        leaves, structure = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

        def flat(arrays):
            given = dict(zip(places, arrays, strict=True))
            filled = [given.get(i, leaf) for i, leaf in enumerate(leaves)]
            call: tuple[Any, Any] = structure.unflatten(filled)
            return cast(Callable[..., R], f)(*call[0], **call[1])

        arrays = [leaves[i] for i in places]
        closed, output = jax.make_jaxpr(flat, return_shape=True)(arrays)
        return jax.tree.structure(output).unflatten(as_function(erase_rules(closed))(*arrays))

    return erased


def alone(jaxpr: Any, equation: Any) -> Any:
    """A closed jaxpr of one of a jaxpr's equations; its inputs are the variables, each once."""
    variables = [atom for atom in equation.invars if not compat.is_literal(atom)]
    results = [compat.fresh_variable(variable) for variable in equation.outvars]
    return compat.closed_jaxpr(
        jaxpr.replace(
            constvars=[],
            invars=list(dict.fromkeys(variables)),
            outvars=results,
            eqns=[equation.replace(outvars=results)],
        )
    )


def rule_calls(closed: Any) -> Iterator[tuple[str, Any]]:
    """Every call of a rule in a jaxpr, as (name, a closed jaxpr of that call alone)."""
    jaxpr = compat.open_jaxpr(closed)
    for equation in jaxpr.eqns:
        if equation.primitive.name in compat.RULE_PRIMITIVES:
            name = compat.open_jaxpr(equation.params["call_jaxpr"]).debug_info.func_name
            yield name, alone(jaxpr, equation)
        else:
            for inner in sub_jaxprs(equation.params):
                yield from rule_calls(inner)


def narrowest_float(closed: Any, tainted: Sequence[bool] | None = None) -> np.dtype | None:
    """The narrowest float below 64 bits in which a jaxpr rounds something that its inputs move.

    A constant in float32, or a mask cast to float32, rounds nothing and does not count.
    """
    jaxpr = compat.open_jaxpr(closed)
    marks = [True] * len(jaxpr.invars) if tainted is None else tainted
    moved = {v for v, mark in zip(jaxpr.invars, marks, strict=True) if mark and _is_float(v.aval)}
    found: list[np.dtype] = []
    for equation in jaxpr.eqns:
        inputs = [not compat.is_literal(atom) and atom in moved for atom in equation.invars]
        if not any(inputs):
            continue
        inner = [narrowest_float(sub) for sub in sub_jaxprs(equation.params)]
        found += [dtype for dtype in inner if dtype is not None]
        floats = [variable for variable in equation.outvars if _is_float(variable.aval)]
        moved |= set(floats)
        if equation.primitive.name not in _EXACT:
            found += [v.aval.dtype for v in floats if _real_bits(v.aval.dtype) < 64]
    return min(found, key=lambda dtype: -float(jnp.finfo(dtype).eps), default=None)


def _is_float(aval: Any) -> bool:
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, jnp.inexact)


def _real_bits(dtype: Any) -> int:
    return jnp.finfo(dtype).bits
