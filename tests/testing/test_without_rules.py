"""`without_rules`: forward mode through every rule of the table, a model, loops and closures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet import ops
from tests.ops.rules import RULES

MODEL = fn.Sequential(fn.Linear(3, 4), fn.LayerNorm(4), fn.GELU(), fn.Linear(4, 2), fn.LogSoftmax())
PARAMS, STATE = MODEL.init(jax.random.key(0))
X = jax.random.normal(jax.random.key(1), (5, 3))


def apply(params, x):
    return MODEL.apply(params, STATE, x)[0]


def inner(a, b):
    return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))


def close(found, expected, rtol):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), found, expected
    )


def arguments(name):
    """The first case of an op, its arguments, and where these are differentiated."""
    case = RULES[name][0]
    args = case.arguments(np.random.default_rng(0), "float32", (4,))
    floating = [jnp.issubdtype(jnp.result_type(a), jnp.floating) for a in args]
    return case.function, args, floating


@pytest.mark.few(3)
@pytest.mark.parametrize("name", sorted(RULES))
def test_forward_mode_of_every_op_is_the_transpose_of_its_rule(name):
    """<dY, J δx> = <Jᵀ dY, δx>: J by forward mode without the rule, Jᵀ by the rule."""
    function, args, floating = arguments(name)
    moved = {i: args[i] for i, is_moved in enumerate(floating) if is_moved}

    def of_moved(f):
        return lambda moved: f(*(moved.get(i, a) for i, a in enumerate(args)))

    @jax.jit
    def both(moved, tangents):
        y, dy = jax.jvp(of_moved(fn.without_rules(function)), (moved,), (tangents,))
        expected, pullback = jax.vjp(of_moved(function), moved)
        cotangents = jax.tree.map(jnp.cos, expected)
        return (y, inner(cotangents, dy)), (expected, inner(pullback(cotangents)[0], tangents))

    rng = np.random.default_rng(2)
    tangents = {i: jnp.asarray(rng.normal(size=a.shape), a.dtype) for i, a in moved.items()}
    close(*both(moved, tangents), rtol=2e-4)


def test_forward_mode_of_a_rule_raises_and_without_it_gives_the_jacobian():
    x = jnp.arange(3.0)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jacfwd(ops.softmax)(x)
    found = jax.jacfwd(fn.without_rules(ops.softmax))(x)
    np.testing.assert_allclose(found, jax.jacrev(ops.softmax)(x), rtol=1e-5, atol=1e-7)


def test_hessians_agree_in_every_order_of_modes():
    def loss(x):
        return ops.softmax(x)[0] ** 2

    def hessians(x):
        bare = fn.without_rules(loss)
        modes = jax.jacfwd, jax.jacrev
        return [outer(inner(bare))(x) for outer in modes for inner in modes]

    x = jnp.arange(3.0)
    expected = jax.jit(jax.hessian(loss))(x)  # forward over reverse, which a rule can do
    for found in jax.jit(hessians)(x):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_model_with_its_parameters():
    """The Jacobian in all parameters, by forward and by reverse mode."""
    forward = jax.jit(jax.jacfwd(fn.without_rules(apply)))(PARAMS, X)
    close(forward, jax.jit(jax.jacrev(apply))(PARAMS, X), rtol=1e-4)


def test_what_a_function_closes_over_may_be_differentiated():
    def outer(params):
        return fn.without_rules(lambda x: apply(params, x))(X).sum()

    _, found = jax.jit(lambda params: jax.jvp(outer, (params,), (params,)))(PARAMS)
    gradient = jax.jit(jax.grad(lambda params: apply(params, X).sum()))(PARAMS)
    np.testing.assert_allclose(found, inner(gradient, PARAMS), rtol=1e-4)


def test_under_jit_vmap_and_scan():
    bare = fn.without_rules(ops.log_softmax)
    np.testing.assert_allclose(jax.jit(jax.vmap(bare))(X), ops.log_softmax(X), rtol=1e-5)

    def repeated(x):
        return jax.lax.scan(lambda x, _: (ops.tanh(x), None), x, length=3)[0]

    _, found = jax.jvp(jax.jit(fn.without_rules(repeated)), (X,), (jnp.ones_like(X),))
    np.testing.assert_allclose(found, jax.grad(lambda x: repeated(x).sum())(X), rtol=1e-5)


def test_numbers_text_and_modules_pass_as_they_are():
    """Options decide what is computed, and are not traced; the result keeps its structure."""

    def function(model, x, reduction, *, train):
        value, state = model.apply(PARAMS, STATE, x, train=train)
        return {"loss": ops.mse_loss(value, jnp.zeros_like(value), reduction), "state": state}

    expected = function(MODEL, X, "sum", train=False)
    found = fn.without_rules(function)(MODEL, X, "sum", train=False)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)


def test_it_keeps_the_name_and_holds_no_rule():
    bare = fn.without_rules(ops.softmax)
    assert bare.__name__ == "softmax"
    assert bare.__doc__ == ops.softmax.__doc__
    assert "custom_vjp" not in str(jax.make_jaxpr(bare)(X))


def test_no_function_is_refused():
    with pytest.raises(fn.errors.DtypeError, match="got Array"):
        fn.without_rules(X)  # pyright: ignore[reportArgumentType]
