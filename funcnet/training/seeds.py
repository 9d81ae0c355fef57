"""map_seeds: one training function, many keys, every core or device busy.

The function is compiled once and then run for each key by threads: a running XLA program holds no
Python lock. Each run executes the program a single run would, so its bits are the same; `jax.vmap`
would change the shape of every product, and with it the rounding.
"""

import functools
import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from funcnet.errors import ConfigError, DtypeError, ShapeError


def map_seeds(
    train: Callable[..., Any], keys: Array, *shared: Any, vectorized: bool = False
) -> Any:
    """Call `train(key, *shared)` for each key, and stack what it returns.

    On a CPU the calls run in threads, one per core; with several devices, one per device.

    Args:
        train: a pure function of a key and the shared arguments, to a pytree of arrays.
        keys: (seeds,) typed keys, as from `jax.random.split(key, seeds)`.
        shared: pytrees of arrays that every call gets, such as the data; they are arguments of
            the compiled program, not constants in it.
        vectorized: run the keys in groups, one for each core or device, each with `jax.vmap`.
            Faster for small networks, slower for large ones; rounds differently from single runs.

    Returns:
        What `train` returns, with a leading axis (seeds,) on every array.

    Raises:
        ConfigError: `train` is not callable.
        DtypeError, ShapeError: `keys` is not a 1-d array of at least one typed key.
    """
    if not callable(train):
        raise ConfigError(f"train is {train!r}, expected a function train(key, *shared)")
    _require_keys(keys)
    if vectorized:
        return _map_groups(_vectorized(train, len(shared)), keys, shared)
    return _map(train, keys, shared)


def _map(train, keys, shared):
    """Call `train` for each key, as many at once as there are cores or devices."""
    programs = _compiled(train, keys[0], shared)
    free = queue.SimpleQueue()
    for program in programs:
        free.put(program)

    def run(key):
        program = free.get()
        try:
            return jax.block_until_ready(program(key))
        finally:
            free.put(program)

    with ThreadPoolExecutor(len(programs)) as pool:
        results = list(pool.map(run, keys))
    home = jax.local_devices()[0]
    return jax.tree.map(lambda *leaves: jnp.stack(jax.device_put(leaves, home)), *results)


def _map_groups(train, keys, shared):
    """Call `train` for equal groups of keys, one for each core or device; the last is filled up."""
    groups = min(len(keys), len(_places()))
    size = -(-len(keys) // groups)
    grouped = keys[jnp.arange(groups * size) % len(keys)].reshape(groups, size)
    results = _map(train, grouped, shared)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(keys)], results)


# A function of its own for each call would be compiled on each call.
@functools.lru_cache(maxsize=16)
def _vectorized(train, shared):
    return jax.vmap(train, in_axes=(0, *(None,) * shared))


def _compiled(train, key, shared):
    """One callable of a key for each run that can go on at once."""
    jitted = jax.jit(train)

    @functools.cache
    def on(device):
        placed = jax.device_put(shared, device)
        program = jitted.lower(jax.device_put(key, device), *placed).compile()
        return lambda key: program(jax.device_put(key, device), *placed)

    return [on(device) for device in _places()]


def _places() -> list[Any]:
    """The device of each run that can go on at once: a CPU stands once for each of its cores."""
    devices = jax.local_devices()
    if len(devices) == 1 and devices[0].platform == "cpu":
        return devices * cores()
    return devices


def cores() -> int:
    """The cores this process may use; in a container, fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _require_keys(keys):
    dtype = getattr(keys, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        what = type(keys).__name__ if dtype is None else f"{dtype}{list(keys.shape)}"
        raise DtypeError(
            f"keys is {what}, expected typed keys; make them with jax.random.split(key, seeds)"
        )
    if isinstance(keys, Tracer):
        raise DtypeError(
            "keys are traced: map_seeds runs on the host and cannot be jitted or mapped; use "
            "jax.vmap(train), which can"
        )
    if keys.ndim != 1 or not len(keys):
        raise ShapeError(
            f"keys has shape {keys.shape}, expected (seeds,), at least one; make them with "
            f"jax.random.split(key, seeds)"
        )
