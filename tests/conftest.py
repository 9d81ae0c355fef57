"""What every test runs under: no implicit rank promotion, and PyTorch's absence only outside CI."""

import importlib.util
import os

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# A busy machine is no failure.
hypothesis.settings.register_profile("funcnet", deadline=None)
hypothesis.settings.load_profile("funcnet")


@pytest.fixture
def x64():
    """Float64 arrays for the length of a test."""
    with jax.enable_x64(True):
        yield


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("torch") is not None or "CI" in os.environ:
        return
    reason = "needs PyTorch: pip install 'funcnet[torch]'"
    for item in items:
        if item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason=reason))
