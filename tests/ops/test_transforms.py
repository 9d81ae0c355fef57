"""What every op's rule holds to, whatever the shape, dtype and transformation.

Without check_vjp, which judges the same in the fast suite: so that its own mistakes are seen.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcnet import ops

pytestmark = pytest.mark.usefixtures("x64")

DTYPES = ["float64", "float32", "bfloat16", "float16"]


class Op(NamedTuple):
    """A function of floating arrays, the arrays, and the same function without a rule."""

    call: Any
    arguments: tuple
    twin: Any


def numbers(seed, shape, dtype):
    """Numbers of either sign, away from the kink of relu."""
    draw = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(draw + 0.2 * np.sign(draw), dtype)


def make(name, leading=(3,), dtype="float64", classes=4) -> Op:
    z, t = numbers(0, (*leading, classes), dtype), numbers(1, (*leading, classes), dtype)
    w, b = numbers(2, (5, classes), dtype), numbers(3, (5,), dtype)
    labels = jnp.asarray(np.random.default_rng(4).integers(0, classes, leading))
    probabilities, weight = jax.nn.softmax(t), jnp.abs(numbers(5, (classes,), dtype))
    if name == "linear":
        return Op(
            ops.linear,
            (z, w, b),
            lambda x, w, b: (
                jnp.einsum("...n,mn->...m", x, w) + b.reshape((1,) * (x.ndim - 1) + (5,))
            ),
        )
    if name == "linear without bias":
        return Op(ops.linear, (z, w), lambda x, w: jnp.einsum("...n,mn->...m", x, w))
    if name == "relu":
        return Op(ops.relu, (z,), lambda x: jnp.where(x > 0, x, 0))
    if name == "tanh":
        return Op(ops.tanh, (z,), jnp.tanh)
    if name == "mse_loss":
        return Op(ops.mse_loss, (z, t), lambda p, t: jnp.square(p - t).mean())

    def cross_entropy(z, target, weight):
        w = weight.reshape((1,) * (z.ndim - 1) + (classes,))
        return -(w * target * jax.nn.log_softmax(z)).sum() / max(labels.size, 1)

    if name == "cross_entropy of probabilities":
        return Op(ops.cross_entropy, (z, probabilities, weight), cross_entropy)
    assert name == "cross_entropy of labels"

    def of_labels(z, weight):
        one_hot = jax.nn.one_hot(labels, classes, dtype=z.dtype)
        w = weight.reshape((1,) * (z.ndim - 1) + (classes,))
        return cross_entropy(z, one_hot, weight) * max(labels.size, 1) / (one_hot * w).sum()

    return Op(lambda z, weight: ops.cross_entropy(z, labels, weight), (z, weight), of_labels)


NAMES = [
    "linear",
    "linear without bias",
    "relu",
    "tanh",
    "mse_loss",
    "cross_entropy of labels",
    "cross_entropy of probabilities",
]


def pulled_back(op, arguments, call=None):
    """The cotangents of the arguments for a fixed cotangent of the output."""
    output, pullback = jax.vjp(call or op.call, *arguments)
    return output, pullback(numbers(9, output.shape, output.dtype))


def close(found, expected, tolerance=1e-10):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, float), np.asarray(b, float), rtol=tolerance, atol=tolerance
        ),
        found,
        expected,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_cotangents_keep_shape_and_dtype_and_agree_with_autodiff(name, dtype):
    op, wide = make(name, dtype=dtype), make(name)
    output, cotangents = pulled_back(op, op.arguments)
    assert output.dtype == dtype
    for argument, cotangent in zip(op.arguments, cotangents, strict=True):
        assert (cotangent.shape, cotangent.dtype) == (argument.shape, argument.dtype)
    exact = tuple(argument.astype(float) for argument in op.arguments)
    expected, pullback = jax.vjp(wide.twin, *exact)
    g = numbers(9, output.shape, dtype).astype(float)
    tolerance = max(1e-10, 30 * float(jnp.finfo(dtype).eps))
    close((output, *cotangents), (expected, *pullback(g)), tolerance)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    name=st.sampled_from(NAMES),
    leading=st.lists(st.integers(0, 2), max_size=3).map(tuple),
    classes=st.integers(1, 3),
)
def test_any_leading_axes(name, leading, classes):
    op = make(name, leading, classes=classes)
    output, cotangents = pulled_back(op, op.arguments)
    for argument, cotangent in zip(op.arguments, cotangents, strict=True):
        assert cotangent.shape == argument.shape
    if 0 in leading:
        # The mean over nothing is NaN, as PyTorch's; there is no gradient in it.
        close(cotangents, jax.tree.map(jnp.zeros_like, cotangents))
        return
    expected, pullback = jax.vjp(op.twin, *op.arguments)
    close((output, cotangents), (expected, pullback(numbers(9, output.shape, output.dtype))))


MIXED = list(itertools.product(["float32", "bfloat16"], repeat=3))


@pytest.mark.few(3)
@pytest.mark.parametrize("dtypes", MIXED)
def test_mixed_dtypes_promote_forward_and_return_backward(dtypes):
    x, w, b = (a.astype(d) for a, d in zip(make("linear").arguments, dtypes, strict=True))
    output, cotangents = pulled_back(make("linear"), (x, w, b))
    assert output.dtype == jnp.result_type(x, w, b)
    assert [c.dtype for c in cotangents] == [a.dtype for a in (x, w, b)]
    for p, t in itertools.permutations((x, x.astype("float32")), 2):
        output, (dP, dT) = pulled_back(make("mse_loss"), (p, t), ops.mse_loss)
        assert output.dtype == jnp.result_type(p, t)
        assert (dP.dtype, dT.dtype) == (p.dtype, t.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_under_jit_vmap_scan_and_checkpoint(name):
    op = make(name)

    def backward(*arguments):
        return pulled_back(op, arguments)

    expected = backward(*op.arguments)
    compiled = jax.jit(backward)
    close(compiled(*op.arguments), expected)
    close(jax.jit(lambda *a: pulled_back(op, a, jax.checkpoint(op.call)))(*op.arguments), expected)
    several = [
        jnp.stack([a, 2 * a, -a if name != "cross_entropy of labels" else a]) for a in op.arguments
    ]
    each = [compiled(*arguments) for arguments in zip(*several, strict=True)]
    together = jax.jit(jax.vmap(backward))(*several)
    close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
    _, scanned = jax.lax.scan(lambda _, a: (None, backward(*a)), None, tuple(several))
    close(scanned, together)
    for i, argument in enumerate(op.arguments):  # one argument mapped, the others not
        axes = [0 if j == i else None for j in range(len(op.arguments))]
        arguments = list(op.arguments)
        arguments[i] = jnp.stack([argument, 3 * argument])
        mapped = jax.jit(jax.vmap(backward, in_axes=axes))(*arguments)
        close(jax.tree.map(lambda leaf: leaf[0], mapped), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name):
    """Hessian-vector products, forward over reverse and reverse over reverse, and the Hessian."""
    op = make(name, (2,), classes=3)

    def scalar(call):
        # Not linear in the output, so that the cotangent varies too.
        return lambda arguments: jnp.sin(call(*arguments)).sum()

    direction = tuple(numbers(20 + i, a.shape, a.dtype) for i, a in enumerate(op.arguments))

    def forward_over_reverse(f):
        return jax.jvp(jax.grad(f), (op.arguments,), (direction,))[1]

    def reverse_over_reverse(f):
        def along(arguments):
            gradient = jax.grad(f)(arguments)
            return sum(jnp.vdot(g, d) for g, d in zip(gradient, direction, strict=True))

        return jax.grad(along)(op.arguments)

    expected = forward_over_reverse(scalar(op.twin))
    close(jax.jit(lambda: forward_over_reverse(scalar(op.call)))(), expected)
    close(jax.jit(lambda: reverse_over_reverse(scalar(op.call)))(), expected)
    close(
        jax.jit(jax.hessian(scalar(op.call)))(op.arguments),
        jax.jit(jax.hessian(scalar(op.twin)))(op.arguments),
    )


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NAMES)
def test_the_cotangent_is_a_factor(name):
    """Bwd is linear in it: zero gives zero, and it is never taken for 1."""
    op = make(name)
    output, pullback = jax.vjp(op.call, *op.arguments)
    g, h = (numbers(seed, output.shape, output.dtype) for seed in (30, 31))
    parts = jax.tree.map(lambda a, b: 3 * a - 2 * b, pullback(g), pullback(h))
    close(pullback(3 * g - 2 * h), parts)
    close(pullback(0 * g), jax.tree.map(jnp.zeros_like, parts))


@pytest.mark.parametrize("name", NAMES)
def test_one_argument_alone(name):
    op = make(name)
    _, cotangents = pulled_back(op, op.arguments)
    for i, argument in enumerate(op.arguments):

        def alone(value, i=i):
            return op.call(*op.arguments[:i], value, *op.arguments[i + 1 :])

        close(pulled_back(op, (argument,), alone)[1], (cotangents[i],))
