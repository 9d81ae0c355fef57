"""`check_vjp`: the judge of a hand-written backward pass.

Priorities, in this order: no wrong rule passes; no right rule fails; a failure says which element
of which argument is wrong, what it should be and how one knows; a check takes seconds.

The checks run in a fixed order, each relying on what those before it have established. The first
that fails is reported in full, and the rest are not run: they would repeat the same mistake.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from funcnet._internal import compat
from funcnet.testing.checks import (
    accuracy,
    first_order,
    meshes,
    numerical,
    second_order,
    transforms,
)
from funcnet.testing.checks.subject import Skipped, Subject, Wrong
from funcnet.testing.checks.traps import explain_exception, is_rules_fault
from funcnet.testing.references import twin as twins
from funcnet.testing.references.call import Call, is_inexact, make_call, trace
from funcnet.testing.references.reference import make_reference
from funcnet.testing.report import NOT_REACHED, Check, Report, RuleError


@dataclasses.dataclass(frozen=True)
class Options:
    """How to check; see `check_vjp`."""

    reference: Callable[..., Any] | None
    order: int
    stress: tuple[float, ...]
    seed: int
    fast: bool
    sharding: bool


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


def check_vjp(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    reference: Callable[..., Any] | None = None,
    order: int = 2,
    points: Sequence[tuple[Any, ...]] = (),
    stress: Sequence[float] = (1e2, 1e4),
    seed: int = 0,
    fast: bool = False,
    sharding: bool = False,
) -> Report:
    """Verify the hand-written backward pass of a function, or of every rule inside it.

    The rule is compared with JAX's autodiff of the same function with its rules erased, in float64
    and element by element; with finite differences where those two differ; then in the dtype of the
    arguments, at larger inputs, in second order and under JAX's transformations.

    Args:
        fn: a `jax.custom_vjp`, or any function that calls some: a layer, a loss, a whole model,
            through jit, scan, cond and checkpoint.
        args: its arguments, a tuple of pytrees of any shapes. Floating-point and complex leaves are
            differentiated; integers, booleans and PRNG keys are not; what stands at a rule's
            `nondiff_argnums` is passed on as it is. Random values of no special scale are best.
        reference: for a rule that is deliberately no derivative of its function: either a function
            of the same arguments whose autodiff (its own rules included) is right, or
            `(args, cotangent) -> cotangents`, with a tuple that has one entry for each argument
            (None for zeros). Linearity is then judged as the reference has it, and finite
            differences are left out.
        order: 1 declares a rule that is first-order only; 2 asks for second derivatives.
        points: more tuples of arguments at which values are checked, such as a kink or a saturated
            region.
        stress: factors on the inputs at which the answers have to stay finite and keep their digits
            where the truth and autodiff do.
        seed: of the random cotangents and samples.
        fast: only the first five checks, and accuracy.
        sharding: whether failures on several devices are failures, not warnings.

    Returns:
        The report: a table when printed. Its `warnings` are worth reading.

    Raises:
        RuleError: (an AssertionError) a check fails; its text is the report.
        ValueError: `fn` does not run on `args`, holds no rule, or has nothing to differentiate; an
            option is out of range; `reference` does not fit; or the call stands inside jit.
        TypeError: an argument has the wrong type.
    """
    _check_options(fn, args, reference, order, points, stress, seed)
    with _calm():
        options = Options(reference, order, tuple(stress), int(seed), fast, sharding)
        return _run(fn, args, points, options)


def _check_options(
    fn: Any, args: Any, reference: Any, order: Any, points: Any, stress: Any, seed: Any
) -> None:
    if compat.being_traced():
        raise ValueError("check_vjp runs functions itself; call it outside jit, vmap and grad")
    if not callable(fn):
        raise TypeError(f"fn must be a function, got {type(fn).__name__}")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of fn's arguments, got {type(args).__name__}")
    if reference is not None and not callable(reference):
        raise TypeError(f"reference must be a function, got {type(reference).__name__}")
    if not isinstance(points, (tuple, list)) or not all(isinstance(p, tuple) for p in points):
        raise TypeError(f"points must be a sequence of tuples of arguments, got {points!r}")
    if any(len(point) != len(args) for point in points):
        raise ValueError("every point needs as many arguments as args has")
    if not isinstance(stress, (tuple, list)) or not all(map(_is_factor, stress)):
        raise ValueError(f"stress must be a sequence of positive numbers, got {stress!r}")
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")


def _is_factor(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < float("inf")


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Warnings and JAX's strict modes off: what they would stop is judged by its value here."""
    with (
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ):
        warnings.simplefilter("ignore")
        yield


def _run(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    points: Sequence[tuple[Any, ...]],
    options: Options,
) -> Report:
    subjects = [_subject(fn, values, options, label) for label, values in _labelled(args, points)]
    rows: list[Check] = []
    for name, judge in CHECKS.items():
        # What is right once and wrong when differentiated twice is judged on.
        if any(row.status == "failed" and row.name != "second_order" for row in rows):
            rows.append(Check(name, "skipped", (NOT_REACHED,)))
        elif reason := _reason_to_skip(name, options, any(s.notes.findings for s in subjects)):
            rows.append(Check(name, "skipped", (reason,)))
        else:
            judged = subjects if name in VALUE_CHECKS else subjects[:1]
            rows.append(_judged(name, judge, judged, options))
    report = Report(_name(fn), subjects[0].call.describe(), tuple(rows))
    if not report.passed:
        raise RuleError(report)
    return report


def _reason_to_skip(name: str, options: Options, kinked: bool) -> str:
    if options.fast and name not in FAST_CHECKS and not (name == "kinks" and kinked):
        return "fast=True"
    if name == "second_order" and options.order < 2:
        return "declared first-order only"
    if name == "finite_differences" and options.reference is not None:
        return "a reference was given, which need not be the slope of anything"
    return ""


def _judged(name: str, judge: Judge, subjects: Sequence[Subject], options: Options) -> Check:
    """Run one check on the arguments and on every further point."""
    warned: list[str] = []
    remarks: list[str] = []
    for subject in subjects:
        notes = subject.notes
        prefix = f"at {subject.label}: " if subject.label else ""
        try:
            judge(subject, options)
        except Wrong as wrong:
            return Check(name, "failed", (prefix + str(wrong),))
        except Skipped as skipped:
            return Check(name, "skipped", (str(skipped),))
        warned += [prefix + text for text in notes.warnings]
        remarks += [prefix + text for text in notes.remarks]
        notes.warnings.clear()
        notes.remarks.clear()
    return Check(name, "warned" if warned else "passed", tuple(warned or remarks))


def _labelled(
    args: tuple[Any, ...], points: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield "", args
    for i, point in enumerate(points):
        yield f"points[{i}]", point


def _name(fn: Callable[..., Any]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__name__", type(fn).__name__)


def _subject(
    fn: Callable[..., Any], args: tuple[Any, ...], options: Options, label: str
) -> Subject:
    call = make_call(fn, args)
    if not call.diff:
        raise ValueError("args hold no floating-point number, so there is nothing to differentiate")
    call = _runnable(call)
    if not any(map(is_inexact, jax.tree.leaves(call.output_shapes(call.undecorated())))):
        raise ValueError(f"{_name(fn)} returns no floating-point number: there is no derivative")
    if not twins.holds_rule(trace(call, call.fn, call.xs, call.zs)):
        raise ValueError(
            f"{_name(fn)} holds no jax.custom_vjp, so there is no hand-written backward pass to "
            "check"
        )
    reference = None
    if options.reference is not None:
        outputs = call.output_shapes(call.undecorated())
        reference = make_reference(options.reference, call, outputs)
    return Subject(call, reference, np.random.default_rng(options.seed), label)


def _runnable(call: Call) -> Call:
    """The call, with Python floats kept as they are if the function cannot take them as arrays.

    Raises:
        ValueError: the function does not run on these arguments.
        RuleError: it does, but not with its rule.
    """
    try:
        call.output_shapes(call.undecorated())
    except Exception as error:
        fixed = call.with_fixed_scalars()
        with contextlib.suppress(Exception):
            fixed.output_shapes(fixed.undecorated())
            if fixed.diff:
                return fixed
        if is_rules_fault(error):
            raise _rule_error(call, error) from error
        raise ValueError(
            f"{_name(call.fn)} does not run on these arguments: {type(error).__name__}: {error}"
        ) from error
    try:
        call.output_shapes(call.fn)
    except Exception as error:
        raise _rule_error(call, error) from error
    return call


def _rule_error(call: Call, error: Exception) -> RuleError:
    """A report for a function that does not even run, because of its rule."""
    text = explain_exception(error, "calling the function")
    rows = [Check("constants", "skipped", (NOT_REACHED,)), Check("primal", "failed", (text,))]
    rows += [Check(name, "skipped", (NOT_REACHED,)) for name in list(CHECKS)[2:]]
    return RuleError(Report(_name(call.fn), call.describe(), tuple(rows)))
