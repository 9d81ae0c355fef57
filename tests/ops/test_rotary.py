"""rotary_embedding: its formula, what it is for, and refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from funcnet.errors import ConfigError, DtypeError, ShapeError

RNG = np.random.default_rng(0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("interleaved", [True, False])
def test_each_pair_is_a_complex_number_turned(interleaved):
    x, positions = RNG.normal(size=(2, 5, 8)), np.array([3, 0, 7, -2, 100])
    pairs = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :4], x[..., 4:])
    angle = positions[:, None] * 50.0 ** (-np.arange(4) / 4)
    turned = (pairs[0] + 1j * pairs[1]) * np.exp(1j * angle)
    y = np.asarray(ops.rotary_embedding(jnp.asarray(x), jnp.asarray(positions), 50.0, interleaved))
    found = (y[..., 0::2], y[..., 1::2]) if interleaved else (y[..., :4], y[..., 4:])
    np.testing.assert_allclose(found[0], turned.real, atol=1e-13)
    np.testing.assert_allclose(found[1], turned.imag, atol=1e-13)


def test_products_depend_on_the_difference_of_positions():
    q, k = (jnp.asarray(RNG.normal(size=(3, 5, 6)), jnp.float32) for _ in range(2))

    def products(first):
        turned = [ops.rotary_embedding(a, first + jnp.arange(5)) for a in (q, k)]
        return turned[0] @ turned[1].swapaxes(-1, -2)

    np.testing.assert_allclose(products(0), products(11), rtol=1e-4, atol=1e-4)


def test_each_example_may_have_positions_of_its_own():
    x = jnp.asarray(RNG.normal(size=(2, 3, 5, 4)), jnp.float32)
    positions = jnp.asarray([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]])
    y = ops.rotary_embedding(x, positions[:, None])
    np.testing.assert_array_equal(y[1], ops.rotary_embedding(x[1], positions[1]))


@pytest.mark.parametrize(
    ("x", "positions", "options", "error", "message"),
    [
        (jnp.ones((5, 3)), jnp.arange(5), {}, ShapeError, "an even D"),
        (jnp.ones(4), jnp.arange(5), {}, ShapeError, r"\(..., T, D\)"),
        (jnp.ones((5, 4)), jnp.arange(4), {}, ShapeError, r"broadcasts to \(5,\)"),
        (jnp.ones((5, 4)), jnp.zeros((2, 5), int), {}, ShapeError, r"broadcasts to \(5,\)"),
        (jnp.ones((5, 4)), jnp.ones(5), {}, DtypeError, "jnp.arange"),
        (jnp.ones((5, 4)), [1], {}, DtypeError, "jnp.asarray"),
        (jnp.ones((5, 4), int), jnp.arange(5), {}, DtypeError, "x is int32"),
        (jnp.ones((5, 4)), jnp.arange(5), {"base": 0}, ConfigError, "base is 0"),
        (jnp.ones((5, 4)), jnp.arange(5), {"interleaved": 1}, ConfigError, "True or False"),
    ],
)
def test_what_does_not_fit_is_refused(x, positions, options, error, message):
    with pytest.raises(error, match=message):
        ops.rotary_embedding(x, positions, **options)
