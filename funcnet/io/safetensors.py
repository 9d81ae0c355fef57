"""Parameters and state to and from safetensors files.

Keys, shapes and layouts are PyTorch's (`trees`), so that arrays are moved, never renamed. Files are
written atomically. What a file says of itself, the model's description, stands in the metadata that
safetensors has for it; no time and no version, so that the same run gives the same bytes.

Nothing here unpickles: a file from elsewhere can be wrong, but it can't execute code.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from funcnet._internal.describe import describe, differences, shown
from funcnet.errors import ConfigError, DtypeError, ParamsError
from funcnet.io.files import write_atomically
from funcnet.io.kinds import kind_of, read_file
from funcnet.io.trees import SHOWN, flatten, restore, to_numpy
from funcnet.layers import Module

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
# One entry: safetensors writes several in an order that differs from process to process.
_ENTRY = "funcnet"


def save(
    path: str | os.PathLike[str], params: Any, state: Any = (), *, model: Module | None = None
) -> None:
    """Write parameters and state to a safetensors file, atomically.

    The same arrays give the same bytes. The keys are PyTorch's; so is the order of the features,
    but for what stands behind a Flatten of images: `fn.interop.state_dict` has PyTorch's.

    Args:
        path: the file; its folder must exist.
        params: parameters, as `Module.init` returns: a tree of tuples and dicts with arrays.
        state: the state beside them, such as running statistics.
        model: whose they are; its description goes into the file, and `load` compares it.

    Raises:
        OSError: the file can't be written; what was there is unchanged.
        DtypeError: a leaf is not an array, or of a dtype that can't be saved.
        ParamsError: two leaves have the same key.
        ConfigError: `model` is not a layer.
    """
    if model is not None and not isinstance(model, Module):
        raise ConfigError(f"model is {model!r}, expected an instance of funcnet.Module")
    _require_no_run(params)
    _write(path, flatten(params, state), model)


def load(path: str | os.PathLike[str], like: Any) -> tuple[Any, Any]:
    """Read parameters and state from a safetensors file.

    Args:
        path: the file.
        like: the model; or a pair (params, state) that they must look like, arrays or
            `jax.ShapeDtypeStruct` leaves. With the model, floats keep the dtype they were saved in,
            and the description in the file, if there is one, must be the model's.

    Returns:
        (params, state) with the file's values, in JAX arrays.

    Raises:
        OSError: the file can't be read.
        DtypeError: `like` is neither a model nor a pair, or a leaf of it is not an array.
        ParamsError: the file is damaged or not safetensors, or of another model; the message says
            what differs.
    """
    arrays, about = read(path), _description(path)
    of = f"; the file is of {about['model']}" if about else ""
    if isinstance(like, Module):
        if about:
            _require_same_model(path, about, like)
        shapes = jax.eval_shape(lambda: like.init(jax.random.key(0)))
        templates = [_with_dtypes_of(arrays, tree) for tree in shapes]
    elif isinstance(like, tuple) and len(like) == 2:
        templates = [*like]
    else:
        raise DtypeError(
            f"like is {type(like).__name__}, expected a model or a pair (params, state)"
        )
    params, state = restore(arrays, os.fspath(path), *templates, of=of)
    return params, state


def save_params(path: str | os.PathLike[str], params: Any) -> None:
    """Write parameters to a safetensors file, atomically; the same parameters give the same bytes.

    Parameters alone: of a model that has state (running statistics), `fn.save` keeps both.

    Args:
        path: the file; its folder must exist.
        params: a tree of tuples and dicts with arrays as leaves, as `Module.init` returns.

    Raises:
        OSError: the file can't be written; what was there is unchanged.
        DtypeError: a leaf is not an array, or of a dtype that can't be saved; or `params` is a run
            or a result, which has more than parameters.
        ParamsError: two leaves have the same key.
    """
    _require_no_run(params)
    _write(path, flatten(params), None)


def load_params(path: str | os.PathLike[str], like: Any) -> Any:
    """Read parameters from a safetensors file.

    Args:
        path: the file.
        like: what they must look like: parameters of the model, or the same tree with
            `jax.ShapeDtypeStruct` leaves (`jax.eval_shape` makes one without computing anything).

    Returns:
        A tree like `like` with the file's values, in JAX arrays.

    Raises:
        OSError: the file can't be read.
        DtypeError: a leaf of `like` is not an array.
        ParamsError: the file is damaged or not safetensors, or a key is missing, surplus, or has
            another shape or dtype; the message names them.
    """
    (params,) = restore(read(path), os.fspath(path), like)
    return params


def _require_no_run(params: Any) -> None:
    """Raise DtypeError for a FitResult or a TrainState, whatever its leaves are."""
    if hasattr(params, "params") and hasattr(params, "state"):
        also = ""
        if jax.tree.leaves(params.state):
            also = "; its model has state, such as running statistics, which fn.save keeps too"
        raise DtypeError(
            f"params is a {type(params).__name__}, expected parameters: "
            f"fn.save(path, run.params, run.state), or fn.save_params(path, run.params){also}"
        )


def _write(path: str | os.PathLike[str], leaves: Mapping[str, Any], model: Module | None) -> None:
    arrays = {key: to_numpy(key, leaf) for key, leaf in leaves.items()}
    for key, array in arrays.items():
        if array.dtype not in _DTYPES.values():
            raise DtypeError(
                f"{key}: {array.dtype} can't be saved; expected a real or boolean array"
            )
    metadata = None if model is None else {_ENTRY: json.dumps(_described(model), sort_keys=True)}
    write_atomically(path, safetensors.numpy.save(arrays, metadata))


def _described(model: Module) -> dict[str, Any]:
    """What a model is: for people, and setting by setting."""
    return {"model": shown(model), "settings": describe(model)}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by key.

    Raises:
        OSError: the file can't be read.
        ParamsError: it is damaged, not safetensors, or has a dtype that NumPy and JAX have not.
    """
    data = read_file(path)
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ParamsError(f"{os.fspath(path)}: {_explain(data, error)}") from error
    arrays = {}
    for key, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise ParamsError(
                f"{os.fspath(path)}: {key} has the dtype {tensor['dtype']}, which funcnet has not; "
                f"expected one of {', '.join(_DTYPES)}"
            )
        flat = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        arrays[key] = flat.reshape(tensor["shape"])
    return arrays


def _explain(data: bytes, error: Exception) -> str:
    kind = kind_of(data)
    if kind.startswith("a pickle"):
        return kind
    return f"damaged, or not a safetensors file: {kind or f'{error}; write or fetch it again'}"


def _description(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a file that `read` has read says of its model; None where it says nothing."""
    with safetensors.safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(_ENTRY)
    if text is None:
        return None
    try:
        about = json.loads(text)
        return {"model": str(about["model"]), "settings": about["settings"]}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ParamsError(
            f"{os.fspath(path)}: its description of the model can't be read; write it again"
        ) from error


def _require_same_model(path: str | os.PathLike[str], about: dict[str, Any], model: Module) -> None:
    here = json.loads(json.dumps(describe(model)))
    found = differences(about["settings"], here)
    if found:
        rest = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise ParamsError(
            f"{os.fspath(path)} is of another model, {about['model']}: "
            f"{'; '.join([*found[:SHOWN], *rest])}; pass the model it was saved with, or "
            f"like=model.init(key), with which only the arrays must fit"
        )


def _with_dtypes_of(arrays: Mapping[str, np.ndarray], tree: Any) -> Any:
    """The tree of shapes with the floating dtypes that the arrays have."""
    leaves = [
        jax.ShapeDtypeStruct(like.shape, arrays[key].dtype)
        if key in arrays
        and jnp.issubdtype(arrays[key].dtype, jnp.floating)
        and jnp.issubdtype(like.dtype, jnp.floating)
        else like
        for key, like in flatten(tree).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
