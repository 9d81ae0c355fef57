"""The table of every rule in funcnet.ops and the cases it is verified on.

A case is a function and the arguments it is judged at, made for a dtype and some leading axes.
`test_rules.py` judges them all, and fails when an exported function is missing here.
"""

import jax.numpy as jnp
import numpy as np

from funcnet import ops
from tests.ops import (
    rules_activations,
    rules_attention,
    rules_images,
    rules_losses,
    rules_normalization,
    rules_recurrent,
)
from tests.ops.cases import Arguments, Case, Leading, normal, positive


def probabilities(rng, dtype, leading, classes):
    return jnp.asarray(rng.dirichlet(np.ones(classes), size=leading), dtype)


def linear(bias: bool, features=(3, 4)) -> Arguments:
    inputs, outputs = features

    def arguments(rng, dtype, leading):
        x = normal(rng, dtype, (*leading, inputs))
        weight = normal(rng, dtype, (outputs, inputs))
        return (x, weight, normal(rng, dtype, (outputs,))) if bias else (x, weight)

    return arguments


def pair(rng, dtype, leading):
    return normal(rng, dtype, (*leading, 3)), normal(rng, dtype, (*leading, 3))


def labelled(weighted: bool, ignored: int | None = None, classes=4) -> Arguments:
    def arguments(rng, dtype, leading):
        logits = normal(rng, dtype, (*leading, classes))
        labels = np.asarray(rng.integers(0, classes, size=leading))
        # One label is ignored, not all: their mean has no value.
        labels[labels == ignored] = 1
        if ignored is not None and labels.size > 1:
            labels.flat[0] = ignored
        args = (logits, jnp.asarray(labels))
        return (*args, positive(rng, dtype, (classes,))) if weighted else args

    return arguments


def distributed(weighted: bool, classes=4) -> Arguments:
    def arguments(rng, dtype, leading):
        logits = normal(rng, dtype, (*leading, classes))
        args = (logits, probabilities(rng, dtype, leading, classes))
        return (*args, positive(rng, dtype, (classes,))) if weighted else args

    return arguments


def mse_loss(reduction):
    return lambda prediction, target: ops.mse_loss(prediction, target, reduction)


def cross_entropy(**options):
    def function(logits, target, weight=None):
        return ops.cross_entropy(logits, target, weight, **options)

    return function


RULES: dict[str, list[Case]] = {
    "linear": [
        Case("bias", ops.linear, linear(bias=True)),
        Case("no bias", ops.linear, linear(bias=False)),
        Case("one feature", ops.linear, linear(bias=True, features=(1, 1))),
        Case("wide", ops.linear, linear(bias=True, features=(3, 70))),
    ],
    "mse_loss": [
        Case(reduction, mse_loss(reduction), pair, empty=reduction != "mean")
        for reduction in ("mean", "none", "sum")
    ],
    "cross_entropy": [
        Case("labels", cross_entropy(), labelled(weighted=False), empty=False),
        Case(
            "labels, all options",
            cross_entropy(ignore_index=2, label_smoothing=0.1),
            labelled(weighted=True, ignored=2),
            empty=False,
        ),
        Case("labels, sum", cross_entropy(reduction="sum"), labelled(weighted=True)),
        Case("probabilities", cross_entropy(), distributed(weighted=False), empty=False),
        Case(
            "probabilities, all options",
            cross_entropy(label_smoothing=0.1, reduction="none"),
            distributed(weighted=True),
        ),
        Case(
            "one class",
            cross_entropy(reduction="none"),
            lambda rng, dtype, leading: (
                normal(rng, dtype, (*leading, 1)),
                jnp.zeros(leading, jnp.int32),
            ),
        ),
    ],
    **rules_activations.RULES,
    **rules_losses.RULES,
    **rules_images.RULES,
    **rules_normalization.RULES,
    **rules_attention.RULES,
    **rules_recurrent.RULES,
}


Row = tuple[str, Leading]

DTYPES = ("float64", "float32", "bfloat16")
LEADING: tuple[Leading, ...] = ((), (4,), (2, 3), (2, 1, 3), (1,), (0,))


def rows(case: Case) -> list[Row]:
    """Every dtype with every leading shape that the case can have; fewer for a minor one."""
    if case.minor:
        return [("float64", ()), ("float32", (4,)), ("bfloat16", (2, 3))]
    return [(d, s) for d in DTYPES for s in LEADING if s != (0,) or case.empty]


# Each dtype, with one, three and no examples on different axes: judged in full by CI; the other
# shapes by value, below, and all rows in full by `make test-all`.
FULL: list[Row] = [
    ("float32", (4,)),
    ("bfloat16", ()),
    ("float64", (2, 1, 3)),
    ("float32", (0,)),
]
# Judged by the checks of values, which test the formula in float64 whatever the dtype: in CI, and
# the first one of a rule's first case before each commit; the last one alone for a minor case.
QUICK: list[Row] = [("float32", (2, 3)), ("bfloat16", (1,)), ("bfloat16", (2, 3))]


def full_rows(case: Case) -> list[Row]:
    """The rows that CI judges in full."""
    return [row for row in rows(case) if row in FULL]


def quick_rows(case: Case) -> list[Row]:
    """The rows judged by value in CI: for a minor case one."""
    return [row for row in rows(case) if row in (QUICK[-1:] if case.minor else QUICK[:-1])]


def other_rows(case: Case) -> list[Row]:
    """The rows that are in neither."""
    return [row for row in rows(case) if row not in full_rows(case) + quick_rows(case)]


def rows_to_repeat(case: Case) -> list[Row]:
    """The rows that are judged in full only where there is time for it."""
    return [row for row in rows(case) if row not in full_rows(case)]
