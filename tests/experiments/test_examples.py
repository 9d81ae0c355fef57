"""The examples do what they say, quickly and as commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the extra plots")
from experiments.examples import digits, seeds

FILES = [Path(str(module.__file__)) for module in (digits, seeds)]


def test_digits_are_learned_saved_and_loaded(tmp_path, capsys):
    digits.main(size=1000, epochs=2, out=tmp_path / "run")
    said = capsys.readouterr().out.splitlines()
    after, tested = (float(line.split(": ")[1].split(" %")[0]) for line in said[1:3])
    assert after > 75
    assert tested > 75
    assert (tmp_path / "run" / "digits.safetensors").exists()
    assert "the first ten test images: [7 2 1 0 4 1 4 9 5 9], read as [7" in said[3]


def test_seeds_differ_by_what_is_shown(tmp_path, capsys):
    seeds.main(seeds=3, out=tmp_path / "deeper" / "seeds.png")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [float(row[0]) for row in rows] == list(seeds.RATES)
    for _, mean, _, deviation, worst, best in rows:
        assert float(worst) <= float(mean) <= float(best)
        assert float(deviation) > 0
    assert (tmp_path / "deeper" / "seeds.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_short_and_public(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] != "funcnet", "an example says fn. alone"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_as_a_command(path):
    command = [sys.executable, "-m", f"experiments.examples.{path.stem}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout
