"""What `reference=` may be, for rules that are deliberately no derivative of their function."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnet.testing.numerics import Arrays
from funcnet.testing.references import derivatives
from funcnet.testing.references.call import Call, align, cotangent_tree, is_inexact
from funcnet.testing.references.derivatives import Pullback


@dataclasses.dataclass(frozen=True)
class Reference:
    """The expected pullback, given by the user.

    Attributes:
        fn: either a function of the same arguments, or `(args, cotangent) -> cotangents`.
        is_pullback: which of the two it is.
        outputs: the shapes and dtypes of the function's output, as a pytree.
    """

    fn: Callable[..., Any]
    is_pullback: bool
    outputs: Any

    @property
    def source(self) -> str:
        """Where the expected values come from, in words."""
        return "the reference" if self.is_pullback else "JAX's autodiff of the reference"

    def pullback(self, call: Call) -> Pullback:
        """The expected pullback, of flat arguments; a pullback given by the user has no outputs."""
        if not self.is_pullback:
            return derivatives.reverse(call.function(self.fn))

        def run(xs: Arrays, zs: Arrays, ct: Arrays) -> tuple[Arrays, Arrays]:
            args = call.arguments(xs, zs)
            dynamic = call.dynamic(args)
            given = self.fn(dynamic, cotangent_tree(self.outputs, ct))
            leaves = align(_for_each(given, dynamic, call), dynamic)
            found = [leaves[i] for i in call.diff]
            zeros = map(jnp.zeros_like, xs)
            filled = [z if g is None else jnp.asarray(g) for g, z in zip(found, zeros, strict=True)]
            return (), tuple(filled)

        return run


def _for_each(given: Any, dynamic: tuple[Any, ...], call: Call) -> tuple[Any, ...]:
    """One cotangent for each argument, None for those that got none.

    As many as there are differentiated arguments are theirs; fewer are the first arguments'.
    """
    given = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    differentiated = sorted({call.owner[i] for i in call.diff})
    if len(given) >= len(dynamic):
        return given
    owners = differentiated if len(given) == len(differentiated) else range(len(given))
    filled = dict(zip(owners, given, strict=True))
    return tuple(filled.get(i) for i in range(len(dynamic)))


def make_reference(fn: Callable[..., Any], call: Call, outputs: Any) -> Reference:
    """Find out, by abstract evaluation, which kind of reference a function is.

    Raises:
        ValueError: it is neither of the two.
    """
    as_function = Reference(fn, False, outputs)
    as_pullback = Reference(fn, True, outputs)
    takes_args, why_not_args = _fits_function(fn, call, outputs)
    takes_cotangent, why_not_cotangent = _fits_pullback(as_pullback, call)
    if takes_args and takes_cotangent:
        return as_pullback if _is_called_with_a_pair(fn, call) else as_function
    if takes_args:
        return as_function
    if takes_cotangent:
        return as_pullback
    dynamic = ", ".join(call.dynamic(call.parameters))
    static = ", ".join(call.parameters[i] for i in call.static)
    left_out = f", and not {static}, which stands at nondiff_argnums" if static else ""
    raise ValueError(
        "reference must be a function of the same arguments with outputs of the same shapes, or "
        "a function (args, cotangent) -> tuple of cotangents, one for each argument; args is "
        f"({dynamic},){left_out}. "
        f"As the first: {why_not_args}. As the second: {why_not_cotangent}."
    )


def _fits_function(fn: Callable[..., Any], call: Call, outputs: Any) -> tuple[bool, str]:
    try:
        found = jax.eval_shape(lambda xs, zs: fn(*call.arguments(xs, zs)), call.xs, call.zs)
    except Exception as error:
        return False, f"it raises {type(error).__name__}: {error}"
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (found, outputs)]
    return shapes[0] == shapes[1], f"its outputs have shapes {shapes[0]}, not {shapes[1]}"


def _fits_pullback(reference: Reference, call: Call) -> tuple[bool, str]:
    leaves = [leaf for leaf in jax.tree.leaves(reference.outputs) if is_inexact(leaf)]
    cts = tuple(jnp.zeros(leaf.shape, leaf.dtype) for leaf in leaves)
    try:
        _, found = jax.eval_shape(reference.pullback(call), call.xs, call.zs, cts)
    except Exception as error:
        return False, f"it raises {type(error).__name__}: {error}"
    got, wanted = [x.shape for x in found], [x.shape for x in call.xs]
    return got == wanted, f"its cotangents have shapes {got}, not {wanted}"


def _is_called_with_a_pair(fn: Callable[..., Any], call: Call) -> bool:
    """Two parameters are an (args, cotangent) pair, unless the function has two arguments too."""
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return False
    return len(parameters) == 2 and len(call.args) != 2
