"""Parameters, states and comparisons that the tests of this room share."""

import jax
import jax.numpy as jnp
import numpy as np

PARAMS = (
    {"weight": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([0.5, -0.5])},
    (),
    ({"weight": jnp.ones((1, 2), jnp.bfloat16)}, ()),
)
KEYS = ["0.bias", "0.weight", "2.0.weight"]

# A BatchNorm layer's parameters and state, after the linear layer of a Sequential.
NORMED = ({"weight": jnp.ones((2, 2))}, {"weight": jnp.ones(2), "bias": jnp.zeros(2)})
STATE = (
    (),
    {
        "running_mean": jnp.array([1.0, 2.0]),
        "running_var": jnp.array([3.0, 4.0]),
        "num_batches_tracked": jnp.array(7, jnp.int32),
    },
)


def shapes(tree):
    return jax.eval_shape(lambda: tree)


def check_equal(found, expected):
    """The trees have one structure and the same bits, in JAX arrays."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
