"""debugging: JAX's checks that cost time, and a count of what was traced and compiled.

A divergence needs no such mode: `DivergenceError` names the step and the layer in any case.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax

# JAX times these, so that listening to the times counts them.
_TRACED = "/jax/core/compile/jaxpr_trace_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Debugging:
    """What was seen within `debugging`; printing it gives a table.

    Attributes:
        traced: how many times each function was traced, by its name.
        compiled: how many times each program was compiled, or read from the compilation cache.
    """

    def __init__(self):
        self.traced: Counter[str] = Counter()
        self.compiled: Counter[str] = Counter()

    def _listen(self, event: str, duration_secs: float, **about: Any) -> None:
        count = {_TRACED: self.traced, _COMPILED: self.compiled}.get(event)
        if count is not None:
            count[str(about.get("fun_name")).removeprefix("jit(").removesuffix(")")] += 1

    def __str__(self) -> str:
        rows = [f"{'traced':>6}  {'compiled':>8}  function"]
        for name, _ in (self.traced + self.compiled).most_common():
            rows.append(f"{self.traced[name]:6}  {self.compiled[name]:8}  {name}")
        return "\n".join(rows)


@contextlib.contextmanager
def debugging() -> Iterator[Debugging]:
    """Check for keys used twice, and count traces and compilations, within a block.

    A key that a layer draws from twice raises `jax.errors.KeyReuseError`, a TypeError. A function
    that is traced again and again is given something new each time: a fresh optimizer object, or
    arrays of other shapes. What was compiled before the block is compiled again.

    Yields:
        A `Debugging`, filled as the block runs.
    """
    seen = Debugging()
    jax.monitoring.register_event_duration_secs_listener(seen._listen)
    try:
        with jax.debug_key_reuse(True):
            yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(seen._listen)
