"""Each backward pass, alone and after its forward pass: the rule against autodiff without it.

What is timed is a loop inside one program, as in training, where no call from Python counts.

- Arrays of a step are arguments, those that are not differentiated included: labels that the
  compiler knows would let it compute their part once, and for one of the two only.
- A barrier with the loop's counter keeps it from computing once what every step computes, and one
  between forward and backward pass from merging these: between them lies the rest of a network.
- Every step writes where the last one wrote. Stacked results would be in memory that is fresh at
  every call, whose page faults take longer than most of these passes, and slices of stacked
  arguments would be read by other machine code than whole arrays are.
- Narrow arrays lie features by rows, as the linear layers around them have them (ops/linear.py).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn
from experiments.bench.measure import Candidate, DifferentError, interleave, size_for
from experiments.bench.workloads import Network
from funcnet.ops.kernels.thresholds import NARROW
from funcnet.testing.references import twin

SECONDS = 0.05
TOLERANCE = 1e-4


class Case(NamedTuple):
    """An operation on arguments of some shape."""

    title: str
    op: Callable[..., Any]
    """Holds a rule; returns one array."""
    arguments: tuple[jax.Array, ...]
    """Those that are differentiated."""
    constants: tuple[Any, ...] = ()
    """Those after them: arrays and keys."""
    looped: bool = True
    """Timed inside of a loop, where training happens; else one call after another."""


def measure(networks: list[Network], rounds: int, hurry: float) -> list[dict[str, Any]]:
    """Time and weigh every operation at the sizes of each network.

    Args:
        networks: where the sizes come from: the second layer, and the loss.
        rounds: how often each is timed.
        hurry: every timing is made shorter by this factor.

    Returns:
        What bench.json holds: of each operation for each round the seconds of a backward pass whose
        residuals are given, and those of the forward and the backward pass together; the bytes it
        needs kept beside its arguments and its result, and those XLA sets aside for both passes.
    """
    return [_measured(case, rounds, hurry) for network in networks for case in cases(network)]


def cases(network: Network) -> Iterator[Case]:
    """Every operation at the sizes of a network."""
    rows, width, classes = network.batch_size, network.sizes[1], network.sizes[-1]

    def draw(*shape):
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), len(shape)), shape)

    x, logits = draw(rows, width), draw(rows, classes)
    square, flat = f"({rows}, {width})", f"({rows}, {classes})"
    affine = (x, draw(width, width) * width**-0.5, draw(width))
    labels = jnp.arange(rows) % classes
    linear = Case(f"linear {square} to {width}", fn.ops.linear, affine)
    elementwise = [
        Case(f"{name} {square}", getattr(fn.ops, name), (x,)) for name in ("relu", "tanh")
    ]
    losses = [
        Case(f"mse_loss {flat}", fn.ops.mse_loss, (logits, logits[::-1])),
        Case(f"cross_entropy {flat}", fn.ops.cross_entropy, (logits,), (labels,)),
    ]
    narrow = width <= NARROW
    yield from (_transposed(case) if narrow else case for case in (linear, *elementwise, *losses))
    if classes > 2:  # once is enough
        yield from _beyond_the_paper(square, x, draw)


def _transposed(case: Case) -> Case:
    """The same with the rows of data on the last axis: of x, of the result and of cotangents."""

    def op(*arguments):
        result = case.op(*(a.T if flip else a for a, flip in zip(arguments, flips, strict=True)))
        return result.T

    rows = len(case.arguments[0])
    all_arguments = (*case.arguments, *case.constants)
    flips = [a.ndim == 2 and len(a) == rows for a in all_arguments]
    arguments = tuple(a.T if flip else a for a, flip in zip(case.arguments, flips, strict=False))
    return case._replace(title=f"{case.title}, features first", op=op, arguments=arguments)


def _beyond_the_paper(square: str, x: jax.Array, draw: Callable[..., jax.Array]) -> Iterator[Case]:
    """What the networks do not hold, at the sizes of a hidden layer, and of small images."""
    ops = fn.ops
    yield Case(f"prelu {square}", ops.prelu, (x, draw(x.shape[1])))
    elementwise = ("sigmoid", "gelu", "silu", "leaky_relu", "elu", "softplus")
    for name in (*elementwise, "softmax", "log_softmax"):
        yield Case(f"{name} {square}", getattr(ops, name), (x,))
    scaled = (x, *draw(2, x.shape[1]))
    yield Case(f"layer_norm {square}", _layer_norm, scaled)
    yield Case(f"rms_norm {square}", lambda x, w: ops.rms_norm(x, x.shape[1:], w), scaled[:2])
    yield Case(f"batch_norm {square}", _batch_norm, scaled)
    running = (x.mean(axis=0), x.var(axis=0))
    yield Case(f"batch_norm {square}, in evaluation", _batch_norm_eval, scaled, running)
    yield Case(f"dropout {square}", _dropout, (x,), (jax.random.key(1),))
    for name in ("l1_loss", "smooth_l1_loss", "huber_loss"):
        yield Case(f"{name} {square}", getattr(ops, name), (x, x[::-1]))
    yield Case(
        f"binary_cross_entropy_with_logits {square}",
        ops.binary_cross_entropy_with_logits,
        (x,),
        (jax.nn.sigmoid(x[::-1]),),
    )
    log_p = jax.nn.log_softmax(x)
    yield Case(f"kl_div {square}", ops.kl_div, (log_p,), (jax.nn.softmax(x[::-1]),))
    labels = jnp.arange(len(x)) % x.shape[1]
    yield Case(f"nll_loss {square}", ops.nll_loss, (log_p,), (labels,))
    yield Case(f"embedding {square}", lambda w, i: ops.embedding(i, w), (x,), (labels,))
    yield from _of_sequences(len(x), draw)
    yield from _of_images(draw(len(x), 14, 14, 16), (draw(32, 16, 3, 3) / 12, draw(32)))


def _of_sequences(rows: int, draw: Callable[..., jax.Array]) -> Iterator[Case]:
    """A batch of rows of T steps: heads that attend to one another, and recurrent layers."""
    ops, heads = fn.ops, draw(rows, 4, 32, 16)
    sizes = str(heads.shape)
    qkv = heads, heads[::-1], heads[:, ::-1]
    yield Case(f"scaled_dot_product_attention {sizes}, causal", _causal_attention, qkv)
    yield Case(f"rotary_embedding {sizes}", ops.rotary_embedding, qkv[:1], (jnp.arange(32),))
    x = draw(rows, 32, 64)
    for name, gates in (("rnn", 1), ("lstm", 4), ("gru", 3)):
        carry = [jnp.zeros((rows, 64))] * (2 if name == "lstm" else 1)
        weights = [draw(gates * 64, 64) / 8, draw(64 * gates, 64)[::-1] / 8, *draw(2, gates * 64)]
        op = functools.partial(_outputs_of, getattr(ops, name))
        yield Case(f"{name} {x.shape} to 64", op, (x, *carry, *weights))


def _outputs_of(recurrent: Callable[..., Any], *arguments: jax.Array) -> jax.Array:
    return recurrent(*arguments)[0]


def _causal_attention(q, k, v):
    return fn.ops.scaled_dot_product_attention(q, k, v, is_causal=True)


def _of_images(images: jax.Array, kernel: tuple[jax.Array, jax.Array]) -> Iterator[Case]:
    ops, sizes = fn.ops, str(images.shape)
    conv2d = Case(f"conv2d {sizes} to 32, 3 x 3", _conv2d, (images, *kernel))
    yield conv2d
    # Autodiff's convolutions are slow in loops alone (ops/conv.py), so both are told.
    yield conv2d._replace(title=f"{conv2d.title}, not in a loop", looped=False)
    weight, bias = kernel
    rows = images.reshape(len(images), -1, images.shape[-1])
    yield Case(f"conv1d {rows.shape} to 32, 3", _conv1d, (rows, weight[:, :, 0], bias))
    back = weight.swapaxes(0, 1)  # of as many channels as the images have, to as many as it makes
    yield Case(f"conv_transpose2d {sizes} to 32, 3 x 3, stride 2", _grown, (images, back, bias))
    yield Case(f"conv_transpose1d {rows.shape} to 32, 3", _grown_row, (rows, back[:, :, 0], bias))
    yield Case(f"interpolate {sizes}, twice", lambda x: ops.interpolate(x, None, 2), (images,))
    yield Case(f"max_pool2d {sizes}, 2 x 2", lambda x: ops.max_pool2d(x, 2), (images,))
    yield Case(
        f"max_pool2d {sizes}, 3 x 3, stride 2",
        lambda x: ops.max_pool2d(x, 3, stride=2, padding=1),
        (images,),
    )
    yield Case(f"avg_pool2d {sizes}, 2 x 2", lambda x: ops.avg_pool2d(x, 2), (images,))
    yield Case(f"adaptive_avg_pool2d {sizes} to 3 x 3", _adaptive_avg_pool2d, (images,))
    yield Case(f"group_norm {sizes}, 4 groups", lambda x: ops.group_norm(x, 4), (images,))


def _layer_norm(x, weight, bias):
    return fn.ops.layer_norm(x, x.shape[1:], weight, bias)


def _batch_norm(x, weight, bias):
    return fn.ops.batch_norm(x, None, None, weight, bias, training=True)[0]


def _batch_norm_eval(x, weight, bias, mean, var):
    return fn.ops.batch_norm(x, mean, var, weight, bias)[0]


def _dropout(x, key):
    return fn.ops.dropout(x, key=key)


def _adaptive_avg_pool2d(x):
    return fn.ops.adaptive_avg_pool2d(x, 3)


def _conv1d(x, weight, bias):
    return fn.ops.conv1d(x, weight, bias, padding=1)


def _grown(x, weight, bias):
    return fn.ops.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)


def _grown_row(x, weight, bias):
    return fn.ops.conv_transpose1d(x, weight, bias, stride=2, padding=1, output_padding=1)


def _conv2d(x, weight, bias):
    return fn.ops.conv2d(x, weight, bias, padding=1)


def without_rules(f: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The same function with every rule in it erased, so that its derivative is autodiff's."""
    erased = twin.as_function(twin.erase_rules(jax.make_jaxpr(f)(*arguments)))
    return lambda *arguments: erased(*jax.tree.leaves(arguments))[0]


def residual_bytes(f: Callable[..., Any], arguments: tuple[Any, ...], known: Any = ()) -> int:
    """Bytes that differentiating f keeps until the backward pass, beside what is there anyway.

    Args:
        f: of the arguments.
        arguments: all are differentiated.
        known: arrays that stay in memory whatever f keeps, as do the arguments and the result.

    Returns:
        The size of the distinct arrays kept. One that is the transpose of another, as autodiff
        keeps of a weight, counts nothing: XLA makes no copy of it.
    """
    result, pull_back = jax.vjp(f, *arguments)
    there = [np.asarray(leaf) for leaf in jax.tree.leaves((arguments, known, result))]
    total = 0
    for leaf in jax.tree.leaves(pull_back):
        array = np.asarray(leaf)
        if not any(np.array_equal(array, a) or np.array_equal(array, a.T) for a in there):
            there.append(array)
            total += array.nbytes
    return total


def networks_bytes(networks: list[Network]) -> list[dict[str, Any]]:
    """The residuals of whole networks, in bytes per example: rules and autodiff.

    Every array counts that is neither a parameter nor part of the batch.
    """
    found = []
    for network in networks:
        trainer = network.trainer()
        run = trainer.init(jax.random.key(0))
        x, y = (jnp.asarray(a[: network.batch_size]) for a in network.data())

        def loss(params, trainer=trainer, state=run.state, x=x, y=y):
            return trainer.loss(trainer.model.apply(params, state, x)[0], y)

        kept = {
            name: residual_bytes(f, (run.params,), (x, y)) / len(x)
            for name, f in {"rule": loss, "autodiff": without_rules(loss, run.params)}.items()
        }
        found.append({"title": network.title, "bytes": kept})
    return found


def _measured(case: Case, rounds: int, hurry: float) -> dict[str, Any]:
    rule = case.op
    functions = {"rule": rule, "autodiff": without_rules(rule, *case.arguments, *case.constants)}
    result = jax.eval_shape(rule, *case.arguments, *case.constants)
    cotangent = jax.random.normal(jax.random.key(9), result.shape)
    _require_same(case, functions, cotangent)
    given = (case.arguments, case.constants, cotangent)
    alone, both, kept, aside = {}, {}, {}, {}
    for name, f in functions.items():
        pull_back = jax.jit(lambda a, c, f=f: jax.vjp(lambda *a: f(*a, *c), *a)[1])(*given[:2])
        passes = _forward_and_backward(f)
        alone[name] = _candidate(name, lambda pull, g: pull(g), (pull_back, cotangent), case, hurry)
        both[name] = _candidate(name, passes, given, case, hurry)
        kept[name] = residual_bytes(
            lambda *a, f=f: f(*a, *case.constants), case.arguments, _arrays(case.constants)
        )
        aside[name] = _temporary_bytes(passes, given)
    return {
        "title": case.title,
        "seconds": interleave(alone, rounds, case.title),
        "seconds_of_both": interleave(both, rounds, case.title),
        "residual_bytes": kept,
        "temporary_bytes": aside,
    }


def _candidate(name, f, given, case, hurry):
    repeat = _repeated(f, given, case.looped)
    times = size_for(repeat, SECONDS / hurry)
    return Candidate(name, lambda: repeat(times), times)


def _repeated(f, given, looped) -> Callable[[int], object]:
    """Computes f(*given) so many times, in one program if it is looped."""
    if not looped:
        once = jax.jit(f)
        return lambda times: [jax.block_until_ready(once(*given)) for _ in range(times)]

    @jax.jit
    def program(times, given):
        def step(i, _):
            given_now, _ = jax.lax.optimization_barrier((given, i))
            return f(*given_now)

        results = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(f, *given))
        return jax.lax.fori_loop(0, times, step, results)

    return lambda times: jax.block_until_ready(program(times, given))


def _forward_and_backward(f):
    def passes(arguments, constants, cotangent):
        result, pull_back = jax.vjp(lambda *a: f(*a, *constants), *arguments)
        result, cotangent = jax.lax.optimization_barrier((result, cotangent))
        return result, pull_back(cotangent)

    return passes


def _arrays(constants):
    return [c for c in constants if not jnp.issubdtype(c.dtype, jax.dtypes.prng_key)]


def _require_same(case, functions, cotangent):
    rule, autodiff = (
        jax.jit(_forward_and_backward(f))(case.arguments, case.constants, cotangent)[1]
        for f in functions.values()
    )
    for got, expected in zip(rule, autodiff, strict=True):
        error = np.abs(got - expected).max() / np.abs(expected).max()
        if not error <= TOLERANCE:
            raise DifferentError(
                f"{case.title}: the rule differs from autodiff by {error:.1e} of the largest entry"
            )


def _temporary_bytes(passes, given):
    """What XLA sets aside, beside arguments and results, for a forward and a backward pass."""
    analysis: Any = jax.jit(passes).lower(*given).compile().memory_analysis()
    return analysis.temp_size_in_bytes
