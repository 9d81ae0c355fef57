"""Layers that apply one function: to each entry, or along one axis."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet import ops
from funcnet._internal.checks import (
    require_floating_dtype,
    require_int,
    require_key,
    require_number,
    require_positive_int,
)
from funcnet._internal.fields import set_fields
from funcnet.layers.module import (
    Module,
    OneFunction,
    Output,
    Params,
    State,
    naming,
    require_params,
    require_stateless,
)
from funcnet.ops.activations import Approximation, require_approximation, require_beta


@dataclasses.dataclass(frozen=True)
class ReLU(OneFunction):
    """Positive part of each entry, max(x, 0) (`torch.nn.ReLU`)."""

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.relu`."""
        return ops.relu(x)


@dataclasses.dataclass(frozen=True)
class LeakyReLU(OneFunction):
    """x where it is positive, else negative_slope * x (`torch.nn.LeakyReLU`).

    Args:
        negative_slope: the slope below 0, and at 0.

    Raises:
        ConfigError: the slope is not a finite number.
    """

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        slope = require_number("LeakyReLU's negative_slope", self.negative_slope)
        set_fields(self, negative_slope=slope)

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.leaky_relu`."""
        return ops.leaky_relu(x, self.negative_slope)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class PReLU(Module):
    """x where it is positive, else a learned slope times x (`torch.nn.PReLU`).

    Args:
        num_parameters: 1 slope for all channels, or as many as there are channels, which are last.
        init: where the slopes start.

    Raises:
        ConfigError: num_parameters is not a positive integer, or init no finite number.
    """

    num_parameters: int
    slope: float

    def __init__(self, num_parameters: int = 1, init: float = 0.25):
        count = require_positive_int("PReLU's num_parameters", num_parameters)
        set_fields(self, num_parameters=count, slope=require_number("PReLU's init", init))

    def __repr__(self) -> str:
        return f"PReLU(num_parameters={self.num_parameters}, init={self.slope})"

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (num_parameters,)}, state ()."""
        require_key(key)
        shape = (self.num_parameters,)
        return {"weight": jnp.full(shape, self.slope, require_floating_dtype(dtype))}, ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "... channels"],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., channels) -> (..., channels); see `ops.prelu`."""
        require_params(self, params, {"weight": (self.num_parameters,)})
        require_stateless(self, state)
        fix = f"set num_parameters={x.shape[-1]}" if x.ndim else ""
        with naming(self, x, lambda: fix):
            return Output(ops.prelu(x, params["weight"]), state)


@dataclasses.dataclass(frozen=True)
class ELU(OneFunction):
    """x where it is positive, else alpha * (exp(x) - 1) (`torch.nn.ELU`).

    Args:
        alpha: how far below 0 it goes.

    Raises:
        ConfigError: alpha is not a finite number.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        set_fields(self, alpha=require_number("ELU's alpha", self.alpha))

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.elu`."""
        return ops.elu(x, self.alpha)


@dataclasses.dataclass(frozen=True)
class Softplus(OneFunction):
    """A smooth ReLU, log(1 + exp(beta * x)) / beta (`torch.nn.Softplus`).

    Args:
        beta: the larger, the closer to ReLU; not 0.
        threshold: where beta * x exceeds it, the output is x.

    Raises:
        ConfigError: beta or the threshold is not a finite number, or beta is 0.
    """

    beta: float = 1.0
    threshold: float = 20.0

    def __post_init__(self) -> None:
        beta = require_beta("Softplus's beta", self.beta)
        threshold = require_number("Softplus's threshold", self.threshold)
        set_fields(self, beta=beta, threshold=threshold)

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.softplus`."""
        return ops.softplus(x, self.beta, self.threshold)


@dataclasses.dataclass(frozen=True)
class Tanh(OneFunction):
    """Hyperbolic tangent of each entry (`torch.nn.Tanh`)."""

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.tanh`."""
        return ops.tanh(x)


@dataclasses.dataclass(frozen=True)
class Sigmoid(OneFunction):
    """Logistic function of each entry, 1 / (1 + exp(-x)) (`torch.nn.Sigmoid`)."""

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.sigmoid`."""
        return ops.sigmoid(x)


@dataclasses.dataclass(frozen=True)
class SiLU(OneFunction):
    """Each entry times its sigmoid (`torch.nn.SiLU`), also called swish."""

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.silu`."""
        return ops.silu(x)


@dataclasses.dataclass(frozen=True)
class GELU(OneFunction):
    """Each entry times the normal distribution's P(X < x) (`torch.nn.GELU`).

    Args:
        approximate: "none" or "tanh".

    Raises:
        ConfigError: another approximation.
    """

    approximate: Approximation = "none"

    def __post_init__(self) -> None:
        require_approximation("GELU", self.approximate)

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.gelu`."""
        return ops.gelu(x, self.approximate)


@dataclasses.dataclass(frozen=True)
class Softmax(OneFunction):
    """Probabilities in proportion to exp(x) along one axis (`torch.nn.Softmax`).

    No last layer for CrossEntropyLoss, which takes the logits: it has a softmax of its own.

    Args:
        dim: the axis; the last, which counts the classes, by default. (PyTorch's default is
            deprecated and chooses by the number of axes.)

    Raises:
        ConfigError: dim is not an integer.
    """

    dim: int = -1

    def __post_init__(self) -> None:
        set_fields(self, dim=require_int("Softmax's dim", self.dim))

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.softmax`."""
        return ops.softmax(x, self.dim)


@dataclasses.dataclass(frozen=True)
class LogSoftmax(OneFunction):
    """Logarithm of the softmax along one axis (`torch.nn.LogSoftmax`), as NLLLoss takes it.

    Args:
        dim: the axis; the last, which counts the classes, by default.

    Raises:
        ConfigError: dim is not an integer.
    """

    dim: int = -1

    def __post_init__(self) -> None:
        set_fields(self, dim=require_int("LogSoftmax's dim", self.dim))

    def function(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`ops.log_softmax`."""
        return ops.log_softmax(x, self.dim)
