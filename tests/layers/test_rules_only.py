"""No backward pass is left to autodiff: between input and output stand rules, and moves of numbers.

The traced computation of every layer and every loss is walked. Outside a rule, only what copies,
moves, converts or adds may lie on the way from a floating argument to the result.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcnet as fn
from funcnet._internal import compat

KEY = jax.random.key(0)

MOVES = {
    *("reshape", "squeeze", "transpose", "broadcast_in_dim", "slice", "pad", "copy"),
    *("convert_element_type", "add", "add_any", "unstack"),
}


def floats(*shape):
    return jax.random.normal(jax.random.key(len(shape)), shape)


# Every exported layer, and an input for it.
LAYERS: dict[type, tuple[fn.Module, jax.Array]] = {
    fn.AdaptiveAvgPool2d: (fn.AdaptiveAvgPool2d(3), floats(2, 7, 7, 3)),
    fn.AvgPool2d: (fn.AvgPool2d(2), floats(2, 4, 4, 3)),
    fn.BatchNorm1d: (fn.BatchNorm1d(3), floats(4, 3)),
    fn.BatchNorm2d: (fn.BatchNorm2d(3), floats(2, 4, 4, 3)),
    fn.Conv1d: (fn.Conv1d(3, 4, 3, stride=2, padding=1), floats(2, 6, 3)),
    fn.ConvTranspose1d: (fn.ConvTranspose1d(3, 4, 3, stride=2), floats(2, 6, 3)),
    fn.ConvTranspose2d: (fn.ConvTranspose2d(3, 4, 3, 2, 1, 1), floats(2, 4, 4, 3)),
    fn.Conv2d: (fn.Conv2d(3, 4, 3, stride=2, padding=1), floats(2, 6, 6, 3)),
    fn.Dropout: (fn.Dropout(0.5), floats(4, 3)),
    fn.ELU: (fn.ELU(0.5), floats(4, 3)),
    fn.Embedding: (fn.Embedding(5, 3), jnp.arange(4)),
    fn.Flatten: (fn.Flatten(), floats(2, 4, 4, 3)),
    fn.GELU: (fn.GELU(), floats(4, 3)),
    fn.GRU: (fn.GRU(3, 4, num_layers=2, dropout=0.5), floats(2, 5, 3)),
    fn.GRUCell: (fn.GRUCell(3, 4), floats(2, 3)),
    fn.GroupNorm: (fn.GroupNorm(2, 4), floats(2, 3, 4)),
    fn.Identity: (fn.Identity(), floats(4, 3)),
    fn.LSTM: (fn.LSTM(3, 4, proj_size=2, bidirectional=True), floats(2, 5, 3)),
    fn.LSTMCell: (fn.LSTMCell(3, 4), floats(2, 3)),
    fn.LayerNorm: (fn.LayerNorm(3), floats(4, 3)),
    fn.LeakyReLU: (fn.LeakyReLU(), floats(4, 3)),
    fn.Linear: (fn.Linear(3, 2), floats(4, 3)),
    fn.LogSoftmax: (fn.LogSoftmax(), floats(4, 3)),
    fn.MaxPool2d: (fn.MaxPool2d(2), floats(2, 4, 4, 3)),
    fn.MultiheadAttention: (fn.MultiheadAttention(6, 3, 0.5, add_bias_kv=True), floats(2, 4, 6)),
    fn.PReLU: (fn.PReLU(3), floats(4, 3)),
    fn.Parallel: (fn.Parallel(fn.Tanh(), fn.Tanh(), combine="concatenate"), floats(4, 3)),
    fn.RMSNorm: (fn.RMSNorm(3), floats(4, 3)),
    fn.RNN: (fn.RNN(3, 4), floats(2, 5, 3)),
    fn.RNNCell: (fn.RNNCell(3, 4), floats(2, 3)),
    fn.ReLU: (fn.ReLU(), floats(4, 3)),
    fn.Remat: (fn.Remat(fn.Sequential(fn.Linear(3, 3), fn.Tanh())), floats(4, 3)),
    fn.Residual: (fn.Residual(fn.Tanh(), shortcut=fn.Linear(3, 3)), floats(4, 3)),
    fn.Sequential: (fn.Sequential(fn.Linear(3, 2), fn.Tanh()), floats(4, 3)),
    fn.SiLU: (fn.SiLU(), floats(4, 3)),
    fn.Sigmoid: (fn.Sigmoid(), floats(4, 3)),
    fn.Softmax: (fn.Softmax(), floats(4, 3)),
    fn.Softplus: (fn.Softplus(), floats(4, 3)),
    fn.Stack: (fn.Stack(fn.Linear(3, 3), fn.Tanh()), floats(4, 3)),
    fn.Tanh: (fn.Tanh(), floats(4, 3)),
    fn.Unflatten: (fn.Unflatten(-1, (2, 3)), floats(4, 6)),
    fn.Upsample: (fn.Upsample(scale_factor=2.0), floats(2, 4, 4, 3)),
    fn.TransformerDecoderLayer: (fn.TransformerDecoderLayer(6, 3, 5), floats(2, 4, 6)),
    fn.TransformerEncoderLayer: (fn.TransformerEncoderLayer(6, 3, 5), floats(2, 4, 6)),
}

# Every exported loss, and a target for predictions of shape (4, 3).
LABELS = jnp.array([0, 2, 1, 0])
LOSSES: dict[type, tuple[Any, jax.Array]] = {
    fn.BCEWithLogitsLoss: (fn.BCEWithLogitsLoss(0.5, pos_weight=(1, 2, 3)), jnp.full((4, 3), 0.5)),
    fn.CrossEntropyLoss: (fn.CrossEntropyLoss((1, 2, 3), label_smoothing=0.1), LABELS),
    fn.HuberLoss: (fn.HuberLoss(), floats(4, 3)),
    fn.KLDivLoss: (fn.KLDivLoss("batchmean"), jnp.full((4, 3), 0.5)),
    fn.L1Loss: (fn.L1Loss(), floats(4, 3)),
    fn.MSELoss: (fn.MSELoss(), floats(4, 3)),
    fn.NLLLoss: (fn.NLLLoss((1, 2, 3)), LABELS),
    fn.SmoothL1Loss: (fn.SmoothL1Loss(), floats(4, 3)),
}


def left_to_autodiff(function, *args) -> set[str]:
    """Operations outside rules on a way from a floating argument to the (first) result."""
    jaxpr = compat.open_jaxpr(jax.make_jaxpr(function)(*args))
    return _walk(jaxpr, {v for v in jaxpr.invars if _is_floating(v)}, {jaxpr.outvars[0]})


def _walk(jaxpr, sources, results) -> set[str]:
    reached = [set() for _ in jaxpr.eqns]
    for eqn, inputs in zip(jaxpr.eqns, reached, strict=True):
        inputs |= {v for v in eqn.invars if _is_in(v, sources)}
        # Gradients end at stop_gradient, and at integers, truth values and keys.
        if inputs and eqn.primitive.name != "stop_gradient":
            sources = sources | {v for v in eqn.outvars if _is_floating(v)}
    found = set()
    for eqn, inputs in reversed(list(zip(jaxpr.eqns, reached, strict=True))):
        on_the_way = results & sources & set(eqn.outvars)
        if not on_the_way:
            continue
        results = results | inputs
        name = eqn.primitive.name
        inner = [compat.open_jaxpr(p) for p in _leaves(eqn.params) if compat.is_jaxpr(p)]
        if name in compat.RULE_PRIMITIVES or name in MOVES:
            continue
        if not inner:
            found.add(name)
        for body in inner:
            # Of a loop or a branch, every floating number counts as an argument and as a result.
            called = len(body.invars) == len(eqn.invars) and len(body.outvars) == len(eqn.outvars)
            outer = eqn.invars if called else body.invars
            arguments = {
                v
                for v, given in zip(body.invars, outer, strict=True)
                if _is_floating(v) and (not called or _is_in(given, inputs))
            }
            outer = eqn.outvars if called else body.outvars
            wanted = {
                v
                for v, result in zip(body.outvars, outer, strict=True)
                if not compat.is_literal(v) and (not called or result in on_the_way)
            }
            found |= _walk(body, arguments, wanted)
    return found


def _leaves(params):
    for value in params.values():
        yield from value if isinstance(value, tuple | list) else (value,)


def _is_in(atom, variables):
    return not compat.is_literal(atom) and atom in variables


def _is_floating(variable):
    return jnp.issubdtype(variable.aval.dtype, jnp.floating)


def exported(wanted) -> set[type]:
    things = (getattr(fn, name) for name in fn.__all__)
    return {thing for thing in things if isinstance(thing, type) and wanted(thing)}


def test_every_exported_layer_and_loss_has_an_example():
    assert set(LAYERS) == exported(lambda t: issubclass(t, fn.Module)) - {fn.Module, fn.Container}
    assert set(LOSSES) == exported(lambda t: issubclass(t, fn.Loss)) - {fn.Loss}
    for kind, (example, _) in [*LAYERS.items(), *LOSSES.items()]:
        assert type(example) is kind


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
def test_a_layer_leaves_nothing_to_autodiff(kind, train):
    layer, x = LAYERS[kind]
    params, state = layer.init(KEY)

    def apply(params, x):
        return layer.apply(params, state, x, key=KEY, train=train)[0]

    assert left_to_autodiff(apply, params, x) == set()


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)
def test_a_loss_leaves_nothing_to_autodiff(kind):
    loss, target = LOSSES[kind]
    assert left_to_autodiff(loss, floats(4, 3), target) == set()


def scanned(x):
    return jax.lax.scan(lambda c, row: (c + row, jnp.sin(row)), jnp.zeros(3), x)[1]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: fn.ops.tanh(x) * 2, {"mul"}),
        (lambda x: jnp.exp(fn.ops.tanh(x)), {"exp"}),
        (lambda x: jax.jit(lambda y: jnp.sin(fn.ops.tanh(y)))(x), {"sin"}),
        (scanned, {"sin"}),
        (lambda x: jax.checkpoint(jnp.cos)(x), {"cos"}),
        (jax.nn.softplus, {"exp", "log1p"}),  # a custom_jvp
        (lambda x: jnp.where(x > 0, fn.ops.tanh(x), x), {"select_n"}),
        (lambda x: fn.ops.tanh(x.T.reshape(-1)[2:])[None] + x.sum(), {"reduce_sum"}),
    ],
)
def test_the_walk_finds_what_is_outside_a_rule(function, expected):
    assert expected <= left_to_autodiff(function, floats(4, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: fn.ops.tanh(x.T.reshape(-1)[2:])[None].astype(jnp.float16),
        lambda x: x + jax.lax.stop_gradient(jnp.exp(x)),
        lambda x: x + jnp.sin(jnp.arange(3.0))[None],
        lambda x: x + jnp.argmax(x * 2).astype(jnp.float32),
        lambda x: (fn.ops.tanh(x), jnp.exp(x)),  # the second result is a state
        lambda x: x + jax.random.normal(KEY, x.shape),
        jax.jit(fn.ops.tanh),
    ],
)
def test_the_walk_finds_nothing_else(function):
    assert left_to_autodiff(function, floats(4, 3)) == set()
