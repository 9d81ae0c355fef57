"""Layers that normalise: the mean of some entries is taken off, their spread divided out."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from funcnet import ops
from funcnet._internal.checks import (
    require_bool,
    require_floating_dtype,
    require_key,
    require_number,
    require_positive_int,
    require_shape,
)
from funcnet.errors import ConfigError, ShapeError
from funcnet.layers.module import (
    Module,
    Output,
    Params,
    State,
    require_floating_input,
    require_params,
    require_state,
    require_stateless,
)


@dataclasses.dataclass(frozen=True)
class _BatchNorm(Module):
    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    bias: bool = dataclasses.field(default=True, kw_only=True)

    # For each number of axes that an input may have, what the leading ones are.
    _inputs: ClassVar[Mapping[int, str]]

    def __post_init__(self):
        name = type(self).__name__
        size = require_positive_int(f"{name}'s num_features", self.num_features)
        object.__setattr__(self, "num_features", size)
        object.__setattr__(self, "eps", require_number(f"{name}'s eps", self.eps, 0))
        if self.momentum is not None:
            momentum = require_number(f"{name}'s momentum", self.momentum, 0, 1)
            object.__setattr__(self, "momentum", momentum)
        for option in ("affine", "track_running_stats", "bias"):
            require_bool(f"{name}'s {option}", getattr(self, option))

    def _shapes(self):
        return _affine_shapes((self.num_features,), self.affine, self.bias)

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        if not self.track_running_stats:
            return {}
        channels = (self.num_features,)
        return {"running_mean": channels, "running_var": channels, "num_batches_tracked": ()}

    def init(self, key, dtype=jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (C,), "bias": (C,)}, ones and zeros; state: PyTorch's buffers.

        The state is {"running_mean": (C,), "running_var": (C,), "num_batches_tracked": ()},
        zeros, ones and 0; the statistics in at least float32, since in half precision a small
        momentum would change nothing.
        """
        require_key(key)
        dtype = require_floating_dtype(dtype)
        if not self.track_running_stats:
            return _affine_params(self._shapes(), dtype), ()
        wide = jnp.promote_types(dtype, jnp.float32)
        state = {
            "running_mean": jnp.zeros(self.num_features, wide),
            "running_var": jnp.ones(self.num_features, wide),
            "num_batches_tracked": jnp.int32(0),
        }
        return _affine_params(self._shapes(), dtype), state

    def apply(self, params, state, x, *, key=None, train=False):
        """(..., C) -> (..., C), and in training the next running statistics."""
        require_params(self, params, self._shapes())
        require_state(self, state, self._state_shapes())
        require_floating_input(self, x)
        self._require_fitting(x, train)
        if not self.track_running_stats:
            y, _, _ = ops.batch_norm(x, None, None, *_affine(params), training=True, eps=self.eps)
            return Output(y, state)
        seen = state["num_batches_tracked"] + train
        momentum = self.momentum
        if momentum is None:  # the mean over all batches
            momentum = 1 / jnp.maximum(seen, 1).astype(state["running_mean"].dtype)
        y, mean, var = ops.batch_norm(
            x,
            state["running_mean"],
            state["running_var"],
            *_affine(params),
            training=train,
            momentum=momentum,
            eps=self.eps,
        )
        return Output(y, {"running_mean": mean, "running_var": var, "num_batches_tracked": seen})

    def _require_fitting(self, x, train):
        if x.ndim not in self._inputs or x.shape[-1] != self.num_features:
            mend = f"set num_features={x.shape[-1]} or " if x.ndim in self._inputs else ""
            expected = " or ".join(
                f"({axes}, {self.num_features})" for axes in self._inputs.values()
            )
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected {expected}, channels last; "
                f"{mend}reshape the input"
            )
        if math.prod(x.shape[:-1]) == 1 and (train or not self.track_running_stats):
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, one value a channel, which has no "
                f"variance; expected at least 2 in training: choose a batch_size that leaves no "
                f"single example over, or apply it with train=False"
            )


@dataclasses.dataclass(frozen=True)
class BatchNorm1d(_BatchNorm):
    """Normalise each feature over the batch, and over time (`torch.nn.BatchNorm1d`).

    Inputs are (batch, C) or (batch, time, C). In training by the batch's mean and variance, which
    running statistics follow: running = (1 - momentum) running + momentum batch's. In evaluation
    by the running ones.

    Args:
        num_features: C, the size of the input's last axis.
        eps: added to the variance.
        momentum: the batch's share; None for the mean over all batches seen.
        affine: whether there are parameters; without them, params are ().
        track_running_stats: whether there are running statistics; without them, state is (), and
            evaluation takes the batch's too.
        bias: whether there is one; without it, params have no key "bias".

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    _inputs: ClassVar = {2: "batch", 3: "batch, time"}


@dataclasses.dataclass(frozen=True)
class BatchNorm2d(_BatchNorm):
    """Normalise each channel of images over the batch and all places (`torch.nn.BatchNorm2d`).

    Inputs are (batch, height, width, C). The rest is as in `BatchNorm1d`.

    Args:
        num_features: C, the size of the input's last axis.
        eps: added to the variance.
        momentum: the batch's share; None for the mean over all batches seen.
        affine: whether there are parameters; without them, params are ().
        track_running_stats: whether there are running statistics; without them, state is (), and
            evaluation takes the batch's too.
        bias: whether there is one; without it, params have no key "bias".

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    _inputs: ClassVar = {4: "batch, height, width"}


@dataclasses.dataclass(frozen=True)
class LayerNorm(Module):
    """Normalise the last axes of each example (`torch.nn.LayerNorm`).

    Args:
        normalized_shape: their sizes, an integer for one; stored as a tuple.
        eps: added to the variance.
        elementwise_affine: whether there are parameters; without them, params are ().
        bias: whether there is one; without it, params have no key "bias".

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    normalized_shape: int | Sequence[int]
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def __post_init__(self):
        shape = require_shape("LayerNorm's normalized_shape", self.normalized_shape)
        object.__setattr__(self, "normalized_shape", shape)
        object.__setattr__(self, "eps", require_number("LayerNorm's eps", self.eps, 0))
        require_bool("LayerNorm's elementwise_affine", self.elementwise_affine)
        require_bool("LayerNorm's bias", self.bias)

    def _shapes(self):
        return _affine_shapes(self.normalized_shape, self.elementwise_affine, self.bias)

    def init(self, key, dtype=jnp.float32) -> tuple[Params, State]:
        """Params {"weight": normalized_shape, "bias": normalized_shape}, 1 and 0; state ()."""
        require_key(key)
        return _affine_params(self._shapes(), require_floating_dtype(dtype)), ()

    def apply(self, params, state, x, *, key=None, train=False):
        """(..., *normalized_shape) -> the same shape."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        _require_features(self, x)
        weight, bias = _affine(params)
        return Output(ops.layer_norm(x, self.normalized_shape, weight, bias, self.eps), state)


@dataclasses.dataclass(frozen=True)
class RMSNorm(Module):
    """Divide the last axes of each example by their root mean square (`torch.nn.RMSNorm`).

    Args:
        normalized_shape: their sizes, an integer for one; stored as a tuple.
        eps: added to the mean square; None for the rounding unit of the dtype computed in.
        elementwise_affine: whether there is a weight; without it, params are ().

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    normalized_shape: int | Sequence[int]
    eps: float | None = None
    elementwise_affine: bool = True

    def __post_init__(self):
        shape = require_shape("RMSNorm's normalized_shape", self.normalized_shape)
        object.__setattr__(self, "normalized_shape", shape)
        if self.eps is not None:
            object.__setattr__(self, "eps", require_number("RMSNorm's eps", self.eps, 0))
        require_bool("RMSNorm's elementwise_affine", self.elementwise_affine)

    def _shapes(self):
        return _affine_shapes(self.normalized_shape, self.elementwise_affine, bias=False)

    def init(self, key, dtype=jnp.float32) -> tuple[Params, State]:
        """Params {"weight": normalized_shape}, 1; state ()."""
        require_key(key)
        return _affine_params(self._shapes(), require_floating_dtype(dtype)), ()

    def apply(self, params, state, x, *, key=None, train=False):
        """(..., *normalized_shape) -> the same shape."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        _require_features(self, x)
        weight, _ = _affine(params)
        return Output(ops.rms_norm(x, self.normalized_shape, weight, self.eps), state)


@dataclasses.dataclass(frozen=True)
class GroupNorm(Module):
    """Normalise groups of channels of each example, over all places (`torch.nn.GroupNorm`).

    Args:
        num_groups: how many groups of neighbouring channels; a divisor of num_channels.
        num_channels: C, the size of the input's last axis.
        eps: added to the variance.
        affine: whether there are parameters; without them, params are ().
        bias: whether there is one; without it, params have no key "bias".

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    num_groups: int
    num_channels: int
    eps: float = 1e-5
    affine: bool = True
    bias: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self):
        for name in ("num_groups", "num_channels"):
            size = require_positive_int(f"GroupNorm's {name}", getattr(self, name))
            object.__setattr__(self, name, size)
        if self.num_channels % self.num_groups:
            raise ConfigError(
                f"GroupNorm's num_groups is {self.num_groups}, expected a divisor of "
                f"num_channels={self.num_channels}"
            )
        object.__setattr__(self, "eps", require_number("GroupNorm's eps", self.eps, 0))
        require_bool("GroupNorm's affine", self.affine)
        require_bool("GroupNorm's bias", self.bias)

    def _shapes(self):
        return _affine_shapes((self.num_channels,), self.affine, self.bias)

    def init(self, key, dtype=jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (C,), "bias": (C,)}, 1 and 0; state ()."""
        require_key(key)
        return _affine_params(self._shapes(), require_floating_dtype(dtype)), ()

    def apply(self, params, state, x, *, key=None, train=False):
        """(batch, ..., C) -> the same shape."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        require_floating_input(self, x)
        if x.ndim < 2 or x.shape[-1] != self.num_channels:
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected (batch, ..., "
                f"{self.num_channels}), channels last; reshape the input"
            )
        weight, bias = _affine(params)
        return Output(ops.group_norm(x, self.num_groups, weight, bias, self.eps), state)


def _require_features(layer: LayerNorm | RMSNorm, x) -> None:
    require_floating_input(layer, x)
    shape: Any = layer.normalized_shape  # a tuple by now
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(
            f"{layer!r} got an input of shape {x.shape}, expected (..., "
            f"{', '.join(map(str, shape))}); set normalized_shape or reshape the input"
        )


def _affine_shapes(shape: Any, affine: bool, bias: bool) -> dict[str, tuple[int, ...]]:
    if not affine:
        return {}
    return {"weight": shape, "bias": shape} if bias else {"weight": shape}


def _affine_params(shapes, dtype):
    """Weights of 1 and biases of 0; () where there are none."""
    make = {"weight": jnp.ones, "bias": jnp.zeros}
    return {name: make[name](shape, dtype) for name, shape in shapes.items()} or ()


def _affine(params):
    """Weight and bias, None where there is none."""
    return (params.get("weight"), params.get("bias")) if params else (None, None)
