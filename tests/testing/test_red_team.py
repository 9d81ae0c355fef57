"""Regressions from a hostile review: what once made the tester blame a right rule or crash."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.testing import RuleError, check_vjp

pytestmark = pytest.mark.slow


def make_rule(fn, bwd):
    rule = jax.custom_vjp(fn)
    rule.defvjp(lambda *args: (fn(*args), args), bwd)
    return rule


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


INDICES = jnp.array([1, 4])


def overwrite(x, indices, values):
    return x.at[indices].set(values)


def test_indices_are_not_emptied_without_their_values():
    def bwd(residuals, g):
        _, indices, _ = residuals
        return g.at[indices].set(0), None, g[indices]

    args = (normal(0, 6), INDICES, normal(1, 2))
    assert check_vjp(make_rule(overwrite, bwd), args).passed


def test_overwritten_elements_have_no_cotangent():
    def bwd(residuals, g):
        _, indices, _ = residuals
        return g, None, g[indices]

    args = (normal(0, 6), INDICES, normal(1, 2))
    with pytest.raises(RuleError, match="formula") as caught:
        check_vjp(make_rule(overwrite, bwd), args, fast=True)
    assert caught.value.report.failed == "formula"


def test_batch_emptied_together_still_finds_a_mean_over_nothing():
    def bwd(residuals, g):
        x, y = residuals
        return g * y * (x.shape[0] / x.shape[0]), g * x

    rule = make_rule(lambda x, y: x * y, bwd)
    with pytest.raises(RuleError) as caught:
        check_vjp(rule, (normal(0, 3, 2), normal(1, 3, 2)))
    assert caught.value.report.failed == "empty"


@pytest.mark.parametrize("fn", [jnp.argmax, lambda x: ()])
def test_function_without_float_outputs_is_refused(fn):
    rule = make_rule(lambda x: fn(x), lambda residuals, g: (jnp.zeros_like(residuals[0]),))
    with pytest.raises(ValueError, match="no floating-point number"):
        check_vjp(rule, (normal(0, 4),))


def test_nan_argument_is_warned_of():
    rule = make_rule(jnp.sin, lambda residuals, g: (g * jnp.cos(residuals[0]),))
    report = check_vjp(rule, (normal(0, 4).at[0].set(jnp.nan),), fast=True)
    assert any("not finite" in text for text in report.warnings)


def shared_max(share):
    """The maximum over the first axis, the cotangent handed to the tied ones by `share`."""

    def bwd(residuals, g):
        (x,) = residuals
        tied = x == x.max(axis=0)
        return (share(tied, jnp.broadcast_to(g, x.shape)),)

    return make_rule(lambda x: x.max(axis=0), bwd)


MANY_TIES = [jnp.zeros(16), jnp.zeros(30), jnp.zeros((8, 4)), jnp.round(normal(0, 6, 20))]


@pytest.mark.parametrize("x", MANY_TIES, ids=lambda x: str(x.shape))
def test_ties_in_many_places(x):
    with pytest.raises(RuleError) as caught:
        check_vjp(shared_max(lambda tied, g: jnp.where(tied, g, 0)), (x,))
    assert caught.value.report.failed == "kinks"
    first = shared_max(lambda tied, g: jnp.where(tied & (tied.cumsum(axis=0) == 1), g, 0))
    assert check_vjp(first, (x,), fast=True).passed


def norm(x):
    return jnp.sqrt((x * x).sum(axis=-1))


def test_nan_at_a_kink_is_wrong_though_autodiff_gives_it_too():
    rule = make_rule(norm, lambda args, g: ((g / norm(args[0]))[..., None] * args[0],))
    with pytest.raises(RuleError) as caught:
        check_vjp(rule, (normal(0, 3, 4).at[1].set(0),), order=1)
    assert caught.value.report.failed == "kinks"


@pytest.mark.parametrize("fn", [jnp.sqrt, jnp.log])
def test_infinite_slopes_are_no_fault(fn):
    slope = {jnp.sqrt: lambda x: 0.5 / jnp.sqrt(x), jnp.log: lambda x: 1 / x}[fn]
    rule = make_rule(lambda x: fn(x), lambda args, g: (g * slope(args[0]),))
    assert check_vjp(rule, (jnp.array([0.0, 1.5, 2.0]),), fast=True).passed


def spike(bwd):
    return make_rule(lambda x: (x > 0).astype(x.dtype), bwd)


def surrogate(args, g):
    return (g / (1 + jnp.abs(args[0])) ** 2,)


def test_second_order_of_a_pullback_that_is_given():
    x = (normal(0, 5),)
    report = check_vjp(spike(surrogate), x, reference=surrogate)
    assert report.passed
    assert not report.warnings

    def detached(args, g):
        return surrogate((jax.lax.stop_gradient(args[0]),), g)

    with pytest.raises(RuleError) as caught:
        check_vjp(spike(detached), x, reference=surrogate)
    assert caught.value.report.failed == "second_order"
    assert check_vjp(spike(detached), x, reference=surrogate, order=1).passed


def test_slopes_of_complex_outputs_along_real_inputs():
    def bwd(residuals, g):
        a, z = residuals
        return (g * z).real, g * a

    z = jax.lax.complex(normal(1, 4), normal(2, 4))
    assert not check_vjp(make_rule(lambda a, z: a * z, bwd), (normal(0, 4), z)).warnings


def test_a_scalar_that_the_reference_detaches():
    rule = make_rule(lambda x, s: x, lambda args, g: (args[1] * g, jnp.zeros_like(args[1])))

    def scaled(x, s):
        scaled = x * jax.lax.stop_gradient(s)
        return scaled + jax.lax.stop_gradient(x - scaled)

    assert check_vjp(rule, (normal(0, 5), jnp.float32(0.3)), reference=scaled).passed


@pytest.mark.parametrize("seed", range(3))
def test_rounding_of_large_terms_that_cancel(seed):
    """A layer norm of two features: autodiff's terms cancel exactly, the rule's but for an ulp."""

    def normalised(x):
        r = jax.lax.rsqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return (x - x.mean(axis=-1, keepdims=True)) * r, r

    def bwd(residuals, g):
        y, r = normalised(residuals[0])
        centred = g - g.mean(axis=-1, keepdims=True)
        return (r * (centred - y * (g * y).mean(axis=-1, keepdims=True)),)

    rule = make_rule(lambda x: normalised(x)[0], bwd)
    assert check_vjp(rule, (normal(seed, 64, 2),)).passed


def test_digits_that_autodiff_keeps_by_float32_are_asked_of_a_rule_too():
    """A nearly sure class's probability is rounded to 1 in bfloat16, and 1 - p to 0."""

    def softmax(x):
        return jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype)

    def rule(adding_up):
        def bwd(residuals, g):
            p = softmax(*residuals).astype(jnp.float32)
            p = p / p.sum(axis=-1, keepdims=True) if adding_up else p
            g = g.astype(jnp.float32)
            return ((p * (g - (p * g).sum(axis=-1, keepdims=True))).astype(residuals[0].dtype),)

        return make_rule(softmax, bwd)

    x = jnp.array([[0.08, 0.0, -0.01], [0.07, 0.0, 0.01]], jnp.bfloat16)
    assert check_vjp(rule(True), (x,)).passed
    with pytest.raises(RuleError, match="FAILED at 'accuracy'"):
        check_vjp(rule(False), (x,))


def test_a_function_with_static_defaults_is_explained():
    rule = make_rule(jnp.sort, lambda args, g: (g,))
    with pytest.raises(RuleError, match="wrap it in one of the differentiated arguments alone"):
        check_vjp(rule, (normal(0, 4),))


def test_where_autodiff_has_nan_a_slope_of_zero_is_known_as_well():
    """Distances of points, 0 from each to itself, where autodiff's NaN spreads over the rows."""

    def distances(x):
        return jnp.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=-1))

    def rule(spill):
        def bwd(residuals, g):
            (x,) = residuals
            d = distances(x)
            d = (g / jnp.where(d == 0, 1, d))[..., None] * (x[:, None] - x[None])
            return (d.sum(axis=1) - d.sum(axis=0) + spill * (g[0, 0] - g[1, 1]),)

        return make_rule(distances, bwd)

    x = (normal(0, 3, 2),)
    assert check_vjp(rule(0.0), x).passed
    with pytest.raises(RuleError):
        check_vjp(rule(0.5), x)
