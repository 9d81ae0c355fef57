"""Backpropagation through time in stretches of steps, each with its part of the weights' gradients.

The recursion is the plain one. What differs is where

    dW_ih = Σ_t dz_t x_tᵀ    dW_hh = Σ_t dz_t h_{t-1}ᵀ    dX_t = W_ihᵀ dz_t

are computed: at once they need dz of all steps, K times as much as the outputs, in memory that is
fresh and therefore slow; step by step their products are of few rows. After STRETCH steps what they
need is in the cache. The weights' gradients are products over rows, with the narrower operand on
the left, and turned by a fence (linear.py).

128 steps, batch 64, from 128 to 256 features, forward and backward, on one core with AVX-512,
processor time, medians of 7 interleaved rounds, jax 0.10.2, PyTorch 2.13.0 eager:

            of the plain form's time   of autodiff's   of PyTorch's   MiB of temporaries, plain
    lstm    0.80                       0.69            0.87           64.5, 132
    gru     0.80                       0.79            0.58           55.5, 108
    rnn     0.64                       0.67            0.50           25.5, 44

Features by rows with dW added up in every step, which is quick on a CPU with AMX, took 1.14 of
PyTorch's time for the lstm here.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from funcnet.ops._cotangents import like
from funcnet.ops._precision import wide
from funcnet.ops._rule import Form
from funcnet.ops.kernels.fence import over_rows
from funcnet.ops.kernels.shapes import are_known
from funcnet.ops.kernels.thresholds import LONG, STRETCH


def in_stretches(plain: Form, back: Callable[..., Any]) -> Form:
    """The form that goes back stretch by stretch, where there are several of them.

    Args:
        plain: the rule as derived.
        back: its recursion over some steps: (cell, reverse, weights, d_carry, steps) to the
            carry's cotangent before them, and dz_x, dz_h and dh of each.
    """

    def backward(cell, reverse, residuals, cotangents):
        x, _, weights, _, _ = residuals
        if not _is_long(x, weights):
            return plain.backward(cell, reverse, residuals, cotangents)
        return jax.lax.platform_dependent(
            residuals,
            cotangents,
            cpu=lambda *given: _stretched(back, cell, reverse, *given),
            default=lambda *given: plain.backward(cell, reverse, *given),
        )

    return Form(plain.primal, plain.forward, backward)


def _stretched(back, cell, reverse, residuals, cotangents):
    x, carry, weights, counts, kept = residuals
    dY, d_last = cotangents[0], jax.tree.map(wide, cotangents[1])
    W = jax.tree.map(wide, weights)
    steps = x.shape[-2]
    rest = steps % STRETCH

    def stretch(after, begin, size):
        d_after, d_weights = after
        part = partial(jax.lax.dynamic_slice_in_dim, start_index=begin, slice_size=size)
        counts_now, kept_now = jax.tree.map(lambda a: part(a, axis=0), (counts, kept))
        xs, dYs = (jnp.moveaxis(wide(part(a, axis=a.ndim - 2)), -2, 0) for a in (x, dY))
        d_before, (dzx, dzh, _) = back(cell, reverse, W, d_after, (dYs, counts_now, kept_now))
        # zx = W_ih x + b_ih, zh = W_hh h + b_hh
        dX = jnp.moveaxis(jnp.matmul(dzx, W.ih), 0, -2)
        found = over_rows(dzx, xs), over_rows(dzh, kept_now[0]), _summed(dzx), _summed(dzh)
        return (d_before, jax.tree.map(jnp.add, d_weights, found)), dX.astype(x.dtype)

    zeros = jnp.zeros_like(W.ih), jnp.zeros_like(W.hh), *(jnp.zeros(len(W.ih), W.ih.dtype),) * 2
    after, ends = (d_last, zeros), []
    if rest and not reverse:  # the last steps come first
        after, end = stretch(after, steps - rest, rest)
        ends.append(end)
    begins = jnp.arange(0, steps - rest, STRETCH)
    each = partial(stretch, size=STRETCH)
    after, dX = jax.lax.scan(each, after, begins, reverse=not reverse)
    dX = jnp.moveaxis(dX, 0, -3)  # (stretches, ..., STRETCH, I) -> (..., stretches, STRETCH, I)
    dX = dX.reshape(*x.shape[:-2], steps - rest, x.shape[-1])
    if rest and reverse:
        after, end = stretch(after, steps - rest, rest)
        ends.append(end)
    d_first, d_weights = after
    dX = jnp.concatenate([dX, *ends], axis=-2)
    return dX, jax.tree.map(like, d_first, carry), _like(d_weights, weights), None


def _like(found, weights):
    """The cotangents of the weights and biases that there are, in their dtypes."""
    there = (weights.ih, weights.hh, weights.b_ih, weights.b_hh)
    pairs = zip(found, there, strict=True)
    return type(weights)(*(None if a is None else like(d, a) for d, a in pairs), None)


def _summed(dz):
    return dz.sum(axis=tuple(range(dz.ndim - 1)))


def _is_long(x, weights):
    """Whether there are two stretches or more and dz of all is LONG, without a projection."""
    if weights.hr is not None or not are_known(x, weights.hh):
        return False
    dz = math.prod(x.shape[:-1]) * len(weights.hh)
    return x.shape[-2] >= 2 * STRETCH and dz >= LONG
