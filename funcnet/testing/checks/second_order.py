"""Check 8: the derivative of the backward pass itself.

It is taken reverse over reverse and forward over reverse.

With H(x, g) the cotangent of x for the output's cotangent g, the first is the pullback of H, in x
and in g; the second is its derivative along a direction. Both compare the rule's H with the twin's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.testing.checks.explain import describe
from funcnet.testing.checks.guesses import NO_CLUES
from funcnet.testing.checks.subject import (
    Skipped,
    Subject,
    Wrong,
    first_line,
    narrowed,
    rule_errors,
)
from funcnet.testing.numerics import Arrays, cotangents
from funcnet.testing.numerics.compare import (
    OWN_ERROR_FACTOR,
    ROUNDING_FLOOR,
    Mismatch,
    largest,
    wrong_elements,
)
from funcnet.testing.references import derivatives
from funcnet.testing.references.adjudicate import Case, adjudicate
from funcnet.testing.references.derivatives import Flat, Pullback

MOST_CASES = 64
# Inputs (arguments and the output's cotangent), traced arguments, and directions.
Operands = tuple[Arrays, Arrays, Arrays, Arrays]
REVERSE = "second order, reverse over reverse"
FORWARD = "second order, forward over reverse"


def second_order(subject: Subject) -> None:
    """8. Differentiate the backward pass in both ways."""
    if any(finding.verdict == "three" for finding in subject.notes.findings):
        raise Skipped("the first derivative is not determined")
    if _is_all_autodiffs_fault(subject):
        raise Skipped("autodiff is at fault in the first derivative already")
    with subject.wide():
        trial = _Trial(subject)
        try:
            pullback = subject.pullback_of(subject.wide_twin)
            truth = trial.compiled(pullback, subject.mode == "reverse")
            expected = truth(*trial.operands)
        except Exception as error:
            subject.notes.warnings.append(
                f"autodiff of {subject.source} has no second derivative to compare with: "
                f"{type(error).__name__}"
            )
            return
        slack = trial.slack(truth, expected)
    rule = derivatives.reverse(subject.call.function())
    with subject.working() if subject.narrowing else subject.wide():
        operands = trial.rules_operands
        try:
            got = trial.compiled(rule, True)(*operands)
        except Exception:
            got = _run_apart(trial, rule, operands)
    with subject.wide():
        trial.compare(got, expected, slack)


def _is_all_autodiffs_fault(subject: Subject) -> bool:
    """Whether finite differences refute autodiff everywhere, as of a bisection."""
    at_fault = any(finding.verdict == "twin" for finding in subject.notes.findings)
    leaves = (leaf for leaf in range(len(subject.xs)) if leaf not in subject.zeroed)
    return at_fault and all(bool(subject.excused(leaf).all()) for leaf in leaves)


def _run_apart(trial: _Trial, rule: Pullback, operands: Operands) -> Any:
    """Find out which of the two ways raises; without jit, for rules that refuse it."""
    results = []
    for way, part in trial.parts(rule, True).items():
        try:
            with rule_errors(f"differentiating the backward pass ({way})"):
                results.append(part(*operands))
        except Wrong as wrong:
            if way == FORWARD or trial.subject.mode == "reverse":
                raise
            # The function itself (a while_loop) refuses reverse mode, and fwd runs the function.
            trial.subject.notes.warnings.append(f"{way} was not checked: {first_line(str(wrong))}")
            results.append(None)
    return tuple(results)


def _both_ways(found: Any) -> list[list[np.ndarray]]:
    (_, reverse), forward = found
    return [derivatives.host(reverse), derivatives.host(forward)]


class _Trial:
    """Random directions at the subject's arguments, moved off kinks."""

    def __init__(self, subject: Subject):
        self.subject, self.rng = subject, subject.rng
        self.xs = self._off_kinks()
        like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.xs]
        self.g = self._random(subject.wide_outputs)
        self.u = self._random(like)
        sizes = [np.sqrt(np.mean(np.abs(np.asarray(x)) ** 2)) if x.size else 1.0 for x in self.xs]
        self.v = tuple(
            d * (s or 1.0) for d, s in zip(self._random(like), map(float, sizes), strict=True)
        )
        self.w = self._random(subject.wide_outputs)

    def _random(self, like: Sequence[Any]) -> Arrays:
        return tuple(
            jnp.asarray(cotangents.random_numbers(self.rng, x.shape, x.dtype), x.dtype)
            for x in like
        )

    def _off_kinks(self) -> Arrays:
        """The arguments, with each element at which conventions differ moved a little."""
        if not self.subject.notes.findings:
            return self.subject.xs64
        moved = []
        for x, mask in zip(self.subject.xs64, self.subject.notes.excused, strict=True):
            size = float(np.sqrt(np.mean(np.abs(np.asarray(x)) ** 2))) if x.size else 0.0
            # Steps of different lengths: equal ones would leave tied elements tied.
            sign = self.rng.choice([-1.0, 1.0], size=x.shape)
            step = sign * self.rng.uniform(0.05, 0.15, size=x.shape) * (size or 1.0)
            moved.append(x + jnp.asarray(np.where(mask, step, 0.0), x.dtype))
        return tuple(moved)

    def flat(self, pullback: Pullback) -> Flat:
        """H as a flat function of the arguments and the cotangent."""
        count = len(self.xs)

        def h(inputs: Arrays, zs: Arrays) -> Arrays:
            return pullback(inputs[:count], zs, inputs[count:])[1]

        return h

    def parts(self, pullback: Pullback, reversible: bool) -> dict[str, Callable[..., Any]]:
        """The two computations, as functions of the inputs and of the directions."""
        h, mode = self.flat(pullback), derivatives.reverse if reversible else derivatives.forward

        def backward(inputs: Arrays, zs: Arrays, u: Arrays, directions: Arrays) -> Any:
            return mode(h)(inputs, zs, u)

        def forward(inputs: Arrays, zs: Arrays, u: Arrays, directions: Arrays) -> Any:
            # Under vmap, as jax.hessian does it: only then does JAX refuse a rule that forward
            # mode cannot pass.
            def along(*directions: Any) -> Any:
                return jax.jvp(lambda *inputs: h(inputs, zs), inputs, directions)[1]

            found = jax.vmap(along)(*(d[None] for d in directions))
            return tuple(derivative[0] for derivative in found)

        return {REVERSE: backward, FORWARD: forward}

    @property
    def operands(self) -> Operands:
        """What the parts are called with."""
        return (*self.xs, *self.g), self.subject.zs, self.u, (*self.v, *self.w)

    @property
    def rules_operands(self) -> Operands:
        """The same, in float32 for a rule that narrows float64."""
        if not self.subject.narrowing:
            return self.operands
        inputs, zs, u, directions = self.operands
        return narrowed(inputs), zs, narrowed(u), narrowed(directions)

    def compiled(self, pullback: Pullback, reversible: bool) -> Callable[..., Any]:
        """H and its pullback, then its derivative along the directions; one compiled program."""
        parts = list(self.parts(pullback, reversible).values())
        return self.subject.call.compiled(
            lambda *operands: tuple(part(*operands) for part in parts), compat.QUICK_COMPILE
        )

    def slack(self, truth: Callable[..., Any], expected: Any) -> list[list[float]]:
        """How far rounding below float64 moves each second derivative, of both ways."""
        every = [_both_ways(expected)]
        if self.subject.rounds_in is not None:
            for xs in self.subject.rounded_inputs(self.xs):
                every.append(_both_ways(truth((*xs, *self.g), *self.operands[1:])))
        return [
            [
                OWN_ERROR_FACTOR * max(largest(other[way][leaf] - e) for other in every)
                for leaf, e in enumerate(each)
            ]
            for way, each in enumerate(every[0])
        ]

    def compare(self, got: Any, expected: Any, slack: list[list[float]]) -> None:
        """Raise `Wrong` for the first of the two that is wrong."""
        reverse_got, forward_got = got
        (h, reverse_expected), forward_expected = expected
        # Where the first derivative itself is nothing but rounding, what cancelled counts.
        size = max(*map(largest, derivatives.host(h)), *self.subject.naturals)
        names = self.subject.call.names
        if reverse_got is not None:
            outputs = (f"the cotangent of {name}" for name in self.subject.output_names)
            inputs = derivatives.host((*self.xs, *self.g))
            naturals = [2 * size / (largest(x) or 1.0) for x in inputs]
            floor = [ROUNDING_FLOOR * n + s for n, s in zip(naturals, slack[0], strict=True)]
            self._compare(REVERSE, [*names, *outputs], reverse_got[1], reverse_expected, floor)
        floor = [ROUNDING_FLOOR * 2 * size + s for s in slack[1]]
        self._compare(FORWARD, list(names), forward_got, forward_expected, floor)

    def _compare(
        self, way: str, names: list[str], got: Any, expected: Any, floor: list[float]
    ) -> None:
        got, expected = derivatives.host(got), derivatives.host(expected)
        for leaf, (g, e) in enumerate(zip(got, expected, strict=True)):
            relative = max(self.subject.formula_tolerance, self.subject.rtol)
            tolerance = relative * (np.abs(e) + largest(e)) + floor[leaf]
            wrong = wrong_elements(g, e, tolerance)
            if not wrong.any():
                continue
            wrong = self._excuse(way, leaf, g, e, wrong)
            if wrong.any():
                label = f"{way}, with random directions"
                mismatch = Mismatch(
                    names[leaf], leaf, label, g, e, wrong, self.subject.source, "float64"
                )
                raise Wrong(describe(mismatch, NO_CLUES) + "\n" + _ADVICE)

    def _excuse(
        self, way: str, leaf: int, got: np.ndarray, expected: np.ndarray, wrong: np.ndarray
    ) -> np.ndarray:
        """What of `wrong` is left when kinks of the first derivative are taken out."""
        if not self.subject.can_judge_by_slopes:
            return wrong
        pullback = self.subject.pullback_of(self.subject.wide_twin)
        if self.subject.rtol:  # the slope is declared to be another's: that one is differentiated
            pullback = derivatives.reverse(self.subject.call.function())
        h = self.flat(pullback)
        indices = np.flatnonzero(wrong)[:MOST_CASES]
        values = [(complex(got.flat[i]), complex(expected.flat[i])) for i in indices]
        inputs = (*self.xs, *self.g)
        zs, eps = self.subject.zs, self.subject.eps
        if way == REVERSE:
            cases = [Case(0, leaf, int(i), *v) for i, v in zip(indices, values, strict=True)]
            cts = [np.asarray(u)[None] for u in self.u]
            compiled = self.subject.call.compiled
            findings = adjudicate(h, inputs, zs, cts, cases, eps, compiled=compiled)
        else:
            findings = self._along(h, leaf, indices, values, eps)
        left = wrong.copy()
        for finding, i in zip(findings, indices, strict=True):
            if finding.verdict != "wrong":
                left.reshape(-1)[i] = False
        if not left.reshape(-1)[indices].any():
            self.subject.notes.remarks.append(f"{len(indices)} elements at kinks of the derivative")
            left[...] = False
        return left

    def _along(
        self, h: Flat, leaf: int, indices: np.ndarray, values: list[Any], eps: float
    ) -> list[Any]:
        """Judge elements of H by its slopes along the directions."""
        inputs, directions = (*self.xs, *self.g), (*self.v, *self.w)

        def line(t: Arrays, zs: Arrays) -> Arrays:
            moved = tuple(x + t[0] * d for x, d in zip(inputs, directions, strict=True))
            return (jnp.take(h(moved, zs)[leaf].ravel(), jnp.asarray(indices)),)

        cts = [np.eye(len(indices))]
        cases = [Case(row, 0, 0, *value) for row, value in enumerate(values)]
        compiled = self.subject.call.compiled
        start = (jnp.zeros(()),)
        return adjudicate(line, start, self.subject.zs, cts, cases, eps, compiled=compiled)


_ADVICE = (
    "  The first order is right. A stop_gradient on a residual, a residual that is no plain\n"
    "  function of the inputs, or a custom rule inside fwd or bwd makes the second one wrong.\n"
    "  A rule that is first-order only on purpose is checked with order=1."
)
