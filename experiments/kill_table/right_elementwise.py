"""Right rules, elementwise and kinked: each is a way in which a checker could cry wolf."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.kill_table.rule import arrays, normal, right, rules_in


def with_zeros(seed, size, dtype):
    """Numbers, two of them exactly zero."""
    x = normal(np.random.default_rng(seed), (size + 2,), dtype)
    return (x.at[:2].set(0),)


@right(jax.nn.relu, with_zeros)
def relu(residuals, g):
    """A kink, hit exactly; the convention is 0."""
    (x,) = residuals
    return (jnp.where(x > 0, g, 0),)


def maximum_with_zero(x):
    """relu, spelled so that autodiff gives 0.5 at 0."""
    return jnp.maximum(x, 0)


@right(maximum_with_zero, with_zeros)
def another_convention_at_the_kink(residuals, g):
    """0 at 0 where autodiff gives 0.5: both lie between the slopes."""
    (x,) = residuals
    return (jnp.where(x > 0, g, 0),)


def leaky(x):
    """Slope 0.25 below zero."""
    return jnp.where(x > 0, x, 0.25 * x)


@right(leaky, with_zeros)
def leaky_relu(residuals, g):
    """Two slopes, and the left one at the kink."""
    (x,) = residuals
    return (jnp.where(x > 0, g, 0.25 * g),)


@right(jnp.abs, with_zeros)
def absolute_value(residuals, g):
    """At zero any slope in [-1, 1] is right; sign gives 0."""
    (x,) = residuals
    return (g * jnp.sign(x),)


def on_the_bounds(seed, size, dtype):
    """Numbers, two of them on the bounds of the interval."""
    x = normal(np.random.default_rng(seed), (size + 2,), dtype)
    return (x.at[0].set(-1).at[1].set(1),)


def clip(x):
    """To [-1, 1]."""
    return jnp.clip(x, -1, 1)


@right(clip, on_the_bounds)
def clip_open(residuals, g):
    """Two kinks; zero on the bounds themselves."""
    (x,) = residuals
    return (jnp.where(jnp.abs(x) < 1, g, 0),)


@right(clip, on_the_bounds)
def clip_closed(residuals, g):
    """The same function with the other convention: one on the bounds."""
    (x,) = residuals
    return (jnp.where(jnp.abs(x) <= 1, g, 0),)


def huber_loss(residual):
    """Quadratic to 1, linear beyond: continuous slope, jump in the second derivative."""
    size = jnp.abs(residual)
    return jnp.sum(jnp.where(size < 1, 0.5 * residual**2, size - 0.5))


@right(huber_loss, on_the_bounds)
def huber(residuals, g):
    """The first derivative has no kink, the second one does."""
    (residual,) = residuals
    return (g * jnp.clip(residual, -1, 1),)


@right(jnp.square, arrays("n"))
def square(residuals, g):
    """The simplest one."""
    (x,) = residuals
    return (2 * g * x,)


def _tanh_fwd(x):
    y = jnp.tanh(x)
    return y, y


@right(jnp.tanh, arrays("n"), fwd=_tanh_fwd)
def tanh_from_the_output(residuals, g):
    """The output is the residual; it saturates under stress."""
    return (g * (1 - residuals**2),)


def _sigmoid_fwd(x):
    y = jax.nn.sigmoid(x)
    return y, y


@right(jax.nn.sigmoid, arrays("n"), fwd=_sigmoid_fwd)
def sigmoid_from_the_output(residuals, g):
    """The same, with 1 - y cancelling for large inputs."""
    return (g * residuals * (1 - residuals),)


def silu_of(x):
    """The product x σ(x)."""
    return x * jax.nn.sigmoid(x)


@right(silu_of, arrays("n"))
def silu(residuals, g):
    """A product rule with both halves."""
    (x,) = residuals
    s = jax.nn.sigmoid(x)
    return (g * (s + x * s * (1 - s)),)


def gelu(x):
    """The tanh approximation."""
    return 0.5 * x * (1 + jnp.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@right(gelu, arrays("n"), dtypes=("float32", "float64", "bfloat16"))
def gelu_tanh(residuals, g):
    """x³ overflows float16 under stress, in the function itself: other dtypes only."""
    (x,) = residuals
    t = jnp.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))
    inner = 0.7978845608028654 * (1 + 3 * 0.044715 * x * x)
    dt = jnp.where(jnp.abs(t) < 1, (1 - t * t) * inner, 0)
    return (g * (0.5 * (1 + t) + 0.5 * x * dt),)


def softplus_of(x):
    """log(1 + eˣ), stably."""
    return jnp.logaddexp(x, 0)


@right(softplus_of, arrays("n"))
def softplus(residuals, g):
    """The slope is the sigmoid."""
    (x,) = residuals
    return (g * jax.nn.sigmoid(x),)


@right(jnp.logaddexp, arrays("n", "n"))
def log_add_exp(residuals, g):
    """Two arguments whose shares sum to one."""
    x, y = residuals
    share = jax.nn.sigmoid(x - y)
    return g * share, g * (1 - share)


@right(jnp.hypot, arrays("n", "n", offset=0.5))
def hypotenuse(residuals, g):
    """Scaled so that no square is taken."""
    x, y = residuals
    length = jnp.hypot(x, y)
    return g * (x / length), g * (y / length)


def powers_args(seed, size, dtype):
    """Bases away from zero and integer exponents."""
    rng = np.random.default_rng(seed)
    base = jnp.asarray(rng.uniform(0.5, 1.5, size), dtype)
    return base, jnp.asarray(rng.integers(1, 3, size), jnp.int32)


def power(x, k):
    """xᵏ with k integers."""
    return x**k


@right(power, powers_args, dtypes=("float32", "float64", "bfloat16"))
def integer_power(residuals, g):
    """An integer argument, whose cotangent is None."""
    x, k = residuals
    return g * k.astype(x.dtype) * x ** (k - 1), None


def select_args(seed, size, dtype):
    """A boolean mask and two arrays."""
    x, y = arrays("n", "n")(seed, size, dtype)
    return jnp.asarray(np.random.default_rng(seed).integers(0, 2, size), bool), x, y


@right(jnp.where, select_args)
def select(residuals, g):
    """A boolean argument; float0 zeros for it."""
    mask, _, _ = residuals
    nothing = np.zeros(mask.shape, jax.dtypes.float0)
    return nothing, jnp.where(mask, g, 0), jnp.where(mask, 0, g)


def complex_product(z, w):
    """The product z w."""
    return z * w


@right(complex_product, arrays("n", "n"), dtypes=("complex64", "complex128"))
def complex_multiply(residuals, g):
    """JAX's cotangents are not conjugated."""
    z, w = residuals
    return g * w, g * z


def squared_magnitude(z):
    """|z|², real."""
    return jnp.real(z) ** 2 + jnp.imag(z) ** 2


@right(squared_magnitude, arrays("n"), dtypes=("complex64", "complex128"))
def complex_power(residuals, g):
    """A real output of a complex input: 2z̄ in JAX's convention."""
    (z,) = residuals
    return (2 * g.astype(z.dtype) * jnp.conj(z),)


RULES = rules_in(globals())
