"""Which sizes are known: `jax.export` leaves some open, and no form is chosen by those."""

from typing import Any


def are_known(*arrays: Any) -> bool:
    """Whether all sizes of all arrays are numbers, none of them a symbol."""
    return all(isinstance(size, int) for array in arrays for size in array.shape)
