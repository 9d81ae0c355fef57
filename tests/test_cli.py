"""`funcnet check`: its exit codes, its sentences, its JSON."""

import importlib.util
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest

import funcnet as fn
from funcnet.cli import main, quiet_pipe
from funcnet.testing import recording
from funcnet.testing.recorded.files import encoded

SOURCE = """
import jax
import jax.numpy as jnp

right = jax.custom_vjp(jnp.sin)
right.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
wrong = jax.custom_vjp(jnp.sin)
wrong.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (-g * jnp.cos(x),))
unruled = jnp.cos
"""
ARGS = """
def check_args():
    return (jnp.array([0.3, 1.2]),)
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rules_of_a_user.py"
    path.write_text(SOURCE)
    return path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code, *capsys.readouterr()


def test_right_rule(capsys, source):
    code, out, _ = run(capsys, "check", f"{source}:right", "--shape", "4", "--fast")
    assert code == 0
    assert "check_vjp: sin passed" in out


def test_wrong_rule(capsys, source):
    code, out, _ = run(capsys, "check", f"{source}:wrong", "--shape", "4")
    assert code == 1
    assert "the sign is wrong" in out


STATIC = """
import jax
import jax.numpy as jnp


def scaled(x, power, name, weight):
    return x**power * weight


rule = jax.custom_vjp(scaled, nondiff_argnums=(1, 2))
rule.defvjp(
    lambda x, power, name, weight: (scaled(x, power, name, weight), (x, weight)),
    lambda power, name, r, g: (g * power * r[0] ** (power - 1) * r[1], g * r[0] ** power),
)


def check_args_rule():
    return jnp.asarray([0.3, 1.2]), 2, "square", jnp.asarray([0.7, -0.4])


class Layer:
    cube = jax.custom_vjp(lambda x: x**3)
    cube.defvjp(lambda x: (x**3, x), lambda x, g: (g * 2 * x**2,))
"""


@pytest.fixture
def static(tmp_path):
    path = tmp_path / "static_rules.py"
    path.write_text(STATIC)
    return path


def test_static_arguments_by_name(capsys, static):
    options = ["--shape", "4", "--arg", "power=3", "--shape", "4", "--arg", "name=cubed", "--fast"]
    code, out, _ = run(capsys, "check", f"{static}:rule", *options)
    assert code == 0
    assert "argument weight: float32[4]" in out


def test_arguments_of_one_rule_beside_it(capsys, static):
    code, out, _ = run(capsys, "check", f"{static}:rule", "--fast")
    assert code == 0
    assert "check_vjp: scaled passed" in out


def test_several_targets(capsys, source):
    targets = [f"{source}:right", f"{source}:wrong", f"{source}:missing"]
    code, out, err = run(capsys, "check", *targets, "--shape", "4", "--fast")
    assert code == 1
    assert "sin passed" in out
    assert "sin FAILED at 'formula'" in out
    assert "defines no missing" in err
    code, out, _ = run(capsys, "check", *targets[:2], "--shape", "4", "--fast", "--json")
    assert [report["passed"] for report in json.loads(out)] == [True, False]


def test_module_lists_its_rules(capsys, static, tmp_path):
    code, out, _ = run(capsys, "check", str(static), "--fast")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == ["rule", "rule", "Layer.cube"]
    assert lines[1][3:] == ["right"]
    assert "not judged" in out
    assert "define check_args_Layer.cube() beside it, or pass --recording" in out


def test_module_with_a_recording(capsys, static, tmp_path):
    with recording() as rules:
        path, module = static, _imported_from(static)
        module.Layer.cube(jnp.asarray([0.5, 2.0]))
    found = tmp_path / "found.json"
    found.write_text(
        json.dumps({"rules": [{**encoded(r), "rule": "Layer.cube"} for r in rules.rules]})
    )
    code, out, _ = run(capsys, "check", str(path), "--recording", str(found), "--fast", "--json")
    assert code == 1
    assert [verdict["verdict"] for verdict in json.loads(out)] == ["right", "WRONG"]


def _imported_from(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_json(capsys, source):
    code, out, _ = run(capsys, "check", f"{source}:wrong", "--shape", "2,3", "--fast", "--json")
    assert code == 1
    assert json.loads(out)["failed"] == "formula"


def test_dtype(capsys, source):
    target = ("check", f"{source}:right", "--shape", "", "--dtype", "float64", "--fast")
    code, out, _ = run(capsys, *target)
    assert code == 0
    assert "float64[]" in out


def test_check_args_beside_the_function(capsys, source):
    source.write_text(SOURCE + ARGS)
    code, out, _ = run(capsys, "check", f"{source}:right", "--fast")
    assert code == 0
    assert "float32[2]" in out


def test_module(capsys, source, monkeypatch):
    monkeypatch.chdir(source.parent)
    monkeypatch.syspath_prepend(source.parent)
    code, *_ = run(capsys, "check", f"{source.stem}:right", "--shape", "3", "--fast")
    assert code == 0


def test_help_says_that_the_file_is_run(capsys):
    code, out, _ = run(capsys, "check", "--help")
    assert code == 0
    assert "imported, which runs it" in " ".join(out.split())


@pytest.mark.parametrize(
    ("target", "options", "sentence"),
    [
        ("{path}:missing", ["--shape", "3"], "defines no missing"),
        ("nowhere.py:right", [], "there is no file nowhere.py"),
        ("no_such_module:right", [], "importing no_such_module raises ModuleNotFoundError"),
        ("right:", [], "not of the form"),
        ("rules/right", [], "not of the form"),
        ("right", [], "importing right raises ModuleNotFoundError"),
        ("{path}", ["--recording", "{path}"], "is no recording"),
        ("json", [], "defines no jax.custom_vjp and no jax.custom_jvp"),
        ("{path}:right", ["--arg", "axis=1"], "give the arrays' shapes with --shape too"),
        ("{path}:right", ["--shape", "3", "--arg", "axis"], "is not of the form name=value"),
        ("{path}:right", ["--shape", "3", "--arg", "axis=1"], "--arg axis: the function takes x"),
        ("{path}:unruled", ["--shape", "3"], "holds no jax.custom_vjp"),
        ("{path}:right", [], "give the arguments' shapes"),
        ("{path}:right", ["--shape", "3,x"], "is no shape"),
        ("{path}:right", ["--shape", "3", "--shape", "3"], "does not run on these arguments"),
    ],
)
def test_usage_errors_are_sentences(capsys, source, target, options, sentence):
    options = [option.format(path=source) for option in options]
    code, out, err = run(capsys, "check", target.format(path=source), *options)
    assert code == 2
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(capsys, option):
    assert run(capsys, option) == (0, f"funcnet {fn.__version__}\n", "")


COMMANDS = {
    "check": ["funcnet", "check", "funcnet.ops:relu", "--shape", "3", "--fast"],
    "usage": ["funcnet", "--help"],
    "experiments": ["experiments", "--help"],
}


@pytest.mark.few(3)
@pytest.mark.skipif(os.name != "posix", reason="of a closed pipe only POSIX tells")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_pipe_ends_quietly(name):
    command = [sys.executable, "-m", *COMMANDS[name]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=120) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_what_is_raised_inside_passes_a_pipe_that_is_open():
    with pytest.raises(KeyError), quiet_pipe():
        raise KeyError("x")


def test_without_a_command(capsys):
    assert run(capsys)[0] == 2
    assert run(capsys, "--help")[0] == 0
