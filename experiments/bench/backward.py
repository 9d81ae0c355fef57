"""Each backward pass alone: the rule against autodiff of the same function without its rule."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn
from experiments.bench.measure import Candidate, DifferentError, interleave, size_for
from experiments.bench.workloads import Network
from funcnet.testing import twin

CALLS = 20
"""Backward passes in one program, each on arrays of its own, so that calling it costs little."""

SECONDS = 0.1
TOLERANCE = 1e-4


class Case(NamedTuple):
    """An operation on arguments of some shape."""

    title: str
    op: Callable[..., Any]
    """Holds a rule; returns one array."""
    arguments: tuple[jax.Array, ...]
    """Those that are differentiated."""
    constants: tuple[Any, ...] = ()
    """Those after them."""


def measure(networks: list[Network], rounds: int, hurry: float) -> list[dict[str, Any]]:
    """Time and weigh every operation at the sizes of each network.

    Args:
        networks: where the sizes come from: the second layer, and the loss.
        rounds: how often each is timed.
        hurry: every timing is made shorter by this factor.

    Returns:
        What bench.json holds: of each operation the seconds of a backward pass for each round, the
        bytes it needs kept beside its arguments and its result, and those XLA sets aside for the
        forward and the backward pass together.
    """
    return [_measured(case, rounds, hurry) for network in networks for case in cases(network)]


def cases(network: Network) -> Iterator[Case]:
    """Every operation at the sizes of a network."""
    rows, width, classes = network.batch_size, network.sizes[1], network.sizes[-1]

    def draw(*shape):
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), len(shape)), shape)

    x, logits = draw(rows, width), draw(rows, classes)
    square = f"({rows}, {width})"
    affine = (x, draw(width, width) * width**-0.5, draw(width))
    yield Case(f"linear {square} to {width}", fn.ops.linear, affine)
    yield Case(f"relu {square}", fn.ops.relu, (x,))
    yield Case(f"tanh {square}", fn.ops.tanh, (x,))
    flat = f"({rows}, {classes})"
    yield Case(f"mse_loss {flat}", fn.ops.mse_loss, (logits, logits[::-1]))
    labels = jnp.arange(rows) % classes
    yield Case(f"cross_entropy {flat}", fn.ops.cross_entropy, (logits,), (labels,))
    if classes > 2:  # once is enough
        yield from _beyond_the_paper(square, x, draw)


def _beyond_the_paper(square: str, x: jax.Array, draw: Callable[..., jax.Array]) -> Iterator[Case]:
    """What the networks do not hold, at the sizes of a hidden layer, and of small images."""
    ops = fn.ops
    elementwise = ("sigmoid", "gelu", "silu", "leaky_relu", "elu", "softplus")
    for name in (*elementwise, "softmax", "log_softmax"):
        yield Case(f"{name} {square}", getattr(ops, name), (x,))
    scaled = (x, *draw(2, x.shape[1]))
    yield Case(f"layer_norm {square}", _layer_norm, scaled)
    yield Case(f"rms_norm {square}", lambda x, w: ops.rms_norm(x, x.shape[1:], w), scaled[:2])
    yield Case(f"batch_norm {square}", _batch_norm, scaled)
    yield Case(f"dropout {square}", _dropout, (x,))
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
    yield Case(f"embedding {square}", lambda w: ops.embedding(labels, w), (x,))

    images = draw(len(x), 14, 14, 16)
    sizes = str(images.shape)
    kernel = (draw(32, 16, 3, 3) / 12, draw(32))
    yield Case(f"conv2d {sizes} to 32, 3 x 3", _conv2d, (images, *kernel))
    yield Case(f"max_pool2d {sizes}, 2 x 2", lambda x: ops.max_pool2d(x, 2), (images,))
    yield Case(f"avg_pool2d {sizes}, 2 x 2", lambda x: ops.avg_pool2d(x, 2), (images,))
    yield Case(f"adaptive_avg_pool2d {sizes} to 3 x 3", _adaptive_avg_pool2d, (images,))
    yield Case(f"group_norm {sizes}, 4 groups", lambda x: ops.group_norm(x, 4), (images,))


def _layer_norm(x, weight, bias):
    return fn.ops.layer_norm(x, x.shape[1:], weight, bias)


def _batch_norm(x, weight, bias):
    return fn.ops.batch_norm(x, None, None, weight, bias, training=True)[0]


def _dropout(x):
    return fn.ops.dropout(x, key=jax.random.key(1))


def _adaptive_avg_pool2d(x):
    return fn.ops.adaptive_avg_pool2d(x, 3)


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
    def rule(*arguments):
        return case.op(*arguments, *case.constants)

    functions = {"rule": rule, "autodiff": without_rules(rule, *case.arguments)}
    many = tuple(jnp.stack([a] * CALLS) for a in case.arguments)
    result = jax.eval_shape(functions["rule"], *case.arguments)
    cotangents = jax.random.normal(jax.random.key(9), (CALLS, *result.shape))
    candidates = {}
    for name, f in functions.items():
        kept = jax.vmap(lambda *a, f=f: jax.vjp(f, *a)[1])(*many)

        def repeat(times, kept=kept):
            for _ in range(times):
                jax.block_until_ready(_pull_back(kept, cotangents))

        times = size_for(repeat, SECONDS / hurry)
        candidates[name] = Candidate(
            name, lambda repeat=repeat, times=times: repeat(times), times * CALLS
        )
    _require_same(case, functions, cotangents[0])
    return {
        "title": case.title,
        "seconds": interleave(candidates, rounds, case.title),
        "residual_bytes": {
            name: residual_bytes(f, case.arguments, case.constants) for name, f in functions.items()
        },
        "temporary_bytes": {
            name: _temporary_bytes(f, case.arguments, cotangents[0])
            for name, f in functions.items()
        },
    }


@jax.jit
def _pull_back(kept, cotangents):
    """One backward pass after another, each from residuals of its own."""
    return jax.lax.map(lambda each: each[0](each[1]), (kept, cotangents))


def _require_same(case, functions, cotangent):
    rule, autodiff = (jax.vjp(f, *case.arguments)[1](cotangent) for f in functions.values())
    for got, expected in zip(rule, autodiff, strict=True):
        error = np.abs(got - expected).max() / np.abs(expected).max()
        if not error <= TOLERANCE:
            raise DifferentError(
                f"{case.title}: the rule differs from autodiff by {error:.1e} of the largest entry"
            )


def _temporary_bytes(f, arguments, cotangent):
    """What XLA sets aside, beside arguments and results, for a forward and a backward pass."""

    def forward_and_backward(arguments, cotangent):
        result, pull_back = jax.vjp(f, *arguments)
        return result, pull_back(cotangent)

    compiled = jax.jit(forward_and_backward).lower(arguments, cotangent).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes
