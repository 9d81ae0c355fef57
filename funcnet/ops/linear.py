"""linear: the affine map Y = X Wᵀ + 1 bᵀ.

    X (..., N)    inputs, any number of leading batch axes, read below as one axis of rows
    W (M, N)      weight, PyTorch's layout
    b (M,)        bias, may be absent
    Y (..., M)    outputs

Write dA = ∂L/∂A for a scalar loss L, and <A, B> = sum of A * B. Perturb the inputs and keep
what is linear in the perturbations:

    δY = δX Wᵀ + X δWᵀ + 1 δbᵀ

    δL = <dY, δY>
       = <dY, δX Wᵀ> + <dY, X δWᵀ>  + <dY, 1 δbᵀ>
       = <dY W, δX>  + <dYᵀ X, δW> + <dYᵀ 1, δb>

What stands beside each perturbation is its cotangent:

    dX = dY W        dW = dYᵀ X        db = dYᵀ 1, the sum of dY over the rows

Residuals: X and W, which the caller holds anyway. Y appears in no cotangent.
"""

from typing import Final

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet.ops._checks import require_linear
from funcnet.ops._cotangents import like
from funcnet.ops._rule import rule
from funcnet.ops.kernels.linear import narrow


def _linear(
    x: Float[Array, "... in_features"],
    weight: Float[Array, "out_features in_features"],
    bias: Float[Array, " out_features"] | None = None,
) -> Float[Array, "... out_features"]:
    """Affine map of the last axis, `x @ weight.T + bias`.

    The backward pass is derived in the docstring of funcnet/ops/linear.py.

    Args:
        x: (..., in_features), floating.
        weight: (out_features, in_features), floating.
        bias: (out_features,) or None for no bias.

    Returns:
        (..., out_features), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError: the arguments do not fit each other, or are not floating.
    """
    require_linear(x, weight, bias)
    y = jnp.matmul(x, weight.T)  # (..., N) (N, M) -> (..., M)
    return y if bias is None else y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))


def _linear_fwd(x, weight, bias=None):
    return _linear(x, weight, bias), (x, weight, bias)


def _linear_bwd(residuals, dY):
    x, weight, bias = residuals
    rows = tuple(range(dY.ndim - 1))  # the batch axes
    # y = x @ weight.T + bias
    dX = jnp.matmul(dY, weight)  # (..., M) (M, N) -> (..., N)
    dW = jnp.tensordot(dY, x, axes=(rows, rows))  # (..., M) (..., N) -> (M, N)
    db = dY.sum(axis=rows)  # (..., M) -> (M,)
    return like(dX, x), like(dW, weight), None if bias is None else like(db, bias)


linear: Final = rule(_linear, _linear_fwd, _linear_bwd, kernel=narrow)
