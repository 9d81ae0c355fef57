"""Each recorded rule is judged once, with arguments like those it was called with."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.testing.check_vjp import check_vjp
from funcnet.testing.recorded.rules import Example, RecordedRule
from funcnet.testing.report import MILD, Report, RuleError

# A check that has begun may take so many times the time that a rule has.
PATIENCE = 2
SECONDS = 10.0
WRONG, RIGHT, ONCE, UNJUDGED = "WRONG", "right", "right once", "not judged"


class _Late(BaseException):
    """Time is over."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found of a rule.

    Attributes:
        rule: its name.
        module: where it is defined.
        where: the file and the line.
        calls: how often it was called.
        verdict: "right", "WRONG", "right once" (wrong in second order alone) or "not judged".
        finding: the worst finding, or why it was not judged, in a line.
        arguments: what it was judged with, a line for each argument.
        report: the report, or None.
    """

    rule: str
    module: str
    where: str
    calls: int
    verdict: str
    finding: str = ""
    arguments: tuple[str, ...] = ()
    report: Report | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether the rule is wrong in first order."""
        return self.verdict == WRONG

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts, lists and strings, for JSON."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        report = None if self.report is None else self.report.to_dict()
        text = "" if self.report is None else str(self.report)
        return found | {"arguments": list(self.arguments), "report": report, "text": text}


class RulesError(AssertionError):
    """Some recorded rule is wrong. Its text is the table and the wrong rules' reports.

    Attributes:
        verdicts: all of them.
    """

    def __init__(self, verdicts: Verdicts):
        super().__init__(f"\n{verdicts}\n\n{verdicts.reports()}")
        self.verdicts: Verdicts = verdicts


class Verdicts(tuple[Verdict, ...]):
    """A verdict for each rule; a table when printed."""

    @classmethod
    def of(cls, rules: Iterable[RecordedRule], seconds: float, fast: bool) -> Verdicts:
        """Judge each rule; see `Recording.check`."""
        return cls(judged(rule, seconds, fast) for rule in rules)

    @property
    def wrong(self) -> Verdicts:
        """Those of wrong rules."""
        return Verdicts(verdict for verdict in self if verdict.is_wrong)

    def or_raise(self) -> Verdicts:
        """Itself, if no rule is wrong.

        Raises:
            RulesError: one is.
        """
        if self.wrong:
            raise RulesError(self)
        return self

    def __str__(self) -> str:
        header = ("rule", "defined in", "calls", "verdict", "finding")
        rows = [(v.rule, v.where, str(v.calls), v.verdict, v.finding) for v in self]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)][:-1]
        lines = [
            "  ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)), row[-1]])
            for row in (header, *rows)
        ]
        return "\n".join(line.rstrip() for line in lines)

    def reports(self) -> str:
        """The reports of the wrong rules, in full."""
        return "\n\n".join(str(verdict.report) for verdict in self.wrong)


def judged(rule: RecordedRule, seconds: float, fast: bool) -> Verdict:
    """The verdict on a rule."""
    unjudged = Verdict(rule.name, rule.module, rule.where, rule.calls, UNJUDGED)
    reason = "no call's arguments were kept"
    for example in _by_use(rule.examples.values()):
        with jax.enable_x64(example.x64), jax.disable_jit(False):
            for args in _arguments(example, rule.ranges):
                try:
                    with _at_most(seconds * PATIENCE):
                        report = _report(rule.fn, args, seconds, fast)
                except _Late:
                    late = f"it takes over {seconds * PATIENCE:g} s"
                    return dataclasses.replace(unjudged, finding=late)
                except Exception as error:  # arguments that don't suit, or too large for memory
                    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                    continue
                return _judged_by(report, unjudged, drawn=not example.is_known)
    return dataclasses.replace(unjudged, finding=reason)


def judged_by(name: str, module: str, where: str, check: Callable[[], Report]) -> Verdict:
    """The verdict on a rule of which the arguments were given."""
    unjudged = Verdict(name, module, where, 0, UNJUDGED)
    try:
        return _judged_by(check(), unjudged, drawn=False)
    except (TypeError, ValueError) as error:
        return dataclasses.replace(unjudged, finding=str(error).strip().splitlines()[0])


def _report(fn: Any, args: tuple[Any, ...], seconds: float, fast: bool) -> Report:
    try:
        return check_vjp(fn, args, fast=fast, seconds=seconds)
    except RuleError as error:
        return error.report


def _judged_by(report: Report, unjudged: Verdict, drawn: bool) -> Verdict:
    arguments = (*report.arguments, *(("drawn: the values were not seen",) if drawn else ()))
    judged = dataclasses.replace(unjudged, arguments=arguments, report=report)
    if report.passed:
        late = any("no time left" in text for check in report.checks for text in check.messages)
        finding = "not every check, for want of time" if late else ""
        finding = finding or (report.warnings[0].splitlines()[0] if report.warnings else "")
        return dataclasses.replace(judged, verdict=RIGHT, finding=finding)
    worst = report.failures[0]
    return dataclasses.replace(
        judged,
        verdict=ONCE if worst.name in MILD else WRONG,
        finding=f"{worst.name}: {worst.messages[0].splitlines()[0]}",
    )


def _by_use(examples: Iterable[Example]) -> list[Example]:
    """The examples, those first whose values are known, and of these those with most to see."""
    return sorted(examples, key=lambda e: (not e.is_known, not e.is_finite, e.size > 5000, -e.size))


def _arguments(
    example: Example, ranges: dict[int, tuple[float, float]]
) -> Iterator[tuple[Any, ...]]:
    """The arguments of an example; where values are not known, several drawings of them."""
    for drawing in range(1 if example.is_known else len(_DRAWINGS)):
        rng = np.random.default_rng(0)
        leaves = [_leaf(rng, leaf, ranges.get(i), drawing) for i, leaf in enumerate(example.leaves)]
        dynamic = iter(jax.tree.unflatten(example.structure, leaves))
        yield tuple(
            example.static[i] if i in example.static else next(dynamic)
            for i in range(example.count)
        )


# Numbers of any sign, positive ones, and probabilities: what a function may ask for.
_DRAWINGS = (
    lambda rng, shape: rng.normal(size=shape),
    lambda rng, shape: np.abs(rng.normal(size=shape)) + 0.5,
    lambda rng, shape: rng.uniform(0.1, 0.9, size=shape),
)


def _leaf(
    rng: np.random.Generator, leaf: Any, seen: tuple[float, float] | None, drawing: int
) -> Any:
    if isinstance(leaf, np.ndarray):
        return jnp.asarray(leaf)
    if not hasattr(leaf, "dtype") or isinstance(leaf, jax.Array):
        return leaf
    shape, dtype = leaf.shape, leaf.dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape) if shape else jax.random.key(0)
    if dtype == np.bool_:
        return jnp.asarray(rng.integers(0, 2, size=shape), dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        low, high = seen or (0, 1)
        return jnp.asarray(rng.integers(int(low), int(high) + 1, size=shape), dtype)
    if seen is not None and seen[0] < seen[1]:
        return jnp.asarray(rng.uniform(*seen, size=shape), dtype)
    values = _DRAWINGS[drawing](rng, shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * _DRAWINGS[drawing](rng, shape)
    return jnp.asarray(values, dtype)


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise `_Late` after so long; only where signals can be had, in the main thread."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_: Any) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
