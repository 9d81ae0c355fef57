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
import numpy as np
from jax.core import Tracer

from funcnet.errors import ConfigError, DtypeError, ShapeError


def map_seeds(train: Callable[..., Any], keys: Any, *shared: Any, vectorized: bool = False) -> Any:
    """Call `train(key, *shared)` for each key, and stack what it returns.

    What differs from run to run besides the key, such as the learning rate, goes with the keys:
    `map_seeds(train, (keys, rates))` calls `train((key, rate))` for each pair, one program for all.

    On a CPU the calls run in threads, one per core; with several devices, one per device.

    Args:
        train: a pure function of a key and the shared arguments, to a pytree of arrays.
        keys: (seeds,) typed keys, as from `jax.random.split(key, seeds)`; or a pytree of arrays,
            (seeds, ...) each, such keys among them, of which `train` gets one entry of each.
        shared: pytrees of arrays that every call gets, such as the data; they are arguments of
            the compiled program, not constants in it.
        vectorized: run the keys in groups, one for each core or device, each with `jax.vmap`.
            Faster for small networks, slower for large ones; rounds differently from single runs.

    Returns:
        What `train` returns, with a leading axis (seeds,) on every array.

    Raises:
        ConfigError: `train` is not callable.
        DtypeError, ShapeError: `keys` is not a 1-d array of at least one typed key, nor a tree that
            holds one and other arrays of as many entries.
    """
    if not callable(train):
        raise ConfigError(f"train is {train!r}, expected a function train(key, *shared)")
    keys = _checked_keys(keys)
    if vectorized:
        return _map_groups(_vectorized(train, len(shared)), keys, shared)
    return _map(train, keys, shared)


def _map(train, keys, shared):
    """Call `train` for each key, as many at once as there are cores or devices."""
    each = [jax.tree.map(lambda a, i=i: a[i], keys) for i in range(_count(keys))]
    programs = _compiled(train, each[0], shared)
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
        results = list(pool.map(run, each))
    home = jax.local_devices()[0]
    return jax.tree.map(lambda *leaves: jnp.stack(jax.device_put(leaves, home)), *results)


def _map_groups(train, keys, shared):
    """Call `train` for equal groups of keys, one for each core or device; the last is filled up."""
    seeds = _count(keys)
    groups = min(seeds, len(_places()))
    size = -(-seeds // groups)
    taken = jnp.arange(groups * size) % seeds
    grouped = jax.tree.map(lambda a: a[taken].reshape(groups, size, *a.shape[1:]), keys)
    results = _map(train, grouped, shared)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:seeds], results)


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


def _count(keys: Any) -> int:
    return len(jax.tree.leaves(keys)[0])


def _checked_keys(keys: Any) -> Any:
    """The keys, and the arrays that go with them."""
    leaves, structure = jax.tree.flatten(keys)
    if jax.tree_util.all_leaves([keys]):
        _require_keys(keys)
        return keys
    found = [leaf for leaf in leaves if _are_keys(leaf)]
    if not found:
        raise DtypeError(
            f"keys is {type(keys).__name__} {jax.tree.map(_outline, keys)}, expected typed keys, "
            f"or a tree with such keys in it; make them with jax.random.split(key, seeds)"
        )
    _require_keys(found[0])
    for leaf in leaves:
        if np.ndim(leaf) == 0 or len(leaf) != len(found[0]):
            raise ShapeError(
                f"keys is {jax.tree.map(_outline, keys)}, expected arrays with one first axis, an "
                f"entry for each run; what all runs share goes behind: map_seeds(train, keys, "
                f"shared)"
            )
    return structure.unflatten([jnp.asarray(leaf) for leaf in leaves])


def _outline(leaf: Any) -> str:
    dtype = getattr(leaf, "dtype", None)
    return type(leaf).__name__ if dtype is None else f"{dtype}{list(leaf.shape)}"


def _are_keys(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _require_keys(keys):
    if not _are_keys(keys):
        dtype = getattr(keys, "dtype", None)
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
