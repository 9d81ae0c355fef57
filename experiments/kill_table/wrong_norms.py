"""Wrong normalisations: the statistics depend on the input, and the backward pass forgets how."""

import jax.numpy as jnp

from experiments.kill_table.rule import arrays, rules_in, wrong

EPS = 1e-5


def batch_norm(x, weight, bias):
    """Over the batch: (n, 3), (3,), (3,)."""
    centred = x - jnp.mean(x, axis=0, keepdims=True)
    rstd = (jnp.mean(centred**2, axis=0, keepdims=True) + EPS) ** -0.5
    return centred * rstd * weight[None] + bias[None]


def _batch_statistics(x):
    centred = x - jnp.mean(x, axis=0, keepdims=True)
    rstd = (jnp.mean(centred**2, axis=0, keepdims=True) + EPS) ** -0.5
    return centred * rstd, rstd


@wrong(
    batch_norm, arrays("5 3", "3", "3"), caught_by="formula", source="facebookresearch/CrypTen#143"
)
def statistics_taken_as_constants(residuals, g):
    """Right for inference; in training the mean and the variance are functions of the input."""
    x, weight, _ = residuals
    xhat, rstd = _batch_statistics(x)
    return g * weight[None] * rstd, jnp.sum(g * xhat, axis=0), jnp.sum(g, axis=0)


@wrong(batch_norm, arrays("5 3", "3", "3"), caught_by="formula", source="AlexeyAB/darknet#4605")
def path_through_the_variance_lost(residuals, g):
    """The mean's term is there, the variance's is not."""
    x, weight, _ = residuals
    xhat, rstd = _batch_statistics(x)
    dxhat = g * weight[None]
    dx = rstd * (dxhat - jnp.mean(dxhat, axis=0, keepdims=True))
    return dx, jnp.sum(g * xhat, axis=0), jnp.sum(g, axis=0)


@wrong(batch_norm, arrays("5 3", "3", "3"), caught_by="formula", source="denizyuret/Knet.jl#288")
def right_for_a_weight_of_one(residuals, g):
    """The input's cotangent uses dy where it needs dy γ; γ = 1 hides it."""
    x, _, _ = residuals
    xhat, rstd = _batch_statistics(x)
    means = jnp.mean(g, axis=0, keepdims=True), jnp.mean(g * xhat, axis=0, keepdims=True)
    return rstd * (g - means[0] - xhat * means[1]), jnp.sum(g * xhat, axis=0), jnp.sum(g, axis=0)


@wrong(batch_norm, arrays("5 3", "3", "3"), caught_by="formula", source="BVLC/caffe#4110")
def unbiased_variance_on_the_way_back(residuals, g):
    """Divides by n - 1 in the backward pass, by n in the forward pass."""
    x, weight, _ = residuals
    xhat, rstd = _batch_statistics(x)
    dxhat = g * weight[None]
    projection = jnp.sum(dxhat * xhat, axis=0, keepdims=True) / (x.shape[0] - 1)
    dx = rstd * (dxhat - jnp.mean(dxhat, axis=0, keepdims=True) - xhat * projection)
    return dx, jnp.sum(g * xhat, axis=0), jnp.sum(g, axis=0)


def layer_norm(x, weight):
    """Over the last axis: (n, 5) and (5,)."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    rstd = (jnp.mean(centred**2, axis=-1, keepdims=True) + EPS) ** -0.5
    return centred * rstd * weight[None]


def _row_statistics(x):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    rstd = (jnp.mean(centred**2, axis=-1, keepdims=True) + EPS) ** -0.5
    return centred * rstd, rstd


@wrong(layer_norm, arrays("n 5", "5"), caught_by="formula", source="tenstorrent/tt-metal#53204")
def mean_subtracted_twice(residuals, g):
    """A buffer was not cleared, and the mean's term counts double."""
    x, weight = residuals
    xhat, rstd = _row_statistics(x)
    dxhat = g * weight[None]
    projection = xhat * jnp.mean(dxhat * xhat, axis=-1, keepdims=True)
    dx = rstd * (dxhat - 2 * jnp.mean(dxhat, axis=-1, keepdims=True) - projection)
    return dx, jnp.sum(g * xhat, axis=0)


@wrong(layer_norm, arrays("n 5", "5"), caught_by="formula")
def epsilon_outside_the_root(residuals, g):
    """1/(√v + ε) on the way back, 1/√(v + ε) on the way there: equal to three digits."""
    x, weight = residuals
    xhat, rstd = _row_statistics(x)
    rstd = 1 / (jnp.sqrt(rstd**-2 - EPS) + EPS)
    dxhat = g * weight[None]
    projection = xhat * jnp.mean(dxhat * xhat, axis=-1, keepdims=True)
    dx = rstd * (dxhat - jnp.mean(dxhat, axis=-1, keepdims=True) - projection)
    return dx, jnp.sum(g * xhat, axis=0)


def gemma_norm(x, weight):
    """RMS norm whose scale is 1 + weight; (n, 5) and (5,)."""
    return x * (jnp.mean(x**2, axis=-1, keepdims=True) + EPS) ** -0.5 * (1 + weight[None])


@wrong(gemma_norm, arrays("n 5", "5"), caught_by="formula", source="linkedin/Liger-Kernel#1135")
def offset_of_the_weight_forgotten(residuals, g):
    """The scale is 1 + w; the backward pass multiplies by w."""
    x, weight = residuals
    rrms = (jnp.mean(x**2, axis=-1, keepdims=True) + EPS) ** -0.5
    xhat = x * rrms
    dxhat = g * weight[None]
    dx = rrms * (dxhat - xhat * jnp.mean(dxhat * xhat, axis=-1, keepdims=True))
    return dx, jnp.sum(g * xhat, axis=0)


@wrong(gemma_norm, arrays("n 5", "5"), caught_by="formula", source="karpathy/llm.c#763")
def weight_left_out_of_the_inputs_cotangent(residuals, g):
    """The input's cotangent is computed from dy, without the scale."""
    x, _ = residuals
    rrms = (jnp.mean(x**2, axis=-1, keepdims=True) + EPS) ** -0.5
    xhat = x * rrms
    dx = rrms * (g - xhat * jnp.mean(g * xhat, axis=-1, keepdims=True))
    return dx, jnp.sum(g * xhat, axis=0)


def unit(x):
    """Rows of (n, 3) divided by their length."""
    return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))


@wrong(unit, arrays("n 3"), caught_by="formula")
def length_taken_as_constant(residuals, g):
    """The projection off the row's own direction is missing."""
    (x,) = residuals
    return (g / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)),)


RULES = rules_in(globals())
