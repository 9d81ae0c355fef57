"""Convolutions of images and of series, and their transposes, with parameters of their own."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet import ops
from funcnet._internal.checks import (
    require_bool,
    require_floating_dtype,
    require_int,
    require_key,
    require_positive_int,
)
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
from funcnet.ops.conv import row_of
from funcnet.ops.conv_transpose import require_output_padding


class _Convolution(Module):
    """What all of them share."""

    _axes: int
    """Of an input, with its channels."""

    in_channels: int
    out_channels: int
    kernel_size: Any
    groups: int
    bias: bool

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("in_channels", "out_channels", "groups"):
            size = require_positive_int(f"{name}'s {field}", getattr(self, field))
            set_fields(self, **{field: size})
        for field in ("in_channels", "out_channels"):
            if getattr(self, field) % self.groups:
                raise ConfigError(
                    f"{name}'s {field} is {getattr(self, field)}, expected a multiple of groups = "
                    f"{self.groups}"
                )
        require_bool(f"{name}'s bias", self.bias)

    @property
    def _kernel(self) -> tuple[int, ...]:
        """The taps, as the weight's last axes."""
        kernel = self.kernel_size
        return kernel if isinstance(kernel, tuple) else (kernel,)

    @property
    def _channels(self) -> tuple[int, int]:
        """The weight's first axes."""
        return self.out_channels, self.in_channels // self.groups

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (*self._channels, *self._kernel)}
        return shapes | {"bias": (self.out_channels,)} if self.bias else shapes

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (out, in / groups, *kernel), "bias": (out,)}, state ()."""
        return fan_in_uniform(key, self._shapes()["weight"], self.bias, dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "... in_channels"],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., *pixels, in_channels) -> (..., *pixels, out_channels); see the layer's op."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        with naming(self, x, lambda: self._fix(x.shape)):
            y = self._convolve(x, params["weight"], params.get("bias"))
        return Output(y, state)

    def _convolve(self, x: Any, weight: Array, bias: Array | None) -> Array:
        raise NotImplementedError

    def _fix(self, shape: tuple[int, ...]) -> str:
        if len(shape) < self._axes or shape[-1] == self.in_channels:
            return ""
        if shape[-self._axes] == self.in_channels:
            return f"move the channels to the end with jnp.moveaxis(x, -{self._axes}, -1)"
        return f"set in_channels={shape[-1]}"


class _Transposed(_Convolution):
    """What the transposes share."""

    @property
    def _channels(self) -> tuple[int, int]:
        """The weight's first axes."""
        return self.in_channels, self.out_channels // self.groups

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (in, out / groups, *kernel), "bias": (out,)}, state ().

        Uniform in [-1/√N, 1/√N], where N is out_channels / groups times the taps, as in PyTorch.
        """
        require_key(key)
        shape = self._shapes()["weight"]
        params = fan_in_uniform(key, shape, False, dtype)
        if self.bias:
            bound, bias_key = 1 / math.sqrt(math.prod(shape[1:])), jax.random.fold_in(key, 1)
            drawn = (self.out_channels,), require_floating_dtype(dtype), -bound, bound
            params |= {"bias": jax.random.uniform(bias_key, *drawn)}
        return params, ()


@dataclasses.dataclass(frozen=True)
class Conv2d(_Convolution):
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

    _axes: ClassVar[int] = 3

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size = 1
    padding: Padding = 0
    dilation: Size = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        stride = require_pair("Conv2d's stride", self.stride, 1)
        set_fields(
            self,
            kernel_size=require_pair("Conv2d's kernel_size", self.kernel_size, 1),
            stride=stride,
            padding=require_padding("Conv2d's padding", self.padding, stride),
            dilation=require_pair("Conv2d's dilation", self.dilation, 1),
        )

    def _convolve(self, x, weight, bias):
        options = self.stride, self.padding, self.dilation, self.groups
        return ops.conv2d(x, weight, bias, *options)


@dataclasses.dataclass(frozen=True)
class Conv1d(_Convolution):
    """Convolution along one axis, channels last (`torch.nn.Conv1d`, padded with zeros).

    Weight and bias start as `Conv2d`'s.

    Args:
        in_channels: size of the input's last axis.
        out_channels: size of the output's last axis.
        kernel_size: taps of the kernel.
        stride: from one place of the kernel to the next.
        padding: zeros on each side, or "same" or "valid".
        dilation: from one tap of the kernel to the next.
        groups: into how many parts the channels fall; divides both numbers of channels.
        bias: whether there is one; without it, params have no key "bias".

    Raises:
        ConfigError: a size or option that has no meaning.
    """

    _axes: ClassVar[int] = 2

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int | Literal["same", "valid"] = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("kernel_size", "stride", "dilation"):
            number = require_positive_int(f"Conv1d's {field}", getattr(self, field))
            set_fields(self, **{field: number})
        row_of("Conv1d's padding", self.padding, self.stride)

    def _convolve(self, x, weight, bias):
        options = self.stride, self.padding, self.dilation, self.groups
        return ops.conv1d(x, weight, bias, *options)


@dataclasses.dataclass(frozen=True)
class ConvTranspose2d(_Transposed):
    """The transpose of `Conv2d`, channels last (`torch.nn.ConvTranspose2d`): images that grow.

    Args:
        in_channels: size of the input's last axis.
        out_channels: size of the output's last axis.
        kernel_size: taps of the kernel; an integer or (rows, columns), as the next three.
        stride: from the kernel's place of one pixel to that of the next.
        padding: how much of the border is cut off on each side.
        output_padding: how much more stays at the end; below stride or dilation.
        groups: into how many parts the channels fall; divides both numbers of channels.
        bias: whether there is one; without it, params have no key "bias".
        dilation: from one tap of the kernel to the next.

    Raises:
        ConfigError: a size or option that has no meaning.
    """

    _axes: ClassVar[int] = 3

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    output_padding: Size = 0
    groups: int = 1
    bias: bool = True
    dilation: Size = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"kernel_size": 1, "stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
        pairs = {
            field: require_pair(f"ConvTranspose2d's {field}", getattr(self, field), at_least)
            for field, at_least in least.items()
        }
        set_fields(self, **pairs)
        steps = pairs["output_padding"], pairs["stride"], pairs["dilation"]
        require_output_padding("ConvTranspose2d's output_padding", *steps)

    def _convolve(self, x, weight, bias):
        options = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return ops.conv_transpose2d(x, weight, bias, *options)


@dataclasses.dataclass(frozen=True)
class ConvTranspose1d(_Transposed):
    """The transpose of `Conv1d`, channels last (`torch.nn.ConvTranspose1d`): series that grow.

    Args:
        in_channels: size of the input's last axis.
        out_channels: size of the output's last axis.
        kernel_size: taps of the kernel.
        stride: from the kernel's place of one entry to that of the next.
        padding: how much is cut off at each end.
        output_padding: how much more stays at the end; below stride or dilation.
        groups: into how many parts the channels fall; divides both numbers of channels.
        bias: whether there is one; without it, params have no key "bias".
        dilation: from one tap of the kernel to the next.

    Raises:
        ConfigError: a size or option that has no meaning.
    """

    _axes: ClassVar[int] = 2

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    groups: int = 1
    bias: bool = True
    dilation: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "ConvTranspose1d"
        for field in ("kernel_size", "stride", "dilation"):
            number = require_positive_int(f"{name}'s {field}", getattr(self, field))
            set_fields(self, **{field: number})
        for field in ("padding", "output_padding"):
            number = require_int(f"{name}'s {field}", getattr(self, field))
            require_pair(f"{name}'s {field}", number, 0)
            set_fields(self, **{field: number})
        steps = (0, self.output_padding), (1, self.stride), (1, self.dilation)
        require_output_padding(f"{name}'s output_padding", *steps)

    def _convolve(self, x, weight, bias):
        options = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return ops.conv_transpose1d(x, weight, bias, *options)
