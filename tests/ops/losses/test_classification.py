"""Losses of classes: no label is taken for another, logits of any finite size, as PyTorch's."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import funcnet
from tests.ops.against_torch import agree, gradients, torch_gradients

ops: Any = funcnet.ops  # they take NumPy's arrays too

NARROW = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
WIDE = [*NARROW, "int64", "uint64"]
LOGITS = jnp.array([[3.0, -1.0, 0.5], [0.25, 1.0, -2.0]])


@jax.jit
def per_example(labels):
    return ops.cross_entropy(LOGITS, labels, None, -100, "none")


@partial(jax.jit, static_argnums=1)
def reduced(labels, reduction):
    return ops.cross_entropy(LOGITS, labels, None, -100, reduction)


def check_label_is_unknown(label, dtype):
    labels = jnp.asarray(np.array([1, label], dtype))
    assert labels.dtype == dtype
    losses = per_example(labels)
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])
    assert np.isnan(reduced(labels, "mean"))
    assert np.isnan(reduced(labels, "sum"))
    gradient = jax.grad(lambda z: ops.cross_entropy(z, labels, None, -100, "none")[0])(LOGITS)
    assert np.isfinite(gradient[0]).all()


@pytest.mark.few(4)
@pytest.mark.parametrize("dtype", NARROW)
def test_a_label_beyond_the_classes_is_nan(dtype):
    for label in {3, 100, np.iinfo(dtype).max}:
        check_label_is_unknown(label, dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_a_negative_label_is_nan_and_not_the_last_class(dtype):
    for label in (-1, -3, -101, np.iinfo(dtype).min):
        check_label_is_unknown(label, dtype)


@pytest.mark.few(5)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "label"),
    [
        ("int64", 2**32),
        ("int64", 2**32 + 1),
        ("int64", -(2**32)),
        ("int64", 2**63 - 1),
        ("uint64", 2**32),
        ("uint64", 2**63),
        ("uint64", 2**64 - 100),
        ("uint32", 2**32 - 100),
    ],
)
def test_a_label_that_wraps_is_nan(dtype, label):
    check_label_is_unknown(label, dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", WIDE)
def test_every_integer_dtype_means_the_same(dtype):
    expected = -jax.nn.log_softmax(LOGITS)[jnp.arange(2), jnp.array([2, 0])]
    np.testing.assert_allclose(per_example(jnp.array([2, 0], dtype)), expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "ignored"),
    [("uint8", 255), ("int8", -128), ("int64", 2**40), ("uint64", 2**64 - 1), ("int64", 2**31 - 1)],
)
def test_ignore_index_is_compared_in_the_labels_own_dtype(dtype, ignored):
    labels = jnp.asarray(np.array([1, ignored], dtype))
    losses = ops.cross_entropy(LOGITS, labels, None, ignored, "none")
    assert losses[1] == 0
    assert losses[0] == ops.cross_entropy(LOGITS, labels, None, ignored)
    gradient = jax.grad(lambda z: ops.cross_entropy(z, labels, None, ignored, "sum"))(LOGITS)
    np.testing.assert_array_equal(gradient[1], 0)
    assert gradient[0].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("dtype", "index"), [("uint8", -100), ("int32", 2**40), ("uint8", 256)])
def test_an_ignore_index_the_dtype_cannot_hold_ignores_nothing(dtype, index):
    labels = jnp.array([1, 0], dtype)
    found = ops.cross_entropy(LOGITS, labels, None, index, "none")
    np.testing.assert_array_equal(found, per_example(labels))
    # What it would be, cut to the dtype, is a label like others.
    aliased = jnp.asarray(np.array([1, index % 256], "uint8"))
    if index % 256 < 3:
        assert (ops.cross_entropy(LOGITS, aliased, None, index, "none") != 0).all()


@pytest.mark.few(4)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_huge_logits_give_finite_numbers(dtype, smoothing):
    top = float(jnp.finfo(dtype).max)
    z = jnp.array([[top / 2, -top / 2, 0.0], [-top, -top, -top], [1e4, 1e4, -1e4]], dtype)
    labels = jnp.array([0, 1, 0])
    losses, pullback = jax.vjp(
        lambda z: ops.cross_entropy(z, labels, None, -100, "none", smoothing), z
    )
    (gradient,) = pullback(jnp.ones(3, dtype))
    assert np.isfinite(np.asarray(gradient, float)).all()
    np.testing.assert_allclose(np.asarray(losses[1], float), np.log(3), rtol=1e-2)
    if not smoothing:
        np.testing.assert_allclose(
            np.asarray(losses, float), [0, np.log(3), np.log(2)], rtol=1e-2, atol=1e-6
        )
    third = np.array([0.5 - 1, 0.5, 0]) + smoothing * np.array([2 / 3, -1 / 3, -1 / 3])
    np.testing.assert_allclose(np.asarray(gradient[2], float), third, atol=1e-2)


def test_a_logit_of_minus_infinity_rules_its_class_out():
    z = jnp.array([[0.0, 1.0, -jnp.inf]])
    loss, gradient = jax.value_and_grad(lambda z: ops.cross_entropy(z, jnp.array([0])))(z)
    np.testing.assert_allclose(loss, np.log1p(np.e), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.7310586, 0.7310586, 0.0]], rtol=1e-6)


@settings(max_examples=30)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=5), st.floats(-1e3, 1e3))
def test_shifting_all_logits_changes_nothing(row, shift):
    z = jnp.array([row], jnp.float32)
    loss = ops.cross_entropy(z, jnp.array([0]))
    shifted = ops.cross_entropy(z + jnp.float32(shift), jnp.array([0]))
    np.testing.assert_allclose(shifted, loss, rtol=1e-4, atol=2e-4)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(2, 4), st.floats(0, 1))
def test_labels_are_their_one_hot_rows(n, classes, smoothing):
    rng = np.random.default_rng(n)
    z = jnp.asarray(rng.normal(size=(n, classes)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, classes, n))
    for reduction in ("none", "mean", "sum"):
        options = (None, -100, reduction, smoothing)
        hard = ops.cross_entropy(z, labels, *options)
        soft = ops.cross_entropy(z, jax.nn.one_hot(labels, classes), *options)
        np.testing.assert_allclose(hard, soft, rtol=1e-5, atol=1e-6)


def test_probabilities_ignore_ignore_index():
    target = jax.nn.one_hot(jnp.array([1, 2]), 3)
    for index in (0, 1, 2):
        assert ops.cross_entropy(LOGITS, target, None, index) == ops.cross_entropy(LOGITS, target)


def test_one_class_costs_nothing():
    z = jnp.array([[7.0], [-3.0]])
    loss, gradient = jax.value_and_grad(lambda z: ops.cross_entropy(z, jnp.array([0, 0])))(z)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


REDUCTIONS = ["none", "mean", "sum"]


def cotangent(rng, reduction, shape):
    return np.asarray(rng.normal(size=shape if reduction == "none" else ()))


def torch_cross_entropy(logits, target, weight, options):
    """PyTorch's cross entropy with the class axis last, as ours."""
    import torch

    classes = logits.shape[-1]
    batch = target.shape if target.ndim < logits.ndim else target.shape[:-1]
    flat = target.reshape(-1, classes) if target.is_floating_point() else target.reshape(-1)
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, classes), flat, weight=weight, **options
    )
    return loss.reshape(batch) if options["reduction"] == "none" else loss


WEIGHTS = {
    "no weight": None,
    "weights": np.array([0.5, 2.0, 1.25, 0.75]),
    "a zero weight": np.array([0.5, 0.0, 1.25, 0.75]),
}
GRID = list(
    itertools.product(
        WEIGHTS,
        [0.0, 0.1, 1.0],
        [-100, 0, 2],
        ["none", "mean", "sum"],
        [(6,), (2, 3), (), (1,)],
    )
)


@pytest.mark.few(13, 3)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("weights", "smoothing", "ignore_index", "reduction", "leading"), GRID)
def test_cross_entropy_of_labels(weights, smoothing, ignore_index, reduction, leading):
    import torch

    rng = np.random.default_rng(0)
    weight = WEIGHTS[weights]
    logits = 3 * rng.normal(size=(*leading, 4))
    labels = rng.integers(0, 4, size=leading)
    g = rng.normal(size=leading if reduction == "none" else ())
    options = {
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": smoothing,
    }
    theirs = torch_gradients(
        lambda z: torch_cross_entropy(
            z,
            torch.as_tensor(labels),
            None if weight is None else torch.tensor(weight),
            options,
        ),
        [logits],
        g,
    )
    agree(gradients(lambda z: ops.cross_entropy(z, labels, weight, **options), [logits], g), theirs)


@pytest.mark.few(13, 3)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("weights", "smoothing", "ignore_index", "reduction", "leading"), GRID)
def test_cross_entropy_of_probabilities(weights, smoothing, ignore_index, reduction, leading):
    rng = np.random.default_rng(1)
    weight = WEIGHTS[weights]
    logits = 3 * rng.normal(size=(*leading, 4))
    target = rng.dirichlet(np.ones(4), size=leading)
    g = rng.normal(size=leading if reduction == "none" else ())
    options = {
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": smoothing,
    }
    # PyTorch refuses an ignore_index for probabilities; funcnet gives it nothing to ignore.
    torch_options = options | {"ignore_index": -100}
    args = [logits, target] + ([] if weight is None else [weight])
    theirs = torch_gradients(
        lambda z, t, *w: torch_cross_entropy(z, t, w[0] if w else None, torch_options), args, g
    )
    ours = gradients(
        lambda z, t, *w: ops.cross_entropy(z, t, w[0] if w else None, **options), args, g
    )
    agree(ours, theirs)


@pytest.mark.few(4)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_all_labels_ignored(weights, smoothing):
    import torch

    weight = WEIGHTS[weights]
    logits, labels = np.ones((3, 4)), np.full(3, 2)
    options = {"ignore_index": 2, "reduction": "mean", "label_smoothing": smoothing}
    value, (dlogits,) = gradients(
        lambda z: ops.cross_entropy(z, labels, weight, **options), [logits], 1.0
    )
    theirs, (torch_dlogits,) = torch_gradients(
        lambda z: torch_cross_entropy(
            z, torch.tensor(labels), None if weight is None else torch.tensor(weight), options
        ),
        [logits],
        1.0,
    )
    assert np.isnan(value)
    assert np.isnan(theirs)
    np.testing.assert_array_equal(dlogits, 0)
    np.testing.assert_array_equal(torch_dlogits, 0)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
def test_cross_entropy_of_huge_logits():
    import torch

    logits = np.array([[1e300, -1e300, 0.0], [-1e4, 1e4, 1e4]])
    labels, g = np.array([0, 1]), np.array([0.7, -1.3])
    ours = gradients(lambda z: ops.cross_entropy(z, labels, reduction="none"), [logits], g)
    theirs = torch_gradients(
        lambda z: torch.nn.functional.cross_entropy(z, torch.tensor(labels), reduction="none"),
        [logits],
        g,
    )
    agree(ours, theirs)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_an_impossible_class(smoothing):
    """A label whose logit is -inf costs infinitely much; another label does so by smoothing."""
    import torch

    logits = np.array([[-np.inf, 0.3, 1.0], [0.5, -np.inf, -np.inf], [0.1, -np.inf, 0.2]])
    labels, g = np.array([0, 0, -100]), np.array([0.7, -1.3, 0.4])
    options = {"ignore_index": -100, "reduction": "none", "label_smoothing": smoothing}
    ours = gradients(lambda z: ops.cross_entropy(z, labels, **options), [logits], g)
    theirs = torch_gradients(
        lambda z: torch_cross_entropy(z, torch.as_tensor(labels), None, options), [logits], g
    )
    agree(ours, theirs)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
def test_cross_entropy_of_an_impossible_classs_probability():
    logits = np.array([[-np.inf, 0.3, 1.0], [0.5, 0.2, -0.4]])
    target, g = np.array([[0.2, 0.5, 0.3], [0.1, 0.0, 0.9]]), np.array([0.7, -1.3])
    options = {"ignore_index": -100, "reduction": "none", "label_smoothing": 0.0}
    ours = gradients(lambda z, t: ops.cross_entropy(z, t, **options), [logits, target], g)
    theirs = torch_gradients(
        lambda z, t: torch_cross_entropy(z, t, None, options), [logits, target], g
    )
    agree(ours, theirs)


def torch_nll_loss(S, labels, weight, options):
    """PyTorch's loss with the class axis last, as ours."""
    import torch

    loss = torch.nn.functional.nll_loss(
        S.reshape(-1, S.shape[-1]),
        torch.as_tensor(labels).reshape(-1),
        weight=None if weight is None else torch.tensor(weight),
        **options,
    )
    return loss.reshape(labels.shape) if options["reduction"] == "none" else loss


@pytest.mark.few(5)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("weight", "ignore_index", "reduction", "leading"),
    list(itertools.product(WEIGHTS.values(), [-100, 0, 2], REDUCTIONS, [(6,), (2, 3), (1,), ()])),
)
def test_nll_loss(weight, ignore_index, reduction, leading):
    rng = np.random.default_rng(0)
    S, labels = rng.normal(size=(*leading, 4)), rng.integers(0, 4, size=leading)
    g = cotangent(rng, reduction, leading)
    options = {"ignore_index": ignore_index, "reduction": reduction}
    ours = gradients(lambda S: ops.nll_loss(S, labels, weight, **options), [S], g)
    theirs = torch_gradients(lambda S: torch_nll_loss(S, labels, weight, options), [S], g)
    agree(ours, theirs)


@pytest.mark.few(4)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", WEIGHTS.values())
def test_nll_loss_ignores_labels_that_are_no_class(weight, reduction):
    rng = np.random.default_rng(0)
    S, labels, counts = rng.normal(size=(4, 4)), np.array([1, -100, 3, -100]), [0, 2]
    g = cotangent(rng, reduction, (4,))
    options = {"ignore_index": -100, "reduction": reduction}
    ours = gradients(lambda S: ops.nll_loss(S, labels, weight, **options), [S], g)
    agree(ours, torch_gradients(lambda S: torch_nll_loss(S, labels, weight, options), [S], g))
    if weight is not None:  # to PyTorch a constant
        _, dw = gradients(lambda w: ops.nll_loss(S, labels, w, **options), [weight], g)
        few = g[counts] if reduction == "none" else g
        _, expected = gradients(
            lambda w: ops.nll_loss(S[counts], labels[counts], w, **options), [weight], few
        )
        np.testing.assert_allclose(dw, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", WEIGHTS.values())
def test_nll_loss_of_labels_that_are_all_ignored(weight):
    S, labels = np.ones((3, 4)), np.full(3, 2)
    options = {"ignore_index": 2, "reduction": "mean"}
    ours = gradients(lambda S: ops.nll_loss(S, labels, weight, **options), [S], 1.0)
    agree(ours, torch_gradients(lambda S: torch_nll_loss(S, labels, weight, options), [S], 1.0))


@pytest.mark.few(4)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", WEIGHTS.values())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_of_an_ignored_label_that_is_no_class(weight, reduction):
    rng = np.random.default_rng(0)
    S, labels = rng.normal(size=(5, 4)), np.array([1, -100, 3, -100, 0])
    S[1, 0] = -np.inf
    g = cotangent(rng, reduction, (5,))
    options = {"ignore_index": -100, "reduction": reduction}
    ours = gradients(lambda S: ops.nll_loss(S, labels, weight, **options), [S], g)
    agree(ours, torch_gradients(lambda S: torch_nll_loss(S, labels, weight, options), [S], g))
    if weight is not None:
        dw = jax.grad(lambda w: (g * ops.nll_loss(S, labels, w, **options)).sum())(weight)
        kept = labels != -100
        rows = g[kept] if reduction == "none" else g
        expected = jax.grad(
            lambda w: (rows * ops.nll_loss(S[kept], labels[kept], w, **options)).sum()
        )(weight)
        np.testing.assert_allclose(dw, expected, rtol=1e-12)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
def test_nll_loss_looks_at_no_other_class():
    S, labels = np.array([[-np.inf, -0.5], [-0.25, -np.inf]]), np.array([1, 1])
    g = np.array([0.5, -1.5])
    options = {"ignore_index": -100, "reduction": "none"}
    ours = gradients(lambda S: ops.nll_loss(S, labels, None, **options), [S], g)
    agree(ours, torch_gradients(lambda S: torch_nll_loss(S, labels, None, options), [S], g))


@pytest.mark.few(11, 2)
@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5,), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("weighted", [None, "entry", "last axis", "one"])
@pytest.mark.parametrize("yes", [None, "last axis", "entry"])
def test_binary_cross_entropy_with_logits(reduction, shape, weighted, yes):
    import torch

    shapes = {"entry": shape, "last axis": shape[-1:], "one": (1,)}
    rng = np.random.default_rng(0)
    weight = None if weighted is None else rng.uniform(0.5, 2, size=shapes[weighted])
    pos_weight = None if yes is None else rng.uniform(0.5, 2, size=shapes[yes])
    args = [3 * rng.normal(size=shape), rng.uniform(size=shape)]
    g = cotangent(rng, reduction, shape)

    def theirs(x, t):
        tensors = [None if w is None else torch.tensor(w) for w in (weight, pos_weight)]
        return torch.nn.functional.binary_cross_entropy_with_logits(
            x, t, tensors[0], reduction=reduction, pos_weight=tensors[1]
        )

    def ours(x, t):
        return ops.binary_cross_entropy_with_logits(x, t, weight, reduction, pos_weight)

    agree(gradients(ours, args, g), torch_gradients(theirs, args, g))


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_binary_cross_entropy_of_huge_logits(target):
    import torch

    x = np.array([-1e300, -1e4, -40.0, 40.0, 1e4, 1e300, np.nan])
    t, g = np.full(len(x), target), np.random.default_rng(0).normal(size=len(x))

    def theirs(x, t):
        f = torch.nn.functional.binary_cross_entropy_with_logits
        return f(x, t, reduction="none")

    ours = gradients(
        lambda x, t: ops.binary_cross_entropy_with_logits(x, t, None, "none"), [x, t], g
    )
    agree(ours, torch_gradients(theirs, [x, t], g))
