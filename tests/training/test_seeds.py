"""Many seeds are many single runs: the same bits, one compilation, every core or device."""

import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.core import Tracer

import funcnet as fn
from funcnet.training import seeds
from tests.same_bits import as_numpy, assert_same_bits

KEYS = jax.random.split(jax.random.key(0), 5)
X = jnp.linspace(-1, 1, 22).reshape(11, 2)
LABELS = jnp.arange(11) % 3
TRAINER = fn.Trainer(fn.Linear(2, 3), fn.CrossEntropyLoss(), optax.sgd(0.5), batch_size=4)


def train(key, data):
    run, history = TRAINER.run(TRAINER.init(key), data, 5)
    return run, history["loss"]


def single(i):
    return jax.jit(train)(KEYS[i], (X, LABELS))


def test_each_seed_has_the_bits_of_a_single_run():
    runs = fn.map_seeds(train, KEYS, (X, LABELS))
    assert runs[1].shape == (5, 5)
    for i in range(5):
        assert_same_bits(
            jax.tree.map(lambda leaf, i=i: as_numpy(leaf[i]), runs),
            jax.tree.map(as_numpy, single(i)),
        )


@pytest.mark.few(3)
@pytest.mark.parametrize("seeds", [5, 1, 2])
def test_vectorized_is_close(seeds):
    together = fn.map_seeds(train, KEYS[:seeds], (X, LABELS), vectorized=True)
    assert together[1].shape == (seeds, 5)
    for i in range(seeds):
        np.testing.assert_allclose(together[1][i], single(i)[1], rtol=1e-5)


@pytest.mark.parametrize("vectorized", [True, False])
def test_the_function_is_traced_once(vectorized):
    traces = []

    def traced(key, shared):
        traces.append(threading.get_ident())
        return jax.random.normal(key) + shared["x"]

    found = fn.map_seeds(traced, KEYS, {"x": 1.0}, vectorized=vectorized)
    assert len(traces) == 1
    fn.map_seeds(traced, KEYS, {"x": 2.0}, vectorized=vectorized)
    assert len(traces) == 1
    np.testing.assert_allclose(found, 1 + jax.vmap(jax.random.normal)(KEYS), rtol=1e-6)


def test_shared_arrays_are_arguments_not_constants():
    big = jnp.arange(10_000.0)
    programs = []

    def total(key, shared):
        # Were it a constant, it would be a concrete array here.
        programs.append(isinstance(shared, Tracer))
        return shared.sum()

    np.testing.assert_array_equal(fn.map_seeds(total, KEYS, big), [49_995_000.0] * 5)
    assert programs == [True]


def test_results_keep_their_order_when_later_runs_end_first(monkeypatch):
    monkeypatch.setattr(seeds, "cores", lambda: 4)

    def slow_first(key, steps):
        step = steps[jax.random.bits(key) % 2]
        return jax.random.key_data(key), jax.lax.fori_loop(0, step, lambda i, a: a + i, 0)

    data, _ = fn.map_seeds(slow_first, KEYS, jnp.array([10, 300_000]))
    np.testing.assert_array_equal(data, jax.random.key_data(KEYS))


def test_one_core_is_enough(monkeypatch):
    monkeypatch.setattr(seeds, "cores", lambda: 1)
    found = fn.map_seeds(jax.random.normal, KEYS)
    np.testing.assert_array_equal(found, jax.lax.map(jax.random.normal, KEYS))


def test_any_pytree_comes_back_stacked():
    def everything(key):
        return {"key": key, "none": None, "pair": (jnp.ones(2, jnp.bfloat16), 3)}

    found = fn.map_seeds(everything, KEYS)
    assert_same_bits(found["key"], KEYS)
    assert found["none"] is None
    assert (found["pair"][0].shape, found["pair"][0].dtype) == ((5, 2), jnp.bfloat16)
    np.testing.assert_array_equal(found["pair"][1], [3] * 5)


def test_an_error_inside_the_function_is_the_callers():
    def wrong(key):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fn.map_seeds(wrong, KEYS)


@pytest.mark.slow
def test_several_devices_share_the_seeds_with_the_bits_of_one():
    program = textwrap.dedent("""
        import jax
        jax.config.update("jax_num_cpu_devices", 2)
        import jax.numpy as jnp, numpy as np, optax
        import funcnet as fn
        from funcnet.training import seeds
        assert jax.device_count() == 2
        t = fn.Trainer(fn.Linear(2, 3), fn.CrossEntropyLoss(), optax.sgd(0.5), batch_size=4)
        x, y = jnp.linspace(-1, 1, 22).reshape(11, 2), jnp.arange(11) % 3
        used = []
        def train(key, data):
            run, history = t.run(t.init(key), data, 5)
            return run.params, history["loss"]
        keys = jax.random.split(jax.random.key(0), 3)
        programs = seeds._compiled(train, keys[0], ((x, y),))
        devices = {d for p in programs for d in p(keys[0])[1].devices()}
        assert devices == set(jax.devices()), devices
        runs = fn.map_seeds(train, keys, (x, y))
        for i in range(3):
            alone = jax.jit(train)(keys[i], (x, y))
            for a, b in zip(jax.tree.leaves(runs), jax.tree.leaves(alone), strict=True):
                assert np.asarray(a[i]).tobytes() == np.asarray(b).tobytes()
        assert runs[1].devices() == {jax.devices()[0]}
        print("same bits")
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "same bits\n", done.stderr
