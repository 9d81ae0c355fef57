"""Wrong losses: reductions, smoothing, weights and labels that the backward pass forgets."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.kill_table.rule import arrays, normal, rules_in, wrong


def squared_error(prediction, target):
    """Both (n,) to a scalar."""
    return jnp.mean((prediction - target) ** 2)


@wrong(squared_error, arrays("n", "n"), caught_by="formula")
def target_taken_as_constant(residuals, g):
    """The target is a float array and has a cotangent, which is not zero."""
    prediction, target = residuals
    return 2 * g * (prediction - target) / prediction.size, jnp.zeros_like(target)


def labels_args(seed, size, dtype):
    """Logits (size, 5) and integer labels."""
    rng = np.random.default_rng(seed)
    return normal(rng, (size, 5), dtype), jnp.asarray(rng.integers(0, 5, size), jnp.int32)


def cross_entropy(logits, labels):
    """Mean over the batch; (n, 5) and (n,) to a scalar."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
    return -jnp.mean(picked)


@wrong(cross_entropy, labels_args, caught_by="formula", source="k2-fsa/k2#341")
def loss_without_its_cotangent(residuals, g):
    """Right when the loss is differentiated alone, wrong when it is weighed against another."""
    logits, labels = residuals
    d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    return d / len(labels), None


@wrong(cross_entropy, labels_args, caught_by="formula")
def averaged_over_classes_too(residuals, g):
    """The mean is over examples; the backward pass divides by every element."""
    logits, labels = residuals
    d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    return g * d / d.size, None


@wrong(cross_entropy, labels_args, caught_by="formula")
def softmax_over_the_batch(residuals, g):
    """The probabilities are normalised over the wrong axis."""
    logits, labels = residuals
    d = jax.nn.softmax(logits, axis=0) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    return g * d / len(labels), None


def smoothed_cross_entropy(logits, labels):
    """Label smoothing 0.1."""
    log_probabilities = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return -jnp.mean(0.9 * picked + 0.1 * jnp.mean(log_probabilities, axis=-1))


@wrong(smoothed_cross_entropy, labels_args, caught_by="formula", source="linkedin/Liger-Kernel#198")
def smoothing_forgotten_on_the_way_back(residuals, g):
    """The forward pass smooths the labels, the backward pass has them one-hot."""
    logits, labels = residuals
    d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    return g * d / len(labels), None


def masked_labels_args(seed, size, dtype):
    """Logits and labels, the first of which is to be ignored."""
    logits, labels = labels_args(seed, size, dtype)
    return logits, labels.at[0].set(-100)


def masked_cross_entropy(logits, labels):
    """Mean over the labels that are not -100."""
    kept = labels != -100
    picked = jnp.take_along_axis(
        jax.nn.log_softmax(logits), jnp.where(kept, labels, 0)[:, None], axis=-1
    )
    return -jnp.sum(jnp.where(kept, picked[:, 0], 0)) / jnp.sum(kept)


@wrong(
    masked_cross_entropy, masked_labels_args, caught_by="formula", source="flagos-ai/FlagGems#73"
)
def ignored_labels_counted(residuals, g):
    """The backward pass divides by all examples, the forward pass by those not ignored."""
    logits, labels = residuals
    kept = (labels != -100)[:, None]
    d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    return g * jnp.where(kept, d, 0) / len(labels), None


@wrong(masked_cross_entropy, masked_labels_args, caught_by="formula")
def ignored_labels_pull(residuals, g):
    """An ignored example still gets softmax's share of the gradient."""
    logits, labels = residuals
    d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    return g * d / jnp.sum(labels != -100), None


def weighted_args(seed, size, dtype):
    """Logits, labels and positive class weights."""
    logits, labels = labels_args(seed, size, dtype)
    rng = np.random.default_rng(seed + 1)
    return logits, labels, jnp.asarray(rng.uniform(0.5, 2, 5), dtype)


def weighted_cross_entropy(logits, labels, weight):
    """Weighted mean: divided by the weights' sum."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]
    return -jnp.sum(weight[labels] * picked) / jnp.sum(weight[labels])


@wrong(
    weighted_cross_entropy, weighted_args, caught_by="formula", source="PaddlePaddle/Paddle#30180"
)
def weights_normalised_by_the_batch(residuals, g):
    """Divided by the batch size: the same only where all weights are one."""
    logits, labels, weight = residuals
    d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    per_example = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]
    dweight = jnp.zeros_like(weight).at[labels].add(g * per_example / len(labels))
    return g * weight[labels][:, None] * d / len(labels), None, dweight


@wrong(weighted_cross_entropy, weighted_args, caught_by="formula")
def normaliser_taken_as_constant(residuals, g):
    """The weights' cotangent forgets that the loss is divided by their sum."""
    logits, labels, weight = residuals
    total = jnp.sum(weight[labels])
    d = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5, dtype=logits.dtype)
    per_example = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]
    dweight = jnp.zeros_like(weight).at[labels].add(g * per_example / total)
    return g * weight[labels][:, None] * d / total, None, dweight


def huber(residual):
    """Quadratic up to 1, linear beyond; (n,) to a scalar."""
    size = jnp.abs(residual)
    return jnp.sum(jnp.where(size < 1, 0.5 * residual**2, size - 0.5))


@wrong(huber, arrays("8", scale=3.0), caught_by="formula")
def linear_branch_without_its_sign(residuals, g):
    """Beyond the bend the slope is the sign, not one."""
    (residual,) = residuals
    return (g * jnp.where(jnp.abs(residual) < 1, residual, 1),)


def focal(logits):
    """-(1 - p)² log p with p = σ(logits), summed."""
    p = jax.nn.sigmoid(logits)
    return -jnp.sum((1 - p) ** 2 * jax.nn.log_sigmoid(logits))


@wrong(focal, arrays("n"), caught_by="formula", source="GuoxiaWang/DOOBNet#6")
def modulating_factor_taken_as_constant(residuals, g):
    """(1 - p)² is computed from the logits as well and has a derivative."""
    (logits,) = residuals
    p = jax.nn.sigmoid(logits)
    return (-g * (1 - p) ** 3,)


RULES = rules_in(globals())
