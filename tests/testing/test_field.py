"""check_vjp on rules as others write them: no false alarm, no crash, and all there is to find.

Each kind stands here with a right rule that has to pass and a wrong one that has to die.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.testing import RuleError, check_vjp

pytestmark = pytest.mark.slow


def normal(*shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, dtype)


def ruled(primal, bwd, fwd=None, **options):
    fn = jax.custom_vjp(primal, **options)
    fn.defvjp(fwd or (lambda *args: (primal(*args), args)), bwd)
    return fn


def failures(fn, args, **options):
    with pytest.raises(RuleError) as caught:
        check_vjp(fn, args, **options)
    return [check.name for check in caught.value.report.failures]


def said(report):
    return "\n".join(report.warnings)


# Rules that compute in less than float64.


def gate(x, weight):
    return jnp.tanh(x) * weight


def gate_in_float32(factor):
    def bwd(residuals, g):
        x, weight = (r.astype(jnp.float32) for r in residuals)
        g, t = g.astype(jnp.float32), jnp.tanh(x)
        dx, dw = factor * g * weight * (1 - t * t), (g * t).sum(0)
        return dx.astype(residuals[0].dtype), dw.astype(residuals[1].dtype)

    return ruled(gate, bwd)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_narrow_backward_pass_is_right_for_arguments_no_wider(dtype):
    args = normal(4, 3, dtype=dtype), normal(3, dtype=dtype, seed=1)
    assert "right in float32; narrows float64" in said(check_vjp(gate_in_float32(1.0), args))
    assert failures(gate_in_float32(1.001), args, fast=True)[0] == "formula"


def test_backward_pass_in_the_arguments_own_half_precision():
    def rule(factor):
        def bwd(args, g):
            x = args[0].astype(jnp.float32)
            return ((factor * g.astype(jnp.float32) * jnp.cos(x)).astype(jnp.bfloat16),)

        return ruled(jnp.sin, bwd)

    x = normal(4, dtype="bfloat16")
    assert "right in bfloat16; narrows float64" in said(check_vjp(rule(1.0), (x,), order=1))
    assert "formula" in failures(rule(1.2), (x,), order=1, fast=True)


def test_narrow_backward_pass_whose_products_float32_can_hold():
    """Of short numbers they are exact, and differ in other combinations alone."""
    relu = ruled(jax.nn.relu, lambda a, g: ((g.astype("float32") * (a[0] > 0)).astype(g.dtype),))
    assert "narrows float64" in said(check_vjp(relu, (normal(4),)))
    square = ruled(
        lambda x: x * x, lambda a, g: ((2 * g * a[0]).astype("float32").astype(g.dtype),)
    )
    assert "narrows float64" in said(check_vjp(square, (normal(4, dtype="bfloat16"),)))


def test_narrow_backward_pass_is_wrong_for_float64():
    with jax.enable_x64(True):
        args = normal(4, 3, dtype="float64"), normal(3, dtype="float64", seed=1)
        assert failures(gate_in_float32(1.0), args, fast=True)[0] == "formula"


def test_narrower_backward_pass_than_the_arguments_is_wrong():
    rule = ruled(jnp.exp, lambda a, g: (g * jnp.exp(a[0]).astype(jnp.bfloat16).astype(g.dtype),))
    assert "formula" in failures(rule, (normal(4),), fast=True)


def running_sum(factor):
    def fn(x):
        return jnp.cumsum(x * x, 0)

    def bwd(x, g):
        def step(total, row):
            total = total + row[0]
            return total, factor * row[1] * total

        start = jnp.zeros(x.shape[1:], jnp.float32)
        return (jax.lax.scan(step, start, (g, x), reverse=True)[1],)

    return ruled(fn, bwd, lambda x: (fn(x), x))


def test_rule_that_refuses_float64_is_judged_in_float32():
    assert "the rule refuses float64" in said(check_vjp(running_sum(2.0), (normal(4, 3),)))
    assert failures(running_sum(2.002), (normal(4, 3),), fast=True)[0] == "formula"


def variance(x):
    x = x.astype(jnp.float32)
    return jnp.mean(x * x) - jnp.mean(x) ** 2


def test_function_that_narrows_inside_is_judged_by_its_own_rounding():
    """Of numbers near 300 the two means agree in four digits: autodiff has lost them too."""

    def rule(factor):
        def bwd(args, g):
            x = args[0].astype(jnp.float32)
            return ((factor * g * (x - jnp.mean(x)) * (2 / x.size)).astype(args[0].dtype),)

        return ruled(variance, bwd)

    x = 300 + normal(8)
    check_vjp(rule(1.0), (x,))
    assert failures(rule(1.1), (x,), fast=True)[0] == "formula"


# Rules that recompute.


def attention(scale):
    def scores(q, k):
        return q @ k.T / np.sqrt(3.0)

    def fn(q, k, v):
        return jax.nn.softmax(scores(q, k), -1) @ v

    def fwd(q, k, v):
        s = scores(q, k)
        out = jax.nn.softmax(s, -1) @ v
        return out, (q, k, v, out, jax.nn.logsumexp(s, -1, keepdims=True))

    def bwd(residuals, g):
        q, k, v, out, lse = residuals
        p = jnp.exp((q / np.sqrt(3.0)) @ k.T - lse)
        ds = scale * p * (g @ v.T - (g * out).sum(-1, keepdims=True)) / np.sqrt(3.0)
        return ds @ k, ds.T @ q, p.T @ g

    return ruled(fn, bwd, fwd)


def test_large_inputs_are_skipped_where_rounding_moves_what_is_recomputed():
    args = normal(4, 3), normal(5, 3, seed=1), normal(5, 3, seed=2)
    report = check_vjp(attention(1.0), args)
    accuracy = next(check for check in report.checks if check.name == "accuracy")
    assert "were skipped: rounding" in accuracy.messages[0]
    assert failures(attention(0.9), args, fast=True)[0] == "formula"


# Free phases and scales.


def parts(a):
    return tuple(jnp.linalg.svd(a, full_matrices=False))


def phase_free(factor):
    def bwd(a, g):
        gu, gs, gv = g
        (u, _, v), pull = jax.vjp(parts, a)
        along = jnp.real(1j * (gu * u).sum(0) - 1j * (gv * v).sum(1)) / 2
        gu = gu - along * jnp.conj(1j * u)
        gv = gv - along[:, None] * jnp.conj(-1j * v)
        return pull((gu, factor * gs, gv))

    return ruled(parts, bwd, lambda a: (parts(a), a))


MATRIX = (normal(3, 3) + 1j * normal(3, 3, seed=1)).astype("complex64")


def test_free_phase_is_nobodys_fault():
    assert "three answers" in said(check_vjp(phase_free(1.0), (MATRIX,), order=1))
    assert "formula" in failures(phase_free(1.1), (MATRIX,), order=1, fast=True)


def test_invariant_settles_what_is_free():
    def product(u, s, v):
        return (u * s) @ v

    report = check_vjp(phase_free(1.0), (MATRIX,), order=1, invariant=product)
    assert report.warnings == ()
    assert "declared invariant=" in str(report)
    assert failures(phase_free(1.1), (MATRIX,), invariant=product, fast=True) == ["formula"]


# Declarations.


def series(x):
    terms = (x ** (2 * n + 1) / np.prod(np.arange(1.0, 2 * n + 2)) for n in range(5))
    return sum((-1) ** n * term for n, term in enumerate(terms))


SINE = ruled(series, lambda args, g: (g * jnp.cos(args[0]),))


def test_rtol_allows_the_exact_slope_of_an_approximation():
    x = normal(4, 3) / 2
    report = check_vjp(SINE, (x,), rtol=1e-5)
    assert report.declared == ("rtol=1e-05",)
    assert failures(SINE, (x,), rtol=1e-12, fast=True) == ["formula"]
    wrong = ruled(series, lambda args, g: (1.001 * g * jnp.cos(args[0]),))
    assert "formula" in failures(wrong, (x,), rtol=1e-5, fast=True)


def bisected(a):
    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        below = middle**3 + middle < a
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 50, halve, (jnp.zeros_like(a), jnp.full_like(a, 4.0)))
    return (low + high) / 2


def test_solver_whose_autodiff_is_zero():
    def rule(factor):
        return ruled(
            bisected,
            lambda x, g: (factor * g / (3 * x**2 + 1),),
            lambda a: (bisected(a), bisected(a)),
        )

    a = jnp.abs(normal(4)) + 0.5
    assert "autodiff is at fault" in said(check_vjp(rule(1.0), (a,), rtol=1e-4))
    assert "formula" in failures(rule(1.1), (a,), rtol=1e-4, fast=True)


def masked(slope):
    def bwd(args, g):
        return g * args[1], jnp.full_like(args[1], slope) * g

    return ruled(lambda x, mask: x * mask, bwd)


def test_zero_declares_an_argument_without_a_derivative():
    args = normal(4), normal(4, seed=1)
    report = check_vjp(masked(0.0), args, zero=("mask",))
    assert report.coverage == (
        "x: 4 elements right",
        "mask: cotangent identically zero, as declared",
    )
    assert failures(masked(1.0), args, zero=("mask",), fast=True)[0] == "formula"
    with pytest.raises(RuleError) as caught:
        check_vjp(masked(0.0), args, fast=True)
    assert caught.value.report.coverage[1] == "mask: cotangent identically zero, truth is not"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"zero": ("bias",)}, ValueError, "'bias' is no differentiated argument; these are x"),
        ({"zero": "x"}, TypeError, "zero must be a sequence"),
        ({"rtol": -1.0}, ValueError, "rtol must be a number"),
        ({"rtol": True}, ValueError, "rtol must be a number"),
        ({"invariant": 3}, TypeError, "invariant must be a function"),
    ],
)
def test_wrong_declarations_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        check_vjp(SINE, (normal(3),), **options)


def test_what_a_reference_declares_need_not_add_up():
    rule = ruled(lambda x, s: x, lambda new, g: (g, new), lambda x, s: (x, jnp.abs(x).max()))
    args = normal(4, 3), jnp.float32(0.3)
    check_vjp(rule, args, reference=lambda args, g: (g, jnp.abs(args[0]).max()), order=1)
    other = failures(rule, args, reference=lambda args, g: (g, 2 * jnp.abs(args[0]).max()))
    assert other[0] == "formula"


# Shapes.


def test_axis_that_nobody_makes_empty_warns():
    def bwd(args, g):
        _, weight = args
        if not weight.size:
            raise ZeroDivisionError("no weights")
        return g, g.sum() * jnp.exp(weight)

    rule = ruled(lambda x, weight: x + jnp.sum(jnp.exp(weight)), bwd)
    assert "nobody differentiates" in said(check_vjp(rule, (normal(4, 3), normal(5, seed=1))))


def test_steps_of_a_recurrence_are_no_batch():
    def running(x):
        return jax.lax.scan(lambda h, x: (0.5 * h + x,) * 2, jnp.zeros(x.shape[1:], x.dtype), x)[1]

    def bwd(x, g):
        last = g[-1]  # there is none of no steps
        steps = jax.lax.scan(lambda d, g: (0.5 * (d + g), d + g), 0 * last, g, reverse=True)
        return (steps[1],)

    rule = ruled(running, bwd, lambda x: (running(x), x))
    assert "nobody differentiates" in said(check_vjp(rule, (normal(4, 3),)))


def test_empty_batch_fails():
    def bwd(args, g):
        if not args[0].size:
            raise ZeroDivisionError("no examples")
        return (g * jnp.cos(args[0]),)

    assert failures(ruled(jnp.sin, bwd), (normal(4, 3),)) == ["empty"]


# Calls.


def test_array_for_an_argument_that_is_none():
    def fn(x, scale):
        return jnp.sin(x) if scale is None else jnp.sin(x) * scale

    def bwd(factor, x, g):
        return factor * g * jnp.cos(x), (g * jnp.sin(x)).sum()

    def rule(factor):
        return ruled(fn, functools.partial(bwd, factor), lambda x, s: (fn(x, s), x))

    check_vjp(rule(1.0), (normal(4), None))
    doubled = ruled(lambda x, _: 2 * x, lambda _, g: (2 * g, ()), lambda x, _: (2 * x, None))
    check_vjp(doubled, (normal(4), ()), fast=True)
    assert failures(rule(2.0), (normal(4), None), fast=True) == ["formula"]


class Layer:
    """A method with a rule, whose object is static."""

    def __init__(self, weight, factor=1.0):
        self.weight, self.factor = weight, factor

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def call(self, x):
        return jnp.tanh(x) * self.weight

    def _fwd(self, x):
        return jnp.tanh(x) * self.weight, jnp.tanh(x)

    def _bwd(self, t, g):
        return (self.factor * g * self.weight * (1 - t * t),)

    call.defvjp(_fwd, _bwd)


@pytest.mark.parametrize("bind", [functools.partial, types.MethodType])
def test_bound_method(bind):
    report = check_vjp(bind(Layer.call, Layer(2.0)), (normal(4),))
    assert report.arguments == ("x: float32[4]",)
    assert failures(bind(Layer.call, Layer(2.0, 1.1)), (normal(4),), fast=True) == ["formula"]


def test_method_without_its_object_is_refused_with_the_mend():
    with pytest.raises(ValueError, match=r"does not bind a decorated method .* \(the object"):
        check_vjp(Layer(2.0).call, (normal(4),))


def by_lengths(factor):
    def fn(x, lengths):
        return jnp.sin(x[: int(jnp.max(lengths))])

    def bwd(lengths, x, g):
        n = int(jnp.max(lengths))
        return (jnp.zeros_like(x).at[:n].set(factor * g * jnp.cos(x[:n])),)

    return ruled(fn, bwd, lambda x, n: (fn(x, n), x), nondiff_argnums=(1,))


def test_function_that_runs_only_outside_jit_is_judged_there():
    args = normal(4, 3), jnp.array([2, 3])
    report = check_vjp(by_lengths(1.0), args)
    assert "does not run under jit; all was judged outside of it" in said(report)
    assert {check.name: check.status for check in report.checks}["formula"] == "passed"
    assert failures(by_lengths(1.01), args)[0] == "formula"


def test_function_that_runs_only_outside_jit_and_holds_a_rule():
    def model(x, lengths):
        return by_lengths(1.01)(x, lengths) * 2 if bool(x.sum() > -1e9) else x

    assert "formula" in failures(model, (normal(4, 3), jnp.array([2, 3])))


def power(degree, x, shift):
    return x**degree + shift


POWER = ruled(
    power,
    lambda degree, residuals, g: (
        jnp.clip(g, -1, 1),
        jnp.zeros(residuals[1].shape, jax.dtypes.float0),
    ),
    lambda degree, x, shift: (power(degree, x, shift), (x, shift)),
    nondiff_argnums=(0,),
)
POWER_ARGS = 2, normal(4), jnp.arange(4)


def test_reference_gives_cotangents_for_differentiated_arguments_alone():
    check_vjp(POWER, POWER_ARGS, reference=lambda args, g: (jnp.clip(g, -1, 1),), order=1)
    check_vjp(POWER, POWER_ARGS, reference=lambda args, g: jnp.clip(g, -1, 1), order=1)


def test_reference_gives_the_first_arguments_cotangents():
    reversal = ruled(
        lambda x, size: 1.0 * x,
        lambda size, g: (-size * g, jnp.zeros_like(size)),
        lambda x, size: (1.0 * x, size),
    )
    args = normal(4), jnp.float32(0.7)
    check_vjp(reversal, args, reference=lambda args, g: (-args[1] * g,), zero=("size",))
    wrong = failures(reversal, args, reference=lambda args, g: (args[1] * g,), zero=("size",))
    assert wrong[0] == "formula"


def test_refused_reference_names_its_arguments():
    with pytest.raises(ValueError, match=r"args is \(x, shift,\), and not degree, which stands at"):
        check_vjp(POWER, POWER_ARGS, reference=lambda args, g: (g + args[2],))


def test_names_under_custom_gradient():
    @jax.custom_gradient
    def gated(x, weight):
        t = jnp.tanh(x)
        return t * weight, lambda g: (g * weight * (1 - t * t), (g * t).sum(0))

    report = check_vjp(gated, (normal(4, 3), normal(3, seed=1)))
    assert report.function == "gated"
    assert report.arguments == ("x: float32[4, 3]", "weight: float32[3]")


def test_rule_whose_function_solves_with_a_custom_linear_solve():
    """Its jaxprs stand in a named tuple, which is made anew where rules are erased."""

    def solve(a, b):
        return jax.lax.custom_linear_solve(
            lambda x: a * x, b, lambda _, b: b / a, lambda _, b: b / a
        )

    rule = ruled(solve, lambda args, g: (-g * args[1] / args[0] ** 2, g / args[0]))
    check_vjp(rule, (jnp.abs(normal(4)) + 1, normal(4, seed=1)), order=1)


# Rules for tangents.


def softplus(rule):
    fn = jax.custom_jvp(lambda x: jax.nn.softplus(x))
    fn.defjvp(rule)
    return fn


def right_tangent(primals, tangents):
    return jax.nn.softplus(primals[0]), tangents[0] * jax.nn.sigmoid(primals[0])


def test_custom_jvp_is_judged_in_both_modes():
    report = check_vjp(softplus(right_tangent), (normal(4),))
    assert {check.name: check.status for check in report.checks}["forward_mode"] == "passed"

    def wrong(primals, tangents):
        return jax.nn.softplus(primals[0]), 1.01 * tangents[0] * jax.nn.sigmoid(primals[0])

    assert failures(softplus(wrong), (normal(4),))[0] == "formula"


def test_custom_jvp_inside_a_function():
    def model(factor, x):
        def tangent(primals, tangents):
            y, dy = right_tangent(primals, tangents)
            return y, factor * dy

        return softplus(tangent)(jax.nn.relu(x) * 2)

    check_vjp(functools.partial(model, 1.0), (normal(4),))
    assert failures(functools.partial(model, 1.01), (normal(4),), fast=True) == ["formula"]


def test_custom_jvp_with_an_argument_declared_zero():
    fn = jax.custom_jvp(lambda x, mask: x * mask)
    fn.defjvp(lambda x, t: (x[0] * x[1], t[0] * x[1]))
    check_vjp(fn, (normal(4), normal(4, seed=1)), zero=("mask",))


def test_custom_jvp_of_jax_alone_is_no_rule():
    with pytest.raises(ValueError, match="no hand-written backward pass"):
        check_vjp(lambda x: jax.nn.relu(x), (normal(4),))


def test_custom_jvp_of_what_jax_cannot_differentiate():
    def cubed(x):
        return jax.pure_callback(
            lambda x: np.asarray(x) ** 3, jax.ShapeDtypeStruct((4,), x.dtype), x
        )

    def rule(factor):
        fn = jax.custom_jvp(cubed)
        fn.defjvp(lambda x, t: (cubed(*x), factor * t[0] * x[0] ** 2))
        return fn

    check_vjp(rule(3.0), (normal(4),), order=1)
    assert "formula" in failures(rule(3.1), (normal(4),), order=1, fast=True)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_autodiff_is_at_fault_at_a_single_number_too(shape):
    """x**y is 1 at y = 0, also by the where: its slope there is log(x), autodiff's is 0."""

    def power(x, y):
        return jnp.where(y == 0, 1.0, x**y)

    def rule(factor):
        return ruled(
            power,
            lambda args, g: (
                g * args[1] * args[0] ** (args[1] - 1),
                factor * g * power(*args) * jnp.log(args[0]),
            ),
        )

    args = jnp.full(shape, 2.7), jnp.zeros(shape)
    assert "autodiff is at fault" in said(check_vjp(rule(1.0), args, order=1))
    assert "formula" in failures(rule(1.1), args, order=1, fast=True)


# All findings.


def test_first_failure_hides_no_other():
    made = jax.custom_vjp(lambda x: jax.nn.softplus(x))
    made.defvjp(lambda x: (made(x), x), lambda x, g: (g * jnp.exp(x) / (1 + jnp.exp(x)),))
    assert failures(made, (normal(4),)) == ["accuracy", "second_order"]


def test_wrong_and_not_vmappable_are_two_findings():
    def bwd(args, g):
        return (1.1 * jnp.asarray(np.asarray(g)) * jnp.cos(args[0]),)

    assert failures(ruled(jnp.sin, bwd), (normal(4),), order=1) == ["formula", "jit"]
