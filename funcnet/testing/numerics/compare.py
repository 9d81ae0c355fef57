"""What counts as equal: tolerances, and which elements exceed them."""

from __future__ import annotations

import dataclasses

import numpy as np

# Rules and JAX's autodiff both compute in float64; honest ones agreed to 3.6e-11 at worst.
FORMULA_TOLERANCE = 1e-9
# What rounding may leave where the true value is zero, in units of |g| |f| / |x|.
ROUNDING_FLOOR = 1e-13
# In the working dtype: so many times autodiff's own error, plus so many units in the last place.
OWN_ERROR_FACTOR = 8.0
ULPS = 8.0
TRANSFORM_ULPS = 64.0
# Of |g| |f| / |x|: what rounding leaves of terms that cancel, as in a layer norm of two features.
CANCELLED_ULPS = 4.0


def largest(array: np.ndarray) -> float:
    """The largest finite magnitude, 0 where there is none."""
    magnitudes = np.abs(array[np.isfinite(array)])
    return float(magnitudes.max()) if magnitudes.size else 0.0


def wrong_elements(got: np.ndarray, expected: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """Where `got` is not `expected` within `tolerance`. NaN equals NaN, infinity itself."""
    finite = np.isfinite(got) & np.isfinite(expected)
    with np.errstate(all="ignore"):
        far = ~(np.abs(got - expected) <= tolerance)
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(finite, far, ~same)


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """One argument's cotangent that is not what it should be.

    Attributes:
        name: the argument's name.
        leaf: its position among the differentiated leaves.
        row: which cotangent was pulled back, in words.
        got: the rule's answer.
        expected: the right answer.
        wrong: which elements differ.
        source: where the expected answer comes from.
        dtype: the dtype of the computation.
        what: what of the argument is wrong.
    """

    name: str
    leaf: int
    row: str
    got: np.ndarray
    expected: np.ndarray
    wrong: np.ndarray
    source: str
    dtype: str
    what: str = "cotangent"

    @property
    def worst(self) -> tuple[int, ...]:
        """The index of the element that is furthest off."""
        with np.errstate(all="ignore"):
            error = np.abs(self.got - self.expected)
        error = np.where(self.wrong, np.where(np.isfinite(error), error, np.inf), -1.0)
        return tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
