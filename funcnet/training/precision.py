"""Mixed precision: a batch's loss and gradient in half precision, all that adds up in float32.

The parameters stay as they are (float32, the masters) and are cast where the loss begins, with the
floating inputs; so their gradients come back through the cast's own transpose in float32, and an
update that is far smaller than its weight is not lost to rounding. What a layer computes wide
(normalisation, softmax, losses, its state) it computes wide from inputs of half precision too, and
the prediction is widened before the loss.

float16 holds no number below 6e-8, and gradients often are: the loss is multiplied by a scale c and
the gradient divided by it, which changes nothing but where numbers are lost. Where a gradient is
not finite for it, the step is left out. A dynamic scale is then halved, and doubled after GROWTH
steps without that (Micikevicius et al., "Mixed precision training", 2018, section 3.2).
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from funcnet._internal.checks import require_floating_dtype, require_number
from funcnet.errors import ConfigError, ParamsError
from funcnet.ops._precision import wide
from funcnet.training.state import is_finite

START = 2.0**16
GROWTH = 2000
"""After so many steps a dynamic scale is doubled; both numbers are PyTorch's."""
LEAST = 1.0
"""The smallest dynamic scale: below, it is not the scale that makes a gradient infinite."""

Scale = float | Literal["dynamic"] | None


class LossScale(NamedTuple):
    """What the loss is multiplied by.

    Attributes:
        scale: () float32.
        finite: () int32, steps since it was changed last.
        skipped: () int32, steps that were left out, of all.
    """

    scale: Array
    finite: Array
    skipped: Array


def require_compute_dtype(dtype: Any) -> Any:
    """A floating dtype, or None; DtypeError for anything else."""
    return None if dtype is None else require_floating_dtype(dtype)


def require_loss_scale(scale: Any, compute_dtype: Any) -> Scale:
    """A positive number, "dynamic" or None; ConfigError for anything else."""
    if scale is None:
        return None
    if compute_dtype != jnp.float16:
        raise ConfigError(
            f"loss_scale is {scale!r} and compute_dtype {compute_dtype}, expected compute_dtype="
            f"jnp.float16; leave loss_scale out, since other dtypes have float32's range"
        )
    if scale == "dynamic":
        return scale
    if isinstance(scale, str):
        raise ConfigError(f"loss_scale is {scale!r}, expected a positive number or 'dynamic'")
    return require_number("loss_scale", scale, 2.0**-100)


def first_scale(scale: Scale) -> Any:
    """The `LossScale` before the first step; () where there is none."""
    if scale is None:
        return ()
    value = jnp.float32(START if scale == "dynamic" else scale)
    return LossScale(value, finite=jnp.int32(0), skipped=jnp.int32(0))


def require_scale(scale: Scale, kept: Any) -> None:
    """Raise ParamsError unless a run has the loss scale that its trainer asks for."""
    if (scale is None) != (kept == ()):
        raise ParamsError(
            f"run.loss_scale is {kept}, and the trainer's loss_scale {scale!r}; make run with "
            f"trainer.init(key), of the same trainer"
        )


def narrowed(tree: Any, dtype: Any) -> Any:
    """Floating arrays in the compute dtype."""
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def widened(tree: Any) -> Any:
    """Floating arrays in float32 at least."""
    return jax.tree.map(lambda a: wide(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def times(kept: Any, loss: Array) -> Array:
    """The loss that is differentiated."""
    return loss if kept == () else loss * kept.scale.astype(loss.dtype)


def divided(kept: Any, gradient: Any) -> Any:
    """The gradient of the loss itself."""
    if kept == ():
        return gradient
    return jax.tree.map(lambda g: g / kept.scale.astype(g.dtype), gradient)


def is_taken(scale: Scale, kept: LossScale, gradient: Any) -> Array:
    """Whether a step counts: its gradient is finite, or no smaller scale could make it so."""
    finite = is_finite(gradient)
    return finite | (kept.scale <= LEAST) if scale == "dynamic" else finite


def next_scale(scale: Scale, kept: LossScale, taken: Array) -> LossScale:
    """After a step that was taken, or not."""
    skipped = kept.skipped + ~taken
    if scale != "dynamic":
        return kept._replace(skipped=skipped)
    grows = taken & (kept.finite + 1 >= GROWTH)
    factor = jnp.where(taken, jnp.where(grows, 2.0, 1.0), 0.5)
    value = jnp.clip(kept.scale * factor, LEAST, 2.0**100)
    return LossScale(value, jnp.where(taken & ~grows, kept.finite + 1, 0), skipped)


def often_skipped(scale: Scale, run: Any) -> str | None:
    """A warning that much of a run was left out; None if it was not."""
    if scale is None:
        return None
    kept, steps = run.loss_scale, int(run.step)
    # A dynamic scale needs some steps to find how large it may be.
    searching = int(math.log2(START / LEAST)) if scale == "dynamic" else 0
    if int(kept.skipped) <= searching or int(kept.skipped) * 4 < steps:
        return None
    return (
        f"{int(kept.skipped)} of {steps} steps were left out, since their gradient was not finite "
        f"in float16 with the loss scaled by {float(kept.scale):g}; use loss_scale='dynamic' or a "
        f"smaller number, or compute_dtype=jnp.bfloat16"
    )
