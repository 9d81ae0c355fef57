"""Conv2d: the convolution with parameters of its own."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet import ops
from funcnet._internal.checks import require_bool, require_positive_int
from funcnet._internal.fields import set_fields
from funcnet.errors import ConfigError
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
from funcnet.ops._windows import Padding, Size, require_padding, require_pair


@dataclasses.dataclass(frozen=True)
class Conv2d(Module):
    """Convolution of images, channels last (`torch.nn.Conv2d`, padded with zeros).

    Weight and bias start uniform in [-1/√N, 1/√N], each drawn on its own; N is what an output is
    summed over, in_channels / groups times the taps of the kernel.

    Args:
        in_channels: size of the input's last axis.
        out_channels: size of the output's last axis.
        kernel_size: taps of the kernel; an integer or (rows, columns), as the next three.
        stride: from one place of the kernel to the next.
        padding: zeros on each side, or "same" or "valid".
        dilation: from one tap of the kernel to the next.
        groups: into how many parts the channels fall; divides both numbers of channels.
        bias: whether there is one; without it, params have no key "bias".

    Raises:
        ConfigError: a size or option that has no meaning.
    """

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size = 1
    padding: Padding = 0
    dilation: Size = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "groups"):
            size = require_positive_int(f"Conv2d's {name}", getattr(self, name))
            set_fields(self, **{name: size})
        stride = require_pair("Conv2d's stride", self.stride, 1)
        set_fields(
            self,
            kernel_size=require_pair("Conv2d's kernel_size", self.kernel_size, 1),
            stride=stride,
            padding=require_padding("Conv2d's padding", self.padding, stride),
            dilation=require_pair("Conv2d's dilation", self.dilation, 1),
        )
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ConfigError(
                    f"Conv2d's {name} is {getattr(self, name)}, expected a multiple of groups = "
                    f"{self.groups}"
                )
        require_bool("Conv2d's bias", self.bias)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        inputs = self.in_channels // self.groups
        kernel: Any = self.kernel_size  # a pair by now
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_channels, inputs, *kernel)}
        return shapes | {"bias": (self.out_channels,)} if self.bias else shapes

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (out, in / groups, rows, columns), "bias": (out,)}, state ()."""
        return fan_in_uniform(key, self._shapes()["weight"], self.bias, dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "... height width in_channels"],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., height, width, in_channels) -> (..., H', W', out_channels); see `ops.conv2d`."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        with naming(self, x, lambda: self._fix(x.shape)):
            y = ops.conv2d(
                x,
                params["weight"],
                params.get("bias"),
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
            )
        return Output(y, state)

    def _fix(self, shape: tuple[int, ...]) -> str:
        if len(shape) < 3 or shape[-1] == self.in_channels:
            return ""
        if shape[-3] == self.in_channels:
            return "move the channels to the end with jnp.moveaxis(x, -3, -1)"
        return f"set in_channels={shape[-1]}"
