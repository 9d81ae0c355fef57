"""The tools that judge a rule, each behind one function that returns a `Verdict`.

Every tool is given what its user would give it. Those that cannot take integers, keys, None or
static arguments get a function of the floating-point leaves alone. PyTorch's gradcheck sees a JAX
function through a bridge that carries NumPy arrays, backward passes included, all under jit.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np

from experiments.kill_table.rule import Rule
from funcnet.testing import RuleError, check_vjp


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a tool said.

    Attributes:
        objects: Whether it complained; None where the tool does not apply.
        detail: The check that failed, or the kind of the exception.
    """

    objects: bool | None
    detail: str = ""


DOES_NOT_APPLY = Verdict(None)


def make_args(rule: Rule, dtype: str | None = None) -> tuple[Any, ...]:
    """A rule's arguments; 64-bit ones need `jax.enable_x64` around this and their use."""
    return rule.args(0, 4, dtype or rule.dtypes[0])


def by_check_vjp(rule: Rule) -> Verdict:
    """This project's tool, in the exhibit's own dtype and with its options."""
    dtype = rule.dtypes[0]
    with jax.enable_x64(dtype in ("float64", "complex128")):
        try:
            check_vjp(rule.fn, make_args(rule), **rule.options)
        except RuleError as error:
            return Verdict(True, error.report.failed or "")
    return Verdict(False)


def by_check_grads(rule: Rule, *, order: int, x64: bool, modes: Sequence[str]) -> Verdict:
    """`jax.test_util.check_grads` with its own tolerances."""
    if "reference" in rule.options or order > rule.options.get("order", 2):
        return DOES_NOT_APPLY
    with jax.enable_x64(x64):
        fn, leaves = _of_floats(rule, make_args(rule, _wide(rule) if x64 else None))
        return _objects(lambda: jax.test_util.check_grads(fn, leaves, order, modes=modes))


def by_gradcheck(rule: Rule, *, second: bool) -> Verdict:
    """`torch.autograd.gradcheck`, and `gradgradcheck` after it if `second`; in float64."""
    import torch

    if "reference" in rule.options or (second and rule.options.get("order", 2) < 2):
        return DOES_NOT_APPLY

    def check() -> None:
        fn, leaves = _of_floats(rule, make_args(rule, _wide(rule)))
        inputs = [torch.from_numpy(np.array(leaf)).requires_grad_() for leaf in leaves]
        bridged = functools.partial(_bridge().apply, jax.jit(fn))
        torch.autograd.gradcheck(bridged, inputs)
        if second:
            torch.autograd.gradgradcheck(bridged, inputs)

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gradcheck warns where an argument is not in float64
        return _objects(check)


def _objects(check: Callable[[], None]) -> Verdict:
    try:
        check()
    except Exception as error:  # whatever a tool raises is its way to complain
        return Verdict(True, type(error).__name__)
    return Verdict(False)


def _wide(rule: Rule) -> str:
    is_complex = np.issubdtype(jnp.dtype(rule.dtypes[0]), np.complexfloating)
    return "complex128" if is_complex else "float64"


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _of_floats(rule: Rule, args: tuple[Any, ...]) -> tuple[Callable[..., Any], list[jax.Array]]:
    """The rule's function of its floating-point leaves, returning its floating-point outputs."""
    leaves, structure = jax.tree.flatten(args)
    where = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]

    def fn(*floats: jax.Array) -> tuple[jax.Array, ...]:
        filled = dict(zip(where, floats, strict=True))
        whole = [filled.get(i, leaf) for i, leaf in enumerate(leaves)]
        outputs = jax.tree.leaves(rule.fn(*jax.tree.unflatten(structure, whole)))
        return tuple(y for y in outputs if jnp.issubdtype(y.dtype, jnp.inexact))

    return fn, [leaves[i] for i in where]


@functools.cache
def _pullback(fn: Callable[..., Any], inputs: int) -> Callable[..., Any]:
    """(*inputs, *cotangents) to the inputs' cotangents, in PyTorch's convention: conjugated."""

    def pullback(*both: jax.Array) -> tuple[jax.Array, ...]:
        _, vjp = jax.vjp(fn, *both[:inputs])
        return tuple(jnp.conj(d) for d in vjp(tuple(jnp.conj(g) for g in both[inputs:])))

    return jax.jit(pullback)


@functools.cache
def _bridge() -> Any:
    """A torch Function that runs a JAX function, and whose backward pass is one more bridge."""
    import torch

    def to_torch(x: jax.Array) -> torch.Tensor:
        return torch.from_numpy(np.array(x))

    def to_jax(x: torch.Tensor) -> jax.Array:
        return jnp.asarray(x.detach().numpy())

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx, fn, *inputs):
            ctx.fn = fn
            ctx.save_for_backward(*inputs)
            return tuple(to_torch(y) for y in fn(*(to_jax(x) for x in inputs)))

        @staticmethod
        def backward(ctx, *cotangents):
            inputs = ctx.saved_tensors
            return None, *Bridge.apply(_pullback(ctx.fn, len(inputs)), *inputs, *cotangents)

    return Bridge
