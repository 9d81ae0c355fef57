"""Imports point one way: ops, layers, training, experiments; metrics stand alone."""

import ast
import importlib.util
from pathlib import Path

import pytest

import funcnet

PACKAGE = Path(funcnet.__file__).parent
ROOT = PACKAGE.parent

# Each may import its own kind and what stands before it. Only funcnet/__init__.py sees all.
ROOMS = [
    ["errors"],
    ["_internal"],
    ["ops"],
    ["layers"],
    ["data", "metrics", "io", "distributed"],
    ["training"],
    ["testing", "sklearn", "inspect"],
    ["cli"],
    ["__main__"],
]
# These see no other room than these.
ALONE = {
    "errors": set(),
    "_internal": {"errors"},
    "metrics": set(),
    "testing": {"errors", "_internal"},
}


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


def room(name: str) -> str:
    return name.split(".")[1]


def place(name: str) -> int:
    """Where the room of a module stands in ROOMS."""
    found = [i for i, rooms in enumerate(ROOMS) if room(name) in rooms]
    assert len(found) == 1, f"{name} is in no room"
    return found[0]


FUNCNET = [path for path in modules(PACKAGE) if path != PACKAGE / "__init__.py"]


def test_the_test_sees_imports():
    assert "funcnet.ops" in imported(PACKAGE / "layers" / "linear.py")
    assert "funcnet.layers" in imported(PACKAGE / "training" / "trainer.py")
    assert "funcnet" in imported(ROOT / "experiments" / "disk.py")
    assert len(FUNCNET) > 10


@pytest.mark.parametrize("path", FUNCNET, ids=name_of)
def test_imports_point_one_way(path):
    own = name_of(path)
    for name in imported(path):
        if name == "funcnet":
            assert room(own) == "__main__", f"{own} imports {name}"
            continue
        if room(name) == room(own):
            continue
        assert place(name) < place(own), f"{own} imports {name}"
        allowed = ALONE.get(room(own))
        assert allowed is None or room(name) in allowed, f"{own} imports {name}"


@pytest.mark.parametrize("path", FUNCNET, ids=name_of)
def test_no_two_modules_import_each_other(path):
    own = name_of(path)
    for name in imported(path) - {own}:
        there = importlib.util.find_spec(name)
        assert there is not None
        assert own not in imported(Path(str(there.origin))), f"{own} and {name}"


@pytest.mark.parametrize("name", [name for name, allowed in ALONE.items() if not allowed])
def test_stands_alone(name):
    folder = PACKAGE / name
    for path in modules(folder) if folder.is_dir() else [folder.with_suffix(".py")]:
        assert {room(found) for found in imported(path)} <= {name}, path


def test_training_sees_no_particular_layer_or_loss():
    """Model, loss and optimizer come as arguments."""
    tree = ast.parse((PACKAGE / "training" / "trainer.py").read_text())
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


# They look into funcnet to measure it and to break it.
INSIDERS = ("experiments.bench", "experiments.kill_table")


@pytest.mark.parametrize("path", modules(ROOT / "experiments"), ids=name_of)
def test_experiments_use_what_is_public(path):
    if name_of(path).startswith(INSIDERS):
        return
    for name in imported(path):
        assert not name.startswith(("funcnet._internal", "funcnet.training")), name
