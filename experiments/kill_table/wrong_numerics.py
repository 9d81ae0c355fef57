"""Wrong numerics: right on paper, wrong in the dtype and range of use."""

import jax
import jax.numpy as jnp

from experiments.kill_table.rule import arrays, rules_in, wrong


@wrong(jax.nn.sigmoid, arrays("8"), caught_by="accuracy", source="jeshraghian/snntorch#427")
def sigmoid_slope_overflows(residuals, g):
    """e⁻ˣ/(1 + e⁻ˣ)² is ∞/∞ from x = -89 on in float32."""
    (x,) = residuals
    return (g * jnp.exp(-x) / (1 + jnp.exp(-x)) ** 2,)


def softmax(x):
    """Over the last axis."""
    return jax.nn.softmax(x)


@wrong(softmax, arrays("n 5"), caught_by="accuracy")
def softmax_without_its_shift(residuals, g):
    """The backward pass recomputes softmax and forgets to subtract the maximum."""
    (x,) = residuals
    e = jnp.exp(x)
    y = e / jnp.sum(e, axis=-1, keepdims=True)
    return (y * (g - jnp.sum(y * g, axis=-1, keepdims=True)),)


def logsumexp(x):
    """(5,) to a scalar."""
    return jax.nn.logsumexp(x)


@wrong(logsumexp, arrays("5"), caught_by="accuracy")
def exponentials_divided(residuals, g):
    """exp(x)/exp(logsumexp(x)) is ∞/∞ where exp(x - logsumexp(x)) is fine."""
    (x,) = residuals
    return (g * jnp.exp(x) / jnp.exp(jax.nn.logsumexp(x)),)


def softplus(x):
    """log(1 + eˣ), stably."""
    return jnp.logaddexp(x, 0)


@wrong(softplus, arrays("8"), caught_by="accuracy", source="jax-ml/jax#2930")
def softplus_slope_overflows(residuals, g):
    """eˣ/(1 + eˣ) instead of 1/(1 + e⁻ˣ)."""
    (x,) = residuals
    return (g * jnp.exp(x) / (1 + jnp.exp(x)),)


@wrong(jnp.hypot, arrays("n", "n"), caught_by="accuracy", dtypes=("float16",))
def squares_overflow(residuals, g):
    """x/√(x² + y²): the squares leave float16's range long before the quotient does."""
    x, y = residuals
    length = jnp.sqrt(x * x + y * y)
    return g * x / length, g * y / length


def standard_deviation(x):
    """Over the last axis of (n, 8)."""
    return jnp.sqrt(jnp.mean((x - jnp.mean(x, axis=-1, keepdims=True)) ** 2, axis=-1))


@wrong(standard_deviation, arrays("n 8", offset=100.0), caught_by="accuracy")
def variance_by_subtraction(residuals, g):
    """E[x²] - E[x]² loses all digits where the mean is large."""
    (x,) = residuals
    mean = jnp.mean(x, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) - mean**2)
    return (g[:, None] * (x - mean) / deviation / x.shape[-1],)


def length(x):
    """Of (600,), the squares summed in float32."""
    return jnp.sqrt(jnp.sum(x**2))


@wrong(length, arrays("600", scale=0.05, offset=0.9), caught_by="accuracy", dtypes=("bfloat16",))
def summed_in_bfloat16(residuals, g):
    """A loop adds up squares in eight bits: from 256 on, adding one changes nothing."""
    (x,) = residuals
    total, _ = jax.lax.scan(lambda t, x_i: (t + x_i**2, None), jnp.zeros((), x.dtype), x)
    return (g * x / jnp.sqrt(total),)


@wrong(
    *(jnp.sin, arrays("n")),
    caught_by="formula",
    dtypes=("float64",),
    source="jax-ml/jax#27144",
)
def narrowed_on_the_way_back(residuals, g):
    """The backward pass computes in float32 whatever it is given; here that is float64."""
    (x,) = residuals
    return ((g.astype(jnp.float32) * jnp.cos(x.astype(jnp.float32))).astype(x.dtype),)


def _bfloat16_residual(x):
    return jnp.exp(x), jnp.exp(x).astype(jnp.bfloat16)


@wrong(jnp.exp, arrays("n"), caught_by="formula", fwd=_bfloat16_residual)
def residual_kept_in_bfloat16(residuals, g):
    """Memory is saved by rounding what the backward pass needs."""
    return (g * residuals.astype(g.dtype),)


def log_one_plus_square(x):
    """log(1 + x²), elementwise, without the square."""
    return 2 * jnp.log(jnp.hypot(jnp.ones_like(x), x))


@wrong(log_one_plus_square, arrays("n"), caught_by="accuracy", dtypes=("float16",))
def denominator_overflows(residuals, g):
    """2x/(1 + x²): in float16 the denominator is infinite from x = 256 on, and the slope lost."""
    (x,) = residuals
    return (g * (2 * x / (1 + x**2)),)


@wrong(
    lambda z, w: z * w,
    arrays("n", "n"),
    caught_by="formula",
    dtypes=("complex64",),
    source="ml-explore/mlx#2178",
)
def conjugated_by_another_convention(residuals, g):
    """JAX's cotangents are not conjugated, PyTorch's gradients are."""
    z, w = residuals
    return g * jnp.conj(w), g * jnp.conj(z)


def power(z):
    """|z|², real from complex."""
    return jnp.real(z) ** 2 + jnp.imag(z) ** 2


@wrong(power, arrays("n"), caught_by="formula", dtypes=("complex64",), source="jax-ml/jax#9110")
def conjugate_missed(residuals, g):
    """For a real function of z the cotangent is 2z̄, not 2z."""
    (z,) = residuals
    return (2 * g * z,)


RULES = rules_in(globals())
