"""Layers and losses: frozen dataclasses that hold sizes and options, and no arrays.

A layer is two pure functions. `init` makes its parameters and state from a key; `apply` maps
parameters, state and an input to an output and the next state:

    params, state    = layer.init(key, dtype=jnp.float32)
    output, state    = layer.apply(params, state, x, key=key, train=True)

A layer's params are a dict of arrays with PyTorch's names, a container's a tuple with one entry
per layer, and `()` where there is nothing. Layers are hashable and compare by value, so that a
function compiled for one is found again for an equal one.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from funcnet import ops
from funcnet._checks import (
    require_floating_dtype,
    require_int,
    require_key,
    require_positive_int,
)
from funcnet.errors import ConfigError, DataError, DtypeError, FuncnetError, ParamsError, ShapeError
from funcnet.ops.losses import Reduction, require_label_smoothing, require_reduction

Params = Any
State = Any


class Output(NamedTuple):
    """What `Module.apply` returns; unpacks into two.

    Attributes:
        value: the layer's output, an array.
        state: the state to give the next call.
    """

    value: Array
    state: State


class Module:
    """The base of every layer; subclass it, as a frozen dataclass, for a layer of your own.

    Override `apply`, and `init` where the layer has parameters or state. The fields of the
    dataclass are the layer's sizes and options: hashable, no arrays.
    """

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Make the parameters and the state; none, unless a subclass says otherwise.

        Args:
            key: typed scalar key, as from `jax.random.key(0)`.
            dtype: floating dtype of the parameters.

        Returns:
            (params, state), each a pytree of arrays.
        """
        require_key(key)
        return (), ()

    def apply(
        self, params: Params, state: State, x: Array, *, key: Array | None = None, train=False
    ) -> Output | tuple[Array, State]:
        """Map an input to an output. A pure function: nothing in the layer changes.

        Args:
            params: as `init` made them, or as training left them.
            state: as `init` or the last call returned it.
            x: the input, features last.
            key: typed scalar key for a layer that draws random numbers in training.
            train: whether this is a training pass.

        Returns:
            (output, next state).
        """
        raise NotImplementedError(f"{type(self).__name__} has no apply")


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


@dataclasses.dataclass(frozen=True)
class ReLU(Module):
    """Positive part of each entry, max(x, 0) (`torch.nn.ReLU`)."""

    def apply(self, params, state, x, *, key=None, train=False):
        """(...) -> (...)."""
        require_params(self, params, {})
        require_stateless(self, state)
        require_floating_input(self, x)
        return Output(ops.relu(x), state)


@dataclasses.dataclass(frozen=True)
class Tanh(Module):
    """Hyperbolic tangent of each entry (`torch.nn.Tanh`)."""

    def apply(self, params, state, x, *, key=None, train=False):
        """(...) -> (...)."""
        require_params(self, params, {})
        require_stateless(self, state)
        require_floating_input(self, x)
        return Output(ops.tanh(x), state)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Sequential(Module):
    """Layers applied one after the other (`torch.nn.Sequential`); they may be Sequentials too.

    Layer i draws from fold_in(key, i), in `init` and in `apply`. Params and state are tuples
    with one entry per layer.

    Args:
        layers: any number of modules.

    Raises:
        ConfigError: something that is not a layer.
    """

    layers: tuple[Module, ...]

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise ConfigError(f"Sequential's layer {i} is {layer!r}{_no_layer_mend(layer)}")
        object.__setattr__(self, "layers", layers)

    def __repr__(self):
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def init(self, key, dtype=jnp.float32):
        """Params and state: tuples with one entry per layer."""
        require_key(key)
        made = []
        for i, layer in enumerate(self.layers):
            with located((i,), layer):
                made.append(as_pair(layer, "init", layer.init(jax.random.fold_in(key, i), dtype)))
        return tuple(params for params, _ in made), tuple(state for _, state in made)

    def apply(self, params, state, x, *, key=None, train=False):
        """Apply each layer to the output of the one before."""
        require_entries(self, "params", params)
        require_entries(self, "state", state)
        if key is not None:
            require_key(key)
        states = []
        for i, layer in enumerate(self.layers):
            layer_key = None if key is None else jax.random.fold_in(key, i)
            with located((i,), layer):
                output = layer.apply(params[i], state[i], x, key=layer_key, train=train)
                x, layer_state = as_pair(layer, "apply", output)
            states.append(layer_state)
        return Output(x, tuple(states))


@contextlib.contextmanager
def located(path: tuple[int, ...], layer: Module) -> Iterator[None]:
    """Say in which layer an error happened; nested containers prefix their own index."""
    try:
        yield
    except FuncnetError as error:
        error.layer_path = (*path, *error.layer_path)
        error.layer = error.layer or repr(layer)
        raise
    except Exception as error:
        place = f"layer {'.'.join(map(str, path))}, " if path else ""
        error.add_note(f"funcnet: raised in {place}{layer!r}")
        raise


def as_pair(layer: Module, method: str, returned: Any) -> tuple[Any, Any]:
    """What a layer's `init` or `apply` returned; an array of two rows must not pass for it."""
    if isinstance(returned, tuple) and len(returned) == 2:
        return returned
    expected = {"init": "(params, state)", "apply": "(output, state)"}[method]
    raise DtypeError(
        f"{layer!r}'s {method} returned {_kind(returned)}, expected a tuple {expected}; a layer "
        f"without state returns the () it was given"
    )


@dataclasses.dataclass(frozen=True)
class MSELoss:
    """Mean of squared errors over all entries (`torch.nn.MSELoss`); no factor 1/2.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ConfigError: an unknown reduction.
    """

    reduction: Reduction = "mean"

    def __post_init__(self):
        require_reduction("MSELoss", self.reduction)

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of (...) predictions and targets of one shape; see `ops.mse_loss`."""
        return ops.mse_loss(prediction, target, self.reduction)


@dataclasses.dataclass(frozen=True)
class CrossEntropyLoss:
    """Cross entropy of logits and labels or probabilities (`torch.nn.CrossEntropyLoss`).

    Args:
        weight: one weight a class, a sequence or array; stored as a tuple. None for 1.
        ignore_index: the label that counts nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: in [0, 1].

    Raises:
        ConfigError: an unknown reduction, smoothing outside [0, 1], or weights that are not a
            sequence of finite numbers >= 0.
    """

    weight: tuple[float, ...] | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0

    def __post_init__(self):
        require_reduction("CrossEntropyLoss", self.reduction)
        require_label_smoothing("CrossEntropyLoss", self.label_smoothing)
        object.__setattr__(self, "label_smoothing", float(self.label_smoothing))
        ignored = require_int("CrossEntropyLoss's ignore_index", self.ignore_index)
        object.__setattr__(self, "ignore_index", ignored)
        if self.weight is not None:
            object.__setattr__(self, "weight", _class_weights(self.weight))

    def __call__(self, prediction: Array, target: Array) -> Array:
        """Loss of logits (..., C) and labels (...) or probabilities (..., C).

        Raises DataError for a label that is no class, where its value is known: inside `jit`
        the loss is NaN instead. See `ops.cross_entropy`.
        """
        weight = None if self.weight is None else jnp.asarray(self.weight)
        loss = ops.cross_entropy(
            prediction, target, weight, self.ignore_index, self.reduction, self.label_smoothing
        )
        if not isinstance(target, Tracer):
            self.check_labels(target, prediction.shape[-1])
        return loss

    def check_labels(self, target: Any, classes: int) -> None:
        """Raise DataError where an integer target has a value that is no class."""
        target = np.asarray(target)
        if not np.issubdtype(target.dtype, np.integer):
            return
        wrong = (target != self.ignore_index) & ((target < 0) | (target >= classes))
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(
                f"{self!r} got label {target[where]} at {list(where)}, expected 0 to {classes - 1} "
                f"for {classes} outputs (or ignore_index={self.ignore_index}); give the model's "
                f"last layer as many outputs as there are classes, or count labels from 0"
            )


def require_module(model: Any) -> None:
    """Raise ConfigError unless `model` is a layer."""
    if not isinstance(model, Module):
        raise ConfigError(f"model is {model!r}, expected an instance of funcnet.Module")


def require_floating_input(layer: Module, x: Any) -> None:
    """Raise DtypeError unless `x` is an array of a real floating dtype."""
    if not hasattr(x, "dtype"):
        raise DtypeError(
            f"{layer!r} got {type(x).__name__} as input, expected an array; use jnp.asarray"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DtypeError(
            f"{layer!r} got an input of dtype {x.dtype}, expected floating point; convert it, for "
            f"example with x.astype(jnp.float32)"
        )


def require_params(layer: Module, params: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ParamsError unless `params` is a dict of arrays of these shapes, or () for none.

    And DtypeError unless the arrays are floating.
    """
    if not shapes:
        if not isinstance(params, tuple) or params:
            raise ParamsError(f"{layer!r} got params {_outline(params)}, expected ()")
        return
    fits = isinstance(params, Mapping) and {k: _shape(v) for k, v in params.items()} == shapes
    if not fits:
        expected = ", ".join(f"{name}: {list(shape)}" for name, shape in shapes.items())
        raise ParamsError(
            f"{layer!r} got params {_outline(params)}, expected {{{expected}}}; make them with "
            f"model.init(key), of the same model"
        )
    for name, array in params.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise DtypeError(
                f"{layer!r} got params whose {name} is {array.dtype}, expected floating point; "
                f"convert it, for example with astype(jnp.float32)"
            )


def require_stateless(layer: Module, state: Any) -> None:
    """Raise ParamsError unless `state` is (), a layer's that has none."""
    if not isinstance(state, tuple) or state:
        raise ParamsError(
            f"{layer!r} got state {_outline(state)}, expected (); make it with model.init(key), of "
            f"the same model"
        )


def require_entries(container: Sequential, name: str, given: Any) -> None:
    """Raise ParamsError unless `given` is a tuple with one entry per layer."""
    expected = len(container.layers)
    if not isinstance(given, tuple) or len(given) != expected:
        what = f"{len(given)} entries" if isinstance(given, tuple) else type(given).__name__
        raise ParamsError(
            f"Sequential got {name} of {what}, expected a tuple of {expected}, one entry per "
            f"layer; make it with model.init(key), of the same model"
        )


def _outline(params: Any) -> str:
    if isinstance(params, Mapping):
        return "{" + ", ".join(f"{k}: {_kind(v)}" for k, v in params.items()) + "}"
    return _kind(params)


def _shape(value: Any) -> tuple[int, ...] | None:
    return getattr(value, "shape", None)


def _kind(value: Any) -> str:
    """The shape of an array, the length of a tuple, the type of anything else."""
    if (shape := _shape(value)) is not None:
        return str(list(shape))
    return f"tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _no_layer_mend(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Module):
        return f", a class; expected a layer: {value.__name__}(...)"
    if isinstance(value, list | tuple):
        return "; expected layers one by one: Sequential(*layers)"
    return f" of type {type(value).__name__}; expected a layer, an instance of funcnet.Module"


def _class_weights(weight: Any) -> tuple[float, ...]:
    try:
        values = np.asarray(weight, np.float64)
    except (TypeError, ValueError):
        values = np.empty(())
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values >= 0)).all():
        raise ConfigError(
            f"CrossEntropyLoss's weight is {weight!r}, expected one finite number >= 0 a class"
        )
    return tuple(map(float, values))
