"""What conftest.py adds to every test."""

import shlex
import subprocess
import sys

import pytest

FAILING = """
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b", "it's"])
def test_fails(name):
    assert not name
"""


@pytest.mark.slow
def test_a_failing_test_prints_the_command_that_reruns_it_alone(tmp_path):
    (tmp_path / "test_it.py").write_text(FAILING)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  exhaustive\n")
    plugin = ["-p", "tests.conftest", "-p", "no:cacheprovider"]

    def run(*arguments):
        command = [sys.executable, "-m", "pytest", *plugin, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout

    first = run("-m", "")
    assert "2 failed" in first, first
    commands = [line for line in first.splitlines() if " -m pytest " in line]
    assert len(commands) == 2
    alone = run(*shlex.split(commands[1])[3:])
    assert "1 failed" in alone
    assert "test_fails[it's]" in alone
