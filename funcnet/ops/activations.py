"""relu and tanh: activations, each array entry on its own; X and Y have one shape (...).

For an elementwise Y = f(X), perturbing X gives δY = f'(X) * δX, hence

    δL = <dY, f'(X) * δX> = <dY * f'(X), δX>,        dX = dY * f'(X)

relu: Y = max(X, 0).  f'(X) = 1 where X > 0 and 0 where X < 0. At the kink X = 0 every slope in
    [0, 1] is a subgradient; the rule takes 0, as PyTorch does. Y > 0 exactly where X > 0, so

        dX = dY where Y > 0, else 0

    Residual: Y, which the next layer keeps as its own input, so relu costs no memory of its own.

tanh: Y = tanh(X).  From tanh = sinh / cosh, f'(X) = 1 - tanh²(X), hence

        dX = dY * (1 - Y²) = dY * (1 - Y) * (1 + Y)

    The product loses no digits where |Y| nears 1; 1 - Y² does. Residual: Y, for the same reason.
"""

import jax
import jax.numpy as jnp
from jax import Array

from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like


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
