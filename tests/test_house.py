"""The limits of the house: short functions, a README in each folder, experiments from outside."""

import ast
from pathlib import Path

import pytest

import funcnet
from tests.test_imports import FUNCNET, PACKAGE, ROOT, imported, modules, name_of

LONGEST_FUNCTION = 40
MOST_LINES_OF_EXPERIMENTS = 3700

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]


def lines_without_docstring(function: Function) -> int:
    """From `def` to the last line, without decorators and docstring."""
    assert function.end_lineno is not None
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is None or first.end_lineno is None:
        return total
    return total - (first.end_lineno - first.lineno + 1)


def test_lines_are_counted_without_the_docstring():
    text = """
@decorated
def f(
    x,
):
    "One."

    y = x
    return y
"""
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert lines_without_docstring(function) == 6


JUDGED = [path for path in FUNCNET if "testing" not in path.relative_to(PACKAGE).parts]


@pytest.mark.parametrize("path", JUDGED, ids=name_of)
def test_functions_are_short(path):
    lengths = {function.name: lines_without_docstring(function) for function in functions(path)}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}
    assert not long, f"split into functions of at most {LONGEST_FUNCTION} lines"


ROOMS = sorted({path.parent for path in FUNCNET} - {PACKAGE})


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_says_what_belongs_in_it(folder):
    readme = folder / "README.md"
    assert readme.exists(), f"write {readme.relative_to(ROOT)}: what belongs here, what it imports"
    assert 1 <= len(readme.read_text().splitlines()) <= 40


BEFORE = {"numerics": set(), "references": {"numerics"}, "checks": {"numerics", "references"}}


@pytest.mark.parametrize("room", BEFORE)
def test_rooms_of_testing_see_those_before_them(room):
    seen = set().union(*map(imported, modules(PACKAGE / "testing" / room)))
    seen = {name.split(".")[2] for name in seen if name.startswith("funcnet.testing.")}
    assert seen <= {room, *BEFORE[room]}


EXPERIMENTS = [
    path
    for path in modules(ROOT / "experiments")
    if not {"bench", "kill_table"} & {*path.relative_to(ROOT / "experiments").parts}
]


def test_experiments_are_small():
    lines = {name_of(path): len(path.read_text().splitlines()) for path in EXPERIMENTS}
    assert sum(lines.values()) <= MOST_LINES_OF_EXPERIMENTS, lines


def used(path: Path) -> set[str]:
    """What a file takes of funcnet, by an import or by its attributes, in full."""
    tree, found, packages = ast.parse(path.read_text()), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "funcnet"}
            packages |= {a.asname or a.name for a in node.names if a.name == "funcnet"}
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "funcnet":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    chains = (dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    chains = (chain for chain in chains if chain[0] in packages)
    return found | {".".join(["funcnet", *chain[1:]]) for chain in chains}


def dotted(node: ast.expr) -> list[str]:
    """The names of a.b.c; an empty first one where there is no plain name in front."""
    if isinstance(node, ast.Attribute):
        return [*dotted(node.value), node.attr]
    return [node.id if isinstance(node, ast.Name) else ""]


def is_public(name: str) -> bool:
    """Whether no underscore hides a name, and the package lists what is its own."""
    _, *names = name.split(".")
    if any(part.startswith("_") and part != "__version__" for part in names):
        return False
    own = not names or f"funcnet.{names[0]}" in map(name_of, modules(PACKAGE))
    return own or names[0] in (*funcnet.__all__, "__version__")


def test_what_is_used_is_seen():
    path = ROOT / "tests" / "test_house.py"
    assert {"funcnet", "funcnet.__all__"} <= used(path)
    assert is_public("funcnet.ops.linear")
    assert is_public("funcnet.errors.ConfigError")
    assert not is_public("funcnet._internal.checks.require_positive_int")
    assert not is_public("funcnet.fit._result")
    assert not is_public("funcnet.jax")


@pytest.mark.parametrize("path", modules(ROOT / "experiments"), ids=name_of)
def test_experiments_use_public_names_alone(path):
    assert not {name for name in used(path) if not is_public(name)}
