"""rule: a function and its hand-derived backward pass, as one `jax.custom_vjp`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import jax

P = ParamSpec("P")
R = TypeVar("R")


class Form(NamedTuple):
    """One way to compute a function and its backward pass.

    Attributes:
        primal: the arguments to the output.
        forward: the arguments to (output, residuals).
        backward: (*nondiff arguments, residuals, cotangent of the output) to one cotangent for
            each argument that is differentiated.
    """

    primal: Callable[..., Any]
    forward: Callable[..., Any]
    backward: Callable[..., Any]


class Rule(jax.custom_vjp[R]):
    """A `jax.custom_vjp` that `help`, `inspect` and pyright see as the function it stands for.

    Attributes:
        plain: the same rule without a kernel.
    """

    plain: "Rule[R]"

    def __get__(self, instance: object, owner: type | None = None) -> "Rule[R]":
        # What has a `__get__` is a routine to `inspect`, and `help` shows its signature.
        return self


def rule(
    primal: Callable[P, R],
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    nondiff_argnums: tuple[int, ...] = (),
    kernel: Callable[[Form], Form] | None = None,
) -> Callable[P, R]:
    """The function `primal` with the backward pass that was derived for it.

    Args:
        primal: an undecorated function; its name without a leading underscore is the rule's.
        forward: its arguments to (output, residuals).
        backward: (*nondiff arguments, residuals, cotangent) to the cotangents, one each.
        nondiff_argnums: the arguments that are hashable and static; see `jax.custom_vjp`.
        kernel: makes of the plain form the one that runs; see funcnet/ops/kernels.

    Returns:
        A `Rule`, typed as `primal`, with its name, signature and docstring.
    """
    plain = Form(primal, forward, backward)
    result = _registered(primal, kernel(plain) if kernel else plain, nondiff_argnums)
    result.plain = _registered(primal, plain, nondiff_argnums) if kernel else result
    return cast(Callable[P, R], result)


def without_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """The plain form of a function made by `rule`, as derived in its file."""
    return cast(Callable[P, R], cast(Rule[R], function).plain)


def _registered(primal: Callable[..., R], form: Form, nondiff_argnums: tuple[int, ...]) -> Rule[R]:
    result: Any = Rule(form.primal, nondiff_argnums=nondiff_argnums)
    functools.update_wrapper(result, primal)
    result.__name__ = result.__qualname__ = primal.__name__.removeprefix("_")
    result.defvjp(form.forward, form.backward)
    return result
