"""A model applied layer by layer: who gets what, forward and backward, in numbers."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet._internal import notebook
from funcnet._internal.checks import require_arrays, require_key, require_loss
from funcnet.errors import DtypeError, ShapeError
from funcnet.layers.composition import Call, Container, children_of, connected
from funcnet.layers.module import Module, Params, State, as_pair, located, require_module

Path = tuple[int | str, ...]
# (container's or layer's place, layer, its own params, its inputs, compute) -> its output, which is
# compute(params, inputs) or what is made of that.
Visit = Callable[["Place", Module, Params, tuple[Any, ...], Callable[..., Any]], Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a forward pass a layer is called.

    Attributes:
        path: its path from the outermost container inwards.
        call: which call of this path it is, counted from 0.
        entered: which of all layers it is in the order in which they get their inputs.
    """

    path: Path
    call: int
    entered: int

    def dotted(self, layer: Module) -> str:
        """The path as PyTorch writes it; of a model that is one layer, "0"."""
        return ".".join(map(str, self.path)) or ("" if isinstance(layer, Container) else "0")

    def title(self, layer: Module) -> str:
        """The layer in words, and which call it is; of a container, how it combines what."""
        words = layer.combines if isinstance(layer, Container) else repr(layer)
        return f"{words}, call {self.call + 1}" if self.call else words


@dataclasses.dataclass(frozen=True)
class LayerTrace:
    """One call of a layer in a `Backward`; each d-something has the shape of that thing.

    Attributes:
        path: where the layer stands, such as "1.0" or "h.0.attn".
        call: which call of this layer it is, counted from 0.
        layer: the layer; or a container that combines its layers' outputs.
        input: its input X, an array or a pytree of arrays.
        inputs: its further inputs.
        output: its output Y, an array or a pytree of arrays.
        d_output: dY, the cotangent of its output. Here and below, None stands for integers.
        d_input: dX, the cotangent of its input: in a row of layers, the d_output of the one
            before; of a container, the sum over those that take the input.
        d_inputs: the cotangents of its further inputs.
        d_params: what this call contributes to the cotangents of its parameters; of a container,
            of its own arrays, () where there are none.
        title: the layer in words, and where it stands.
        entered: which of all layers it is in the order in which they get their inputs.
    """

    path: str
    call: int
    layer: Module
    input: Any
    inputs: tuple[Any, ...]
    output: Any
    d_output: Any
    d_input: Any
    d_inputs: tuple[Any, ...]
    d_params: Params
    title: str
    entered: int


@dataclasses.dataclass(frozen=True, repr=False)
class Backward:
    """A forward and a backward pass with every number in between; print it to read it.

    A notebook shows how large they are, layer by layer.

    Attributes:
        layers: in the order in which the forward pass makes their outputs.
        loss: the loss, ().
        d_prediction: its cotangent with respect to the prediction.
        d_params: the gradient, in the structure of the model's params.
    """

    layers: tuple[LayerTrace, ...]
    loss: Array
    d_prediction: Any
    d_params: Params

    @property
    def layers_backward(self) -> tuple[LayerTrace, ...]:
        """The layers in the order in which the backward pass makes the cotangents of their inputs.

        A container comes behind its layers there too.
        """
        return tuple(sorted(self.layers, key=lambda trace: trace.entered, reverse=True))

    def __str__(self) -> str:
        with np.printoptions(precision=4, suppress=True, threshold=50, edgeitems=3):
            return "\n".join(self._lines())

    def __repr__(self) -> str:
        return f"Backward({len(self.layers)} layers, loss={float(self.loss):.6g})"

    def _repr_html_(self) -> str:
        rows = [
            (trace.title, str(jax.tree.map(jnp.shape, trace.output)), *map(_size, sizes))
            for trace in self.layers
            for sizes in [(trace.output, trace.d_output, trace.d_input, trace.d_params)]
        ]
        head = ("layer", "shape of Y", "Y", "dY", "dX", "d params")
        note = "Root mean squares. print() gives every number."
        return notebook.table(f"loss = {float(self.loss):.6g}", head, rows, note)

    def _lines(self) -> Iterator[str]:
        yield "forward"
        if self.layers:
            first = min(self.layers, key=lambda trace: trace.entered)
            yield from _labelled("X", (first.input, *first.inputs) if first.inputs else first.input)
        for trace in self.layers:
            yield f"  {trace.title}"
            yield from _labelled("Y", trace.output)
        yield f"  loss = {float(self.loss):.6g}"
        yield ""
        yield "backward"
        yield from _labelled("d prediction", self.d_prediction)
        for trace in self.layers_backward:
            yield f"  {trace.title}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(trace.d_params):
                yield from _labelled(f"d {jax.tree_util.keystr(path, simple=True)}", leaf)
            d_all = (trace.d_input, *trace.d_inputs) if trace.d_inputs else trace.d_input
            yield from _labelled("dX", d_all)


def backward(
    model: Module,
    params: Params,
    state: State,
    loss: Callable[[Any, Any], Array],
    x: Any,
    y: Any,
    *,
    inputs: tuple[Any, ...] = (),
    key: Array | None = None,
    train: bool = True,
    **options: Any,
) -> Backward:
    """Run a batch forward and backward, and keep every activation and cotangent.

    For learning and looking, not for speed: each layer's own rule is called in turn, as
    `jax.grad` does within one program. To see every cotangent, a probe of zeros is added wherever
    a layer's input, output or parameter passes; the cotangent of the probe is the cotangent of what
    passes.

    Args:
        model: a `Module`; a container, nested ones too, is taken apart into its layers.
        params: its parameters.
        state: its state.
        loss: maps (prediction, target) to a scalar.
        x: a batch of inputs, an array or any pytree of arrays.
        y: its targets, as the loss takes them.
        inputs: what else the model takes by position, such as a carry.
        key: typed scalar key for layers that draw random numbers.
        train: whether layers behave as in training.
        options: what the model takes by name, such as a mask.

    Raises:
        ShapeError, DtypeError, ParamsError, ConfigError: the arguments do not fit the model or
            the loss, or are none.
    """
    require_module(model)
    require_loss(loss)
    require_leaves("backward", x=x, inputs=inputs)
    if key is not None:
        require_key(key)
    given = jax.tree.map(jnp.asarray, (x, *inputs))
    # By the order of entering, in the order of the outputs.
    steps: dict[int, tuple[Place, Module, Params, tuple[Any, ...], Any]] = {}

    def record(place, layer, params, inputs, compute):
        output = compute(params, inputs)
        steps[place.entered] = place, layer, params, inputs, output
        return output

    def run(visit, params):
        return walk(model, visit, params, state, given, options, key, train)

    prediction = run(record, params)
    loss_value, d_prediction = _loss_and_cotangent(loss, prediction, y)

    d_params, d_probes = _cotangents(run, steps, params, d_prediction)
    traces = (_trace(*step, d_probes[number]) for number, step in steps.items())
    return Backward(tuple(traces), loss_value, d_prediction, d_params)


def _cotangents(run, steps, params, d_prediction) -> tuple[Params, dict[int, Any]]:
    """Of the parameters, and of what passes in each step: those of the probes added there."""

    def probed(params, probes):
        def probe(place, layer, params, inputs, compute):
            before = probes[place.entered]
            params, inputs = _added(params, before["params"]), _added(inputs, before["inputs"])
            return _added(compute(params, inputs), before["output"])

        return run(probe, params)

    probes = {
        number: {"params": _probes(params), "inputs": _probes(inputs), "output": _probes(output)}
        for number, (_, _, params, inputs, output) in steps.items()
    }
    return jax.vjp(probed, params, probes)[1](d_prediction)


def _loss_and_cotangent(loss, prediction, y) -> tuple[Array, Any]:
    """The loss, and its cotangent with respect to the prediction."""
    loss_value, pullback = jax.vjp(lambda prediction: loss(prediction, y), prediction)
    if not isinstance(loss_value, Array):
        raise DtypeError(
            f"the loss is {type(loss_value).__name__}, expected one floating number, an array"
        )
    if loss_value.shape != ():
        raise ShapeError(
            f"the loss has shape {loss_value.shape}, expected one number, (); take its mean with "
            f"jnp.mean, or of a loss object reduction='mean'"
        )
    return loss_value, pullback(jnp.ones_like(loss_value))[0]


def _trace(place, layer, params, inputs, output, cotangents) -> LayerTrace:
    path, title = place.dotted(layer), place.title(layer)
    d_input, *d_inputs = _like(inputs, cotangents["inputs"])
    return LayerTrace(
        path=path,
        call=place.call,
        layer=layer,
        input=inputs[0],
        inputs=inputs[1:],
        output=output,
        d_output=_like(output, cotangents["output"]),
        d_input=d_input,
        d_inputs=tuple(d_inputs),
        d_params=_like(params, cotangents["params"]),
        title=f"layer {path}: {title}" if path else title,
        entered=place.entered,
    )


class _Walk:
    """A forward pass with `visit` around every layer and every container that combines."""

    def __init__(self, visit: Visit, train: bool):
        self.visit = visit
        self.train = train
        self.calls: Counter[Path] = Counter()
        self.entered = 0

    def apply(self, path, model, params, state, inputs, options, key) -> tuple[Any, State]:
        after = state
        place = Place(path, self.calls[path], self.entered)
        self.calls[path] += 1
        self.entered += 1

        def compute(own, inputs):
            nonlocal after
            if not is_composed(model):
                output = model.apply(own, state, *inputs, key=key, train=self.train, **options)
                value, after = as_pair(model, "apply", output)
                return value
            everything = {**params, **own} if own else params
            call = Call(model, everything, state, key, self.train, within)
            value, after = connected(model, call, inputs, options)
            return value

        def within(name, child, params, state, inputs, options, key, train):
            return self.apply((*path, name), child, params, state, inputs, options, key)

        own = own_params(model, params)
        if is_composed(model) and not model.combines:
            return compute(own, inputs), after
        return self.visit(place, model, own, inputs, compute), after


def is_composed(model: Module) -> TypeGuard[Container]:
    """Whether a model is what its children and `connect` make it."""
    return isinstance(model, Container) and type(model).apply is Container.apply


def own_params(model: Module, params: Params) -> Params:
    """The parameters that are no child's: of a container its own arrays, () where it has none."""
    if is_composed(model):
        children = children_of(model)
        named = params if isinstance(params, Mapping) else {}
        return {name: leaf for name, leaf in named.items() if name not in children} or ()
    return params


def walk(
    model: Module,
    visit: Visit,
    params: Params,
    state: State,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    key: Array | None = None,
    train: bool = False,
) -> Any:
    """Apply a model as `apply` does, with `visit` around every layer and every combination.

    visit(place, layer, params, inputs, compute) returns compute(params, inputs), or what it makes
    of that; of a container, params are its own arrays.
    """
    with located((), model):
        return _Walk(visit, train).apply((), model, params, state, inputs, options, key)[0]


def require_leaves(function: str, **trees: Any) -> None:
    """Raise DtypeError unless every leaf of the named arguments is an array."""
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None):
            require_arrays(function, **{f"{name}{jax.tree_util.keystr(path)}": leaf})


def _probes(tree: Any) -> list[Array | None]:
    """For each leaf what changes nothing when added: -0, since -0 + 0 would be 0."""
    return [
        jnp.full_like(leaf, -0.0) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None
        for leaf in jax.tree.leaves(tree)
    ]


def _added(tree: Any, probes: list[Array | None]) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, probes, strict=True)
    return structure.unflatten(leaf if probe is None else leaf + probe for leaf, probe in pairs)


def _like(tree: Any, cotangents: list[Array | None]) -> Any:
    """The cotangents of the leaves, None for integers, in the structure of the tree."""
    return jax.tree.structure(tree).unflatten(cotangents)


def _size(tree: Any) -> str:
    """The root mean square of all floating numbers in a tree; nothing where there are none."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    numbers = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves] or [[]])
    return f"{np.sqrt(np.mean(numbers**2)):.3g}" if numbers.size else ""


def _labelled(name: str, tree: Any) -> Iterator[str]:
    """Each array of a tree under its name and shape; nothing for what has no cotangent."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        text = np.array2string(np.asarray(leaf), prefix=" " * 6)
        yield f"    {name}{jax.tree_util.keystr(path)} {tuple(leaf.shape)}\n      {text}"
