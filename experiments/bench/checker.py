"""How long `check_vjp` takes: every rule of the kill table, special functions, whole layers.

In processor time, with JAX's caches empty before each; beside it `jax.test_util.check_grads` of the
same function, order 2, reverse mode.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as special

from experiments.kill_table.judges import by_check_grads, by_check_vjp
from experiments.kill_table.right_rules import RIGHT
from experiments.kill_table.rule import Rule, arrays
from experiments.kill_table.wrong_rules import WRONG
from funcnet import ops


def measure(tiny: bool) -> list[dict[str, Any]]:
    """Time every rule that one device is enough for.

    Args:
        tiny: two of them are enough.

    Returns:
        For each its title and the processor seconds of `check_vjp`, of `fast=True`, and of
        `check_grads`.
    """
    rules = [rule for rule in (*RIGHT, *_more(), *WRONG) if not rule.options.get("sharding")]
    return [
        {"title": rule.name} | {name: _seconds(call) for name, call in _calls(rule)}
        for rule in (rules[:2] if tiny else rules)
    ]


def _more() -> Iterator[Rule]:
    slow = "It takes long to compile."
    for name, (f, slope) in SPECIAL.items():
        ruled = jax.custom_vjp(f)
        ruled.defvjp(lambda x, f=f: (f(x), x), lambda x, g, slope=slope: (g * slope(x),))
        yield Rule(name, ruled, arrays("n", scale=0.3, offset=1.5), slow)
    heads = arrays("2 n 4", "2 6 4", "2 6 4")
    yield Rule("scaled_dot_product_attention", ops.scaled_dot_product_attention, heads, slow)
    layer = arrays("2 n 3", "2 4", "2 4", "16 3", "16 4", "16", "16")
    yield Rule("lstm", ops.lstm, layer, slow)


SPECIAL: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "gammaln": (special.gammaln, special.digamma),
    "digamma": (special.digamma, lambda x: special.polygamma(1, x)),
    "i0e": (special.i0e, lambda x: special.i1e(x) - jnp.sign(x) * special.i0e(x)),
    "gammainc": (
        lambda x: special.gammainc(2.5, x),
        lambda x: jnp.exp(1.5 * jnp.log(x) - x - special.gammaln(2.5)),
    ),
}


def _calls(rule: Rule) -> Iterator[tuple[str, Callable[[], Any]]]:
    fast = dataclasses.replace(rule, options={**rule.options, "fast": True})
    yield "full", lambda: by_check_vjp(rule)
    yield "fast", lambda: by_check_vjp(fast)
    yield "check_grads", lambda: by_check_grads(rule, order=2, x64=False, modes=["rev"])


def _seconds(call: Callable[[], Any]) -> float:
    jax.clear_caches()
    start = time.process_time()
    call()
    return time.process_time() - start
