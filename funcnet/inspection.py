"""Looking inside: a table of a model's layers, and a whole backward pass in numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet._checks import require_key, require_loss
from funcnet.errors import ShapeError
from funcnet.layers import (
    Module,
    Params,
    Sequential,
    State,
    located,
    require_entries,
    require_module,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer in a `Summary`.

    Attributes:
        path: where it stands, such as "1.0" for the first layer of the second one.
        layer: its repr.
        output_shape: the shape of its output.
        parameters: how many numbers its parameters have.
    """

    path: str
    layer: str
    output_shape: tuple[int, ...]
    parameters: int


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` found; printing it gives the table.

    Attributes:
        rows: one for each layer that is no container, in order.
        parameters: the total.
    """

    rows: tuple[Row, ...]
    parameters: int

    def __str__(self):
        cells = [("", "layer", "output shape", "parameters")]
        cells += [(r.path, r.layer, str(r.output_shape), f"{r.parameters:,}") for r in self.rows]
        cells += [("", "total", "", f"{self.parameters:,}")]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines = [
            f"{path:<{widths[0]}}  {layer:<{widths[1]}}  {shape:<{widths[2]}}  {count:>{widths[3]}}"
            for path, layer, shape, count in cells
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def __repr__(self):
        return f"Summary({len(self.rows)} layers, {self.parameters:,} parameters)"


def summary(model: Module, input_shape: tuple[int, ...]) -> Summary:
    """Print a table of each layer's output shape and number of parameters, and return it.

    Nothing is computed: shapes are traced.

    Args:
        model: a `Module`.
        input_shape: the shape of the array that `model.apply` will get, with or without batch
            axes, such as (100, 784) or (784,).

    Raises:
        ConfigError: `model` is no layer.
        ShapeError: `input_shape` is not a tuple of integers, or does not fit a layer.
    """
    require_module(model)
    if not isinstance(input_shape, tuple | list) or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in input_shape
    ):
        raise ShapeError(
            f"input_shape is {input_shape!r}, expected a tuple of integers such as (784,)"
        )
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key)
    x = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
    rows = []
    for path, layer, layer_params, layer_state in _leaves(model, params, state):
        with located(path, layer):
            x, _ = jax.eval_shape(layer.apply, layer_params, layer_state, x)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(layer_params))
        rows.append(Row(_dotted(path), repr(layer), x.shape, count))
    table = Summary(tuple(rows), sum(row.parameters for row in rows))
    print(table)
    return table


@dataclasses.dataclass(frozen=True)
class LayerTrace:
    """One layer's part in a `Backward`; each d-something has the shape of that thing.

    Attributes:
        path: where the layer stands, such as "1.0".
        layer: the layer.
        input: its input X.
        output: its output Y.
        d_output: dY, the cotangent of its output.
        d_input: dX, the cotangent of its input: the d_output of the layer before.
        d_params: the cotangents of its parameters.
    """

    path: str
    layer: Module
    input: Array
    output: Array
    d_output: Array
    d_input: Array
    d_params: Params


@dataclasses.dataclass(frozen=True, repr=False)
class Backward:
    """A forward and a backward pass with every number in between; print it to read it.

    Attributes:
        layers: in the order of the forward pass.
        loss: the loss, ().
        d_prediction: its cotangent with respect to the prediction.
        d_params: the gradient, in the structure of the model's params.
    """

    layers: tuple[LayerTrace, ...]
    loss: Array
    d_prediction: Array
    d_params: Params

    def __str__(self):
        with np.printoptions(precision=4, suppress=True, threshold=50, edgeitems=3):
            return "\n".join(self._lines())

    def __repr__(self):
        return f"Backward({len(self.layers)} layers, loss={float(self.loss):.6g})"

    def _lines(self) -> Iterator[str]:
        yield "forward"
        if self.layers:
            yield _labelled("X", self.layers[0].input)
        for trace in self.layers:
            yield f"  layer {trace.path}: {trace.layer!r}"
            yield _labelled("Y", trace.output)
        yield f"  loss = {float(self.loss):.6g}"
        yield ""
        yield "backward"
        yield _labelled("d prediction", self.d_prediction)
        for trace in reversed(self.layers):
            yield f"  layer {trace.path}: {trace.layer!r}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(trace.d_params):
                yield _labelled(f"d {jax.tree_util.keystr(path, simple=True)}", leaf)
            yield _labelled("dX", trace.d_input)


def backward(
    model: Module,
    params: Params,
    state: State,
    loss: Callable[[Array, Array], Array],
    x: Array,
    y: Array,
    *,
    key: Array | None = None,
    train: bool = True,
) -> Backward:
    """Run a batch forward and backward, and keep every activation and cotangent.

    For learning and looking, not for speed: each layer's own rule is called in turn, as
    `jax.grad` does within one program.

    Args:
        model: a `Module`; a Sequential, nested ones too, is taken apart into its layers.
        params: its parameters.
        state: its state.
        loss: maps (prediction, target) to a scalar.
        x: a batch of inputs.
        y: its targets.
        key: typed scalar key for layers that draw random numbers.
        train: whether layers behave as in training.

    Raises:
        ShapeError, DtypeError, ParamsError, ConfigError: the arguments do not fit the model or
            the loss, or are none.
    """
    require_module(model)
    require_loss(loss)
    if key is not None:
        require_key(key)
    steps, pullbacks = [], []
    value = jnp.asarray(x)
    for path, layer, layer_params, layer_state in _leaves(model, params, state):
        layer_key = _layer_key(key, path)

        def forward(params, x, layer=layer, state=layer_state, key=layer_key):
            return layer.apply(params, state, x, key=key, train=train)[0]

        with located(path, layer):
            output, pullback = jax.vjp(forward, layer_params, value)
        steps.append((path, layer, value, output))
        pullbacks.append(pullback)
        value = output

    loss_value, loss_pullback = jax.vjp(lambda prediction: loss(prediction, y), value)
    if loss_value.shape != ():
        raise ShapeError(f"the loss has shape {loss_value.shape}, expected one number, ()")
    (d_prediction,) = loss_pullback(jnp.ones_like(loss_value))

    traces, cotangent = [], d_prediction
    for (path, layer, layer_input, output), pullback in zip(
        reversed(steps), reversed(pullbacks), strict=True
    ):
        d_output = cotangent
        d_params, cotangent = pullback(d_output)
        traces.append(
            LayerTrace(_dotted(path), layer, layer_input, output, d_output, cotangent, d_params)
        )
    traces.reverse()
    gradient = _regrouped(model, iter([trace.d_params for trace in traces]))
    return Backward(tuple(traces), loss_value, d_prediction, gradient)


Path = tuple[int, ...]


def _leaves(model, params, state, path: Path = ()) -> Iterator[tuple[Path, Module, Any, Any]]:
    """The layers that are no Sequential, in order, with their own params and state."""
    if not isinstance(model, Sequential):
        yield path, model, params, state
        return
    require_entries(model, "params", params)
    require_entries(model, "state", state)
    for i, layer in enumerate(model.layers):
        yield from _leaves(layer, params[i], state[i], (*path, i))


def _regrouped(model, leaves):
    """A flat sequence of what belongs to each layer, in the structure of the model's params."""
    if isinstance(model, Sequential):
        return tuple(_regrouped(layer, leaves) for layer in model.layers)
    return next(leaves)


def _layer_key(key, path):
    """The key that nested Sequentials would give the layer at this path."""
    for i in path:
        key = None if key is None else jax.random.fold_in(key, i)
    return key


def _dotted(path: Path) -> str:
    return ".".join(map(str, path)) or "0"


def _labelled(name: str, array: Array) -> str:
    text = np.array2string(np.asarray(array), prefix=" " * 6)
    return f"    {name} {tuple(array.shape)}\n      {text}"
