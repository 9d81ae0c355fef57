"""Finite differences in float64: central and one-sided slopes, extrapolated, with an error each.

Steps shrink by a factor of four from a twentieth of an element's size. Richardson's extrapolation
(Neville's table) removes the leading error terms, and of every table the entry is taken whose
neighbours agree best, rounding included. A function that is smooth on one scale only (a kink
nearby, an iteration's tolerance) so reports a large error instead of a wrong slope.

Source: C. J. F. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", 1982.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import compat
from funcnet.testing.numerics import Arrays

LEVELS = 8
RATIO = 4.0
FIRST_STEP = 0.05
ORDERS = 4
# Numbers in one batch of evaluations.
BATCH_NUMBERS = 2_000_000
BATCH = 256
# Relative difference of one-sided slopes below which a function counts as smooth.
SMOOTH = 1e-5


# How a function is compiled, given `compiler_options`; it may be left as it is.
Compile = Callable[..., Callable[..., Any]]


class Coordinate(NamedTuple):
    """One real direction: an element of an argument, its real or its imaginary part."""

    leaf: int
    index: int
    imaginary: bool = False


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Derivatives along coordinates: arrays of shape (coordinates, components of the output).

    Attributes:
        central: two-sided derivatives.
        central_error: the estimate of their error; infinite where there is no value.
        left: one-sided derivatives from below.
        left_error: as above.
        right: one-sided derivatives from above.
        right_error: as above.
    """

    central: np.ndarray
    central_error: np.ndarray
    left: np.ndarray
    left_error: np.ndarray
    right: np.ndarray
    right_error: np.ndarray

    @property
    def kinked(self) -> np.ndarray:
        """Where the one-sided slopes differ by more than their errors explain."""
        gap = np.abs(self.right - self.left)
        errors = 10 * (self.right_error + self.left_error)
        size = np.maximum(np.abs(self.right), np.abs(self.left))
        return np.isfinite(errors) & (gap > errors + SMOOTH * size)


def slopes(
    f: Callable[[Arrays], Any],
    xs: Arrays,
    coordinates: Sequence[Coordinate],
    eps: float,
    compiled: Compile = jax.jit,
) -> Slopes:
    """Slopes of `f` along coordinates of its inputs.

    Args:
        f: from flat inputs to a vector of components.
        xs: the inputs.
        coordinates: the directions.
        eps: the relative rounding error of one evaluation.
        compiled: how `f` is compiled, if it can be.
    """
    steps = np.array([_first_step(xs[c.leaf], c.index) for c in coordinates])
    ladder = steps[:, None] * RATIO ** -np.arange(LEVELS)
    offsets = np.concatenate([ladder, -ladder], axis=1)
    values = _evaluate(f, xs, coordinates, offsets, compiled)
    center = np.asarray(f(xs)).reshape(-1)
    up, down = values[:, :LEVELS], values[:, LEVELS:]
    h = ladder[:, :, None]
    rounding = 4 * eps * np.maximum(np.abs(values), np.abs(center)).max(axis=1, keepdims=True) / h
    central = _extrapolate((up - down) / (2 * h), rounding, RATIO**2)
    right = _extrapolate((up - center) / h, rounding, RATIO)
    left = _extrapolate((center - down) / h, rounding, RATIO)
    return Slopes(*central, *left, *right)


def steepest(
    f: Callable[[Arrays], Any],
    xs: Arrays,
    coordinates: Sequence[Coordinate],
    compiled: Compile = jax.jit,
) -> np.ndarray:
    """How large the terms of a derivative are, of which it may be a small difference.

    The largest |f(x + h) - f(x)| / h over steps h of many sizes, and |x| times the largest second
    difference over h²: a function that jumps within a short distance has large terms, though its
    derivative be small, and a rounded x moves them.

    Returns:
        (coordinates, components).
    """
    sizes = np.array([_first_step(xs[c.leaf], c.index) / FIRST_STEP for c in coordinates])
    h = 2 * sizes[:, None] * 2.0 ** -np.arange(2 * LEVELS)
    values = _evaluate(f, xs, coordinates, np.concatenate([h, -h], axis=1), compiled)
    center = np.asarray(f(xs)).reshape(-1)
    up, down = np.split(values - center, 2, axis=1)
    steps, size = h[:, :, None], sizes[:, None]
    slope = _largest(np.concatenate([up / steps, down / steps], axis=1))
    return slope + size * _largest((up + down) / steps**2)


def _largest(values: np.ndarray) -> np.ndarray:
    """The largest finite magnitude along axis 1."""
    values = np.abs(values)
    return np.max(values, axis=1, initial=0.0, where=np.isfinite(values))


def _first_step(x: Any, index: int) -> float:
    x = np.abs(np.asarray(x)).reshape(-1)
    finite = x[np.isfinite(x)]
    typical = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    size = max(float(x[index]) if np.isfinite(x[index]) else 0.0, 0.1 * typical)
    return FIRST_STEP * (size or 1.0)


def _evaluate(
    f: Callable[[Arrays], Any],
    xs: Arrays,
    coordinates: Sequence[Coordinate],
    offsets: np.ndarray,
    compiled: Compile = jax.jit,
) -> np.ndarray:
    """`f` with each coordinate moved by each offset: (coordinates, offsets, components)."""
    count, levels = offsets.shape
    leaf = np.repeat([c.leaf for c in coordinates], levels)
    index = np.repeat([c.index for c in coordinates], levels)
    unit = np.repeat([1j if c.imaginary else 1.0 for c in coordinates], levels)
    moves = offsets.reshape(-1) * unit
    if all(not jnp.iscomplexobj(x) for x in xs):
        moves = np.real(moves)

    def moved(leaf: Any, index: Any, move: Any) -> Any:
        inputs = [
            x.ravel().at[index].add(jnp.where(leaf == i, _part(move, x), 0)).reshape(x.shape)
            if x.size
            else x
            for i, x in enumerate(xs)
        ]
        return f(tuple(inputs))

    width = sum(x.size for x in xs) + 1
    batch = int(np.clip(BATCH_NUMBERS // width, 1, BATCH))
    padding = -len(moves) % batch
    padded = [np.pad(array, (0, padding)) for array in (leaf, index, moves)]

    # One after the other: mapped over both of its operands, a convolution takes minutes.
    def mapped(*moves: Any) -> Any:
        return jax.lax.map(lambda move: moved(*move), moves)

    run = compiled(mapped, compiler_options=compat.QUICK_COMPILE)
    if run is mapped:  # the function cannot be traced
        found = [np.asarray(moved(*move)) for move in zip(leaf, index, moves, strict=True)]
        return np.stack(found).reshape(count, levels, -1)
    found = [
        np.asarray(run(*(array[i : i + batch] for array in padded)))
        for i in range(0, len(padded[0]), batch)
    ]
    return np.concatenate(found)[: len(moves)].reshape(count, levels, -1)


def _part(move: Any, x: Any) -> Any:
    return move.astype(x.dtype) if jnp.iscomplexobj(x) else jnp.real(move).astype(x.dtype)


def _extrapolate(
    first: np.ndarray, rounding: np.ndarray, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best entry of Neville's table along axis 1, and its error."""
    column = first
    best = np.full_like(first[:, 0], np.nan)
    error = np.full(best.shape, np.inf)
    for order in range(1, ORDERS):
        finer, coarser = column[:, 1:], column[:, :-1]
        next_column = finer + (finer - coarser) / (factor**order - 1)
        gap = np.maximum(np.abs(next_column - finer), np.abs(next_column - coarser))
        estimate = gap + rounding[:, order:]
        estimate = np.where(np.isfinite(next_column) & np.isfinite(estimate), estimate, np.inf)
        choice = np.argmin(estimate, axis=1, keepdims=True)
        value = np.take_along_axis(next_column, choice, axis=1)[:, 0]
        value_error = np.take_along_axis(estimate, choice, axis=1)[:, 0]
        best = np.where(value_error < error, value, best)
        error = np.minimum(value_error, error)
        column = next_column
    return best, error


def flat_outputs(f: Callable[[Arrays, Arrays], Arrays], zs: Arrays) -> Callable[[Arrays], Any]:
    """All outputs of a flat function in one vector."""

    def components(xs: Arrays) -> Any:
        return jnp.concatenate([out.ravel() for out in f(xs, zs)])

    return components


def contracted(
    f: Callable[[Arrays, Arrays], Arrays], zs: Arrays, cts: Sequence[np.ndarray]
) -> Callable[[Arrays], Any]:
    """The outputs' products with a stack of cotangents, real parts: one component for each."""

    def components(xs: Arrays) -> Any:
        products = [
            jnp.sum((jnp.asarray(ct) * out).real.reshape(len(ct), -1), axis=1)
            for ct, out in zip(cts, f(xs, zs), strict=True)
        ]
        return sum(products[1:], products[0])

    return components


def coordinates_of(leaf: int, indices: Sequence[int], x: Any) -> list[Coordinate]:
    """The real directions of these elements of an argument."""
    parts = (False, True) if jnp.iscomplexobj(x) else (False,)
    return [Coordinate(leaf, int(i), part) for i in indices for part in parts]
