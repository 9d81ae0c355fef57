"""One run of every check on a rule: which are made, what stands in the way, what is found.

A failure stops only what depends on it; all else is still judged, so that one mistake does not
hide another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from funcnet.testing.checks import (
    accuracy,
    first_order,
    forward_mode,
    meshes,
    numerical,
    second_order,
    transforms,
)
from funcnet.testing.checks.subject import Declared, Skipped, Subject, Wrong
from funcnet.testing.pictures import Picture
from funcnet.testing.report import Check


@dataclasses.dataclass(frozen=True)
class Options:
    """How to check; see `check_vjp`."""

    reference: Callable[..., Any] | None
    order: int
    stress: tuple[float, ...]
    seed: int
    fast: bool
    sharding: bool
    declared: Declared
    invariant: bool
    seconds: float | None


Judge = Callable[[Subject, Options], None]


def _without_options(judge: Callable[[Subject], None]) -> Judge:
    return lambda subject, _: judge(subject)


def _accuracy(subject: Subject, options: Options) -> None:
    accuracy.accuracy(subject, () if subject.label else options.stress)


def _on_devices(judge: Callable[[Subject], None]) -> Judge:
    """A failure only where `sharding=True` asks for one, else a warning about portability."""

    def run(subject: Subject, options: Options) -> None:
        if reason := meshes.reason_to_skip(subject):
            if options.sharding:
                subject.notes.warnings.append(f"sharding=True, but {reason}: nothing was checked")
                return
            raise Skipped(reason)
        try:
            judge(subject)
        except Wrong as wrong:
            if options.sharding:
                raise
            subject.notes.warnings.append(f"portability: {wrong}")

    return run


CHECKS: dict[str, Judge] = {
    "constants": _without_options(first_order.constants),
    "primal": _without_options(first_order.primal),
    "cotangents": _without_options(first_order.cotangents),
    "formula": _without_options(first_order.formula),
    "linearity": _without_options(first_order.linearity),
    "finite_differences": _without_options(numerical.finite_differences),
    "kinks": _without_options(numerical.kinks),
    "forward_mode": _without_options(forward_mode.forward_mode),
    "second_order": _without_options(second_order.second_order),
    "accuracy": _accuracy,
    "repeat": _without_options(transforms.repeat),
    "jit": _without_options(transforms.jit),
    "vmap": _without_options(transforms.vmap),
    "checkpoint": _without_options(transforms.checkpoint),
    "scan": _without_options(transforms.scan),
    "alone": _without_options(transforms.alone),
    "empty": _without_options(transforms.empty),
    "auto_mesh": _on_devices(meshes.auto_mesh),
    "explicit_mesh": _on_devices(meshes.explicit_mesh),
    "shard_map": _on_devices(meshes.shard_map),
}
FAST_CHECKS = ("constants", "primal", "cotangents", "formula", "linearity", "accuracy")
# What is run at every point as well.
VALUE_CHECKS = (
    *("primal", "cotangents", "formula", "linearity"),
    *("finite_differences", "kinks", "accuracy"),
)
# Checks that say nothing while one of these fails.
DEPENDS: dict[str, tuple[str, ...]] = {
    "finite_differences": ("formula",),
    "kinks": ("formula",),
    "forward_mode": ("formula",),
    "second_order": ("cotangents", "formula", "forward_mode"),
    "scan": ("cotangents",),
    "empty": ("cotangents",),
}
TANGENTS = "forward_mode"
MESHES = ("auto_mesh", "explicit_mesh", "shard_map")
# Checks that trace the function.
TRACED = ("jit", "vmap", "checkpoint", "scan", "alone", "empty", *MESHES)


class Trial:
    """All checks of a rule, at its arguments and at every further point.

    Args:
        subjects: the rule at the arguments, then at the points.
        options: how to check.
    """

    def __init__(self, subjects: Sequence[Subject], options: Options):
        self.subjects: Sequence[Subject] = subjects
        self.options: Options = options
        self.failed: set[str] = set()
        self.fatal: str = ""
        self.causes: dict[str, str] = {}
        self.pictures: list[Picture] = []
        self._began: float = time.monotonic()

    def run(self) -> tuple[Check, ...]:
        """The rows of the report."""
        rows = [self._row(name) for name in CHECKS if self._applies(name)]
        return tuple(rows)

    def _applies(self, name: str) -> bool:
        """Whether a check is one for this kind of rule: forward mode is `custom_jvp`'s."""
        return name != TANGENTS or self.subjects[0].call.has_tangents

    def _row(self, name: str) -> Check:
        subject, options = self.subjects[0], self.options
        kinked = any(s.notes.findings for s in self.subjects)
        if reason := _reason_to_skip(name, options, kinked) or self._blocked(name):
            return Check(name, "skipped", (reason,))
        if subject.call.why_eager and name in TRACED:
            if name != "jit":
                return Check(name, "skipped", ("the function cannot be traced",))
            text = "the function does not run under jit; all was judged outside of it: "
            return Check(name, "warned", (text + subject.call.why_eager,))
        if options.seconds is not None and time.monotonic() - self._began > options.seconds:
            return Check(name, "skipped", ("no time left",))
        row, wrongs = self._judged(name)
        if wrongs:
            self.failed.add(name)
        return row

    def _blocked(self, name: str) -> str:
        """Why a check says nothing after what has failed, or ""."""
        if self.fatal:
            return f"there is nothing to judge while '{self.fatal}' fails"
        before = self.failed - {"second_order"} if name in MESHES else DEPENDS.get(name, ())
        blocking = next((other for other in CHECKS if other in before and other in self.failed), "")
        return f"it says nothing while '{blocking}' fails" if blocking else ""

    def _judged(self, name: str) -> tuple[Check, bool]:
        """Run one check on the arguments and on every further point."""
        wrongs: list[str] = []
        known: list[str] = []
        warned: list[str] = []
        remarks: list[str] = []
        for subject in self.subjects if name in VALUE_CHECKS else self.subjects[:1]:
            notes = subject.notes
            prefix = f"at {subject.label}: " if subject.label else ""
            try:
                CHECKS[name](subject, self.options)
            except Wrong as wrong:
                if wrong.cause in self.causes:
                    known.append(f"{prefix}raises what '{self.causes[wrong.cause]}' says")
                else:
                    self._remember(name, subject, wrong)
                    wrongs.append(prefix + str(wrong))
            except Skipped as skipped:
                return Check(name, "skipped", (str(skipped),)), False
            warned += [prefix + text for text in notes.warnings]
            remarks += [prefix + text for text in notes.remarks]
            notes.warnings.clear()
            notes.remarks.clear()
        if wrongs:
            return Check(name, "failed", (*wrongs, *warned)), True
        if known:
            return Check(name, "skipped", tuple(known)), False
        return Check(name, "warned" if warned else "passed", tuple(warned or remarks)), False

    def _remember(self, name: str, subject: Subject, wrong: Wrong) -> None:
        if wrong.fatal:
            self.fatal = name
        self.pictures += [
            Picture(m.name, m.row, m.got, m.expected, m.wrong) for m in wrong.mismatches
        ]
        if wrong.cause:
            self.causes[wrong.cause] = name
        if name in ("formula", "linearity", "accuracy"):
            subject.notes.distrusted |= wrong.leaves
        if name == "repeat":
            subject.notes.unsteady |= wrong.leaves


def _reason_to_skip(name: str, options: Options, kinked: bool) -> str:
    if options.fast and name not in FAST_CHECKS and not (name == "kinks" and kinked):
        return "fast=True"
    if name == "second_order" and options.order < 2:
        return "declared first-order only"
    if name == "finite_differences" and options.reference is not None:
        return "a reference was given, which need not be the slope of anything"
    return ""


def coverage(subject: Subject) -> tuple[str, ...]:
    """One line for each argument: whether its cotangent is zero, how much of it is right."""
    try:
        answers = subject.rule_rows.cotangents
    except Wrong:
        return ()
    lines = []
    for leaf, (name, got) in enumerate(zip(subject.call.names, answers, strict=True)):
        lines.append(f"{name}: {_covered(subject, leaf, got)}")
    return tuple(lines)


def _covered(subject: Subject, leaf: int, got: np.ndarray) -> str:
    with contextlib.suppress(ValueError):  # of another shape
        expected = subject.expected[1][leaf][: len(got)]
        if leaf in subject.zeroed and not got.any():
            return "cotangent identically zero, as declared"
        if not got[:2].any() and got.size:
            truth = "truth is not" if expected.any() else "and so is the truth"
            return f"cotangent identically zero, {truth}"
        wrong = subject.notes.wrong.get(leaf, np.zeros(got.shape[1:], bool))
        count = f"{wrong.size} element{'s' if wrong.size != 1 else ''}"
        return f"{int(wrong.sum())} of {count} wrong" if wrong.any() else f"{count} right"
    return "of the wrong shape"
