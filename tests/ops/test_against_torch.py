"""Values and gradients of every op equal PyTorch's to 1e-9 in float64, over the grid of options."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import ops

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("x64")]


def gradients(f, args, cotangent):
    """The value of `f` and the cotangents of its floating arguments, by funcnet's rules."""
    value, pullback = jax.vjp(f, *args)
    return value, pullback(jnp.asarray(cotangent))


def torch_gradients(f, args, cotangent):
    """The same from PyTorch's own backward passes."""
    import torch

    leaves = [torch.tensor(a, requires_grad=True) for a in args]
    value = f(*leaves)
    value.backward(torch.tensor(cotangent))
    return value.detach().numpy(), [np.asarray(leaf.grad) for leaf in leaves]


def agree(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
    assert len(ours[1]) == len(theirs[1])
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (5,), (3, 4), (2, 3, 2), (0,)])
def test_linear(leading, bias):
    import torch

    rng = np.random.default_rng(0)
    args = [rng.normal(size=(*leading, 3)), rng.normal(size=(4, 3))]
    args += [rng.normal(size=4)] if bias else []
    g = rng.normal(size=(*leading, 4))
    agree(gradients(ops.linear, args, g), torch_gradients(torch.nn.functional.linear, args, g))


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_activations(name):
    import torch

    x = np.array([-400.0, -9.5, -1.5, -0.0, 0.0, 1e-12, 0.3, 2.0, 9.5, 400.0])
    g = np.random.default_rng(0).normal(size=x.shape)
    ours = gradients(getattr(ops, name), [x], g)
    agree(ours, torch_gradients(getattr(torch, name), [x], g))


def test_relu_at_nan_is_pytorchs():
    import torch

    ours = gradients(ops.relu, [np.array([np.nan, 1.0])], np.array([2.0, 3.0]))
    theirs = torch_gradients(torch.relu, [np.array([np.nan, 1.0])], np.array([2.0, 3.0]))
    agree(ours, theirs)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2), (2, 3, 4)])
def test_mse_loss(shape, reduction):
    import torch

    rng = np.random.default_rng(0)
    args = [rng.normal(size=shape), rng.normal(size=shape)]
    g = rng.normal(size=shape if reduction == "none" else ())
    agree(
        gradients(lambda p, t: ops.mse_loss(p, t, reduction), args, g),
        torch_gradients(
            lambda p, t: torch.nn.functional.mse_loss(p, t, reduction=reduction), args, g
        ),
    )


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_an_impossible_class(smoothing):
    """A label whose logit is -inf costs infinitely much; another label does so by smoothing."""
    logits = np.array([[-np.inf, 0.3, 1.0], [0.5, -np.inf, -np.inf], [0.1, -np.inf, 0.2]])
    labels, g = np.array([0, 0, -100]), np.array([0.7, -1.3, 0.4])
    options = {"ignore_index": -100, "reduction": "none", "label_smoothing": smoothing}
    ours = gradients(lambda z: ops.cross_entropy(z, labels, **options), [logits], g)
    theirs = torch_gradients(
        lambda z: torch_cross_entropy(z, torch_labels(labels), None, options), [logits], g
    )
    agree(ours, theirs)


def test_cross_entropy_of_an_impossible_classs_probability():
    logits = np.array([[-np.inf, 0.3, 1.0], [0.5, 0.2, -0.4]])
    target, g = np.array([[0.2, 0.5, 0.3], [0.1, 0.0, 0.9]]), np.array([0.7, -1.3])
    options = {"ignore_index": -100, "reduction": "none", "label_smoothing": 0.0}
    ours = gradients(lambda z, t: ops.cross_entropy(z, t, **options), [logits, target], g)
    theirs = torch_gradients(
        lambda z, t: torch_cross_entropy(z, t, None, options), [logits, target], g
    )
    agree(ours, theirs)


def torch_labels(labels):
    import torch

    return torch.as_tensor(labels)
