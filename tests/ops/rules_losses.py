"""The cases of rules.py for distances and likelihoods."""

import jax.numpy as jnp
import numpy as np

from funcnet import ops
from funcnet.ops.losses.reduction import Reduction
from tests.ops.cases import Arguments, Case, normal, positive

CLASSES = 4


def apart(rng, dtype, leading):
    """Predictions and targets that differ, and by neither 0.5 nor 1, where kinks are."""
    target = normal(rng, "float32", (*leading, 3))
    distance = rng.choice([0.2, 0.7, 1.4], size=target.shape) + rng.uniform(-0.1, 0.1, target.shape)
    prediction = target + distance * rng.choice([-1, 1], size=target.shape)
    return jnp.asarray(prediction, dtype), jnp.asarray(target, dtype)


def distance(op, *options):
    return lambda prediction, target: op(prediction, target, *options)


def labelled(weighted: bool, ignored: int | None = None) -> Arguments:
    """Every label once: a weighted mean over labels that are all the same depends on no weight.

    `ignored` stands for label 0.
    """

    def arguments(rng, dtype, leading):
        labels = np.broadcast_to(np.arange(CLASSES), (*leading, CLASSES))
        labels = jnp.asarray(rng.permuted(labels, axis=-1))
        if ignored is not None:
            labels = jnp.where(labels == 0, ignored, labels)
        args = (normal(rng, dtype, (*leading, CLASSES, CLASSES)), labels)
        return (*args, positive(rng, dtype, (CLASSES,))) if weighted else args

    return arguments


def nll_loss(**options):
    return lambda S, target, weight=None: ops.nll_loss(S, target, weight, **options)


def answered(weight: tuple[int, ...] | None = None, weighted_yes: bool = False) -> Arguments:
    def arguments(rng, dtype, leading):
        logits = normal(rng, dtype, (*leading, 3))
        args = (logits, jnp.asarray(rng.uniform(0, 1, logits.shape), dtype))
        args += () if weight is None else (positive(rng, dtype, weight),)
        return (*args, positive(rng, dtype, (3,))) if weighted_yes else args

    return arguments


def yes_or_no(reduction: Reduction = "mean"):
    def function(logits, target, weight=None, pos_weight=None):
        return ops.binary_cross_entropy_with_logits(logits, target, weight, reduction, pos_weight)

    return function


def distributions(rng, dtype, leading):
    S, T = (np.log(rng.dirichlet(np.ones(3), size=leading)) for _ in range(2))
    return jnp.asarray(S, dtype), jnp.asarray(np.exp(T), dtype)


def log_distributions(rng, dtype, leading):
    S, T = distributions(rng, "float32", leading)
    return S.astype(dtype), jnp.log(T).astype(dtype)


def kl_div(*options):
    return lambda S, T: ops.kl_div(S, T, *options)


RULES: dict[str, list[Case]] = {
    "l1_loss": [
        Case("mean", ops.l1_loss, apart, empty=False),
        Case("none", distance(ops.l1_loss, "none"), apart, minor=True),
        Case("sum", distance(ops.l1_loss, "sum"), apart, minor=True),
    ],
    "smooth_l1_loss": [
        Case("mean", ops.smooth_l1_loss, apart, empty=False),
        Case("none, beta", distance(ops.smooth_l1_loss, "none", 0.5), apart, minor=True),
        Case("sum, no parabola", distance(ops.smooth_l1_loss, "sum", 0.0), apart, minor=True),
    ],
    "huber_loss": [
        Case("mean", ops.huber_loss, apart, empty=False),
        Case("none, delta", distance(ops.huber_loss, "none", 0.5), apart, minor=True),
    ],
    "nll_loss": [
        Case("mean", ops.nll_loss, labelled(weighted=False), empty=False),
        Case(
            "mean, all options",
            nll_loss(ignore_index=2),
            labelled(weighted=True),
            empty=False,
            minor=True,
        ),
        Case("none", nll_loss(reduction="none"), labelled(weighted=True), minor=True),
        Case("sum", nll_loss(reduction="sum"), labelled(weighted=False), minor=True),
        Case("some ignored", nll_loss(), labelled(True, -100), empty=False, minor=True),
    ],
    "binary_cross_entropy_with_logits": [
        Case("mean", ops.binary_cross_entropy_with_logits, answered(), empty=False),
        Case("all weights", yes_or_no("none"), answered((3,), weighted_yes=True)),
        Case("one weight", yes_or_no("sum"), answered((1,)), minor=True),
    ],
    "kl_div": [
        Case("mean", ops.kl_div, distributions, empty=False),
        Case("none", kl_div("none"), distributions, minor=True),
        Case("batchmean", kl_div("batchmean"), distributions, empty=False, minor=True),
        Case("log target, sum", kl_div("sum", True), log_distributions),
    ],
}
