"""`jax.export` with an open batch size: every layer's op, its value and its gradients.

Exported once for any number of examples, and compared with the op at two of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from funcnet import ops
from tests.ops.cases import normal

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def floats(*shape):
    return normal(RNG, "float32", shape)


# For each op a function of a batch alone, and the shape of an example.
OPS = {
    "linear, narrow": (lambda x, w=floats(4, 3), b=floats(4): ops.linear(x, w, b), (3,)),
    "linear, wide": (lambda x, w=floats(4, 70), b=floats(4): ops.linear(x, w, b), (70,)),
    "linear, two axes": (lambda x, w=floats(4, 3), b=floats(4): ops.linear(x, w, b), (5, 3)),
    "conv2d": (
        lambda x, w=floats(4, 2, 3, 3), b=floats(4): ops.conv2d(x, w, b, stride=2, padding=1),
        (6, 5, 2),
    ),
    "conv2d, groups": (lambda x, w=floats(4, 1, 2, 2): ops.conv2d(x, w, groups=2), (6, 5, 2)),
    "conv2d, depthwise": (lambda x, w=floats(2, 1, 2, 2): ops.conv2d(x, w, groups=2), (6, 5, 2)),
    "conv2d, 1 x 1": (lambda x, w=floats(4, 2, 1, 1): ops.conv2d(x, w), (6, 5, 2)),
    "max_pool2d": (lambda x: ops.max_pool2d(x, 2), (4, 4, 3)),
    "max_pool2d, overlapping": (lambda x: ops.max_pool2d(x, 3, 2, 1), (4, 5, 3)),
    "avg_pool2d": (lambda x: ops.avg_pool2d(x, 2), (4, 4, 3)),
    "avg_pool2d, overlapping": (lambda x: ops.avg_pool2d(x, 3, 2, 1), (4, 5, 3)),
    "adaptive_avg_pool2d": (lambda x: ops.adaptive_avg_pool2d(x, 3), (4, 5, 2)),
    "batch_norm, training": (
        lambda x, m=floats(3), v=jnp.ones(3), w=floats(3): ops.batch_norm(x, m, v, w, m, True)[0],
        (5, 3),
    ),
    "batch_norm": (lambda x, m=floats(3), v=jnp.ones(3): ops.batch_norm(x, m, v)[0], (3,)),
    "layer_norm": (lambda x, w=floats(5, 3): ops.layer_norm(x, (5, 3), w, w), (5, 3)),
    "rms_norm": (lambda x, w=floats(70): ops.rms_norm(x, 70, w), (70,)),
    "group_norm": (lambda x, w=floats(4): ops.group_norm(x, 2, w, w), (5, 4)),
    "concatenate": (lambda x: ops.concatenate([x, x], -1), (3,)),
    "dropout": (lambda x: ops.dropout(x, 0.5, key=KEY), (9,)),
    "softmax": (ops.softmax, (70,)),
}


def both(function):
    """Value and gradient, as one function of the batch."""

    def value_and_gradient(x):
        y, pullback = jax.vjp(function, x)
        return y, pullback(jnp.cos(y))[0]

    return value_and_gradient


@pytest.mark.parametrize("name", OPS)
def test_one_export_serves_every_batch_size(name):
    function, example = OPS[name]
    (batch,) = export.symbolic_shape("batch")
    open_size = jax.ShapeDtypeStruct((batch, *example), jnp.float32)
    exported = export.export(jax.jit(both(function)))(open_size)
    for size in (2, 9):
        x = floats(size, *example)
        found, expected = exported.call(x), jax.jit(both(function))(x)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_embedding_of_any_number_of_indices():
    weight = floats(5, 3)
    (batch,) = export.symbolic_shape("batch")

    def gradient(weight, indices):
        y, pullback = jax.vjp(lambda w: ops.embedding(indices, w, 0), weight)
        return y, pullback(jnp.cos(y))[0]

    types = jax.ShapeDtypeStruct((5, 3), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    exported = export.export(jax.jit(gradient))(*types)
    for indices in (jnp.array([0, 3]), jnp.array([1, 1, 4, 0, 2])):
        found, expected = exported.call(weight, indices), gradient(weight, indices)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
