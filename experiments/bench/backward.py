"""Each backward pass alone: the rule against autodiff of the same function without its rule."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn
from experiments.bench.measure import Candidate, DifferentError, interleave, size_for
from experiments.bench.workloads import Network

CALLS = 20
"""Backward passes in one program, each on arrays of its own, so that calling it costs little."""

SECONDS = 0.1
TOLERANCE = 1e-4


class Case(NamedTuple):
    """An operation on arguments of some shape."""

    title: str
    op: Any
    """A `jax.custom_vjp`; the same without its rule is its `__wrapped__`."""
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
        params = network.trainer().init(jax.random.key(0)).params
        data = network.data()
        x, y = (jnp.asarray(a[: network.batch_size]) for a in data)
        kept = {
            name: residual_bytes(_forward(rule, x, y), (params,), (x, y)) / len(x)
            for name, rule in {"rule": True, "autodiff": False}.items()
        }
        found.append({"title": network.title, "bytes": kept})
    return found


def _forward(rule: bool, x: jax.Array, y: jax.Array) -> Callable[[Any], jax.Array]:
    """The loss of a network as a function of its parameters, with rules or without."""
    ops: list[Any] = [fn.ops.linear, fn.ops.relu, fn.ops.cross_entropy]
    linear, relu, cross_entropy = ops if rule else [op.__wrapped__ for op in ops]

    def loss(params):
        layers = [layer for layer in params if layer]
        h = x
        for i, layer in enumerate(layers):
            h = linear(h, layer["weight"], layer["bias"])
            h = relu(h) if i < len(layers) - 1 else h
        return cross_entropy(h, y)

    return loss


def _measured(case: Case, rounds: int, hurry: float) -> dict[str, Any]:
    functions = {
        name: lambda *arguments, op=op: op(*arguments, *case.constants)
        for name, op in {"rule": case.op, "autodiff": case.op.__wrapped__}.items()
    }
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
