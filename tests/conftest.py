"""What every test runs under: no implicit rank promotion, and missing extras only outside CI."""

import collections
import importlib.util
import itertools
import os
import shlex
import signal
import sys

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# A busy machine is no failure.
hypothesis.settings.register_profile("funcnet", deadline=None)
hypothesis.settings.load_profile("funcnet")


# Compiled programs, on disk, for all workers and all runs of one CI. Processes that tests start see
# none of it: that their bits are the same is to be found out.
if folder := os.environ.get("FUNCNET_COMPILED"):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture
def x64():
    """Float64 arrays for the length of a test."""
    with jax.enable_x64(True):
        yield


# A shell ignores Ctrl-C in what it runs in the background; tests send it to themselves.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PYTHON = os.path.relpath(sys.executable)
SLOW_TESTS = itertools.count(1)


def pytest_runtest_teardown(item, nextitem):
    """Drop compiled programs now and then: they stay in memory, and are gigabytes by the end."""
    another_module = nextitem is None or nextitem.path != item.path
    slow = any(map(item.get_closest_marker, ("slow", "exhaustive")))
    if another_module or (slow and next(SLOW_TESTS) % 20 == 0):
        jax.clear_caches()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Under a failure, the command that runs this test alone."""
    report = yield
    if report.failed:
        report.sections.append(("Run it alone", rerun_command(item.nodeid)))
    return report


def rerun_command(test: str) -> str:
    """What runs one test, be it slow or not."""
    return shlex.join([PYTHON, "-m", "pytest", "-m", "", test])


# For each marker, what its tests import and the extra that installs that.
EXTRAS = {
    "torch": ("torch",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "transformers": ("transformers", "torch"),
    "bench": ("flax", "equinox"),
}


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    mark_most_slow(items)
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


def mark_most_slow(items):
    """Of the cases of a test with the mark few(n), mark all but each n-th as slow.

    With few(n, m) of those all but each m-th as exhaustive.
    """
    seen = collections.Counter()
    for item in items:
        if few := item.get_closest_marker("few"):
            number, (n, m) = seen[item.function], (*few.args, 1)[:2]
            if number % n:
                item.add_marker("exhaustive" if number % m else "slow")
            seen[item.function] += 1
