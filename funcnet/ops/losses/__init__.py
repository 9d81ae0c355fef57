"""Losses: each derived for one example or entry; reduction.py makes one number of them all."""

from funcnet.ops.losses.classification import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    nll_loss,
)
from funcnet.ops.losses.divergence import kl_div
from funcnet.ops.losses.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]
