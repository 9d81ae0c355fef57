"""The loss over a set is the same whatever its batches: PyTorch's of the whole set, and NumPy's."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from tests.training.test_fit import KEY

RNG = np.random.default_rng(1)
N, C = 13, 4
X = RNG.normal(size=(N, 3)).astype(np.float32)
LABELS = np.sort(RNG.integers(0, C, N))  # sorted, so that batches differ
FEW = np.where(np.arange(N) % 3 == 0, -100, LABELS)
NONE_AT_FIRST = np.where(np.arange(N) < 6, -100, LABELS)
WEIGHT = (0.1, 5.0, 1.0, 0.3)
PROBABILITIES = RNG.dirichlet(np.ones(C), N).astype(np.float32)
MODEL = fn.Sequential(fn.Linear(3, C), fn.LogSoftmax())
STILL = optax.sgd(0.0)

CASES: dict[str, tuple[Any, np.ndarray]] = {
    "labels": (fn.CrossEntropyLoss(), LABELS),
    "weights": (fn.CrossEntropyLoss(weight=WEIGHT), LABELS),
    "ignored": (fn.CrossEntropyLoss(), FEW),
    "weights, ignored, smoothed": (fn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), FEW),
    "a batch of none": (fn.CrossEntropyLoss(), NONE_AT_FIRST),
    "probabilities": (fn.CrossEntropyLoss(weight=WEIGHT), PROBABILITIES),
    "sum": (fn.CrossEntropyLoss(weight=WEIGHT, reduction="sum"), FEW),
    "nll": (fn.NLLLoss(weight=WEIGHT), FEW),
    "mse": (fn.MSELoss(), PROBABILITIES),
    "mse, sum": (fn.MSELoss("sum"), PROBABILITIES),
    "bce": (fn.BCEWithLogitsLoss(pos_weight=WEIGHT), PROBABILITIES),
    "kl": (fn.KLDivLoss(), PROBABILITIES),
    "kl, batchmean": (fn.KLDivLoss("batchmean"), PROBABILITIES),
}


def over_the_set(loss, y, batch_size):
    """By training with parameters that stand still, by evaluation, and in validation."""
    t = fn.Trainer(MODEL, loss, STILL, batch_size)
    run = t.init(KEY)
    result = fn.fit(
        MODEL, loss, STILL, (X, y), epochs=1, batch_size=batch_size, key=KEY, validation=(X, y),
        progress=False,
    )  # fmt: skip
    evaluated = t.evaluate(run.params, run.state, (X, y))
    return [float(evaluated), result.history["loss"][0], result.history["validation_loss"][0]]


def whole(loss, y):
    params, state = MODEL.init(KEY)
    return np.asarray(MODEL.apply(params, state, jnp.asarray(X))[0]), loss, y


@pytest.mark.few(13, 3)
@pytest.mark.parametrize("batch_size", [2, 5, 6, 100])
@pytest.mark.parametrize("name", CASES)
def test_any_batch_size_gives_the_loss_of_the_whole_set(name, batch_size):
    loss, y = CASES[name]
    logits, _, _ = whole(loss, y)
    expected = float(loss(jnp.asarray(logits), jnp.asarray(y)))
    np.testing.assert_allclose(over_the_set(loss, y, batch_size), expected, rtol=2e-6)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("name", CASES)
def test_the_loss_of_the_whole_set_is_pytorchs(name):
    import torch

    loss, y = CASES[name]
    logits, _, _ = whole(loss, y)
    options = {f.name: getattr(loss, f.name) for f in dataclasses.fields(loss)}
    for key in ("weight", "pos_weight"):
        if options.get(key) is not None:
            options[key] = torch.tensor(options[key])
    theirs = getattr(torch.nn, type(loss).__name__)(**options)
    expected = float(theirs(torch.tensor(logits), torch.tensor(y)))
    np.testing.assert_allclose(loss(jnp.asarray(logits), jnp.asarray(y)), expected, rtol=2e-6)


def test_weighted_labels_by_numpy():
    loss = fn.CrossEntropyLoss(weight=WEIGHT)
    logits, _, _ = whole(loss, LABELS)
    S = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    w = np.array(WEIGHT)[LABELS]
    expected = -(w * S[np.arange(N), LABELS]).sum() / w.sum()
    np.testing.assert_allclose(over_the_set(loss, LABELS, 5), expected, rtol=2e-6)


def test_a_batch_whose_labels_all_weigh_nothing_is_left_out_of_an_evaluation():
    loss = fn.CrossEntropyLoss(weight=(0.0, 5.0, 1.0, 0.3))
    labels = np.where(np.arange(N) < 2, 0, LABELS)
    logits, _, _ = whole(loss, labels)
    t = fn.Trainer(MODEL, loss, STILL, 2)
    found = t.evaluate(*MODEL.init(KEY), (X, labels))
    np.testing.assert_allclose(found, loss(jnp.asarray(logits), jnp.asarray(labels)), rtol=2e-6)


def test_a_function_is_averaged_over_the_examples():
    def loss(prediction, target):
        return jnp.square(prediction - target).mean()

    logits, _, _ = whole(loss, PROBABILITIES)
    expected = np.square(logits - PROBABILITIES).mean()
    np.testing.assert_allclose(over_the_set(loss, PROBABILITIES, 5), expected, rtol=2e-6)


def test_a_loss_of_ones_own_says_what_it_divides_by():
    @dataclasses.dataclass(frozen=True)
    class Positive(fn.Loss):
        """The mean error over the targets above a bound."""

        bound: float = 0.25

        def __call__(self, prediction, target):
            above = target > self.bound
            return jnp.where(above, jnp.square(prediction - target), 0).sum() / above.sum()

        def divisor(self, target):
            return (target > self.bound).sum()

    logits, _, _ = whole(None, None)
    above = PROBABILITIES > 0.25
    expected = np.square(logits - PROBABILITIES)[above].mean()
    np.testing.assert_allclose(over_the_set(Positive(), PROBABILITIES, 5), expected, rtol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_divisors_add_up(name):
    loss, y = CASES[name]
    found = [float(loss.divisor(jnp.asarray(part))) for part in (y, y[:5], y[5:])]
    if loss.reduction == "sum":
        assert found == [1, 1, 1]
    else:
        assert found[0] == pytest.approx(found[1] + found[2], rel=1e-6)


def test_which_losses_are_classifications():
    told = {
        loss.classification for loss in (fn.MSELoss(), fn.L1Loss(), fn.HuberLoss(), fn.KLDivLoss())
    }
    assert told == {None}
    assert fn.CrossEntropyLoss.classification == fn.NLLLoss.classification == "labels"
    assert fn.BCEWithLogitsLoss.classification == "answers"
