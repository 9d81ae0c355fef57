"""rule: a custom_vjp that looks like the function it stands for, with or without a kernel."""

import functools
import inspect
import pydoc

import jax
import jax.numpy as jnp
import pytest
from jax import Array

from funcnet.ops._rule import Form, rule, without_kernel
from funcnet.testing import check_vjp


def _scaled(x: Array, by: float = 2.0) -> Array:
    """The product of x with a number."""
    return x * by


def _scaled_fwd(x, by):
    return _scaled(x, by), ()


def _scaled_bwd(by, residuals, dY):
    return (dY * by,)


def added(plain: Form) -> Form:
    """The same for a factor of 2, and wrong for a factor of 3, to be told apart."""

    @functools.wraps(plain.primal)
    def primal(x, by=2.0):
        return x + x if by in (2, 3) else plain.primal(x, by)

    def forward(x, by):
        return primal(x, by), ()

    return Form(primal, forward, plain.backward)


PLAIN = rule(_scaled, _scaled_fwd, _scaled_bwd, nondiff_argnums=(1,))
FAST = rule(_scaled, _scaled_fwd, _scaled_bwd, nondiff_argnums=(1,), kernel=added)
BOTH = pytest.mark.parametrize("function", [PLAIN, FAST])


@BOTH
def test_it_has_name_signature_and_documentation_of_the_primal(function):
    assert function.__name__ == "scaled"
    assert inspect.signature(function) == inspect.signature(_scaled)
    assert inspect.getdoc(function) == _scaled.__doc__
    assert inspect.unwrap(function) is _scaled
    text = pydoc.plain(pydoc.render_doc(function))
    assert "scaled(x:" in text
    assert "by: float = 2.0)" in text
    assert "The product of x with a number." in text


@BOTH
def test_it_is_a_custom_vjp_that_passes(function):
    assert isinstance(function, jax.custom_vjp)
    assert check_vjp(function, (jnp.array([0.5, -1.5]),)).passed


@BOTH
def test_arguments_by_name_and_defaults(function):
    assert function(jnp.array(3.0)) == 6
    assert jax.grad(lambda x: function(x=x, by=5.0))(3.0) == 5


def test_as_an_attribute_of_a_class_it_stays_itself():
    class Holder:
        function = PLAIN

    assert Holder().function is PLAIN  # pyright: ignore


def test_the_kernel_runs_and_the_plain_form_stays():
    assert FAST(jnp.array(1.0), 3.0) == 2
    assert jax.value_and_grad(lambda x: FAST(x, 3.0))(1.0) == (2, 3)
    assert without_kernel(FAST)(jnp.array(1.0), 3.0) == 3
    assert jax.value_and_grad(lambda x: without_kernel(FAST)(x, 3.0))(1.0) == (3, 3)
    assert without_kernel(PLAIN) is PLAIN
