"""`python -m experiments third_party`: check_vjp on backward passes that other people wrote.

None of these packages is a dependency. Those that are missing are named, the others are checked.
"""

import dataclasses
import importlib.util
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.testing import RuleError, check_vjp

load = importlib.import_module
SUITES = "## Test suites under the plugin"


@dataclasses.dataclass(frozen=True)
class Config:
    """Check rules of other packages and write the table.

    Attributes:
        output: The Markdown file to write.
        only: Check only the subjects whose package or function contains this.
    """

    output: Path = Path("docs/third_party.md")
    only: str = ""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A rule written elsewhere.

    Attributes:
        package: The module to import.
        distribution: Its name for pip.
        function: What is checked.
        build: Makes (function, arguments, options for check_vjp); imports the package.
        findings: For each check that fails, its cause, as followed up by hand.
    """

    package: str
    distribution: str
    function: str
    build: Callable[[], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]
    findings: Mapping[str, str]


SUBJECTS: list[Subject] = []


def subject(package: str, function: str, *, pip: str = "", **findings: str) -> Callable[..., Any]:
    """Register the decorated builder; `findings` explains each check that fails."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        SUBJECTS.append(Subject(package, pip or package, function, build, findings))
        return build

    return register


def numbers(*shape: int, seed: int = 0, offset: float = 0.0) -> jax.Array:
    """Normal numbers in float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + offset, jnp.float32)


def positive_definite(n: int) -> jax.Array:
    """A well-conditioned one."""
    a = np.random.default_rng(0).normal(size=(n, n))
    return jnp.asarray(a @ a.T / n + np.eye(n), jnp.float32)


NO_HESSIAN = (
    "fwd calls the decorated function, so forward mode over reverse (`jax.hessian`) raises."
)


@subject("optax", "scale_gradient", second_order=NO_HESSIAN)
def _():
    scale = load("optax").scale_gradient
    return lambda x: scale(x, 0.5), (numbers(3),), {"reference": lambda x: 0.5 * x}


@subject("rlax", "clip_gradient")
def _():
    clip = load("rlax").clip_gradient

    def clipped(args, g):
        del args
        return (jnp.clip(g, -0.5, 0.5),)

    return lambda x: clip(x, -0.5, 0.5), (numbers(3),), {"reference": clipped, "order": 1}


@subject(
    "ott",
    "math.utils.softmin",
    pip="ott-jax",
    formula="gamma is an ordinary float argument, but its cotangent is None: its gradient is "
    "silently zero.",
)
def _():
    softmin = load("ott.math.utils").softmin
    return lambda x, gamma: softmin(x, gamma, 1), (numbers(3, 4), jnp.float32(0.7)), {}


@subject("ott", "math.utils.softmin, gamma fixed", pip="ott-jax", second_order=NO_HESSIAN)
def _():
    softmin = load("ott.math.utils").softmin
    return lambda x: softmin(x, 0.7, 1), (numbers(3, 4),), {}


SCHUR = "The backward pass solves a Sylvester equation by a Schur decomposition, which JAX cannot \
differentiate again."


@subject("ott", "math.matrix_square_root.sqrtm", pip="ott-jax", second_order=SCHUR)
def _():
    sqrtm = load("ott.math.matrix_square_root").sqrtm
    return lambda x: sqrtm(x)[:2], (positive_definite(3),), {}


@subject("ott", "math.matrix_square_root.sqrtm_only", pip="ott-jax", second_order=SCHUR)
def _():
    sqrtm_only = load("ott.math.matrix_square_root").sqrtm_only
    return lambda x: sqrtm_only(x), (positive_definite(3),), {}


@subject("ott", "math.matrix_square_root.inv_sqrtm_only", pip="ott-jax", second_order=SCHUR)
def _():
    inv_sqrtm_only = load("ott.math.matrix_square_root").inv_sqrtm_only
    return lambda x: inv_sqrtm_only(x), (positive_definite(3),), {}


def _fixed_point_loop(min_iterations: int):
    loop = load("ott.math.fixed_point_loop").fixpoint_iter_backprop

    def more(iteration, constants, state):
        del iteration, constants, state
        return True

    def step(iteration, constants, state, compute_error):
        del iteration, compute_error
        return jnp.tanh(constants * state + 0.5)

    def run(constants, state):
        return loop(more, step, min_iterations, 8, 4, constants, state)

    return run, (numbers(3), numbers(3, seed=1)), {}


@subject(
    "ott",
    "math.fixed_point_loop.fixpoint_iter_backprop, min_iterations == max_iterations",
    pip="ott-jax",
    formula="A defect: the backward scan starts at iteration 0 instead of the last one, so the "
    "saved states are read in the wrong order and the gradient is wrong, silently. The while "
    "loop that runs when the two numbers differ is right (next row).",
)
def _():
    return _fixed_point_loop(8)


@subject(
    "ott",
    "math.fixed_point_loop.fixpoint_iter_backprop, min_iterations < max_iterations",
    pip="ott-jax",
    second_order="The backward pass is a while loop, which JAX cannot differentiate in reverse.",
)
def _():
    return _fixed_point_loop(4)


@subject(
    "jax_md",
    "rigid_body._quaternion_rotate",
    pip="jax-md",
    formula="On purpose: a unit quaternion's cotangent is projected onto the sphere's tangent "
    "space, which is not the derivative in four numbers. With that as the reference it passes "
    "to first order (next row).",
)
def _():
    q = numbers(4)
    rotate = load("jax_md.rigid_body")._quaternion_rotate
    return rotate, (q / jnp.linalg.norm(q), numbers(3, seed=1)), {}


@subject("jax_md", "rigid_body._quaternion_rotate, projection declared", pip="jax-md")
def _():
    module = load("jax_md.rigid_body")
    q = numbers(4)

    def projected(args, g):
        dq, dv = jax.vjp(module._quaternion_rotate_raw, *args)[1](g)
        return dq - (args[0] @ dq) * args[0], dv

    options = {"reference": projected, "order": 1}
    return module._quaternion_rotate, (q / jnp.linalg.norm(q), numbers(3, seed=1)), options


@subject("jax_md", "_nn.uma.kernels._segment_mm_2d", pip="jax-md")
def _():
    segment = load("jax_md._nn.uma.kernels")._segment_mm_2d
    return segment, (numbers(5, 3), numbers(2, 4, 3, seed=1), jnp.array([2, 3], jnp.int32)), {}


@subject(
    "jaxopt",
    "implicit_diff.custom_root on ridge regression",
    second_order=NO_HESSIAN
    + " Known: [google/jaxopt#474](https://github.com/google/jaxopt/issues/474).",
)
def _():
    custom_root = load("jaxopt.implicit_diff").custom_root

    def optimality(w, strength, x, y):
        return x.T @ (x @ w - y) + strength * w

    @custom_root(optimality)
    def ridge(w0, strength, x, y):
        del w0
        return jnp.linalg.solve(x.T @ x + strength * jnp.eye(x.shape[1], dtype=x.dtype), x.T @ y)

    def fit(strength, x, y):
        return ridge(None, strength, x, y)

    return fit, (jnp.float32(0.7), numbers(6, 3), numbers(6, seed=1)), {}


@subject("jaxopt", "implicit_diff.custom_fixed_point on a contraction", second_order=NO_HESSIAN)
def _():
    custom_fixed_point = load("jaxopt.implicit_diff").custom_fixed_point

    def contraction(y, x):
        return 0.4 * jnp.tanh(y) + x

    @custom_fixed_point(contraction)
    def solve(y0, x):
        return jax.lax.fori_loop(0, 60, lambda _, y: contraction(y, x), y0)

    return lambda x: solve(jnp.zeros_like(x), x), (numbers(3),), {}


@subject(
    "equinox",
    "internal.while_loop(kind='checkpointed')",
    second_order="The backward pass is a while loop, which JAX cannot differentiate in reverse.",
)
def _():
    while_loop = load("equinox.internal").while_loop

    def iterate(x, w):
        def more(carry):
            return carry[0] < 5

        def step(carry):
            i, h = carry
            return i + 1, jnp.tanh(w * h + x)

        start = (jnp.int32(0), jnp.zeros_like(x))
        return while_loop(more, step, start, kind="checkpointed", checkpoints=2, max_steps=8)[1]

    return iterate, (numbers(3), numbers(3, seed=1)), {}


@subject("diffrax", "diffeqsolve with BacksolveAdjoint", second_order=NO_HESSIAN)
def _():
    diffrax = load("diffrax")

    def solve(y0, rate):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: -args * y),
            diffrax.Dopri5(),
            t0=0,
            t1=1,
            dt0=0.02,
            y0=y0,
            args=rate,
            adjoint=diffrax.BacksolveAdjoint(),
        )
        return solution.ys[0]

    return solve, (numbers(3), jnp.float32(0.7)), {}


@subject(
    "jax",
    "experimental.ode.odeint",
    formula="By design: the adjoint equation is solved by another adaptive integration, so the "
    "gradient agrees with the derivative of the steps taken to the solver's tolerance, 1.4e-8, "
    "and no further.",
)
def _():
    odeint = load("jax.experimental.ode").odeint

    def solve(y0, rate):
        return odeint(lambda y, t, r: -r * y, y0, jnp.array([0.0, 0.5, 1.0], y0.dtype), rate)

    return solve, (numbers(3), jnp.float32(0.7)), {}


@subject("jax", "experimental.pallas.ops.gpu.layer_norm, interpreted")
def _():
    layer_norm = load("jax.experimental.pallas.ops.gpu.layer_norm").layer_norm

    def normalise(x, weight, bias):
        return layer_norm(x, weight, bias, interpret=True, num_warps=1, num_stages=1)

    return normalise, (numbers(2, 4, 8), numbers(8, seed=1), numbers(8, seed=2)), {"order": 1}


@subject("jax", "experimental.pallas.ops.gpu.rms_norm, interpreted")
def _():
    rms_norm = load("jax.experimental.pallas.ops.gpu.rms_norm").rms_norm

    def normalise(x, weight, bias):
        return rms_norm(x, weight, bias, interpret=True, num_warps=1, num_stages=1)

    return normalise, (numbers(2, 4, 8), numbers(8, seed=1), numbers(8, seed=2)), {"order": 1}


@subject(
    "tensorflow_probability",
    "distributions.von_mises.von_mises_cdf",
    pip="tfp-nightly[jax]",
    second_order="The derivative in the concentration is a while loop, which JAX cannot "
    "differentiate in reverse.",
)
def _():
    module = load("tensorflow_probability.substrates.jax.distributions.von_mises")
    return module.von_mises_cdf, (numbers(4), jnp.abs(numbers(4, seed=1)) + 1), {}


@subject(
    "tensorflow_probability",
    "math.psd_kernels.internal.util.sqrt_with_finite_grads",
    pip="tfp-nightly[jax]",
)
def _():
    module = load("tensorflow_probability.substrates.jax.math.psd_kernels.internal.util")
    return module.sqrt_with_finite_grads, (jnp.abs(numbers(4)) + 0.1,), {}


@subject(
    "tensorflow_probability",
    "math.hypergeometric.hyp2f1_small_argument",
    pip="tfp-nightly[jax]",
    primal="A defect: the gradient cannot be compiled. `jax.grad` works, `jax.jit(jax.grad(...))` "
    "raises TracerIntegerConversionError, because the rule computes shapes with arrays.",
)
def _():
    module = load("tensorflow_probability.substrates.jax.math.hypergeometric")

    def in_z(z):
        return module.hyp2f1_small_argument(0.5, 0.7, 1.3, z)

    return in_z, (0.3 * jnp.tanh(numbers(4)),), {"stress": ()}


@subject(
    "flash_attention_jax",
    "flash_attention",
    pip="flash-attention-jax",
)
def _():
    module = load("flash_attention_jax.flash_attention")
    q, k, v = (numbers(2, 2, 4, 4, seed=i) for i in range(3))
    return module.flash_attention, (q, k, v, jnp.ones((2, 4), bool)), {}


@subject(
    "flash_attention_jax",
    "causal_flash_attention",
    pip="flash-attention-jax",
    accuracy="The running maximum starts at -1e6. Where all scores of a row are below it, as at "
    "inputs times 1e4, the row's sum is zero: 0/0, in the value as well as in the gradient.",
)
def _():
    module = load("flash_attention_jax.causal_flash_attention")
    return module.causal_flash_attention, tuple(numbers(2, 2, 4, 4, seed=i) for i in range(3)), {}


@subject(
    "flash_attention_jax",
    "cosine_sim_flash_attention",
    pip="flash-attention-jax",
)
def _():
    module = load("flash_attention_jax.cosine_sim_flash_attention")
    q, k, v = (numbers(4, 4, seed=i) for i in range(3))
    q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    fn = module.cosine_sim_flash_attention_after_l2norm
    return fn, (q, k, v, jnp.ones((4,), bool)), {}


@subject("matfree", "decomp.tridiag_sym", second_order=NO_HESSIAN)
def _():
    tridiag = load("matfree.decomp").tridiag_sym(3, reortho="full")

    def decompose(vector, matrix):
        result = tridiag(lambda v, p: (p + p.T) @ v, vector, matrix)
        return jax.tree.leaves(result)

    return decompose, (numbers(4), positive_definite(4)), {}


@subject("matfree", "lstsq.lsmr", second_order=NO_HESSIAN)
def _():
    lsmr = load("matfree.lstsq").lsmr()

    def solve(rhs, matrix):
        return lsmr(lambda v, p: p.T @ v, rhs, matrix)[0]

    return solve, (numbers(5), numbers(5, 3, seed=1)), {}


def _quadratic_program(target_kappa: float):
    solve = load("qpax").solve_qp_primal

    def minimise(q, h):
        n = len(q)
        eye = jnp.eye(n, dtype=q.dtype)
        empty = jnp.zeros((0, n), q.dtype), jnp.zeros((0,), q.dtype)
        return solve(eye, q, *empty, eye, h, solver_tol=1e-9, target_kappa=target_kappa)

    return minimise, (numbers(3), jnp.abs(numbers(3, seed=1))), {}


@subject(
    "qpax",
    "solve_qp_primal",
    formula="On purpose: the gradient is that of a smoothed problem, relaxed to a central-path "
    "parameter of 1e-3.",
)
def _():
    return _quadratic_program(1e-3)


@subject(
    "spyx",
    "experimental.compress.packed_spike_dense",
    empty="An empty batch divides by zero while the spikes are unpacked.",
)
def _():
    dense = load("spyx.experimental.compress").packed_spike_dense
    spikes = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 8)), jnp.float32)
    return dense, (spikes, numbers(8, 2)), {"order": 1}


def _expectation():
    expect = load("netket.jax").expect

    def log_probability(w, s):
        return jnp.sum(w * s, axis=-1) ** 2

    def value(w, s):
        return jnp.sum(jnp.tanh(w * s), axis=-1)

    def mean(parameters, samples):
        return expect(log_probability, value, parameters, samples)[0]

    def score_function(parameters, samples):
        values = value(parameters, samples)
        centred = jax.lax.stop_gradient(values - jnp.mean(values))
        return jnp.mean(values) + jnp.mean(centred * log_probability(parameters, samples))

    return mean, (numbers(3), numbers(5, 3, seed=1)), score_function


@subject(
    "netket",
    "jax.expect",
    formula="On purpose: the derivative of the expectation over the distribution that the samples "
    "came from, not of their mean. With the score-function estimator as the reference it passes "
    "(next row).",
)
def _():
    mean, args, _ = _expectation()
    return mean, args, {}


@subject("netket", "jax.expect, score function declared")
def _():
    mean, args, score_function = _expectation()
    return mean, args, {"reference": score_function, "order": 1}


def main(config: Config) -> None:
    """Write the table to `config.output`."""
    chosen = [s for s in SUBJECTS if config.only in f"{s.package}.{s.function}"]
    missing = sorted({s.distribution for s in chosen if not _installed(s)})
    if missing:
        print(f"Not installed, so not checked: pip install {' '.join(missing)}")
    rows = [_row(s) for s in chosen if _installed(s)]
    config.output.parent.mkdir(parents=True, exist_ok=True)
    config.output.write_text(_document(rows) + _suites(config.output))
    print(f"wrote {config.output}")


def _suites(page: Path) -> str:
    """What the page says of test suites, which is written by hand and kept."""
    text = page.read_text() if page.exists() else ""
    start = text.find(SUITES)
    return "" if start < 0 else f"\n{text[start:]}"


def _installed(subject: Subject) -> bool:
    return importlib.util.find_spec(subject.package) is not None


def _row(subject: Subject) -> list[str]:
    print(f"{subject.package}.{subject.function}", flush=True)
    failed = judge(subject)
    name = subject.distribution.split("[")[0]
    cells = [f"{name} {version(name)}", f"`{subject.function}`"]
    if failed is None:
        return [*cells, "passed", ""]
    verdict = f"failed: {failed}"
    if failed == "second_order" and judge(subject, order=1) is None:
        verdict = "passed to first order; failed: second_order"
    return [*cells, verdict, subject.findings.get(failed, "not followed up")]


def judge(subject: Subject, **more: Any) -> str | None:
    """The first check that fails, or None."""
    fn, args, options = subject.build()
    try:
        check_vjp(fn, args, **{**options, **more})
    except RuleError as error:
        return error.report.failed
    return None


def _document(rows: list[list[str]]) -> str:
    header = ["package", "function", "verdict", "cause"]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * 4, *rows)]
    return "\n".join(
        [
            "# check_vjp on backward passes written elsewhere",
            "",
            "Made by `python -m experiments third_party`, with the packages it names installed. "
            "The functions and their arguments are in "
            "[experiments/kill_table/third_party.py](../experiments/kill_table/third_party.py). "
            "Every finding was followed to its cause by hand.",
            "",
            *lines,
            "",
            f"Python {platform.python_version()}, jax {version('jax')}, on a CPU.",
            "",
        ]
    )
