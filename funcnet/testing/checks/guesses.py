"""Simple mistakes that would account for every element of a wrong answer.

Each guess is tried on the numbers themselves, to six digits; what does not fit is not said. Where
several fit, the first is the one that says most.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from funcnet.testing.numerics.compare import Mismatch

CLOSE = 1e-6
# Relative errors below this come from approximations, constants and casts.
SMALL = 1e-2
# A number that a person would write down as a bound.
ROUND = 2


@dataclasses.dataclass(frozen=True)
class Clues:
    """What else is known when a guess is made.

    Attributes:
        arguments: every differentiated argument's value, by name.
        expected: every argument's expected cotangent for the same row, by name.
        second: the rule's answer for a second cotangent, None where there was none.
        sizes: names of sizes that people divide by, such as "the size of axis 0 of x".
        given: the outputs' cotangents, by name.
        outputs: the outputs, by name.
        without: the rule's answer for a cotangent of zeros, None where there was none.
        narrows: the dtype below float64 that the rule, not the function, computes in, or None.
    """

    arguments: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    second: np.ndarray | None
    sizes: Mapping[str, int]
    given: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    without: np.ndarray | None = None
    narrows: np.dtype | None = None


NO_CLUES = Clues({}, {}, None, {})


def guesses(mismatch: Mismatch, clues: Clues) -> Iterator[str]:
    """Simple mistakes that would explain the answer, the likeliest first."""
    got, expected = mismatch.got, mismatch.expected
    if not np.isfinite(got).all():
        yield from _non_finite(got, expected)
        return
    if not np.isfinite(expected).all():
        return
    if not got.any():
        yield "the rule returns zeros: a stop_gradient, a None, or a cotangent that was forgotten"
        return
    if clues.second is not None and same(got, clues.second):
        yield "the answer does not change with the cotangent: bwd must multiply by it"
    if clues.without is not None and np.isfinite(clues.without).all() and clues.without.any():
        yield (
            "a term of bwd does not have the cotangent as a factor: of a cotangent of zeros bwd is "
            "not zero"
        )
    kinds = [_ratio, _moved, _contracted, _factor, _masked]
    if np.abs(got - expected).max() > SMALL * np.abs(expected).max():
        kinds += [_projected, _along_axes, _terms_of_outputs]
    for kind in (*kinds, _small):
        yield from kind(got, expected, mismatch, clues)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal to six digits of the largest element, and not zero."""
    if a.shape != b.shape or not np.isfinite(b).all():
        return False
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return bool(scale > 0 and np.abs(a - b).max(initial=0) <= CLOSE * scale)


def number(value: complex) -> str:
    """A number with nine digits."""
    return f"{value:.9g}"


def _non_finite(got: np.ndarray, expected: np.ndarray) -> Iterator[str]:
    if np.isfinite(expected).any():
        kind = "NaN" if np.isnan(got).any() else "infinite"
        yield (
            f"the rule's answer is {kind}: an overflow, a division by zero, or infinity times zero "
            "in fwd or bwd"
        )


def _ratio(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """Everywhere the same factor."""
    if not expected.any():
        yield "the function does not depend on this argument here, so the answer is zero"
        return
    ratio = np.vdot(expected, got) / np.vdot(expected, expected)
    if expected.size < 2 and clues.second is None:
        return
    if not same(got, ratio * expected) or abs(ratio - 1) < CLOSE:
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
    norm = float(np.linalg.norm(got))
    if abs(ratio) < 1 and _is_round(norm):
        yield f"{text}, and its norm is {number(norm)}: clipped to that norm, or normalised?"
    yield f"{text}: a missing or superfluous factor"


def _is_round(value: float) -> bool:
    return bool(value > 0 and abs(value - round(value, ROUND)) <= CLOSE * value)


def _moved(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """The right numbers in the wrong place."""
    if got.ndim >= 2 and same(np.swapaxes(got, -1, -2), expected):
        yield "the transpose of the expected value"
    for other, value in clues.expected.items():
        if other != mismatch.name and same(got, value):
            yield f"this is the right answer for another argument, {other}: returned out of order?"
    if np.iscomplexobj(got) and same(np.conj(got), expected):
        yield "the complex conjugate of the expected value"
    for axis in range(got.ndim):
        if same(np.flip(got, axis), expected):
            yield f"the expected value with axis {axis} reversed"
        for shift in (1, -1):
            if got.shape[axis] > 2 and same(np.roll(got, shift, axis), expected):
                yield f"the expected value, off by one along axis {axis}"
    difference = got - expected
    if difference.size > 1 and same(difference, np.full_like(difference, difference.flat[0])):
        more = f"everywhere {number(difference.flat[0])} more than expected"
        yield f"{more}: a constant offset, or a missing mean"


def _contracted(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """A product, or a sum, of the cotangent over the wrong axis."""
    forms = dict(_forms(clues))
    right = next((name for name, value in forms.items() if same(value, expected)), None)
    wrong = next((name for name, value in forms.items() if same(value, got)), None)
    if right is not None and wrong is not None:
        yield f"the wrong axis is contracted: this is {wrong}, expected is {right}"


def _forms(clues: Clues) -> Iterator[tuple[str, np.ndarray]]:
    """Products and sums of cotangents, g, and arguments; each with its name."""
    for g in clues.given.values():
        for axis in range(g.ndim):
            yield f"g summed over axis {axis}", g.sum(axis=axis)
        for name, a in clues.arguments.items():
            if a.shape == g.shape:
                for axis in range(g.ndim):
                    yield f"g {name} summed over axis {axis}", (g * a).sum(axis=axis)
            if not a.ndim == g.ndim == 2:
                continue
            sides = (("g", g), ("gᵀ", g.T)), ((name, a), (f"{name}ᵀ", a.T))
            for one, two in itertools.product(*sides):
                for (left, x), (right, y) in ((one, two), (two, one)):
                    if x.shape[1] == y.shape[0]:
                        yield f"{left} {right}", x @ y


def _factor(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """A forgotten, or a superfluous, factor that is one of the arguments."""
    for name, value in clues.arguments.items():
        try:
            if np.broadcast_shapes(value.shape, got.shape) != got.shape:
                continue
        except ValueError:
            continue
        if same(got * value, expected):
            yield f"a missing factor {name}"
        if same(got, expected * value):
            yield f"multiplied by {name} once too often"
        if same(got * value**2, expected * value) or same(got, expected * value**2):
            yield f"a wrong power of {name}"


def _masked(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """Some elements are zero that should not be, or the other way round; or they are clipped."""
    wrong = mismatch.wrong
    count = f"{int(wrong.sum())} of {wrong.size} elements"
    if _is_clipped(got, expected, wrong):
        yield f"the expected value clipped to a magnitude of {number(np.abs(got).max())}"
    if not wrong.any() or not same(np.where(wrong, 0, got), np.where(wrong, 0, expected)):
        return
    if not got[wrong].any():
        yield f"zero in {count}, where the expected value is not{_where(wrong, clues)}: a mask?"
    if not expected[wrong].any():
        yield f"not zero in {count}, where the expected value is{_where(wrong, clues)}: no mask?"


def _is_clipped(got: np.ndarray, expected: np.ndarray, wrong: np.ndarray) -> bool:
    if np.iscomplexobj(got) or not wrong.any():
        return False
    bound = np.abs(got).max()
    if int(wrong.sum()) < 2 and not _is_round(float(bound)):
        return False
    clipped = np.clip(expected, -bound, bound)
    cut = np.abs(expected[wrong]) > (1 + 1e-3) * bound
    return bool(bound > 0 and cut.all() and np.abs(got - clipped).max() <= CLOSE * bound)


def _where(wrong: np.ndarray, clues: Clues) -> str:
    """The sign of an argument that tells the wrong elements from the others."""
    for name, value in clues.arguments.items():
        if value.shape != wrong.shape or np.iscomplexobj(value):
            continue
        for relation, mask in (("negative", value < 0), ("positive", value > 0)):
            if (mask == wrong).all():
                return f", everywhere where {name} is {relation}"
    return ""


def _along_axes(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """The answer is off by a term, or by a factor, that is the same along an axis."""
    if max(got.shape, default=0) == got.size:
        return  # along its only axis a term or a factor that is the same is one number
    for axis in _same_along(got - expected):
        yield (
            f"the rule minus the expected value is the same all along axis {axis}: a mean or a "
            "sum along it is missing, or is there twice"
        )
    if not (np.abs(expected) > CLOSE * np.abs(expected).max()).all():
        return
    for axis in _same_along(got / expected):
        yield (
            f"the rule over the expected value is the same all along axis {axis}: a factor "
            "that depends on the other axes is missing, or is there twice"
        )


def _same_along(values: np.ndarray) -> Iterator[int]:
    """The axes along which an array does not change."""
    for axis, size in enumerate(values.shape):
        if size > 1 and same(values, np.broadcast_to(values.take([0], axis), values.shape)):
            yield axis


def _terms_of_outputs(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """The answer is off by an output times a sum, as a softmax's is without its mean."""
    difference = got - expected
    for name, y in clues.outputs.items():
        if y.shape != difference.shape or not (np.abs(y) > CLOSE * np.abs(y).max()).all():
            continue
        for axis in _same_along(difference / y):
            yield (
                f"the rule minus the expected value is {name} times what is the same all along "
                f"axis {axis}: a term such as {name} times the sum of g {name} along it is "
                "missing, or is there twice"
            )


def _projected(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    """The right answer without one of its parts."""
    if got.size < 3:
        return
    for axis in (None, *range(got.ndim)):
        if axis is not None and (got.shape[axis] < 3 or got.ndim == 1):
            continue
        if same(got, expected - expected.mean(axis=axis, keepdims=True)):
            along = "" if axis is None else f" along axis {axis}"
            yield f"a projection of the expected value: its mean{along} is taken off"
    for name, value in clues.arguments.items():
        if value.shape != got.shape or value.shape[-1:] in ((), (1,)):
            continue
        for axis in {-1, None}:
            size = (np.abs(value) ** 2).sum(axis=axis, keepdims=True)
            part = value * (value.conj() * expected).sum(axis=axis, keepdims=True) / (size + 1e-300)
            if same(got, expected - part):
                yield f"a projection of the expected value: its part along {name} is taken off"
            if same(got, part):
                yield f"a projection of the expected value: only its part along {name} is left"


def _small(
    got: np.ndarray, expected: np.ndarray, mismatch: Mismatch, clues: Clues
) -> Iterator[str]:
    wrong = mismatch.wrong
    scale = np.abs(expected).max(initial=0)
    error = np.abs(got - expected).max(initial=0)
    if same(np.abs(got), np.abs(expected)) and error > CLOSE * scale:
        yield f"right in magnitude; the sign is wrong in {int(wrong.sum())} elements"
    elif scale and error <= SMALL * scale:
        off = f"right but for a relative {error / scale:.1g}"
        if clues.narrows is not None:
            yield f"{off}: a cast to {clues.narrows} in fwd or bwd"
        else:
            yield (
                f"{off}: an approximation, or a constant with too few digits; rtol= declares the "
                "exact slope of an approximated function"
            )
    elif 0 < wrong.sum() < wrong.size:
        yield f"only {int(wrong.sum())} of {wrong.size} elements are wrong: a mask, a boundary?"


Shape = tuple[int, ...]


def of_shape(got: Shape, want: Shape, name: str, shapes: Mapping[str, tuple[Shape, Shape]]) -> str:
    """What a cotangent's wrong shape suggests, or "".

    Args:
        got: its shape.
        want: the argument's.
        name: the argument's name.
        shapes: of every argument the shapes of its cotangent and of itself.
    """
    for other, (its, own) in shapes.items():
        if other != name and got == own and its == want:
            return f"the cotangents of {name} and {other} are swapped"
    summed = [axis for axis in range(len(got)) if got[:axis] + got[axis + 1 :] == want]
    if summed:
        return f"a broadcast is undone by a sum: sum over axis {' or '.join(map(str, summed))}"
    if len(got) == len(want):
        stretched = [i for i, (g, w) in enumerate(zip(got, want, strict=True)) if g != w]
        if all(want[i] == 1 for i in stretched):
            axes = ", ".join(map(str, stretched))
            return f"a broadcast is undone by a sum: sum over axis {axes}, with keepdims=True"
        if got[::-1] == want:
            return "transposed"
    if len(got) > len(want) and got[len(got) - len(want) :] == want:
        axes = ", ".join(map(str, range(len(got) - len(want))))
        return f"a broadcast is undone by a sum: sum over axes {axes}"
    if tuple(n for n in got if n != 1) == tuple(n for n in want if n != 1):
        return "an axis of length one was dropped or added: reshape it, or sum with keepdims=True"
    for other, (_, own) in shapes.items():
        if other != name and got == own:
            return f"it has the shape of {other}"
    return ""
