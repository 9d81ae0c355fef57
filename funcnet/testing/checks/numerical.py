"""Checks 6 and 7: finite differences, and the convention at a kink."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from funcnet.testing.checks.guesses import number
from funcnet.testing.checks.subject import Subject, Wrong
from funcnet.testing.numerics import differences
from funcnet.testing.numerics.differences import Coordinate, Slopes
from funcnet.testing.references import derivatives
from funcnet.testing.references.adjudicate import (
    FINITE_DIFFERENCE_FACTOR,
    FINITE_DIFFERENCE_TOLERANCE,
    Finding,
)

# Elements per argument, and in all, at which differences are taken.
SAMPLE = 24
MOST_SAMPLES = 96
# Kinks looked at, and those that one output has together; how few points are looked at around
# them, how far off those are, and how close a mixture has to be.
MOST_AT_KINKS = 512
MOST_TOGETHER = 32
FEWEST_SAMPLES = 16
NEARBY = 1e-5
TOGETHER = 1e-2


def finite_differences(subject: Subject) -> None:
    """6. Slopes of the undecorated function, per coordinate, a sample for each argument.

    The formula has been found equal to autodiff's by now, so a difference here is no fault of the
    rule: something in the function (a stop_gradient, a step) keeps autodiff from its slope.
    """
    coordinates = _sample(subject)
    if not coordinates or not subject.is_wide:
        subject.notes.remarks.append("no float64 element to move")
        return
    rows = [0, 1]
    with subject.wide():
        cts = [array[rows] for array in subject.cts.arrays]
        f = differences.contracted(subject.differentiated, subject.zs, cts)
        compiled = subject.call.compiled
        found = differences.slopes(f, subject.xs64, coordinates, subject.eps, compiled)
    kinks = 0
    for i, coordinate in enumerate(coordinates):
        for row in rows:
            if found.kinked[i, row]:
                kinks += row == 0
            elif not _agrees(subject, coordinate, found, i, row):
                subject.notes.warnings.append(_text(subject, coordinate, found.central[i, row]))
                return
    remark = f"{len(coordinates)} coordinates"
    subject.notes.remarks.append(remark + (f", {kinks} at kinks" if kinks else ""))


def _sample(subject: Subject) -> list[Coordinate]:
    each = max(1, min(SAMPLE, MOST_SAMPLES // max(len(subject.xs), 1)))
    leaves = list(range(len(subject.xs)))
    if len(leaves) > MOST_SAMPLES:
        leaves = sorted(subject.rng.choice(len(leaves), MOST_SAMPLES, replace=False).tolist())
    coordinates: list[Coordinate] = []
    for leaf in leaves:
        x = subject.xs[leaf]
        is_free = subject.has_free_factors and subject.excused(leaf).any()
        if is_free or leaf in subject.zeroed:
            continue
        indices = np.arange(x.size)
        if x.size > each:
            indices = np.sort(subject.rng.choice(x.size, each, replace=False))
        coordinates += differences.coordinates_of(leaf, indices.tolist(), x)
    return coordinates


def _answer(subject: Subject, coordinate: Coordinate, row: int) -> float:
    value = subject.rule_rows.cotangents[coordinate.leaf][row].reshape(-1)[coordinate.index]
    return float(np.real(1j * value if coordinate.imaginary else value))


def _agrees(
    subject: Subject, coordinate: Coordinate, found: Slopes, position: int, row: int
) -> bool:
    slope, error = found.central[position, row], found.central_error[position, row]
    if not np.isfinite(error):
        return True
    answer = _answer(subject, coordinate, row)
    size = abs(slope) + subject.scales[coordinate.leaf]
    tolerance = FINITE_DIFFERENCE_FACTOR * error + FINITE_DIFFERENCE_TOLERANCE * size
    # A rule that rounds more coarsely, or whose slope is declared to be another's.
    tolerance += max(subject.rtol, subject.formula_tolerance) * size
    tolerance += subject.slack[1][coordinate.leaf]
    return not abs(answer - slope) > tolerance


def _text(subject: Subject, coordinate: Coordinate, slope: float) -> str:
    name = element_name(subject, coordinate.leaf, coordinate.index)
    answer = _answer(subject, coordinate, 0)
    return (
        f"at {name} the undecorated function's slope is {number(slope)} by finite "
        f"differences; the rule and {subject.source} agree on {number(answer)}. A "
        "stop_gradient or a step in the function would do this; the rule is not blamed"
    )


def element_name(subject: Subject, leaf: int, index: int) -> str:
    """An element of an argument, as in `weight[2, 0]`."""
    where = np.unravel_index(index, subject.xs[leaf].shape)
    return subject.call.names[leaf] + (
        f"[{', '.join(str(int(i)) for i in where)}]" if where else ""
    )


def kinks(subject: Subject) -> None:
    """7. At a kink the rule lies between the one-sided slopes."""
    findings = subject.notes.findings
    outside = [finding for finding in findings if finding.verdict == "outside"]
    if outside:
        raise Wrong(
            _kink_text(subject, outside[0], len({f.case.index for f in outside}))
            + "\n  the rule's value is not between the slopes on the two sides of the kink"
        )
    if any(finding.verdict == "kink" for finding in findings):
        _check_together(subject)
    warn = subject.notes.warnings.append
    for verdict, remark in (
        ("kink", "both lie between the slopes on the two sides, but the conventions differ"),
        ("twin", "finite differences agree with the rule, and autodiff is at fault"),
        ("undecided", "no finite slope was found there, so nothing was compared"),
        ("three", _FREE),
    ):
        chosen = [finding for finding in findings if finding.verdict == verdict]
        if chosen:
            count = len({(f.case.leaf, f.case.index) for f in chosen})
            warn(f"{_kink_text(subject, chosen[0], count)}\n  {remark}")


_FREE = (
    "rule, autodiff and finite differences are three answers: the function leaves a phase, a sign\n"
    "  or a scale free, and nobody is to blame. invariant= takes a map under which the answer is\n"
    "  determined, as lambda u, s, v: (u * s) @ v"
)


def _check_together(subject: Subject) -> None:
    """The rule's choices at several kinks go together, as at a tie, where they share a cotangent.

    Derivatives at points close by, where the function is smooth, span an affine space; every
    choice that is some mixture of them lies in it. A mixture of one output's choices is meant: with
    several outputs each may have its own.
    """
    masks = [subject.excused(leaf).reshape(-1) for leaf in range(len(subject.xs))]
    count = int(sum(mask.sum() for mask in masks))
    rows = subject.cts.where("one-hot")
    if not rows or count > MOST_AT_KINKS or not subject.is_wide:
        return
    samples = _neighbourhood(subject, masks, rows)  # (samples, rows, kinks)
    answers = np.concatenate(
        [
            a.reshape(len(a), -1)[rows][:, m]
            for a, m in zip(subject.rule_rows.cotangents, masks, strict=True)
        ],
        axis=1,
    )
    for position, row in enumerate(rows):
        cloud = samples[:, position]
        if not np.isfinite(cloud).all() or not np.isfinite(answers[position]).all():
            continue
        if _varying(cloud) > MOST_TOGETHER:
            continue
        distance = _distance(answers[position], cloud)
        if distance > TOGETHER * max(np.abs(cloud).max(), 1e-300):
            raise Wrong(_together_text(subject.cts.rows[row].label, answers[position], cloud))


def _together_text(label: str, answer: np.ndarray, cloud: np.ndarray) -> str:
    other = cloud[np.argmax(np.abs(cloud - cloud[0]).sum(axis=1))]
    return (
        f"at {_varying(cloud)} elements at kinks, for {label}, the rule's values "
        f"{_few(answer, cloud)} each lie between the slopes, but together they are no mixture of "
        f"the derivatives close by, such as {_few(cloud[0], cloud)} and {_few(other, cloud)}\n"
        "  guess: at a tie every one of the tied elements gets the whole cotangent, or none of "
        "them gets any"
    )


def _few(values: np.ndarray, cloud: np.ndarray) -> str:
    """Some of the values, of elements whose derivatives differ within the cloud."""
    values = values[np.ptp(np.abs(cloud), axis=0) > 0]
    shown = [number(np.real(value)) for value in values[:4]]
    return "(" + ", ".join(shown) + (", ...)" if len(values) > 4 else ")")


def _neighbourhood(subject: Subject, masks: list[np.ndarray], rows: Sequence[int]) -> np.ndarray:
    """Derivatives at points close by, so many that every choice of a tie is among them.

    Of n tied elements, each is the chosen one in a share 1 / n of the points: with n (log n + 7)
    points, all but one in a thousand times each has been.
    """
    found: list[np.ndarray] = []
    needed = FEWEST_SAMPLES
    while len(found) < needed:
        found += [_nearby(subject, masks)[rows] for _ in range(needed - len(found))]
        together = [_varying(cloud) for cloud in np.stack(found, axis=1)]
        most = max((n for n in together if n <= MOST_TOGETHER), default=1)
        needed = int(most * (np.log(max(most, 1)) + 7)) + 1
    return np.stack(found)


def _varying(cloud: np.ndarray) -> int:
    """How many elements have more than one derivative in a cloud."""
    size = TOGETHER * max(np.abs(cloud).max(initial=0.0), 1e-300)
    return int((np.abs(cloud - cloud[0]).max(axis=0) > size).sum())


def _nearby(subject: Subject, masks: list[np.ndarray]) -> np.ndarray:
    """The expected rows at the elements in `masks`, these moved a little: (rows, elements)."""
    moved = []
    for x, mask in zip(subject.xs64, masks, strict=True):
        x = np.asarray(x)
        size = float(np.sqrt(np.mean(np.abs(x) ** 2))) if x.size else 0.0
        step = NEARBY * (size or 1.0) * subject.rng.normal(size=x.shape)
        moved.append(x + np.where(mask.reshape(x.shape), step, 0.0))
    with subject.wide():
        xs = derivatives.widened(moved)
    found = subject.expected_at(xs)[1]
    parts = [e.reshape(len(e), -1)[:, m] for e, m in zip(found, masks, strict=True)]
    return np.concatenate(parts, axis=1)


def _distance(point: np.ndarray, cloud: np.ndarray) -> float:
    """How far a point is from the affine space that a cloud of points spans."""
    center = cloud.mean(axis=0)
    _, sizes, basis = np.linalg.svd(cloud - center, full_matrices=False)
    basis = basis[sizes > TOGETHER * max(sizes.max(initial=0.0), np.abs(center).max())]
    offset = point - center
    return float(np.linalg.norm(offset - basis.conj().T @ (basis @ offset)))


def _kink_text(subject: Subject, finding: Finding, count: int) -> str:
    case = finding.case
    name = element_name(subject, case.leaf, case.index)
    return (
        f"{count} element{'s' if count > 1 else ''}, the first is {name} = "
        f"{number(subject.value(case.leaf, case.index))}, for "
        f"{subject.cts.rows[case.row].label}:\n"
        f"    the rule's value  {number(case.got)}\n"
        f"    autodiff's        {number(case.expected)}\n"
        f"    slopes            {number(finding.low)} to {number(finding.high)}"
    )
