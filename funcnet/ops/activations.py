"""relu and its kin, tanh and sigmoid: each array entry on its own; X and Y have one shape (...).

For an elementwise Y = f(X), perturbing X gives δY = f'(X) * δX, hence

    δL = <dY, f'(X) * δX> = <dY * f'(X), δX>,        dX = dY * f'(X)

Where f'(X) is cheap to have from Y, the residual is Y, which the next layer keeps as its own input,
so that the activation costs no memory of its own; else it is f'(X). At NaN all do as PyTorch.

relu: Y = max(X, 0).  f'(X) = 1 where X > 0 and 0 where X < 0. At the kink X = 0 every slope in
    [0, 1] is a subgradient; the rule takes 0, as PyTorch does. Y > 0 exactly where X > 0, so

        dX = dY where Y > 0, else 0                                         Residual: Y.

leaky_relu: Y = X where X > 0, else s X.  f'(X) is 1 or s; at the kink it is s, as in PyTorch.

        dX = dY where X > 0, else s dY

    Residual: Y, which for s >= 0 is positive exactly where X is; X for a negative s.

elu: Y = X where X > 0, else α (exp X - 1).  f'(X) is 1 or α exp X; without a kink for α = 1,
    otherwise α at 0, as in PyTorch.

        dX = dY * f'(X)

    Residual: f'(X). Y + α would be α exp X as well, but of a Y that nears -α no digit is left.

softplus: Y = log(1 + exp βX) / β, and Y = X where βX exceeds a threshold.  With σ the sigmoid,

        f'(X) = β exp βX / (1 + exp βX) / β = σ(βX),        above the threshold 1

        dX = dY * f'(X)

    With E = exp -|βX|, which can't overflow, Y is max(βX, 0) + log(1 + E), over β, and σ(βX) is
    1 / (1 + E), or E / (1 + E) for a negative βX; neither loses digits.
    Residual: f'(X). Y does not tell on which side of the threshold X was, and X would cost as
    much memory, and the exponential once more.

tanh: Y = tanh(X).  From tanh = sinh / cosh, f'(X) = 1 - tanh²(X), hence

        dX = dY * (1 - Y²) = dY * (1 - Y) * (1 + Y)

    The product loses no digits where |Y| nears 1; 1 - Y² does.             Residual: Y.

sigmoid: Y = σ(X) = 1 / (1 + exp -X).  f'(X) = exp(-X) / (1 + exp -X)², and 1 - Y is
    exp(-X) / (1 + exp -X), hence

        dX = dY * Y * (1 - Y)                                               Residual: Y.
"""

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_number
from funcnet.errors import ConfigError
from funcnet.ops._checks import require_floating, require_held
from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide


def _relu(x: Array) -> Array:
    """The positive part, `max(x, 0)`; NaN stays NaN. The gradient at 0 is 0.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    require_floating("relu", x=x)
    return jnp.maximum(x, 0)


def _relu_fwd(x):
    y = _relu(x)
    return y, y


def _relu_bwd(y, dY):
    # y = max(x, 0); written so that a NaN passes its cotangent on instead of hiding it
    return (like(jnp.where(y <= 0, 0, dY), y),)


relu = jax.custom_vjp(_relu)
relu.defvjp(_relu_fwd, _relu_bwd)


def _leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """`x` where it is positive, else `negative_slope * x`. The slope at 0 is `negative_slope`.

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


def _leaky_relu_fwd(x, negative_slope=0.01):
    y = _leaky_relu(x, negative_slope)
    return y, y if negative_slope >= 0 else x


def _leaky_relu_bwd(negative_slope, kept, dY):
    # y = where(x > 0, x, negative_slope * x); kept, y or x, has x's sign
    return (like(jnp.where(kept > 0, dY, negative_slope * dY), kept),)


leaky_relu = jax.custom_vjp(_leaky_relu, nondiff_argnums=(1,))
leaky_relu.defvjp(_leaky_relu_fwd, _leaky_relu_bwd)


def _elu(x: Array, alpha: float = 1.0) -> Array:
    """`x` where it is positive, else `alpha * (exp(x) - 1)` (Clevert et al., 2016, equation 15).

    Args:
        x: (...), floating.
        alpha: a static number. The slope at 0 is alpha.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
        ConfigError: alpha is not a finite number that the dtype can hold.
    """
    require_floating("elu", x=x)
    require_held("elu: alpha", require_number("elu: alpha", alpha), x.dtype)
    # Of the branch not taken, neither exp nor its derivative may overflow.
    return jnp.where(x <= 0, alpha * jnp.expm1(jnp.where(x <= 0, x, 0)), x)


def _elu_fwd(x, alpha=1.0):
    slope = jnp.where(x <= 0, alpha * jnp.exp(jnp.where(x <= 0, x, 0)), 1)
    return _elu(x, alpha), slope


def _elu_bwd(alpha, slope, dY):
    # y = where(x <= 0, alpha * expm1(x), x)
    return (like(dY * slope, slope),)


elu = jax.custom_vjp(_elu, nondiff_argnums=(1,))
elu.defvjp(_elu_fwd, _elu_bwd)


def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """A smooth relu, `log(1 + exp(beta * x)) / beta`; `x` where `beta * x > threshold`.

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
    require_floating("softplus", x=x)
    require_beta("softplus: beta", beta)
    require_number("softplus: threshold", threshold)
    z = beta * wide(x)
    soft = (jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))) / beta
    return jnp.where(z > threshold, x, soft.astype(x.dtype))


def _softplus_fwd(x, beta=1.0, threshold=20.0):
    z = beta * wide(x)
    E = jnp.exp(-jnp.abs(z))  # as in the primal: XLA computes it once
    slope = jnp.where(z > threshold, 1, jnp.where(z < 0, E, 1) / (1 + E))
    return _softplus(x, beta, threshold), slope.astype(x.dtype)


def _softplus_bwd(beta, threshold, slope, dY):
    # y = where(beta * x > threshold, x, log(1 + exp(beta * x)) / beta)
    return (like(dY * slope, slope),)


softplus = jax.custom_vjp(_softplus, nondiff_argnums=(1, 2))
softplus.defvjp(_softplus_fwd, _softplus_bwd)


def _tanh(x: Array) -> Array:
    """The hyperbolic tangent.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    require_floating("tanh", x=x)
    return jnp.tanh(x)


def _tanh_fwd(x):
    y = _tanh(x)
    return y, y


def _tanh_bwd(y, dY):
    # y = tanh(x)
    return (like(dY * (1 - y) * (1 + y), y),)


tanh = jax.custom_vjp(_tanh)
tanh.defvjp(_tanh_fwd, _tanh_bwd)


def _sigmoid(x: Array) -> Array:
    """The logistic function, `1 / (1 + exp(-x))`.

    Args:
        x: (...), floating.

    Returns:
        (...), in x's dtype.

    Raises:
        DtypeError: x is not a floating array.
    """
    require_floating("sigmoid", x=x)
    return jax.nn.sigmoid(x)


def _sigmoid_fwd(x):
    y = _sigmoid(x)
    return y, y


def _sigmoid_bwd(y, dY):
    # y = 1 / (1 + exp(-x))
    return (like(dY * y * (1 - y), y),)


sigmoid = jax.custom_vjp(_sigmoid)
sigmoid.defvjp(_sigmoid_fwd, _sigmoid_bwd)


def require_beta(name: str, beta: float) -> float:
    """Softplus's beta as a float; ConfigError unless it is a finite number other than 0."""
    number = require_number(name, beta)
    if number == 0:
        raise ConfigError(f"{name} is 0, expected another number: it is divided by")
    return number
