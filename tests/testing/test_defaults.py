"""Arguments that a rule has defaults for and that are left out of args."""

import jax
import jax.numpy as jnp
import pytest

from funcnet import ops
from funcnet.testing import RuleError, check_vjp


def scaled(returns_cotangent):
    def primal(x, scale=2.0):
        return scale * x * x

    def bwd(residuals, g):
        x, scale = residuals
        return 2 * g * scale * x, (g * x * x).sum() if returns_cotangent else None

    rule = jax.custom_vjp(primal)
    rule.defvjp(lambda x, scale=2.0: (primal(x, scale), (x, scale)), bwd)
    return rule


X = jnp.array([0.5, -1.25, 2.0])


@pytest.mark.parametrize("returns_cotangent", [True, False])
def test_a_default_is_not_asked_for_its_cotangent(returns_cotangent):
    report = check_vjp(scaled(returns_cotangent), (X,), fast=True)
    assert report.passed
    assert "scale" not in str(report)


def test_given_it_is():
    assert check_vjp(scaled(True), (X, 1.5), fast=True).passed
    with pytest.raises(RuleError) as caught:
        check_vjp(scaled(False), (X, 1.5), fast=True)
    assert caught.value.report.failed == "cotangents"


def test_static_defaults():
    labels = jnp.array([0, 2])
    assert check_vjp(ops.cross_entropy, (jnp.stack([X, -X]), labels), fast=True).passed
    assert check_vjp(ops.mse_loss, (X, X[::-1]), fast=True).passed
    assert check_vjp(ops.linear, (X[None], jnp.stack([X, X + 1])), fast=True).passed
