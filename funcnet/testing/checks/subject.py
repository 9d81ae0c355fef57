"""One rule at one set of arguments, and what every check needs to know about it.

Two computations stand side by side: the *working* one, in the dtypes the arguments were given in
and under the caller's own 64-bit setting, and the *wide* one in float64, where a formula can be
told from its rounding. Each has the rule and its un-ruled twin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from funcnet.testing.checks.guesses import Clues
from funcnet.testing.checks.traps import explain_exception, users_frame
from funcnet.testing.numerics import Arrays, cotangents, differences
from funcnet.testing.numerics.compare import (
    FORMULA_TOLERANCE,
    OWN_ERROR_FACTOR,
    ULPS,
    Mismatch,
    largest,
)
from funcnet.testing.references import derivatives
from funcnet.testing.references import twin as twins
from funcnet.testing.references.adjudicate import Case, Finding, adjudicate
from funcnet.testing.references.call import Call, is_inexact, make_twin, twin_function
from funcnet.testing.references.derivatives import Pullback
from funcnet.testing.references.reference import Reference

# Rows x numbers held at once: bounds the memory of a batch of pullbacks.
BATCH_NUMBERS = 4_000_000


# Numbers that are moved one by one where autodiff does not apply, and how close a rule must be.
MOST_DIFFERENCES = 512
DIFFERENCES_TOLERANCE = 1e-6
_AUTODIFF: dict[str, Callable[..., Pullback]] = {
    "reverse": derivatives.reverse,
    "forward": derivatives.forward,
}
# Cotangents pulled back one by one when a rule refuses jit or vmap.
FEW_ROWS = 14


class Wrong(Exception):  # noqa: N818 - it is a verdict, and never leaves this package
    """A check has failed; the message says why.

    Attributes:
        leaves: the arguments whose cotangents are wrong.
        fatal: whether no later check can be made: the answer has not even the right structure.
        cause: the exception that the rule raised; the same one in a later check is not news.
        mismatches: the cotangents that are wrong, element by element.
    """

    def __init__(
        self,
        text: str,
        *,
        leaves: Sequence[int] = (),
        fatal: bool = False,
        cause: str = "",
        mismatches: Sequence[Mismatch] = (),
    ):
        super().__init__(text)
        self.leaves: frozenset[int] = frozenset(leaves)
        self.fatal: bool = fatal
        self.cause: str = cause
        self.mismatches: tuple[Mismatch, ...] = tuple(mismatches)


class Skipped(Exception):  # noqa: N818 - likewise
    """A check does not apply; the message says why."""


@contextlib.contextmanager
def rule_errors(doing: str) -> Iterator[None]:
    """Turn an exception raised by the rule into the failure of a check."""
    try:
        yield
    except Exception as error:
        cause = f"{type(error).__name__} at {users_frame(error) or error}"
        raise Wrong(explain_exception(error, doing), cause=cause) from error


@dataclasses.dataclass(frozen=True)
class Declared:
    """What the user says about a rule.

    Attributes:
        rtol: how far, relatively, the rule's slope may be from the function's.
        zero: arguments, by name, whose cotangents are zeros by design.
    """

    rtol: float = 0.0
    zero: tuple[str, ...] = ()


class RuleRows(NamedTuple):
    """The rule's answers in the wide computation.

    Attributes:
        rows: which rows of the cotangents were pulled back.
        outputs: fwd's floating-point outputs.
        cotangents: for each argument an array (rows, *shape).
        dtypes: the dtypes that the cotangents had.
    """

    rows: list[int]
    outputs: list[np.ndarray]
    cotangents: list[np.ndarray]
    dtypes: list[Any]

    @classmethod
    def make(cls, rows: Iterable[int], outputs: Arrays, cotangents: Arrays) -> RuleRows:
        """The answers as NumPy arrays, with the dtypes they had."""
        dtypes = [ct.dtype for ct in cotangents]
        return cls(list(rows), derivatives.host(outputs), derivatives.host(cotangents), dtypes)


class ForwardTypes(NamedTuple):
    """The types of what fwd returns.

    Attributes:
        structure: the structure of fwd's output.
        leaves: the shape and dtype of each of its leaves.
    """

    structure: Any
    leaves: list[tuple[tuple[int, ...], Any]]


@dataclasses.dataclass
class Notes:
    """What checks leave for the report, and for later checks.

    Attributes:
        warnings: what the running check warns of.
        remarks: what it says when it passes.
        findings: elements at which rule and autodiff differ for a good reason.
        excused: for each argument, where its elements are.
        wrong: for each argument, which elements were found wrong by the formula.
        distrusted: arguments whose cotangents were found wrong; later checks compare them with the
            rule's own answers, for what else is wrong.
        unsteady: arguments whose cotangents change from call to call.
    """

    warnings: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    excused: list[np.ndarray] = dataclasses.field(default_factory=list)
    wrong: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    distrusted: set[int] = dataclasses.field(default_factory=set)
    unsteady: set[int] = dataclasses.field(default_factory=set)


NOTHING_DECLARED = Declared()


class Subject:
    """A rule at one set of arguments.

    Args:
        call: the function and its arguments.
        reference: what to expect instead of the twin's derivative, or None.
        rng: where random cotangents come from.
        label: what a report calls these arguments; empty for the first ones.
        declared: what the user says about the rule.
    """

    def __init__(
        self,
        call: Call,
        reference: Reference | None,
        rng: np.random.Generator,
        label: str = "",
        declared: Declared = NOTHING_DECLARED,
    ):
        self.call: Call = call
        self.reference: Reference | None = reference
        self.rng: np.random.Generator = rng
        self.label: str = label
        self._has_x64: bool = jnp.asarray(0.0).dtype == jnp.float64
        self.rtol: float = declared.rtol
        self.zeroed: list[int] = _named(call, declared.zero)
        self.xs: Arrays = call.xs
        self.zs: Arrays = call.zs
        self.notes: Notes = Notes()
        self.undecorated: Callable[..., Any] = call.undecorated()
        self.output_tree: Any = call.output_shapes(self.undecorated)
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.output_tree)
        self.outputs: list[Any] = [leaf for _, leaf in leaves if is_inexact(leaf)]
        self.output_names: list[str] = [
            "output" + keystr(path) for path, leaf in leaves if is_inexact(leaf)
        ]
        self.working_twin: Any = make_twin(call, self.undecorated, self.xs, self.zs)
        self.wide_twin: Any
        self.xs64: Arrays
        self.wide_twin, self.xs64 = self._widen()
        self.narrow: np.dtype | None = (
            twins.narrowest_float(self.wide_twin) if self.is_wide and not call.why_eager else None
        )
        self.cts: cotangents.Cotangents = cotangents.make_cotangents(
            rng, self.outputs, self.output_names, self._limit()
        )

    def _widen(self) -> tuple[Any, Arrays]:
        """The twin traced in float64, or the working one where the function refuses float64."""
        with jax.enable_x64(True):
            xs64 = derivatives.widened(self.xs)
            try:
                return make_twin(self.call, self.undecorated, xs64, self.zs), xs64
            except Exception as error:
                self.notes.warnings.append(
                    "the function does not accept float64, so that formula and rounding cannot be "
                    f"told apart: {first_line(f'{type(error).__name__}: {error}')}"
                )
        return self.working_twin, self.xs

    def _limit(self) -> int:
        """How many one-hot cotangents there is room for."""
        size = sum(x.size for x in self.xs) + sum(int(np.prod(o.shape)) for o in self.outputs)
        return int(np.clip(BATCH_NUMBERS // max(size, 1) - 6, 0, cotangents.ONE_HOT_LIMIT))

    @property
    def is_wide(self) -> bool:
        """Whether the function accepts float64."""
        return self.wide_twin is not self.working_twin

    @contextlib.contextmanager
    def wide(self) -> Iterator[None]:
        """64-bit types on, where the function accepts them."""
        with jax.enable_x64(True) if self.is_wide else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """64-bit types as the caller has them, inside of `wide` too."""
        with jax.enable_x64(self._has_x64):
            yield

    # What is expected.

    @property
    def source(self) -> str:
        """Where expected values come from, in words."""
        if self.reference is not None:
            return self.reference.source
        precision = "float64" if self.is_wide else "the working dtype"
        if self.mode == "differences":
            return f"finite differences of the undecorated function, in {precision}"
        mode = " (in forward mode)" if self.mode == "forward" else ""
        return f"JAX's autodiff{mode} of the undecorated function, in {precision}"

    @functools.cached_property
    def mode(self) -> str:
        """How the twin is differentiated: "reverse", "forward", or else by "differences"."""
        f = twin_function(self.wide_twin)
        with self.wide():
            cts = tuple(jnp.zeros(out.shape, out.dtype) for out in self.wide_outputs)
            for mode, pullback in _AUTODIFF.items():
                with contextlib.suppress(Exception):
                    if self.call.why_eager:
                        pullback(f)(self.xs64, self.zs, cts)
                    else:
                        jax.eval_shape(pullback(f), self.xs64, self.zs, cts)
                    return mode
        return "differences"

    @functools.cached_property
    def wide_outputs(self) -> list[Any]:
        """Shapes and dtypes of the floating-point outputs of the wide computation."""
        return list(self.wide_twin.out_avals)

    def pullback_of(self, twin: Any) -> Pullback:
        """The pullback that the rule has to equal: the reference's, or this twin's."""
        outputs = twin_function(twin)
        if self.reference is not None:
            given = self.reference.pullback(self.call)
            return lambda xs, zs, ct: (outputs(xs, zs), self._zeroed(given(xs, zs, ct)[1]))
        derived = _AUTODIFF[self.mode](outputs)

        def pullback(xs: Arrays, zs: Arrays, ct: Arrays) -> tuple[Arrays, Arrays]:
            out, found = derived(xs, zs, ct)
            return out, self._zeroed(found)

        return pullback

    def _zeroed(self, cts: Arrays) -> Arrays:
        """Cotangents, zero for the arguments that are declared so."""
        return tuple(
            jnp.zeros_like(ct) if leaf in self.zeroed else ct for leaf, ct in enumerate(cts)
        )

    def rows(self, pullback: Pullback, strict: bool = False) -> derivatives.Rows:
        """The pullback of a stack of cotangents, compiled where the function can be."""
        if self.call.why_eager:
            return derivatives.rows_one_by_one(pullback)
        return derivatives.rows(pullback, strict)

    @functools.cached_property
    def _expected_rows(self) -> derivatives.Rows:
        return self.rows(self.pullback_of(self.wide_twin))

    def expected_at(self, xs64: Arrays) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Outputs, and the expected cotangents of every row, at these inputs."""
        with self.wide():
            if self.mode == "differences" and self.reference is None:
                return self._by_differences(xs64)
            cts = derivatives.cast(self.cts.arrays, self.wide_outputs)
            out, found = self._expected_rows(xs64, self.zs, cts)
            return derivatives.host(out), derivatives.host(found)

    def _by_differences(self, xs64: Arrays) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Outputs and every row's cotangents by finite differences, for want of autodiff."""
        f = twin_function(self.wide_twin)
        coordinates = [
            coordinate
            for leaf, x in enumerate(xs64)
            for coordinate in differences.coordinates_of(leaf, range(x.size), x)
        ]
        if len(coordinates) > MOST_DIFFERENCES:
            raise ValueError(
                f"JAX cannot differentiate {self.call.fn!r} without its rule, and finite "
                f"differences of more than {MOST_DIFFERENCES} numbers take too long: check it on "
                "smaller arguments"
            )
        cts = differences.contracted(f, self.zs, self.cts.arrays)
        found = differences.slopes(cts, xs64, coordinates, self.eps, self.call.compiled)
        rows = [np.zeros((len(self.cts.rows), x.size), np.asarray(x).dtype) for x in xs64]
        for i, (leaf, index, imaginary) in enumerate(coordinates):
            rows[leaf][:, index] += found.central[i] * (-1j if imaginary else 1)
        for leaf in self.zeroed:
            rows[leaf][:] = 0
        shaped = [row.reshape(len(row), *x.shape) for row, x in zip(rows, xs64, strict=True)]
        return derivatives.host(f(xs64, self.zs)), shaped

    @functools.cached_property
    def expected(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Outputs, and the expected cotangents of every row, at the arguments."""
        return self.expected_at(self.xs64)

    @functools.cached_property
    def scales(self) -> list[float]:
        """Each argument's largest expected magnitude over the dense and the one-hot rows."""
        rows = self.cts.where("dense", "one-hot")
        return [largest(e[rows]) for e in self.expected[1]]

    @functools.cached_property
    def naturals(self) -> list[float]:
        """Each argument's |g| |f| / |x|: the size of what cancels where the answer is zero."""
        top = max((largest(out) for out in self.expected[0]), default=0.0)
        g = max((largest(array[:2]) for array in self.cts.arrays), default=0.0)
        return [g * top / (largest(x) or 1.0) for x in derivatives.host(self.xs)]

    @functools.cached_property
    def formula_tolerance(self) -> float:
        """The relative tolerance of the wide computation."""
        if self.mode == "differences" and self.reference is None:
            return DIFFERENCES_TOLERANCE
        if self.is_wide and self.rounds_in is None:
            return FORMULA_TOLERANCE
        dtypes = [self.rounds_in] if self.rounds_in is not None else [x.dtype for x in self.xs]
        return ULPS * max(float(jnp.finfo(dtype).eps) for dtype in dtypes)

    @property
    def rounds_in(self) -> np.dtype | None:
        """The dtype below float64 that the function, or else the rule, computes in; or None."""
        if self.narrow is not None or not self.narrowing:
            return self.narrow
        single, own = np.dtype(np.float32), self._rule_narrows
        is_coarser = own is not None and jnp.finfo(own).eps > jnp.finfo(single).eps
        return own if is_coarser else single

    @functools.cached_property
    def slack(self) -> tuple[list[float], list[float]]:
        """How far rounding below float64 moves the outputs, and each cotangent.

        Found by moving the inputs as far as the narrow dtype rounds them.
        """
        outputs, cts = self.expected
        if self.rounds_in is None or self.mode == "differences":
            return [0.0] * len(outputs), [0.0] * len(cts)
        rows = self.cts.where("dense", "one-hot")
        moved = [self.expected_at(xs) for xs in self.rounded_inputs(self.xs64)]
        return (
            [
                OWN_ERROR_FACTOR * max(largest(m[0][i] - o) for m in moved)
                for i, o in enumerate(outputs)
            ],
            [
                OWN_ERROR_FACTOR * max(largest((m[1][i] - e)[rows]) for m in moved)
                for i, e in enumerate(cts)
            ],
        )

    def rounded_inputs(self, xs: Arrays) -> list[Arrays]:
        """Inputs moved by a unit in the last place of the dtype that is computed in, at random."""
        rng, eps = np.random.default_rng(0), float(jnp.finfo(self.rounds_in or np.float64).eps)
        moved = [
            [np.asarray(x) * (1 + eps * rng.choice([-1.0, 1.0], size=x.shape)) for x in xs]
            for _ in range(2)
        ]
        with self.wide():
            return [derivatives.widened(each) for each in moved]

    @functools.cached_property
    def narrowing(self) -> str:
        """How the rule, not the function, computes in float32 at most; or "" if it does not.

        Of arguments no wider than float32 such a rule is right for its users.
        """
        if not self.is_wide or self.narrow is not None or self.call.why_eager:
            return ""
        single = float(jnp.finfo(np.float32).eps)
        widest = min(float(jnp.finfo(x.dtype).eps) for x in self.xs)
        if widest < single:
            return ""
        traced = self._traced
        if isinstance(traced, Exception):
            with contextlib.suppress(Exception), self.working():
                jax.eval_shape(derivatives.reverse(self.call.function()), *self._single())
                text = f"{type(traced).__name__}: {traced}"
                return f"the rule refuses float64: {first_line(text)}"
            return ""
        if traced is None or float(jnp.finfo(traced).eps) > widest or self._is_exact:
            return ""
        return f"the rule computes in {traced} where its arguments are float64"

    @functools.cached_property
    def _traced(self) -> np.dtype | Exception | None:
        """The narrowest dtype in fwd and bwd of float64 arguments, if below float64.

        Or what they raise.
        """
        try:
            with self.wide():
                cts = tuple(jnp.zeros(out.shape, out.dtype) for out in self.wide_outputs)
                pullback = derivatives.reverse(self.call.function())
                closed = jax.make_jaxpr(pullback)(self.xs64, self.zs, cts)
                return twins.narrowest_float(closed)
        except Exception as error:
            return error

    @property
    def _is_exact(self) -> bool:
        """Whether the rule's answers in float64 are right to float64's precision, row by row.

        At inputs moved a little: those of a narrow dtype have products that it can hold.
        """
        rng = np.random.default_rng(0)
        moved = [np.asarray(x) * (1 + 1e-5 * rng.uniform(-1, 1, x.shape)) for x in self.xs64]
        with self.wide():
            xs = derivatives.widened(moved)
            cts = derivatives.cast(self.cts.arrays, self.wide_outputs)
            found = self._answers(xs, cts, "differentiating in float64")
        outputs, expected = self.expected_at(xs)
        pairs = [*zip(found.outputs, outputs, strict=True)]
        for got, want in zip(found.cotangents, expected, strict=True):
            pairs += zip(got, want[found.rows], strict=True)
        return all(largest(g - e) <= FORMULA_TOLERANCE * largest(e) for g, e in pairs)

    def _single(self) -> tuple[Arrays, Arrays, Arrays]:
        """Arguments and a cotangent of each output in float32, for a rule that narrows float64."""
        xs = narrowed(self.xs64)
        out = jax.eval_shape(self.call.function(self.undecorated), xs, self.zs)
        return xs, self.zs, tuple(jnp.zeros(o.shape, o.dtype) for o in out)

    # What the rule answers.

    @property
    def rule_rows(self) -> RuleRows:
        """The rule's outputs and cotangents in the wide computation.

        Raises:
            Wrong: the rule raises an exception.
        """
        return _given(self._rule_rows)

    @functools.cached_property
    def _rule_rows(self) -> RuleRows | Wrong:
        return _kept(lambda: self.rule_rows_at(self.xs64))

    def rule_rows_at(self, xs64: Arrays) -> RuleRows:
        """The same at other inputs of the same types."""
        if self.narrowing:
            with self.working():
                cts = derivatives.cast(self.cts.arrays, self._single()[2])
                return self._answers(narrowed(xs64), cts, "differentiating in float32")
        with self.wide():
            cts = derivatives.cast(self.cts.arrays, self.wide_outputs)
            return self._answers(xs64, cts, "differentiating in float64")

    @property
    def working_rows(self) -> RuleRows:
        """The rule's outputs and cotangents for the two dense rows, in the working dtype.

        Raises:
            Wrong: the rule raises an exception.
        """
        return _given(self._working_rows)

    @functools.cached_property
    def _working_rows(self) -> RuleRows | Wrong:
        return _kept(lambda: self.answers_at(self.xs))

    def believed(self, leaf: int) -> tuple[np.ndarray, str]:
        """The two dense rows to compare a working answer with, and where they come from.

        Of a cotangent that was found wrong it is the rule's own answer: what a later check finds
        is then something else that is wrong.
        """
        if leaf in self.notes.distrusted:
            return self.working_rows.cotangents[leaf][:2], "the rule itself, called plainly"
        return self.expected[1][leaf][:2], self.source

    def answers_at(self, xs: Arrays) -> RuleRows:
        """The same at other inputs of the same types."""
        cts = derivatives.cast([g[:2] for g in self.cts.arrays], self.outputs)
        return self._answers(xs, cts, "differentiating the function")

    @functools.cached_property
    def _compiled_rule(self) -> derivatives.Rows:
        return self.rows(derivatives.reverse(self.call.function()), strict=True)

    def _answers(self, xs: Arrays, cts: Arrays, doing: str) -> RuleRows:
        try:
            return RuleRows.make(range(len(cts[0])), *self._compiled_rule(xs, self.zs, cts))
        except Exception:
            # A rule may refuse jit or vmap, which later checks report, and still be right.
            few = tuple(ct[:FEW_ROWS] for ct in cts)
            one_by_one = derivatives.rows_one_by_one(derivatives.reverse(self.call.function()))
            with rule_errors(doing):
                return RuleRows.make(range(len(few[0])), *one_by_one(xs, self.zs, few))

    @functools.cached_property
    def forward_types(self) -> ForwardTypes:
        """The structure, shapes and dtypes of fwd's output, as differentiation finds it.

        Raises:
            Wrong: the rule raises an exception.
        """
        call, seen = self.call, []

        def outputs(*xs: Any) -> Arrays:
            out = call.fn(*call.arguments(xs, self.zs))
            leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(out)]
            types = [(leaf.shape, leaf.dtype) for leaf in leaves]
            seen.append(ForwardTypes(jax.tree.structure(out), types))
            return tuple(leaf for leaf in leaves if is_inexact(leaf))

        try:
            if self.call.why_eager:
                jax.vjp(outputs, *self.xs)
            else:
                jax.eval_shape(lambda xs: jax.vjp(outputs, *xs)[0], self.xs)
        except Exception:
            with rule_errors("differentiating the function, which runs fwd,"):
                jax.vjp(outputs, *self.xs)
        return seen[-1]

    @functools.cached_property
    def working_expected(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The twin's, or the reference's, outputs and cotangents in the working dtype."""
        return self.working_expected_at(self.xs)

    @functools.cached_property
    def _compiled_working_twin(self) -> derivatives.Rows:
        return self.rows(self.pullback_of(self.working_twin), strict=True)

    def working_expected_at(self, xs: Arrays) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The same at other inputs of the same types."""
        if self.mode == "differences" and self.reference is None:
            return self.expected
        cts = derivatives.cast([g[:2] for g in self.cts.arrays], self.outputs)
        out, found = self._compiled_working_twin(xs, self.zs, cts)
        return derivatives.host(out), derivatives.host(found)

    def working_row(self, row: int) -> Arrays:
        """A row's cotangent in the outputs' dtypes."""
        return derivatives.cast([g[row] for g in self.cts.arrays], self.outputs)

    @functools.cached_property
    def ulp(self) -> float:
        """One unit in the last place of the narrowest dtype that the working twin computes in."""
        dtypes = [x.dtype for x in (*self.xs, *self.outputs)]
        narrow = None if self.call.why_eager else twins.narrowest_float(self.working_twin)
        return max(float(jnp.finfo(d).eps) for d in (*dtypes, *([narrow] if narrow else [])))

    def excused(self, leaf: int) -> np.ndarray:
        """Where rule and expectation may differ: at kinks, and where autodiff is at fault."""
        if not self.notes.findings:
            return np.zeros(self.xs[leaf].shape, bool)
        return self.notes.excused[leaf]

    @property
    def can_judge_by_slopes(self) -> bool:
        """Whether finite differences say anything: not of a pullback given by the user."""
        return self.is_wide and not (self.reference is not None and self.reference.is_pullback)

    @property
    def differentiated(self) -> Callable[[Arrays, Arrays], Arrays]:
        """The function whose derivative is expected: the twin, or the reference."""
        if self.reference is not None:
            return self.call.function(self.reference.fn)
        return twin_function(self.wide_twin)

    @property
    def eps(self) -> float:
        """The rounding error of one wide evaluation of the function."""
        return float(jnp.finfo(self.narrow or np.float64).eps)

    @functools.cached_property
    def has_free_factors(self) -> bool:
        """Whether the function decomposes a matrix into parts that phases or scales may turn."""
        return not self.call.why_eager and twins.has_free_factors(self.wide_twin)

    def judge(self, cases: Sequence[Case]) -> list[Finding]:
        """Let finite differences decide on elements where rule and autodiff differ."""
        with self.wide():
            return adjudicate(
                self.differentiated,
                self.xs64,
                self.zs,
                self.cts.arrays,
                cases,
                self.eps,
                free=self.has_free_factors,
                compiled=self.call.compiled,
            )

    # Remarks.

    def value(self, leaf: int, index: int) -> complex:
        """An element of an argument."""
        return derivatives.host([self.xs[leaf]])[0].reshape(-1)[index]

    @property
    def _rule_narrows(self) -> np.dtype | None:
        """The dtype below float64 that the rule computes in and the function does not."""
        if self.narrow is not None or not self.is_wide or self.call.why_eager:
            return None
        return None if isinstance(self._traced, Exception) else self._traced

    def clues(
        self, row: int, second: np.ndarray | None, without: np.ndarray | None = None
    ) -> Clues:
        """What helps to guess the cause of a wrong answer for a row.

        Args:
            row: which.
            second: the rule's answer for a second cotangent, if there is one.
            without: the rule's answer for a cotangent of zeros, if there is one.
        """
        names = self.call.names
        sizes: dict[str, int] = {}
        for name, x in zip(names, self.xs, strict=True):
            sizes |= {f"the size of axis {i} of {name}": n for i, n in enumerate(x.shape)}
            sizes[f"the number of elements of {name}"] = int(x.size)
        sizes |= {
            f"the number of elements of {n}": int(np.prod(o.shape))
            for n, o in zip(self.output_names, self.outputs, strict=True)
        }
        return Clues(
            dict(zip(names, derivatives.host(self.xs), strict=True)),
            {n: e[row] for n, e in zip(names, self.expected[1], strict=True)},
            second,
            sizes,
            {n: g[row] for n, g in zip(self.output_names, self.cts.arrays, strict=True)},
            dict(zip(self.output_names, self.expected[0], strict=True)),
            without,
            self._rule_narrows,
        )


def _named(call: Call, names: Sequence[str]) -> list[int]:
    """The differentiated leaves of these arguments, or with these names."""
    both = enumerate(zip(call.names, call.owners, strict=True))
    return [leaf for leaf, named in both if set(named) & set(names)]


def narrowed(xs: Arrays) -> Arrays:
    """Arrays in float32 or complex64, outside of 64-bit types."""
    return tuple(
        jnp.asarray(np.asarray(x), np.complex64 if np.iscomplexobj(x) else np.float32) for x in xs
    )


def _kept(answer: Callable[[], RuleRows]) -> RuleRows | Wrong:
    """The answer, or the exception: a cached property forgets what it raises."""
    try:
        return answer()
    except Wrong as wrong:
        return wrong


def _given(kept: RuleRows | Wrong) -> RuleRows:
    if isinstance(kept, Wrong):
        raise Wrong(str(kept), leaves=[*kept.leaves], fatal=kept.fatal, cause=kept.cause)
    return kept


def first_line(text: str, limit: int = 300) -> str:
    """The first line of an exception's text, cut at `limit` characters."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= limit else line[: limit - 3] + "..."
