"""Check 10 on several devices: Auto and Explicit mesh axes, and shard_map over the batch.

Leaves whose leading axis is the batch's are split over the devices, the others are replicated. The
batch's size is the leading axis that most leaves share. Where the undecorated function fails too,
there is nothing to hold against its rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from funcnet._internal import compat
from funcnet.testing.checks.subject import Subject, Wrong, rule_errors
from funcnet.testing.numerics import Arrays
from funcnet.testing.numerics.compare import TRANSFORM_ULPS, largest, wrong_elements
from funcnet.testing.references import derivatives
from funcnet.testing.references.call import twin_function
from funcnet.testing.references.derivatives import Flat, Pullback

DEVICES = 2
AXIS = "batch"

Runner = Callable[[Flat], Arrays]


def reason_to_skip(subject: Subject) -> str:
    """Why a subject cannot be checked on several devices; empty if it can."""
    if jax.device_count() < DEVICES:
        return "one device"
    if not _batch_size(subject):
        return f"no leading axis is a multiple of {DEVICES}"
    return ""


def auto_mesh(subject: Subject) -> None:
    """Data-parallel with Auto axes, without jit and with it."""
    _check(subject, lambda f: _on_mesh(subject, f, False, lambda g: g), "an Auto mesh, without jit")
    _check(subject, lambda f: _on_mesh(subject, f, False, jax.jit), "an Auto mesh")


def explicit_mesh(subject: Subject) -> None:
    """Data-parallel under jit, with Explicit axes."""
    _check(subject, lambda f: _on_mesh(subject, f, True, jax.jit), "an Explicit mesh")


def shard_map(subject: Subject) -> None:
    """Each device its own examples, the other arguments replicated."""
    _check(subject, lambda f: _under_shard_map(subject, f), "shard_map")


def _check(subject: Subject, run: Runner, where: str) -> None:
    try:
        expected = run(twin_function(subject.working_twin))
    except Exception:
        # The jaxpr of the twin may have been traced for other shapes than a device's share.
        try:
            expected = run(subject.call.function(subject.undecorated))
        except Exception as error:
            subject.notes.remarks.append(
                f"the undecorated function fails on {where}: {type(error).__name__}"
            )
            return
    with rule_errors(f"differentiating under {where}"):
        got = run(subject.call.function())
    for leaf, (g, e) in enumerate(
        zip(derivatives.host(got), derivatives.host(expected), strict=True)
    ):
        tolerance = TRANSFORM_ULPS * subject.ulp * largest(e)
        wrong = wrong_elements(g, e, np.full(e.shape, tolerance)) & ~subject.excused(leaf)
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Wrong(
                f"under {where} of {DEVICES} devices the cotangent of {subject.call.names[leaf]} "
                f"is wrong in {int(wrong.sum())} of {wrong.size} elements: {g[index]:.9g} at "
                f"{list(index)}, where autodiff of the undecorated function gives {e[index]:.9g}\n"
                "  guess: a cotangent of a replicated argument has to be summed over the devices"
            )


def _batch_size(subject: Subject) -> int:
    sizes = [v.shape[0] for v in (*subject.xs, *subject.zs) if v.ndim]
    counts = Counter(size for size in sizes if size and size % DEVICES == 0)
    # Among equally frequent ones, that of the first argument that has one.
    return max(counts, key=lambda size: (counts[size], -sizes.index(size)), default=0)


def _is_split(subject: Subject, value: Any) -> bool:
    return value.ndim > 0 and value.shape[0] == _batch_size(subject)


def _specs(subject: Subject, values: Sequence[Any]) -> tuple[PartitionSpec, ...]:
    return tuple(PartitionSpec(AXIS) if _is_split(subject, v) else PartitionSpec() for v in values)


def _on_mesh(
    subject: Subject, f: Flat, explicit: bool, compile: Callable[[Pullback], Pullback]
) -> Arrays:
    mesh = compat.make_mesh(DEVICES, AXIS, explicit)

    def place(values: Sequence[Any]) -> Arrays:
        specs = _specs(subject, values)
        return tuple(
            jax.device_put(v, NamedSharding(mesh, spec))
            for v, spec in zip(values, specs, strict=True)
        )

    with jax.set_mesh(mesh):
        ct = subject.working_row(0)
        xs, zs = place(subject.xs), place(subject.zs)
        if not explicit:
            return compile(derivatives.reverse(f))(xs, zs, place(ct))[1]
        # An output's sharding follows from the inputs'; its cotangent has to have the same.
        shapes = jax.eval_shape(f, xs, zs)
        ct = tuple(
            jax.device_put(g, NamedSharding(mesh, out.sharding.spec))
            for g, out in zip(ct, shapes, strict=True)
        )
        return compile(derivatives.reverse(f))(xs, zs, ct)[1]


def _under_shard_map(subject: Subject, f: Flat) -> Arrays:
    mesh = compat.make_mesh(DEVICES, AXIS, explicit=False)
    ones = [jnp.zeros(out.shape, out.dtype) for out in subject.outputs]

    def share(xs: Arrays, zs: Arrays) -> Arrays:
        # A scalar of every device becomes an array of as many.
        return tuple(out if out.ndim else out[None] for out in f(xs, zs))

    in_specs = _specs(subject, subject.xs), _specs(subject, subject.zs)
    out_specs = tuple(PartitionSpec(AXIS) for _ in ones)
    whole = jax.shard_map(share, mesh=mesh, in_specs=in_specs, out_specs=out_specs)

    def pull(xs: Arrays, zs: Arrays) -> Arrays:
        out, pullback = jax.vjp(lambda *xs: whole(xs, zs), *xs)
        return pullback(
            tuple(jnp.arange(1, 1 + o.size).reshape(o.shape).astype(o.dtype) for o in out)
        )

    return jax.jit(pull)(subject.xs, subject.zs)
