"""concatenate: arrays side by side along one axis.

    X_i (..., N_i, ...)         inputs, all of one shape but for the axis
    Y   (..., N_1 + ... , ...)  output

Y is X_1, then X_2, ... along the axis. A perturbation of X_i reaches its own place in Y and no
other, hence

    δL = <dY, δY> = Σ_i <dY at the place of X_i, δX_i>,        dX_i = dY at the place of X_i

Residuals: no number is needed, only the sizes N_i. An empty slice of each X_i carries its shape
and dtype, so that no input is kept alive for the backward pass.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet._internal.checks import require_int
from funcnet.errors import ConfigError, DtypeError, ShapeError
from funcnet.ops._checks import require_floating
from funcnet.ops._cotangents import like
from funcnet.ops._rule import rule


def _concatenate(arrays: Sequence[Float[Array, "..."]], dim: int = 0) -> Float[Array, "..."]:
    """Arrays side by side along an axis (`torch.concatenate`).

    The backward pass is derived in the docstring of funcnet/ops/concatenate.py.

    Args:
        arrays: at least one, floating, of one shape but for the axis.
        dim: the axis (PyTorch's name for it); negative counts from the last.

    Returns:
        One array, in the dtype the arguments promote to; along the axis as long as all together.

    Raises:
        ShapeError, DtypeError, ConfigError: the arguments do not fit each other.
    """
    _check(arrays, dim)
    return jnp.concatenate(arrays, dim)


def _concatenate_fwd(arrays, dim=0):
    return _concatenate(arrays, dim), type(arrays)(a[None][:0] for a in arrays)


def _concatenate_bwd(dim, empty, dY):
    ends = list(accumulate(a.shape[1:][dim] for a in empty))
    # y = concatenate(arrays)
    parts = jnp.split(dY, ends[:-1], dim)  # (..., N_1 + ..., ...) -> (..., N_i, ...) each
    return (type(empty)(like(dX, x) for dX, x in zip(parts, empty, strict=True)),)


concatenate: Final = rule(_concatenate, _concatenate_fwd, _concatenate_bwd, nondiff_argnums=(1,))


def _check(arrays, dim):
    if not isinstance(arrays, tuple | list) or not arrays:
        given = "nothing" if isinstance(arrays, tuple | list) else type(arrays).__name__
        raise DtypeError(f"concatenate: got {given}, expected a tuple or list of arrays")
    require_floating("concatenate", **{f"array {i}": a for i, a in enumerate(arrays)})
    rank = arrays[0].ndim
    if not -rank <= require_int("concatenate: dim", dim) < rank:
        raise ConfigError(
            f"concatenate: dim is {dim}, expected one of the {rank} axes of an array of shape "
            f"{arrays[0].shape}"
        )
    others = [a.shape[: dim % rank] + a.shape[dim % rank + 1 :] for a in arrays]
    for i, a in enumerate(arrays):
        if a.ndim != rank or others[i] != others[0]:
            raise ShapeError(
                f"concatenate: array {i} has shape {a.shape} and array 0 {arrays[0].shape}, "
                f"expected the same but for axis {dim}"
            )
