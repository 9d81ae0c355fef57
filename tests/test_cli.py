"""`funcnet check`: its exit codes, its sentences, its JSON."""

import json
import os
import subprocess
import sys

import pytest

import funcnet as fn
from funcnet.cli import main, quiet_pipe

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
        ("right", [], "not of the form"),
        ("{path}:unruled", ["--shape", "3"], "holds no jax.custom_vjp"),
        ("{path}:right", [], "give the arguments' shapes"),
        ("{path}:right", ["--shape", "3,x"], "is no shape"),
        ("{path}:right", ["--shape", "3", "--shape", "3"], "does not run on these arguments"),
    ],
)
def test_usage_errors_are_sentences(capsys, source, target, options, sentence):
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
