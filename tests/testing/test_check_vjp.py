"""check_vjp's interface: the report, kinds of arguments and functions, references, refusals.

Which wrong rules it catches is tested in test_zoo.py.
"""

import functools
import json
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.testing import Check, Report, RuleError, check_vjp

NAMES = (
    *("constants", "primal", "cotangents", "formula", "linearity", "finite_differences", "kinks"),
    *("second_order", "accuracy", "repeat", "jit", "vmap", "checkpoint", "scan", "alone", "empty"),
    *("auto_mesh", "explicit_mesh", "shard_map"),
)
FAST = {"constants", "primal", "cotangents", "formula", "linearity", "accuracy"}


def normal(*shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    if dtype.startswith("complex"):
        values = values + 1j * rng.normal(size=shape)
    return jnp.asarray(values, dtype)


def ruled(primal, bwd, fwd=None, **options):
    """A function with this backward pass; `fwd` keeps all arguments unless given."""
    fn = jax.custom_vjp(primal, **options)
    fn.defvjp(fwd or (lambda *args: (primal(*args), args)), bwd)
    return fn


sine = ruled(jnp.sin, lambda args, g: (g * jnp.cos(args[0]),))
wrong_sine = ruled(jnp.sin, lambda args, g: (-g * jnp.cos(args[0]),))


def failure(fn, args, **options):
    with pytest.raises(RuleError) as caught:
        check_vjp(fn, args, **options)
    return caught.value.report


# The report.


def test_report_of_a_right_rule():
    report = check_vjp(sine, (normal(4),))
    assert tuple(check.name for check in report.checks) == NAMES
    assert report.passed
    assert report.failed is None
    assert report.warnings == ()
    assert {check.status for check in report.checks} <= {"passed", "skipped"}


def test_a_failure_stops_only_what_depends_on_it():
    report = failure(wrong_sine, (normal(4),))
    assert not report.passed
    assert [check.name for check in report.failures] == ["formula"]
    status = {check.name: check.status for check in report.checks}
    assert {name for name in status if status[name] == "skipped"} == {
        *("finite_differences", "kinks", "second_order"),
        *("auto_mesh", "explicit_mesh", "shard_map"),
    }


def test_a_failing_check_keeps_its_warnings():
    """The first check that runs tells that float64 is refused, whatever else it finds."""

    def narrow(x):
        assert x.dtype == "float32"
        return jnp.sin(x)

    rule = ruled(narrow, lambda a, g: (-g * jnp.cos(a[0]),))
    report = failure(rule, (normal(4),), fast=True)
    told = {c.name: c.messages for c in report.checks if "float64" in "".join(c.messages[:1])}
    assert [*told] == ["constants"]


def test_a_rule_that_is_right_once_is_judged_on():
    """A forward pass that calls the rule itself: JAX cannot differentiate that twice."""

    @jax.custom_vjp
    def f(a, b):
        return jnp.sin(a) * b

    def forward(a, b):
        return f(a, b), (jnp.cos(a), jnp.sin(a), b)

    f.defvjp(forward, lambda kept, g: (kept[0] * g * kept[2], kept[1] * g))
    with pytest.raises(RuleError) as caught:
        check_vjp(f, (jnp.float32(0.5), jnp.float32(2.0)))
    report = caught.value.report
    assert report.failed == "second_order"
    judged = {check.name: check.status for check in report.checks}
    assert judged["accuracy"] == judged["jit"] == judged["vmap"] == "passed"
    assert check_vjp(f, (jnp.float32(0.5), jnp.float32(2.0)), order=1).passed


def test_failure_text_names_element_values_source_and_cause():
    x = normal(4)
    text = str(failure(wrong_sine, (x,)))
    assert "FAILED at 'formula'" in text
    assert "argument x: float32[4]" in text
    assert "the cotangent of x" in text
    assert "wrong in 4 of 4 elements" in text
    assert "worst at x[" in text
    assert "JAX's autodiff of the undecorated function, in float64" in text
    assert "the sign is wrong" in text


def test_error_is_an_assertion_whose_text_is_the_report():
    with pytest.raises(AssertionError, match="formula") as caught:
        check_vjp(wrong_sine, (normal(4),))
    assert isinstance(caught.value, RuleError)
    assert str(caught.value) == str(caught.value.report)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_report_is_plain_data():
    report = failure(wrong_sine, (normal(4),))
    data = json.loads(json.dumps(report.to_dict()))
    assert data["failed"] == "formula"
    assert [check["name"] for check in data["checks"]] == list(NAMES)


def test_report_can_be_built_by_hand():
    report = Report("f", (), (Check("formula", "warned", ("careful",)),))
    assert report.passed
    assert report.warnings == ("careful",)
    assert "careful" in str(report)


def test_fast_keeps_six_checks():
    report = check_vjp(sine, (normal(4),), fast=True)
    ran = {check.name for check in report.checks if check.messages != ("fast=True",)}
    assert ran == FAST


def test_fast_still_judges_kinks():
    steep = ruled(jax.nn.relu, lambda args, g: (jnp.where(args[0] == 0, 2 * g, g * (args[0] > 0)),))
    assert failure(steep, (jnp.array([-1.0, 0.0, 1.0]),), fast=True).failed == "kinks"


def test_constant_arguments_are_warned_of():
    scale = ruled(lambda x, s: x * s, lambda args, g: (g * args[1], g * args[0]))
    report = check_vjp(scale, (normal(3), jnp.ones(3)), fast=True)
    assert len(report.warnings) == 1
    assert "every element of s is 1" in report.warnings[0]


# Guesses.


@pytest.mark.parametrize(
    ("primal", "bwd", "guess"),
    [
        (lambda x: x**2, lambda args, g: (g * args[0],), "0.5 times"),
        (lambda x: x**2, lambda args, g: (0 * g,), "returns zeros"),
        (lambda x: x**2, lambda args, g: (2 * args[0],), "does not change with the cotangent"),
        (
            lambda x: x.mean(),
            lambda a, g: (jnp.full_like(a[0], g),),
            "9 is the number of elements of x",
        ),
        (lambda x: x**2, lambda args, g: (2 * g * args[0] + 1,), "constant offset"),
        (lambda x: x @ x.T, lambda a, g: (((g + g.T) @ a[0]).T,), "the transpose"),
        (lambda x: x**3, lambda a, g: (3 * g * a[0],), "a missing factor x"),
    ],
)
def test_guess(primal, bwd, guess):
    assert guess in str(failure(ruled(primal, bwd), (normal(3, 3),)))


def test_guess_of_a_cast():
    rule = ruled(lambda x: x**2, lambda a, g: (2 * g.astype("float32") * a[0],))
    with jax.enable_x64(True):
        assert "a cast to float32" in str(failure(rule, (normal(3, 3, dtype="float64"),)))


def test_guess_of_swapped_arguments():
    swapped = ruled(lambda x, y: x * y**2, lambda a, g: (2 * g * a[0] * a[1], g * a[1] ** 2))
    assert "right answer for another argument, y" in str(
        failure(swapped, (normal(3), normal(3, seed=1)))
    )


# Arguments.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_dtypes(dtype):
    assert check_vjp(sine, (normal(4, dtype=dtype),), fast=True).passed


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_wide_dtypes(x64, dtype):
    assert check_vjp(sine, (normal(4, dtype=dtype),), fast=True).passed


@pytest.mark.parametrize(
    "value", [0.7, np.float64(0.7), np.array([0.3, 0.4]), 1 + 2j, jnp.zeros((0, 3)), jnp.float32(2)]
)
def test_kinds_of_numbers(value):
    assert check_vjp(sine, (value,), fast=True).passed


def test_pytrees_integers_keys_and_none():
    def loss(params, labels, key, step, flag):
        noise = jax.random.normal(key, params["w"].shape, params["w"].dtype)
        kept = jnp.where(labels > 0, sine(params["w"]) + noise, 0)
        return {"loss": kept.sum() * step, "labels": labels, "none": None, "flag": flag}

    params = {"w": normal(4), "none": None, "empty": ()}
    args = (params, jnp.array([0, 1, 2, 3]), jax.random.key(0), 3, True)
    report = check_vjp(loss, args)
    assert report.passed
    assert report.arguments == ("params['w']: float32[4]",)


def test_static_arguments_are_passed_on():
    def reduced(x, mode):
        return {"sum": jnp.sum, "none": lambda x: x}[mode](x**2)

    fn = ruled(
        reduced,
        lambda mode, x, g: (2 * g * x,),
        fwd=lambda x, mode: (reduced(x, mode), x),
        nondiff_argnums=(1,),
    )
    assert check_vjp(fn, (normal(3), "sum")).passed
    assert check_vjp(fn, (normal(3), "none")).passed


def test_python_float_that_steers_the_function_is_kept():
    def dropped(x, rate):
        return sine(x) if rate == 0 else sine(x) * rate

    assert check_vjp(dropped, (normal(3), 0.5), fast=True).arguments == ("x: float32[3]",)


class Layer:
    def __init__(self, scale):
        self.scale = scale

    def apply(self, x):
        return sine(x) * self.scale


@jax.custom_gradient
def cube(x):
    return x**3, lambda g: (3 * g * x**2,)


@pytest.mark.parametrize(
    "fn",
    [
        jax.jit(sine),
        functools.partial(lambda scale, x: scale * sine(x), 2.0),
        Layer(2.0).apply,
        lambda x: jax.nn.relu(sine(x)) + sine(x) ** 2,
        lambda x: jax.lax.fori_loop(0, 3, lambda _, x: sine(x), x),
        lambda x: jax.lax.cond(x.sum() > 0, sine, jnp.cos, x),
        jax.checkpoint(sine),
        ruled(lambda x: sine(x) * 2, lambda args, g: (2 * g * jnp.cos(args[0]),)),
        cube,
    ],
    ids=["jit", "partial", "method", "several", "loop", "cond", "checkpoint", "nested", "gradient"],
)
def test_kinds_of_functions(fn):
    assert check_vjp(fn, (normal(4),), fast=True).passed


def network(rule):
    def run(params, xs):
        def step(hidden, x):
            hidden = rule(hidden @ params["w"] + x)
            return hidden, hidden

        return jax.lax.scan(step, jnp.zeros(xs.shape[1:], xs.dtype), xs)[1]

    return jax.jit(run)


@pytest.mark.slow
def test_whole_model_through_scan():
    args = ({"w": normal(3, 3)}, normal(4, 2, 3, seed=1))
    assert check_vjp(network(sine), args).passed
    assert failure(network(wrong_sine), args).failed == "formula"


def test_loop_that_only_forward_mode_differentiates():
    def halved(x):
        return jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0] / 2, c[1] + 1), (x, 0))[0]

    assert check_vjp(ruled(halved, lambda args, g: (g / 8,)), (normal(3),), order=1).passed
    wrong = ruled(halved, lambda args, g: (g / 4,))
    assert "forward mode" in str(failure(wrong, (normal(3),)))


def test_function_that_autodiff_refuses():
    def on_host(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.sin, shape, x, vmap_method="expand_dims")

    assert check_vjp(ruled(on_host, lambda a, g: (g * jnp.cos(a[0]),)), (normal(3),)).passed
    wrong = ruled(on_host, lambda a, g: (1.001 * g * jnp.cos(a[0]),))
    assert "finite differences" in str(failure(wrong, (normal(3),)))


# References, points, order.

clipped = ruled(lambda x: x, lambda args, g: (jnp.clip(g, -1, 1),))
rounded = ruled(jnp.floor, lambda args, g: (g,))


def test_reference_that_is_a_pullback():
    assert failure(clipped, (normal(5),)).failed == "formula"
    assert check_vjp(clipped, (normal(5),), reference=lambda a, g: (jnp.clip(g, -1, 1),)).passed
    other = failure(clipped, (normal(5),), reference=lambda a, g: (jnp.clip(g, -1.5, 1.5),))
    assert other.failed == "formula"
    assert "from the reference" in str(other)


@pytest.mark.parametrize(
    "reference", [lambda x: x, lambda x: x + jax.lax.stop_gradient(jnp.floor(x) - x)]
)
def test_reference_that_is_a_function(reference):
    assert failure(rounded, (normal(5),)).failed == "formula"
    report = check_vjp(rounded, (normal(5),), reference=reference)
    skipped = {check.name for check in report.checks if check.status == "skipped"}
    assert "finite_differences" in skipped


def test_reference_that_is_neither():
    with pytest.raises(ValueError, match="reference must be a function of the same arguments"):
        check_vjp(sine, (normal(3),), reference=lambda a, b, c: a)


def test_points_find_what_the_arguments_do_not():
    saturated = ruled(jnp.sin, lambda args, g: (g * jnp.cos(args[0]) * (args[0] < 5),))
    assert check_vjp(saturated, (normal(3),), fast=True, stress=()).passed
    report = failure(saturated, (normal(3),), points=[(normal(3) + 7,)], fast=True)
    assert "points[0]" in str(report)


def test_order_declares_a_first_order_rule():
    detached = ruled(jnp.exp, lambda a, g: (g * jax.lax.stop_gradient(jnp.exp(a[0])),))
    assert failure(detached, (normal(3),)).failed == "second_order"
    assert check_vjp(detached, (normal(3),), order=1).passed


def test_disagreeing_convention_is_a_warning():
    relu = ruled(lambda x: jnp.maximum(x, 0), lambda a, g: (g * (a[0] > 0),))
    report = check_vjp(relu, (jnp.array([-1.0, 0.0, 1.5]),))
    assert any("conventions differ" in warning for warning in report.warnings)


def test_stop_gradient_in_the_function_is_not_blamed_on_the_rule():
    held = ruled(lambda x: x * jax.lax.stop_gradient(x), lambda args, g: (g * args[0],))
    report = check_vjp(held, (normal(3),), order=1)
    assert any("the rule is not blamed" in warning for warning in report.warnings)


def test_none_for_a_float_is_right_only_where_zero_is():
    unused = ruled(lambda x, y: 2 * x, lambda args, g: (2 * g, None))
    assert any("returns None for y" in w for w in check_vjp(unused, (normal(3),) * 2).warnings)
    used = ruled(lambda x, y: x * y, lambda args, g: (g * args[1], None))
    assert failure(used, (normal(3),) * 2).failed == "cotangents"


# Refusals.


@pytest.mark.parametrize(
    ("fn", "args", "options", "exception", "message"),
    [
        (jnp.sin, (1.5,), {}, ValueError, "holds no jax.custom_vjp"),
        (sine, 1.5, {}, TypeError, "args must be a tuple"),
        (sine, (1,), {}, ValueError, "no floating-point number"),
        (sine, (1.5, 1.5), {}, ValueError, "does not run on these arguments"),
        ("sine", (1.5,), {}, TypeError, "fn must be a function"),
        (sine, (1.5,), {"order": 3}, ValueError, "order must be 1 or 2"),
        (sine, (1.5,), {"seed": 0.5}, TypeError, "seed must be an integer"),
        (sine, (1.5,), {"seed": -1}, ValueError, "seed must not be negative"),
        (sine, (1.5,), {"points": [1.5]}, TypeError, "points must be"),
        (sine, (1.5,), {"points": [(1.5, 2.5)]}, ValueError, "as many arguments"),
        (sine, (1.5,), {"stress": (-1,)}, ValueError, "stress must be"),
        (sine, (1.5,), {"reference": 3}, TypeError, "reference must be a function"),
    ],
)
def test_refusals(fn, args, options, exception, message):
    with pytest.raises(exception, match=message):
        check_vjp(fn, args, **options)


def test_refuses_to_run_inside_jit():
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda x: check_vjp(sine, (x,)))(normal(3))


@pytest.mark.parametrize(
    ("fn", "failed", "message"),
    [
        (jax.custom_vjp(jnp.sin), "primal", "defvjp"),
        (ruled(jnp.sin, lambda a, g: (g,), fwd=jnp.sin), "primal", "must produce a pair"),
        (ruled(jnp.sin, lambda a, g: g), "cotangents", "in a tuple"),
        (ruled(jnp.sin, lambda a, g: (1 / 0,)), "cotangents", "ZeroDivision"),
    ],
)
def test_exceptions_of_a_rule_are_failures(fn, failed, message):
    report = failure(fn, (normal(3),))
    assert report.failed == failed
    assert message in str(report)


def test_keyword_only_parameter_is_named():
    def scaled(x, *, scale):
        return x * scale

    fn = ruled(scaled, lambda args, g: (g,))
    report = failure(lambda x: fn(x, scale=2.0), (normal(3),))
    assert "keyword-only" in str(report)


# The caller's settings.


def test_global_settings_do_not_matter_and_are_kept():
    with warnings.catch_warnings(), jax.debug_nans(True), jax.numpy_rank_promotion("raise"):
        warnings.simplefilter("error")
        before = dict(jax.config.values)
        log = ruled(jnp.log, lambda args, g: (g / args[0],))
        assert check_vjp(log, (jnp.abs(normal(3)) + 1,)).passed
        assert dict(jax.config.values) == before


def test_same_seed_same_report():
    args = (normal(5),)
    assert str(failure(wrong_sine, args, seed=3)) == str(failure(wrong_sine, args, seed=3))
