"""Layers that change the shape: of images by windows or copies, of arrays by their axes."""

import dataclasses
import math
from typing import Any, Literal

from jax import Array
from jaxtyping import Float

from funcnet import ops
from funcnet._internal.checks import require_choice, require_int
from funcnet._internal.fields import set_fields
from funcnet.errors import ConfigError, ShapeError
from funcnet.layers.module import (
    Module,
    OneFunction,
    Output,
    Params,
    State,
    require_params,
    require_stateless,
)
from funcnet.ops._checks import require_floating
from funcnet.ops._windows import Size
from funcnet.ops.interpolate import require_size
from funcnet.ops.pooling import require_divisor, require_output_size, require_pooling


@dataclasses.dataclass(frozen=True)
class MaxPool2d(OneFunction):
    """Largest entry of each window of an image, channels last (`torch.nn.MaxPool2d`).

    Args:
        kernel_size: entries of a window; an integer or (rows, columns), as the next three.
        stride: from one window to the next; None for as large as the kernel.
        padding: -∞ on each side.
        dilation: from one entry of a window to the next.
        ceil_mode: whether a last window may stick out of the padded image.

    Raises:
        ConfigError: a size or option that has no meaning.
    """

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    # By name only: PyTorch's layer has another option in this place, its function has not.
    ceil_mode: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        options = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        kernel_size, stride, padding, dilation = require_pooling("MaxPool2d's", *options)
        set_fields(self, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)

    def function(
        self, x: Float[Array, "... height width channels"]
    ) -> Float[Array, "... rows columns channels"]:
        """(..., height, width, channels) -> (..., H', W', channels); see `ops.max_pool2d`."""
        options = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return ops.max_pool2d(x, *options)


@dataclasses.dataclass(frozen=True)
class AvgPool2d(OneFunction):
    """Mean of each window of an image, channels last (`torch.nn.AvgPool2d`).

    Args:
        kernel_size: entries of a window; an integer or (rows, columns), as the next two.
        stride: from one window to the next; None for as large as the kernel.
        padding: zeros on each side.
        ceil_mode: whether a last window may stick out of the padded image.
        count_include_pad: whether the padding is counted.
        divisor_override: what every sum is divided by instead.

    Raises:
        ConfigError: a size or option that has no meaning.
    """

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    def __post_init__(self) -> None:
        options = (self.kernel_size, self.stride, self.padding, 1, self.ceil_mode)
        kernel_size, stride, padding, _ = require_pooling("AvgPool2d's", *options)
        set_fields(self, kernel_size=kernel_size, stride=stride, padding=padding)
        require_divisor("AvgPool2d's", self.count_include_pad, self.divisor_override)

    def function(
        self, x: Float[Array, "... height width channels"]
    ) -> Float[Array, "... rows columns channels"]:
        """(..., height, width, channels) -> (..., H', W', channels); see `ops.avg_pool2d`."""
        windows = self.kernel_size, self.stride, self.padding, self.ceil_mode
        return ops.avg_pool2d(x, *windows, self.count_include_pad, self.divisor_override)


@dataclasses.dataclass(frozen=True)
class AdaptiveAvgPool2d(OneFunction):
    """Means over windows that cover an image of any size evenly (`torch.nn.AdaptiveAvgPool2d`).

    Args:
        output_size: how many windows, an integer or (rows, columns); None for one a pixel.

    Raises:
        ConfigError: sizes that are not positive integers or None.
    """

    output_size: int | tuple[int | None, int | None]

    def __post_init__(self) -> None:
        size = require_output_size("AdaptiveAvgPool2d's output_size", self.output_size)
        set_fields(self, output_size=size)

    def function(
        self, x: Float[Array, "... height width channels"]
    ) -> Float[Array, "... rows columns channels"]:
        """(..., height, width, channels) -> (..., rows, columns, channels)."""
        return ops.adaptive_avg_pool2d(x, self.output_size)


@dataclasses.dataclass(frozen=True)
class Identity(Module):
    """Its input (`torch.nn.Identity`): holds a place where a layer may stand."""

    def apply(
        self,
        params: Params,
        state: State,
        x: Any,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """X -> x, an array or any pytree of arrays."""
        require_params(self, params, {})
        require_stateless(self, state)
        return Output(x, state)


@dataclasses.dataclass(frozen=True)
class Flatten(Module):
    """Axes from start_dim to end_dim become one (`torch.nn.Flatten`).

    Of an image the channels are last, also here: features come out ordered by row, column and
    channel, PyTorch's by channel, row and column. A Linear after it, taken from a PyTorch network,
    has to have its weight's columns put into this order, unless the images are of one pixel.

    Args:
        start_dim: the first of the axes; the default keeps one batch axis.
        end_dim: the last of them. Both may count from the end, as -1.

    Raises:
        ConfigError: an axis that is not an integer.
    """

    start_dim: int = 1
    end_dim: int = -1

    def __post_init__(self) -> None:
        set_fields(
            self,
            start_dim=require_int("Flatten's start_dim", self.start_dim),
            end_dim=require_int("Flatten's end_dim", self.end_dim),
        )

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "..."],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., a, ..., b, ...) -> (..., a * ... * b, ...)."""
        require_params(self, params, {})
        require_stateless(self, state)
        require_floating(repr(self), x=x)
        first, last = (axis % x.ndim if x.ndim else 0 for axis in (self.start_dim, self.end_dim))
        inside = all(-x.ndim <= axis < x.ndim for axis in (self.start_dim, self.end_dim))
        if not inside or first > last:
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected axes {self.start_dim} to "
                f"{self.end_dim} in this order; with no batch axis, count from the end: "
                f"Flatten(-3) for images"
            )
        merged = math.prod(x.shape[first : last + 1])
        return Output(x.reshape(*x.shape[:first], merged, *x.shape[last + 1 :]), state)


@dataclasses.dataclass(frozen=True)
class Unflatten(Module):
    """One axis becomes several (`torch.nn.Unflatten`).

    Args:
        dim: which axis; -1 is the last.
        unflattened_size: the sizes that it becomes; one of them may be -1, for what is left.

    Raises:
        ConfigError: an axis that is not an integer, or sizes without meaning.
    """

    dim: int
    unflattened_size: tuple[int, ...]

    def __post_init__(self) -> None:
        name = "Unflatten's unflattened_size"
        given: Any = self.unflattened_size
        if not isinstance(given, tuple | list) or not given:
            raise ConfigError(f"{name} is {given!r}, expected a tuple of sizes, such as (3, -1)")
        sizes = tuple(require_int(name, size) for size in given)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ConfigError(f"{name} is {sizes}, expected sizes of at least 1, one of them -1")
        set_fields(self, dim=require_int("Unflatten's dim", self.dim), unflattened_size=sizes)

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "..."],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., a * b, ...) -> (..., a, b, ...)."""
        require_params(self, params, {})
        require_stateless(self, state)
        require_floating(repr(self), x=x)
        sizes, known = self.unflattened_size, math.prod(s for s in self.unflattened_size if s > 0)
        inside = -x.ndim <= self.dim < x.ndim
        size = x.shape[self.dim] if inside else 0
        if not inside or (size % known if -1 in sizes else size != known):
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected an axis {self.dim} that "
                f"{'is a multiple of' if -1 in sizes else 'has size'} {known}"
            )
        place = self.dim % x.ndim
        made = tuple(size // known if s == -1 else s for s in sizes)
        return Output(x.reshape(*x.shape[:place], *made, *x.shape[place + 1 :]), state)


@dataclasses.dataclass(frozen=True)
class Upsample(OneFunction):
    """Images of another size, channels last (`torch.nn.Upsample`).

    Args:
        size: the pixels of the outputs, an integer or (rows, columns).
        scale_factor: or by how much they grow, a number or one for rows and one for columns.
        mode: "nearest": each pixel is a copy of the nearest.

    Raises:
        ConfigError: not exactly one of size and scale_factor, or one without meaning.
    """

    size: Size | None = None
    scale_factor: float | tuple[float, float] | None = None
    mode: Literal["nearest"] = "nearest"

    def __post_init__(self) -> None:
        require_choice("Upsample's mode", self.mode, ("nearest",))
        size, factors = require_size("Upsample", self.size, self.scale_factor)
        set_fields(self, size=size, scale_factor=None if size else factors)

    def function(
        self, x: Float[Array, "... height width channels"]
    ) -> Float[Array, "... rows columns channels"]:
        """(..., height, width, channels) -> (..., rows, columns, channels)."""
        return ops.interpolate(x, self.size, self.scale_factor, self.mode)
