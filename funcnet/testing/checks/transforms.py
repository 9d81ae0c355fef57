"""Check 10: the same cotangents again, under each of JAX's transformations.

Each is compared with the truth in float64, by the yardstick of the working dtype and 64 units in
the last place. Where the undecorated function refuses a transformation, its rule need not bear it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.testing.checks.accuracy import check_working
from funcnet.testing.checks.subject import Skipped, Subject, Wrong, rule_errors
from funcnet.testing.numerics import Arrays
from funcnet.testing.numerics.compare import TRANSFORM_ULPS, largest, wrong_elements
from funcnet.testing.references import derivatives
from funcnet.testing.references.call import make_twin, twin_function
from funcnet.testing.references.derivatives import Flat

# Arguments' leaves that are treated one by one.
MOST_LEAVES = 8
# Between two runs of the same program on the same numbers.
REPEAT_ULPS = 4.0


def _check(subject: Subject, got: Sequence[Any], row: int, how: str) -> None:
    check_working(subject, derivatives.host(got), row, TRANSFORM_ULPS, how)


def _quick(f: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(f, compiler_options=compat.QUICK_COMPILE)


def repeat(subject: Subject) -> None:
    """Without jit, twice, with another call of the rule in between: nothing may be remembered."""
    f, zs = subject.call.function(), subject.zs
    with rule_errors("differentiating without jit"):
        _, first = jax.vjp(lambda *xs: f(xs, zs), *subject.xs)
        jax.vjp(lambda *xs: f(xs, zs), *(x * 0.5 for x in subject.xs))
        answers = [first(subject.working_row(row)) for row in (0, 1, 0)]
    for row, answer in zip((0, 1, 0), answers, strict=True):
        _check(subject, answer, row, ", called again without jit")
    for leaf, (name, x, before, now) in enumerate(
        zip(subject.call.names, subject.xs, *map(derivatives.host, answers[::2]), strict=True)
    ):
        tolerance = REPEAT_ULPS * float(jnp.finfo(x.dtype).eps) * largest(before)
        if wrong_elements(now, before, np.full(now.shape, tolerance)).any():
            raise Wrong(
                f"two pullbacks of the same cotangent give different answers for {name}: they "
                f"differ by {largest(now - before):.3g}\n  guess: the rule keeps something in a "
                "global variable or draws random numbers of its own",
                leaves=[leaf],
            )


def jit(subject: Subject) -> None:
    """Compiled as a user would compile it; arrays in `nondiff_argnums` are traced as well."""
    call = subject.call
    arrays = [i for i in call.static if isinstance(call.args[i], (jax.Array, np.ndarray))]

    def run(xs: Arrays, zs: Arrays, ct: Arrays, static: list[Any]) -> Arrays:
        f = call.with_static(dict(zip(arrays, static, strict=True))).function()
        return derivatives.reverse(f)(xs, zs, ct)[1]

    inputs = subject.xs, subject.zs, subject.working_row(0), [call.args[i] for i in arrays]
    with rule_errors("differentiating under jit"):
        answer = jax.jit(run)(*inputs)
    _check(subject, answer, 0, ", under jit")


def vmap(subject: Subject) -> None:
    """Mapped over the cotangent, over each argument, and over all of them."""
    f = subject.call.function()
    cts = derivatives.cast([g[:2] for g in subject.cts.arrays], subject.outputs)
    with rule_errors("differentiating under vmap over the cotangent"):
        over = _quick(jax.vmap(lambda ct: derivatives.reverse(f)(subject.xs, subject.zs, ct)[1]))
        answers = over(cts)
    _check_pair(subject, answers, ", under vmap over the cotangent")
    groups = _argument_groups(subject)
    mapped = {name: _mapped(subject, f, group) for name, group in groups.items()}
    try:
        found = _quick(lambda cts: {name: run(cts) for name, run in mapped.items()})(cts)
    except Exception:
        found = _one_by_one(subject, mapped, groups, cts)
    for name, answers in found.items():
        _check_pair(subject, answers, f", under vmap over {name}")


def _check_pair(subject: Subject, answers: Arrays, how: str) -> None:
    for row in range(2):
        _check(subject, [answer[row] for answer in answers], row, how)


def _argument_groups(subject: Subject) -> dict[str, tuple[set[int], set[int]]]:
    """The leaves (differentiated, traced) of each argument that has any, and of all together."""
    call = subject.call
    names = call.dynamic(call.parameters)
    groups: dict[str, tuple[set[int], set[int]]] = {}
    for position, name in enumerate(names[:MOST_LEAVES]):
        diff = {k for k, i in enumerate(call.diff) if call.owner[i] == position}
        traced = {k for k, i in enumerate(call.traced) if call.owner[i] == position}
        if diff or traced:
            groups[name] = diff, traced
    if len(groups) > 1:
        groups["all arguments"] = set(range(len(call.diff))), set(range(len(call.traced)))
    return groups


def _mapped(subject: Subject, f: Flat, group: tuple[set[int], set[int]]) -> Callable[..., Any]:
    def axes(values: Arrays, chosen: set[int]) -> tuple[int | None, ...]:
        return tuple(0 if i in chosen else None for i in range(len(values)))

    def stacked(values: Arrays, chosen: set[int]) -> Arrays:
        return tuple(jnp.stack([v, v]) if i in chosen else v for i, v in enumerate(values))

    xs, zs = subject.xs, subject.zs
    over = jax.vmap(
        lambda xs, zs, ct: derivatives.reverse(f)(xs, zs, ct)[1],
        in_axes=(axes(xs, group[0]), axes(zs, group[1]), 0),
    )
    return lambda cts: over(stacked(xs, group[0]), stacked(zs, group[1]), cts)


def _one_by_one(
    subject: Subject, mapped: dict[str, Any], groups: dict[str, Any], cts: Arrays
) -> dict[str, Any]:
    twin = twin_function(subject.working_twin)
    found = {}
    for name, run in mapped.items():
        try:
            jax.eval_shape(_mapped(subject, twin, groups[name]), cts)
        except Exception:
            subject.notes.remarks.append(f"the function itself refuses vmap over {name}")
            continue
        with rule_errors(f"differentiating under vmap over {name}"):
            found[name] = jax.jit(run)(cts)
    return found


def checkpoint(subject: Subject) -> None:
    """Under `jax.checkpoint`, which runs fwd a second time."""
    f, zs = subject.call.function(), subject.zs

    def run(xs: Arrays, ct: Arrays) -> Arrays:
        return jax.vjp(jax.checkpoint(lambda *xs: f(xs, zs)), *xs)[1](ct)

    with rule_errors("differentiating under jax.checkpoint"):
        answer = _quick(run)(subject.xs, subject.working_row(0))
    _check(subject, answer, 0, ", under jax.checkpoint")


def scan(subject: Subject) -> None:
    """Inside a scan of two steps whose carry is the arguments: cotangents are added up there."""
    if subject.reference is not None and subject.reference.is_pullback:
        raise Skipped("what a reference declares instead of a derivative need not add up")
    f, zs = subject.call.function(), subject.zs

    def run(xs: Arrays, cts: Arrays) -> Arrays:
        def loop(*xs: Any) -> Any:
            return jax.lax.scan(lambda carry, _: (carry, f(carry, zs)), xs, None, length=2)[1]

        return jax.vjp(loop, *xs)[1](cts)

    pair = tuple(jnp.stack([ct, jnp.zeros_like(ct)]) for ct in subject.working_row(0))
    with rule_errors("differentiating inside a scan"):
        answer = _quick(run)(subject.xs, pair)
    _check(subject, answer, 0, ", inside a scan")


def alone(subject: Subject) -> None:
    """Differentiated with respect to one argument at a time."""
    f, zs = subject.call.function(), subject.zs
    leaves = range(len(subject.xs))
    if len(leaves) > MOST_LEAVES:
        leaves = sorted(subject.rng.choice(len(leaves), MOST_LEAVES, replace=False).tolist())

    def one(leaf: int, xs: Arrays, ct: Arrays) -> Any:
        def of_one(x: Any) -> Arrays:
            return f((*xs[:leaf], x, *xs[leaf + 1 :]), zs)

        return jax.vjp(of_one, xs[leaf])[1](ct)[0]

    inputs = subject.xs, subject.working_row(0)
    try:
        found = _quick(lambda *inputs: [one(leaf, *inputs) for leaf in leaves])(*inputs)
    except Exception:
        found = []
        for leaf in leaves:
            with rule_errors(f"differentiating with respect to {subject.call.names[leaf]} alone"):
                found.append(one(leaf, *inputs))
    for leaf, answer in zip(leaves, found, strict=True):
        how = f", with {subject.call.names[leaf]} differentiated alone"
        check_working(subject, derivatives.host([answer]), 0, TRANSFORM_ULPS, how, [leaf])


def empty(subject: Subject) -> None:
    """With an empty batch, wherever the undecorated function takes one."""
    tried: list[set[int]] = []
    for chosen in _batches(subject):
        if any(chosen <= group for group in tried):
            continue
        size, xs, zs = _shrunk(subject, chosen)
        try:
            twin = make_twin(subject.call, subject.undecorated, xs, zs)
            outputs = twin.out_avals
            if not _is_batch(outputs, subject.outputs, size):
                continue
            cts = tuple(jnp.ones(out.shape, out.dtype) for out in outputs)
            values, expected = _quick(subject.pullback_of(twin))(xs, zs, cts)
        except Exception:
            continue
        tried.append(chosen)
        try:
            _check_empty(subject, xs, zs, cts, expected)
        except Wrong as wrong:
            if not _is_degenerate(values, subject.outputs) and _is_of_examples(subject, chosen):
                raise
            subject.notes.warnings.append(f"of a shape that nobody differentiates: {wrong}")
    if not tried:
        subject.notes.remarks.append("the function takes no empty batch")


def _batches(subject: Subject) -> list[set[int]]:
    """Inputs to make empty: those of one leading size together, and then each by itself.

    Inputs that can be emptied together are one batch. Emptying one of them alone is not a call that
    anybody makes, though the function may take it: `x.at[i].set(v)` ignores `v` where `i` is empty.
    """
    sizes = _leading_sizes(subject)
    groups = [{i for i, s in enumerate(sizes) if s == size} for size in sorted(set(sizes) - {0})]
    alone = [{i} for i, size in enumerate(sizes) if size][: 2 * MOST_LEAVES]
    return [group for group in groups if len(group) > 1] + alone


def _leading_sizes(subject: Subject) -> list[int]:
    return [v.shape[0] if v.ndim else 0 for v in (*subject.xs, *subject.zs)]


def _shrunk(subject: Subject, chosen: set[int]) -> tuple[int, Arrays, Arrays]:
    """The size that is taken away, and the inputs without it."""
    values = (*subject.xs, *subject.zs)
    shrunk = tuple(v[:0] if i in chosen else v for i, v in enumerate(values))
    size = _leading_sizes(subject)[min(chosen)]
    return size, shrunk[: len(subject.xs)], shrunk[len(subject.xs) :]


def _is_batch(found: Sequence[Any], outputs: Sequence[Any], size: int) -> bool:
    """Whether the axis that was made empty is a batch's: only leading axes of its size are gone."""
    return all(
        out.shape == before.shape
        or (out.shape == (0, *before.shape[1:]) and before.shape[0] == size)
        for out, before in zip(found, outputs, strict=True)
    )


def _is_degenerate(found: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether nobody differentiates this: the function is not finite there, as a mean of nothing.

    Or no batch became empty, but an axis that every output sums over, as attention's keys. An
    output without axes may well be a sum over a batch.
    """
    if not all(bool(jnp.isfinite(out).all()) for out in found):
        return True
    return all(
        out.shape == before.shape and out.ndim for out, before in zip(found, outputs, strict=True)
    )


def _is_of_examples(subject: Subject, chosen: set[int]) -> bool:
    """Whether the axis is one of examples: without the first of them the others come out the same.

    A recurrence's steps do not: nobody runs it over none. Where no output has the axis, nothing is
    known, and it counts as one.
    """
    values = (*subject.xs, *subject.zs)
    size = values[min(chosen)].shape[0]
    if size < 2 or not any(out.shape[:1] == (size,) for out in subject.outputs):
        return True
    rest = [v[1:] if i in chosen else v for i, v in enumerate(values)]
    xs, zs = tuple(rest[: len(subject.xs)]), tuple(rest[len(subject.xs) :])
    try:
        f = subject.call.function(subject.undecorated)
        fewer, all_of_them = f(xs, zs), f(subject.xs, subject.zs)
    except Exception:
        return True
    pairs = [*zip(derivatives.host(fewer), derivatives.host(all_of_them), strict=True)]
    cut = [(g, e[1:] if e.shape != g.shape else e) for g, e in pairs]
    return all(
        g.shape == e.shape and not wrong_elements(g, e, np.full(g.shape, 1e-3 * largest(e))).any()
        for g, e in cut
    )


def _check_empty(subject: Subject, xs: Arrays, zs: Arrays, cts: Arrays, expected: Arrays) -> None:
    shapes = ", ".join(f"{name} {x.shape}" for name, x in zip(subject.call.names, xs, strict=True))
    pullback = derivatives.reverse(subject.call.function())
    with rule_errors(f"differentiating with an empty batch ({shapes})"):
        answer = _quick(pullback)(xs, zs, cts)[1]
    for name, got, want in zip(subject.call.names, answer, expected, strict=True):
        if got.shape != want.shape or got.dtype != want.dtype:
            raise Wrong(
                f"with an empty batch ({shapes}) the cotangent of {name} is "
                f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
            )
        g, w = derivatives.host([got, want])
        tolerance = TRANSFORM_ULPS * subject.ulp * largest(w)
        wrong = np.isfinite(w) & wrong_elements(g, w, np.full(w.shape, tolerance))
        if wrong.any():
            index = tuple(np.argwhere(wrong)[0])
            raise Wrong(
                f"with an empty batch ({shapes}) the cotangent of {name} has {g[index]} where "
                f"{w[index]} is right"
            )
