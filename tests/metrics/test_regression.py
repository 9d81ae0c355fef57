"""R², mean absolute and mean squared error are scikit-learn's, on the host and compiled."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from funcnet import metrics
from tests.metrics.both import both_are, compiled

REGRESSION = {
    "mse": (metrics.mean_squared_error, sk.mean_squared_error),
    "mae": (metrics.mean_absolute_error, sk.mean_absolute_error),
    "r2": (metrics.r2_score, sk.r2_score),
}
SHAPES = [((9,), (9,)), ((9, 1), (9,)), ((9,), (9, 1)), ((9, 3), (9, 3))]


@pytest.mark.few(3)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", REGRESSION)
def test_metrics_of_numbers_are_scikit_learns(name, shapes, weighted):
    ours, theirs = REGRESSION[name]
    rng = np.random.default_rng(0)
    true, pred = (rng.normal(size=shape) for shape in shapes)
    weight = rng.uniform(0, 2, 9) if weighted else None
    several: list[Any] = ["raw_values", "uniform_average"]
    several += [[0.2, 0.5, 0.3]] if shapes[0] == (9, 3) else []
    several += ["variance_weighted"] if name == "r2" else []
    for multioutput in several:
        both_are(ours, theirs, true, pred, sample_weight=weight, multioutput=multioutput)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.few(2)
@pytest.mark.parametrize("multioutput", ["raw_values", "uniform_average", "variance_weighted"])
@pytest.mark.parametrize("force_finite", [True, False])
def test_r2_where_nothing_varies(force_finite, multioutput):
    constant = np.stack([np.ones(4), np.arange(4.0), np.ones(4)], axis=1)
    off = constant + np.array([0.0, 0.5, 1.0])
    options = {"force_finite": force_finite, "multioutput": multioutput}
    if not force_finite and multioutput == "variance_weighted":
        off, constant = off[:, 1:2], constant[:, 1:2]  # NaN times 0 in theirs
    with np.errstate(all="ignore"):
        expected = sk.r2_score(constant, off, **options)
    np.testing.assert_allclose(metrics.r2_score(constant, off, **options), expected)
    np.testing.assert_allclose(compiled(metrics.r2_score, constant, off, **options), expected)
    still = np.ones((4, 2))
    assert metrics.r2_score(still, still, multioutput="variance_weighted") == 1
    assert math.isnan(float(np.asarray(metrics.r2_score([1.0], [2.0]))))


@pytest.mark.parametrize(
    ("true", "pred", "options", "error", "message"),
    [
        ([1.0, 2.0], [1.0], {}, ValueError, r"differ in shape: \(2,\) and \(1,\)"),
        ([], [], {}, ValueError, "at least one example"),
        ([1.0], ["a"], {}, TypeError, "y_pred: expected real numbers, got <U1"),
        ([1.0], [1j], {}, TypeError, "y_pred: expected real numbers, got complex128"),
        ([1.0], [np.nan], {}, ValueError, "y_pred: expected finite numbers"),
        ([1.0], [1.0], {"multioutput": "mean"}, ValueError, "multioutput: expected one of"),
        ([[1.0, 2]], [[1.0, 2]], {"multioutput": [1.0]}, ValueError, "expected 2 weights"),
        ([1.0], [1.0], {"sample_weight": [1, 2]}, ValueError, r"expected shape \(1,\)"),
        ([1.0], [1.0], {"sample_weight": [0]}, ValueError, "no example counts"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(true, pred, options, error, message):
    for metric, _ in REGRESSION.values():
        with pytest.raises(error, match=message):
            metric(true, pred, **options)
