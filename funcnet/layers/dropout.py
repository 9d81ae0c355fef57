"""Dropout: entries zeroed at random, in training only."""

import dataclasses

from funcnet import ops
from funcnet._internal.checks import require_number
from funcnet.errors import DtypeError
from funcnet.layers.module import (
    Module,
    Output,
    require_floating_input,
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

    def __post_init__(self):
        object.__setattr__(self, "p", require_number("Dropout's p", self.p, 0, 1))

    def apply(self, params, state, x, *, key=None, train=False):
        """(...) -> (...)."""
        require_params(self, params, {})
        require_stateless(self, state)
        require_floating_input(self, x)
        if train and self.p and key is None:
            raise DtypeError(
                f"{self!r} got no key, expected one in training, to draw its mask from; pass it, "
                f"as model.apply(params, state, x, key=jax.random.key(0), train=True)"
            )
        return Output(ops.dropout(x, self.p, train, key), state)
