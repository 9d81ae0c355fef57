"""Linear: the affine map with parameters of its own."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet import ops
from funcnet._internal.checks import require_bool, require_positive_int
from funcnet._internal.fields import set_fields
from funcnet.layers.initializers import fan_in_uniform
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
class Linear(Module):
    """Affine map of the last axis, `x @ weight.T + bias` (`torch.nn.Linear`).

    Weight and bias start uniform in [-1/√N, 1/√N] with N = in_features, each drawn on its own.

    Args:
        in_features: size of the input's last axis.
        out_features: size of the output's last axis.
        bias: whether there is one; without it, params have no key "bias".

    Raises:
        ConfigError: a size is not a positive integer.
    """

    in_features: int
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        set_fields(
            self,
            in_features=require_positive_int("Linear's in_features", self.in_features),
            out_features=require_positive_int("Linear's out_features", self.out_features),
        )
        require_bool("Linear's bias", self.bias)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes | {"bias": (self.out_features,)} if self.bias else shapes

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (out, in), "bias": (out,)}, state ()."""
        return fan_in_uniform(key, self._shapes()["weight"], self.bias, dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "... in_features"],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., in_features) -> (..., out_features)."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        with naming(self, x, lambda: _fix(x)):
            return Output(ops.linear(x, params["weight"], params.get("bias")), state)


def _fix(x: Array) -> str:
    return f"set in_features={x.shape[-1]} or reshape x" if x.size and x.ndim else "reshape x"
