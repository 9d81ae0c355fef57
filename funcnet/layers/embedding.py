"""Embedding: a vector for each integer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from funcnet import ops
from funcnet._internal.checks import require_floating_dtype, require_key, require_positive_int
from funcnet.errors import DataError, DtypeError
from funcnet.layers.module import Module, Output, kind, require_params, require_stateless
from funcnet.ops.embedding import require_padding_idx


@dataclasses.dataclass(frozen=True)
class Embedding(Module):
    """A learned vector for each of the integers 0, 1, ... (`torch.nn.Embedding`).

    The vectors start standard normal, the one at padding_idx as zeros.

    Args:
        num_embeddings: how many integers there are.
        embedding_dim: the size of a vector.
        padding_idx: the integer whose vector is not trained; counted from the end if negative,
            and stored counted from the front.

    Raises:
        ConfigError: a size is not a positive integer, or padding_idx none of the integers.
    """

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None

    def __post_init__(self):
        for name in ("num_embeddings", "embedding_dim"):
            size = require_positive_int(f"Embedding's {name}", getattr(self, name))
            object.__setattr__(self, name, size)
        padding_idx = require_padding_idx(
            "Embedding's padding_idx", self.padding_idx, self.num_embeddings
        )
        object.__setattr__(self, "padding_idx", padding_idx)

    def init(self, key, dtype=jnp.float32):
        """Params {"weight": (num_embeddings, embedding_dim)}, state ()."""
        require_key(key)
        shape = (self.num_embeddings, self.embedding_dim)
        weight = jax.random.normal(key, shape, require_floating_dtype(dtype))
        if self.padding_idx is not None:
            weight = weight.at[self.padding_idx].set(0)
        return {"weight": weight}, ()

    def apply(self, params, state, x, *, key=None, train=False):
        """Integers (...) -> (..., embedding_dim).

        Raises DataError for an integer without a vector, where its value is known: inside `jit`
        the output is NaN there instead.
        """
        require_params(self, params, {"weight": (self.num_embeddings, self.embedding_dim)})
        require_stateless(self, state)
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
            raise DtypeError(
                f"{self!r} got an input of {getattr(x, 'dtype', '')}{kind(x)}, expected an array "
                f"of integers; convert it, for example with jnp.asarray(x, jnp.int32)"
            )
        if not isinstance(x, Tracer):
            self.check_input(x)
        return Output(ops.embedding(x, params["weight"], self.padding_idx), state)

    def check_input(self, x: Any) -> None:
        """Raise DataError where an integer has no vector."""
        indices = np.asarray(x)
        wrong = (indices < 0) | (indices >= self.num_embeddings)
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"{self!r} got {indices[where]} at {list(where)}, expected 0 to "
                f"{self.num_embeddings - 1}; set num_embeddings, or count from 0"
            )
