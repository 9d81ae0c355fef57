"""Where a rule and autodiff differ, finite differences decide; at a kink, both may be right.

An element of an argument is at a kink where the slopes on its two sides differ. Any number between
them is a valid choice there. The slopes are taken for every output by itself, since a cotangent
that mixes outputs may hide their kinks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np

from funcnet.testing.numerics import Arrays, differences
from funcnet.testing.numerics.compare import largest

# How many elements are looked into, and how many outputs are kept apart.
MOST_ELEMENTS = 96
MOST_OUTPUTS = 2048
# Finite differences this far off cannot decide.
USELESS = 1e-2
FINITE_DIFFERENCE_FACTOR = 10.0
FINITE_DIFFERENCE_TOLERANCE = 1e-8

Verdict = Literal["wrong", "kink", "outside", "twin", "undecided", "three"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One element for one cotangent: what the rule says and what was expected.

    Attributes:
        row: which cotangent.
        leaf: which argument.
        index: which of its elements, in flat order.
        got: the rule's value.
        expected: autodiff's value.
    """

    row: int
    leaf: int
    index: int
    got: complex
    expected: complex


@dataclasses.dataclass(frozen=True)
class Finding:
    """A case and its verdict.

    Attributes:
        case: the case.
        verdict: "wrong"; "kink" (between the one-sided slopes) or "outside" (of them); "twin" (the
            finite differences agree with the rule, not with autodiff); "undecided" (there is
            nothing to compare with); "three" (rule, autodiff and finite differences are three
            answers, of a function that leaves a phase or a scale free).
        low: the smaller end of what is allowed, real parts.
        high: the larger one.
        expected_agrees: whether finite differences agree with autodiff.
    """

    case: Case
    verdict: Verdict
    low: float
    high: float
    expected_agrees: bool = False


def choose(wrong: Sequence[np.ndarray], rng: np.random.Generator) -> set[tuple[int, int]]:
    """Some of the (leaf, index) pairs that are wrong for any row."""
    pairs = [
        (leaf, int(index))
        for leaf, mask in enumerate(wrong)
        for index in np.flatnonzero(mask.reshape(len(mask), -1).any(axis=0))
    ]
    if len(pairs) > MOST_ELEMENTS:
        pairs = [pairs[i] for i in rng.choice(len(pairs), MOST_ELEMENTS, replace=False)]
    return set(pairs)


def adjudicate(
    f: Callable[[Arrays, Arrays], Arrays],
    xs: Arrays,
    zs: Arrays,
    cts: Sequence[np.ndarray],
    cases: Sequence[Case],
    eps: float,
    free: bool = False,
    compiled: differences.Compile = jax.jit,
) -> list[Finding]:
    """Judge cases by the slopes of `f`.

    Args:
        f: the undecorated function, flat.
        xs: its differentiated inputs, in float64.
        zs: its other inputs.
        cts: for each output the stack of all cotangents.
        cases: the elements in question.
        eps: the rounding error of the function's evaluation.
        free: whether the function leaves a phase or a scale free.
        compiled: how `f` is compiled, if it can be.
    """
    elements = sorted({(case.leaf, case.index) for case in cases})
    coordinates = [
        coordinate
        for leaf, index in elements
        for coordinate in differences.coordinates_of(leaf, [index], xs[leaf])
    ]
    size = sum(int(np.prod(ct.shape[1:])) for ct in cts)
    if size <= MOST_OUTPUTS:
        weights = np.concatenate([ct.reshape(len(ct), -1) for ct in cts], axis=1)
        components = differences.flat_outputs(f, zs)
    else:
        weights = np.eye(len(cts[0]))
        components = differences.contracted(f, zs, cts)
    found = differences.slopes(components, xs, coordinates, eps, compiled)
    position = {coordinate: i for i, coordinate in enumerate(coordinates)}
    findings = [_judge(case, xs, found, weights[case.row], position) for case in cases]
    return [_absolved(finding) for finding in findings] if free else findings


def _absolved(finding: Finding) -> Finding:
    """Of a function with free factors: wrong only where autodiff agrees with the slopes."""
    if finding.verdict != "wrong" or finding.expected_agrees:
        return finding
    return dataclasses.replace(finding, verdict="three")


def _judge(
    case: Case,
    xs: Arrays,
    found: differences.Slopes,
    weights: np.ndarray,
    position: dict[differences.Coordinate, int],
) -> Finding:
    """The verdict for an element: that of its worse part, where it is complex."""
    parts = differences.coordinates_of(case.leaf, [case.index], xs[case.leaf])
    findings = []
    for coordinate in parts:
        got, expected = case.got, case.expected
        if coordinate.imaginary:
            # The slope along i is minus the imaginary part of JAX's cotangent.
            got, expected = 1j * got, 1j * expected
        row = position[coordinate]
        findings.append(_judge_real(case, np.real(got), np.real(expected), found, row, weights))
    worst: tuple[Verdict, ...] = ("wrong", "outside", "undecided", "twin", "kink")
    chosen = min(findings, key=lambda finding: worst.index(finding.verdict))
    agrees = all(finding.expected_agrees for finding in findings)
    return dataclasses.replace(chosen, expected_agrees=agrees)


def _judge_real(
    case: Case,
    got: float,
    expected: float,
    found: differences.Slopes,
    row: int,
    weights: np.ndarray,
) -> Finding:
    used = weights != 0
    w = weights[used]
    left, right = np.real(w * found.left[row][used]), np.real(w * found.right[row][used])
    left_error, right_error = found.left_error[row][used], found.right_error[row][used]
    # Where one side has no value (the end of a domain), the other one stands for both.
    left = np.where(np.isfinite(left_error), left, right)
    right = np.where(np.isfinite(right_error), right, left)
    error = np.where(np.isfinite(left_error), left_error, 0) + np.where(
        np.isfinite(right_error), right_error, 0
    )
    nothing = ~np.isfinite(left_error) & ~np.isfinite(right_error)
    low, high = float(np.minimum(left, right).sum()), float(np.maximum(left, right).sum())
    size = max(abs(low), abs(high), *map(largest, np.asarray([expected, got])))
    slack = FINITE_DIFFERENCE_FACTOR * float(np.abs(w) @ error) + differences.SMOOTH * size
    one_sided = bool((np.isfinite(left_error) != np.isfinite(right_error)).any())
    if nothing.any() or slack > USELESS * max(size, 1e-300) + abs(high - low):
        # An infinite slope, or no slope at all: a finite expectation still stands.
        verdict: Verdict = "undecided" if not np.isfinite(expected) else "wrong"
        return Finding(case, verdict, low, high)
    if bool(found.kinked[row][used].any()) or one_sided:
        inside = low - slack <= got <= high + slack
        return Finding(case, "kink" if inside else "outside", low, high)
    central = float(np.real(w @ found.central[row][used]))
    central_error = float(np.abs(w) @ found.central_error[row][used])
    tolerance = FINITE_DIFFERENCE_FACTOR * central_error + FINITE_DIFFERENCE_TOLERANCE * size
    agrees = abs(got - central) <= tolerance
    expected_agrees = abs(expected - central) <= tolerance
    verdict = "twin" if agrees and not expected_agrees else "wrong"
    return Finding(case, verdict, central, central, expected_agrees)
