"""summary: a table of a model's layers, their output shapes and numbers of parameters."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.errors import ShapeError
from funcnet.layers.module import Module, require_module
from funcnet.layers.tracing import dotted, title_of, walk


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer in a `Summary`, or the place where a container joins its layers' outputs.

    Attributes:
        path: where it stands, such as "1.0" for the first layer of the second one.
        layer: its repr; of a join, how it joins what.
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
        rows: one for each layer that is no container, and one for each sum or concatenation of
            a Residual or Parallel, in the order of the forward pass.
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


def summary(model: Module, input_shape: tuple[int, ...], dtype: Any = jnp.float32) -> Summary:
    """Print a table of each layer's output shape and number of parameters, and return it.

    Nothing is computed: shapes are traced.

    Args:
        model: a `Module`.
        input_shape: the shape of the array that `model.apply` will get, with or without batch
            axes, such as (100, 784) or (784,).
        dtype: of that array; an integer one for a model that begins with an Embedding.

    Raises:
        ConfigError: `model` is no layer.
        DtypeError: `dtype` does not fit a layer.
        ShapeError: `input_shape` is not a tuple of integers, or does not fit a layer.
    """
    require_module(model)
    if not isinstance(input_shape, tuple | list) or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in input_shape
    ):
        raise ShapeError(
            f"input_shape is {input_shape!r}, expected a tuple of integers such as (784,)"
        )
    rows = []

    def visit(path, layer, params, x, compute):
        y = compute(params, x)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        rows.append(Row(dotted(path, layer), title_of(layer), y.shape, count))
        return y

    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key)
    x = jax.ShapeDtypeStruct(tuple(input_shape), dtype)
    jax.eval_shape(functools.partial(walk, model, visit), params, state, x)
    table = Summary(tuple(rows), sum(row.parameters for row in rows))
    print(table)
    return table
