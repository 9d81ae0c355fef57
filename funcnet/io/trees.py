"""Trees of arrays under PyTorch's keys.

An array's key is the path to it, joined with dots: `params[0]["weight"]` is "0.weight", in a nested
Sequential `params[1][0]["bias"]` is "1.0.bias", and where layers have names `params["fc"]["bias"]`
is "fc.bias".
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.errors import DtypeError, ParamsError
from funcnet.io.renaming import paired_by_shape, rename_advice

SHOWN = 10  # differences in a message


def flatten(*trees: Any) -> dict[str, Any]:
    """Return the leaves of the trees by key, in the order of `jax.tree.leaves`.

    Raises:
        ParamsError: two leaves have the same key.
        DtypeError: a node is neither a tuple nor a dict.
    """
    leaves: dict[str, Any] = {}
    for tree in trees:
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            key = ".".join(map(_name, path))
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


def to_numpy(key: str, value: Any) -> np.ndarray:
    """Return a host copy, contiguous and writable, of a NumPy, JAX or PyTorch array.

    Raises:
        DtypeError: the value is not an array, or a random key.
    """
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise DtypeError(f"{key}: expected an array, got {type(value).__name__}")
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16 of its own for .numpy(); float32 holds every one of its values.
        if str(value.dtype) == "torch.bfloat16":
            return value.float().numpy().astype(jnp.bfloat16)
        value = value.numpy()
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise DtypeError(
            f"{key}: expected numbers, got a random key, {value.dtype}{list(value.shape)}; save "
            f"its jax.random.key_data, or the whole run with fn.checkpoint.save"
        )
    # safetensors writes the memory as it lies, so that a transposed view would come out wrong.
    return np.array(value, order="C")


def restore(found: Mapping[str, np.ndarray], source: str, *trees: Any, of: str = "") -> list[Any]:
    """Return trees like those given with the arrays found, every one of which must belong.

    Args:
        found: the arrays by key.
        source: where they are from, for the message.
        trees: what to return, with arrays or shapes as leaves.
        of: what `source` is known to be, for the message.

    Raises:
        ParamsError: a key is missing, surplus, or has another shape or dtype.
        DtypeError: a leaf of the trees is not an array.
    """
    expected = flatten(*trees)
    missing = [key for key in expected if key not in found]
    surplus = [key for key in found if key not in expected]
    pairs = paired_by_shape(
        {key: np.shape(expected[key]) for key in missing},
        {key: found[key].shape for key in surplus},
    )
    problems = [f"{key} is missing" for key in missing if key not in pairs.values()]
    problems += [f"{key} is surplus" for key in sorted(surplus) if key not in pairs]
    for key, like in expected.items():
        problems += _compare(key, found[key], like) if key in found else []
    if pairs or problems:
        rest = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        said = [*problems[:SHOWN], *rest, *rename_advice(pairs, found, expected)]
        raise ParamsError(
            f"{source} does not fit the model: {'; '.join(said)}; "
            f"expected the arrays of this very model{of}"
        )
    return [
        jax.tree.unflatten(
            jax.tree.structure(tree),
            [jnp.array(found[key], leaf.dtype) for key, leaf in flatten(tree).items()],
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
