"""Data sets as pairs of arrays: converted once, and checked before anything runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet.errors import DataError, DtypeError, ShapeError


def as_arrays(name: str, data: Any, dtype: Any) -> tuple[Array, Array]:
    """A pair of arrays over the same examples, floating ones in `dtype`.

    Raises:
        DataError: `data` is not a pair, or empty.
        ShapeError: an array has no axis of examples, or the two differ in it.
        DtypeError: something that is no array of numbers.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        what = f"{len(data)} entries" if isinstance(data, tuple | list) else type(data).__name__
        raise DataError(f"{name} is {what}, expected a pair of arrays: (x, y)")
    x, y = as_array(f"{name}'s x", data[0], dtype), as_array(f"{name}'s y", data[1], dtype)
    if len(x) != len(y):
        raise ShapeError(
            f"{name}'s x has {len(x)} examples and y has {len(y)} (shapes {x.shape} and "
            f"{y.shape}), expected as many; the first axis counts the examples"
        )
    if len(x) == 0:
        raise DataError(f"{name} is empty: x has shape {x.shape}; there is nothing to train on")
    return x, y


def as_array(name: str, array: Any, dtype: Any) -> Array:
    """An array with an axis of examples; in `dtype` if it is floating."""
    if array is None:
        raise DtypeError(f"{name} is None, expected an array")
    if not isinstance(array, jax.Array):
        array = _from_host(name, array, dtype)
    if array.ndim == 0:
        raise ShapeError(f"{name} is a single number, expected an array over the examples")
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else jnp.asarray(array)


def _from_host(name, array, dtype):
    if np.ma.is_masked(array):
        raise DataError(f"{name} has masked entries; remove those examples or fill them in")
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ShapeError(f"{name} is ragged: {error}") from None
    real = array.dtype == bool or (
        jnp.issubdtype(array.dtype, jnp.number) and array.dtype.kind != "c"
    )
    if not real:
        raise DtypeError(
            f"{name} has dtype {array.dtype}, expected real numbers; convert it, for example with "
            f"np.asarray({name.split()[-1]}, np.float32)"
        )
    if array.dtype.kind in "iu":
        return _narrowed(name, array)
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which `checked` reports
        return array.astype(dtype)


def _narrowed(name, array):
    """Integers in the dtype JAX gives them: without 64-bit mode 2**32 would become 0 in silence."""
    # By NumPy: under jit, jnp's result has no values to compare.
    narrow = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    wrong = narrow != array
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{name} is {array[where]} at {list(where)}, expected numbers that {narrow.dtype} can "
            f"hold; correct it, or enable 64-bit numbers with jax.config.update('jax_enable_x64', "
            f"True)"
        )
    return jnp.asarray(narrow)


def checked(name: str, data: Any, dtype: Any) -> tuple[Array, Array]:
    """The same, and every number finite.

    Raises:
        DataError: NaN or infinity, also where a number overflows `dtype`.
    """
    x, y = as_arrays(name, data, dtype)
    for part, array in (("x", x), ("y", y)):
        if jnp.issubdtype(array.dtype, jnp.floating):
            _require_finite(f"{name}'s {part}", array)
    return x, y


def _require_finite(name, array):
    if jnp.isfinite(array).all():
        return
    bad = np.argwhere(~np.isfinite(np.asarray(array, np.float64)))
    where = tuple(int(i) for i in bad[0])
    raise DataError(
        f"{name} is {array[where]} at {list(where)} and not finite in {len(bad)} places (as "
        f"{array.dtype}); remove those examples or fill them in"
    )
