"""Every kernel is held to the plain rule it stands in for, over the whole table of rules.

Both are judged: what runs by tests/ops/test_rules.py, the plain form here, and the two are equal
to rounding in float64, in value and in all cotangents.
"""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import InconclusiveDimensionOperation

from funcnet import ops
from funcnet.ops import kernels
from funcnet.ops._rule import Rule, without_kernel
from funcnet.ops.kernels import recurrent
from funcnet.ops.kernels.shapes import are_known
from funcnet.ops.kernels.sums import sums, weighted_sums
from funcnet.ops.kernels.thresholds import BLOCK, NARROW, STRETCH, SUMMED_BY_A_PRODUCT, TALL
from funcnet.testing import check_vjp
from tests.ops.cases import Case, normal
from tests.ops.rules import RULES, linear
from tests.ops.rules_attention import attended, attention, dropping
from tests.ops.rules_images import conv2d, convolved, max_pool2d, pooled
from tests.ops.rules_recurrent import gru_padded

OPS = Path(ops.__file__).parent
MODULES = {
    path.stem: importlib.import_module(f"funcnet.ops.{path.stem}") for path in OPS.glob("*.py")
}


def tall(rng, dtype, leading):
    return linear(bias=True, features=(33, NARROW + 2))(rng, dtype, (*leading, TALL + 1))


def long_steps(gates, cell=False, padded=False):
    """As tests/ops/rules_recurrent.py, of several stretches and some steps more."""

    def arguments(rng, dtype, leading):
        units, steps = 4, 2 * STRETCH + 3
        rows = gates * units
        shapes = [(*leading, steps, 3), (*leading, units), *([(*leading, units)] if cell else [])]
        shapes += [(rows, 3), (rows, units), (rows,), (rows,)]
        args = tuple(normal(rng, dtype, shape, scale=0.3) for shape in shapes)
        lengths = jnp.asarray(rng.integers(1, steps + 1, size=leading))
        return (*args, lengths) if padded else args

    return arguments


def lstm_in_reverse(x, h, c, w_ih, w_hh, b_ih, b_hh):
    return ops.lstm(x, h, c, w_ih, w_hh, b_ih, b_hh, reverse=True)


@pytest.fixture(autouse=True)
def long_enough(monkeypatch):
    """What takes steps in stretches does so with few units too."""
    monkeypatch.setattr(recurrent, "LONG", 1)


# Sizes on the other side of a threshold than those of the table.
MORE: dict[str, list[Case]] = {
    "linear": [
        Case("narrow", ops.linear, linear(bias=True, features=(NARROW, 9))),
        Case("too wide", ops.linear, linear(bias=False, features=(NARROW + 1, 2))),
        Case("tall", ops.linear, tall),
    ],
    "conv2d": [
        Case("several blocks", conv2d(padding=1), convolved((1, 5), (3, 3), (120, 120))),
        Case("blocks of groups", conv2d(groups=2), convolved((2, 8), image=(99, 99), groups=2)),
        Case("many channels", conv2d(padding=1), convolved((3, 130), image=(9, 9))),
    ],
    "scaled_dot_product_attention": [
        Case("blocks of queries", attention(is_causal=True), attended(300, 200)),
        Case("lower right", attention(is_causal="lower_right"), attended(140, 300)),
        Case("booleans", attention(), attended(200, 150, mask="booleans")),
        Case("heads", attention(enable_gqa=True), attended(170, 160, heads=(4,), shared=2)),
        Case("dropout", dropping, attended(160, 160, key=True)),
    ],
    "rnn": [Case("stretches", ops.rnn, long_steps(1))],
    "lstm": [
        Case("stretches", ops.lstm, long_steps(4, cell=True)),
        Case("in reverse", lstm_in_reverse, long_steps(4, cell=True)),
    ],
    "gru": [Case("stretches, padded", gru_padded, long_steps(3, padded=True))],
    "max_pool2d": [Case("tiles that stick out", max_pool2d(2, ceil_mode=True), pooled((5, 7)))],
}


def rules_with_a_kernel() -> list[tuple[str, str]]:
    """Module and name of each."""
    return [
        (module, name)
        for module, there in MODULES.items()
        for name, value in vars(there).items()
        if isinstance(value, Rule) and value.plain is not value and module != "__init__"
    ]


def plain(case: Case, monkeypatch):
    """The function of a case, with the plain form of every rule in it."""
    for module, name in rules_with_a_kernel():
        monkeypatch.setattr(MODULES[module], name, getattr(MODULES[module], name).plain)
    if isinstance(case.function, Rule):
        return without_kernel(case.function)
    # A function of its own: what was compiled of the other form is not taken for it.
    return lambda *args: case.function(*args)


def pulled_back(function, args):
    """The value and the cotangents of all floating arguments, for a random cotangent."""
    value, pullback = jax.vjp(function, *args)
    rng = np.random.default_rng(1)
    g = jax.tree.map(lambda y: jnp.asarray(rng.normal(size=y.shape), y.dtype), value)
    cotangents = jax.tree.leaves(pullback(g))
    return jax.tree.leaves(value), [c for c in cotangents if jnp.issubdtype(c.dtype, jnp.floating)]


WITH_A_KERNEL = {
    *("linear", "conv2d", "max_pool2d", "avg_pool2d", "scaled_dot_product_attention"),
    *("rnn", "lstm", "gru"),
}
CASES = [
    pytest.param(case, id=f"{name}-{case.name}")
    for table in (RULES, MORE)
    for name in sorted(WITH_A_KERNEL)
    for case in table.get(name, [])
]


def test_all_rules_with_a_kernel_are_here():
    assert {module for module, _ in rules_with_a_kernel()} == {
        "attention",
        "linear",
        "conv",
        "pooling",
        "recurrent",
    }
    names = {getattr(MODULES[module], name).__name__ for module, name in rules_with_a_kernel()}
    # One rule for the three, whatever the cell.
    assert names - {"recurrence"} == WITH_A_KERNEL - {"rnn", "lstm", "gru"}


@pytest.mark.few(13)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("leading", [(), (7,), (2, 3), (0,)])
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_is_the_plain_form(case, leading, monkeypatch):
    args = case.arguments(np.random.default_rng(0), "float64", leading)
    found = pulled_back(case.function, args)
    expected = pulled_back(plain(case, monkeypatch), args)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max(initial=1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("arguments", [linear(bias=True, features=(33, 70)), tall])
def test_products_in_half_precision_are_rounded_once(arguments, dtype):
    """Half a unit of the last place of the largest number: they are summed in float32."""
    args = arguments(np.random.default_rng(0), dtype, (3, 5))
    y, pullback = jax.vjp(ops.linear, *args)
    g = normal(np.random.default_rng(1), dtype, y.shape)
    with jax.enable_x64(True):
        exact = jax.vjp(ops.linear, *(a.astype("float64") for a in args))[1](g.astype("float64"))
        exact = jax.tree.map(np.asarray, exact)
    for a, b in zip(pullback(g), exact, strict=True):
        assert a.dtype == dtype
        error = np.abs(np.asarray(a, np.float64) - b)
        assert (error <= 0.6 * float(jnp.finfo(dtype).eps) * np.abs(b).max()).all()


@pytest.mark.few(2)
@pytest.mark.parametrize("name", sorted(WITH_A_KERNEL))
def test_the_plain_form_is_derived_right(name, monkeypatch):
    case = RULES[name][0]
    args = case.arguments(np.random.default_rng(0), "float32", (4,))
    assert check_vjp(plain(case, monkeypatch), args, fast=True).passed


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_plain_form_in_full(case, monkeypatch):
    args = case.arguments(np.random.default_rng(0), "float32", (2,))
    if sum(a.size for a in args) < 5000:
        assert check_vjp(plain(case, monkeypatch), args).passed


def test_the_cases_reach_several_blocks():
    args = MORE["conv2d"][0].arguments(np.random.default_rng(0), "float32", (7,))
    dY = jax.eval_shape(MORE["conv2d"][0].function, *args)
    assert dY.size > 2 * BLOCK


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("columns", [1, SUMMED_BY_A_PRODUCT - 1, SUMMED_BY_A_PRODUCT, 1000])
def test_sums_are_sums(columns):
    rng = np.random.default_rng(0)
    a, weight = normal(rng, "float64", (5, 3, columns)), normal(rng, "float64", (3, columns))
    for dim in (-1, 0, 1, 2):
        np.testing.assert_allclose(sums(a, dim), a.sum(dim, keepdims=True), rtol=1e-12, atol=1e-12)
    for dims, w in ((2, weight), (1, weight[0])):
        axes = tuple(range(3 - dims, 3))
        expected = (a * w.reshape((1,) * (3 - w.ndim) + w.shape)).sum(axes, keepdims=True)
        np.testing.assert_allclose(weighted_sums(a, w, dims), expected, rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(weighted_sums(a, None, dims), a.sum(axes, keepdims=True))


def test_open_sizes_are_not_compared():
    (batch,) = jax.export.symbolic_shape("b")
    with pytest.raises(InconclusiveDimensionOperation):
        bool(batch <= NARROW)
    assert not are_known(jax.ShapeDtypeStruct((batch, 3), "float32"))
    assert are_known(jnp.ones((2, 3)), jnp.ones(()))


SPEAKS_OF_A_BACKEND = re.compile(
    r"XLA|\bEigen\b|\bCPUs?\b|\bGPUs?\b|fence|optimization_barrier|platform|default_backend|jaxlib"
)
BRANCHES_ON_A_SIZE = re.compile(
    r"(?:if|and|or|min|max)\b.*(?:\.shape(?:\[[^]]*\])?|\.size|len\([^)]*\))\)?\s*(?:<=?|>=?)\s*[\w.]"
)


def test_no_op_speaks_of_a_backend_or_branches_on_a_size():
    """All of that stands in ops/kernels, chosen there."""
    for path in sorted(set(OPS.rglob("*.py")) - set(Path(kernels.__file__).parent.glob("*.py"))):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for found in (SPEAKS_OF_A_BACKEND.search(line), BRANCHES_ON_A_SIZE.search(line)):
                assert found is None, f"{path}:{number}: {line}"


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("# XLA fuses this", SPEAKS_OF_A_BACKEND),
        ("y = fence(x)", SPEAKS_OF_A_BACKEND),
        ("return lax.platform_dependent(x)", SPEAKS_OF_A_BACKEND),
        ("if x.shape[-1] < 64:", BRANCHES_ON_A_SIZE),
        ("return x.ndim == 2 and max(weight.shape) <= NARROW", BRANCHES_ON_A_SIZE),
        ("y = a if len(x) >= 8 else b", BRANCHES_ON_A_SIZE),
        ("if x.size > LARGE:", BRANCHES_ON_A_SIZE),
    ],
)
def test_the_search_finds_them(line, pattern):
    assert pattern.search(line)


def test_every_threshold_stands_in_one_file():
    for path in sorted(OPS.rglob("*.py")):
        constants = re.findall(r"^([A-Z][A-Z_]+) = \(?[\d.]", path.read_text(), re.MULTILINE)
        assert path.name == "thresholds.py" or not constants, f"{path}: {constants}"
