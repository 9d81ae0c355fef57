"""batch_norm, layer_norm, rms_norm and group_norm: entries less their mean, over their spread.

All four take the entries x_1 ... x_n of X that belong together, and standardise them by their mean
μ and (biased) variance v; features or channels are on the last axis of X.

    μ = (1/n) Σ_i x_i     v = (1/n) Σ_i (x_i - μ)²     r = 1 / √(v + ε)     h_i = (x_i - μ) r

    y_i = w_i h_i + b_i

with weights w and biases b that may be absent: then 1 and 0. Perturb the inputs. Since
Σ (x_i - μ) = 0, the part of δv that comes from δμ vanishes, and

    δμ   = (1/n) Σ_k δx_k
    δv   = (2/n) Σ_k (x_k - μ) δx_k = (2 / (n r)) Σ_k h_k δx_k
    δr   = - r³ δv / 2 = - (r² / n) Σ_k h_k δx_k
    δh_i = r (δx_i - δμ) + (x_i - μ) δr
         = r (δx_i - (1/n) Σ_k δx_k - h_i (1/n) Σ_k h_k δx_k)

The matrix that takes δx to δh is symmetric, so that it takes dh to dx as well:

    dx_i = r (dh_i - (1/n) Σ_k dh_k - h_i (1/n) Σ_k h_k dh_k)                                  (*)

The second term is the mean's, the third the variance's: dx is r dh without its components along 1
and along h. From δy_i = w_i δh_i + h_i δw_i + δb_i follow dh_i = dy_i w_i and, each summed over the
places where the same parameter is used,

    dw = Σ dy_i h_i        db = Σ dy_i


batch_norm: the entries of one channel. X (..., C), w and b (C,); n counts the places before the
    last axis. All entries share their w, so that the sums in (*) are those of dw and db again:

        dx_i = w r (dy_i - (db + h_i dw) / n)

    In evaluation μ and v are the running statistics, constants: dx_i = w r dy_i, and dw and db as
    above. No gradient flows from or to running statistics.
    Source: Ioffe and Szegedy, "Batch normalization", 2015, section 3.

layer_norm: the features of one example, all of the last axes. X (..., *F), w and b (*F); n is the
    product of F. (*) as it stands; dw and db are sums over the examples.
    Source: Ba, Kiros and Hinton, "Layer normalization", 2016, section 3.

rms_norm: the same without the mean: μ = 0, v = (1/n) Σ x_i², and δμ = 0 above, hence

        dx_i = r (dh_i - h_i (1/n) Σ_k h_k dh_k)

    Source: Zhang and Sennrich, "Root mean square layer normalization", 2019, section 4.

group_norm: a group of K = C / G neighbouring channels of one example. X (N, ..., C) is read as
    (N, ..., G, K), w and b (C,) as (G, K); n is K times the number of places. Channels share
    their w over the places s, so that all sums are made of two of them, over the places alone:

        A = Σ_s dy      B = Σ_s dy h                                                  (N, G, K)
        Σ dh = Σ_k w A      Σ h dh = Σ_k w B      dw = Σ_N B      db = Σ_N A

    Source: Wu and He, "Group normalization", 2018, section 3.


Residuals: X, which the layer before keeps anyway, and for each set of entries μ and r, two numbers,
from which a subtraction and a product make h again; h would be one more array as large as X.
Variances are means of squared deviations, which lose no digits to a large mean, as E[x²] - μ²
does. Half-precision inputs are computed with in float32.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import rsqrt, stop_gradient
from jaxtyping import Float

from funcnet._internal.checks import require_positive_int, require_shape
from funcnet.errors import ConfigError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._rule import rule
from funcnet.ops.kernels.sums import weighted_sums


def batch_norm(
    x: Float[Array, "... channels"],
    running_mean: Float[Array, " channels"] | None,
    running_var: Float[Array, " channels"] | None,
    weight: Float[Array, " channels"] | None = None,
    bias: Float[Array, " channels"] | None = None,
    training: bool = False,
    momentum: float | Array = 0.1,
    eps: float = 1e-5,
) -> tuple[Float[Array, "... channels"], Any, Any]:
    """Normalise each channel over all other axes, and follow its statistics.

    The backward pass is derived in the docstring of funcnet/ops/normalization.py.

    PyTorch updates the running statistics in place; here the next ones are returned.

    Args:
        x: (..., C), floating.
        running_mean: (C,), floating; None, in training only, to keep no running statistics.
        running_var: (C,), floating; None exactly where running_mean is.
        weight: (C,), floating, or None for 1.
        bias: (C,), floating, or None for 0.
        training: normalise by the statistics of x and update the running ones; otherwise
            normalise by the running ones.
        momentum: the share of x's statistics in the next running ones.
        eps: added to the variance.

    Returns:
        (y, running_mean, running_var): y is (..., C) in x's dtype; the next running statistics
        are (C,) in their own dtypes, the variance unbiased as PyTorch's. They are those given in
        evaluation, and where x is empty.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other; or, in training,
            one row alone, which has no variance.
    """
    _check_batch_norm(x, running_mean, running_var, weight, bias, training)
    if training:
        y, mean, var = _by_batch(x, running_mean, running_var, weight, bias, momentum, eps)
        return y, mean, var
    return _by_constants(x, running_mean, running_var, weight, bias, eps), running_mean, running_var


def _batch_norm_train(x, running_mean, running_var, weight, bias, momentum, eps):
    return _batch_norm_train_fwd(x, running_mean, running_var, weight, bias, momentum, eps)[0]


def _batch_norm_train_fwd(x, running_mean, running_var, weight, bias, momentum, eps):
    mean, var = _moments(x, _rows(x))  # (1, ..., C) each
    rstd = rsqrt(var + eps)
    y = _affine((x - mean) * rstd, weight, bias).astype(x.dtype)  # (..., C)
    followed = _follow(x, mean, var, running_mean, running_var, momentum)  # (C,) each
    constants = running_mean, running_var, momentum
    return (y, *followed), (x, mean, rstd, weight, bias, constants)


def _batch_norm_train_bwd(eps, residuals, cotangents):
    x, mean, rstd, weight, bias, constants = residuals
    dY, rows = cotangents[0].astype(mean.dtype), _rows(x)  # running statistics pass nothing back
    # y = weight * h + bias, h = (x - mean) * rstd
    db = _sum(dY, rows)  # (..., C) -> (1, ..., C)
    dw = rstd * _sum(dY * (x - mean), rows)  # (..., C) -> (1, ..., C)
    # mean, var = moments(x): their terms are in db and dw
    n = _count(x, rows)
    dX = _scaled(rstd, weight) * (dY - db / n - (x - mean) * (rstd * dw / n))  # (..., C)
    zeros = jax.tree.map(jnp.zeros_like, constants)
    return like(dX, x), *zeros[:2], _reduced(dw, weight), _reduced(db, bias), zeros[2]


_by_batch = rule(
    _batch_norm_train, _batch_norm_train_fwd, _batch_norm_train_bwd, nondiff_argnums=(6,)
)


def _batch_norm_eval(x, running_mean, running_var, weight, bias, eps):
    mean, rstd = _constants(x, running_mean, running_var, eps)
    return _affine((x - mean) * rstd, weight, bias).astype(x.dtype)  # (..., C)


def _batch_norm_eval_fwd(x, running_mean, running_var, weight, bias, eps):
    y = _batch_norm_eval(x, running_mean, running_var, weight, bias, eps)
    return y, (x, running_mean, running_var, weight, bias)


def _batch_norm_eval_bwd(eps, residuals, dY):
    x, running_mean, running_var, weight, bias = residuals
    mean, rstd = _constants(x, running_mean, running_var, eps)
    dY = dY.astype(mean.dtype)
    # y = weight * h + bias, h = (x - mean) * rstd
    dX = _scaled(rstd, weight) * dY  # (1, ..., C) (..., C) -> (..., C)
    dw = rstd * _sum(dY * (x - mean), _rows(x))  # (..., C) -> (1, ..., C)
    db = _sum(dY, _rows(x))  # (..., C) -> (1, ..., C)
    zeros = jnp.zeros_like(running_mean), jnp.zeros_like(running_var)
    return like(dX, x), *zeros, _reduced(dw, weight), _reduced(db, bias)


_by_constants = rule(
    _batch_norm_eval, _batch_norm_eval_fwd, _batch_norm_eval_bwd, nondiff_argnums=(5,)
)


def _constants(x, running_mean, running_var, eps):
    """The running mean and 1 / √(running variance + ε), (1, ..., C) each, for use with x."""
    mean, var = (_beside(stop_gradient(a), x).astype(_wide(x)) for a in (running_mean, running_var))
    return mean, rsqrt(var + eps)


def _follow(x, mean, var, running_mean, running_var, momentum):
    """The running statistics after a batch with this mean and variance: constants."""
    if running_mean is None:
        return None, None
    running = stop_gradient((running_mean, running_var))
    if not x.size:
        return running
    n = _count(x, _rows(x))

    def mixed(old, batch):
        share = jnp.asarray(momentum, batch.dtype)
        new = (1 - share) * old.astype(batch.dtype) + share * batch.reshape(old.shape)
        return new.astype(old.dtype)

    # PyTorch's running variance is unbiased
    batch = stop_gradient((mean, var * (n / (n - 1))))
    return tuple(map(mixed, running, batch))


def layer_norm(
    x: Float[Array, "..."],
    normalized_shape: int | Sequence[int],
    weight: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "..."]:
    """Normalise the last axes of each example.

    The backward pass is derived in the docstring of funcnet/ops/normalization.py.

    Args:
        x: (..., *normalized_shape), floating.
        normalized_shape: the sizes of the last axes; an integer for one.
        weight: normalized_shape, floating, or None for 1.
        bias: normalized_shape, floating, or None for 0.
        eps: added to the variance.

    Returns:
        x's shape and dtype.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    shape = _check_features("layer_norm", x, normalized_shape, weight=weight, bias=bias)
    return _by_example(x, weight, bias, len(shape), eps)


def _layer_norm(x, weight, bias, dims, eps):
    return _layer_norm_fwd(x, weight, bias, dims, eps)[0]


def _layer_norm_fwd(x, weight, bias, dims, eps):
    mean, var = _moments(x, _last(x, dims))  # (..., 1) each
    rstd = rsqrt(var + eps)
    y = _affine((x - mean) * rstd, weight, bias).astype(x.dtype)  # (..., *F)
    return y, (x, mean, rstd, weight, bias)


def _layer_norm_bwd(dims, eps, residuals, dY):
    x, mean, rstd, weight, bias = residuals
    dY = dY.astype(mean.dtype)
    h = (x - mean) * rstd  # (..., *F)
    # y = weight * h + bias
    dw, db = _summed(dY * h, weight), _summed(dY, bias)  # (..., *F) -> F
    # h = (x - mean) * rstd, mean and rstd of x
    n = _count(x, _last(x, dims))
    dh_mean = weighted_sums(dY, weight, dims) / n  # (..., *F) F -> (..., 1)
    hdh_mean = weighted_sums(dY * h, weight, dims) / n
    dX = rstd * (_scaled(dY, weight) - dh_mean - h * hdh_mean)
    return like(dX, x), dw, db


_by_example = rule(_layer_norm, _layer_norm_fwd, _layer_norm_bwd, nondiff_argnums=(3, 4))


def rms_norm(
    x: Float[Array, "..."],
    normalized_shape: int | Sequence[int],
    weight: Float[Array, "..."] | None = None,
    eps: float | None = None,
) -> Float[Array, "..."]:
    """Divide the last axes of each example by their root mean square.

    The backward pass is derived in the docstring of funcnet/ops/normalization.py.

    Args:
        x: (..., *normalized_shape), floating.
        normalized_shape: the sizes of the last axes; an integer for one.
        weight: normalized_shape, floating, or None for 1.
        eps: added to the mean square; None for the rounding unit of the dtype computed in, x's or,
            for half precision, float32.

    Returns:
        x's shape and dtype.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    shape = _check_features("rms_norm", x, normalized_shape, weight=weight)
    return _by_size(x, weight, len(shape), float(jnp.finfo(_wide(x)).eps) if eps is None else eps)


def _rms_norm(x, weight, dims, eps):
    return _rms_norm_fwd(x, weight, dims, eps)[0]


def _rms_norm_fwd(x, weight, dims, eps):
    mean_square = _mean(jnp.square(x.astype(_wide(x))), _last(x, dims))  # (..., 1)
    rrms = rsqrt(mean_square + eps)
    return _scaled(x * rrms, weight).astype(x.dtype), (x, rrms, weight)  # (..., *F)


def _rms_norm_bwd(dims, eps, residuals, dY):
    x, rrms, weight = residuals
    dY = dY.astype(rrms.dtype)
    h = x * rrms  # (..., *F)
    # y = weight * h
    dw = _summed(dY * h, weight)  # (..., *F) -> F
    # h = x * rrms, rrms of x
    hdh_mean = weighted_sums(dY * h, weight, dims) / _count(x, _last(x, dims))  # (..., 1)
    dX = rrms * (_scaled(dY, weight) - h * hdh_mean)
    return like(dX, x), dw


_by_size = rule(_rms_norm, _rms_norm_fwd, _rms_norm_bwd, nondiff_argnums=(2, 3))


def group_norm(
    x: Float[Array, "examples ... channels"],
    num_groups: int,
    weight: Float[Array, " channels"] | None = None,
    bias: Float[Array, " channels"] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "examples ... channels"]:
    """Normalise groups of channels of each example, over all places.

    The backward pass is derived in the docstring of funcnet/ops/normalization.py.

    Args:
        x: (N, ..., C), floating: examples, any number of axes of places, channels.
        num_groups: how many groups of neighbours the channels make; a divisor of C.
        weight: (C,), floating, or None for 1.
        bias: (C,), floating, or None for 0.
        eps: added to the variance.

    Returns:
        x's shape and dtype. A group of one number has no variance and gives the bias; PyTorch
        refuses a batch that is one such group.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    num_groups = _check_group_norm(x, num_groups, weight, bias)
    return _by_group(x, weight, bias, num_groups, eps)


def _group_norm(x, weight, bias, groups, eps):
    return _group_norm_fwd(x, weight, bias, groups, eps)[0]


def _group_norm_fwd(x, weight, bias, groups, eps):
    split = _split(x, groups)  # (N, ..., G, K)
    mean, var = _moments(split, _group(x))  # (N, 1, G, 1) each
    rstd = rsqrt(var + eps)
    h = ((split - mean) * rstd).reshape(x.shape)  # (N, ..., C)
    return _affine(h, weight, bias).astype(x.dtype), (x, mean, rstd, weight, bias)


def _group_norm_bwd(groups, eps, residuals, dY):
    x, mean, rstd, weight, bias = residuals
    split, dY = _split(x, groups), _split(dY.astype(mean.dtype), groups)  # (N, ..., G, K) each
    h = (split - mean) * rstd  # (N, ..., G, K)
    # y = weight * h + bias
    *places, _ = _group(x)
    A, B = _sum(dY, places), _sum(dY * h, places)  # (N, 1, G, K) each
    rows = (0, *places)
    dw, db = (_reduced(a.sum(axis=rows), p) for a, p in ((B, weight), (A, bias)))  # -> (C,)
    # h = (split - mean) * rstd, mean and rstd of x
    w = None if weight is None else weight.reshape(groups, -1)  # (G, K)
    n = _count(split, _group(x))
    dh_mean, hdh_mean = (_sum(_scaled(a, w), (-1,)) / n for a in (A, B))  # (N, 1, G, 1) each
    dX = rstd * (_scaled(dY, w) - dh_mean - h * hdh_mean)
    return like(dX.reshape(x.shape), x), dw, db


_by_group = rule(_group_norm, _group_norm_fwd, _group_norm_bwd, nondiff_argnums=(3, 4))


def _split(x, groups):
    """X (N, ..., C) as (N, ..., G, K)."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _group(x):
    """The axes of places and that of the channels of a group, in X when split."""
    return *range(1, x.ndim - 1), x.ndim


def _last(x, dims):
    """The last axes."""
    return tuple(range(x.ndim - dims, x.ndim))


def _rows(x):
    """All axes but the last."""
    return tuple(range(x.ndim - 1))


def _wide(x):
    """The dtype to compute in."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _count(x, axes):
    """How many entries a mean over these axes has; 1 where there is none, and nothing to divide."""
    return max(math.prod(x.shape[axis] for axis in axes), 1)


def _moments(x, axes):
    """Mean and biased variance over these axes, which stay with size 1."""
    x = x.astype(_wide(x))
    mean = _mean(x, axes)
    return mean, _mean(jnp.square(x - mean), axes)


def _sum(a, axes):
    return a.sum(axis=axes, keepdims=True)


def _mean(a, axes):
    return _sum(a, axes) / _count(a, axes)


def _summed(cotangent, parameter):
    """The cotangent of a parameter of the last axes: the sum over the others."""
    if parameter is None:
        return None
    return like(cotangent.sum(axis=tuple(range(cotangent.ndim - parameter.ndim))), parameter)


def _beside(parameter, x):
    """A parameter of x's last axes with size 1 for the others."""
    return jnp.expand_dims(parameter, tuple(range(x.ndim - parameter.ndim)))


def _scaled(h, weight):
    return h if weight is None else _beside(weight, h).astype(h.dtype) * h


def _affine(h, weight, bias):
    y = _scaled(h, weight)
    return y if bias is None else y + _beside(bias, h).astype(h.dtype)


def _reduced(cotangent, parameter):
    """The cotangent of a parameter, out of its sum over the other axes, which have size 1."""
    return None if parameter is None else like(cotangent.reshape(parameter.shape), parameter)


def _check_batch_norm(x, running_mean, running_var, weight, bias, training):
    require_floating("batch_norm", x=x)
    if x.ndim == 0:
        raise ShapeError("batch_norm: x has shape (), expected (..., channels)")
    given = {"running_mean": running_mean, "running_var": running_var}
    absent = [name for name, array in given.items() if array is None]
    if absent and (not training or len(absent) == 1):
        raise ConfigError(
            f"batch_norm: {' and '.join(absent)} is None, expected arrays of shape {x.shape[-1:]}; "
            f"only in training may there be none, and then neither"
        )
    _check_parameters("batch_norm", x.shape[-1:], **given, weight=weight, bias=bias)
    if training and math.prod(x.shape[:-1]) == 1:
        raise ShapeError(
            f"batch_norm: x has shape {x.shape}, one value a channel, which has no variance; "
            f"expected at least 2 in training"
        )


def _check_features(function, x, normalized_shape, **parameters) -> tuple[int, ...]:
    shape = require_shape(f"{function}: normalized_shape", normalized_shape)
    require_floating(function, x=x)
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(
            f"{function}: x has shape {x.shape}, expected (..., {', '.join(map(str, shape))}), as "
            f"normalized_shape says"
        )
    _check_parameters(function, shape, **parameters)
    return shape


def _check_group_norm(x, num_groups, weight, bias) -> int:
    num_groups = require_positive_int("group_norm: num_groups", num_groups)
    require_floating("group_norm", x=x)
    if x.ndim < 2 or x.shape[-1] % num_groups:
        raise ShapeError(
            f"group_norm: x has shape {x.shape}, expected (examples, ..., channels), as many "
            f"channels as make {num_groups} groups of one size"
        )
    _check_parameters("group_norm", x.shape[-1:], weight=weight, bias=bias)
    return num_groups


def _check_parameters(function, shape, **parameters):
    for name, array in parameters.items():
        if array is None:
            continue
        require_floating(function, **{name: array})
        if array.shape != shape:
            raise ShapeError(
                f"{function}: {name} has shape {array.shape}, expected {shape}, the last "
                f"{'axis' if len(shape) == 1 else 'axes'} of x"
            )
