"""What a type checker sees of each op: a function with its parameters, by name, and its result."""

import inspect
import json
import subprocess
import sys

import pytest

from funcnet import ops


@pytest.mark.slow
def test_a_type_checker_sees_every_parameter(tmp_path):
    file = tmp_path / "revealed.py"
    reveal = [f"reveal_type(ops.{name})" for name in ops.__all__]
    reveal.append("reveal_type(fn.without_rules(ops.softmax))")
    file.write_text("\n".join(["import funcnet as fn", "from funcnet import ops", *reveal]))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run([*command, file], capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert [d["severity"] for d in found] == ["information"] * len(reveal)
    names = [*ops.__all__, "softmax"]
    for name, diagnostic in zip(names, found, strict=True):
        seen = diagnostic["message"]
        assert "Unknown" not in seen
        assert "-> " in seen
        for parameter in inspect.signature(getattr(ops, name)).parameters:
            assert f"{parameter}: " in seen, name
