"""Regressions from a hostile review: what once made the tester blame a right rule or crash."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.testing import RuleError, check_vjp


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
