"""Conv2d: the convolution with parameters of its own."""

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

    def __post_init__(self):
        for name in ("in_channels", "out_channels", "groups"):
            size = require_positive_int(f"Conv2d's {name}", getattr(self, name))
            object.__setattr__(self, name, size)
        for name in ("kernel_size", "stride", "dilation"):
            pair = require_pair(f"Conv2d's {name}", getattr(self, name), 1)
            object.__setattr__(self, name, pair)
        stride = require_pair("Conv2d's stride", self.stride, 1)
        padding = require_padding("Conv2d's padding", self.padding, stride)
        object.__setattr__(self, "padding", padding)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ConfigError(
                    f"Conv2d's {name} is {getattr(self, name)}, expected a multiple of groups = "
                    f"{self.groups}"
                )
        if not isinstance(self.bias, bool):
            raise ConfigError(f"Conv2d's bias is {self.bias!r}, expected True or False")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        inputs = self.in_channels // self.groups
        kernel = require_pair("Conv2d's kernel_size", self.kernel_size, 1)
        shapes = {"weight": (self.out_channels, inputs, *kernel)}
        return shapes | {"bias": (self.out_channels,)} if self.bias else shapes

    def init(self, key, dtype=jnp.float32):
        """Params {"weight": (out, in / groups, rows, columns), "bias": (out,)}, state ()."""
        require_key(key)
        out, *summed = self._shapes()["weight"]
        inputs = math.prod(summed)
        bound = 1 / math.sqrt(inputs)
        # Drawn at once, the bias as one more column: each draw adds to what has to be compiled.
        shape = (out, inputs + self.bias)
        drawn = jax.random.uniform(key, shape, require_floating_dtype(dtype), -bound, bound)
        params = {"weight": drawn[:, :inputs].reshape(out, *summed)}
        if self.bias:
            params["bias"] = drawn[:, -1]
        return params, ()

    def apply(self, params, state, x, *, key=None, train=False):
        """(..., height, width, in_channels) -> (..., H', W', out_channels); see `ops.conv2d`."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        require_floating_input(self, x)
        if x.ndim < 3 or x.shape[-1] != self.in_channels:
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected (..., height, width, "
                f"{self.in_channels}), channels last; {_mend(x.shape, self.in_channels)}"
            )
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


def _mend(shape, channels):
    if len(shape) >= 3 and shape[-3] == channels:
        return "move the channels to the end with jnp.moveaxis(x, -3, -1)"
    if channels == 1 and len(shape) >= 2:
        return "add the axis of one channel with x[..., None]"
    return "reshape the input" if len(shape) < 3 else f"set in_channels={shape[-1]}"
