"""Parameters to and from safetensors files and PyTorch's state_dicts.

An array's key is the path to it, joined with dots: `params[0]["weight"]` is "0.weight", in a nested
Sequential `params[1][0]["bias"]` is "1.0.bias". Those are the keys of the same torch.nn.Sequential,
and shapes and layouts are PyTorch's as well, so arrays are moved, never renamed or transposed.

PyTorch keeps the buffers of a layer (`running_mean`, ...) beside its parameters; here they are the
state, a second tree with the same paths. A state_dict holds both, a file of `save_params` the
parameters.

Nothing here imports PyTorch, and nothing unpickles: a file from elsewhere can be wrong, but it
can't execute code.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from funcnet.errors import DtypeError, ParamsError
from funcnet.io.files import write_atomically

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


def save_params(path: str | os.PathLike[str], params: Any) -> None:
    """Write parameters to a safetensors file, atomically; the same parameters give the same bytes.

    Args:
        path: the file; its folder must exist.
        params: a tree of tuples and dicts with arrays as leaves, as `Module.init` returns.

    Raises:
        OSError: the file can't be written; what was there is unchanged.
        DtypeError: a leaf is not an array, or of a dtype that can't be saved.
        ParamsError: two leaves have the same key.
    """
    arrays = {key: _to_numpy(key, leaf) for key, leaf in _flatten(params).items()}
    for key, array in arrays.items():
        if array.dtype not in _DTYPES.values():
            raise DtypeError(
                f"{key}: {array.dtype} can't be saved; expected a real or boolean array"
            )
    # No metadata: a time or a version in the file would change its bytes.
    write_atomically(path, safetensors.numpy.save(arrays))


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
    (params,) = _restore(_read(path), os.fspath(path), like)
    return params


def state_dict(params: Any, state: Any = ()) -> dict[str, np.ndarray]:
    """Return parameters and state under PyTorch's keys.

    `{key: torch.from_numpy(array) for key, array in state_dict(params, state).items()}` is what
    `load_state_dict` of the same PyTorch model takes. NumPy arrays of bfloat16 are foreign to
    PyTorch: move those by `save_params` and `safetensors.torch.load_file`.

    Args:
        params: parameters, as `Module.init` returns.
        state: the state beside them.

    Returns:
        Copies, on the host, that may be written to.

    Raises:
        DtypeError: a leaf is not an array.
        ParamsError: two leaves have the same key.
    """
    return {key: _to_numpy(key, leaf) for key, leaf in _merge([params, state]).items()}


def load_state_dict(
    source: str | os.PathLike[str] | Mapping[str, Any], like_params: Any, like_state: Any = ()
) -> tuple[Any, Any]:
    """Read parameters and state from a PyTorch state_dict.

    Args:
        source: a safetensors file, or a mapping from keys to NumPy, JAX or PyTorch arrays:
            `model.state_dict()`.
        like_params: what the parameters must look like: parameters of the model, or the same tree
            with `jax.ShapeDtypeStruct` leaves.
        like_state: the same for the state.

    Returns:
        (params, state), trees like those given, in JAX arrays that share no memory with `source`.
        Integers, as in `num_batches_tracked`, are converted if the value fits; floats never.

    Raises:
        OSError: the file can't be read.
        DtypeError: `source` is neither a path nor a mapping from strings, or a leaf is no array.
        ParamsError: the file is damaged or not safetensors, or a key is missing, surplus, or has
            another shape or dtype; the message names them.
    """
    if isinstance(source, Mapping):
        for key in source:
            if not isinstance(key, str):
                raise DtypeError(f"state_dict: expected strings as keys, got {key!r}")
        found = {key: _to_numpy(key, value) for key, value in source.items()}
        params, state = _restore(found, "state_dict", like_params, like_state)
    elif isinstance(source, (str, os.PathLike)):
        params, state = _restore(_read(source), os.fspath(source), like_params, like_state)
    else:
        raise DtypeError(
            f"expected a safetensors file or a state_dict, got {type(source).__name__}; "
            "of a PyTorch module, pass module.state_dict()"
        )
    return params, state


def _flatten(tree: Any) -> dict[str, Any]:
    """Return the leaves by key, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return _unique((".".join(map(_name, path)), leaf) for path, leaf in leaves)


def _merge(trees: Iterable[Any]) -> dict[str, Any]:
    return _unique(item for tree in trees for item in _flatten(tree).items())


def _unique(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, leaf in items:
        if key in leaves:
            raise ParamsError(f"two arrays have the key {key!r}; rename one of them")
        leaves[key] = leaf
    return leaves


def _name(entry: Any) -> str:
    """Return one step of a path as PyTorch writes it: an index, a dict's key, a field's name."""
    for attribute in ("idx", "key", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    raise DtypeError(f"params: expected nested tuples and dicts, got a node reached by {entry!r}")


def _to_numpy(key: str, value: Any) -> np.ndarray:
    """Return a host copy, contiguous and writable, of a NumPy, JAX or PyTorch array."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise DtypeError(f"{key}: expected an array, got {type(value).__name__}")
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16 of its own for .numpy(); float32 holds every one of its values.
        if str(value.dtype) == "torch.bfloat16":
            return value.float().numpy().astype(jnp.bfloat16)
        value = value.numpy()
    # safetensors writes the memory as it lies, so that a transposed view would come out wrong.
    return np.array(value, order="C")


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    data = Path(path).read_bytes()
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
    # torch.save writes a zip file, older versions of it a bare pickle.
    if data.startswith((b"PK\x03\x04", b"\x80")):
        return (
            "a pickle, not a safetensors file; pickles can execute code and are never loaded: "
            "in PyTorch, write safetensors.torch.save_file(model.state_dict(), path)"
        )
    return f"damaged, or not a safetensors file ({error}); write or fetch it again"


def _restore(found: Mapping[str, np.ndarray], source: str, *trees: Any) -> list[Any]:
    """Return trees like those given with the arrays found, every one of which must belong."""
    expected = _merge(trees)
    problems = [f"{key} is missing" for key in expected if key not in found]
    problems += [f"{key} is surplus" for key in sorted(found) if key not in expected]
    for key, like in expected.items():
        problems += _compare(key, found[key], like) if key in found else []
    if problems:
        rest = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ParamsError(
            f"{source} does not fit the model: {'; '.join(problems[:10])}{rest}; "
            "expected the arrays of this very model"
        )
    return [
        jax.tree.unflatten(
            jax.tree.structure(tree),
            [jnp.array(found[key], leaf.dtype) for key, leaf in _flatten(tree).items()],
        )
        for tree in trees
    ]


def _compare(key: str, array: np.ndarray, like: Any) -> list[str]:
    """Return what keeps an array from standing for `like`: at most one sentence."""
    if not (hasattr(like, "shape") and hasattr(like, "dtype")):
        raise DtypeError(f"{key}: expected an array to compare with, got {type(like).__name__}")
    if array.shape != like.shape:
        return [f"{key} has shape {array.shape}, expected {like.shape}"]
    if like.dtype != jax.dtypes.canonicalize_dtype(like.dtype):
        return [f"{key} is {like.dtype}, which needs jax.config.update('jax_enable_x64', True)"]
    if array.dtype == like.dtype:
        return []
    if np.issubdtype(array.dtype, np.integer) and np.issubdtype(like.dtype, np.integer):
        if (array.astype(like.dtype) == array).all():
            return []
        return [f"{key} has values that {like.dtype} can't hold"]
    return [f"{key} is {array.dtype}, expected {like.dtype} (convert it with astype)"]
