"""`recording()`: what other code calls is recorded as it is, and judged once."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.testing import RulesError, recording
from funcnet.testing.recorded import judge
from funcnet.testing.recorded.files import decoded, encoded, verdicts


def ruled(primal, slope):
    fn = jax.custom_vjp(primal)
    fn.defvjp(lambda x: (primal(x), x), lambda x, g: (g * slope(x),))
    return fn


def make_sine():
    return ruled(lambda x: jnp.sin(x), lambda x: jnp.cos(x))


def make_wrong_sine():
    return ruled(lambda x: jnp.sin(x) + 0, lambda x: -jnp.cos(x))


X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
WAYS = {
    "plain": lambda f, x: f(x),
    "grad": lambda f, x: jax.grad(lambda x: f(x).sum())(x),
    "vmap": lambda f, x: jax.vmap(f)(x),
    "vmap of grad": lambda f, x: jax.vmap(jax.grad(lambda x: f(x).sum()))(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "jit of grad": lambda f, x: jax.jit(jax.grad(lambda x: f(x).sum()))(x),
    "scan": lambda f, x: jax.lax.scan(lambda c, row: (c, f(row)), 0.0, x)[1],
    "hessian": lambda f, x: jax.jacrev(jax.grad(lambda x: f(x).sum()))(x),
}
KNOWN = {"plain", "grad", "vmap", "vmap of grad"}


@pytest.mark.parametrize("way", WAYS)
def test_recorded_through_every_transformation_and_without_changing_a_bit(way):
    expected = WAYS[way](make_sine(), X)
    with recording() as rules:
        found = WAYS[way](make_sine(), X)
    np.testing.assert_array_equal(found, expected)
    (rule,) = rules.rules
    assert rule.name.endswith("make_sine.<locals>.<lambda>")
    assert "test_recorded.py:" in rule.where
    (example,) = rule.examples.values()
    (leaf,) = example.leaves
    assert leaf.dtype == X.dtype
    assert leaf.shape == ((3,) if "vmap" in way or way == "scan" else (4, 3))
    assert example.is_known == (way in KNOWN or way == "hessian")
    (verdict,) = rules.check(fast=True)
    assert verdict.verdict == "right"
    assert ("drawn: the values were not seen" in verdict.arguments) != example.is_known


def test_nothing_is_recorded_outside():
    before = jax.custom_vjp.__call__
    with recording() as rules:
        assert jax.custom_vjp.__call__ is not before
    assert jax.custom_vjp.__call__ is before
    make_sine()(X)
    assert rules.rules == ()


def test_same_code_is_one_rule_and_calls_are_counted():
    with recording() as rules:
        for rows in (1, 2, 3):
            make_sine()(X[:rows])
        make_wrong_sine()(X)
    first, second = rules.rules
    assert (first.calls, second.calls) == (3, 1)
    assert len(first.examples) == 3


def test_wrong_rule_raises_with_the_table_and_the_report():
    with recording() as rules:
        make_sine()(X)
        make_wrong_sine()(X)
    with pytest.raises(RulesError) as caught:
        rules.check(fast=True)
    assert [verdict.verdict for verdict in caught.value.verdicts] == ["right", "WRONG"]
    text = str(caught.value)
    assert "formula: the cotangent of x" in text
    assert "the sign is wrong" in text


def test_rule_that_is_right_once_is_no_error():
    fn = jax.custom_vjp(lambda x: jnp.exp(x))
    fn.defvjp(lambda x: (fn(x), x), lambda x, g: (g * jnp.exp(x),))
    with recording() as rules:
        fn(X)
    (verdict,) = rules.check()
    assert verdict.verdict == "right once"
    assert verdict.finding.startswith("second_order: ")


def test_static_arguments_keywords_and_custom_jvp():
    def scaled(x, power):
        return x**power

    fn = jax.custom_vjp(scaled, nondiff_argnums=(1,))
    fn.defvjp(
        lambda x, power: (scaled(x, power), x),
        lambda power, x, g: (g * power * x ** (power - 1),),
    )
    push = jax.custom_jvp(lambda x: jnp.tanh(x))
    push.defjvp(lambda x, t: (jnp.tanh(x[0]), t[0] * (1 - jnp.tanh(x[0]) ** 2)))
    with recording() as rules:
        jax.jit(lambda x: fn(x, power=3))(X)
        jax.grad(lambda x: push(x).sum())(X)
        jax.nn.relu(X)
    assert [rule.name.split(".")[-1] for rule in rules.rules] == ["scaled", "<lambda>"]
    assert [verdict.verdict for verdict in rules.check(fast=True)] == ["right", "right"]


def test_traced_values_are_drawn_from_the_range_that_was_seen():
    """Of a logarithm, numbers of both signs would be no use, nor would indices out of range."""

    def looked_up(table, index):
        return jnp.log(table)[index]

    fn = jax.custom_vjp(looked_up)
    fn.defvjp(
        lambda table, index: (looked_up(table, index), (table, index)),
        lambda r, g: (jnp.zeros_like(r[0]).at[r[1]].add(g / r[0][r[1]]), None),
    )
    table, index = jnp.abs(X[:, 0]) + 2.0, jnp.asarray([3, 1])
    with recording() as rules:
        jax.jit(fn)(table, index)
        fn(table[:2], index[:1] - 2)
    (rule,) = rules.rules
    low, high = rule.ranges[0]
    assert 2 <= low < high
    rule.examples = {k: e for k, e in rule.examples.items() if not e.is_known}
    assert judge.judged(rule, 10.0, fast=True).verdict == "right"


def test_defaults_of_static_arguments():
    def shifted(x, by=0.0, power=2):
        return x**power + by

    fn = jax.custom_vjp(shifted, nondiff_argnums=(2,))
    fn.defvjp(
        lambda x, by, power: (shifted(x, by, power), x),
        lambda power, x, g: (g * power * x ** (power - 1), g.sum()),
    )
    with recording() as rules:
        jax.jit(fn)(X)
        fn(X, 1.0, 3)
    (rule,) = rules.rules
    assert [example.static for example in rule.examples.values()] == [{}, {2: 3}]
    assert [verdict.verdict for verdict in rules.check(fast=True)] == ["right"]


def test_packages_choose():
    with recording(packages=["tests.testing.test_recorded"]) as rules:
        make_sine()(X)
    assert len(rules.rules) == 1
    with recording(packages=["optax"]) as rules:
        make_sine()(X)
    assert rules.rules == ()


def test_what_cannot_be_judged_is_said():
    fn = jax.custom_vjp(lambda i: i + 1)
    fn.defvjp(lambda i: (i + 1, None), lambda r, g: (None,))
    with recording() as rules:
        fn(jnp.arange(3))
    (verdict,) = rules.check()
    assert verdict.verdict == "not judged"
    assert verdict.finding.startswith("ValueError: args hold no floating-point number")


def test_time_is_limited():
    def slow(x):
        jax.debug.callback(lambda: None)
        time.sleep(0.3)
        return jnp.sin(x)

    fn = jax.custom_vjp(slow)
    fn.defvjp(lambda x: (slow(x), x), lambda x, g: (g * jnp.cos(x),))
    with recording() as rules:
        fn(X)
    (verdict,) = rules.check(seconds=0.2)
    assert verdict.verdict == "not judged"
    assert verdict.finding == "it takes over 0.4 s"


def test_files_round_trip():
    def mixed(tree, flag, power):
        return tree["a"][0] ** power + (tree["b"] if flag else 0)

    fn = jax.custom_vjp(mixed, nondiff_argnums=(1, 2))
    fn.defvjp(
        lambda tree, flag, power: (mixed(tree, flag, power), tree),
        lambda flag, power, tree, g: (
            {
                "a": (power * tree["a"][0] ** (power - 1) * g, None),
                "b": g if flag else jnp.zeros_like(g),
            },
        ),
    )
    with recording() as rules:
        fn({"a": (X, None), "b": 2 * X}, True, 3)
        jax.jit(lambda x: fn({"a": (x, None), "b": 2 * x}, False, 2))(X)
    (rule,) = rules.rules
    row = json.loads(json.dumps(encoded(rule)))
    again = decoded(row, fn)
    for before, after in zip(rule.examples.values(), again.examples.values(), strict=True):
        assert before.structure == after.structure
        assert before.static == after.static
        assert before.is_known == after.is_known
    first = next(iter(again.examples.values()))
    np.testing.assert_array_equal(first.leaves[0], X)
    assert judge.judged(again, 10.0, fast=True).verdict == "right"
    found = row | {"verdict": judge.judged(rule, 10.0, fast=True).to_dict()}
    (verdict,) = verdicts([found])
    assert (verdict.verdict, verdict.calls) == ("right", 2)


def test_recording_costs_little():
    """Counted, not timed: a call whose arguments are known already copies no array."""
    fn = make_sine()
    with recording() as rules:
        fn(X)
        (rule,) = rules.rules
        (before,) = rule.examples.values()
        fn(X + 1)
        assert next(iter(rule.examples.values())) is before
