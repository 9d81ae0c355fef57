"""export: a trained model as one file of StableHLO, its parameters within.

What is written is `jax.export`'s format. Whoever loads it needs JAX, or another runtime that takes
StableHLO, and neither funcnet nor the model's Python.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from funcnet.errors import ShapeError
from funcnet.io.files import write_atomically
from funcnet.layers.module import (
    Module,
    Params,
    State,
    as_pair,
    dtype_of,
    located,
    require_module,
)

BATCH = "batch"


def export(
    model: Module,
    params: Params,
    state: State,
    input_shape: Any,
    *,
    path: str | os.PathLike[str] | None = None,
    dtype: Any = None,
    platforms: Sequence[str] | None = None,
) -> jax.export.Exported:
    """A trained model as a StableHLO program for a batch of any size.

    It computes what `model.apply` returns when not training. The parameters and the state are
    constants of the program. `jax.export.deserialize(data).call(x)` runs it.

    Args:
        model: a `Module`.
        params: its parameters.
        state: its state.
        input_shape: the shape of one example, such as (784,) or (28, 28, 1), before which an axis
            of examples is put; or all axes, with None or a name for each one of any size, such as
            (None, 784) or ("batch", "time", 64). Where the model takes a pytree of arrays, the same
            tree with a shape for each, or a `jax.ShapeDtypeStruct` for one of another dtype. Axes
            of one name have one size; sizes are at least 1.
        path: a file to write it to, atomically; its folder must exist. None writes nothing.
        dtype: of the input; None for the parameters' floating dtype. An integer one for a model
            that begins with an Embedding.
        platforms: what it is compiled for: "cpu", "cuda", "rocm", "tpu"; None for the backend that
            JAX has now.

    Returns:
        The program: `.call(x)` runs it, `.serialize()` gives the file's bytes, `.mlir_module()` is
        StableHLO to read.

    Raises:
        ConfigError: `model` is not a layer.
        ShapeError: `input_shape` is no such shape or tree of shapes, or does not fit the model.
        DtypeError, ParamsError: `dtype` or the parameters do not fit the model.
        OSError: the file can't be written; what was there is unchanged.
        ModuleNotFoundError: flatbuffers is missing, the extra `export`, which JAX needs to write.
    """
    require_module(model)
    x = _inputs(input_shape, dtype_of(params) if dtype is None else dtype)

    def predict(x):
        with located((), model):
            output = model.apply(params, state, x, key=None, train=False)
            return as_pair(model, "apply", output)[0]

    exported = jax.export.export(jax.jit(predict), platforms=platforms)(x)
    if path is not None:
        write_atomically(path, _serialized(exported))
    return exported


def _serialized(exported: jax.export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ModuleNotFoundError(
            "export needs flatbuffers to write a file: pip install 'funcnet[export]'"
        ) from error


def _inputs(shapes: Any, dtype: Any) -> Any:
    """The arrays of a tree of shapes, the open axes of all of them in one scope."""
    scope = jax.export.SymbolicScope()

    def array(leaf):
        shape, leaf_dtype = leaf, dtype
        # A number of NumPy has a shape and a dtype as well.
        if hasattr(leaf, "dtype") and not isinstance(leaf, np.generic):
            shape, leaf_dtype = leaf.shape, leaf.dtype
        if not _is_shape(shape):
            raise ShapeError(
                f"input_shape is {shapes!r}, expected the shape of an example, such as (784,), or "
                f"all axes with None for those of any size, such as (None, 784), or a tree of such"
            )
        axes = tuple(shape)
        if all(isinstance(axis, int | np.integer) for axis in axes):
            axes = (BATCH, *axes)
        names = (_name(axis, i) for i, axis in enumerate(axes))
        sizes = jax.export.symbolic_shape(", ".join(names), scope=scope)
        return jax.ShapeDtypeStruct(sizes, leaf_dtype)

    return jax.tree.map(array, shapes, is_leaf=lambda tree: tree is None or _is_shape(tree))


def _name(axis: int | str | None, place: int) -> str:
    if axis is not None:
        return str(axis)
    return BATCH if place == 0 else f"axis{place}"


def _is_shape(value: Any) -> bool:
    """Whether a value is a row of sizes and of names for those that are open."""
    return isinstance(value, tuple | list) and all(
        axis is None
        or (isinstance(axis, str) and axis.isidentifier())
        or (isinstance(axis, int | np.integer) and not isinstance(axis, bool) and axis >= 0)
        for axis in value
    )
