"""A model applied layer by layer: who gets what, forward and backward, in numbers."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet._internal.checks import require_arrays, require_key, require_loss
from funcnet.errors import DtypeError, ShapeError
from funcnet.layers.containers import Container, require_entries
from funcnet.layers.module import Module, Params, State, as_pair, located, require_module


@dataclasses.dataclass(frozen=True)
class LayerTrace:
    """One layer's part in a `Backward`; each d-something has the shape of that thing.

    Attributes:
        path: where the layer stands, such as "1.0".
        layer: the layer; or a Residual or Parallel, where it has joined its layers' outputs.
        input: its input X.
        output: its output Y.
        d_output: dY, the cotangent of its output.
        d_input: dX, the cotangent of its input: in a row of layers, the d_output of the one
            before; of a Residual or Parallel, the sum over its branches. None for integers.
        d_params: the cotangents of its parameters; () for a join.
    """

    path: str
    layer: Module
    input: Array
    output: Array
    d_output: Array
    d_input: Any
    d_params: Params

    @property
    def title(self) -> str:
        """The layer and where it stands."""
        return f"layer {self.path}: {title_of(self.layer)}" if self.path else title_of(self.layer)


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
            yield f"  {trace.title}"
            yield _labelled("Y", trace.output)
        yield f"  loss = {float(self.loss):.6g}"
        yield ""
        yield "backward"
        yield _labelled("d prediction", self.d_prediction)
        # Backward, a join is done when its branches are: forward, it was before them.
        for trace in sorted(self.layers, key=lambda trace: _indices(trace.path), reverse=True):
            yield f"  {trace.title}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(trace.d_params):
                yield _labelled(f"d {jax.tree_util.keystr(path, simple=True)}", leaf)
            if trace.d_input is not None:
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
    `jax.grad` does within one program. To see every cotangent, a probe of zeros is added wherever
    a layer's input or output passes; the cotangent of the probe is the cotangent of what passes.

    Args:
        model: a `Module`; a container, nested ones too, is taken apart into its layers.
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
    require_arrays("backward", x=x)
    if key is not None:
        require_key(key)
    steps: dict[Path, tuple[Module, Array, Array]] = {}  # in the order of the forward pass

    def record(path, layer, params, x, compute):
        y = compute(params, x)
        steps[path] = layer, x, y
        return y

    prediction = walk(model, record, params, state, jnp.asarray(x), key, train)
    loss_value, loss_pullback = jax.vjp(lambda prediction: loss(prediction, y), prediction)
    if not isinstance(loss_value, Array):
        raise DtypeError(
            f"the loss is {type(loss_value).__name__}, expected one floating number, an array"
        )
    if loss_value.shape != ():
        raise ShapeError(f"the loss has shape {loss_value.shape}, expected one number, ()")
    (d_prediction,) = loss_pullback(jnp.ones_like(loss_value))

    def probed(params, probes):
        def probe(path, layer, params, x, compute):
            before, after = probes[path]
            return compute(params, x if before is None else x + before) + after

        return walk(model, probe, params, state, jnp.asarray(x), key, train)

    probes = {path: (_probe(a), _probe(b)) for path, (_, a, b) in steps.items()}
    d_params, d_probes = jax.vjp(probed, params, probes)[1](d_prediction)
    traces = []
    for path, (layer, layer_input, output) in steps.items():
        d_input, d_output = d_probes[path]
        own = () if isinstance(layer, Container) else _at(d_params, path)
        traces.append(
            LayerTrace(dotted(path, layer), layer, layer_input, output, d_output, d_input, own)
        )
    return Backward(tuple(traces), loss_value, d_prediction, d_params)


Path = tuple[int, ...]


def walk(model, visit, params, state, x, key=None, train=False, path: Path = ()):
    """Apply a model as `apply` does, with `visit` around every layer and every join.

    visit(path, layer, params, x, compute) returns compute(params, x), or what it makes of that.
    """
    if not isinstance(model, Container):

        def compute(params, x):
            output = model.apply(params, state, x, key=key, train=train)
            return as_pair(model, "apply", output)[0]

        with located((), model):
            return visit(path, model, params, x, compute)

    require_entries(model, "params", params)
    require_entries(model, "state", state)

    def call(i, x):
        child = model.children[i]
        child_key = None if key is None else jax.random.fold_in(key, i)
        with located((i,), child):
            return walk(child, visit, params[i], state[i], x, child_key, train, (*path, i))

    if not model.joins:
        return model.connect(call, x)
    return visit(path, model, (), x, lambda _, x: model.connect(call, x))


def _probe(array: Array) -> Array | None:
    """The number that changes nothing when it is added: -0, since -0 + 0 would be 0."""
    return jnp.full_like(array, -0.0) if jnp.issubdtype(array.dtype, jnp.floating) else None


def _at(tree: Any, path: Path) -> Any:
    return functools.reduce(operator.getitem, path, tree)


def dotted(path: Path, layer: Module) -> str:
    """A path as PyTorch writes it; of a model that is one layer, "0"."""
    return ".".join(map(str, path)) or ("" if isinstance(layer, Container) else "0")


def _indices(dotted: str) -> Path:
    return tuple(map(int, dotted.split("."))) if dotted else ()


def title_of(layer: Module) -> str:
    """A layer in words; of a container, how it joins what its children make."""
    return layer.joins if isinstance(layer, Container) else repr(layer)


def _labelled(name: str, array: Array) -> str:
    text = np.array2string(np.asarray(array), prefix=" " * 6)
    return f"    {name} {tuple(array.shape)}\n      {text}"
