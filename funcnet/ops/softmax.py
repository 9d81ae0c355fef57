"""softmax and log_softmax: numbers to probabilities, along one axis of X (...); Y is as large.

Along that axis, X_c are the logits of the classes c and

    softmax      Y_c = exp X_c / Σ_k exp X_k
    log_softmax  Y_c = X_c - log Σ_k exp X_k

Let p = softmax(X), so that Σ_k p_k = 1. Perturbing X,

    δ log Σ_k exp X_k = Σ_k p_k δX_k

    log_softmax  δY_c = δX_c - Σ_k p_k δX_k
                 δL   = Σ_c dY_c δX_c - Σ_c dY_c Σ_k p_k δX_k

        dX_c = dY_c - p_c Σ_k dY_k                              Residual: p.

    softmax      δY_c = Y_c (δX_c - Σ_k Y_k δX_k)
                 δL   = Σ_c dY_c Y_c δX_c - Σ_c dY_c Y_c Σ_k Y_k δX_k

        dX_c = Y_c (dY_c - Σ_k Y_k dY_k)                        Residual: Y.

softmax's Y is kept by the next layer as its own input. log_softmax's Y is as well, and p = exp Y,
but the exponentials would take longer than all the rest of the backward pass. Both subtract the
maximum of X first, so that no exponential overflows; Y does not depend on it, and to the derivative
it is a constant. Half precision is computed in float32, and kept as Y or p without the digits that
1 - p of a nearly sure class needs: in bfloat16 all p above 0.998 are 1. The other classes' p have
them, and Σ_k p_k = 1 gives them back.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet._internal.checks import require_int
from funcnet.errors import ConfigError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide
from funcnet.ops._rule import rule
from funcnet.ops.kernels.sums import sums


def _softmax(x: Float[Array, "..."], dim: int = -1) -> Float[Array, "..."]:
    """Probabilities in proportion to `exp(x)` along an axis, on which they add up to 1.

    The backward pass is derived in the docstring of funcnet/ops/softmax.py.

    Args:
        x: (...), floating, of at least one axis.
        dim: the axis (PyTorch's name for it); negative counts from the last.

    Returns:
        (...), in x's dtype. NaN along an axis that holds +inf, NaN, or nothing but -inf.

    Raises:
        DtypeError, ShapeError, ConfigError: x is not a floating array, or has no such axis.
    """
    _check("softmax", x, dim)
    E = jnp.exp(_shifted(x, dim))
    return (E / sums(E, dim)).astype(x.dtype)


def _softmax_fwd(x, dim):
    y = _softmax(x, dim)
    return y, y


def _softmax_bwd(dim, y, dY):
    p, g = _adding_up(y, dim), wide(dY)
    # y = exp(x) / exp(x).sum(axis=dim)
    return (like(p * (g - (p * g).sum(axis=dim, keepdims=True)), y),)


softmax: Final = rule(_softmax, _softmax_fwd, _softmax_bwd, nondiff_argnums=(1,))


def _log_softmax(x: Float[Array, "..."], dim: int = -1) -> Float[Array, "..."]:
    """The logarithm of `softmax(x, dim)`, exact also where a probability underflows.

    The backward pass is derived in the docstring of funcnet/ops/softmax.py.

    Args:
        x: (...), floating, of at least one axis.
        dim: the axis (PyTorch's name for it); negative counts from the last.

    Returns:
        (...), in x's dtype. NaN along an axis that holds +inf, NaN, or nothing but -inf.

    Raises:
        DtypeError, ShapeError, ConfigError: x is not a floating array, or has no such axis.
    """
    return _log_softmax_fwd(x, dim)[0]


def _log_softmax_fwd(x, dim):
    _check("log_softmax", x, dim)
    z = _shifted(x, dim)
    E = jnp.exp(z)
    total = sums(E, dim)
    y, p = z - jnp.log(total), E / total
    return y.astype(x.dtype), p.astype(x.dtype)


def _log_softmax_bwd(dim, p, dY):
    g = wide(dY)
    # y = x - log(exp(x).sum(axis=dim))
    return (like(g - _adding_up(p, dim) * sums(g, dim), p),)


log_softmax: Final = rule(_log_softmax, _log_softmax_fwd, _log_softmax_bwd, nondiff_argnums=(1,))


def _shifted(x, dim):
    """X less its maximum along the axis, in at least float32."""
    z = wide(x)
    return z - jax.lax.stop_gradient(z.max(axis=dim, keepdims=True))


def _adding_up(p, dim):
    """P in at least float32. Rounded to half precision, it no longer adds up to 1, until scaled."""
    q = wide(p)
    return q if q.dtype == p.dtype else q / sums(q, dim)


def _check(function, x, dim):
    require_floating(function, x=x)
    if not -x.ndim <= require_int(f"{function}: dim", dim) < x.ndim:
        raise ConfigError(
            f"{function}: dim is {dim}, expected one of the {x.ndim} axes of an input of shape "
            f"{x.shape}"
        )
    if x.shape[dim] == 0:
        raise ShapeError(f"{function}: x has shape {x.shape}, expected at least 1 along axis {dim}")
