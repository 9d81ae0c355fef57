"""summary: a table of a model's layers, their output shapes and numbers of parameters."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._internal import notebook
from funcnet.errors import ShapeError
from funcnet.layers.module import Module, require_module
from funcnet.layers.tracing import walk


@dataclasses.dataclass(frozen=True)
class Row:
    """One call of a layer in a `Summary`, or where a container combines its layers' outputs.

    Attributes:
        path: where it stands, such as "1.0" for the first layer of the second one, or "h.0.attn".
        layer: its repr; of a container, how it combines what.
        output_shape: the shape of its output, or a tree of shapes like the output.
        parameters: how many numbers its parameters have, or a container's own arrays; counted at
            the first call alone.
    """

    path: str
    layer: str
    output_shape: Any
    parameters: int


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` found; printing it gives the table, and a notebook shows it.

    Attributes:
        rows: one for each call of a layer that is not a container, and one for each container
            that combines outputs, such as a Residual, in the order of the forward pass.
        parameters: the total.
    """

    rows: tuple[Row, ...]
    parameters: int

    def __str__(self) -> str:
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

    def __repr__(self) -> str:
        return f"Summary({len(self.rows)} layers, {self.parameters:,} parameters)"

    def _repr_html_(self) -> str:
        rows = [
            (f"{r.path} {r.layer}".strip(), str(r.output_shape), f"{r.parameters:,}")
            for r in self.rows
        ]
        title = f"{self.parameters:,} parameters"
        return notebook.table(title, ("layer", "output shape", "parameters"), rows)


def summary(
    model: Module,
    input_shape: Any,
    dtype: Any = jnp.float32,
    *,
    inputs: tuple[Any, ...] = (),
    **options: Any,
) -> Summary:
    """Print a table of each layer's output shape and number of parameters, and return it.

    Nothing is computed: shapes are traced. In a notebook nothing is printed, since what a cell's
    last line returns is shown; elsewhere in a cell, print it.

    Args:
        model: a `Module`.
        input_shape: the shape of the array that `model.apply` will get, with or without batch
            axes, such as (100, 784) or (784,). Where it gets a pytree of arrays, the same tree with
            a shape for each array, or a `jax.ShapeDtypeStruct` for one of another dtype.
        dtype: of these arrays; an integer one for a model that begins with an Embedding.
        inputs: the shapes of what else the model takes by position.
        options: what the model takes by name, such as a mask.

    Raises:
        ConfigError: `model` is not a layer.
        DtypeError: `dtype` does not fit a layer.
        ShapeError: `input_shape` is not a tuple of integers or a tree of such, or does not fit a
            layer.
    """
    require_module(model)
    rows = []

    def visit(place, layer, params, inputs, compute):
        output = compute(params, inputs)
        count = 0 if place.call else sum(math.prod(p.shape) for p in jax.tree.leaves(params))
        shapes = jax.tree.map(lambda array: array.shape, output)
        rows.append(Row(place.dotted(layer), place.title(layer), shapes, count))
        return output

    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key)
    given = (_arrays(input_shape, dtype), *(_arrays(shape, dtype) for shape in inputs))
    jax.eval_shape(functools.partial(walk, model, visit, options=options), params, state, given)
    table = Summary(tuple(rows), sum(row.parameters for row in rows))
    if not notebook.is_shown():
        print(table)
    return table


def _arrays(shapes: Any, dtype: Any) -> Any:
    """The arrays of a tree of shapes, as JAX traces them."""

    def array(shape):
        is_number = isinstance(shape, np.generic)  # which has a shape and a dtype as well
        if hasattr(shape, "dtype") and not is_number:
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype)
        if is_number or not _is_shape(shape):
            raise ShapeError(
                f"input_shape is {shapes!r}, expected a tuple of integers such as (784,), or a "
                f"tree of such"
            )
        return jax.ShapeDtypeStruct(tuple(shape), dtype)

    return jax.tree.map(array, shapes, is_leaf=lambda tree: tree is None or _is_shape(tree))


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in value
    )
