"""l1_loss, smooth_l1_loss and huber_loss: how far a prediction is from its target.

P and T have one shape (...); a loss l for every entry, then a reduction, see _reductions.py. With
R = P - T and a cotangent dl of l,

    δl = f'(R) * (δP - δT)               dP = dl * f'(R),     dT = -dP

l1_loss: l = |R|.  f' = 1 where R > 0 and -1 where R < 0; at the kink and at NaN 0, as PyTorch.

huber_loss: a parabola up to |R| = δ, then a line of the same slope (Huber, 1964):

    l = R² / 2  where |R| <= δ,  else δ (|R| - δ / 2)

    f' = R or ±δ, that is R clipped to [-δ, δ]

smooth_l1_loss: the same with δ = β, divided by β, so that the line has slope 1. f' is R / β clipped
to [-1, 1]. For β = 0 nothing is left of the parabola, and it is l1_loss.

Residuals: P and T, which the caller holds; their difference costs one subtraction.
"""

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_number
from funcnet.errors import ConfigError
from funcnet.ops._checks import require_floating, require_held, require_same_shape
from funcnet.ops._cotangents import like
from funcnet.ops._reductions import Reduction, reduced, require_reduction, spread


def _l1_loss(prediction: Array, target: Array, reduction: Reduction = "mean") -> Array:
    """Absolute error, `abs(prediction - target)`, reduced over all entries.

    Args:
        prediction: (...), floating.
        target: prediction's shape, floating.
        reduction: "none" for (...), "sum" or "mean" over all entries for ().

    Returns:
        (...) or (), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check("l1_loss", prediction, target, reduction)
    return reduced(jnp.abs(prediction - target), reduction)


def _l1_loss_fwd(prediction, target, reduction: Reduction = "mean"):
    return _l1_loss(prediction, target, reduction), (prediction, target)


def _l1_loss_bwd(reduction, residuals, dL):
    prediction, target = residuals
    dl = spread(dL, reduction, prediction.size)
    # l = abs(prediction - target)
    dP = dl * _sign(prediction - target)  # () or (...), (...) -> (...)
    return like(dP, prediction), like(-dP, target)


l1_loss = jax.custom_vjp(_l1_loss, nondiff_argnums=(2,))
l1_loss.defvjp(_l1_loss_fwd, _l1_loss_bwd)


def _smooth_l1_loss(
    prediction: Array, target: Array, reduction: Reduction = "mean", beta: float = 1.0
) -> Array:
    """Squared error over `2 * beta` up to `beta`, from there on absolute error less `beta / 2`.

    Args:
        prediction: (...), floating.
        target: prediction's shape, floating.
        reduction: "none" for (...), "sum" or "mean" over all entries for ().
        beta: a static number >= 0; `l1_loss` for 0.

    Returns:
        (...) or (), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check("smooth_l1_loss", prediction, target, reduction)
    number = require_number("smooth_l1_loss: beta", beta, least=0)
    # Twice beta is divided by.
    require_held("smooth_l1_loss: 2 * beta", 2 * number, jnp.result_type(prediction, target))
    R = prediction - target
    distance = jnp.abs(R)
    if beta == 0:
        return reduced(distance, reduction)
    losses = jnp.where(distance <= beta, R * R / (2 * beta), distance - beta / 2)
    return reduced(losses, reduction)


def _smooth_l1_loss_fwd(prediction, target, reduction: Reduction = "mean", beta=1.0):
    return _smooth_l1_loss(prediction, target, reduction, beta), (prediction, target)


def _smooth_l1_loss_bwd(reduction, beta, residuals, dL):
    prediction, target = residuals
    dl = spread(dL, reduction, prediction.size)
    # l = where(abs(R) <= beta, R * R / (2 * beta), abs(R) - beta / 2), R = prediction - target
    R = prediction - target
    dP = dl * (_sign(R) if beta == 0 else jnp.clip(R / beta, -1, 1))  # () or (...), (...) -> (...)
    return like(dP, prediction), like(-dP, target)


smooth_l1_loss = jax.custom_vjp(_smooth_l1_loss, nondiff_argnums=(2, 3))
smooth_l1_loss.defvjp(_smooth_l1_loss_fwd, _smooth_l1_loss_bwd)


def _huber_loss(
    prediction: Array, target: Array, reduction: Reduction = "mean", delta: float = 1.0
) -> Array:
    """Half the squared error up to `delta`, from there on a line of slope `delta`.

    Args:
        prediction: (...), floating.
        target: prediction's shape, floating.
        reduction: "none" for (...), "sum" or "mean" over all entries for ().
        delta: a static number > 0.

    Returns:
        (...) or (), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check("huber_loss", prediction, target, reduction)
    number = require_delta("huber_loss: delta", delta)
    require_held("huber_loss: delta", number, jnp.result_type(prediction, target))
    R = prediction - target
    distance = jnp.abs(R)
    losses = jnp.where(distance <= delta, R * R / 2, delta * (distance - delta / 2))
    return reduced(losses, reduction)


def _huber_loss_fwd(prediction, target, reduction: Reduction = "mean", delta=1.0):
    return _huber_loss(prediction, target, reduction, delta), (prediction, target)


def _huber_loss_bwd(reduction, delta, residuals, dL):
    prediction, target = residuals
    dl = spread(dL, reduction, prediction.size)
    # l = where(abs(R) <= delta, R * R / 2, delta * (abs(R) - delta / 2)), R = prediction - target
    dP = dl * jnp.clip(prediction - target, -delta, delta)  # () or (...), (...) -> (...)
    return like(dP, prediction), like(-dP, target)


huber_loss = jax.custom_vjp(_huber_loss, nondiff_argnums=(2, 3))
huber_loss.defvjp(_huber_loss_fwd, _huber_loss_bwd)


def _sign(R):
    return jnp.where(R > 0, 1, jnp.where(R < 0, -1, 0))


def _check(function, prediction, target, reduction):
    require_reduction(function, reduction)
    require_floating(function, prediction=prediction, target=target)
    require_same_shape(function, prediction=prediction, target=target)


def require_delta(name: str, delta: float) -> float:
    """Huber's delta as a float; ConfigError unless it is a finite number above 0."""
    number = require_number(name, delta, least=0)
    if number == 0:
        raise ConfigError(f"{name} is 0, expected a number above 0")
    return number
