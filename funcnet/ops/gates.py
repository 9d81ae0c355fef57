"""silu and gelu: each entry times how far it is let through; X and Y have one shape (...).

    Y = X * P(X)

where P rises from 0 to 1. Perturbing X gives

    δY = (P(X) + X * P'(X)) * δX,        dX = dY * D,        D = P(X) + X * P'(X)

silu: P = σ, the sigmoid (Elfwing et al., 2018).  σ' = σ (1 - σ), so

        D = σ + X σ (1 - σ) = σ (1 + X (1 - σ))

gelu: P = Φ, the distribution function of the normal distribution (Hendrycks and Gimpel, 2016):

        Φ(X) = (1 + erf(X / √2)) / 2 = erfc(-X / √2) / 2,        Φ'(X) = exp(-X² / 2) / √(2π)

    erfc keeps the digits of a small Φ, which 1 + erf loses. With approximate="tanh", the paper's
    approximation,

        P = (1 + tanh U) / 2 = σ(2U),        U = √(2/π) (X + a X³),        a = 0.044715

        P' = P (1 - P) 2U',                  U' = √(2/π) (1 + 3a X²)

    Written with σ, the small values keep their digits here as well.

Residual: D alone. Y determines no X (neither function is monotonic), and X would cost as much
memory as D, and σ, erfc or exp once more. Half precision is computed in float32.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from funcnet.errors import ConfigError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide

Approximation = Literal["none", "tanh"]


def _silu(x: Array) -> Array:
    """`x * sigmoid(x)`, also called swish.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    require_floating("silu", x=x)
    z = wide(x)
    return (z * jax.nn.sigmoid(z)).astype(x.dtype)


def _silu_fwd(x):
    z = wide(x)
    P = jax.nn.sigmoid(z)  # as in the primal: XLA computes it once
    return _silu(x), (P * (1 + z * (1 - P))).astype(x.dtype)


def _silu_bwd(D, dY):
    # y = x * sigmoid(x)
    return (like(dY * D, D),)


silu = jax.custom_vjp(_silu)
silu.defvjp(_silu_fwd, _silu_bwd)


def _gelu(x: Array, approximate: Approximation = "none") -> Array:
    """`x` times the probability that a standard normal variable is less than `x`.

    Args:
        x: (...), floating.
        approximate: "none", or "tanh" for the approximation that many published models use.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
        ConfigError: another approximation.
    """
    require_floating("gelu", x=x)
    require_approximation("gelu", approximate)
    z = wide(x)
    return (z * _normal_distribution(z, approximate)).astype(x.dtype)


def _gelu_fwd(x, approximate: Approximation = "none"):
    z = wide(x)
    P = _normal_distribution(z, approximate)  # as in the primal: XLA computes it once
    if approximate == "none":
        U = -z / math.sqrt(2)  # XLA takes exp -U² for erfc, and so once for both
        slope = jnp.exp(-(U * U)) / math.sqrt(2 * math.pi)
    else:
        # x² may not overflow, or P (1 - P) U' would be 0 * inf
        squared = jnp.minimum(z * z, jnp.finfo(z.dtype).max)
        slope = P * (1 - P) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * CUBIC * squared)
    return _gelu(x, approximate), (P + z * slope).astype(x.dtype)


def _gelu_bwd(approximate, D, dY):
    # y = x * P(x)
    return (like(dY * D, D),)


gelu = jax.custom_vjp(_gelu, nondiff_argnums=(1,))
gelu.defvjp(_gelu_fwd, _gelu_bwd)

CUBIC = 0.044715


def _normal_distribution(x, approximate):
    if approximate == "none":
        return jax.lax.erfc(-x / math.sqrt(2)) / 2
    return jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (x + CUBIC * x * x * x))


def require_approximation(function: str, approximate: str) -> None:
    """Raise ConfigError unless `approximate` is "none" or "tanh"."""
    if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
        raise ConfigError(f"{function}: approximate is {approximate!r}, expected 'none' or 'tanh'")
