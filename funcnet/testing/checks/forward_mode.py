"""The tangents of a `jax.custom_jvp`: what forward mode gives, before JAX transposes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.testing.checks.explain import describe
from funcnet.testing.checks.guesses import NO_CLUES
from funcnet.testing.checks.subject import Skipped, Subject, Wrong, rule_errors
from funcnet.testing.numerics import Arrays, cotangents
from funcnet.testing.numerics.compare import Mismatch, largest, wrong_elements
from funcnet.testing.references import derivatives
from funcnet.testing.references.call import twin_function
from funcnet.testing.references.derivatives import Flat


def forward_mode(subject: Subject) -> None:
    """The tangents of the outputs, for two random directions and for a combination of them."""
    if subject.mode == "differences":
        raise Skipped("JAX cannot differentiate the function without its rule")
    with subject.wide():
        tangents = [tuple(map(jnp.asarray, each)) for each in _directions(subject)]
        expected = _pushed(subject, twin_function(subject.wide_twin), tangents)
        with rule_errors("differentiating in forward mode"):
            got = _pushed(subject, subject.call.function(), tangents)
    for row, label in enumerate(("a random tangent", "a second tangent", "the tangent 3 u - 2 v")):
        for i, name in enumerate(subject.output_names):
            g, e = got[row][i], expected[row][i]
            relative = max(subject.formula_tolerance, subject.rtol)
            wrong = wrong_elements(g, e, relative * (np.abs(e) + largest(e)))
            wrong &= not subject.notes.findings  # at a kink the two may differ
            if wrong.any():
                known = (name, i, label, g, e, wrong, subject.source, "float64", "tangent")
                raise Wrong(describe(Mismatch(*known), NO_CLUES))


def _directions(subject: Subject) -> list[list[np.ndarray]]:
    u, v = (
        [cotangents.random_numbers(subject.rng, x.shape, x.dtype) for x in subject.xs64]
        for _ in range(2)
    )
    for leaf in subject.zeroed:  # of these the rule has no derivative, by declaration
        u[leaf][...], v[leaf][...] = 0, 0
    return [u, v, [3 * a - 2 * b for a, b in zip(u, v, strict=True)]]


def _pushed(subject: Subject, f: Flat, tangents: list[Arrays]) -> list[list[np.ndarray]]:
    """The outputs' tangents for each of these, by one compiled program."""

    def run(xs: Arrays, tangents: Arrays) -> Arrays:
        return jax.jvp(lambda *xs: f(xs, subject.zs), xs, tangents)[1]

    compiled = subject.call.compiled(run, compat.QUICK_COMPILE)
    return [derivatives.host(compiled(subject.xs64, each)) for each in tangents]
