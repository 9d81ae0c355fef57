"""Pooling by windows that lie side by side, and T kept instead of X.

Where the windows lie side by side (stride = kernel, no padding), every pixel is in one window at
most, and Σ_t P_t is no sum: each window's cotangents are written into its own tile in one pass.

The residual T of max_pool2d is fenced: else XLA keeps X after all, and finds T again wherever the
backward pass reads it.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet.ops._rule import Form
from funcnet.ops._windows import count, divisors
from funcnet.ops.kernels.fence import fence


def max_in_tiles(plain: Form) -> Form:
    """The form of max_pool2d that keeps T, and writes tiles where windows lie side by side."""

    def forward(x, windows):
        y, T = plain.forward(x, windows)
        return y, fence(T)

    def backward(windows, T, dY):
        if not _side_by_side(windows):
            return plain.backward(windows, T, dY)
        which = _per_tap(np.arange(count(windows)).reshape(windows.kernel), dY)
        won = jnp.expand_dims(T, (-4, -2)) == which.astype(T.dtype)  # (..., H', k, W', k, C)
        return (_tiled(jnp.where(won, jnp.expand_dims(dY, (-4, -2)), 0), windows),)

    return Form(plain.primal, forward, backward)


def avg_in_tiles(plain: Form) -> Form:
    """The form of avg_pool2d that writes tiles where windows lie side by side."""

    def backward(windows, divisor, residuals, dY):
        if not _side_by_side(windows):
            return plain.backward(windows, divisor, residuals, dY)
        dTotal = (dY / divisors(dY, windows, divisor)).astype(dY.dtype)  # (..., H', W', C)
        every_tap = _per_tap(np.ones(windows.kernel), dY).astype(dY.dtype)
        return (_tiled(jnp.expand_dims(dTotal, (-4, -2)) * every_tap, windows),)

    return Form(plain.primal, plain.forward, backward)


def _side_by_side(windows):
    """Whether windows neither overlap nor leave gaps nor reach padding in front."""
    return (
        windows.kernel == windows.stride
        and windows.dilation == (1, 1)
        and all(before == 0 for before, _ in windows.padding)
    )


def _tiled(tiles, windows):
    """The image (..., H, W, C) whose tiles are (..., H', k, W', k, C)."""
    *leading, _, _, _, _, channels = tiles.shape
    covered = [k * size for k, size in zip(windows.kernel, windows.output, strict=True)]
    image = tiles.reshape(*leading, *covered, channels)
    # Some pixels may be in no window, or, in ceil_mode, windows stick out.
    behind = [(0, n - size, 0) for n, size in zip(windows.image, covered, strict=True)]
    return lax.pad(
        image, jnp.zeros((), image.dtype), [(0, 0, 0)] * len(leading) + behind + [(0, 0, 0)]
    )


def _per_tap(values, outputs):
    """One value a tap (k, k), shaped to lie along (..., H', k, W', k, C)."""
    rows, columns = values.shape
    return values.reshape((1,) * (outputs.ndim - 2) + (rows, 1, columns, 1))
