"""`check_vjp`: the judge of a hand-written backward pass.

Priorities, in this order: no wrong rule passes; no right rule fails; a failure says which element
of which argument is wrong, what it should be and how one knows; a check takes seconds.

The checks run in a fixed order, each relying on what those before it have established. A failure
stops only what depends on it: every finding is in the report, the worst first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from funcnet._internal import compat
from funcnet.testing.checks.subject import Declared, Subject, first_line
from funcnet.testing.checks.traps import explain_exception, is_rules_fault
from funcnet.testing.references import twin as twins
from funcnet.testing.references.call import (
    RULES,
    Call,
    Composed,
    is_inexact,
    make_call,
    trace,
    without_partial,
)
from funcnet.testing.references.reference import make_reference
from funcnet.testing.report import NOT_REACHED, Check, Report, RuleError
from funcnet.testing.trial import CHECKS, TANGENTS, Options, Trial, coverage


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
    seconds: float | None = None,
    sharding: bool = False,
    rtol: float = 0.0,
    zero: Sequence[str] = (),
    invariant: Callable[..., Any] | None = None,
) -> Report:
    """Verify the hand-written backward pass of a function, or of every rule inside it.

    The rule is compared with JAX's autodiff of the same function with its rules erased, in float64
    and element by element; with finite differences where those two differ; then in the dtype of the
    arguments, at larger inputs, in second order and under JAX's transformations.

    Args:
        fn: a `jax.custom_vjp`, or any function that calls some: a layer, a loss, a whole model,
            through jit, scan, cond and checkpoint. Or a `jax.custom_jvp`, which is judged in both
            modes, or a function that calls such and no custom_vjp; a method of an object.
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
        seconds: no check begins when so many have passed; the report says which were left out. One
            that has begun goes on to its end.
        sharding: whether failures on several devices are failures, not warnings.
        rtol: declares that the rule is the exact slope of what the function approximates, such as a
            series cut off: how far, relatively, the two may be apart.
        zero: declares arguments, by name, whose cotangents are zeros by design.
        invariant: a map of fn's outputs under which the answer is determined, where the outputs
            leave a phase, a sign or a scale free: `lambda u, s, v: (u * s) @ v`. What it returns is
            judged.

    Returns:
        The report: a table when printed. Its `warnings` are worth reading.

    Raises:
        RuleError: (an AssertionError) a check fails; its text is the report.
        ValueError: `fn` does not run on `args`, holds no rule, or has nothing to differentiate; an
            option is out of range; `reference` does not fit; or the call stands inside jit.
        TypeError: an argument has the wrong type.
    """
    __tracebackhide__ = True
    _check_options(fn, args, reference, order, points, stress, seed)
    _check_declarations(rtol, zero, invariant, seconds)
    with _calm():
        declared = Declared(float(rtol), tuple(zero))
        options = Options(
            *(reference, order, tuple(stress), int(seed), fast, sharding),
            *(declared, invariant is not None, seconds),
        )
        fn = fn if invariant is None else Composed(fn, invariant)
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


def _check_declarations(rtol: Any, zero: Any, invariant: Any, seconds: Any) -> None:
    if seconds is not None and not _is_factor(seconds):
        raise ValueError(f"seconds must be a positive number or None, got {seconds!r}")
    if isinstance(rtol, bool) or not isinstance(rtol, (int, float)) or not 0 <= rtol < 1:
        raise ValueError(f"rtol must be a number from 0 to below 1, got {rtol!r}")
    names = isinstance(zero, (tuple, list)) and all(isinstance(name, str) for name in zero)
    if not names:
        raise TypeError(f"zero must be a sequence of arguments' names, got {zero!r}")
    if invariant is not None and not callable(invariant):
        raise TypeError(f"invariant must be a function, got {type(invariant).__name__}")


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
    __tracebackhide__ = True  # pytest shows the caller's line
    subjects = [_subject(fn, values, options, label) for label, values in _labelled(args, points)]
    trial, first = Trial(subjects, options), subjects[0]
    report = Report(
        _name(fn),
        first.call.describe(),
        trial.run(),
        _declarations(options),
        coverage(first),
        tuple(trial.pictures),
    )
    if not report.passed:
        raise RuleError(report)
    return report


def _declarations(options: Options) -> tuple[str, ...]:
    declared = options.declared
    lines = [f"rtol={declared.rtol:g}"] if declared.rtol else []
    lines += [f"zero={declared.zero!r}"] if declared.zero else []
    return (*lines, "invariant=, a map of the outputs") if options.invariant else tuple(lines)


def _labelled(
    args: tuple[Any, ...], points: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield "", args
    for i, point in enumerate(points):
        yield f"points[{i}]", point


def _name(fn: Callable[..., Any]) -> str:
    fn = without_partial(fn)
    fn = compat.described_by(fn.fn if isinstance(fn, Composed) else fn)
    return getattr(fn, "__name__", type(fn).__name__)


def _subject(
    fn: Callable[..., Any], args: tuple[Any, ...], options: Options, label: str
) -> Subject:
    call = _runnable(make_call(fn, args))
    if not call.diff:
        raise ValueError("args hold no floating-point number, so there is nothing to differentiate")
    if not any(map(is_inexact, jax.tree.leaves(call.output_shapes(call.undecorated())))):
        raise ValueError(f"{_name(fn)} returns no floating-point number: there is no derivative")
    call = _with_rule(call)
    _check_zero(call, options.declared.zero)
    reference = None
    if options.reference is not None:
        outputs = call.output_shapes(call.undecorated())
        reference = make_reference(options.reference, call, outputs)
    return Subject(call, reference, np.random.default_rng(options.seed), label, options.declared)


def _with_rule(call: Call) -> Call:
    """The call, with what is a rule in it: a `custom_jvp` only where there is no `custom_vjp`.

    Raises:
        ValueError: there is neither.
    """
    if isinstance(call.fn, jax.custom_vjp):
        return call
    if call.why_eager:
        with compat.rules_erased() as called:
            call.output_shapes(call.fn)
        holds_vjp, holds_jvp = (any(isinstance(r, kind) for r in called) for kind in RULES)
    else:
        closed = trace(call, call.fn, call.xs, call.zs)
        holds_vjp = twins.holds_rule(closed)
        holds_jvp = twins.holds_rule(closed, compat.is_own_jvp_rule)
    if holds_vjp:
        return call
    if holds_jvp or isinstance(call.fn, jax.custom_jvp):
        return dataclasses.replace(call, is_rule=compat.is_own_jvp_rule, has_tangents=True)
    raise ValueError(
        f"{_name(call.fn)} holds no jax.custom_vjp and no jax.custom_jvp of its own, so there is "
        "no hand-written backward pass to check"
    )


def _check_zero(call: Call, names: tuple[str, ...]) -> None:
    known = {*call.names, *call.owners}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"zero={names!r}: {unknown[0]!r} is no differentiated argument; these are "
            f"{', '.join(call.names)}"
        )


def _runnable(call: Call) -> Call:
    """The call, with Python floats kept as they are if the function cannot take them as arrays.

    Raises:
        ValueError: the function does not run on these arguments.
        RuleError: it does, but not with its rule.
    """
    try:
        call.output_shapes(call.undecorated())
    except Exception as error:
        for other in (call.with_fixed_scalars(), _eager(call, error)):
            with contextlib.suppress(Exception):
                other.output_shapes(other.undecorated())
                if other.diff:
                    return other
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


_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _eager(call: Call, error: Exception) -> Call:
    """The call, run as Python runs it where the function needs the values of its arguments."""
    if not isinstance(error, _NEEDS_VALUES):
        return call
    return dataclasses.replace(call, why_eager=first_line(f"{type(error).__name__}: {error}"))


def _rule_error(call: Call, error: Exception) -> RuleError:
    """A report for a function that does not even run, because of its rule."""
    text = explain_exception(error, "calling the function")
    rows = [Check("constants", "skipped", (NOT_REACHED,)), Check("primal", "failed", (text,))]
    rows += [
        Check(name, "skipped", (NOT_REACHED,)) for name in list(CHECKS)[2:] if name != TANGENTS
    ]
    return RuleError(Report(_name(call.fn), call.describe(), tuple(rows)))
