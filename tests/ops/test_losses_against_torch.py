"""Distances and likelihoods equal PyTorch's to 1e-9 in float64, over the grid of options."""

import itertools
import warnings

import jax
import numpy as np
import pytest

from funcnet import ops
from tests.ops.test_against_torch import agree, gradients, torch_gradients

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("x64")]

REDUCTIONS = ["none", "mean", "sum"]
SHAPES = [(), (5,), (3, 2), (2, 3, 4)]
DISTANCES = [
    ("l1_loss", {}),
    *(("smooth_l1_loss", {"beta": beta}) for beta in (1.0, 0.3, 0.0)),
    *(("huber_loss", {"delta": delta}) for delta in (1.0, 0.3)),
]


def cotangent(rng, reduction, shape):
    return np.asarray(rng.normal(size=shape if reduction == "none" else ()))


@pytest.mark.parametrize(("name", "options"), DISTANCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_distances(name, options, reduction, shape):
    import torch

    rng = np.random.default_rng(0)
    args = [rng.normal(size=shape), rng.normal(size=shape)]
    g = cotangent(rng, reduction, shape)
    options = {"reduction": reduction} | options
    agree(
        gradients(lambda p, t: getattr(ops, name)(p, t, **options), args, g),
        torch_gradients(lambda p, t: getattr(torch.nn.functional, name)(p, t, **options), args, g),
    )


@pytest.mark.parametrize(("name", "options"), DISTANCES)
def test_distances_at_kinks_far_ends_and_nan(name, options):
    import torch

    distances = [-np.inf, -1e200, -1.0, -0.3, -0.0, 0.0, 0.3, 1.0, 1e200, np.inf, np.nan]
    args = [jax.numpy.array(distances), jax.numpy.zeros(len(distances))]
    g = np.random.default_rng(0).normal(size=len(distances))
    options = {"reduction": "none"} | options
    ours = gradients(lambda p, t: getattr(ops, name)(p, t, **options), args, g)
    theirs = torch_gradients(
        lambda p, t: getattr(torch.nn.functional, name)(p, t, **options),
        [np.array(a) for a in args],
        g,
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


WEIGHTS = [None, np.array([0.5, 2.0, 1.25, 0.75]), np.array([0.5, 0.0, 1.25, 0.75])]


@pytest.mark.parametrize(
    ("weight", "ignore_index", "reduction", "leading"),
    list(itertools.product(WEIGHTS, [-100, 0, 2], REDUCTIONS, [(6,), (2, 3), (1,), ()])),
)
def test_nll_loss(weight, ignore_index, reduction, leading):
    rng = np.random.default_rng(0)
    S, labels = rng.normal(size=(*leading, 4)), rng.integers(0, 4, size=leading)
    g = cotangent(rng, reduction, leading)
    options = {"ignore_index": ignore_index, "reduction": reduction}
    ours = gradients(lambda S: ops.nll_loss(S, labels, weight, **options), [S], g)
    theirs = torch_gradients(lambda S: torch_nll_loss(S, labels, weight, options), [S], g)
    agree(ours, theirs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", WEIGHTS)
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


@pytest.mark.parametrize("weight", WEIGHTS)
def test_nll_loss_of_labels_that_are_all_ignored(weight):
    S, labels = np.ones((3, 4)), np.full(3, 2)
    options = {"ignore_index": 2, "reduction": "mean"}
    ours = gradients(lambda S: ops.nll_loss(S, labels, weight, **options), [S], 1.0)
    agree(ours, torch_gradients(lambda S: torch_nll_loss(S, labels, weight, options), [S], 1.0))


@pytest.mark.parametrize("weight", WEIGHTS)
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


def test_nll_loss_looks_at_no_other_class():
    S, labels = np.array([[-np.inf, -0.5], [-0.25, -np.inf]]), np.array([1, 1])
    g = np.array([0.5, -1.5])
    options = {"ignore_index": -100, "reduction": "none"}
    ours = gradients(lambda S: ops.nll_loss(S, labels, None, **options), [S], g)
    agree(ours, torch_gradients(lambda S: torch_nll_loss(S, labels, None, options), [S], g))


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


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_kl_div(shape, reduction, log_target):
    import torch

    rng = np.random.default_rng(0)
    S, T = (np.log(rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])) for _ in range(2))
    args = [S, T if log_target else np.exp(T)]
    g = cotangent(rng, reduction, shape)

    def theirs(S, T):
        with warnings.catch_warnings():  # of the mean over all entries, that it is no divergence
            warnings.simplefilter("ignore")
            return torch.nn.functional.kl_div(S, T, reduction=reduction, log_target=log_target)

    agree(
        gradients(lambda S, T: ops.kl_div(S, T, reduction, log_target), args, g),
        torch_gradients(theirs, args, g),
    )


@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_of_one_number_has_a_batchmean(log_target):
    import torch

    args = [np.array(-0.7), np.array(-0.4 if log_target else 0.3)]
    agree(
        gradients(lambda S, T: ops.kl_div(S, T, "batchmean", log_target), args, 1.5),
        torch_gradients(
            lambda S, T: torch.nn.functional.kl_div(
                S, T, reduction="batchmean", log_target=log_target
            ),
            args,
            1.5,
        ),
    )


def test_kl_div_of_a_target_without_some_classes():
    import torch

    S, T = np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    ours = gradients(lambda S: ops.kl_div(S, T, "sum"), [S], 1.5)
    kl_div = torch.nn.functional.kl_div
    theirs = torch_gradients(lambda S: kl_div(S, torch.tensor(T), reduction="sum"), [S], 1.5)
    agree(ours, theirs)
