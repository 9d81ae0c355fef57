"""GPT-2's parameters to and from `transformers`, whose `Conv1D` stores its weights transposed.

The tree is the one that GPT-2's names describe: "wte" and "wpe", in "h" a tuple or dict of blocks
with "ln_1", "attn" ("c_attn", "c_proj"), "ln_2" and "mlp" ("c_fc", "c_proj"), and "ln_f".

Nothing here imports transformers or PyTorch. Of Llama, whose layers are all `Linear`, the function
`load_state_dict` reads what there is with `rename={"model": ""}`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from funcnet.errors import ParamsError
from funcnet.io.state_dicts import arrays_of, load_state_dict, state_dict

_PREFIX = "transformer."
_HEAD = "lm_head.weight"
_TRANSPOSED = re.compile(r"(.*\.)?(c_attn|c_proj|c_fc)\.weight$")
# Masks that older releases saved beside the parameters.
_BUFFER = re.compile(r"(.*\.)?attn\.(bias|masked_bias)$")


def load_gpt2(source: str | os.PathLike[str] | Mapping[str, Any], like_params: Any) -> Any:
    """Read the parameters of a GPT-2 as `transformers` saves them.

    Args:
        source: a safetensors file, or a mapping from keys to arrays: `model.state_dict()` of a
            GPT2LMHeadModel, whose head is the token embedding, or of a GPT2Model.
        like_params: what the parameters must look like, as for `load_state_dict`.

    Returns:
        A tree like `like_params`, in JAX arrays.

    Raises:
        OSError, DtypeError: `source` can't be read, or is none of these.
        ParamsError: a key is missing, surplus, or has another shape or dtype, named as in our tree;
            or the head is not the token embedding.
    """
    found, _ = arrays_of(source)
    ours = {}
    for key, array in found.items():
        name = key.removeprefix(_PREFIX)
        if _BUFFER.match(name):
            continue
        if name in ours:
            raise ParamsError(f"load_gpt2: {name} and {_PREFIX}{name} are both there, expected one")
        ours[name] = array.T if _TRANSPOSED.match(name) and array.ndim == 2 else array
    return load_state_dict(ours, like_params, tied={_HEAD: "wte.weight"})[0]


def gpt2_state_dict(params: Any) -> dict[str, np.ndarray]:
    """Return GPT-2's parameters under the keys and in the layouts of a GPT2LMHeadModel.

    Args:
        params: the tree that `load_gpt2` returns.

    Returns:
        Copies on the host, the head's among them. `{key: torch.from_numpy(array) for key, array in
        gpt2_state_dict(params).items()}` is what `load_state_dict` of the model takes.

    Raises:
        ParamsError: the tree holds no token embedding "wte".
        DtypeError: a leaf is not an array.
    """
    arrays = state_dict(params)
    if "wte.weight" not in arrays:
        raise ParamsError(
            f"gpt2_state_dict: expected the key wte.weight among {sorted(arrays)[:5]}, ...; pass "
            f"the params of a GPT with GPT-2's names"
        )
    theirs = {
        _PREFIX + key: np.ascontiguousarray(array.T) if _TRANSPOSED.match(key) else array
        for key, array in arrays.items()
    }
    return theirs | {_HEAD: arrays["wte.weight"].copy()}
