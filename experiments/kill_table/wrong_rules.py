"""A museum of mistakes: wrong backward passes, each with the check that must catch it.

They were collected from the traps of `jax.custom_vjp` and from defect reports of other projects; an
exhibit's `source` names the report. One file a family:

    wrong_arithmetic   factors, signs, transposes, lost terms, cotangents used wrongly
    wrong_shapes       broadcasting, structure, dtypes
    wrong_forwards     a `fwd` that is not the function
    wrong_losses       reductions, smoothing, weights, labels
    wrong_norms        statistics taken as constants
    wrong_kernels      convolution, pooling, attention, embedding, dropout, recurrence
    wrong_numerics     right on paper, wrong in the dtype and range of use
    wrong_transforms   second order, jit, vmap, an empty batch, several devices
"""

from experiments.kill_table import (
    wrong_arithmetic,
    wrong_forwards,
    wrong_kernels,
    wrong_losses,
    wrong_norms,
    wrong_numerics,
    wrong_shapes,
    wrong_transforms,
)

WRONG = (
    *wrong_arithmetic.RULES,
    *wrong_shapes.RULES,
    *wrong_forwards.RULES,
    *wrong_losses.RULES,
    *wrong_norms.RULES,
    *wrong_kernels.RULES,
    *wrong_numerics.RULES,
    *wrong_transforms.RULES,
)
