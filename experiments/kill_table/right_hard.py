"""Right rules that are hard to judge: ill-conditioned, implicit, nested, deliberate, narrow."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.kill_table.rule import (
    arrays,
    normal,
    right,
    right_function,
    rules_in,
    with_rule,
)

WIDE = ("float32", "float64", "bfloat16")


def norm_of(x):
    """Length of (n,)."""
    return jnp.sqrt(jnp.sum(x * x))


@right(norm_of, arrays("n", offset=1.0), dtypes=WIDE)
def norm(residuals, g):
    """Curved near zero."""
    (x,) = residuals
    return (g * (x / jnp.sqrt(jnp.sum(x * x))),)


def safe_norm_of(x):
    """Rows of (n, 3) to their lengths."""
    return jnp.sqrt(jnp.sum(x * x, axis=-1))


def with_a_zero_row(seed, size, dtype):
    """The first row is zero."""
    (x,) = arrays("n 3")(seed, size, dtype)
    return (x.at[0].set(0),)


@right(safe_norm_of, with_a_zero_row, dtypes=WIDE, order=1)
def norm_at_zero(residuals, g):
    """Autodiff gives NaN at the cone's tip; the rule gives 0, which lies between the slopes."""
    (x,) = residuals
    length = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))
    return (g[:, None] * jnp.where(length > 0, x / jnp.where(length > 0, length, 1), 0),)


def cosine_of(x, y):
    """Cosine of the angle between two of (n,)."""
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))


@right(cosine_of, arrays("4", "4", offset=0.5), dtypes=("float32", "float64"))
def cosine_similarity(residuals, g):
    """Two terms that nearly cancel."""
    x, y = residuals
    nx, ny = jnp.sqrt(jnp.sum(x * x)), jnp.sqrt(jnp.sum(y * y))
    c = jnp.sum(x * y) / (nx * ny)
    return g * (y / (nx * ny) - c * x / (nx * nx)), g * (x / (nx * ny) - c * y / (ny * ny))


def small_difference(x, y):
    """Squares of log x - log y, summed, with x ≈ y."""
    return jnp.sum((jnp.log(x) - jnp.log(y)) ** 2)


def near_pair(seed, size, dtype):
    """Two arrays that agree to two digits."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 2, size)
    return jnp.asarray(x, dtype), jnp.asarray(x * (1 + 0.01 * rng.normal(size=size)), dtype)


@right(small_difference, near_pair)
def cancellation_in_the_function(residuals, g):
    """Ill-conditioned: autodiff loses the same digits."""
    x, y = residuals
    d = 2 * g * (jnp.log(x) - jnp.log(y))
    return d / x, -d / y


def standard_deviation_of(x):
    """Of (n + 2,)."""
    return jnp.sqrt(jnp.mean((x - jnp.mean(x)) ** 2))


def three_or_more(seed, size, dtype):
    """At least three numbers around 10."""
    return arrays("n", offset=10.0)(seed, size + 2, dtype)


@right(standard_deviation_of, three_or_more, dtypes=WIDE)
def standard_deviation(residuals, g):
    """A large mean under a small deviation."""
    (x,) = residuals
    centred = x - jnp.mean(x)
    return (g * centred / jnp.sqrt(jnp.mean(centred**2)) / x.size,)


def mean_of(x):
    """Of (4096,)."""
    return jnp.mean(x)


@right(mean_of, arrays("4096"))
def large_reduction(residuals, g):
    """Thousands of small cotangents from one."""
    (x,) = residuals
    return (jnp.full_like(x, g / x.size),)


def accumulate(x, scale):
    """(n, 64) by (n, 1), summed."""
    return jnp.sum(x * scale, axis=-1)


@right(accumulate, arrays("n 64", "n 1"))
def reduction_in_float32(residuals, g):
    """Sums in float32 (or wider) and casts back: better than autodiff in bfloat16."""
    x, scale = residuals
    wide = jnp.promote_types(x.dtype, jnp.float32)
    dscale = jnp.sum(g[:, None].astype(wide) * x.astype(wide), axis=-1, keepdims=True)
    return jnp.broadcast_to(g[:, None] * scale, x.shape), dscale.astype(scale.dtype)


def solve_args(seed, size, dtype):
    """A well-posed system; the size is bounded."""
    rng = np.random.default_rng(seed)
    n = min(size, 4) + 1
    return jnp.asarray(rng.normal(size=(n, n)) + 4 * np.eye(n), dtype), normal(rng, (n,), dtype)


def solution(a, b):
    """a⁻¹ b."""
    return jnp.linalg.solve(a, b)


def _solution_fwd(a, b):
    x = solution(a, b)
    return x, (a, x)


@right(solution, solve_args, fwd=_solution_fwd, dtypes=("float32", "float64"))
def linear_solve(residuals, g):
    """Implicit differentiation: one transposed solve."""
    a, x = residuals
    db = jnp.linalg.solve(a.T, g)
    return -db[:, None] * x[None], db


def fixed_point(x, w):
    """The y = tanh(w y + x), by iteration; (n,) and a scalar below one half."""
    return jax.lax.fori_loop(0, 80, lambda _, y: jnp.tanh(w * y + x), jnp.zeros_like(x))


def contraction_args(seed, size, dtype):
    """|w| < 1/2."""
    (x,) = arrays("n")(seed, size, dtype)
    return x, jnp.asarray(0.4 * np.random.default_rng(seed).uniform(-1, 1), dtype)


def _fixed_point_fwd(x, w):
    y = fixed_point(x, w)
    return y, (y, w)


@right(
    fixed_point,
    contraction_args,
    fwd=_fixed_point_fwd,
    dtypes=("float32", "float64"),
    stress=(),
)
def implicit_fixed_point(residuals, g):
    """The implicit function theorem; autodiff unrolls 80 steps. No stress: w must stay small."""
    y, w = residuals
    slope = 1 - y**2
    d = g * slope / (1 - w * slope)
    return d, jnp.sum(d * y)


def _inner_bwd(residuals, g):
    (x,) = residuals
    return (g * jax.nn.sigmoid(x),)


_softplus = with_rule(lambda x: jnp.logaddexp(x, 0), _inner_bwd)


def nested(x):
    """Σ softplus(x)², built on a function that has a rule."""
    return jnp.sum(_softplus(x) ** 2)


def _plain(x):
    return jnp.sum(jnp.logaddexp(x, 0) ** 2)


_nested = jax.custom_vjp(nested)
_nested.defvjp(
    lambda x: (_plain(x), x),
    lambda x, g: (2 * g * jnp.logaddexp(x, 0) * jax.nn.sigmoid(x),),
)


@right_function(arrays("n"), dtypes=WIDE)
def rule_around_a_rule(x):
    """A custom_vjp whose function contains another."""
    return _nested(x)


@right_function(arrays("n 4", "3 4 4"), dtypes=("float32", "float64"))
def rules_in_a_scan(x, weights):
    """A small network: one rule, applied in every step of a scan, under jit and checkpoint."""

    @jax.checkpoint
    def layer(h, w):
        return _softplus(h @ w), None

    return jax.jit(lambda x, weights: jax.lax.scan(layer, x, weights / 4)[0])(x, weights)


def rounded(x):
    """To the nearest integer."""
    return jnp.round(x)


@right(rounded, arrays("n", scale=3.0), reference=lambda x: x, order=1)
def straight_through(residuals, g):
    """Not a derivative, on purpose: the reference says what is meant."""
    del residuals
    return (g,)


def clip_cotangent(args, g):
    """What gradient clipping is meant to return."""
    del args
    return (jnp.clip(g, -0.5, 0.5),)


def identity(x):
    """Nothing is done to x."""
    return x


@right(identity, arrays("n"), reference=clip_cotangent, order=1)
def gradient_clipping(residuals, g):
    """Not even linear in the cotangent, on purpose."""
    del residuals
    return (jnp.clip(g, -0.5, 0.5),)


@right(identity, arrays("n"), reference=lambda args, g: (-g,), order=1)
def gradient_reversal(residuals, g):
    """The sign is wrong on purpose."""
    del residuals
    return (-g,)


def _host_cosine(x, g):
    return (np.cos(np.asarray(x, np.float64)) * np.asarray(g, np.float64)).astype(x.dtype)


@right(jnp.sin, arrays("n"), order=1, dtypes=("float32", "float64"))
def host_kernel(residuals, g):
    """A host callback cannot be differentiated: first order only, and it says so."""
    (x,) = residuals
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return (jax.pure_callback(_host_cosine, shape, x, g, vmap_method="broadcast_all"),)


def statistics(x):
    """(n, 4) to a dict of outputs, one of them integers."""
    return {"mean": jnp.mean(x, axis=-1), "best": jnp.argmax(x, axis=-1)}


@right(statistics, arrays("n 4"))
def integer_output(residuals, g):
    """An output without a cotangent beside one with."""
    (x,) = residuals
    return (jnp.broadcast_to(g["mean"][:, None] / 4, x.shape),)


def no_arguments_used(x, unused):
    """The second argument does not matter."""
    del unused
    return jnp.sin(x)


@right(no_arguments_used, arrays("n", "n"))
def unused_argument(residuals, g):
    """A cotangent that is rightly zero everywhere."""
    x, unused = residuals
    return g * jnp.cos(x), jnp.zeros_like(unused)


def bilinear(x, a, y):
    """xᵀ A y in mixed precision: x in the dtype given, A and y in float32."""
    return jnp.sum(x[:, None].astype(a.dtype) * a * y[None])


def mixed_args(seed, size, dtype):
    """One argument in the dtype given, two in float32."""
    rng = np.random.default_rng(seed)
    return (
        normal(rng, (size,), dtype),
        normal(rng, (size, 3), "float32"),
        normal(rng, (3,), "float32"),
    )


@right(bilinear, mixed_args, dtypes=("float32", "bfloat16", "float16"))
def mixed_precision(residuals, g):
    """Arguments of different dtypes, each with a cotangent in its own."""
    x, a, y = residuals
    wide = x.astype(a.dtype)
    return (g * (a @ y)).astype(x.dtype), g * wide[:, None] * y[None], g * (wide @ a)


RULES = rules_in(globals())
