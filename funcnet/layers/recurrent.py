"""Recurrent layers: RNN, LSTM and GRU of several layers and directions, and their cells."""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from funcnet import ops
from funcnet._internal.checks import (
    require_arrays,
    require_bool,
    require_choice,
    require_floating_dtype,
    require_int,
    require_key,
    require_number,
    require_positive_int,
)
from funcnet._internal.fields import set_fields
from funcnet.errors import ConfigError, ShapeError
from funcnet.layers.module import (
    Module,
    Output,
    Params,
    State,
    naming,
    require_params,
    require_stateless,
)


def _uniform(
    key: Array, shapes: dict[str, tuple[int, ...]], hidden_size: int, dtype: Any
) -> dict[str, Array]:
    """All weights and biases uniform in [-1/√H, 1/√H], PyTorch's default, drawn at once."""
    require_key(key)
    dtype = require_floating_dtype(dtype)
    bound = 1 / math.sqrt(hidden_size)
    sizes = [math.prod(shape) for shape in shapes.values()]
    drawn = jax.random.uniform(key, (sum(sizes),), dtype, -bound, bound)
    parts = zip(shapes.items(), lax.split(drawn, sizes), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


class _Recurrent(Module):
    """What RNN, LSTM and GRU share."""

    _gates: ClassVar[int]

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    dropout: float
    bidirectional: bool
    proj_size: int = 0

    def __post_init__(self) -> None:
        name = type(self).__name__
        for size in ("input_size", "hidden_size", "num_layers"):
            set_fields(
                self, **{size: require_positive_int(f"{name}'s {size}", getattr(self, size))}
            )
        set_fields(self, dropout=require_number(f"{name}'s dropout", self.dropout, 0, 1))
        for option in ("bias", "bidirectional"):
            require_bool(f"{name}'s {option}", getattr(self, option))
        if self.dropout and self.num_layers == 1:
            raise ConfigError(
                f"{name}'s dropout is {self.dropout} and num_layers 1, expected more layers, since "
                f"it stands between them; put a Dropout behind {name} for one behind the last"
            )

    @property
    def _directions(self) -> tuple[str, ...]:
        """What stands behind the names of each direction's parameters."""
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def _outputs(self) -> int:
        return self.proj_size or self.hidden_size

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows, shapes = self._gates * self.hidden_size, {}
        for layer in range(self.num_layers):
            inputs = self._outputs * len(self._directions) if layer else self.input_size
            for end in (f"_l{layer}{direction}" for direction in self._directions):
                shapes[f"weight_ih{end}"] = (rows, inputs)
                shapes[f"weight_hh{end}"] = (rows, self._outputs)
                if self.bias:
                    shapes[f"bias_ih{end}"] = shapes[f"bias_hh{end}"] = (rows,)
                if self.proj_size:
                    shapes[f"weight_hr{end}"] = (self.proj_size, self.hidden_size)
        return shapes

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params with PyTorch's names, for each layer l and direction; state ().

        {"weight_ih_l0": (gates * hidden_size, inputs), "weight_hh_l0": (gates * hidden_size,
        outputs), "bias_ih_l0", "bias_hh_l0": (gates * hidden_size,)}, of the other direction
        "..._l0_reverse", and with a projection "weight_hr_l0": (proj_size, hidden_size). All
        uniform in [-1/√hidden_size, 1/√hidden_size].
        """
        return _uniform(key, self._shapes(), self.hidden_size, dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "... T input_size"],
        carry: Any = None,
        *,
        lengths: Int[Array, "..."] | None = None,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., T, input_size) -> (..., T, outputs); with a carry that and the last carry.

        Args:
            params: as `init` made them.
            state: ().
            x: (..., T, input_size), batch first.
            carry: what to begin with, in PyTorch's layout, (num_layers * directions, ...,
                hidden_size), of an LSTM a pair (h, c); None for zeros.
            lengths: (...), integers: how many steps of each example count; None for all. Behind
                them outputs are 0.
            key: typed scalar key for dropout in training.
            train: whether this is a training pass.

        Returns:
            y, or (y, carry) where a carry was given; outputs are the directions' side by side.
        """
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        require_arrays(repr(self), x=x)
        if x.ndim < 2 or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{self!r} got an input of shape {x.shape}, expected (batch, T, "
                f"{self.input_size}), batch first; set input_size or reshape x"
            )
        first = self._zeros(x, params) if carry is None else self._checked(carry, x)
        with naming(self, x):
            y, last = self._layers(params, x, first, lengths, key, train)
        return Output(y if carry is None else (y, last), state)

    def _layers(self, params, x, first, lengths, key, train):
        """All layers, one after the other: the last one's outputs, and each one's last carry."""
        carries = []
        for layer in range(self.num_layers):
            if layer and self.dropout and train:
                drawn_from = None if key is None else jax.random.fold_in(key, layer)
                x = ops.dropout(x, self.dropout, True, drawn_from)
            outputs = []
            for direction, end in enumerate(self._directions):
                place = layer * len(self._directions) + direction
                start = jax.tree.map(lambda a, place=place: a[place], first)
                weights = {
                    name.removesuffix(f"_l{layer}{end}"): array
                    for name, array in params.items()
                    if name.endswith(f"_l{layer}{end}")
                }
                y, last = self._run(x, start, weights, lengths=lengths, reverse=bool(direction))
                outputs.append(y)
                carries.append(last)
            x = ops.concatenate(outputs, -1) if self.bidirectional else outputs[0]
        return x, jax.tree.map(lambda *each: ops.concatenate([a[None] for a in each]), *carries)

    def _run(self, x, start, weights, **options):
        """One layer in one direction: its outputs and its last carry."""
        raise NotImplementedError

    def _carry_sizes(self) -> Any:
        """The size of each array of a carry."""
        return self.hidden_size

    def _zeros(self, x: Any, params: Params) -> Any:
        rows, dtype = self.num_layers * len(self._directions), params["weight_ih_l0"].dtype
        return jax.tree.map(
            lambda size: jnp.zeros((rows, *x.shape[:-2], size), dtype), self._carry_sizes()
        )

    def _checked(self, carry: Any, x: Any) -> Any:
        rows, sizes = self.num_layers * len(self._directions), self._carry_sizes()
        expected = jax.tree.map(lambda size: (rows, *x.shape[:-2], size), sizes)
        pair = isinstance(sizes, tuple)
        fits = isinstance(carry, tuple) and len(carry) == 2 if pair else hasattr(carry, "shape")
        if not fits or jax.tree.map(jnp.shape, carry) != expected:
            given = jax.tree.map(jnp.shape, carry)
            raise ShapeError(
                f"{self!r} got a carry of shape {given}, expected {expected}: layers and directions"
                f" first{', of h and of c' if pair else ''}"
            )
        return carry


@dataclasses.dataclass(frozen=True)
class RNN(_Recurrent):
    """A simple recurrent network: h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    As `torch.nn.RNN` with `batch_first=True`, with its names and layouts of parameters.

    Args:
        input_size: the size of the input's last axis.
        hidden_size: the size of h.
        num_layers: how many layers, each of which reads the outputs of the one before.
        nonlinearity: "tanh" or "relu".
        bias: whether there are biases.
        dropout: the probability with which, in training, an output of each layer but the last is
            dropped.
        bidirectional: whether each layer reads in both directions; outputs stand side by side.

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    _gates: ClassVar[int] = 1

    input_size: int
    hidden_size: int
    num_layers: int = 1
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    bias: bool = True
    dropout: float = 0.0
    bidirectional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("RNN's nonlinearity", self.nonlinearity, ("tanh", "relu"))

    def _run(self, x, start, weights, **options):
        return ops.rnn(x, start, **weights, nonlinearity=self.nonlinearity, **options)


@dataclasses.dataclass(frozen=True)
class LSTM(_Recurrent):
    """Long short-term memory: a cell c that is written to and read through gates.

    As `torch.nn.LSTM` with `batch_first=True`, with its names and layouts of parameters. The carry
    is a pair (h, c). Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997.

    Args:
        input_size: the size of the input's last axis.
        hidden_size: the size of c, and of h without a projection.
        num_layers: how many layers, each of which reads the outputs of the one before.
        bias: whether there are biases.
        dropout: the probability with which, in training, an output of each layer but the last is
            dropped.
        bidirectional: whether each layer reads in both directions; outputs stand side by side.
        proj_size: the size of h, which is projected to it; 0 for no projection.

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    _gates: ClassVar[int] = 4

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        proj_size = require_int("LSTM's proj_size", self.proj_size)
        if not 0 <= proj_size < self.hidden_size:
            raise ConfigError(
                f"LSTM's proj_size is {proj_size}, expected 0 for no projection, or less than "
                f"hidden_size, {self.hidden_size}"
            )
        set_fields(self, proj_size=proj_size)

    def _carry_sizes(self):
        return self._outputs, self.hidden_size

    def _run(self, x, start, weights, **options):
        return ops.lstm(x, *start, **weights, **options)


@dataclasses.dataclass(frozen=True)
class GRU(_Recurrent):
    """Gated recurrent units: an output that is partly kept, partly new.

    As `torch.nn.GRU` with `batch_first=True`, with its names and layouts of parameters. Source: Cho
    et al., "Learning phrase representations using RNN encoder-decoder", 2014, in PyTorch's variant,
    where the reset gate multiplies the product with the weights.

    Args:
        input_size: the size of the input's last axis.
        hidden_size: the size of h.
        num_layers: how many layers, each of which reads the outputs of the one before.
        bias: whether there are biases.
        dropout: the probability with which, in training, an output of each layer but the last is
            dropped.
        bidirectional: whether each layer reads in both directions; outputs stand side by side.

    Raises:
        ConfigError: a size, number or option has no meaning.
    """

    _gates: ClassVar[int] = 3

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    dropout: float = 0.0
    bidirectional: bool = False

    def _run(self, x, start, weights, **options):
        return ops.gru(x, start, **weights, **options)


class _Cell(Module):
    """What the cells share: one step of a layer, for a loop of one's own."""

    _gates: ClassVar[int]

    input_size: int
    hidden_size: int
    bias: bool

    def __post_init__(self) -> None:
        name = type(self).__name__
        for size in ("input_size", "hidden_size"):
            set_fields(
                self, **{size: require_positive_int(f"{name}'s {size}", getattr(self, size))}
            )
        require_bool(f"{name}'s bias", self.bias)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows = self._gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.hidden_size),
        }
        return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {})

    def init(self, key: Array, dtype: Any = jnp.float32) -> tuple[Params, State]:
        """Params "weight_ih", "weight_hh", "bias_ih", "bias_hh", as the layer's; state ()."""
        return _uniform(key, self._shapes(), self.hidden_size, dtype), ()

    def apply(
        self,
        params: Params,
        state: State,
        x: Float[Array, "... input_size"],
        carry: Any = None,
        *,
        key: Array | None = None,
        train: bool = False,
    ) -> Output:
        """(..., input_size) -> h (..., hidden_size); with a carry that and the next carry.

        Args:
            params: as `init` made them.
            state: ().
            x: (..., input_size), one step.
            carry: h, (..., hidden_size), of an LSTMCell the pair (h, c); None for zeros.
            key: not used.
            train: not used.
        """
        require_params(self, params, self._shapes())
        require_stateless(self, state)
        with naming(self, x, lambda: f"set input_size={x.shape[-1]}" if x.ndim else ""):
            zeros = jnp.zeros((*x.shape[:-1], self.hidden_size), params["weight_ih"].dtype)
            start = carry if carry is not None else self._start(zeros)
            y, after = self._step(jnp.expand_dims(x, -2) if x.ndim else x, start, params)
        y = jnp.squeeze(y, -2)
        return Output(y if carry is None else (y, after), state)

    def _start(self, zeros):
        return zeros

    def _step(self, x, start, params):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class RNNCell(_Cell):
    """One step of `RNN` (`torch.nn.RNNCell`).

    Args:
        input_size: the size of the input's last axis.
        hidden_size: the size of h.
        bias: whether there are biases.
        nonlinearity: "tanh" or "relu".

    Raises:
        ConfigError: a size or option has no meaning.
    """

    _gates: ClassVar[int] = 1

    input_size: int
    hidden_size: int
    bias: bool = True
    nonlinearity: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("RNNCell's nonlinearity", self.nonlinearity, ("tanh", "relu"))

    def _step(self, x, start, params):
        return ops.rnn(x, start, **params, nonlinearity=self.nonlinearity)


@dataclasses.dataclass(frozen=True)
class LSTMCell(_Cell):
    """One step of `LSTM` (`torch.nn.LSTMCell`); the carry is a pair (h, c).

    Args:
        input_size: the size of the input's last axis.
        hidden_size: the size of h and c.
        bias: whether there are biases.

    Raises:
        ConfigError: a size or option has no meaning.
    """

    _gates: ClassVar[int] = 4

    input_size: int
    hidden_size: int
    bias: bool = True

    def _start(self, zeros):
        return zeros, zeros

    def _step(self, x, start, params):
        if not isinstance(start, tuple) or len(start) != 2:
            raise ShapeError(
                f"lstm: the carry is {type(start).__name__}, expected a pair (h, c) of shape (..., "
                f"{self.hidden_size})"
            )
        return ops.lstm(x, *start, **params)


@dataclasses.dataclass(frozen=True)
class GRUCell(_Cell):
    """One step of `GRU` (`torch.nn.GRUCell`).

    Args:
        input_size: the size of the input's last axis.
        hidden_size: the size of h.
        bias: whether there are biases.

    Raises:
        ConfigError: a size or option has no meaning.
    """

    _gates: ClassVar[int] = 3

    input_size: int
    hidden_size: int
    bias: bool = True

    def _step(self, x, start, params):
        return ops.gru(x, start, **params)
