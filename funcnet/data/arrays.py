"""Data sets as pairs of arrays, or trees of them: converted once, checked before anything runs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet.data.convert import from_host, no_pair, several_inputs, two_sets
from funcnet.data.windows import Windows, is_windows
from funcnet.errors import DataError, DtypeError, ShapeError


class Weighted(NamedTuple):
    """The targets of a set with sample weights, in the place of y."""

    target: Any
    weight: Array
    """(examples,), in float32 at least."""


def target_of(y: Any) -> Any:
    """The targets, without what they count."""
    return y.target if isinstance(y, Weighted) else y


def weight_apart(data: Any) -> tuple[Any, Any]:
    """The set (x, y), and its sample weights where it is (x, y, sample_weight); else None."""
    if isinstance(data, tuple | list) and len(data) == 3:
        return (data[0], data[1]), data[2]
    return data, None


def as_arrays(name: str, data: Any, dtype: Any, sample_weight: Any = None) -> tuple[Any, Any]:
    """A pair of arrays, or of pytrees of arrays, over the same examples, floating ones in `dtype`.

    With sample weights, the second of the pair is `Weighted`.

    Raises:
        DataError: `data` is not a pair, or empty.
        ShapeError: an array has no axis of examples, or they differ in it.
        DtypeError: something that is no array of numbers.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise no_pair(name, data)
    x = as_examples(f"{name}'s x", data[0], dtype)
    y = as_examples(f"{name}'s y", data[1], dtype)
    if examples(x) != examples(y):
        fix = several_inputs("x", data[0]) or several_inputs("y", data[1]) or two_sets(name, data)
        raise ShapeError(
            f"{name}'s x has {examples(x)} examples and y has {examples(y)} (shapes {_shapes(x)} "
            f"and {_shapes(y)}), expected as many; the first axis counts the examples{fix}"
        )
    if examples(x) == 0:
        raise DataError(f"{name} is empty: x has shape {_shapes(x)}; there is nothing to train on")
    if sample_weight is None:
        return x, y
    return x, Weighted(y, _as_weight(f"{name}'s sample_weight", sample_weight, examples(x), dtype))


def _as_weight(name: str, weight: Any, count: int, dtype: Any) -> Array:
    """(examples,), in float32 at least."""
    if isinstance(weight, Mapping | str):
        raise DtypeError(
            f"{name} is {weight!r}, expected an array, a number for each example; classes are "
            f"weighted by the loss: fn.CrossEntropyLoss(weight={weight!r})"
        )
    dtype = jnp.promote_types(dtype, jnp.float32)
    array = as_array(name, weight, dtype)
    if array.shape != (count,):
        mend = "; take its column, sample_weight[:, 0]" if array.shape == (count, 1) else ""
        raise ShapeError(
            f"{name} has shape {array.shape}, expected ({count},), a number for each example{mend}"
        )
    return array.astype(dtype)


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
    if value is None or isinstance(value, list | Windows):
        return False
    return isinstance(value, Mapping) or not jax.tree_util.all_leaves([value])


def examples(tree: Any) -> int:
    """How many examples there are: the first axis of every array."""
    return jax.tree.leaves(tree, is_leaf=is_windows)[0].shape[0]


def mapped(function: Callable[..., Any], tree: Any) -> Any:
    """`jax.tree.map` over the arrays of a set, of which windows are one."""
    return jax.tree.map(function, tree, is_leaf=is_windows)


def take(tree: Any, indices: Array) -> Any:
    """The examples at these places, each of which is there, and there once."""

    def taken(a):
        if is_windows(a):
            return a.take(indices)
        return a.at[indices].get(mode="promise_in_bounds", unique_indices=True)

    return mapped(taken, tree)


def part(tree: Any, begin: int, end: int | None = None) -> Any:
    """The examples from one place to another."""
    return mapped(lambda a: a[begin:end], tree)


class Batched(NamedTuple):
    """A set in batches.

    Attributes:
        full: what to loop over, its leading axis that of the full batches.
        fetch: makes a batch of an element of that.
        rest: the smaller batch after them; empty where there is none.
    """

    full: Any
    fetch: Callable[[Any], Any]
    rest: Any


def batched(tree: Any, size: int, order: Array | None = None) -> Batched:
    """A set in batches, in an order (examples,), or in the one given."""
    n = examples(tree)
    end = n - n % size
    if has_windows(tree):
        order = jnp.arange(n) if order is None else order
        batches = order[:end].reshape(-1, size)
        return Batched(batches, lambda indices: take(tree, indices), take(tree, order[end:]))
    taken = tree if order is None else take(tree, order)
    full = jax.tree.map(lambda a: a[:end].reshape(end // size, size, *a.shape[1:]), taken)
    return Batched(full, lambda batch: batch, part(taken, end))


def has_windows(tree: Any) -> bool:
    """Whether examples are cut out as they are needed."""
    return any(map(is_windows, jax.tree.leaves(tree, is_leaf=is_windows)))


def of_batch(tree: Any, size: int) -> Any:
    """The shapes and dtypes of a batch."""
    return mapped(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), tree)


def contents(tree: Any) -> Any:
    """All that the examples hold, for what looks at values: windows as one long example."""
    return mapped(lambda a: a.whole() if is_windows(a) else a, tree)


def _shapes(tree: Any) -> Any:
    """The shape of an array; of a tree, that of each."""
    shapes = [a.shape for a in jax.tree.leaves(tree, is_leaf=is_windows)]
    single = jax.tree.structure(tree, is_leaf=is_windows).num_nodes == 1
    return shapes[0] if single else shapes


def as_array(name: str, array: Any, dtype: Any) -> Any:
    """An array with an axis of examples, or windows; in `dtype` if it is floating."""
    if isinstance(array, Windows):
        return dataclasses.replace(array, series=as_array(name, array.series, dtype))
    if array is None:
        raise DtypeError(f"{name} is None, expected an array")
    if not isinstance(array, jax.Array):
        array = from_host(name, array, dtype)
    if array.ndim == 0:
        raise ShapeError(f"{name} is a single number, expected an array over the examples")
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return jnp.asarray(array.astype(dtype) if floating else array)


def checked(name: str, data: Any, dtype: Any, sample_weight: Any = None) -> tuple[Any, Any]:
    """The same as `as_arrays`, and every number finite.

    Raises:
        DataError: NaN or infinity, also where a number overflows `dtype`.
    """
    x, y = as_arrays(name, data, dtype, sample_weight)
    for part, tree, given in (("x", x, data[0]), ("y", target_of(y), data[1])):
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_windows)
        for (path, array), leaf in zip(leaves, structure.flatten_up_to(given), strict=True):
            if jnp.issubdtype(array.dtype, jnp.floating):
                _require_finite(f"{name}'s {part}{jax.tree_util.keystr(path)}", array, leaf)
    if isinstance(y, Weighted):
        _require_weights(f"{name}'s sample_weight", y.weight)
    return x, y


def _require_weights(name, weight):
    _require_finite(name, weight, weight)
    if (weight < 0).any():
        where = int(jnp.argmax(weight < 0))
        raise DataError(f"{name} is {weight[where]} at {[where]}, expected numbers >= 0")
    if not (weight > 0).any():
        raise DataError(f"{name} is 0 everywhere, so that no example counts; give some a weight")


def _require_finite(name, array, given):
    if is_windows(array):
        array, given = array.series, given.series
    if jnp.isfinite(array).all():
        return
    bad = np.argwhere(~np.isfinite(np.asarray(array, np.float64)))
    where = tuple(int(i) for i in bad[0])
    host = given if isinstance(given, jax.Array) else from_host(name, given, np.float64)
    if np.isfinite(value := np.asarray(host, np.float64)[where]):
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
