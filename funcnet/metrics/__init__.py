"""Metrics with scikit-learn's names, argument order and answers, on the host and compiled.

Every function takes `(y_true, y_pred)`, lists, NumPy or JAX arrays, and returns a float, or a NumPy
array, computed in float64. Inside a compiled program, as in `fit(..., metrics={"auc":
fn.metrics.roc_auc_score})`, the same formulas are computed by JAX, in float32, and y_pred is the
model's output. Options are given by `functools.partial`:

    metrics={"f1": functools.partial(fn.metrics.f1_score, average="macro")}

An attribute `mode` of each function, "max" or "min", tells `fit` which values are better.
"""

from funcnet.metrics.labels import (
    Average,
    ZeroDivision,
    accuracy,
    confusion_matrix,
    f1_score,
    precision,
    recall,
)
from funcnet.metrics.regression import mean_absolute_error, mean_squared_error, r2_score
from funcnet.metrics.scores import (
    ScoreAverage,
    log_loss,
    roc_auc_score,
    top_k_accuracy_score,
)

__all__ = [
    "Average",
    "ScoreAverage",
    "ZeroDivision",
    "accuracy",
    "confusion_matrix",
    "f1_score",
    "log_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "precision",
    "r2_score",
    "recall",
    "roc_auc_score",
    "top_k_accuracy_score",
]
