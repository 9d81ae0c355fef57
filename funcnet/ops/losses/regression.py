"""mse_loss, l1_loss, smooth_l1_loss and huber_loss: how far a prediction is from its target.

P and T have one shape (...). Each is a function f of the difference R = P - T, entry by entry: the
loss of an entry is l = f(R). Perturbing P and T,

    δl = f'(R) * (δP - δT)               dP = dl * f'(R),     dT = -dP

with dl the cotangent of l, which reduction.py derives from that of the result; a mean divides by
the number of entries.

mse_loss: f = R², no factor 1/2.  f' = 2R.

l1_loss: f = |R|.  f' = 1 where R > 0 and -1 where R < 0; at the kink and at NaN 0, as PyTorch.

huber_loss: a parabola up to |R| = δ, then a line of the same slope (Huber, 1964):

    f = R² / 2  where |R| <= δ,  else δ (|R| - δ / 2)

    f' = R or ±δ, that is R clipped to [-δ, δ]

smooth_l1_loss: the same with δ = β, divided by β, so that the line has slope 1. f' is R / β clipped
to [-1, 1]. For β = 0 nothing is left of the parabola, and it is l1_loss.

Residuals: P and T, which the caller holds; their difference costs one subtraction.
"""

from collections.abc import Callable
from typing import Any, Final

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet._internal.checks import require_number
from funcnet.errors import ConfigError, DtypeError
from funcnet.ops._checks import require_floating, require_held, require_same_shape
from funcnet.ops._cotangents import like
from funcnet.ops._rule import rule
from funcnet.ops.losses.reduction import Reduction, is_labels, reduced, require_reduction, spread


def _of_difference(name: str, loss: Callable[..., Array], slope: Callable[..., Array]) -> Any:
    """Forward and backward of f(R) = loss(R, *options), with f' = slope."""

    def forward(prediction, target, reduction, *options):
        _check(name, prediction, target, reduction)
        losses = loss(prediction - target, *options)  # (...)
        return reduced(losses, reduction), (prediction, target)

    def backward(reduction, *options_and_residuals):
        *options, (prediction, target), dL = options_and_residuals
        dl = spread(dL, reduction, prediction.size)
        # losses = loss(prediction - target)
        dP = dl * slope(prediction - target, *options)  # () or (...), (...) -> (...)
        return like(dP, prediction), like(-dP, target)

    return forward, backward


def _mse_loss(
    prediction: Float[Array, "..."], target: Float[Array, "..."], reduction: Reduction = "mean"
) -> Float[Array, "..."]:
    """Squared error, `(prediction - target)**2`, reduced over all entries.

    The backward pass is derived in the docstring of funcnet/ops/losses/regression.py.

    Args:
        prediction: (...), floating.
        target: prediction's shape, floating.
        reduction: "none" for (...), "sum" or "mean" over all entries for ().

    Returns:
        (...) or (), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    return _mse_loss_fwd(prediction, target, reduction)[0]


_mse_loss_fwd, _mse_loss_bwd = _of_difference("mse_loss", jnp.square, lambda R: 2 * R)
mse_loss: Final = rule(_mse_loss, _mse_loss_fwd, _mse_loss_bwd, nondiff_argnums=(2,))


def _l1_loss(
    prediction: Float[Array, "..."], target: Float[Array, "..."], reduction: Reduction = "mean"
) -> Float[Array, "..."]:
    """Absolute error, `abs(prediction - target)`, reduced over all entries.

    The backward pass is derived in the docstring of funcnet/ops/losses/regression.py.

    Args:
        prediction: (...), floating.
        target: prediction's shape, floating.
        reduction: "none" for (...), "sum" or "mean" over all entries for ().

    Returns:
        (...) or (), in the dtype the arguments promote to.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    return _l1_loss_fwd(prediction, target, reduction)[0]


def _sign(R):
    return jnp.where(R > 0, 1, jnp.where(R < 0, -1, 0))


_l1_loss_fwd, _l1_loss_bwd = _of_difference("l1_loss", jnp.abs, _sign)
l1_loss: Final = rule(_l1_loss, _l1_loss_fwd, _l1_loss_bwd, nondiff_argnums=(2,))


def _smooth_l1_loss(
    prediction: Float[Array, "..."],
    target: Float[Array, "..."],
    reduction: Reduction = "mean",
    beta: float = 1.0,
) -> Float[Array, "..."]:
    """Squared error over `2 * beta` up to `beta`, from there on absolute error less `beta / 2`.

    The backward pass is derived in the docstring of funcnet/ops/losses/regression.py.

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
    return _smooth_l1_loss_fwd(prediction, target, reduction, beta)[0]


def _smoothed_distance(R, beta):
    number = require_number("smooth_l1_loss: beta", beta, least=0)
    # Twice beta is divided by.
    require_held("smooth_l1_loss: 2 * beta", 2 * number, R.dtype)
    distance = jnp.abs(R)
    if beta == 0:
        return distance
    return jnp.where(distance <= beta, R * R / (2 * beta), distance - beta / 2)


def _smoothed_slope(R, beta):
    # abs(R) for beta = 0;  R * R / (2 * beta) up to beta, abs(R) - beta / 2 beyond
    return _sign(R) if beta == 0 else jnp.clip(R / beta, -1, 1)


_smooth_l1_loss_fwd, _smooth_l1_loss_bwd = _of_difference(
    "smooth_l1_loss", _smoothed_distance, _smoothed_slope
)
smooth_l1_loss: Final = rule(
    _smooth_l1_loss, _smooth_l1_loss_fwd, _smooth_l1_loss_bwd, nondiff_argnums=(2, 3)
)


def _huber_loss(
    prediction: Float[Array, "..."],
    target: Float[Array, "..."],
    reduction: Reduction = "mean",
    delta: float = 1.0,
) -> Float[Array, "..."]:
    """Half the squared error up to `delta`, from there on a line of slope `delta`.

    The backward pass is derived in the docstring of funcnet/ops/losses/regression.py.

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
    return _huber_loss_fwd(prediction, target, reduction, delta)[0]


def _huber_distance(R, delta):
    require_held("huber_loss: delta", require_delta("huber_loss: delta", delta), R.dtype)
    distance = jnp.abs(R)
    return jnp.where(distance <= delta, R * R / 2, delta * (distance - delta / 2))


def _huber_slope(R, delta):
    # R * R / 2 up to delta, delta * (abs(R) - delta / 2) beyond
    return jnp.clip(R, -delta, delta)


_huber_loss_fwd, _huber_loss_bwd = _of_difference("huber_loss", _huber_distance, _huber_slope)
huber_loss: Final = rule(_huber_loss, _huber_loss_fwd, _huber_loss_bwd, nondiff_argnums=(2, 3))


def require_delta(name: str, delta: float) -> float:
    """Huber's delta as a float; ConfigError unless it is a finite number above 0."""
    number = require_number(name, delta, least=0)
    if number == 0:
        raise ConfigError(f"{name} is 0, expected a number above 0")
    return number


def _check(function, prediction, target, reduction):
    require_reduction(function, reduction)
    require_floating(function, prediction=prediction)
    labels = hasattr(target, "dtype") and is_labels(target)
    if labels and target.shape == prediction.shape[:-1] != ():
        raise DtypeError(
            f"{function}: target is {target.dtype}{list(target.shape)}, expected floating point of "
            f"shape {prediction.shape}; for labels, use jax.nn.one_hot(target, "
            f"{prediction.shape[-1]})"
        )
    require_floating(function, target=target)
    require_same_shape(function, prediction=prediction, target=target)
