"""Checks 1 to 5: the arguments, the forward rule, the cotangents' types, the formula, linearity."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import _compat
from funcnet.testing import derivatives, explain
from funcnet.testing import twin as twins
from funcnet.testing.call import is_inexact, trace
from funcnet.testing.compare import (
    OWN_ERROR_FACTOR,
    ROUNDING_FLOOR,
    ULPS,
    Mismatch,
    largest,
    wrong_elements,
)
from funcnet.testing.subject import Subject, Wrong, rule_errors


def constants(subject: Subject) -> None:
    """1. Constant arguments hide mistakes: a factor of 1, a sum over equal things."""
    warn = subject.notes.warnings.append
    for name, x in zip(subject.call.names, derivatives.host(subject.xs), strict=True):
        if x.size == 0:
            warn(f"{name} is empty: its cotangent has no elements to check")
        elif x.size == 1 and x.flat[0] in (0.0, 1.0, -1.0):
            warn(f"{name} is {explain.number(x.flat[0])}: a missing factor {name} would not show")
        elif x.size > 1 and np.unique(x).size == 1:
            warn(
                f"every element of {name} is {explain.number(x.flat[0])}: a missing factor or a "
                "wrong axis may not show; random values are better"
            )


def primal(subject: Subject) -> None:
    """2. `fwd`'s output has the function's structure, shapes, dtypes and values."""
    _check_output_types(subject)
    _check_other_outputs(subject)
    truth, own = subject.expected[0], subject.working_expected[0]
    got = derivatives.host(subject.working_vjp.outputs)
    for name, g, o, t in zip(subject.output_names, got, own, truth, strict=True):
        tolerance = OWN_ERROR_FACTOR * largest(o - t) + ULPS * subject.ulp * largest(t)
        _check_output(name, g, o, np.full(t.shape, tolerance), "")
    try:
        wide = subject.rule_rows.outputs
    except Wrong:
        return  # What the rule raises in float64 is for the formula's check to report.
    for name, g, t in zip(subject.output_names, wide, truth, strict=True):
        tolerance = subject.formula_tolerance * (np.abs(t) + largest(t))
        _check_output(name, g, t, tolerance, " in float64")


def _check_output_types(subject: Subject) -> None:
    found = subject.working_vjp
    expected = subject.output_tree
    if found.structure != jax.tree.structure(expected):
        raise Wrong(
            f"fwd's output has the structure {found.structure}, the function's "
            f"{jax.tree.structure(expected)}"
        )
    paths = jax.tree_util.tree_flatten_with_path(expected)[0]
    for (path, want), (shape, dtype) in zip(paths, found.types, strict=True):
        name = "output" + jax.tree_util.keystr(path)
        if shape != want.shape:
            raise Wrong(f"fwd's {name} has the shape {shape}, the function's {want.shape}")
        if dtype != want.dtype:
            raise Wrong(
                f"fwd's {name} has the dtype {dtype}, the function's {want.dtype}: one undecorated "
                "function, called by both, keeps them equal"
            )


def _check_other_outputs(subject: Subject) -> None:
    """Integer and boolean outputs are equal exactly."""
    if not subject.working_vjp.others:
        return
    call = subject.call
    out = jax.jit(lambda xs, zs: subject.undecorated(*call.arguments(xs, zs)))(subject.xs, subject.zs)
    expected = [leaf for leaf in jax.tree.leaves(out) if not is_inexact(leaf)]
    for got, want in zip(subject.working_vjp.others, expected, strict=True):
        if not bool(jnp.array_equal(got, want)):
            raise Wrong(f"fwd's integer output is {got}, the function's {want}")


def _check_output(
    name: str, got: np.ndarray, want: np.ndarray, tolerance: np.ndarray, precision: str
) -> None:
    wrong = wrong_elements(got, want, tolerance)
    if not wrong.any():
        return
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f"[{', '.join(map(str, index))}]" if index else ""
    raise Wrong(
        f"fwd's {name} differs from the function's{precision} in {int(wrong.sum())} of "
        f"{wrong.size} elements\n"
        f"  first at {name}{where}\n"
        f"    fwd's value  {explain.number(got[index])}\n"
        f"    expected     {explain.number(want[index])}   from the undecorated function"
    )


def cotangents(subject: Subject) -> None:
    """3. One cotangent for each argument leaf, of its shape and dtype."""
    found = subject.working_cotangents[0]
    for name, x, ct in zip(subject.call.names, subject.xs, found, strict=True):
        if ct.shape != x.shape or ct.dtype != x.dtype:
            raise Wrong(_type_text(f"the cotangent of {name}", ct, x))
    _audit_raw_bwd(subject)
    _audit_inner_rules(subject)


def _type_text(what: str, ct: Any, x: Any) -> str:
    if ct.shape != x.shape:
        return f"{what} has the shape {ct.shape}, not {x.shape}"
    return (
        f"{what} has the dtype {ct.dtype}, but the argument is {x.dtype}. JAX does not check this; "
        f"a scan fails on it later. Cast each cotangent to its primal's dtype: "
        f".astype({x.dtype})"
    )


def _audit_raw_bwd(subject: Subject) -> None:
    """What bwd itself returns, before JAX fills in and copies."""
    call = subject.call
    fwd, bwd = _compat.rule_functions(call.fn) if isinstance(call.fn, jax.custom_vjp) else (None, None)
    if fwd is None or bwd is None:
        return
    args = call.arguments(subject.xs, subject.zs)
    with rule_errors("calling fwd and bwd directly"):
        _, residuals = fwd(*args)
        cotangent = subject.cotangent_tree(subject.working_row(0))
        raw = bwd(*(args[i] for i in call.static), residuals, cotangent)
    dynamic = [arg for i, arg in enumerate(args) if i not in call.static]
    if not isinstance(raw, (tuple, list)) or len(raw) != len(dynamic):
        raise Wrong(f"bwd returns {_brief(raw)}, not a tuple with one cotangent per argument")
    names = [name for i, name in enumerate(call.parameters) if i not in call.static]
    for name, given, arg in zip(names, raw, dynamic, strict=True):
        _audit_argument(subject, name, given, arg)


def _audit_argument(subject: Subject, name: str, given: Any, arg: Any) -> None:
    leaves = jax.tree_util.tree_flatten_with_path(arg)[0]
    if given is None:
        _audit_none(subject, [name + jax.tree_util.keystr(path) for path, _ in leaves])
        return
    # None is a missing cotangent here, not an empty subtree.
    none = object()
    marked = jax.tree.map(lambda x: none if x is None else x, given, is_leaf=lambda x: x is None)
    if jax.tree.structure(marked) != jax.tree.structure(_without_none(arg, none, given)):
        raise Wrong(
            f"the cotangent of {name} has the structure {jax.tree.structure(given)}, the argument "
            f"{jax.tree.structure(arg)}. JAX copies a single leaf to all of them silently"
        )
    for (path, x), ct in zip(leaves, jax.tree.leaves(marked), strict=True):
        leaf = name + jax.tree_util.keystr(path)
        if ct is none:
            _audit_none(subject, [leaf])
        elif not is_inexact(jnp.asarray(x) if not hasattr(x, "dtype") else x):
            _audit_integer(leaf, x, ct)


