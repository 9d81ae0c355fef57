"""Wrong shapes, structures and dtypes: broadcasting undone badly, leaves lost, axes forgotten."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.kill_table.rule import arrays, normal, rules_in, wrong


def add_bias(x, bias):
    """(..., k) and (k,)."""
    return x + jnp.broadcast_to(bias, x.shape)


@wrong(add_bias, arrays("n 2 3", "3"), caught_by="cotangents", source="ooples/AiDotNet.Tensors#234")
def bias_summed_over_one_axis_of_two(residuals, g):
    """Written for (batch, features); with a time axis the cotangent keeps it."""
    return g, jnp.sum(g, axis=0)


@wrong(add_bias, arrays("3 3", "3"), caught_by="formula")
def bias_summed_over_the_wrong_axis(residuals, g):
    """A square batch: the sum over the features has the right shape too."""
    return g, jnp.sum(g, axis=1)


@wrong(add_bias, arrays("n 3", "3"), caught_by="formula", source="mlpack/mlpack#3679")
def right_for_a_batch_of_one(residuals, g):
    """The bias gets the first example's cotangent, not the batch's sum."""
    return g, g[0]


@wrong(add_bias, arrays("n 3", "3"), caught_by="formula", source="kvfrans/notes#5")
def bias_averaged_over_the_batch(residuals, g):
    """A broadcast is undone by a sum, not by a mean."""
    return g, jnp.mean(g, axis=0)


def scale_rows(x, scale):
    """(n, 3) by (n, 1)."""
    return x * scale


@wrong(scale_rows, arrays("n 3", "n 1"), caught_by="cotangents", source="deeplearning4j/nd4j#2424")
def broadcast_not_undone(residuals, g):
    """The small argument's cotangent has the large one's shape."""
    x, scale = residuals
    return g * scale, g * x


@wrong(scale_rows, arrays("n 3", "n 1"), caught_by="cotangents")
def kept_axis_dropped(residuals, g):
    """The sum lost the axis of length one."""
    x, scale = residuals
    return g * scale, jnp.sum(g * x, axis=1)


def standardise(x):
    """Zero mean, unit variance over the last axis of (..., k)."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)


@wrong(standardise, arrays("n 2 3"), caught_by="formula", source="flagos-ai/FlagGems#5392")
def all_axes_but_the_first_normalised(residuals, g):
    """The forward pass takes any rank; the backward pass flattens to (batch, rest)."""
    (x,) = residuals
    rows = x.reshape(x.shape[0], -1)
    _, pullback = jax.vjp(standardise, rows)
    return (pullback(g.reshape(rows.shape))[0].reshape(x.shape),)


def column_scale(x, scale):
    """(n, 3) by (3,)."""
    return x * scale[None]


@wrong(column_scale, arrays("n 3", "3"), caught_by="formula", source="BobMcDear/attorch#18")
def last_partial_block_dropped(residuals, g):
    """Rows are summed in blocks of three, and what does not fill a block is lost."""
    x, scale = residuals
    whole = x.shape[0] // 3 * 3
    return g * scale[None], jnp.sum((g * x)[:whole], axis=0)


@wrong(column_scale, arrays("n 3", "3"), caught_by="cotangents", source="unslothai/unsloth#4550")
def none_for_a_weight(residuals, g):
    """None says that nothing depends on the weight, which then never learns."""
    _, scale = residuals
    return g * scale[None], None


@wrong(column_scale, arrays("n 3", "3"), caught_by="cotangents")
def one_cotangent_for_two_arguments(residuals, g):
    """A cotangent is missing altogether."""
    _, scale = residuals
    return (g * scale[None],)


def affine(x, params):
    """(n, 3) and {"scale": (3,), "shift": (3,)}."""
    return x * params["scale"][None] + params["shift"][None]


def affine_args(seed, size, dtype):
    """An input and a dict of parameters."""
    x, scale, shift = arrays("n 3", "3", "3")(seed, size, dtype)
    return x, {"scale": scale, "shift": shift}


@wrong(affine, affine_args, caught_by="cotangents")
def one_leaf_for_a_whole_dict(residuals, g):
    """JAX hands the one array to every leaf of the dict, silently."""
    _, params = residuals
    return g * params["scale"][None], jnp.sum(g, axis=0)


@wrong(affine, affine_args, caught_by="formula")
def leaves_swapped(residuals, g):
    """Both leaves have the same shape, so nobody notices."""
    x, params = residuals
    leaves = {"scale": jnp.sum(g, axis=0), "shift": jnp.sum(g * x, axis=0)}
    return g * params["scale"][None], leaves


@wrong(
    column_scale,
    arrays("n 3", "3"),
    caught_by="cotangents",
    dtypes=("bfloat16",),
    source="jax-ml/jax#27144",
)
def float32_cotangent_for_a_bfloat16_weight(residuals, g):
    """The sum is rightly taken in float32, but not cast back."""
    x, scale = residuals
    total = jnp.sum(g.astype(jnp.float32) * x.astype(jnp.float32), axis=0)
    return g * scale[None], total


def take(table, index):
    """Rows of a (3, 2) table."""
    return table[index]


def lookup_args(seed, size, dtype):
    """A table and indices, one of them repeated."""
    rng = np.random.default_rng(seed)
    index = np.concatenate([[1, 1], rng.integers(0, 3, size)])
    return normal(rng, (3, 2), dtype), jnp.asarray(index, jnp.int32)


@wrong(take, lookup_args, caught_by="cotangents", source="jax-ml/jax#7651")
def float_zeros_for_integers(residuals, g):
    """An integer's cotangent is None or float0, not zeros in its shape."""
    table, index = residuals
    return jnp.zeros_like(table).at[index].add(g), jnp.zeros(index.shape)


def sine_and_cosine(x):
    """(n,) to a pair of (n,)."""
    return jnp.sin(x), jnp.cos(x)


@wrong(sine_and_cosine, arrays("n"), caught_by="formula")
def second_output_ignored(residuals, g):
    """The cotangent of the second output is dropped."""
    (x,) = residuals
    return (g[0] * jnp.cos(x),)


@wrong(sine_and_cosine, arrays("n"), caught_by="formula")
def outputs_taken_in_the_wrong_order(residuals, g):
    """The outputs' cotangents are unpacked in the wrong order."""
    (x,) = residuals
    cosine, sine = g
    return (sine * jnp.cos(x) - cosine * jnp.sin(x),)


RULES = rules_in(globals())
