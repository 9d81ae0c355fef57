"""One metric two ways: on the host, and compiled."""

import functools
from typing import Any

import jax
import numpy as np


def compiled(metric, *arrays, **options):
    """What a metric makes of arrays inside a compiled program."""
    return np.asarray(jax.jit(functools.partial(metric, **options))(*map(np.asarray, arrays)))


def both_are(ours: Any, theirs: Any, *arrays: Any, rtol: Any = 2e-5, **options: Any):
    """The metric's value on the host and compiled is scikit-learn's."""
    expected = theirs(*arrays, **options)
    np.testing.assert_allclose(ours(*arrays, **options), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(compiled(ours, *arrays, **options), expected, rtol=rtol, atol=1e-6)
