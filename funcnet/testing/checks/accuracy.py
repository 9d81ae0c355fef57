"""Check 9: rounding in the dtype given, and inputs a hundred and ten thousand times as large."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from funcnet.testing.checks.explain import describe
from funcnet.testing.checks.guesses import NO_CLUES
from funcnet.testing.checks.subject import Subject, Wrong
from funcnet.testing.numerics import Arrays, differences
from funcnet.testing.numerics.compare import (
    CANCELLED_ULPS,
    OWN_ERROR_FACTOR,
    ULPS,
    Mismatch,
    largest,
    wrong_elements,
)
from funcnet.testing.references import derivatives, sensitive
from funcnet.testing.references.adjudicate import MOST_ELEMENTS
from funcnet.testing.references.call import twin_function

# Above this relative error the function itself has broken down, and its rule is not to blame.
BROKEN = 0.1
# An exponent that rounding moves by so much says nothing about who is right.
MOVED = 0.5


def working_tolerance(subject: Subject, leaf: int, ulps: float = ULPS) -> float:
    """How far a cotangent in the working dtype may be from the truth in float64."""
    truth = subject.believed(leaf)[0]
    cancelled = CANCELLED_ULPS * subject.ulp * subject.naturals[leaf]
    cancelled += subject.rtol * largest(truth)
    if subject.narrow is not None:  # the truth itself is rounded
        cancelled += subject.slack[1][leaf]
    if not subject.is_wide or subject.ulp <= float(jnp.finfo(np.float64).eps):
        # The twin in float64 is then no finer than the rule.
        relative = subject.formula_tolerance + ulps * subject.ulp
        return relative * largest(truth) + cancelled
    own = largest(subject.working_expected[1][leaf][:2] - subject.expected[1][leaf][:2])
    return OWN_ERROR_FACTOR * own + ulps * subject.ulp * largest(truth) + cancelled


def accuracy(subject: Subject, stress: Sequence[float] = ()) -> None:
    """9. As accurate as autodiff in the same dtype; finite wherever the truth is."""
    leaves = [i for i in range(len(subject.xs)) if i not in subject.notes.distrusted]
    for row in range(2):
        got = [subject.working_rows.cotangents[leaf][row] for leaf in leaves]
        check_working(subject, got, row, ULPS, leaves=leaves)
    for factor in stress if subject.mode != "differences" else ():
        _check_stress(subject, factor)


def check_working(
    subject: Subject,
    got: Sequence[np.ndarray],
    row: int,
    ulps: float,
    how: str = "",
    leaves: Sequence[int] | None = None,
) -> None:
    """Compare cotangents in the working dtype, of all arguments or some, with the truth."""
    texts: dict[int, str] = {}
    found: list[Mismatch] = []
    for leaf, g in zip(range(len(got)) if leaves is None else leaves, got, strict=True):
        if leaf in subject.notes.unsteady:
            continue
        expected, source = subject.believed(leaf)
        expected = expected[row]
        tolerance = working_tolerance(subject, leaf, ulps)
        expected = _as_held(expected, subject.xs[leaf].dtype)
        wrong = wrong_elements(g, expected, np.full(g.shape, tolerance))
        wrong &= ~subject.excused(leaf) & (np.isfinite(g) | np.isfinite(expected))
        if wrong.any():
            wrong &= ~_of_large_terms(subject, subject.xs64, leaf, row, wrong, g - expected)
        if wrong.any():
            dtype = str(subject.xs[leaf].dtype)
            label = subject.cts.rows[row].label + how
            name = subject.call.names[leaf]
            mismatch = Mismatch(name, leaf, label, g, expected, wrong, source, dtype)
            found.append(mismatch)
            own = largest(subject.working_expected[1][leaf][row] - subject.expected[1][leaf][row])
            text = describe(mismatch, subject.clues(row, None))
            texts[leaf] = (
                f"{text}\n  the error is {largest(g - expected):.3g}, JAX's own in {dtype} is "
                f"{own:.3g}; {tolerance:.3g} is allowed"
            )
    if texts:
        raise Wrong("\n\n".join(texts.values()), leaves=[*texts], mismatches=found)


def _of_large_terms(
    subject: Subject,
    xs64: Arrays,
    leaf: int,
    row: int,
    wrong: np.ndarray,
    error: np.ndarray,
    rounding: float = 0.0,
) -> np.ndarray:
    """Which wrong elements are off by no more than the rounding of large terms that cancel.

    A layer norm of two features is nearly a step: its derivative is next to nothing, and the
    difference of two terms as large as the step is steep. Autodiff may be lucky with these. In half
    precision luck is no excuse: where autodiff keeps the digits there, it is by float32, which a
    rule can use as well. `rounding` is that of what a rule recomputes, if it is known.
    """
    excused = np.zeros(wrong.shape, bool)
    indices = np.flatnonzero(wrong & np.isfinite(error))
    is_half = subject.ulp > float(jnp.finfo(np.float32).eps)
    if is_half or not subject.is_wide or not 0 < len(indices) <= MOST_ELEMENTS:
        return excused
    weights = [np.abs(array[row]).reshape(-1) for array in subject.cts.arrays]
    coordinates = differences.coordinates_of(leaf, indices.tolist(), subject.xs[leaf])
    with subject.wide():
        f = differences.flat_outputs(twin_function(subject.wide_twin), subject.zs)
        change = differences.steepest(f, xs64, coordinates, subject.call.compiled)
    terms = (change @ np.concatenate(weights)).reshape(len(indices), -1).max(axis=1)
    small = np.abs(error.reshape(-1)[indices]) <= max(ULPS * subject.ulp, rounding) * terms
    excused.reshape(-1)[indices[small]] = True
    return excused


def _as_held(expected: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """NaN where the dtype cannot hold the number, or there is none."""
    with np.errstate(all="ignore"):
        return np.where(np.abs(expected) > float(jnp.finfo(dtype).max), np.nan, expected)


def _check_stress(subject: Subject, factor: float) -> None:
    """Finite answers wherever the truth is, unless the function itself breaks down there."""
    xs = tuple(x * factor for x in subject.xs)
    if not all(bool(jnp.isfinite(x).all()) for x in xs):
        return
    with subject.wide():
        wide = derivatives.widened(xs) if subject.is_wide else xs
    outputs, truth = subject.expected_at(wide)
    answers = subject.answers_at(xs)
    if _breaks_down(answers.outputs, outputs, subject):
        subject.notes.remarks.append(f"the function itself breaks down at inputs times {factor:g}")
        return
    own = subject.working_expected_at(xs)[1]
    if _has_small_range(subject) and not all(np.isfinite(o).all() for o in own):
        subject.notes.remarks.append(f"autodiff overflows too at inputs times {factor:g}")
        return
    formula = subject.rule_rows_at(wide).cotangents
    moved = functools.cache(lambda: _moved_by_rounding(subject, xs, wide))
    for leaf, answer in enumerate(answers.cotangents):
        got, expected = answer[0], _as_held(truth[leaf][0], subject.xs[leaf].dtype)
        infinite = np.isfinite(expected) & ~np.isfinite(got)
        lost = _digits_lost(got, formula[leaf][0], own[leaf][0], expected)
        wrong = (infinite | lost) & ~subject.excused(leaf)
        if wrong.any():
            wrong &= ~_of_large_terms(subject, wide, leaf, 0, wrong, got - expected)
        if wrong.any() and not infinite.any() and moved() > MOVED:
            subject.notes.remarks.append(
                f"inputs times {factor:g} were skipped: rounding in the working dtype moves the "
                "function's own intermediate values by about one or more"
            )
            return
        if wrong.any() and not infinite.any() and moved() > ULPS * subject.ulp:
            wrong &= ~_of_large_terms(subject, wide, leaf, 0, wrong, got - expected, moved())
        if wrong.any():
            name = subject.call.names[leaf]
            label = f"inputs times {factor:g} and a dense random cotangent"
            dtype = str(subject.xs[leaf].dtype)
            mismatch = Mismatch(name, leaf, label, got, expected, wrong, subject.source, dtype)
            clues = subject.clues(0, None)
            text = describe(mismatch, clues if infinite.any() else NO_CLUES)
            text += "" if infinite.any() else _LOST
            raise Wrong(text, leaves=[leaf], mismatches=[mismatch])


def _moved_by_rounding(subject: Subject, xs: Arrays, wide: Arrays) -> float:
    """How far off in the working dtype what the function exponentiates is.

    A rule that recomputes such a number may get another one than the forward pass did.
    """
    if not subject.is_wide or subject.call.why_eager:
        return 0.0
    found = sensitive.operands(subject.working_twin, (*xs, *subject.zs))
    with subject.wide():
        truth = sensitive.operands(subject.wide_twin, (*wide, *subject.zs))
    pairs = zip(derivatives.host(found), derivatives.host(truth), strict=False)
    return max((largest(g - t) for g, t in pairs if g.shape == t.shape), default=0.0)


_LOST = (
    "\n  The rule is right in float64, and autodiff is accurate in this dtype: an intermediate "
    "number of fwd or bwd\n  overflows, underflows or loses its digits."
)


def _has_small_range(subject: Subject) -> bool:
    """Whether numbers are float16, whose range stressed inputs' squares leave in any rule."""
    return any(float(jnp.finfo(x.dtype).max) < 1e5 for x in (*subject.xs, *subject.outputs))


def _digits_lost(
    got: np.ndarray, formula: np.ndarray, own: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Where the rule in the working dtype is far from itself in float64, and autodiff is not.

    Either a tenth of the largest element is gone where autodiff keeps an eightieth, or an element
    is gone altogether of which autodiff keeps half.
    """
    usable = np.isfinite(expected) & np.isfinite(formula)
    error, own_error = np.abs(got - formula), np.abs(own - expected)
    allowed = BROKEN * largest(expected)
    gone = (error > (1 - BROKEN) * np.abs(formula)) & (own_error < 0.5 * np.abs(expected))
    lost = gone & (np.abs(formula) > allowed)
    if largest(own - expected) < allowed / OWN_ERROR_FACTOR and np.isfinite(own).all():
        lost |= ~(error <= allowed)
    return usable & lost


def _breaks_down(got: list[np.ndarray], truth: list[np.ndarray], subject: Subject) -> bool:
    for g, t, out in zip(got, truth, subject.outputs, strict=True):
        t = _as_held(t, out.dtype)
        finite = np.isfinite(t)
        if (~np.isfinite(g[finite])).any():
            return True
        if largest(g[finite] - t[finite]) > BROKEN * largest(t):
            return True
    return False
