"""Products of linear as a CPU is quick at: narrow layers features by rows, tall ones turned.

On a CPU, XLA computes (M, N) (N, R) in half the time of (R, N) (N, M) when M and N are small and
the R rows many. So batches of narrow vectors are computed transposed,

    Yᵀ = W Xᵀ + b 1ᵀ        dXᵀ = Wᵀ dYᵀ        dW = dYᵀ X        db = dYᵀ 1

and in a chain of layers the transposes meet and cancel. Fences stop XLA from undoing it. Wide
layers gain nothing.

Where there are many rows and more outputs than inputs, XLA copies dY, the wider operand, for
dW = dYᵀ X. With X on the left it copies X, and the fence behind the product keeps XLA from turning
that around again:

    dW = (Xᵀ dY)ᵀ

In half precision dX = dY W is computed with a result in float32, which is rounded once: XLA has a
fast form of that for processors with AVX512-BF16 or AMX, and else widens both operands. Of Y = X Wᵀ
and of dW it has none: each takes what float32 takes.
"""

import jax
import jax.numpy as jnp

from funcnet.ops._checks import require_linear
from funcnet.ops._cotangents import like
from funcnet.ops._rule import Form
from funcnet.ops.kernels.fence import eigen_multiplies, fence, over_rows, product
from funcnet.ops.kernels.shapes import are_known
from funcnet.ops.kernels.thresholds import NARROW, TALL


def narrow(plain: Form) -> Form:
    """The form of linear that computes narrow layers transposed, and the others as they are."""

    def primal(x, weight, bias=None):
        require_linear(x, weight, bias)
        return _narrow(x, weight, bias) if _is_narrow(x, weight) else plain.primal(x, weight, bias)

    def forward(x, weight, bias=None):
        return primal(x, weight, bias), (x, weight, bias)

    def backward(residuals, dY):
        x, weight, _ = residuals
        if _is_narrow(x, weight):
            return _narrow_bwd(residuals, dY)
        if _is_tall(x, weight) or dY.dtype.itemsize == 2:
            return _wide_bwd(residuals, dY)
        return plain.backward(residuals, dY)

    return Form(primal, forward, backward)


def _wide_bwd(residuals, dY):
    x, weight, bias = residuals
    rows = tuple(range(dY.ndim - 1))  # the batch axes
    wide = jnp.promote_types(dY.dtype, jnp.float32)
    dX = jnp.matmul(dY, weight.astype(dY.dtype), preferred_element_type=wide)
    if _is_tall(x, weight):
        dW = jax.lax.platform_dependent(dY, x, cpu=over_rows, default=_as_it_is)
    else:
        dW = _as_it_is(dY, x)
    db = None if bias is None else like(dY.sum(axis=rows), bias)
    return like(dX, x), like(dW, weight), db


def _as_it_is(dY, x):
    """(M, R) (R, N) -> (M, N)."""
    rows = tuple(range(dY.ndim - 1))
    return jnp.tensordot(dY, x, axes=(rows, rows))


def _is_tall(x, weight):
    outputs, inputs = weight.shape
    many = are_known(x, weight) and x.size >= TALL * inputs
    return many and outputs >= 2 * inputs


def _narrow(x, weight, bias):
    stackable = _is_stackable(x, weight)
    y = product(weight, fence(x.T, stackable))  # (M, N) (N, R) -> (M, R)
    return fence(y if bias is None else y + bias[:, None], stackable).T


def _narrow_bwd(residuals, dY):
    x, weight, bias = residuals
    stackable = _is_stackable(x, weight)
    dYt = fence(dY.T, stackable)
    # ((N, M) (M, R)).T -> (R, N)
    dX = fence(product(fence(weight.T, stackable), dYt), stackable).T
    dW = product(dYt, fence(x.T, stackable).T)  # (M, R) (R, N) -> (M, N)
    # A sum, in full precision where a product would by default have less, as on a GPU.
    ones = jnp.ones(len(x), dYt.dtype)
    db = jnp.matmul(dYt, ones, precision=jax.lax.Precision.HIGHEST)  # (M, R) (R,) -> (M,)
    return like(dX, x), like(dW, weight), None if bias is None else like(db, bias)


def _is_narrow(x, weight):
    return are_known(x, weight) and x.ndim == 2 and max(weight.shape) <= NARROW


def _is_stackable(x, weight):
    return eigen_multiplies(len(x), weight.shape, jnp.promote_types(x.dtype, weight.dtype))
