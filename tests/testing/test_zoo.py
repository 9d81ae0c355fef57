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


@pytest.mark.few(11)
@pytest.mark.parametrize("rule", SINGLE_DEVICE, ids=ids(SINGLE_DEVICE))
def test_wrong_rule_dies(rule):
    report = judge(rule, fast=rule.caught_by in FAST)
    assert report.failed == rule.caught_by, str(report)


# The slow suite judges every one of them in full.
@pytest.mark.parametrize("rule", RIGHT[::6], ids=ids(RIGHT[::6]))
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


@pytest.mark.slow
def test_wrong_rules_on_several_devices_die():
    # In a process of its own: the number of devices is fixed with the first array.
    run = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True, check=True
    )
    verdicts = [line.split(": ") for line in run.stdout.splitlines()]
    assert len(verdicts) == len(WRONG) - len(SINGLE_DEVICE)
    assert not [name for name, got, expected in verdicts if got != expected], run.stdout


@pytest.mark.exhaustive
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
    """Every dtype with every seed, each seed with a size of its own: some, and the others.

    Among the first is each dtype and each size.
    """
    sizes = list(zip(SEEDS, (1, 3, 7), strict=True))
    turns = range(max(len(sizes), len(rule.dtypes)))
    first = [(*sizes[i % len(sizes)], rule.dtypes[i % len(rule.dtypes)]) for i in turns]
    pairs = [(*size, dtype) for dtype in rule.dtypes for size in sizes]
    return first, [pair for pair in pairs if pair not in first]


def alarms(rule, cases):
    """What is said against a right rule."""
    reports = [
        (case, judge(rule, seed=case[0], size=case[1], dtype=case[2], fast=True)) for case in cases
    ]
    return [f"{case}: {report.failed}" for case, report in reports if report.failed is not None]


def test_there_are_enough_variations():
    assert sum(len(cases) for rule in RIGHT for cases in variations(rule)) >= 500


@pytest.mark.exhaustive
@pytest.mark.parametrize("rule", RIGHT, ids=ids(RIGHT))
def test_right_rule_passes_at_every_seed_and_size_and_in_every_dtype(rule):
    first, _ = variations(rule)
    assert {dtype for *_, dtype in first} == {*rule.dtypes}
    assert len({size for _, size, _ in first}) == len(SEEDS)
    assert not alarms(rule, first)


OF_SEVERAL_DTYPES = [rule for rule in RIGHT if len(rule.dtypes) > 1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("rule", OF_SEVERAL_DTYPES, ids=ids(OF_SEVERAL_DTYPES))
def test_right_rule_passes_in_every_dtype_at_every_other_seed_and_size(rule):
    _, others = variations(rule)
    assert others
    assert not alarms(rule, others)
