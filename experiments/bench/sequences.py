"""Attention, recurrence and a GPT's step, beside PyTorch and jax.grad of obvious code.

`measure` starts a process that is pinned to one core, in which every candidate must compute the
same, and is timed in turns, in processor time: what other cores or processes do does not count.
A second process does so on all cores, in wall time; others tell how much memory a GPT needs.
"""

import dataclasses
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcnet as fn
from experiments.bench.measure import DifferentError, in_fresh_process, own_peak
from experiments.gpt import GPT

TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        title: with its sizes.
        ours: does it once; returns what to compare.
        obvious: by jax.grad of the code one would write without rules.
        torch: in eager PyTorch.
        compiled: by torch.compile.
        memory: MiB that XLA sets aside, ours and that of the obvious code; None where not asked.
        check: raises DifferentError where they compute something else, if `ours` cannot tell.
    """

    title: str
    ours: Callable[[], Sequence[Any]]
    obvious: Callable[[], Sequence[Any]]
    torch: Callable[[], Any]
    compiled: Callable[[], Any] | None
    memory: tuple[float, float] | None
    check: Callable[[], None] = lambda: None

    def calls(self) -> dict[str, Callable[[], Any]]:
        """What is timed, by name."""
        calls = {"ours": self.ours, "obvious": self.obvious, "torch": self.torch}
        return calls if self.compiled is None else calls | {"torch.compile": self.compiled}


def measure(rounds: int, tiny: bool) -> list[dict[str, Any]]:
    """Time every case, and tell the memory of the last one.

    Args:
        rounds: how often each candidate is timed.
        tiny: small sizes: whether it works, not how fast it is.

    Returns:
        For each its title, the seconds of each round by candidate, of one core and of all, and the
        MiB XLA sets aside; for the last "peaks", bytes by candidate. Of nothing, with a sentence,
        where PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        print("sequences are left out: pip install 'funcnet[torch]'", file=sys.stderr)
        return []
    found = in_fresh_process("sequences", "one", rounds, int(tiny))
    for case, other in zip(
        found, in_fresh_process("sequences", "all", rounds, int(tiny)), strict=True
    ):
        case["wall"] = other["seconds"]
    found[-1]["peaks"] = {
        name: in_fresh_process("sequences", name, 1, int(tiny)) for name in found[-1]["seconds"]
    }
    return found


def main() -> None:
    """Measure in this process what its arguments say; print it as the last line."""
    what, rounds, tiny = sys.argv[1], int(sys.argv[2]), bool(int(sys.argv[3]))
    if what == "one" and hasattr(os, "sched_setaffinity"):  # before XLA counts them
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if what in ("one", "all"):
        clock = time.process_time if what == "one" else time.perf_counter
        print(json.dumps([_measured(case, rounds, clock) for case in cases(tiny)]))
    else:
        print(json.dumps(_peak(gpt(*_gpts(tiny)[-1]), what)))


def cases(tiny: bool) -> Iterator[Case]:
    """Those at which the kernels were built, or small ones."""
    heads = [(2, 2, 8, 4)] if tiny else [(8, 6, 256, 64), (2, 6, 1024, 64)]
    for sizes in heads:
        yield attention(*sizes)
    for kind in ("lstm", "gru"):
        yield recurrent(kind, *((2, 5, 3, 4) if tiny else (64, 128, 128, 256)))
    for sizes in _gpts(tiny):
        yield gpt(*sizes)


def _gpts(tiny: bool) -> list[tuple[int, int, int, int, int]]:
    """Blocks, width, heads, context and batch."""
    return [(1, 8, 2, 8, 2)] if tiny else [(4, 128, 4, 128, 8), (6, 384, 6, 256, 12)]


def attention(batch: int, heads: int, steps: int, features: int) -> Case:
    """Causal attention, forward and backward."""
    import torch

    shape = (batch, heads, steps, features)
    *qkv, g = jax.random.normal(jax.random.key(0), (4, *shape))

    def obvious(q, k, v):
        scores = q @ jnp.swapaxes(k, -1, -2) / math.sqrt(features)
        seen = jnp.tril(jnp.ones((steps, steps), bool))[None, None]
        return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ v

    def ours(q, k, v):
        return fn.ops.scaled_dot_product_attention(q, k, v, is_causal=True)

    theirs = [torch.tensor(np.array(a), requires_grad=True) for a in qkv]
    function = torch.nn.functional.scaled_dot_product_attention
    title = f"attention {shape}, causal"
    return _differentiated(
        title, ours, obvious, qkv, g, lambda q, k, v: function(q, k, v, is_causal=True), theirs
    )


def recurrent(kind: str, batch: int, steps: int, inputs: int, hidden: int) -> Case:
    """A layer of an LSTM or GRU, forward and backward."""
    import torch

    layer = {"lstm": fn.LSTM, "gru": fn.GRU}[kind](inputs, hidden)
    params, state = layer.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (batch, steps, inputs))
    g = jax.random.normal(jax.random.key(2), (batch, steps, hidden))

    def ours(params, x):
        return layer.apply(params, state, x).value

    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](inputs, hidden, batch_first=True)
    arrays = fn.interop.state_dict(params)
    module.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
    title = f"{kind} {tuple(jnp.shape(x))} to {hidden}"
    # Without its rule ours is the scan one would write.
    erased = fn.without_rules(ours)
    leaves = [module.get_parameter(name) for name in arrays]  # in the order of our params
    leaves.append(torch.tensor(np.array(x), requires_grad=True))
    return _differentiated(
        title, ours, erased, (params, x), g, lambda *given: module(given[-1])[0], leaves, False
    )


def gpt(layers: int, width: int, heads: int, context: int, batch: int) -> Case:
    """A whole step of a GPT with AdamW."""
    import torch

    from experiments.gpt_torch import TorchGPT

    model = GPT(76, context, width, heads, layers)
    trainer = fn.Trainer(model, fn.CrossEntropyLoss(), optax.adamw(1e-3), batch_size=batch)
    run = trainer.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (batch, context + 1), 0, 76)
    x, y = tokens[:, :-1], tokens[:, 1:]

    def loss(params):
        return trainer.loss(model.apply(params, run.state, x, train=True).value, y)

    @jax.jit
    def obvious(params, opt_state):
        found, gradient = jax.value_and_grad(fn.without_rules(loss))(params)
        updates, opt_state = trainer.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, found

    network = TorchGPT(model)
    arrays = fn.interop.state_dict(run.params)
    network.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
    seen, wanted = (torch.from_numpy(np.array(a)).long() for a in (x, y))

    def stepping(forward):
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-4)

        def step():
            logits = forward(seen)
            found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
            network.zero_grad()
            found.backward()
            optimizer.step()
            return found.item()

        return step

    title = f"a step of a GPT, {layers} blocks of {width}, {batch} x {context}"
    eager, compiled = stepping(network), stepping(torch.compile(network))

    def check():  # before it has learned
        _require_same(title, "torch", [eager()], [loss(run.params)])

    return Case(
        title,
        lambda: jax.block_until_ready(trainer.step(run, (x, y)))[1:],
        lambda: jax.block_until_ready(obvious(run.params, run.opt_state))[2:],
        lambda: [eager()][:0],
        lambda: [compiled()][:0],
        None,
        check,
    )


def _differentiated(
    title: str,
    ours: Callable[..., Any],
    obvious: Callable[..., Any],
    arguments: Any,
    g: Any,
    forward: Callable[..., Any],
    leaves: list[Any],
    compiles: bool = True,
) -> Case:
    """The case of a function's value and cotangents, for the cotangent g of its value."""
    import torch

    def both(function):
        def passes(arguments, g):
            y, pull_back = jax.vjp(function, *arguments)
            y, g = jax.lax.optimization_barrier((y, g))
            return y, pull_back(g)

        compiled = jax.jit(passes).lower(tuple(arguments), g).compile()
        analysis: Any = compiled.memory_analysis()

        def call():
            return jax.tree.leaves(jax.block_until_ready(compiled(tuple(arguments), g)))

        return call, analysis.temp_size_in_bytes / 2**20

    def theirs(forward):
        cotangent = torch.from_numpy(np.array(g))

        def passes():
            for leaf in leaves:
                leaf.grad = None
            y = forward(*leaves)
            y.backward(cotangent)
            return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]

        return passes

    (by_rule, memory), (by_autodiff, more) = both(ours), both(obvious)
    compiled = theirs(torch.compile(forward)) if compiles else None
    return Case(title, by_rule, by_autodiff, theirs(forward), compiled, (memory, more))


def _measured(case: Case, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    print(case.title, file=sys.stderr, flush=True)
    case.check()
    calls = case.calls()
    outputs = {name: call() for name, call in calls.items()}  # compiles
    for name, found in outputs.items():
        _require_same(case.title, name, found, outputs["ours"])
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {"title": case.title, "seconds": seconds, "memory": case.memory}


def _peak(case: Case, name: str) -> int:
    """The largest resident memory of this process, bytes, after some steps of one candidate.

    Both libraries and both models are in it, whoever steps.
    """
    for _ in range(3):
        case.calls()[name]()
    return own_peak()


def _require_same(title: str, name: str, found: Sequence[Any], ours: Sequence[Any]) -> None:
    """Each array to TOLERANCE of its largest entry; what was compared elsewhere gives none."""
    for a, b in zip(found, ours, strict=False):
        a, b = np.array(a), np.array(b)
        if not abs(a - b).max() <= TOLERANCE * abs(b).max():
            raise DifferentError(f"{title}: {name} computes something else")
