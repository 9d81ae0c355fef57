"""Narrow products of linear: features by rows.

On a CPU, XLA computes (M, N) (N, R) in half the time of (R, N) (N, M) when M and N are small and
the R rows many. So batches of narrow vectors are computed transposed,

    Yᵀ = W Xᵀ + b 1ᵀ        dXᵀ = Wᵀ dYᵀ        dW = dYᵀ X        db = dYᵀ 1

and in a chain of layers the transposes meet and cancel. Fences stop XLA from undoing it. Wide
layers gain nothing.
"""

import jax
import jax.numpy as jnp

from funcnet.ops._checks import require_linear
from funcnet.ops._cotangents import like
from funcnet.ops._rule import Form
from funcnet.ops.kernels.fence import eigen_multiplies, fence, product
from funcnet.ops.kernels.shapes import are_known
from funcnet.ops.kernels.thresholds import NARROW


def narrow(plain: Form) -> Form:
    """The form of linear that computes narrow layers transposed, and the others as they are."""

    def primal(x, weight, bias=None):
        require_linear(x, weight, bias)
        return _narrow(x, weight, bias) if _is_narrow(x, weight) else plain.primal(x, weight, bias)

    def forward(x, weight, bias=None):
        return primal(x, weight, bias), (x, weight, bias)

    def backward(residuals, dY):
        form = _narrow_bwd if _is_narrow(*residuals[:2]) else plain.backward
        return form(residuals, dY)

    return Form(primal, forward, backward)


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
