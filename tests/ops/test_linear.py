"""The narrow form of linear is the wide one, and compiles wherever vmap puts its batch axes."""

import itertools

import jax
import numpy as np
import pytest

from funcnet.ops import linear
from funcnet.ops.kernels.thresholds import NARROW

MORE_SIZES = [
    (100, 25, 25),
    (8, 8, 2),
    (8, 8, 8),
    (100, 4, 9),
    (4, 25, 25),
    (100, 25, 1),
    (9, 1, 25),
]
AXES = [axes for n in range(1, 5) for axes in itertools.combinations(range(4), n)]


def pulled_back(x, weight, bias, g):
    value, pullback = jax.vjp(linear, x, weight, bias)
    return value, pullback(g)


@pytest.mark.parametrize("features", [(3, 2), (NARROW, NARROW), (NARROW + 1, 2)])
def test_same_as_with_a_batch_axis_more(features):
    n, m = features
    rng = np.random.default_rng(0)
    shapes = [(5, n), (m, n), (m,), (5, m)]
    x, weight, bias, g = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    narrow = pulled_back(x, weight, bias, g)
    wide = pulled_back(x[None], weight, bias, g[None])
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-5, atol=1e-5)


# Rows, inputs, outputs: on either side of what decides whether fences stay under vmap.
SIZES = [(5, 3, 2), (8, 2, 8), *(pytest.param(s, marks=pytest.mark.slow) for s in MORE_SIZES)]


@pytest.mark.few(7, 3)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mapped", AXES)
def test_vmap_over_any_arguments(mapped, sizes):
    # jaxlib 0.10.2 aborts on some of these where a barrier stays in the batched program.
    rng = np.random.default_rng(0)
    rows, n, m = sizes
    shapes = [(rows, n), (m, n), (m,), (rows, m)]
    args = [rng.normal(size=(4, *s) if i in mapped else s) for i, s in enumerate(shapes)]
    args = [a.astype(np.float32) for a in args]
    axes = [0 if i in mapped else None for i in range(4)]
    value, (dX, dW, db) = jax.jit(jax.vmap(pulled_back, in_axes=axes))(*args)
    full = [a if i in mapped else np.broadcast_to(a, (4, *a.shape)) for i, a in enumerate(args)]
    x, weight, bias, g = full
    expected = np.einsum("brn,bmn->brm", x, weight) + bias[:, None, :]
    np.testing.assert_allclose(
        np.broadcast_to(value, expected.shape), expected, rtol=1e-5, atol=1e-5
    )
    for found, subscripts, arrays in [
        (dX, "brm,bmn->brn", (g, weight)),
        (dW, "brm,brn->bmn", (g, x)),
        (db, "brm->bm", (g,)),
    ]:
        wanted = np.einsum(subscripts, *arrays)
        np.testing.assert_allclose(
            np.broadcast_to(found, wanted.shape), wanted, rtol=1e-5, atol=1e-5
        )
