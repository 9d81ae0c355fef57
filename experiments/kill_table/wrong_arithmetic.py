"""Wrong arithmetic: factors, signs, transposes, lost terms, and cotangents used wrongly."""

import jax
import jax.numpy as jnp

from experiments.kill_table.rule import arrays, rules_in, wrong


def square_sum(x):
    """(n,) to a scalar."""
    return jnp.sum(x**2)


@wrong(square_sum, arrays("n"), caught_by="formula", source="netket/netket#1355")
def missing_factor(residuals, g):
    """d(x²) = 2x dx, and the 2 is gone."""
    (x,) = residuals
    return (g * x,)


@wrong(square_sum, arrays("n"), caught_by="formula")
def tenth_of_a_percent_off(residuals, g):
    """A constant was rounded: 1.998 instead of 2."""
    (x,) = residuals
    return (1.998 * g * x,)


@wrong(square_sum, arrays("n"), caught_by="formula")
def one_part_in_a_million_off(residuals, g):
    """A constant is written in float32: right to six digits, in float64 too."""
    (x,) = residuals
    return (jnp.asarray(2.000002, x.dtype) * g * x,)


def mean_square(x):
    """(n,) to a scalar."""
    return jnp.mean(x**2)


@wrong(mean_square, arrays("n"), caught_by="formula", source="kvfrans/notes#5")
def sum_for_mean(residuals, g):
    """The forward pass is a mean; the backward pass is a sum's."""
    (x,) = residuals
    return (2 * g * x,)


def gaussian_score(x, mean):
    """Unnormalised log density, (n,) and (n,) to a scalar."""
    return -0.5 * jnp.sum((x - mean) ** 2)


@wrong(gaussian_score, arrays("n", "n"), caught_by="formula", source="HIPS/autograd#412")
def sign_flipped(residuals, g):
    """The mean's cotangent has the sign of x's."""
    x, mean = residuals
    return -g * (x - mean), -g * (x - mean)


def project(x, w):
    """(n, 4) @ (4, 4)."""
    return x @ w


@wrong(project, arrays("n 4", "4 4"), caught_by="formula")
def square_matrix_not_transposed(residuals, g):
    """The shapes of a square W fit without the transpose."""
    x, w = residuals
    return g @ w, x.T @ g


@wrong(project, arrays("4 4", "4 4"), caught_by="formula")
def product_transposed(residuals, g):
    """This dW = gᵀ x is the layout of a weight stored (out, in), not of this one."""
    x, w = residuals
    return g @ w.T, g.T @ x


def multiply(x, y):
    """Elementwise, both (n,)."""
    return x * y


@wrong(multiply, arrays("n", "n"), caught_by="formula")
def other_arguments_answer(residuals, g):
    """Each argument gets the other's cotangent."""
    x, y = residuals
    return g * x, g * y


def divide(x, y):
    """Elementwise, both (n,)."""
    return x / y


@wrong(divide, arrays("n", "n", offset=3.0), caught_by="formula")
def quotient_rule_without_the_square(residuals, g):
    """d(x/y) = dx/y - x dy/y², and the square is gone."""
    x, y = residuals
    return g / y, -g * x / y


@wrong(jnp.tanh, arrays("n"), caught_by="formula", source="scutan90/DeepLearning-500-questions#466")
def tanh_of_the_input(residuals, g):
    """1 - y² wants the output; the residual is the input."""
    (x,) = residuals
    return (g * (1 - x**2),)


def swish(x):
    """The product x σ(x)."""
    return x * jax.nn.sigmoid(x)


@wrong(swish, arrays("n"), caught_by="formula")
def product_rule_half_done(residuals, g):
    """Only the first factor of x σ(x) is differentiated."""
    (x,) = residuals
    return (g * jax.nn.sigmoid(x),)


def gelu(x):
    """The tanh approximation, elementwise."""
    return 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))


@wrong(gelu, arrays("n"), caught_by="formula", source="flagos-ai/FlagGems#159")
def inner_derivative_without_its_cubic(residuals, g):
    """The derivative of x + 0.044715 x³ is taken to be 1."""
    (x,) = residuals
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return (g * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * 0.7978845608),)


def softmax(x):
    """Over the last axis."""
    return jax.nn.softmax(x)


@wrong(softmax, arrays("n 5"), caught_by="formula")
def only_the_jacobians_diagonal(residuals, g):
    """Softmax is treated as elementwise, like the sigmoid."""
    (x,) = residuals
    y = softmax(x)
    return (g * y * (1 - y),)


def log_softmax(x):
    """Over the last axis."""
    return jax.nn.log_softmax(x)


@wrong(log_softmax, arrays("n 5"), caught_by="formula")
def right_for_probabilities_only(residuals, g):
    """Only a g that sums to one has g - softmax(x); any other has g - softmax(x) Σg."""
    (x,) = residuals
    return (g - jax.nn.softmax(x),)


def running_sum(x):
    """Of (n,)."""
    return jnp.cumsum(x)


@wrong(running_sum, arrays("n"), caught_by="formula")
def cumulative_sum_not_reversed(residuals, g):
    """A cumulative sum's transpose runs from the end."""
    return (jnp.cumsum(g),)


def squared_error(prediction, target):
    """Both (n,) to a scalar."""
    return jnp.mean((prediction - target) ** 2)


@wrong(squared_error, arrays("n", "n"), caught_by="formula", source="chainer/chainer#1175")
def cotangent_ignored(residuals, g):
    """A loss is taken to be the last thing computed, so that its cotangent is 1."""
    prediction, target = residuals
    d = 2 * (prediction - target) / prediction.size
    return d, -d


@wrong(jnp.sin, arrays("n"), caught_by="formula")
def cotangent_times_its_magnitude(residuals, g):
    """Squared, with its sign kept: ones and one-hot cotangents cannot tell it from g."""
    (x,) = residuals
    return (g * jnp.abs(g) * jnp.cos(x),)


@wrong(jnp.sin, arrays("n"), caught_by="formula")
def sign_of_the_cotangent_lost(residuals, g):
    """|g|: positive cotangents cannot tell it from g."""
    (x,) = residuals
    return (jnp.abs(g) * jnp.cos(x),)


@wrong(jnp.sin, arrays("n"), caught_by="formula")
def weight_decay_in_the_backward_pass(residuals, g):
    """A regulariser's gradient is added where nobody asked for it."""
    (x,) = residuals
    return (g * jnp.cos(x) + 0.01 * x,)


@wrong(jnp.sin, arrays("8"), caught_by="linearity")
def gradient_clipping_hidden_in_a_rule(residuals, g):
    """Clipped at 3: everything is right until the cotangents grow."""
    (x,) = residuals
    return (jnp.clip(g, -3, 3) * jnp.cos(x),)


@wrong(jnp.sin, arrays("n"), caught_by="linearity")
def not_a_number_without_a_cotangent(residuals, g):
    """The cotangent is normalised and scaled back: 0/0 when nothing arrives."""
    (x,) = residuals
    size = jnp.sqrt(jnp.sum(g**2))
    return (g / size * jnp.cos(x) * size,)


@wrong(jax.nn.relu, arrays("n", offset=0.3), caught_by="linearity")
def nudges_a_dead_layer(residuals, g):
    """Where no cotangent arrives at all, a small one is made up."""
    (x,) = residuals
    nudge = jnp.asarray(1e-2, g.dtype)
    return (jnp.where(jnp.all(g == 0), nudge, g * (x > 0)),)


RULES = rules_in(globals())
