"""Checks 1 to 5: the arguments, the forward rule, the cotangents' types, the formula, linearity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.testing.checks.explain import describe
from funcnet.testing.checks.guesses import number, of_shape
from funcnet.testing.checks.subject import Subject, Wrong, rule_errors
from funcnet.testing.numerics.compare import (
    OWN_ERROR_FACTOR,
    ROUNDING_FLOOR,
    ULPS,
    Mismatch,
    largest,
    wrong_elements,
)
from funcnet.testing.references import derivatives
from funcnet.testing.references import twin as twins
from funcnet.testing.references.adjudicate import MOST_ELEMENTS, Case, choose
from funcnet.testing.references.call import align, cotangent_tree, is_inexact, trace

# Relative errors below this come from rounding.
SMALL = 1e-2


def constants(subject: Subject) -> None:
    """1. Constant arguments hide mistakes: a factor of 1, a sum over equal things."""
    warn = subject.notes.warnings.append
    for name, x in zip(subject.call.names, derivatives.host(subject.xs), strict=True):
        if x.size == 0:
            warn(f"{name} is empty: its cotangent has no elements to check")
        elif not np.isfinite(x).all():
            warn(f"{name} is not finite everywhere: what depends on it there cannot be judged")
        elif x.size == 1 and x.flat[0] in (0.0, 1.0, -1.0):
            warn(f"{name} is {number(x.flat[0])}: a missing factor {name} would not show")
        elif x.size > 1 and np.unique(x).size == 1:
            warn(
                f"every element of {name} is {number(x.flat[0])}: a missing factor or a "
                "wrong axis may not show; random values are better"
            )


def primal(subject: Subject) -> None:
    """2. `fwd`'s output has the function's structure, shapes, dtypes and values."""
    _check_output_types(subject)
    _check_other_outputs(subject)
    truth, own = subject.expected[0], subject.working_expected[0]
    try:
        got = subject.working_rows.outputs
    except Wrong:
        return  # What bwd raises is for the next check to report.
    for name, g, o, t in zip(subject.output_names, got, own, truth, strict=True):
        tolerance = OWN_ERROR_FACTOR * largest(o - t) + ULPS * subject.ulp * largest(t)
        _check_output(name, g, o, np.full(t.shape, tolerance), "")
    try:
        wide = subject.rule_rows.outputs
    except Wrong:
        return  # What the rule raises in float64 is for the formula's check to report.
    slack = subject.slack[0]
    for name, g, t, more in zip(subject.output_names, wide, truth, slack, strict=True):
        tolerance = subject.formula_tolerance * (np.abs(t) + largest(t)) + more
        _check_output(name, g, t, tolerance, " in float64")
    if subject.narrowing:
        subject.notes.warnings.append(
            f"right in {subject.rounds_in}; narrows float64: {subject.narrowing}. It was judged in "
            f"{subject.rounds_in}"
        )


def _check_output_types(subject: Subject) -> None:
    found = subject.forward_types
    expected = subject.output_tree
    if found.structure != jax.tree.structure(expected):
        raise Wrong(
            f"fwd's output has the structure {found.structure}, the function's "
            f"{jax.tree.structure(expected)}",
            fatal=True,
        )
    paths = jax.tree_util.tree_flatten_with_path(expected)[0]
    for (path, want), (shape, dtype) in zip(paths, found.leaves, strict=True):
        name = "output" + jax.tree_util.keystr(path)
        if shape != want.shape:
            text = f"fwd's {name} has the shape {shape}, the function's {want.shape}"
            raise Wrong(text, fatal=True)
        if dtype != want.dtype:
            raise Wrong(
                f"fwd's {name} has the dtype {dtype}, the function's {want.dtype}: one undecorated "
                "function, called by both, keeps them equal"
            )


def _check_other_outputs(subject: Subject) -> None:
    """Integer and boolean outputs are equal exactly."""
    call = subject.call
    if len(subject.outputs) == len(jax.tree.leaves(subject.output_tree)):
        return

    def outputs(fn: Any, differentiated: bool) -> list[Any]:
        def others(*xs: Any) -> Any:
            leaves = jax.tree.leaves(fn(*call.arguments(xs, subject.zs)))
            floats = [leaf for leaf in leaves if is_inexact(leaf)]
            return floats, [leaf for leaf in leaves if not is_inexact(leaf)]

        run = jax.vjp(others, *subject.xs, has_aux=True) if differentiated else others(*subject.xs)
        return run[-1]

    with rule_errors("differentiating the function, which runs fwd,"):
        found = outputs(call.fn, True)
    for got, want in zip(found, outputs(subject.undecorated, False), strict=True):
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
        f"    fwd's value  {number(got[index])}\n"
        f"    expected     {number(want[index])}   from the undecorated function"
    )


def cotangents(subject: Subject) -> None:
    """3. One cotangent for each argument leaf, of its shape and dtype."""
    _audit_raw_bwd(subject)
    found = subject.working_rows
    for name, x, ct, dtype in zip(
        subject.call.names, subject.xs, found.cotangents, found.dtypes, strict=True
    ):
        got = jax.ShapeDtypeStruct(ct.shape[1:], dtype)
        if got.shape != x.shape or got.dtype != x.dtype:
            fatal = got.shape != x.shape
            raise Wrong(_type_text(f"the cotangent of {name}", got, x), fatal=fatal)
    _audit_inner_rules(subject)


def _type_text(what: str, ct: Any, x: Any) -> str:
    if ct.shape != x.shape:
        return _shape_text(what, ct.shape, x.shape)
    return (
        f"{what} has the dtype {ct.dtype}, but the argument is {x.dtype}. JAX does not check this; "
        f"a scan fails on it later. Cast each cotangent to its primal's dtype: "
        f".astype({x.dtype})"
    )


def _shape_text(what: str, got: tuple[int, ...], want: tuple[int, ...]) -> str:
    return f"{what} has the shape {got}, not {want}"


def _audit_raw_bwd(subject: Subject) -> None:
    """What bwd itself returns, before JAX fills in what is missing and copies single leaves."""
    call = subject.call
    if not isinstance(call.fn, jax.custom_vjp):
        return
    fwd, bwd = compat.rule_functions(call.fn)
    if fwd is None or bwd is None:
        return

    def answer(xs: Any, zs: Any, ct: Any) -> Any:
        args = call.arguments(xs, zs)
        _, residuals = fwd(*args)
        cotangent = cotangent_tree(subject.output_tree, ct)
        return bwd(*(args[i] for i in call.static), residuals, cotangent)

    inputs = subject.xs, subject.zs, subject.working_row(0)
    try:
        raw = jax.eval_shape(answer, *inputs)
    except Exception:
        with rule_errors("calling fwd, then bwd,"):
            raw = answer(*inputs)
    dynamic = call.dynamic(call.arguments(subject.xs, subject.zs))
    if not isinstance(raw, (tuple, list)) or len(raw) != len(dynamic):
        count = f" of {len(raw)}" if isinstance(raw, (tuple, list)) else ""
        raise Wrong(
            f"bwd returns a {type(raw).__name__}{count}, expected a tuple of {len(dynamic)}: one "
            f"cotangent for each argument"
        )
    parts: list[Any] = []
    for name, given, arg in zip(call.dynamic(call.parameters), raw, dynamic, strict=True):
        try:
            parts += align(given, arg)
        except ValueError as error:
            raise Wrong(
                f"the cotangent of {name} has the structure {jax.tree.structure(given)}, the "
                f"argument {jax.tree.structure(arg)}. JAX copies a single leaf to all of an "
                "argument's leaves silently: return one leaf for each"
            ) from error
    _audit_shapes(subject, parts)
    for index, part in enumerate(parts):
        if index in call.diff:
            _audit_float(subject, call.diff.index(index), part)
        elif is_inexact(call.leaves[index]):
            continue  # a default that was not given: its cotangent is not asked for
        elif part is not None and getattr(part, "dtype", None) != jax.dtypes.float0:
            raise Wrong(
                f"bwd returns {getattr(part, 'dtype', type(part).__name__)} for an integer "
                f"argument or a key (leaf {index}): return None, or float0 zeros"
            )


def _audit_shapes(subject: Subject, parts: Sequence[Any]) -> None:
    """JAX's own text names no argument."""
    call = subject.call
    found = {
        name: (tuple(parts[i].shape), x.shape)
        for name, i, x in zip(call.names, call.diff, subject.xs, strict=True)
        if hasattr(parts[i], "shape")
    }
    for name, (got, want) in found.items():
        if got != want:
            guess = of_shape(got, want, name, found)
            text = _shape_text(f"the cotangent of {name}", got, want)
            raise Wrong(text + (f"\n  guess: {guess}" if guess else ""), fatal=True)


def _audit_float(subject: Subject, leaf: int, part: Any) -> None:
    """None for a floating-point argument means zeros; a mistake unless they are right."""
    if part is not None:
        return
    name = subject.call.names[leaf]
    if leaf in subject.zeroed:
        return
    if subject.scales[leaf] > 0:
        raise Wrong(
            f"bwd returns None for {name}, a floating-point argument: JAX takes it for zeros "
            "silently, and the derivative is not zero. None is for integers and keys"
        )
    subject.notes.warnings.append(
        f"bwd returns None for {name}, a floating-point argument: right here, where the derivative "
        "is zero, but None is for integers and keys; return zeros to say so"
    )


def _audit_inner_rules(subject: Subject) -> None:
    """Each rule inside a larger function: the dtypes of its cotangents where it is called."""
    if subject.call.why_eager:
        return
    closed = trace(subject.call, subject.call.fn, subject.xs, subject.zs)
    for name, alone in twins.rule_calls(closed):
        floats = [i for i, aval in enumerate(alone.in_avals) if is_inexact(aval)]
        try:
            found = jax.eval_shape(_pull_zeros(alone, floats), *map(_shape, alone.in_avals))
        except Exception:
            continue  # A rule that needs concrete values; jit's check reports it.
        for i, ct in zip(floats, found, strict=True):
            want = alone.in_avals[i]
            if ct.shape != want.shape or ct.dtype != want.dtype:
                raise Wrong(_type_text(f"inside the function, {name}'s cotangent {i}", ct, want))


def _shape(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _pull_zeros(alone: Any, floats: list[int]) -> Any:
    """Pull zeros back through one call, with respect to its floating-point inputs."""
    run = twins.as_function(alone)

    def pull(*inputs: Any) -> Any:
        def outputs(*moved: Any) -> Any:
            every = list(inputs)
            for i, value in zip(floats, moved, strict=True):
                every[i] = value
            return [out for out in run(*every) if is_inexact(out)]

        out, pullback = jax.vjp(outputs, *(inputs[i] for i in floats))
        return pullback([jnp.zeros_like(leaf) for leaf in out])

    return pull


def formula(subject: Subject) -> None:
    """4. In float64, element by element, for dense and for one-hot cotangents."""
    rows = [i for i in subject.rule_rows.rows if subject.cts.rows[i].factors is None]
    wrong = [
        np.stack([_wrong_in_row(subject, leaf, row) for row in rows])
        for leaf in range(len(subject.xs))
    ]
    if not any(mask.any() for mask in wrong):
        return
    _excuse(subject, rows, wrong)
    subject.notes.wrong = {leaf: np.asarray(mask.any(axis=0)) for leaf, mask in enumerate(wrong)}
    for position, row in enumerate(rows):
        leaves = [leaf for leaf, mask in enumerate(wrong) if mask[position].any()]
        if leaves:
            found = [_mismatch(subject, leaf, row, wrong[leaf][position]) for leaf in leaves]
            texts = [_described(subject, row, mismatch) for mismatch in found]
            every = [leaf for leaf, mask in enumerate(wrong) if mask.any()]
            raise Wrong("\n\n".join(texts), leaves=every, mismatches=found)


def _wrong_in_row(subject: Subject, leaf: int, row: int) -> np.ndarray:
    expected = subject.expected[1][leaf][row]
    got = subject.rule_rows.cotangents[leaf][row]
    wrong = wrong_elements(got, expected, _tolerance(subject, leaf, expected))
    if subject.can_judge_by_slopes and subject.cts.rows[row].kind == "dense":
        # That autodiff gives NaN as well is no excuse where the function has a slope. (One-hot
        # cotangents are zero elsewhere, and 0 times an infinite slope is NaN in autodiff too.)
        wrong |= np.isnan(got)
    return wrong


def _excuse(subject: Subject, rows: list[int], wrong: list[np.ndarray]) -> None:
    """Take out of `wrong` what lies at a kink, and where autodiff is at fault; note both."""
    subject.notes.excused = [np.asarray(mask.any(axis=0)) for mask in wrong]
    chosen = choose(wrong, subject.rng)
    for part in ([0], list(range(1, len(rows)))):
        cases = [
            Case(rows[position], leaf, index, *_values(subject, leaf, rows[position], index))
            for position in part
            for leaf, index in sorted(chosen)
            if wrong[leaf][position].reshape(-1)[index] and leaf not in subject.zeroed
        ]
        if not cases or not subject.can_judge_by_slopes:
            continue
        findings = subject.judge(cases)
        subject.notes.findings += [f for f in findings if f.verdict != "wrong"]
        for finding in subject.notes.findings:
            case = finding.case
            wrong[case.leaf].reshape(len(rows), -1)[rows.index(case.row), case.index] = False
        if any(finding.verdict == "wrong" for finding in findings):
            return
    if subject.notes.findings and len(chosen) == MOST_ELEMENTS:
        # So many were looked into, and each had its excuse: so have the others.
        for mask in wrong:
            mask[:] = False


def _values(subject: Subject, leaf: int, row: int, index: int) -> tuple[complex, complex]:
    got = subject.rule_rows.cotangents[leaf][row].reshape(-1)[index]
    return got, subject.expected[1][leaf][row].reshape(-1)[index]


def _tolerance(subject: Subject, leaf: int, expected: np.ndarray) -> np.ndarray:
    top = subject.scales[leaf]
    noise = ROUNDING_FLOOR * subject.naturals[leaf]
    relative = max(subject.formula_tolerance, subject.rtol)
    return relative * (np.abs(expected) + top) + noise + subject.slack[1][leaf]


def _mismatch(subject: Subject, leaf: int, row: int, wrong: np.ndarray) -> Mismatch:
    answers, expected = subject.rule_rows.cotangents[leaf], subject.expected[1][leaf]
    dtype = "float64" if subject.is_wide else str(subject.xs[leaf].dtype)
    dtype = "float32" if subject.narrowing else dtype
    return Mismatch(
        subject.call.names[leaf],
        leaf,
        subject.cts.rows[row].label,
        answers[row],
        expected[row],
        wrong,
        "zero=, which declares it" if leaf in subject.zeroed else subject.source,
        dtype,
    )


def _described(subject: Subject, row: int, mismatch: Mismatch) -> str:
    leaf = mismatch.leaf
    second = subject.rule_rows.cotangents[leaf][1] if row == 0 else None
    return describe(mismatch, subject.clues(row, second, _without(subject, leaf)))


def _without(subject: Subject, leaf: int) -> np.ndarray | None:
    """The rule's answer for a cotangent of zeros."""
    rows = subject.rule_rows.rows
    zeros = (i for i in rows if subject.cts.rows[i].factors == (0.0, 0.0))
    return next((subject.rule_rows.cotangents[leaf][i] for i in zeros), None)


def linearity(subject: Subject) -> None:
    """5. Linear in the cotangent: combinations of cotangents, zeros, very large and small ones."""
    answers = subject.rule_rows
    for row in answers.rows:
        factors = subject.cts.rows[row].factors
        if factors is None:
            continue
        for leaf, got in enumerate(answers.cotangents):
            expected = factors[0] * got[0] + factors[1] * got[1]
            if subject.reference is not None:
                if leaf in subject.notes.distrusted:
                    continue
                expected = subject.expected[1][leaf][row]
            # Of an infinite derivative, as sqrt's at 0, 3 g - 2 h may be infinity less infinity.
            usable = np.isfinite(got[0]) & np.isfinite(got[1])
            _check_linear(subject, leaf, row, got[row], expected, usable)


def _check_linear(
    subject: Subject,
    leaf: int,
    row: int,
    got: np.ndarray,
    expected: np.ndarray,
    usable: np.ndarray,
) -> None:
    scale = subject.cts.rows[row].scale
    tolerance = _tolerance(subject, leaf, expected / scale) * scale
    wrong = wrong_elements(got, expected, tolerance) & usable
    if not wrong.any():
        return
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f"[{', '.join(map(str, index))}]" if index else ""
    name = subject.call.names[leaf]
    source = subject.source if subject.reference is not None else "the answers for g and h"
    error = largest(got - expected) / (largest(expected) or 1.0)
    guess = _NOT_LINEAR if error > SMALL else _NARROWED
    raise Wrong(
        f"bwd is not linear in the cotangent: for {subject.cts.rows[row].label} the cotangent of "
        f"{name} is wrong in {int(wrong.sum())} of {wrong.size} elements\n"
        f"  first at {name}{where}\n"
        f"    the rule's value  {number(got[index])}\n"
        f"    expected          {number(expected[index])}   from {source}\n"
        f"  guess: {guess}",
        leaves=[leaf],
    )


_NOT_LINEAR = (
    "the cotangent is clipped, squared, compared with something, or its absolute value is taken, "
    "or something is added to the answer; a derivative does none of these"
)
_NARROWED = "the relative error is small: a cast to float32 or to a narrower dtype in bwd"
