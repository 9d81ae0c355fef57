"""Data-parallel on two devices: the gradients of one."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
    import sys
    import jax
    jax.config.update("jax_num_cpu_devices", 2)
    import jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    import funcnet as fn

    assert jax.device_count() == 2
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def check(width, loss, y):
        model = fn.Sequential(
            fn.Linear(width, 8), fn.ReLU(), fn.Linear(8, 8), fn.Tanh(), fn.Linear(8, 3)
        )
        params, state = model.init(jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (12, width))

        def total(params, x, y):
            return loss(model.apply(params, state, x)[0], y)

        @jax.jit
        @jax.shard_map(mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
        def mapped(params, x, y):
            # Each device's mean counts half.
            value, gradient = jax.value_and_grad(lambda *a: total(*a) / 2)(params, x, y)
            return jax.lax.psum(value, "data"), gradient

        one = jax.value_and_grad(total)
        placed = jax.device_put(params, whole), jax.device_put(x, split), jax.device_put(y, split)
        expected = jax.tree.leaves(one(params, x, y))
        for found in (jax.jit(one)(*placed), mapped(params, x, y)):
            for a, b in zip(jax.tree.leaves(found), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    labels = jnp.arange(12) % 3
    check(int(sys.argv[1]), fn.CrossEntropyLoss(label_smoothing=0.1), labels)
    check(int(sys.argv[1]), fn.MSELoss(), jax.nn.one_hot(labels, 3))
    print("equal")
""")


@pytest.mark.slow
@pytest.mark.parametrize("width", [pytest.param(4, marks=pytest.mark.slow), 100])
def test_two_devices_give_the_gradients_of_one(width):
    """On a mesh of Auto axes and under shard_map, for narrow and wide layers."""
    command = [sys.executable, "-c", PROGRAM, str(width)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
