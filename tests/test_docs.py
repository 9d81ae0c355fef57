"""The documentation's Python runs, its commands are CI's, and its links lead somewhere."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from funcnet import metrics

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def slow_but_readme(page):
    return pytest.param(page, marks=[] if page.stem == "README" else pytest.mark.slow)


@pytest.mark.parametrize("page", list(map(slow_but_readme, PAGES)), ids=lambda page: page.stem)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks(page, "python")), {"__name__": page.stem})


NO_FUNCNET = "import sys\nsys.modules['funcnet'] = None  # an import raises\n"


@pytest.mark.slow
def test_the_served_model_needs_no_funcnet(tmp_path, monkeypatch):
    """The page's server and its client, in a process in which funcnet can't be imported."""
    monkeypatch.chdir(tmp_path)
    make, *others = blocks(ROOT / "docs" / "export.md", "python")
    exec(make, {"__name__": "export"})
    serving = [block for block in others if block.startswith(("# serve.py", "# ask.py"))]
    assert len(serving) == 2
    command = [sys.executable, "-c", NO_FUNCNET + "\n".join(serving)]
    subprocess.run(command, check=True, timeout=120)


def test_a_layer_with_its_rule_takes_twenty_lines():
    block = blocks(ROOT / "docs" / "own_layer.md", "python")[0]
    code = [line.strip() for line in block.splitlines()]
    code = [line for line in code if line and not line.startswith(("#", "import"))]
    assert len(code) <= 20


def test_readme_commands_are_run_by_ci():
    ci = (ROOT / ".ci" / "run").read_text()
    commands = [line.split("#")[0].strip() for line in "".join(blocks(PAGES[0], "sh")).splitlines()]
    assert commands
    for command in commands:
        assert re.search(rf"^{re.escape(command)}$", ci, re.M), command


def test_each_metric_is_explained():
    explained = re.findall(r"`(\w+)`", (ROOT / "docs" / "training.md").read_text())
    functions = [name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))]
    assert functions
    assert set(functions) <= set(explained)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
