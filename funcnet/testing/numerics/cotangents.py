"""The cotangents that a rule is given: dense random ones, one-hot ones, and those for linearity.

Their entries are two-decimal numbers between 0.25 and 2 in magnitude, of both signs. All ones would
hide a missing factor, all positive ones an absolute value, and single ones a square.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

ONE_HOT_LIMIT = 64
# A power of two scales without rounding; bounds of a clipped cotangent lie in between.
SCALE = 2.0**20
SCALE_HALF_PRECISION = 2.0**4


def random_numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Two-decimal numbers of both signs, 0.25 to 2 in magnitude, in float64 or complex128."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return random_numbers(rng, shape, np.float64) + 1j * random_numbers(rng, shape, np.float64)
    numbers = rng.integers(25, 201, size=shape) / 100 * rng.choice([-1.0, 1.0], size=shape)
    flat = np.ravel(numbers)
    if flat.size > 1 and len(set(np.sign(flat))) == 1:
        flat[0] *= -1
    return flat.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Row:
    """One cotangent of the batch.

    Attributes:
        kind: "dense", "one-hot", or one of the linearity rows.
        label: what a report calls it.
        factors: for a linearity row, the combination of the two dense rows that it is.
    """

    kind: str
    label: str
    factors: tuple[float, float] | None = None

    @property
    def scale(self) -> float:
        """What the row is divided by before it is compared."""
        return max(map(abs, self.factors)) or 1.0 if self.factors else 1.0


@dataclasses.dataclass(frozen=True)
class Cotangents:
    """A batch of cotangents.

    Attributes:
        rows: what each of them is; the first two are dense.
        arrays: one array of shape (len(rows), *shape) for each floating-point output.
    """

    rows: tuple[Row, ...]
    arrays: tuple[np.ndarray, ...]

    def where(self, *kinds: str) -> list[int]:
        """Indices of the rows of these kinds."""
        return [i for i, row in enumerate(self.rows) if row.kind in kinds]

    def take(self, indices: Sequence[int]) -> Cotangents:
        """The batch with these rows alone."""
        rows = tuple(self.rows[i] for i in indices)
        return Cotangents(rows, tuple(array[list(indices)] for array in self.arrays))


def make_cotangents(
    rng: np.random.Generator, outputs: Sequence[Any], names: Sequence[str], limit: int
) -> Cotangents:
    """Two dense cotangents, four linear combinations of them, and up to `limit` one-hot ones.

    Args:
        rng: where the numbers come from.
        outputs: shapes and dtypes of the floating-point outputs.
        names: their names.
        limit: how many one-hot cotangents there may be.
    """
    dense = [
        [_rounded(random_numbers(rng, out.shape, out.dtype), out.dtype) for out in outputs]
        for _ in range(2)
    ]
    narrow = any(jnp.finfo(out.dtype).bits <= 16 for out in outputs)
    scale = SCALE_HALF_PRECISION if narrow else SCALE
    rows = [Row("dense", "a dense random cotangent"), Row("dense", "a second dense cotangent")]
    rows += [
        Row("linear", "the cotangent 3 g - 2 h", (3.0, -2.0)),
        Row("linear", "a cotangent of zeros", (0.0, 0.0)),
        Row("linear", f"the cotangent {scale:g} g", (scale, 0.0)),
        Row("linear", f"the cotangent g / {scale:g}", (1 / scale, 0.0)),
    ]
    pairs = list(zip(*dense, strict=True))
    combined = [np.stack([g, h, *(_combine(r, g, h) for r in rows[2:])]) for g, h in pairs]
    hot_rows, hot = _one_hot(rng, outputs, names, limit)
    arrays = tuple(np.concatenate([a, b]) for a, b in zip(combined, hot, strict=True))
    return Cotangents((*rows, *hot_rows), arrays)


def _combine(row: Row, g: np.ndarray, h: np.ndarray) -> np.ndarray:
    a, b = row.factors or (0.0, 0.0)
    return a * g + b * h


def _rounded(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The numbers as `dtype` holds them, so that every precision sees the same cotangent."""
    wide = np.complex128 if np.iscomplexobj(array) else np.float64
    return array.astype(dtype).astype(wide)


def _one_hot(
    rng: np.random.Generator, outputs: Sequence[Any], names: Sequence[str], limit: int
) -> tuple[list[Row], list[np.ndarray]]:
    sizes = [int(np.prod(out.shape)) for out in outputs]
    total = sum(sizes)
    chosen = np.arange(total)
    if total > limit:
        chosen = np.sort(rng.choice(total, size=limit, replace=False))
    flat = np.zeros((len(chosen), total), np.complex128)
    values = _rounded(random_numbers(rng, (len(chosen),), np.float64), np.float32)
    flat[np.arange(len(chosen)), chosen] = values
    parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
    rows = [Row("one-hot", _hot_label(int(i), outputs, names, sizes)) for i in chosen]
    arrays = []
    for part, out in zip(parts, outputs, strict=True):
        complex_out = jnp.issubdtype(out.dtype, jnp.complexfloating)
        shaped = part.reshape(len(chosen), *out.shape)
        arrays.append(_rounded(shaped * (1 + 0.5j) if complex_out else shaped.real, out.dtype))
    return rows, arrays


def _hot_label(flat: int, outputs: Sequence[Any], names: Sequence[str], sizes: list[int]) -> str:
    leaf = int(np.searchsorted(np.cumsum(sizes), flat, side="right"))
    index = np.unravel_index(flat - sum(sizes[:leaf]), outputs[leaf].shape)
    where = f"[{', '.join(map(str, map(int, index)))}]" if index else ""
    return f"a cotangent that is zero but at {names[leaf]}{where}"
