"""Which arrays stand behind a Flatten of images, where the order of features is not PyTorch's.

Images have their channels last here and first in PyTorch, so that Flatten makes features ordered by
row, column and channel here, by channel, row and column there. Of the C channels of an image of P
places, feature p C + c here is feature c P + p there. What the next layers hold for each feature (a
Linear's columns, the vectors of a BatchNorm1d) has to be put in order; layers that treat all
features alike, such as activations and Dropout, change nothing. The Linear's outputs are ordered
alike again.

The model is followed layer by layer with what is known of an array in its place: whether it is
images, flattened images or neither, and the number of channels. Sizes are not needed: P is what the
features are by the channels.
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

from funcnet.errors import ConfigError
from funcnet.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool2d,
    Module,
    Parallel,
    RMSNorm,
)
from funcnet.layers.containers import Container

_Path = tuple[int | str, ...]


class Order(NamedTuple):
    """How an array's features are ordered.

    Attributes:
        axis: of the array, along which they are.
        channels: of the images that they are from.
    """

    axis: int
    channels: int


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What is known of an array; sums of arrays in a container's `connect` are sums of these."""

    kind: Literal["other", "images", "flat"] = "other"
    channels: int | None = None
    # Containers ask for these, and compare them.
    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[Any] = np.dtype(np.float32)

    def __add__(self, other: Any) -> "_Seen":
        if isinstance(other, _Seen) and other != self:
            raise _UnknownError(
                f"{' and '.join(sorted([other.kind, self.kind]))} arrays are combined"
            )
        return self

    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __add__


class _UnknownError(Exception):
    """Why the order of the features can't be told."""


def orders_behind_flatten(model: Module) -> dict[str, Order]:
    """Return the order of each array whose features are not in PyTorch's order, by key.

    Raises:
        ConfigError: the order can't be told.
    """
    orders: dict[str, Order] = {}
    if _has_images(model):
        _follow(model, (), _Seen(), orders)
    return {key: order for key, order in orders.items() if order.channels > 1}


def to_torch(arrays: Mapping[str, np.ndarray], orders: Mapping[str, Order]) -> dict[str, Any]:
    """Return the arrays with the features ordered as PyTorch's."""
    return _reordered(arrays, orders, to_torch=True)


def from_torch(arrays: Mapping[str, np.ndarray], orders: Mapping[str, Order]) -> dict[str, Any]:
    """Return PyTorch's arrays with the features ordered as ours."""
    return _reordered(arrays, orders, to_torch=False)


def _reordered(
    arrays: Mapping[str, np.ndarray], orders: Mapping[str, Order], to_torch: bool
) -> dict[str, Any]:
    done: dict[str, Any] = dict(arrays)
    for key in orders.keys() & arrays.keys():
        array, (axis, channels) = arrays[key], orders[key]
        # Another shape than the model's is for who compares them to say.
        if array.ndim > axis and array.shape[axis] % channels == 0:
            places = array.shape[axis] // channels
            split = (places, channels) if to_torch else (channels, places)
            apart = array.reshape(*array.shape[:axis], *split, *array.shape[axis + 1 :])
            moved = np.swapaxes(apart, axis, axis + 1).reshape(array.shape)
            done[key] = np.ascontiguousarray(moved)
    return done


def warn_of_flattened_images(shapes: Mapping[str, tuple[int, ...]], function: str) -> None:
    """Warn where a convolution's weight is followed by a Linear's with several columns a channel.

    Args:
        shapes: of the arrays by key, in the order of the layers.
        function: which the warning is about.
    """
    convolution, channels = "", 0
    for key, shape in shapes.items():
        if key.rpartition(".")[2] != "weight":
            continue
        if len(shape) == 4:
            convolution, channels = key, shape[0]
        elif len(shape) == 2:
            if channels > 1 and shape[1] > channels and shape[1] % channels == 0:
                warnings.warn(
                    f"{function}: {key} seems to stand behind a Flatten of the images that "
                    f"{convolution} makes, where the order of features is not PyTorch's; pass "
                    f"model=, which puts them in order",
                    RuntimeWarning,
                    stacklevel=3,
                )
            channels = 0


def _children(container: Container) -> dict[Any, Module]:
    children: Any = container.children
    return dict(children) if isinstance(children, Mapping) else dict(enumerate(children))


def _has_images(model: Any) -> bool:
    if isinstance(model, Container):
        return any(map(_has_images, _children(model).values()))
    return isinstance(model, Conv2d | BatchNorm2d | MaxPool2d | AvgPool2d | AdaptiveAvgPool2d)


class _Calls:
    """Stands for the `call` of a container's `connect`."""

    def __init__(self, container: Container, path: _Path, orders: dict[str, Order]):
        self._children = _children(container)
        self._path, self._orders = path, orders

    def __call__(self, name: Any, x: Any, *inputs: Any, **options: Any) -> Any:
        return _follow(self._children[name], (*self._path, name), x, self._orders)

    def __getattr__(self, name: str) -> Any:
        if name not in self._children:
            raise AttributeError(name)
        return functools.partial(self, name)


def _follow(layer: Any, path: _Path, x: Any, orders: dict[str, Order]) -> _Seen:
    """What a layer makes of an array, its own arrays' orders noted."""
    try:
        if not isinstance(x, _Seen):
            raise _UnknownError(f"it gets {type(x).__name__}, expected one array")
        if isinstance(layer, Container):
            return _through_container(layer, path, x, orders)
        return _through_layer(layer, path, x, orders)
    except _UnknownError as error:
        place = f"layer {'.'.join(map(str, path))}, " if path else ""
        raise ConfigError(
            f"{place}{layer!r}: the order of the features behind Flatten can't be told: {error}; "
            f"leave model= out and put the columns of the Linear in order, from rows, columns and "
            f"channels to channels, rows and columns"
        ) from None


def _through_container(layer: Container, path: _Path, x: _Seen, orders: dict[str, Order]) -> _Seen:
    call = _Calls(layer, path, orders)
    if isinstance(layer, Parallel) and layer.combine == "concatenate":
        return _concatenated([call(name, x) for name in _children(layer)])
    if x.kind == "other" and not _has_images(layer):
        return x
    try:
        made: Any = layer.connect(call, x)  # pyright: ignore[reportArgumentType]
    except (ConfigError, _UnknownError):
        raise
    except Exception as error:  # a function of arrays, of what is none
        raise _UnknownError(f"its connect computes with arrays ({error})") from None
    if not isinstance(made, _Seen):
        raise _UnknownError(f"its connect returns {type(made).__name__}, expected one array")
    return made


def _concatenated(branches: list[_Seen]) -> _Seen:
    kinds = {branch.kind for branch in branches}
    known = [branch.channels for branch in branches if branch.channels is not None]
    if kinds == {"other"}:
        return _Seen()
    if kinds == {"images"}:
        return _Seen("images", sum(known) if len(known) == len(branches) else None)
    raise _UnknownError("flattened images are concatenated; put Flatten behind the Parallel")


def _through_layer(layer: Any, path: _Path, x: _Seen, orders: dict[str, Order]) -> _Seen:
    if isinstance(layer, Conv2d):
        return _Seen("images", layer.out_channels)
    if isinstance(layer, BatchNorm2d):
        return _Seen("images", layer.num_features)
    if isinstance(layer, MaxPool2d | AvgPool2d | AdaptiveAvgPool2d):
        return _Seen("images", x.channels)
    if isinstance(layer, Flatten):
        return _flattened(layer, x)
    if isinstance(layer, Linear) and x.kind == "images":
        x = _flattened_unseen(layer, x)
    if x.kind == "flat":
        _note(layer, path, x, orders)
    return _Seen() if isinstance(layer, Linear) and x.kind == "flat" else x


def _flattened(layer: Flatten, x: _Seen) -> _Seen:
    if x.kind != "images":
        return x
    if layer.end_dim in (-1, 3) and layer.start_dim in (1, -3):
        return _Seen("flat", x.channels)
    if layer.end_dim in (-2, 2) and layer.start_dim in (1, -3):  # rows and columns alone
        return x
    raise _UnknownError("it merges other axes than rows, columns and channels")


def _flattened_unseen(layer: Linear, x: _Seen) -> _Seen:
    """Images as a Linear gets them: pixel by pixel, or flattened by a function."""
    if x.channels is None or x.channels == layer.in_features:
        return _Seen("images", layer.out_features)
    return _Seen("flat", x.channels)


def _note(layer: Any, path: _Path, x: _Seen, orders: dict[str, Order]) -> None:
    """Note the order of the arrays of a layer that gets flattened images."""
    made = layer.init if isinstance(layer, Module) else lambda key: ((), ())
    params, state = jax.eval_shape(lambda: made(jax.random.key(0)))
    if not jax.tree.leaves((params, state)):
        return
    if not isinstance(layer, Linear | BatchNorm1d | LayerNorm | RMSNorm):
        kind = (
            "its groups" if isinstance(layer, GroupNorm) else "it is a layer with parameters that"
        )
        raise _UnknownError(f"{kind} depend on the order in ways that are not known here")
    if x.channels is None:
        warnings.warn(
            f"{layer!r} behind Flatten: how many channels the images have is not known, since no "
            f"convolution stands before it; taken for 1",
            RuntimeWarning,
            stacklevel=2,
        )
    for name, leaf in {**(params or {}), **(state or {})}.items():
        axis = 1 if isinstance(layer, Linear) else 0
        if leaf.ndim > axis:
            _note_order(orders, ".".join(map(str, (*path, name))), Order(axis, x.channels or 1))


def _note_order(orders: dict[str, Order], key: str, order: Order) -> None:
    if orders.setdefault(key, order) != order:
        raise _UnknownError(f"{key} is used for features of two orders")
