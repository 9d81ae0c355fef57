"""`jax.export` with an open batch size: every layer's op, its value and its gradients.

Exported once for any number of examples, and compared with the op at two of them.
"""

from functools import partial

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


NARROW, WIDE, BIAS = floats(4, 3), floats(4, 70), floats(4)
ROW, VARIANCE = floats(3), jnp.ones(3)

# For each op a function of a batch alone, and the shape of an example.
OPS = {
    "linear, narrow": (partial(ops.linear, weight=NARROW, bias=BIAS), (3,)),
    "linear, wide": (partial(ops.linear, weight=WIDE, bias=BIAS), (70,)),
    "linear, two axes": (partial(ops.linear, weight=NARROW, bias=BIAS), (5, 3)),
    "conv2d": (
        partial(ops.conv2d, weight=floats(4, 2, 3, 3), bias=BIAS, stride=2, padding=1),
        (6, 5, 2),
    ),
    "conv2d, groups": (partial(ops.conv2d, weight=floats(4, 1, 2, 2), groups=2), (6, 5, 2)),
    "conv2d, depthwise": (partial(ops.conv2d, weight=floats(2, 1, 2, 2), groups=2), (6, 5, 2)),
    "conv2d, 1 x 1": (partial(ops.conv2d, weight=floats(4, 2, 1, 1)), (6, 5, 2)),
    "max_pool2d": (lambda x: ops.max_pool2d(x, 2), (4, 4, 3)),
    "max_pool2d, overlapping": (lambda x: ops.max_pool2d(x, 3, 2, 1), (4, 5, 3)),
    "avg_pool2d": (lambda x: ops.avg_pool2d(x, 2), (4, 4, 3)),
    "avg_pool2d, overlapping": (lambda x: ops.avg_pool2d(x, 3, 2, 1), (4, 5, 3)),
    "adaptive_avg_pool2d": (lambda x: ops.adaptive_avg_pool2d(x, 3), (4, 5, 2)),
    "batch_norm, training": (
        lambda x: ops.batch_norm(x, ROW, VARIANCE, ROW, ROW, training=True)[0],
        (5, 3),
    ),
    "batch_norm": (lambda x: ops.batch_norm(x, ROW, VARIANCE)[0], (3,)),
    "layer_norm": (
        partial(ops.layer_norm, normalized_shape=(5, 3), weight=floats(5, 3), bias=floats(5, 3)),
        (5, 3),
    ),
    "rms_norm": (partial(ops.rms_norm, normalized_shape=70, weight=floats(70)), (70,)),
    "group_norm": (partial(ops.group_norm, num_groups=2, weight=BIAS, bias=BIAS), (5, 4)),
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


@pytest.mark.few(3)
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
