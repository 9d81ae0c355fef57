"""What a function exponentiates, found by running its jaxpr one equation after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from funcnet._internal import compat
from funcnet.testing.references import twin as twins

# Functions whose values depend on the absolute error of their argument.
SENSITIVE = {"exp", "exp2", "expm1", "sin", "cos", "tan", "pow"}


def operands(closed: Any, inputs: Sequence[Any]) -> list[Any]:
    """The operands of every exponential and circular function, but for those inside of loops."""

    def run(*inputs: Any) -> list[Any]:
        found: list[Any] = []
        _evaluate(compat.open_jaxpr(closed), closed.consts, inputs, found)
        return found

    return jax.jit(run, compiler_options=compat.QUICK_STRICT_COMPILE)(*inputs)


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], found: list[Any]
) -> list[Any]:
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if compat.is_literal(atom) else values[atom]

    values |= zip(jaxpr.constvars, consts, strict=True)
    values |= zip(jaxpr.invars, inputs, strict=True)
    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        if equation.primitive.name in SENSITIVE:
            found.append(given[0])
        inner = [*twins.sub_jaxprs(equation.params)]
        if equation.primitive.name in compat.CALLS and len(inner) == 1:
            body = inner[0]
            results = _evaluate(compat.open_jaxpr(body), getattr(body, "consts", ()), given, found)
        else:
            results = twins.as_function(twins.alone(jaxpr, equation))(*_distinct(equation, given))
        values |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _distinct(equation: Any, given: Sequence[Any]) -> list[Any]:
    """The values of an equation's variables, each once."""
    pairs = zip(equation.invars, given, strict=True)
    return [*{atom: value for atom, value in pairs if not compat.is_literal(atom)}.values()]
