"""Linear: the affine map with parameters of its own."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from funcnet import ops
from funcnet._internal.checks import require_floating_dtype, require_key, require_positive_int
from funcnet.errors import ConfigError, ShapeError
from funcnet.layers.module import (
    Module,
    Output,
    require_floating_input,
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

    def __post_init__(self):
        for name in ("in_features", "out_features"):
            size = require_positive_int(f"Linear's {name}", getattr(self, name))
            object.__setattr__(self, name, size)
        if not isinstance(self.bias, bool):
            raise ConfigError(f"Linear's bias is {self.bias!r}, expected True or False")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {"weight": (self.out_features, self.in_features)}
        return shapes | {"bias": (self.out_features,)} if self.bias else shapes

    def init(self, key, dtype=jnp.float32):
        """Params {"weight": (out, in), "bias": (out,)}, state ()."""
        require_key(key)
        bound = 1 / math.sqrt(self.in_features)
        # Drawn at once, the bias as one more column: each draw adds to what has to be compiled.
        shape = (self.out_features, self.in_features + self.bias)
        drawn = jax.random.uniform(key, shape, require_floating_dtype(dtype), -bound, bound)
        params = {"weight": drawn[:, : self.in_features]}
        if self.bias:
            params["bias"] = drawn[:, -1]
        return params, ()

    def apply(self, params, state, x, *, key=None, train=False):
        """(..., in_features) -> (..., out_features)."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        require_floating_input(self, x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            mend = f"set in_features={x.shape[-1]} or " if x.size and x.ndim else ""
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected (..., {self.in_features}), "
                f"features last; {mend}reshape the input"
            )
        return Output(ops.linear(x, params["weight"], params.get("bias")), state)
