"""Dropout: entries zeroed at random, in training only."""

import dataclasses

from jax import Array
from jaxtyping import Float

from funcnet import ops
from funcnet._internal.checks import require_number
from funcnet._internal.fields import set_fields
from funcnet.layers.module import (
    Module,
    Output,
    Params,
    State,
    naming,
    require_params,
    require_stateless,
)


@dataclasses.dataclass(frozen=True)
class Dropout(Module):
    """Zero each entry with probability p in training, else nothing (`torch.nn.Dropout`).

    What is kept is divided by 1 - p. The mask is drawn from the key given to `apply`.

    Args:
        p: the probability, in [0, 1].

    Raises:
        ConfigError: p is not a number in [0, 1].
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        set_fields(self, p=require_number("Dropout's p", self.p, 0, 1))

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "..."],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(...) -> (...)."""
        require_params(self, params, {})
        require_stateless(self, state)
        with naming(self, x):
            return Output(ops.dropout(x, self.p, train, key), state)
