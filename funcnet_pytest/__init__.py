"""A pytest plugin: `pytest --check-vjp` verifies the backward passes that a test suite calls.

Nothing of JAX and of funcnet is imported before the flag is seen.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The flags."""
    group = parser.getgroup("check-vjp", "verification of hand-written backward passes (funcnet)")
    group.addoption(
        "--check-vjp",
        action="store_true",
        help="record every custom_vjp and custom_jvp that the tests call; judge each at the end",
    )
    group.addoption(
        "--check-vjp-package",
        action="append",
        default=[],
        metavar="NAME",
        help="judge only rules that are defined in this package; may be given several times",
    )
    group.addoption(
        "--check-vjp-seconds",
        type=float,
        default=10.0,
        metavar="N",
        help="how long each rule may take to judge (default: 10)",
    )
    group.addoption(
        "--check-vjp-json",
        metavar="FILE",
        help="write the verdicts, and the arguments that were recorded, to this file",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register what records and judges, if it was asked for."""
    option: Any = config.getoption
    if not option("check_vjp"):
        for flag in ("package", "json"):
            if option(f"check_vjp_{flag}"):
                raise pytest.UsageError(f"--check-vjp-{flag} does nothing without --check-vjp")
        return
    if not option("check_vjp_seconds") > 0:
        raise pytest.UsageError("--check-vjp-seconds must be positive")
    from funcnet_pytest.plugin import Plugin

    config.pluginmanager.register(Plugin(config), "check_vjp")
