"""Data sets as pairs of arrays, or trees of them: converted once, checked before anything runs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet.errors import DataError, DtypeError, ShapeError


def as_arrays(name: str, data: Any, dtype: Any) -> tuple[Any, Any]:
    """A pair of arrays, or of pytrees of arrays, over the same examples, floating ones in `dtype`.

    Raises:
        DataError: `data` is not a pair, or empty.
        ShapeError: an array has no axis of examples, or they differ in it.
        DtypeError: something that is no array of numbers.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        what = f"{len(data)} entries" if isinstance(data, tuple | list) else type(data).__name__
        raise DataError(f"{name} is {what}, expected a pair of arrays: (x, y)")
    x = as_examples(f"{name}'s x", data[0], dtype)
    y = as_examples(f"{name}'s y", data[1], dtype)
    if examples(x) != examples(y):
        raise ShapeError(
            f"{name}'s x has {examples(x)} examples and y has {examples(y)} (shapes {_shapes(x)} "
            f"and {_shapes(y)}), expected as many; the first axis counts the examples"
        )
    if examples(x) == 0:
        raise DataError(f"{name} is empty: x has shape {_shapes(x)}; there is nothing to train on")
    return x, y


def as_examples(name: str, tree: Any, dtype: Any) -> Any:
    """An array, or a pytree of arrays, with an axis of examples; floating ones in `dtype`.

    Dicts, tuples that hold arrays, and other nodes of a pytree are taken apart; a list, as a tuple
    of numbers, is an array in the making.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda value: not _is_node(value)
    )
    if not leaves:
        raise DtypeError(f"{name} is {tree!r}, expected an array, or a pytree of some")
    named = [(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    arrays = [as_array(name, leaf, dtype) for name, leaf in named]
    for (other, _), array in zip(named, arrays, strict=True):
        if array.shape[0] != arrays[0].shape[0]:  # `len` has no word for an open size
            raise ShapeError(
                f"{named[0][0]} has {len(arrays[0])} examples and {other} has {len(array)}, "
                f"expected as many; the first axis counts the examples"
            )
    return jax.tree.unflatten(structure, arrays)


def _is_node(value: Any) -> bool:
    """Whether a value holds arrays, by name or place, rather than being one."""
    if type(value) is tuple:
        return any(_is_node(part) or getattr(part, "ndim", 0) > 0 for part in value)
    if value is None or isinstance(value, list):
        return False
    return isinstance(value, Mapping) or not jax.tree_util.all_leaves([value])


def examples(tree: Any) -> int:
    """How many examples there are: the first axis of every array."""
    return jax.tree.leaves(tree)[0].shape[0]


def take(tree: Any, indices: Array) -> Any:
    """The examples at these places, each of which is there, and there once."""
    return jax.tree.map(
        lambda a: a.at[indices].get(mode="promise_in_bounds", unique_indices=True), tree
    )


def _shapes(tree: Any) -> Any:
    """The shape of an array; of a tree, that of each."""
    shapes = [a.shape for a in jax.tree.leaves(tree)]
    return shapes[0] if jax.tree.structure(tree).num_nodes == 1 else shapes


def as_array(name: str, array: Any, dtype: Any) -> Array:
    """An array with an axis of examples; in `dtype` if it is floating."""
    if array is None:
        raise DtypeError(f"{name} is None, expected an array")
    if not isinstance(array, jax.Array):
        array = _from_host(name, array, dtype)
    if array.ndim == 0:
        raise ShapeError(f"{name} is a single number, expected an array over the examples")
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return jnp.asarray(array.astype(dtype) if floating else array)


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


def checked(name: str, data: Any, dtype: Any) -> tuple[Any, Any]:
    """The same as `as_arrays`, and every number finite.

    Raises:
        DataError: NaN or infinity, also where a number overflows `dtype`.
    """
    pair = as_arrays(name, data, dtype)
    for part, tree, given in zip("xy", pair, data, strict=True):
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        for (path, array), leaf in zip(leaves, structure.flatten_up_to(given), strict=True):
            if jnp.issubdtype(array.dtype, jnp.floating):
                _require_finite(f"{name}'s {part}{jax.tree_util.keystr(path)}", array, leaf)
    return pair


def _require_finite(name, array, given):
    if jnp.isfinite(array).all():
        return
    bad = np.argwhere(~np.isfinite(np.asarray(array, np.float64)))
    where = tuple(int(i) for i in bad[0])
    value = np.asarray(given)[where]
    if np.isfinite(value):
        wider = ", or train with dtype=jnp.bfloat16 or jnp.float32"
        raise DataError(
            f"{name} is {value:g} at {list(where)}, and {array.dtype} holds no number beyond "
            f"{float(jnp.finfo(array.dtype).max):.5g} (in {len(bad)} places); scale the data"
            f"{wider if array.dtype == jnp.float16 else ''}"
        )
    raise DataError(
        f"{name} is {array[where]} at {list(where)} and not finite in {len(bad)} places (as "
        f"{array.dtype}); remove those examples or fill them in"
    )
