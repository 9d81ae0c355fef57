"""Layers that normalise: the mean of some entries is taken off, their spread divided out."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet import ops
from funcnet._internal.checks import (
    require_arrays,
    require_bool,
    require_number,
    require_positive_int,
    require_shape,
)
from funcnet._internal.fields import set_fields
from funcnet.errors import ConfigError, ShapeError
from funcnet.layers.initializers import identity_affine
from funcnet.layers.module import (
    Module,
    Output,
    Params,
    State,
    naming,
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

    def __post_init__(self) -> None:
        name = type(self).__name__
        set_fields(
            self,
            num_features=require_positive_int(f"{name}'s num_features", self.num_features),
            eps=require_number(f"{name}'s eps", self.eps, 0),
        )
        if self.momentum is not None:
            set_fields(self, momentum=require_number(f"{name}'s momentum", self.momentum, 0, 1))
        for option in ("affine", "track_running_stats", "bias"):
            require_bool(f"{name}'s {option}", getattr(self, option))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return _affine_shapes((self.num_features,), self.affine, self.bias)

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        if not self.track_running_stats:
            return {}
        channels = (self.num_features,)
        return {"running_mean": channels, "running_var": channels, "num_batches_tracked": ()}

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (C,), "bias": (C,)}, ones and zeros; state: PyTorch's buffers.

        The state is {"running_mean": (C,), "running_var": (C,), "num_batches_tracked": ()},
        zeros, ones and 0; the statistics in at least float32, since in half precision a small
        momentum would change nothing.
        """
        params = identity_affine(key, self._shapes(), dtype)
        if not self.track_running_stats:
            return params, ()
        wide = jnp.promote_types(dtype, jnp.float32)
        state = {
            "running_mean": jnp.zeros(self.num_features, wide),
            "running_var": jnp.ones(self.num_features, wide),
            "num_batches_tracked": jnp.int32(0),
        }
        return params, state

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "batch ... num_features"],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., C) -> (..., C), and in training the next running statistics."""
        require_params(self, params, self._shapes())
        require_state(self, state, self._state_shapes())
        self._require_axes(x)
        with naming(self, x, lambda: self._fix(x)):
            return self._normalized(params, state, x, train)

    def _normalized(self, params: Params, state: State, x: Array, train: bool) -> Output:
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

    def _require_axes(self, x: Array) -> None:
        require_arrays(repr(self), x=x)
        if x.ndim not in self._inputs or x.shape[-1] != self.num_features:
            fix = f"set num_features={x.shape[-1]} or " if x.ndim in self._inputs else ""
            expected = " or ".join(
                f"({axes}, {self.num_features})" for axes in self._inputs.values()
            )
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected {expected}, channels last; "
                f"{fix}reshape the input"
            )

    def _fix(self, x: Array) -> str:
        one = math.prod(x.shape[:-1]) == 1
        return "choose a batch_size that leaves none over, or set train=False" if one else ""


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

    def __post_init__(self) -> None:
        shape = require_shape("LayerNorm's normalized_shape", self.normalized_shape)
        eps = require_number("LayerNorm's eps", self.eps, 0)
        set_fields(self, normalized_shape=shape, eps=eps)
        require_bool("LayerNorm's elementwise_affine", self.elementwise_affine)
        require_bool("LayerNorm's bias", self.bias)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return _affine_shapes(self.normalized_shape, self.elementwise_affine, self.bias)

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": normalized_shape, "bias": normalized_shape}, 1 and 0; state ()."""
        return identity_affine(key, self._shapes(), dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "..."],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., *normalized_shape) -> the same shape."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        weight, bias = _affine(params)
        with naming(self, x, lambda: "set normalized_shape or reshape x"):
            y = ops.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
        return Output(y, state)


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

    def __post_init__(self) -> None:
        shape = require_shape("RMSNorm's normalized_shape", self.normalized_shape)
        set_fields(self, normalized_shape=shape)
        if self.eps is not None:
            set_fields(self, eps=require_number("RMSNorm's eps", self.eps, 0))
        require_bool("RMSNorm's elementwise_affine", self.elementwise_affine)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return _affine_shapes(self.normalized_shape, self.elementwise_affine, bias=False)

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": normalized_shape}, 1; state ()."""
        return identity_affine(key, self._shapes(), dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "..."],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., *normalized_shape) -> the same shape."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        weight, _ = _affine(params)
        with naming(self, x, lambda: "set normalized_shape or reshape x"):
            y = ops.rms_norm(x, self.normalized_shape, weight, self.eps)
        return Output(y, state)


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

    def __post_init__(self) -> None:
        set_fields(
            self,
            num_groups=require_positive_int("GroupNorm's num_groups", self.num_groups),
            num_channels=require_positive_int("GroupNorm's num_channels", self.num_channels),
            eps=require_number("GroupNorm's eps", self.eps, 0),
        )
        if self.num_channels % self.num_groups:
            raise ConfigError(
                f"GroupNorm's num_groups is {self.num_groups}, expected a divisor of "
                f"num_channels={self.num_channels}"
            )
        require_bool("GroupNorm's affine", self.affine)
        require_bool("GroupNorm's bias", self.bias)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return _affine_shapes((self.num_channels,), self.affine, self.bias)

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params {"weight": (C,), "bias": (C,)}, 1 and 0; state ()."""
        return identity_affine(key, self._shapes(), dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "batch ... num_channels"],
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(batch, ..., C) -> the same shape."""
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        require_arrays(repr(self), x=x)
        if x.ndim < 2 or x.shape[-1] != self.num_channels:
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected (batch, ..., "
                f"{self.num_channels}), channels last; reshape the input"
            )
        weight, bias = _affine(params)
        with naming(self, x):
            return Output(ops.group_norm(x, self.num_groups, weight, bias, self.eps), state)


def _affine_shapes(shape: Any, affine: bool, bias: bool) -> dict[str, tuple[int, ...]]:
    if not affine:
        return {}
    return {"weight": shape, "bias": shape} if bias else {"weight": shape}


def _affine(params: Params) -> tuple[Array | None, Array | None]:
    """Weight and bias, None where there is none."""
    return (params.get("weight"), params.get("bias")) if params else (None, None)
