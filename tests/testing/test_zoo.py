"""The tester, tested: every wrong rule dies by the check it names, every right one passes."""

import subprocess
import sys

import jax
import pytest

from experiments.kill_table.right_rules import RIGHT
from experiments.kill_table.rule import Rule
from experiments.kill_table.wrong_rules import WRONG
from funcnet.testing import RuleError, check_vjp

# The checks that `fast=True` keeps: a rule that one of them must catch needs no more.
FAST = {"constants", "primal", "cotangents", "formula", "linearity", "accuracy"}
SEEDS = range(1, 4)


def ids(rules):
    return [rule.name.replace(" ", "-") for rule in rules]


def judge(rule: Rule, *, seed=0, size=4, dtype=None, fast=False):
    """The report on a rule, whether it passes or not."""
    dtype = dtype or rule.dtypes[0]
    with jax.enable_x64(dtype in ("float64", "complex128")):
        args = rule.args(seed, size, dtype)
        try:
            return check_vjp(rule.fn, args, fast=fast, seed=seed, **rule.options)
        except RuleError as error:
            return error.report


SINGLE_DEVICE = [rule for rule in WRONG if not rule.options.get("sharding")]


def test_names_are_unique():
    names = [rule.name for rule in (*WRONG, *RIGHT)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", SINGLE_DEVICE, ids=ids(SINGLE_DEVICE))
def test_wrong_rule_dies(rule):
    report = judge(rule, fast=rule.caught_by in FAST)
    assert report.failed == rule.caught_by, str(report)


@pytest.mark.parametrize("rule", RIGHT, ids=ids(RIGHT))
def test_right_rule_passes(rule):
    report = judge(rule, fast=True)
    assert report.failed is None, str(report)


ON_TWO_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
from experiments.kill_table.judges import by_check_vjp
from experiments.kill_table.wrong_rules import WRONG
for rule in WRONG:
    if rule.options.get("sharding"):
        print(rule.name, by_check_vjp(rule).detail, rule.caught_by, sep=": ")
"""


def test_wrong_rules_on_several_devices_die():
    # In a process of its own: the number of devices is fixed with the first array.
    run = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True, check=True
    )
    verdicts = [line.split(": ") for line in run.stdout.splitlines()]
    assert len(verdicts) == len(WRONG) - len(SINGLE_DEVICE)
    assert not [name for name, got, expected in verdicts if got != expected], run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", SINGLE_DEVICE, ids=ids(SINGLE_DEVICE))
def test_wrong_rule_dies_at_every_seed(rule, seed):
    report = judge(rule, seed=seed, fast=rule.caught_by in FAST)
    assert report.failed == rule.caught_by, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RIGHT, ids=ids(RIGHT))
def test_right_rule_passes_in_full(rule):
    report = judge(rule)
    assert report.failed is None, str(report)


def variations(rule):
    """Every dtype with every seed, each seed with a size of its own."""
    return [
        (seed, size, dtype)
        for seed, size in zip(SEEDS, (1, 3, 7), strict=True)
        for dtype in rule.dtypes
    ]


def test_there_are_enough_variations():
    assert sum(len(variations(rule)) for rule in RIGHT) >= 500


@pytest.mark.slow
@pytest.mark.parametrize("rule", RIGHT, ids=ids(RIGHT))
def test_right_rule_passes_at_every_seed_size_and_dtype(rule):
    alarms = []
    for seed, size, dtype in variations(rule):
        report = judge(rule, seed=seed, size=size, dtype=dtype, fast=True)
        if report.failed is not None:
            alarms.append(f"seed {seed}, size {size}, {dtype}: {report.failed}")
    assert not alarms, "\n".join(alarms)
