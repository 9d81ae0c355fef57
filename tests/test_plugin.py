"""`pytest --check-vjp`: another suite's tests, run unchanged, in a process of their own."""

import json

import pytest

pytest_plugins = ["pytester"]

RULES = """
import jax
import jax.numpy as jnp


@jax.custom_vjp
def gate(x, weight):
    return jnp.tanh(x) * weight


gate.defvjp(
    lambda x, weight: (gate.__wrapped__(x, weight), (jnp.tanh(x), weight)),
    lambda r, g: (g * r[1] * (1 - r[0] ** 2), (g * r[0]).sum(0)),
)


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (g * FACTOR * x**2,))
"""
TESTS = """
import jax
import jax.numpy as jnp
from rules import cube, gate

X = jnp.asarray([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]])


def test_gate():
    assert gate(X, X[0]).shape == X.shape


def test_gate_under_jit():
    assert jax.jit(jax.grad(lambda x: gate(x, x[0]).sum()))(X).shape == X.shape


def test_cube():
    assert jax.vmap(cube)(X).shape == X.shape
"""
# No plugin but this one and xdist; JAX on a CPU compiles little.
FLAGS = ("-p", "funcnet_pytest", "-p", "no:cacheprovider", "-p", "no:randomly")


def suite(pytester, factor):
    pytester.makepyfile(rules=RULES.replace("FACTOR", str(factor)), test_suite=TESTS)


def rows(result):
    """The table's rows, by the rule's name."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if line.startswith("rule "))
    return {line.split()[0]: line for line in lines[start + 1 : start + 3]}


def test_right_rules(pytester):
    suite(pytester, 3)
    result = pytester.runpytest_subprocess("--check-vjp", *FLAGS)
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert rows(result)["gate"].split()[1:4] == ["rules.py:5", "2", "right"]
    assert rows(result)["cube"].split()[2:4] == ["1", "right"]


def test_a_wrong_rule_fails_the_run_though_every_test_passes(pytester):
    suite(pytester, 2)
    result = pytester.runpytest_subprocess("--check-vjp", "--check-vjp-json=found.json", *FLAGS)
    result.assert_outcomes(passed=3)
    assert result.ret == 1
    assert "WRONG    formula: the cotangent of x" in rows(result)["cube"]
    result.stdout.fnmatch_lines(["check_vjp: cube FAILED at*"])
    found = json.loads((pytester.path / "found.json").read_text())["rules"]
    assert {row["rule"]: row["verdict"]["verdict"] for row in found} == {
        "gate": "right",
        "cube": "WRONG",
    }
    assert found[0]["examples"][0]["args"][0]["shape"] == [2, 3]


@pytest.mark.slow
def test_workers_share_the_work(pytester):
    suite(pytester, 2)
    result = pytester.runpytest_subprocess("--check-vjp", "-n", "2", *FLAGS)
    result.assert_outcomes(passed=3)
    assert result.ret == 1
    assert rows(result)["gate"].split()[2:4] == ["2", "right"]
    assert rows(result)["cube"].split()[2:4] == ["1", "WRONG"]


@pytest.mark.slow
def test_packages(pytester):
    suite(pytester, 2)
    result = pytester.runpytest_subprocess("--check-vjp", "--check-vjp-package=other", *FLAGS)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["The tests called none."])


def test_without_the_flag_neither_jax_nor_funcnet_is_imported(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_imports():
            assert "funcnet_pytest" in sys.modules
            assert not {"jax", "funcnet"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess(*FLAGS)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--check-vjp-json=found.json",), "--check-vjp-json does nothing without --check-vjp"),
        (("--check-vjp-package=me",), "--check-vjp-package does nothing without --check-vjp"),
        (("--check-vjp", "--check-vjp-seconds=0"), "--check-vjp-seconds must be positive"),
    ],
)
def test_flags_that_do_not_fit(pytester, flags, text):
    result = pytester.runpytest_subprocess(*flags, *FLAGS)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert text in result.stderr.str()


@pytest.mark.slow
def test_failing_tests_keep_their_exit_code_and_the_table_stands_below(pytester):
    suite(pytester, 3)
    pytester.makepyfile(test_more="def test_fails():\n    assert False\n")
    result = pytester.runpytest_subprocess("--check-vjp", *FLAGS)
    result.assert_outcomes(passed=3, failed=1)
    assert result.ret == 1
    assert rows(result)["gate"].split()[3] == "right"
