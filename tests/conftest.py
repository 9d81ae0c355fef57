"""What every test runs under: no implicit rank promotion, and missing extras only outside CI."""

import importlib.util
import itertools
import os
import signal

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


# A shell ignores Ctrl-C in what it runs in the background; tests send it to themselves.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW_TESTS = itertools.count(1)


def pytest_runtest_teardown(item, nextitem):
    """Drop compiled programs now and then: they stay in memory, and are gigabytes by the end."""
    another_module = nextitem is None or nextitem.path != item.path
    slow = item.get_closest_marker("slow") is not None
    if another_module or (slow and next(SLOW_TESTS) % 20 == 0):
        jax.clear_caches()


# For each marker, what its tests import and the extra that installs that.
EXTRAS = {"torch": ("torch",), "bench": ("flax", "equinox")}


def pytest_collection_modifyitems(items):
    if "CI" in os.environ:
        return
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if not missing:
            continue
        reason = f"needs {', '.join(missing)}: pip install 'funcnet[{extra}]'"
        for item in items:
            if item.get_closest_marker(extra):
                item.add_marker(pytest.mark.skip(reason=reason))
