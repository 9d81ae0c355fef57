"""Pullbacks of flat functions, for many cotangents at once, as plain NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.testing.numerics import Arrays

Flat = Callable[[Arrays, Arrays], Arrays]
# A pullback: (xs, zs, cotangent) -> (outputs, cotangents of xs).
Pullback = Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]
# The same with stacks of cotangents.
Rows = Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]]


def reverse(f: Flat) -> Pullback:
    """The pullback by reverse-mode differentiation."""

    def pullback(xs: Arrays, zs: Arrays, ct: Arrays) -> tuple[Arrays, Arrays]:
        out, pull = jax.vjp(lambda *xs: f(xs, zs), *xs)
        return out, pull(tuple(ct))

    return pullback


def forward(f: Flat) -> Pullback:
    """The pullback by forward-mode differentiation, one input after the other.

    For functions that reverse mode refuses, such as those with a `while_loop`.
    """

    def pullback(xs: Arrays, zs: Arrays, ct: Arrays) -> tuple[Arrays, Arrays]:
        def slope(leaf: int, direction: Any) -> Any:
            tangents = tuple(
                direction if i == leaf else jnp.zeros_like(x) for i, x in enumerate(xs)
            )
            _, moved = jax.jvp(lambda *xs: f(xs, zs), xs, tangents)
            return sum(jnp.sum(g * d).real for g, d in zip(ct, moved, strict=True))

        def cotangent(leaf: int, x: Any) -> Any:
            basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
            found = jax.vmap(lambda e: slope(leaf, e))(basis)
            if jnp.iscomplexobj(x):
                found = found - 1j * jax.vmap(lambda e: slope(leaf, 1j * e))(basis)
            return found.reshape(x.shape).astype(x.dtype)

        return f(xs, zs), tuple(cotangent(i, x) for i, x in enumerate(xs))

    return pullback


def rows(pullback: Pullback, strict: bool = False) -> Rows:
    """The pullback of a stack of cotangents in one compiled program.

    `strict` keeps XLA from computing in more precision than the dtypes say.
    """
    options = compat.QUICK_STRICT_COMPILE if strict else compat.QUICK_COMPILE

    def run(xs: Arrays, zs: Arrays, cts: Arrays) -> tuple[Arrays, Arrays]:
        out, stacked = jax.vmap(lambda ct: pullback(xs, zs, ct), out_axes=(None, 0))(cts)
        return out, stacked

    return jax.jit(run, compiler_options=options)


def rows_one_by_one(pullback: Pullback) -> Rows:
    """The same without jit and vmap, for rules that refuse them."""

    def run(xs: Arrays, zs: Arrays, cts: Arrays) -> tuple[Arrays, Arrays]:
        results = [pullback(xs, zs, tuple(g[i] for g in cts)) for i in range(len(cts[0]))]
        stacked = zip(*(found for _, found in results), strict=True)
        return results[0][0], tuple(jnp.stack(parts) for parts in stacked)

    return run


def host(arrays: Sequence[Any]) -> list[np.ndarray]:
    """Arrays as NumPy's, in float64 or complex128."""
    found = []
    for array in jax.device_get(list(arrays)):
        array = np.asarray(array)
        complex_array = jnp.issubdtype(array.dtype, jnp.complexfloating)
        found.append(array.astype(np.complex128 if complex_array else np.float64))
    return found


def cast(arrays: Sequence[Any], like: Sequence[Any]) -> Arrays:
    """Arrays in the dtypes of others, on the device."""
    return tuple(jnp.asarray(a, o.dtype) for a, o in zip(arrays, like, strict=True))


def widened(arrays: Sequence[Any]) -> Arrays:
    """Arrays in float64 or complex128; to be called with 64-bit types enabled."""
    return tuple(
        jnp.asarray(
            a, np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
        )
        for a in map(np.asarray, arrays)
    )
