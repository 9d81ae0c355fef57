"""What a report guesses: thirty and more typical mistakes, and decoys of which nothing is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.testing import RuleError, check_vjp


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def text_of(primal, bwd, args):
    fn = jax.custom_vjp(primal)
    fn.defvjp(lambda *args: (primal(*args), args), bwd)
    with pytest.raises(RuleError) as caught:
        check_vjp(fn, args, fast=True)
    return str(caught.value)


def guesses_in(text):
    return [line.split("guess: ")[1] for line in text.splitlines() if "guess: " in line]


X, W, V = normal(4, 3), normal(3, seed=1), normal(4, seed=2)
SQUARE, OTHER = normal(3, 3, seed=3), normal(3, 3, seed=4)
POSITIVE = jnp.abs(X) + 0.5


def softmax(x):
    return jax.nn.softmax(x, axis=-1)


def softmax_bwd(keep, times):
    """The softmax's pullback, with `keep` of its mean term and `times` the factor y."""

    def bwd(args, g):
        y = softmax(args[0])
        return (y**times * (g - keep * (g * y).sum(-1, keepdims=True)),)

    return bwd


def normalised(x):
    return x / jnp.linalg.norm(x)


def matmul(x, w):
    return x @ w


def scaled(x, w):
    return x * w


def added(x, b):
    return x + b


def mean_of_squares(x):
    return jnp.mean(x**2)


MISTAKES = {
    "sign": (jnp.sin, lambda a, g: (-g * jnp.cos(a[0]),), (X,), "the sign is wrong"),
    "factor two": (lambda x: x**2, lambda a, g: (g * a[0],), (X,), "everywhere 0.5 times"),
    "sum for mean": (
        *(mean_of_squares, lambda a, g: (2 * g * a[0],), (X,)),
        "12 is the number of elements of x; a sum where the function takes a mean?",
    ),
    "divided twice": (
        *(lambda x: x.sum(), lambda a, g: (g * jnp.ones_like(a[0]) / 4,), (X,)),
        "1 / 4, where 4 is the size of axis 0 of x",
    ),
    "zeros": (
        *(scaled, lambda a, g: (g * a[1], jnp.zeros_like(a[1])), (X, W)),
        "the rule returns zeros",
    ),
    "cotangent ignored": (
        *(lambda x: x**2, lambda a, g: (2 * a[0],), (X,)),
        "the answer does not change with the cotangent",
    ),
    "term without the cotangent": (
        *(lambda x, y: x * x * y, lambda a, g: (2 * g * a[0] * a[1], g * a[0] ** 2 - 1.128)),
        *((jnp.float32(0.7), jnp.float32(0.4)),),
        "a term of bwd does not have the cotangent as a factor",
    ),
    "regulariser": (
        *(jnp.sin, lambda a, g: (g * jnp.cos(a[0]) + 0.01 * a[0],), (X,)),
        "a term of bwd does not have the cotangent as a factor",
    ),
    "transpose": (
        *(lambda x: x @ x.T, lambda a, g: (((g + g.T) @ a[0]).T,), (SQUARE,)),
        "the transpose of the expected value",
    ),
    "out of order": (
        *(scaled, lambda a, g: (g * a[0], g * a[1]), (SQUARE, OTHER)),
        "the right answer for another argument, w: returned out of order?",
    ),
    "axis reversed": (
        *(lambda x: 3 * x, lambda a, g: (3 * g[::-1],), (X,)),
        "the expected value with axis 0 reversed",
    ),
    "off by one": (
        *(lambda x: 3 * x, lambda a, g: (3 * jnp.roll(g, 1, axis=0),), (X,)),
        "off by one along axis 0",
    ),
    "wrong product": (
        *(matmul, lambda a, g: (g @ a[1], a[0].T @ g), (SQUARE, OTHER)),
        "the wrong axis is contracted: this is g w, expected is g wᵀ",
    ),
    "wrong product of the weight": (
        *(matmul, lambda a, g: (g @ a[1].T, g.T @ a[0]), (SQUARE, OTHER)),
        "the transpose of the expected value",
    ),
    "other side of the product": (
        *(matmul, lambda a, g: (a[1].T @ g, a[0].T @ g), (SQUARE, OTHER)),
        "the wrong axis is contracted: this is wᵀ g, expected is g wᵀ",
    ),
    "wrong sum": (
        *(added, lambda a, g: (g, g.sum(1)), (SQUARE, W)),
        "this is g summed over axis 1, expected is g summed over axis 0",
    ),
    "wrong sum of a product": (
        *(scaled, lambda a, g: (g * a[1], (g * a[0]).sum(1)), (SQUARE, W)),
        "this is g x summed over axis 1, expected is g x summed over axis 0",
    ),
    "missing factor": (lambda x: x**3, lambda a, g: (3 * g * a[0],), (X,), "a missing factor x"),
    "factor twice": (
        *(scaled, lambda a, g: (g * a[1] ** 2, (g * a[0]).sum(0)), (X, W)),
        "multiplied by w once too often",
    ),
    "wrong power": (
        *(lambda x: 1 / x, lambda a, g: (-g,), (POSITIVE,)),
        "a wrong power of x",
    ),
    "mask forgotten": (
        *(jax.nn.relu, lambda a, g: (g,), (X,)),
        "where the expected value is, everywhere where x is negative: no mask?",
    ),
    "mask too many": (
        *(lambda x: 3 * x, lambda a, g: (jnp.where(a[0] > 0, 3 * g, 0),), (X,)),
        "where the expected value is not, everywhere where x is negative: a mask?",
    ),
    "first row lost": (
        *(lambda x: 3 * x, lambda a, g: ((3 * g).at[0].set(0),), (X,)),
        "zero in 3 of 12 elements, where the expected value is not: a mask?",
    ),
    "clipped": (
        *(lambda x: 3 * x, lambda a, g: (jnp.clip(3 * g, -1, 1),), (X,)),
        "the expected value clipped to a magnitude of 1",
    ),
    "clipped by its norm": (
        *(lambda x: 3 * x, lambda a, g: (g / jnp.linalg.norm(g),), (X,)),
        "its norm is 1: clipped to that norm, or normalised?",
    ),
    "missing mean term": (
        *(lambda x: x - x.mean(-1, keepdims=True), lambda a, g: (g,), (X,)),
        "the same all along axis 1: a mean or a sum along it is missing",
    ),
    "mean over the wrong axis": (
        *(lambda x: x - x.mean(), lambda a, g: (g,), (X,)),
        "a constant offset, or a missing mean",
    ),
    "factor of a row": (
        *(lambda x: x / 4 * jnp.arange(1.0, 5.0)[:, None], lambda a, g: (g / 4,), (X,)),
        "the same all along axis 1: a factor that depends on the other axes is missing",
    ),
    "mean taken off": (
        *(lambda x: 3 * x, lambda a, g: (3 * g - 3 * g.mean(),), (X,)),
        "a constant offset, or a missing mean",
    ),
    "mean of a row taken off": (
        *(lambda x: 3 * x, lambda a, g: (3 * g - 3 * g.mean(-1, keepdims=True),), (X,)),
        "a projection of the expected value: its mean along axis 1 is taken off",
    ),
    "part along the argument": (
        *(lambda x: 3 * x,),
        lambda a, g: (3 * (g - a[0] * (g * a[0]).sum() / (a[0] ** 2).sum()),),
        *((X,),),
        "a projection of the expected value: its part along x is taken off",
    ),
    "only the diagonal": (
        *(softmax, softmax_bwd(0.0, 1), (X,)),
        "is output times what is the same all along axis 1: a term such as output times the sum",
    ),
    "some signs": (
        *(jnp.abs, lambda a, g: (g,), (X,)),
        "right in magnitude; the sign is wrong in",
    ),
    "few digits": (
        *(lambda x: jnp.pi * x, lambda a, g: (3.14159 * g,), (X,)),
        "an approximation, or a constant with too few digits; rtol= declares",
    ),
    "approximation": (
        *(jnp.sin, lambda a, g: (g * (1 - a[0] ** 2 / 2 + a[0] ** 4 / 24),), (X / 2,)),
        "an approximation, or a constant with too few digits; rtol= declares",
    ),
    "NaN": (
        *(lambda x: x * 1.0, lambda a, g: (g * a[0] / a[0],), (X.at[0, 0].set(0),)),
        "the rule's answer is NaN",
    ),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", MISTAKES)
def test_typical_mistake(name):
    primal, bwd, args, guess = MISTAKES[name]
    args = args if isinstance(args, tuple) else (args,)
    found = guesses_in(text_of(primal, bwd, args))
    assert found
    assert guess in found[0]


SHAPES = {
    "broadcast": (added, lambda a, g: (g, g), (X, W), "sum over axis 0"),
    "keepdims": (
        *(added, lambda a, g: (g, g), (X, W[None])),
        "sum over axis 0, with keepdims=True",
    ),
    "two axes": (
        *(added, lambda a, g: (g, g), (normal(2, 4, 3), W)),
        "sum over axes 0, 1",
    ),
    "one of two axes": (
        *(added, lambda a, g: (g, g.sum(0)), (normal(2, 4, 3), W)),
        "sum over axis 0",
    ),
    "transposed": (lambda x: x * 2, lambda a, g: (2 * g.T,), (X,), "transposed"),
    "swapped": (matmul, lambda a, g: (a[0].T @ g, g @ a[1].T), (X, SQUARE[:, :2]), "are swapped"),
    "axis lost": (
        *(lambda x: x * 2, lambda a, g: (2 * g[:, 0],), (X[:, :1],)),
        "an axis of length one was dropped or added",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_shape(name):
    primal, bwd, args, guess = SHAPES[name]
    text = text_of(primal, bwd, args)
    assert "the cotangent of " in text
    assert "output[" not in text.split("cotangents failed")[1]
    assert guess in guesses_in(text)[0]


def noise(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


DECOYS = {
    "noise": (lambda x: 3 * x, lambda a, g: (3 * g * noise(g.shape, 5),), (X,)),
    "another function": (jnp.sin, lambda a, g: (g * jnp.exp(a[0]),), (X,)),
    "two mistakes": (softmax, softmax_bwd(0.3, 2), (X,)),
    "mixed rows": (matmul, lambda a, g: (g @ a[1].T, a[0].T @ jnp.tanh(g)), (X, SQUARE)),
}


@pytest.mark.parametrize("name", DECOYS)
def test_nothing_is_guessed_that_does_not_fit(name):
    primal, bwd, args = DECOYS[name]
    text = text_of(primal, bwd, args)
    assert "guess" not in text.split("formula failed")[1].split("\n\n")[0]
