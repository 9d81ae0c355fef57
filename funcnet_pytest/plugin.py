"""Recording while the tests run, judging when they have run, a table at the end.

Under pytest-xdist the rules are in the workers' processes, and so is the judging: the first worker
that claims a rule, by a file in a folder that they share, judges it. The controller adds up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CLAIMS, FOUND = "check_vjp_claims", "check_vjp_found"


class Plugin:
    """What `--check-vjp` adds to a session.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config):
        self.config: Any = config  # of pytest-xdist's workers it has more than pytest's own
        option: Any = config.getoption
        self.packages: list[str] = option("check_vjp_package")
        self.seconds: float = option("check_vjp_seconds")
        self.json: str | None = option("check_vjp_json")
        self.worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.recording: Any = None
        self.found: list[dict[str, Any]] = []
        self.claims: str | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """Record while the tests run; by now they have set JAX up as they want it."""
        if session.config.getoption("collectonly"):
            return (yield)
        from funcnet.testing.recorded import recording

        with recording(self.packages) as self.recording:
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge what was recorded here; the controller of several workers sums up."""
        if self.recording is not None:
            self.found += self._judged()
        if self.worker is not None:
            self.config.workeroutput[FOUND] = json.dumps(self.found)
            return
        self.found = _merged(self.found)
        if self.claims is not None:
            shutil.rmtree(self.claims, ignore_errors=True)
        if self.json is not None:
            Path(self.json).write_text(json.dumps({"rules": self.found}, indent=1) + "\n")
        if session.exitstatus == pytest.ExitCode.OK and self._wrong():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _judged(self) -> list[dict[str, Any]]:
        from funcnet.testing.recorded import judge
        from funcnet.testing.recorded.files import encoded

        found = []
        for rule in self.recording.rules:
            row = encoded(rule)
            if self._claim(rule.key):
                row |= {"verdict": judge.judged(rule, self.seconds, fast=False).to_dict()}
            found.append(row)
        return found

    def _claim(self, key: str) -> bool:
        """Whether this process is the one to judge a rule."""
        if self.worker is None:
            return True
        name = hashlib.sha256(key.encode()).hexdigest()
        with contextlib.suppress(FileExistsError):
            (Path(self.worker[CLAIMS]) / name).touch(exist_ok=False)
            return True
        return False

    def _wrong(self) -> list[dict[str, Any]]:
        from funcnet.testing.recorded.judge import WRONG

        return [row for row in self.found if row["verdict"]["verdict"] == WRONG]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Of pytest-xdist: a worker is told where the claims are."""
        if self.claims is None:
            self.claims = tempfile.mkdtemp(prefix="check_vjp")
        node.workerinput[CLAIMS] = self.claims

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Of pytest-xdist: a worker has ended, and says what it found."""
        self.found += json.loads(getattr(node, "workeroutput", {}).get(FOUND, "[]"))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table, and the reports of wrong rules."""
        from funcnet.testing.recorded.files import verdicts

        terminalreporter.section("hand-written backward passes")
        if not self.found:
            terminalreporter.write_line("The tests called none.")
            return
        terminalreporter.write_line(str(verdicts(self.found)))
        for row in self._wrong():
            terminalreporter.write_line(f"\n{row['verdict']['text']}")


def _merged(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each rule: the calls added up, with the verdict of the worker that judged it."""
    rows: dict[str, dict[str, Any]] = {}
    for row in found:
        kept = rows.setdefault(row["key"], row)
        if kept is not row:
            calls = kept["calls"] + row["calls"]
            kept |= row if "verdict" in row else {}
            kept["calls"] = calls
    judged = [row for row in rows.values() if "verdict" in row]
    for row in judged:
        row["verdict"]["calls"] = row["calls"]
    return judged
