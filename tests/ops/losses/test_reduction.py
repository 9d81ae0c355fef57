"""What becomes of the losses of examples, and what ignored, unknown and weighted labels count."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops
from funcnet.ops.losses.reduction import divisor, divisor_cotangent, masked, reduced, spread

IGNORED, UNKNOWN, CLASSES = -100, 7, 4
LABELS = jnp.array([1, IGNORED, 3, 1, 0])
LOGITS = jax.random.normal(jax.random.key(0), (5, CLASSES))
WEIGHT = jnp.array([0.5, 2.0, 1.25, 0.75])
OF_LABELS = {
    "cross_entropy": ops.cross_entropy,
    "nll_loss": lambda z, y, *options: ops.nll_loss(jax.nn.log_softmax(z), y, *options),
}


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_cotangents_of_a_reduction_are_autodiffs(reduction):
    losses, D = jnp.array([0.5, -1.5, 4.0]), jnp.float32(2.5)
    value, pullback = jax.vjp(lambda losses, D: reduced(losses, reduction, D), losses, D)
    dL = jnp.array([0.5, -2.0, 1.5]) if reduction == "none" else jnp.float32(-1.5)
    dlosses, dD = pullback(dL)
    found = jnp.broadcast_to(spread(dL, reduction, D), losses.shape)
    np.testing.assert_allclose(found, dlosses, rtol=1e-6)
    if reduction == "mean":
        np.testing.assert_allclose(divisor_cotangent(dL, value, D), dD, rtol=1e-6)


def test_a_mean_divides_by_the_number_of_losses_unless_told_otherwise():
    losses = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    assert reduced(losses, "mean") == 3
    assert reduced(losses, "mean", 2) == 6


@pytest.mark.parametrize(
    ("weight", "ignore_index", "expected"),
    [(None, IGNORED, 4), (None, 1, 3), (WEIGHT, IGNORED, 5.25), (WEIGHT, 1, 2.5)],
)
def test_the_divisor_is_the_weight_of_the_labels_that_count(weight, ignore_index, expected):
    labels = jnp.array([1, IGNORED, 3, 1, 0] if ignore_index == IGNORED else [1, 2, 3, 1, 0])
    found = divisor(labels, weight, ignore_index)
    assert found == expected
    assert found.dtype == jnp.float32


def test_the_divisor_of_probabilities_is_how_many_there_are():
    target = jnp.full((2, 3, CLASSES), 0.25)
    assert divisor(target, WEIGHT, 0) == 6


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "weighted", "ignore_index"),
    list(itertools.product(OF_LABELS, [False, True], [IGNORED, 1])),
)
def test_a_mean_is_the_sum_over_the_divisor(name, weighted, ignore_index):
    """What training relies on when it adds up batches."""
    weight = WEIGHT.astype(float) if weighted else None
    labels = jnp.where(LABELS == IGNORED, ignore_index, LABELS)
    total, mean = (
        OF_LABELS[name](LOGITS.astype(float), labels, weight, ignore_index, reduction)
        for reduction in ("sum", "mean")
    )
    D = divisor(labels, weight, ignore_index, float)
    np.testing.assert_allclose(mean * D, total, rtol=1e-12)


def test_an_ignored_label_is_0_and_an_unknown_one_nan():
    labels = jnp.array([0, IGNORED, UNKNOWN, -1, CLASSES, 3])
    found = masked(jnp.arange(1.0, 7.0), labels, CLASSES, IGNORED)
    np.testing.assert_array_equal(found, [1, 0, np.nan, np.nan, np.nan, 6])
    # Also where it replaces a number that is not finite.
    found = masked(jnp.full(2, jnp.inf), labels[:2], CLASSES, IGNORED)
    np.testing.assert_array_equal(found, [jnp.inf, 0])
    # One number for all, and a label that could be either is ignored.
    np.testing.assert_array_equal(masked(jnp.float32(2), labels[:2], CLASSES, 0), [0, jnp.nan])


def test_probabilities_keep_their_numbers():
    target = jnp.full((2, CLASSES), 0.25)
    np.testing.assert_array_equal(
        masked(jnp.array([jnp.nan, 2.0]), target, CLASSES, 0), [np.nan, 2]
    )


@pytest.mark.parametrize(
    ("name", "smoothing"), [("cross_entropy", ()), ("cross_entropy", (0.1,)), ("nll_loss", ())]
)
def test_nothing_is_learned_where_all_labels_are_ignored(name, smoothing):
    labels = jnp.full(5, IGNORED)

    def loss(logits, weight):
        return OF_LABELS[name](logits, labels, weight, IGNORED, "mean", *smoothing)

    value, gradients = jax.value_and_grad(loss, (0, 1))(LOGITS, WEIGHT)
    assert np.isnan(value)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("name", OF_LABELS)
def test_an_unknown_label_spoils_the_loss_and_no_weight_is_known_for_it(name, weight):
    labels = LABELS.at[2].set(UNKNOWN)
    value, gradient = jax.value_and_grad(
        lambda z: OF_LABELS[name](z, labels, weight, IGNORED, "mean")
    )(LOGITS)
    assert np.isnan(value)
    assert np.isnan(gradient[2]).all()
    if weight is None:
        assert np.isfinite(np.delete(gradient, 2, 0)).all()
    else:
        assert np.isnan(divisor(labels, weight, IGNORED))
        for reduction in ("mean", "sum"):
            slope = jax.grad(lambda w, r=reduction: OF_LABELS[name](LOGITS, labels, w, IGNORED, r))
            assert np.isnan(slope(weight)).all()
            assert np.isnan(jax.jit(slope)(weight)).all()
