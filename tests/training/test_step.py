"""`Trainer.step` is one update: pure, jit-able, with a key told by the count of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnet as fn
from funcnet.errors import DtypeError, ShapeError
from tests.same_bits import assert_same_bits
from tests.training.test_fit import CE, KEY, LABELS, MODEL, SGD, X

TRAINER = fn.Trainer(MODEL, CE, SGD, 4)


def test_a_step_is_gradient_descents():
    run = TRAINER.init(KEY)

    def loss_of(params):
        return CE(MODEL.apply(params, run.state, jnp.asarray(X[:4]))[0], jnp.asarray(LABELS[:4]))

    expected, gradient = jax.value_and_grad(loss_of)(run.params)
    after, loss = TRAINER.step(run, (X[:4], LABELS[:4]))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - 0.5 * g, rtol=1e-5, atol=1e-7),
        after.params,
        run.params,
        gradient,
    )
    assert (after.step, after.epoch, run.step) == (1, 0, 0)
    again, _ = jax.jit(TRAINER.step)(run, (jnp.asarray(X[:4]), jnp.asarray(LABELS[:4])))
    assert_same_bits(again, after)


def test_one_batch_is_one_epoch_of_run():
    """Of a set that is one batch; the order within it rounds otherwise."""
    t = fn.Trainer(MODEL, CE, SGD, 11)
    whole, history = t.run(t.init(KEY), (X, LABELS), 1)
    after, loss = t.step(t.init(KEY), (X, LABELS))
    np.testing.assert_allclose(loss, history["loss"][0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        after.params,
        whole.params,
    )
    assert whole.step == after.step == 1


def test_run_counts_its_steps():
    run, _ = TRAINER.run(TRAINER.init(KEY), (X, LABELS), 2)
    assert (run.step, run.epoch) == (6, 2)
    assert run.step.dtype == jnp.int32


def test_layers_draw_afresh_in_each_step():
    model = fn.Sequential(fn.Dropout(0.5), fn.Linear(2, 3))
    t = fn.Trainer(model, CE, SGD, 4)
    run = t.init(KEY)
    batch = X[:4], LABELS[:4]
    first = t.step(run, batch)[1]
    assert first == t.step(run, batch)[1]
    assert first != t.step(run._replace(step=jnp.int32(1)), batch)[1]


def test_mistakes():
    run = TRAINER.init(KEY)
    with pytest.raises(ShapeError, match="batch's x has 4 examples and y has 3"):
        TRAINER.step(run, (X[:4], LABELS[:3]))
    with pytest.raises(DtypeError, match="run is tuple, expected a TrainState"):
        TRAINER.step((), (X, LABELS))  # pyright: ignore[reportArgumentType]
