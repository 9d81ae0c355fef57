"""Parameters and state to and from PyTorch's state_dicts.

Shapes and layouts are PyTorch's, and so are the keys (`trees`): arrays are moved, never transposed,
but for what stands behind a Flatten of images (`layout`).

PyTorch keeps the buffers of a layer (`running_mean`, ...) beside its parameters; here they are the
state, a second tree with the same paths. A state_dict holds both.

Nothing here imports PyTorch.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from funcnet.errors import ConfigError, DtypeError
from funcnet.io.layout import from_torch, orders_behind_flatten, to_torch, warn_of_flattened_images
from funcnet.io.renaming import Rename, renamed, without_tied
from funcnet.io.safetensors import read
from funcnet.io.trees import flatten, restore, to_numpy
from funcnet.layers import Module


def state_dict(
    params: Any, state: Any = (), *, model: Module | None = None
) -> dict[str, np.ndarray]:
    """Return parameters and state under PyTorch's keys.

    `{key: torch.from_numpy(array) for key, array in state_dict(params, state).items()}` is what
    `load_state_dict` of the same PyTorch model takes. NumPy arrays of bfloat16 are foreign to
    PyTorch: move those by `fn.save` and `safetensors.torch.load_file`.

    Args:
        params: parameters, as `Module.init` returns.
        state: the state beside them.
        model: whose they are. With it, what stands behind a Flatten of images is put into the order
            that PyTorch's Flatten makes: channels, rows, columns. Without it a warning says where
            that seems needed.

    Returns:
        Copies, on the host, that may be written to.

    Raises:
        DtypeError: a leaf is not an array.
        ParamsError: two leaves have the same key.
        ConfigError: `model` is not a layer, or the order of the features can't be told.
    """
    arrays = {key: to_numpy(key, leaf) for key, leaf in flatten(params, state).items()}
    if model is None:
        warn_of_flattened_images(_shapes(arrays), "state_dict")
        return arrays
    return to_torch(arrays, _orders(model))


def load_state_dict(
    source: str | os.PathLike[str] | Mapping[str, Any],
    like_params: Any,
    like_state: Any = (),
    *,
    model: Module | None = None,
    rename: Rename | None = None,
    tied: Mapping[str, str] | None = None,
) -> tuple[Any, Any]:
    """Read parameters and state from a PyTorch state_dict.

    Args:
        source: a safetensors file, or a mapping from keys to NumPy, JAX or PyTorch arrays:
            `model.state_dict()`.
        like_params: what the parameters must look like: parameters of the model, or the same tree
            with `jax.ShapeDtypeStruct` leaves.
        like_state: the same for the state.
        model: whose they will be. With it, what stands behind a Flatten of images is taken out of
            the order that PyTorch's Flatten makes. Without it a warning says where that seems
            needed.
        rename: from keys of the source to ours: a function, or a dict from keys or names of
            modules, such as {"fc1": "0", "module": ""}; the longest that fits is taken.
        tied: from the key of a second copy of a weight to the key of that weight, both as renamed:
            {"lm_head.weight": "wte.weight"}. The copy must equal it, and is left out.

    Returns:
        (params, state), trees like those given, in JAX arrays that share no memory with `source`.
        Integers, as in `num_batches_tracked`, are converted if the value fits; floats never.

    Raises:
        OSError: the file can't be read.
        DtypeError: `source` is neither a path nor a mapping from strings, or a leaf is no array.
        ParamsError: the file is damaged or not safetensors, or a key is missing, surplus, or has
            another shape or dtype; the message names them, and the `rename` that may be meant. Or
            tied weights differ.
        ConfigError: `model` is not a layer, or the order of the features can't be told.
    """
    found, name = arrays_of(source)
    expected = flatten(like_params, like_state)
    found = without_tied(renamed(found, rename), tied, expected)
    if model is not None:
        found = from_torch(found, _orders(model))
    params, state = restore(found, name, like_params, like_state)
    if model is None:
        warn_of_flattened_images(_shapes(expected), "load_state_dict")
    return params, state


def arrays_of(source: Any) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file or a mapping, and what a message calls it."""
    if isinstance(source, Mapping):
        for key in source:
            if not isinstance(key, str):
                raise DtypeError(f"state_dict: expected strings as keys, got {key!r}")
        return {key: to_numpy(key, value) for key, value in source.items()}, "state_dict"
    if isinstance(source, str | os.PathLike):
        return read(source), os.fspath(source)
    raise DtypeError(
        f"expected a safetensors file or a state_dict, got {type(source).__name__}; "
        "of a PyTorch module, pass module.state_dict()"
    )


def _orders(model: Any) -> Any:
    if not isinstance(model, Module):
        raise ConfigError(f"model is {model!r}, expected an instance of funcnet.Module")
    return orders_behind_flatten(model)


def _shapes(leaves: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(leaf.shape) for key, leaf in leaves.items()}
