"""relu and its kin, tanh, sigmoid, silu, gelu: each entry on its own; X and Y have one shape (...).

For an element-wise Y = f(X), perturbing X gives δY = f'(X) * δX, hence

    δL = <dY, f'(X) * δX> = <dY * f'(X), δX>,        dX = dY * f'(X)

Where f'(X) is cheap to have from Y, the residual is Y, which the next layer keeps as its own input,
so that the activation costs no memory of its own; else it is the slope f'(X): X would cost as much
memory, and the exponential once more. At NaN all do as PyTorch. softplus, silu and gelu compute
half precision in float32.

relu: Y = max(X, 0).  f'(X) = 1 where X > 0 and 0 where X < 0. At the kink X = 0 every slope in
    [0, 1] is a subgradient; the rule takes 0, as PyTorch does. Y > 0 exactly where X > 0, so

        dX = dY where Y > 0, else 0                                         Residual: Y.

leaky_relu: Y = X where X > 0, else s X.  f'(X) is 1 or s; at the kink it is s, as in PyTorch.

        dX = dY where X > 0, else s dY

    Residual: Y, which for s >= 0 is positive exactly where X is; X for a negative s.

prelu: Y = X where X > 0, else A X, with a learned slope A, one for all channels or one for each.

        δY = δX where X > 0, else A δX + δA X
        dX = dY where X > 0, else A dY                dA = Σ dY X over the places with X <= 0

    Residual: X and A.

elu: Y = X where X > 0, else α (exp X - 1).  f'(X) is 1 or α exp X; without a kink for α = 1,
    otherwise α at 0, as in PyTorch.

    Residual: f'(X). Y + α would be α exp X as well, but of a Y that nears -α no digit is left.

softplus: Y = log(1 + exp βX) / β, and Y = X where βX exceeds a threshold.  With σ the sigmoid,

        f'(X) = β exp βX / (1 + exp βX) / β = σ(βX),        above the threshold 1

    With E = exp -|βX|, which can't overflow, Y is max(βX, 0) + log(1 + E), over β, and σ(βX) is
    1 / (1 + E), or E / (1 + E) for a negative βX; neither loses digits.
    Residual: f'(X). Y does not tell on which side of the threshold X was.

tanh: Y = tanh(X).  From tanh = sinh / cosh, f'(X) = 1 - tanh²(X), hence

        dX = dY * (1 - Y²) = dY * (1 - Y) * (1 + Y)

    The product loses no digits where |Y| nears 1; 1 - Y² does.             Residual: Y.

sigmoid: Y = σ(X) = 1 / (1 + exp -X).  f'(X) = exp(-X) / (1 + exp -X)², and 1 - Y is
    exp(-X) / (1 + exp -X), hence

        dX = dY * Y * (1 - Y)                                               Residual: Y.

silu and gelu: Y = X * P(X), where P rises from 0 to 1.

        f'(X) = P(X) + X * P'(X)                                        Residual: f'(X).

    Y determines no X: neither function is monotonic.

    silu: P = σ (Elfwing et al., 2018).  σ' = σ (1 - σ), so

        f'(X) = σ + X σ (1 - σ) = σ (1 + X (1 - σ))

    gelu: P = Φ, the distribution function of the normal distribution (Hendrycks and Gimpel, 2016).
    With U = -X / √2,

        Φ(X) = (1 + erf(-U)) / 2 = erfc(U) / 2,        Φ'(X) = exp(-U²) / √(2π)

    erfc keeps the digits of a small Φ, which 1 + erf loses. With approximate="tanh", the paper's
    approximation,

        P = (1 + tanh V) / 2 = σ(2V),        V = √(2/π) (X + a X³),        a = 0.044715

        P' = P (1 - P) 2V',                  V' = √(2/π) (1 + 3a X²)

    Written with σ, the small values keep their digits here as well.
"""

import inspect
import math
from collections.abc import Callable
from typing import Final, Literal, ParamSpec

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet._internal.checks import require_number
from funcnet.errors import ConfigError, ShapeError
from funcnet.ops._checks import require_floating, require_held
from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide
from funcnet.ops._rule import rule

Approximation = Literal["none", "tanh"]
Options = ParamSpec("Options")


def _by_output(
    primal: Callable[Options, Array], pullback: Callable[[Array, Array], Array]
) -> Callable[Options, Array]:
    """The rule of an element-wise y = primal(x) that keeps y: dX = pullback(y, dY)."""

    def forward(*x: Options.args, **none: Options.kwargs):
        y = primal(*x, **none)
        return y, y

    def backward(y, dY):
        return (like(pullback(y, dY), y),)

    return rule(primal, forward, backward)


def _by_slope(
    primal: Callable[Options, Array], forward: Callable[Options, tuple[Array, Array]]
) -> Callable[Options, Array]:
    """The rule of an element-wise y, slope = forward(x, *options) that keeps the slope f'(x)."""

    def backward(*options_and_residuals):
        *_, slope, dY = options_and_residuals
        return (like(dY * slope, slope),)

    options = range(1, len(inspect.signature(primal).parameters))
    return rule(primal, forward, backward, nondiff_argnums=tuple(options))


def _relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The positive part, `max(x, 0)`; NaN stays NaN. The gradient at 0 is 0.

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    require_floating("relu", x=x)
    return jnp.maximum(x, 0)


# y = max(x, 0); written so that a NaN passes its cotangent on instead of hiding it
relu: Final = _by_output(_relu, lambda y, dY: jnp.where(y <= 0, 0, dY))


def _leaky_relu(x: Float[Array, "..."], negative_slope: float = 0.01) -> Float[Array, "..."]:
    """`x` where it is positive, else `negative_slope * x`. The slope at 0 is `negative_slope`.

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.
        negative_slope: a static number.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
        ConfigError: the slope is not a finite number that the dtype can hold.
    """
    require_floating("leaky_relu", x=x)
    slope = require_number("leaky_relu: negative_slope", negative_slope)
    require_held("leaky_relu: negative_slope", slope, x.dtype)
    return jnp.where(x > 0, x, negative_slope * x)


def _leaky_relu_fwd(x, negative_slope):
    y = _leaky_relu(x, negative_slope)
    return y, y if negative_slope >= 0 else x


def _leaky_relu_bwd(negative_slope, kept, dY):
    # y = where(x > 0, x, negative_slope * x); kept, y or x, has x's sign
    return (like(jnp.where(kept > 0, dY, negative_slope * dY), kept),)


leaky_relu: Final = rule(_leaky_relu, _leaky_relu_fwd, _leaky_relu_bwd, nondiff_argnums=(1,))


def _prelu(
    x: Float[Array, "... channels"], weight: Float[Array, " 1_or_channels"]
) -> Float[Array, "... channels"]:
    """`x` where it is positive, else `weight * x` (He et al., 2015, equation 1).

    The slope at 0 is `weight`. The backward pass is derived in the docstring of
    funcnet/ops/activations.py.

    Args:
        x: (..., channels), floating.
        weight: (1,) for all channels or (channels,), floating.

    Returns:
        (..., channels), in the dtype that both promote to.

    Raises:
        DtypeError: x or weight is not a floating array.
        ShapeError: weight has another shape.
    """
    require_floating("prelu", x=x, weight=weight)
    if weight.ndim != 1 or weight.shape not in ((1,), x.shape[-1:]):
        raise ShapeError(
            f"prelu: weight has shape {weight.shape} and x {x.shape}, expected (1,), or "
            f"{x.shape[-1:]}, one entry for each channel, which are x's last axis"
        )
    y = jnp.where(x > 0, x, _for_channels(weight, x) * x)
    return y.astype(jnp.result_type(x, weight))


def _for_channels(weight, x):
    """A, with as many axes as x has."""
    return weight.reshape((1,) * (x.ndim - 1) + weight.shape) if x.ndim else weight[0]


def _prelu_fwd(x, weight):
    return _prelu(x, weight), (x, weight)


def _prelu_bwd(residuals, dY):
    x, weight = residuals
    # y = where(x > 0, x, weight * x)
    dX = jnp.where(x > 0, dY, _for_channels(weight, x) * dY)
    dA = jnp.where(x > 0, 0, wide(dY) * x)
    axes = tuple(range(x.ndim)) if weight.shape == (1,) else tuple(range(x.ndim - 1))
    return like(dX, x), like(dA.sum(axis=axes).reshape(weight.shape), weight)


prelu: Final = rule(_prelu, _prelu_fwd, _prelu_bwd)


def _elu(x: Float[Array, "..."], alpha: float = 1.0) -> Float[Array, "..."]:
    """`x` where it is positive, else `alpha * (exp(x) - 1)` (Clevert et al., 2016, equation 15).

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.
        alpha: a static number. The slope at 0 is alpha.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
        ConfigError: alpha is not a finite number that the dtype can hold.
    """
    return _elu_and_slope(x, alpha)[0]


def _elu_and_slope(x: Array, alpha: float = 1.0) -> tuple[Array, Array]:
    require_floating("elu", x=x)
    require_held("elu: alpha", require_number("elu: alpha", alpha), x.dtype)
    # Of the branch not taken, neither exp nor its derivative may overflow.
    negative = jnp.where(x <= 0, x, 0)
    y = jnp.where(x <= 0, alpha * jnp.expm1(negative), x)
    return y, jnp.where(x <= 0, alpha * jnp.exp(negative), 1)


elu: Final = _by_slope(_elu, _elu_and_slope)


def _softplus(
    x: Float[Array, "..."], beta: float = 1.0, threshold: float = 20.0
) -> Float[Array, "..."]:
    """A smooth relu, `log(1 + exp(beta * x)) / beta`; `x` where `beta * x > threshold`.

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.
        beta: a static number, not 0; the larger, the closer to relu.
        threshold: a static number.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
        ConfigError: beta or the threshold is not a finite number, or beta is 0.
    """
    return _softplus_and_slope(x, beta, threshold)[0]


def _softplus_and_slope(
    x: Array, beta: float = 1.0, threshold: float = 20.0
) -> tuple[Array, Array]:
    require_floating("softplus", x=x)
    require_beta("softplus: beta", beta)
    require_number("softplus: threshold", threshold)
    z = beta * wide(x)
    E = jnp.exp(-jnp.abs(z))
    soft = (jnp.maximum(z, 0) + jnp.log1p(E)) / beta
    slope = jnp.where(z > threshold, 1, jnp.where(z < 0, E, 1) / (1 + E))
    return jnp.where(z > threshold, x, soft.astype(x.dtype)), slope.astype(x.dtype)


softplus: Final = _by_slope(_softplus, _softplus_and_slope)


def _tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The hyperbolic tangent.

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    require_floating("tanh", x=x)
    return jnp.tanh(x)


# y = tanh(x), y' = 1 - y²
tanh: Final = _by_output(_tanh, lambda y, dY: dY * (1 - y) * (1 + y))


def _sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The logistic function, `1 / (1 + exp(-x))`.

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    require_floating("sigmoid", x=x)
    return jax.nn.sigmoid(x)


# y = 1 / (1 + exp(-x)), y' = y (1 - y)
sigmoid: Final = _by_output(_sigmoid, lambda y, dY: dY * y * (1 - y))


def _silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x * sigmoid(x)`, also called swish.

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    return _silu_and_slope(x)[0]


def _silu_and_slope(x: Array) -> tuple[Array, Array]:
    require_floating("silu", x=x)
    z = wide(x)
    P = jax.nn.sigmoid(z)
    return (z * P).astype(x.dtype), (P * (1 + z * (1 - P))).astype(x.dtype)


silu: Final = _by_slope(_silu, _silu_and_slope)


def _gelu(x: Float[Array, "..."], approximate: Approximation = "none") -> Float[Array, "..."]:
    """`x` times the probability that a standard normal variable is less than `x`.

    The backward pass is derived in the docstring of funcnet/ops/activations.py.

    Args:
        x: (...), floating.
        approximate: "none", or "tanh" for the approximation that many published models use.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
        ConfigError: another approximation.
    """
    return _gelu_and_slope(x, approximate)[0]


def _gelu_and_slope(x: Array, approximate: Approximation = "none") -> tuple[Array, Array]:
    require_floating("gelu", x=x)
    require_approximation("gelu", approximate)
    z = wide(x)
    if approximate == "none":
        U = -z / math.sqrt(2)
        P = jax.lax.erfc(U) / 2
        dP = jnp.exp(-(U * U)) / math.sqrt(2 * math.pi)
    else:
        a, scale = 0.044715, 2 * math.sqrt(2 / math.pi)
        P = jax.nn.sigmoid(scale * (z + a * z * z * z))
        # x² may not overflow, or P (1 - P) V' would be 0 * inf
        squared = jnp.minimum(z * z, jnp.finfo(z.dtype).max)
        dP = P * (1 - P) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * a * squared)
    return (z * P).astype(x.dtype), (P + z * dP).astype(x.dtype)


gelu: Final = _by_slope(_gelu, _gelu_and_slope)


def require_beta(name: str, beta: float) -> float:
    """Softplus's beta as a float; ConfigError unless it is a finite number other than 0."""
    number = require_number(name, beta)
    if number == 0:
        raise ConfigError(f"{name} is 0, expected another number: it is divided by")
    return number


def require_approximation(function: str, approximate: str) -> None:
    """Raise ConfigError unless `approximate` is "none" or "tanh"."""
    if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
        raise ConfigError(f"{function}: approximate is {approximate!r}, expected 'none' or 'tanh'")
