"""Embedding: a vector for each integer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Int

from funcnet import ops
from funcnet._internal.checks import require_floating_dtype, require_key, require_positive_int
from funcnet._internal.fields import set_fields
from funcnet.errors import DataError
from funcnet.layers.module import (
    Module,
    Output,
    Params,
    State,
    naming,
    require_params,
    require_stateless,
)
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

    def __post_init__(self) -> None:
        num_embeddings = require_positive_int("Embedding's num_embeddings", self.num_embeddings)
        set_fields(
            self,
            num_embeddings=num_embeddings,
            embedding_dim=require_positive_int("Embedding's embedding_dim", self.embedding_dim),
            padding_idx=require_padding_idx(
                "Embedding's padding_idx", self.padding_idx, num_embeddings
            ),
        )

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (num_embeddings, embedding_dim)}, state ()."""
        require_key(key)
        shape = (self.num_embeddings, self.embedding_dim)
        weight = jax.random.normal(key, shape, require_floating_dtype(dtype))
        if self.padding_idx is not None:
            weight = weight.at[self.padding_idx].set(0)
        return {"weight": weight}, ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Int[Array, "..."],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """Integers (...) -> (..., embedding_dim).

        Raises DataError for an integer without a vector, where its value is known: inside `jit`
        the output is NaN there instead.
        """
        require_params(self, params, {"weight": (self.num_embeddings, self.embedding_dim)})
        require_stateless(self, state)
        with naming(self, x):
            y = ops.embedding(x, params["weight"], self.padding_idx)
        if not isinstance(x, Tracer):
            self.check_input(x)
        return Output(y, state)

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
