"""Imports point one way: ops, layers, training, experiments; metrics stand alone."""

import ast
import importlib.util
from pathlib import Path

import pytest

import funcnet

PACKAGE = Path(funcnet.__file__).parent
ROOT = PACKAGE.parent

# Each may import what stands before it. Only funcnet/__init__.py sees all.
LAYERS = [
    ["errors", "_compat", "_files", "_signals", "_describe", "debug", "_checks", "metrics"],
    ["ops"],
    ["layers", "interop", "_data", "shuffle", "checkpoint"],
    ["training"],
    ["diagnosis", "resumption", "fitting", "seeds", "inspection", "testing"],
]


def modules(folder: Path):
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports, wherever in it, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if is_module(name) else str(node.module))
    return {name for name in found if name.split(".")[0] in ("funcnet", "experiments", "tests")}


def is_module(name: str) -> bool:
    if name.split(".")[0] not in ("funcnet", "experiments"):
        return False
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def layer_of(name: str) -> int:
    """The place in LAYERS of a module of funcnet."""
    part = name.split(".")[1]
    return next((i for i, layer in enumerate(LAYERS) if part in layer), len(LAYERS))


FUNCNET = [path for path in modules(PACKAGE) if path != PACKAGE / "__init__.py"]


def test_the_test_sees_imports():
    assert "funcnet.ops" in imported(PACKAGE / "layers" / "linear.py")
    assert "funcnet.layers" in imported(PACKAGE / "training.py")
    assert "funcnet" in imported(ROOT / "experiments" / "disk.py")
    assert len(FUNCNET) > 10


@pytest.mark.parametrize("path", FUNCNET, ids=name_of)
def test_imports_point_one_way(path):
    own = name_of(path)
    for name in imported(path):
        assert name.startswith("funcnet."), f"{own} imports {name}"
        within = name.split(".")[1] == own.split(".")[1]
        assert within or layer_of(name) <= layer_of(own), f"{own} imports {name}"


@pytest.mark.parametrize("path", FUNCNET, ids=name_of)
def test_no_two_modules_import_each_other(path):
    own = name_of(path)
    for name in imported(path) - {own}:
        there = importlib.util.find_spec(name)
        assert there is not None
        assert own not in imported(Path(str(there.origin))), f"{own} and {name}"


@pytest.mark.parametrize(
    "name", ["metrics", "errors", "_compat", "_files", "_signals", "_describe"]
)
def test_stands_alone(name):
    assert imported(PACKAGE / f"{name}.py") == set()


def test_ops_see_no_layer():
    for path in modules(PACKAGE / "ops"):
        allowed = ("funcnet.ops", "funcnet.errors", "funcnet._checks", "funcnet._compat")
        for name in imported(path):
            assert name.startswith(allowed), f"{name_of(path)} imports {name}"


def test_training_sees_no_particular_layer_or_loss():
    """Model, loss and optimizer come as arguments."""
    tree = ast.parse((PACKAGE / "training.py").read_text())
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "funcnet.layers"
        for alias in node.names
    }
    particular = {"Linear", "ReLU", "Tanh", "Sequential", "MSELoss", "CrossEntropyLoss"}
    assert "Module" in names
    assert not names & particular


@pytest.mark.parametrize("path", modules(ROOT / "experiments"), ids=name_of)
def test_experiments_import_no_tests(path):
    assert not {name for name in imported(path) if name.startswith("tests")}
