"""Wrong forward passes: what a rule's `fwd` returns is not what the function returns."""

import jax
import jax.numpy as jnp

from experiments.kill_table.rule import arrays, rules_in, wrong, wrong_function


def standardise(x):
    """Zero mean, unit variance over the last axis of (n, 5)."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)


def _standardise_pullback(residuals, g):
    (x,) = residuals
    return jax.vjp(standardise, x)[1](g)


def _unbiased_fwd(x):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.std(x, axis=-1, ddof=1, keepdims=True), (x,)


@wrong(
    standardise,
    arrays("n 5"),
    caught_by="primal",
    fwd=_unbiased_fwd,
    source="lucidrains/triton-transformer#6",
)
def another_function_while_training(residuals, g):
    """`fwd` divides by the unbiased deviation: the value changes when a gradient is taken."""
    return _standardise_pullback(residuals, g)


def _larger_epsilon_fwd(x):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6), (x,)


@wrong(standardise, arrays("n 5"), caught_by="primal", fwd=_larger_epsilon_fwd)
def another_epsilon_in_fwd(residuals, g):
    """The default ε of `fwd` is not the function's: equal to five digits."""
    return _standardise_pullback(residuals, g)


def _float32_fwd(x):
    return standardise(x.astype(jnp.float32)).astype(x.dtype), (x,)


@wrong(*(standardise, arrays("n 5")), caught_by="primal", fwd=_float32_fwd, dtypes=("float64",))
def fwd_in_float32_whatever_comes(residuals, g):
    """`fwd` computes in float32 also when the function computes in float64."""
    return _standardise_pullback(residuals, g)


def _float32_output_fwd(x):
    return standardise(x.astype(jnp.float32)), (x,)


@wrong(
    standardise, arrays("n 5"), caught_by="primal", dtypes=("bfloat16",), fwd=_float32_output_fwd
)
def fwd_returns_float32_for_bfloat16(residuals, g):
    """The output's dtype depends on whether a gradient is taken."""
    return _standardise_pullback(residuals, g.astype(residuals[0].dtype))


def _keepdims_fwd(x):
    return jnp.sum(x**2, axis=-1, keepdims=True), (x,)


@wrong(lambda x: jnp.sum(x**2, axis=-1), arrays("n 5"), caught_by="primal", fwd=_keepdims_fwd)
def fwd_keeps_an_axis(residuals, g):
    """`fwd` returns (n, 1) where the function returns (n,)."""
    (x,) = residuals
    return (2 * x * g,)


def _list_fwd(x):
    return [jnp.sin(x), jnp.cos(x)], (x,)


@wrong(lambda x: (jnp.sin(x), jnp.cos(x)), arrays("n"), caught_by="primal", fwd=_list_fwd)
def fwd_returns_a_list_for_a_tuple(residuals, g):
    """`fwd`'s output has another structure."""
    (x,) = residuals
    return (g[0] * jnp.cos(x) - g[1] * jnp.sin(x),)


def _leaky(x, *, slope=0.1):
    return jnp.where(x > 0, x, slope * x)


def _leaky_fwd(x, *, slope=0.1):
    return _leaky(x, slope=slope), (x, slope)


def _leaky_bwd(residuals, g):
    x, slope = residuals
    return (jnp.where(x > 0, g, slope * g),)


_keyword_only = jax.custom_vjp(_leaky)
_keyword_only.defvjp(_leaky_fwd, _leaky_bwd)


@wrong_function(arrays("n"), caught_by="primal", source="jax-ml/jax#13302")
def keyword_only_parameter(x):
    """`jax.custom_vjp` does not take keyword-only parameters, not even defaulted ones."""
    return _keyword_only(x, slope=0.1)


RULES = rules_in(globals())
