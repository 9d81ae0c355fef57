"""Every rule of funcnet.ops, judged by check_vjp over the table in rules.py."""

import contextlib
import itertools
import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest

from funcnet import ops
from funcnet.testing import check_vjp
from tests.ops.rules import (
    DTYPES,
    FULL,
    RULES,
    Case,
    full_rows,
    other_rows,
    quick_rows,
    rows,
    rows_to_repeat,
)


def judged(rows_of, marks_of=lambda name, case, row: ()):
    """Parameters for pytest: one for each row of each case, with a name to rerun it by."""
    return [
        pytest.param(case, *row, id=f"{name}-{case.name}-{row[0]}-{row[1]}", marks=marks)
        for name in RULES
        for case in RULES[name]
        for row in rows_of(case)
        for marks in [marks_of(name, case, row)]
    ]


def check(case: Case, dtype, leading, **options):
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        seed = zlib.crc32(f"{case.name}{dtype}{leading}".encode())
        args = case.arguments(np.random.default_rng(seed), dtype, leading)
        report = check_vjp(case.function, args, seed=seed % 1000, **options)
    assert report.passed
    return report


def test_every_exported_function_is_in_the_table():
    assert sorted(RULES) == sorted(ops.__all__)


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_traced_computation_holds_a_rule(name):
    case = RULES[name][0]
    args = case.arguments(np.random.default_rng(0), "float32", (4,))
    assert "custom_vjp_call" in str(jax.make_jaxpr(case.function)(*args))


QUICK = ["linear", "cross_entropy"]


def slow_but_two(name, case, row):
    quick = name in QUICK and case is RULES[name][0] and row == FULL[0]
    return () if quick else pytest.mark.slow


@pytest.mark.parametrize(("case", "dtype", "leading"), judged(full_rows, marks_of=slow_but_two))
def test_in_full(case, dtype, leading):
    check(case, dtype, leading)


def slow_but_the_first(name, case, row):
    quick = case is RULES[name][0] and row == quick_rows(case)[0]
    return () if quick else pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "dtype", "leading"), judged(quick_rows, marks_of=slow_but_the_first)
)
def test_values(case, dtype, leading):
    check(case, dtype, leading, fast=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("case", "dtype", "leading"), judged(other_rows))
def test_values_of_every_other_row(case, dtype, leading):
    check(case, dtype, leading, fast=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("case", "dtype", "leading"), judged(rows_to_repeat))
def test_every_other_row_in_full(case, dtype, leading):
    check(case, dtype, leading)


def test_every_row_is_judged_once_in_each_way():
    for case in itertools.chain.from_iterable(RULES.values()):
        by_value = quick_rows(case) + other_rows(case) + full_rows(case)
        assert sorted(by_value) == sorted(full_rows(case) + rows_to_repeat(case))
        assert sorted(by_value) == sorted(rows(case))
        assert quick_rows(case)
        assert {dtype for dtype, _ in full_rows(case)} == ({"float32"} if case.minor else {*DTYPES})


FIRST = ["linear", "cross_entropy"]
REST = sorted(set(RULES) - set(FIRST))


@pytest.mark.slow
@pytest.mark.parametrize("names", [FIRST, *(REST[i::3] for i in range(3))])
def test_on_a_mesh_of_auto_axes(names):
    # A process of its own: the number of devices is settled when JAX starts.
    program = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from funcnet.testing import check_vjp
from tests.ops.rules import RULES
for name in sys.argv[1:]:
    case = RULES[name][0]
    report = check_vjp(case.function, case.arguments(np.random.default_rng(0), "float32", (4,)))
    status = {check.name: check.status for check in report.checks}
    print(name, status["auto_mesh"])
    assert status["auto_mesh"] == "passed", report
"""
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} passed" for name in names]
