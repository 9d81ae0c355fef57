"""Loss objects are their ops with options, PyTorch's by name, and stop wrong labels."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet as fn
from funcnet import ops
from funcnet.errors import ConfigError, DataError, DtypeError, ShapeError

X = jax.random.normal(jax.random.key(0), (4, 3))
T = jax.nn.softmax(jax.random.normal(jax.random.key(1), (4, 3)))
LABELS = jnp.array([0, 2, 1, 0])
LISTED: Any = [0, 1, 2, 0]
W = (0.5, 2.0, 1.5)


def binary(*options):
    return lambda x, t: ops.binary_cross_entropy_with_logits(x, t, *options)


LOSSES: dict[str, tuple[Any, Any, jax.Array]] = {
    "NLLLoss": (
        fn.NLLLoss(W, ignore_index=2, reduction="sum"),
        lambda x, y: ops.nll_loss(x, y, jnp.array(W), 2, "sum"),
        LABELS,
    ),
    "BCEWithLogitsLoss": (
        fn.BCEWithLogitsLoss(0.5, "sum", pos_weight=np.array(W)),
        binary(jnp.array(0.5), "sum", jnp.array(W)),
        T,
    ),
    "L1Loss": (fn.L1Loss("sum"), lambda x, t: ops.l1_loss(x, t, "sum"), T),
    "SmoothL1Loss": (
        fn.SmoothL1Loss("none", 2),
        lambda x, t: ops.smooth_l1_loss(x, t, "none", 2.0),
        T,
    ),
    "HuberLoss": (fn.HuberLoss("none", 2), lambda x, t: ops.huber_loss(x, t, "none", 2.0), T),
    "KLDivLoss": (
        fn.KLDivLoss("batchmean", True),
        lambda x, t: ops.kl_div(x, t, "batchmean", True),
        T,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_object_is_its_op(name):
    loss, op, target = LOSSES[name]
    np.testing.assert_array_equal(loss(X, target), op(X, target))
    np.testing.assert_array_equal(jax.jit(loss)(X, target), jax.jit(op)(X, target))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_value(name):
    loss, _, _ = LOSSES[name]
    names = {name: getattr(fn, name) for name in fn.__all__}
    for thing in (loss, type(loss)()):
        assert eval(repr(thing), names) == thing
        assert hash(eval(repr(thing), names)) == hash(thing)
    assert loss != type(loss)()


@pytest.mark.torch
@pytest.mark.parametrize("name", LOSSES)
def test_names_and_defaults_are_pytorchs(name):
    import torch

    theirs = inspect.signature(getattr(torch.nn, name)).parameters
    expected = {k: p.default for k, p in theirs.items() if k not in ("size_average", "reduce")}
    ours = {f.name: f.default for f in dataclasses.fields(type(LOSSES[name][0]))}
    assert ours == expected
    assert list(ours) == list(expected)


WRONG: Any = "wrong"
MISFITS = {
    "reduction": (lambda: fn.L1Loss(WRONG), "L1Loss: reduction is 'wrong'"),
    "nll weight": (lambda: fn.NLLLoss((-1.0,)), "NLLLoss's weight is .* one finite number >= 0"),
    "nll weights": (lambda: fn.NLLLoss(WRONG), "NLLLoss's weight is 'wrong'"),
    "nll index": (lambda: fn.NLLLoss(ignore_index=WRONG), "NLLLoss's ignore_index is 'wrong'"),
    "weight": (lambda: fn.BCEWithLogitsLoss(np.nan), "BCEWithLogitsLoss's weight is nan"),
    "yes": (lambda: fn.BCEWithLogitsLoss(pos_weight=[-1]), "pos_weight is .-1., expected finite"),
    "beta": (lambda: fn.SmoothL1Loss(beta=-1), "SmoothL1Loss's beta is -1, expected a number >= 0"),
    "delta": (lambda: fn.HuberLoss(delta=0), "HuberLoss's delta is 0, expected a number above 0"),
    "kl": (lambda: fn.KLDivLoss("batch"), "KLDivLoss: reduction .* 'batchmean'"),  # pyright: ignore[reportArgumentType]
    "log": (lambda: fn.KLDivLoss(log_target=WRONG), "KLDivLoss's log_target is 'wrong'"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_options_without_meaning_are_refused(name):
    make, says = MISFITS[name]
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: ops.nll_loss(X, T), DtypeError, "target is float32.* use cross_entropy"),
        (lambda: ops.nll_loss(X, LISTED), DtypeError, "target is list, expected an array"),
        (lambda: ops.nll_loss(X, LABELS[:3]), ShapeError, r"labels of shape \(4,\); reshape"),
        (lambda: ops.nll_loss(X[0, 0], LABELS), ShapeError, "at least one class"),
        (lambda: ops.nll_loss(X, LABELS, jnp.ones(2)), ShapeError, r"weight .* expected \(3,\)"),
        (lambda: binary()(X, LABELS), DtypeError, "target is int32"),
        (lambda: binary()(X, T[0]), ShapeError, "nothing is broadcast"),
        (lambda: binary(jnp.ones(2))(X, T), ShapeError, r"weight has shape \(2,\), .*\(4, 3\)"),
        (
            lambda: binary(None, "mean", jnp.ones((1, 1, 3)))(X, T),
            ShapeError,
            r"pos_weight has shape \(1, 1, 3\)",
        ),
        (lambda: ops.l1_loss(X, T[:, :1]), ShapeError, "l1_loss: .* nothing is broadcast"),
        (lambda: ops.huber_loss(X, LABELS), DtypeError, "huber_loss: target is int32"),
        (
            lambda: ops.huber_loss(X, T, "mean", 0.0),
            ConfigError,
            "huber_loss: delta is 0, expected",
        ),
        (lambda: ops.smooth_l1_loss(X, T, "mean", -1.0), ConfigError, "smooth_l1_loss: beta is -1"),
        (lambda: ops.kl_div(X, T[0]), ShapeError, "kl_div: .* nothing is broadcast"),
    ],
)
def test_arguments_that_do_not_fit(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("label", [3, -1, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("weight", [None, jnp.array(W)])
def test_a_label_that_is_no_class_is_nan_under_jit(label, weight):
    labels = jnp.array([1, label, 0, 2])

    @jax.jit
    def losses_and_gradient(S):
        losses, pullback = jax.vjp(lambda S: ops.nll_loss(S, labels, weight, -100, "none"), S)
        return losses, pullback(jnp.ones(4))[0]

    losses, gradient = losses_and_gradient(X)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False, False])
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=-1), [False, True, False, False])
    assert np.isfinite(gradient[jnp.array([0, 2, 3])]).all()


def test_a_label_that_is_no_class_is_named():
    with pytest.raises(DataError, match=r"NLLLoss.* got label 3 at \[1\], expected 0 to 2"):
        fn.NLLLoss()(X, LABELS.at[1].set(3))
    with pytest.raises(DataError, match=r"BCEWithLogitsLoss.* got target 1.5 at \[0, 2\]"):
        fn.BCEWithLogitsLoss()(X, T.at[0, 2].set(1.5))


def fitted(model, loss, y, x=X):
    data = np.asarray(x), np.asarray(y)
    return fn.fit(
        model, loss, optax.sgd(0.5), data, epochs=60, key=jax.random.key(0), progress=False
    )


@pytest.mark.slow
def test_fit_with_nll_loss_is_fit_with_cross_entropy():
    layers = fn.Linear(3, 8), fn.Tanh(), fn.Linear(8, 3)
    found = fitted(fn.Sequential(*layers, fn.LogSoftmax()), fn.NLLLoss(), LABELS)
    expected = fitted(fn.Sequential(*layers), fn.CrossEntropyLoss(), LABELS)
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-4)
    assert found.accuracy == expected.accuracy == 1


@pytest.mark.slow
def test_fit_with_answers_of_yes_or_no():
    model = fn.Sequential(fn.Linear(3, 8), fn.Tanh(), fn.Linear(8, 2))
    y = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], np.float32)
    result = fitted(model, fn.BCEWithLogitsLoss(), y)
    right = (np.asarray(result.predict(X)) > 0) == (y == 1)
    assert result.accuracy == right.mean()
    assert right.mean() > 0.7
    assert fitted(model, fn.BCEWithLogitsLoss(), y / 2).accuracy is None


@pytest.mark.parametrize(
    ("loss", "y", "error", "says"),
    [
        (fn.NLLLoss(), [0, 1, 2, 7], DataError, r"got label 7 at \[3\]"),
        (fn.BCEWithLogitsLoss(), np.full((4, 3), 2.0), DataError, r"got target 2.0 at \[0, 0\]"),
        (fn.BCEWithLogitsLoss(), [0, 1, 1, 0], DtypeError, "target is int32"),
        (fn.BCEWithLogitsLoss(), [0.0, 1.0, 1.0, 0.0], ShapeError, "nothing is broadcast"),
    ],
)
def test_wrong_labels_stop_before_training(loss, y, error, says):
    with pytest.raises(error, match=says):
        fitted(fn.Linear(3, 3), loss, y)
