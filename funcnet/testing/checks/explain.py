"""The text of a failure, written for someone who derives backward passes to learn how.

A guess is made only where one simple mistake accounts for every element.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from funcnet.testing.numerics.compare import Mismatch

CLOSE = 1e-6


@dataclasses.dataclass(frozen=True)
class Clues:
    """What else is known when a guess is made.

    Attributes:
        arguments: every differentiated argument's value, by name.
        expected: every argument's expected cotangent for the same row, by name.
        second: the rule's answer for a second cotangent, None where there was none.
        sizes: names of sizes that people divide by, such as "the size of axis 0 of x".
    """

    arguments: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    second: np.ndarray | None
    sizes: Mapping[str, int]


NO_CLUES = Clues({}, {}, None, {})


def describe(mismatch: Mismatch, clues: Clues) -> str:
    """Name the argument and the element, the two values, where the right one comes from."""
    index = mismatch.worst
    where = f"[{', '.join(map(str, index))}]" if index else ""
    count, total = int(mismatch.wrong.sum()), mismatch.wrong.size
    shape = f"shape {tuple(mismatch.got.shape)}"
    lines = [
        f"the cotangent of {mismatch.name} ({shape}, computed in {mismatch.dtype}) is wrong in "
        f"{count} of {total} element{'s' if total > 1 else ''}, for {mismatch.row}",
        f"  worst at {mismatch.name}{where}",
        f"    the rule's value  {number(mismatch.got[index])}",
        f"    expected          {number(mismatch.expected[index])}   from {mismatch.source}",
    ]
    guess = next(guesses(mismatch, clues), None)
    return "\n".join(lines + ([f"  guess: {guess}"] if guess else []))


def number(value: complex) -> str:
    """A number with nine digits."""
    return f"{value:.9g}"


def guesses(mismatch: Mismatch, clues: Clues) -> Iterator[str]:
    """Simple mistakes that would explain the answer, the likeliest first."""
    got, expected = mismatch.got, mismatch.expected
    if not np.isfinite(got).all():
        yield from _non_finite(got, expected)
        return
    if not np.isfinite(expected).all():
        return
    if not got.any():
        yield ("the rule returns zeros: a stop_gradient, a None, or a cotangent that was forgotten")
        return
    if clues.second is not None and _same(got, clues.second):
        yield "the answer does not change with the cotangent: bwd must multiply by it"
    yield from _ratio(got, expected, clues)
    yield from _moved(got, expected, mismatch.name, clues)
    yield from _factor(got, expected, clues)
    yield from _small(got, expected, mismatch.wrong)


def _non_finite(got: np.ndarray, expected: np.ndarray) -> Iterator[str]:
    if np.isfinite(expected).any():
        kind = "NaN" if np.isnan(got).any() else "infinite"
        yield (
            f"the rule's answer is {kind}: an overflow, a division by zero, or infinity times zero "
            "in fwd or bwd"
        )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or not np.isfinite(b).all():
        return False
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return bool(scale > 0 and np.abs(a - b).max(initial=0) <= CLOSE * scale)


def _ratio(got: np.ndarray, expected: np.ndarray, clues: Clues) -> Iterator[str]:
    if not expected.any():
        yield "the function does not depend on this argument here, so the answer is zero"
        return
    ratio = np.vdot(expected, got) / np.vdot(expected, expected)
    if expected.size < 2 and clues.second is None:
        return
    if not _same(got, ratio * expected) or abs(ratio - 1) < CLOSE:
        return
    if abs(ratio + 1) < CLOSE:
        yield "the sign is wrong: everywhere -1 times the expected value"
        return
    text = f"everywhere {number(ratio.real if ratio.imag == 0 else ratio)} times the expected value"
    for name, size in clues.sizes.items():
        if size > 1 and abs(ratio - size) < CLOSE * size:
            yield f"{text}: {size} is {name}; a sum where the function takes a mean?"
        if size > 1 and abs(ratio * size - 1) < CLOSE:
            yield f"{text}: 1 / {size}, where {size} is {name}; divided by it once too often?"
    for name, value in clues.arguments.items():
        constants = np.unique(value)
        if constants.size == 1 and abs(constants[0]) not in (0.0, 1.0):
            if abs(ratio * constants[0] - 1) < CLOSE:
                yield f"{text}: a missing factor {name}?"
            if abs(ratio - constants[0]) < CLOSE * abs(constants[0]):
                yield f"{text}: multiplied by {name} once too often?"
    yield f"{text}: a missing or superfluous factor"


def _moved(got: np.ndarray, expected: np.ndarray, name: str, clues: Clues) -> Iterator[str]:
    if got.ndim >= 2 and _same(np.swapaxes(got, -1, -2), expected):
        yield "the transpose of the expected value"
    for other, value in clues.expected.items():
        if other != name and _same(got, value):
            yield f"this is the right answer for another argument, {other}: returned out of order?"
    if np.iscomplexobj(got) and _same(np.conj(got), expected):
        yield "the complex conjugate of the expected value"
    for axis in range(got.ndim):
        if _same(np.flip(got, axis), expected):
            yield f"the expected value with axis {axis} reversed"
    difference = got - expected
    if difference.size > 1 and _same(difference, np.full_like(difference, difference.flat[0])):
        yield f"everywhere {number(difference.flat[0])} more than expected: a constant offset"


def _factor(got: np.ndarray, expected: np.ndarray, clues: Clues) -> Iterator[str]:
    """A forgotten, or a superfluous, factor that is one of the arguments."""
    for name, value in clues.arguments.items():
        try:
            if np.broadcast_shapes(value.shape, got.shape) != got.shape:
                continue
        except ValueError:
            continue
        if _same(got * value, expected):
            yield f"a missing factor {name}"
        if _same(got, expected * value):
            yield f"multiplied by {name} once too often"
        if _same(got * value**2, expected * value) or _same(got, expected * value**2):
            yield f"a wrong power of {name}"


def _small(got: np.ndarray, expected: np.ndarray, wrong: np.ndarray) -> Iterator[str]:
    scale = np.abs(expected).max(initial=0)
    error = np.abs(got - expected).max(initial=0)
    if _same(np.abs(got), np.abs(expected)) and error > CLOSE * scale:
        yield f"right in magnitude; the sign is wrong in {int(wrong.sum())} elements"
    elif scale and error <= 1e-6 * scale:
        yield (
            "right to about seven digits: a cast to float32, or a float32 constant, in fwd or bwd"
        )
    elif scale and error <= 1e-2 * scale:
        yield (
            f"right but for a relative {error / scale:.1g}: an approximation, a constant with too "
            "few digits, or a cast to a narrow dtype in fwd or bwd"
        )
    elif 0 < wrong.sum() < wrong.size:
        yield f"only {int(wrong.sum())} of {wrong.size} elements are wrong: a mask, a boundary?"
