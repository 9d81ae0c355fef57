"""A function and its arguments, flattened: what is differentiated, what is traced, what is kept.

Leaves of the arguments are of three kinds:

- differentiated: floating-point and complex arrays and Python scalars;
- traced: integer and boolean arrays and PRNG keys, which a program would pass as arguments too;
- kept: everything else (Python integers and booleans, strings, functions), passed on untouched.

`Call.function` gives the flat function `f(xs, zs)` of the first two kinds, that returns the
floating-point leaves of the output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from funcnet._internal import compat
from funcnet.testing.numerics import Arrays
from funcnet.testing.references import twin as twins

RULES = jax.custom_vjp, jax.custom_jvp


def without_partial(fn: Any) -> Any:
    """The function under any `functools.partial`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def is_inexact(value: Any) -> bool:
    """Whether a value or an abstract value is floating-point or complex."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, (float, complex))
    return jnp.issubdtype(dtype, jnp.inexact)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """`fn(*args)` with its arguments sorted out.

    Attributes:
        fn: the function under test.
        args: the arguments as given.
        static: positions of arguments that are passed on whole (a rule's `nondiff_argnums`).
        treedef: the structure of the other arguments.
        leaves: their leaves, as given.
        diff: indices of the differentiated leaves.
        traced: indices of the traced leaves.
        names: the differentiated leaves' names, such as `params['weight']`.
        parameters: the arguments' names.
        owner: for each leaf, the position of its argument among those that are not static.
        why_eager: why the function cannot be traced, or "": it is then run as Python runs it.
        is_rule: which equations call a rule that is judged.
        has_tangents: whether these are `custom_jvp`'s, which have a forward mode.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    static: tuple[int, ...]
    treedef: Any
    leaves: list[Any]
    diff: tuple[int, ...]
    traced: tuple[int, ...]
    names: tuple[str, ...]
    parameters: tuple[str, ...]
    owner: tuple[int, ...]
    why_eager: str = ""
    is_rule: twins.IsRule = twins.is_rule
    has_tangents: bool = False

    @property
    def xs(self) -> Arrays:
        """The differentiated leaves as arrays, in the dtype JAX gives them."""
        return tuple(jnp.asarray(self.leaves[i]) for i in self.diff)

    @property
    def zs(self) -> Arrays:
        """The traced leaves."""
        return tuple(jnp.asarray(self.leaves[i]) for i in self.traced)

    def arguments(self, xs: Sequence[Any], zs: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of `fn`, with these leaves in place."""
        leaves = list(self.leaves)
        for index, value in zip(self.diff + self.traced, (*xs, *zs), strict=True):
            leaves[index] = value
        dynamic = iter(jax.tree.unflatten(self.treedef, leaves))
        return tuple(
            self.args[i] if i in self.static else next(dynamic) for i in range(len(self.args))
        )

    def function(self, fn: Callable[..., Any] | None = None) -> Callable[[Arrays, Arrays], Arrays]:
        """`f(xs, zs)`: the floating-point leaves of `fn`'s output."""
        fn = self.fn if fn is None else fn

        def flat(xs: Arrays, zs: Arrays) -> Arrays:
            out = jax.tree.leaves(fn(*self.arguments(xs, zs)))
            return tuple(leaf for leaf in map(jnp.asarray, out) if is_inexact(leaf))

        return flat

    def output_shapes(self, fn: Callable[..., Any]) -> Any:
        """The shapes and dtypes of `fn`'s output, as a pytree."""
        if self.why_eager:
            out = jax.tree.map(jnp.asarray, fn(*self.arguments(self.xs, self.zs)))
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), out)
        return jax.eval_shape(lambda xs, zs: fn(*self.arguments(xs, zs)), self.xs, self.zs)

    def undecorated(self) -> Callable[..., Any]:
        """The function without its own rule, where it is a rule itself; else `fn`."""
        if not isinstance(self.fn, RULES):
            return self.fn
        return self.fn.__wrapped__

    @property
    def owners(self) -> tuple[str, ...]:
        """The names of the arguments that the differentiated leaves belong to."""
        dynamic = self.dynamic(self.parameters)
        return tuple(dynamic[self.owner[i]] for i in self.diff)

    def compiled(
        self, f: Callable[..., Any], compiler_options: dict[str, Any]
    ) -> Callable[..., Any]:
        """`f` under jit, or as it is where the function cannot be traced."""
        return f if self.why_eager else jax.jit(f, compiler_options=compiler_options)

    def describe(self) -> tuple[str, ...]:
        """One line for each differentiated leaf: its name, dtype and shape."""
        return tuple(
            f"{name}: {x.dtype}{list(x.shape)}" for name, x in zip(self.names, self.xs, strict=True)
        )

    def with_fixed_scalars(self) -> Call:
        """The call with Python's floats and complex numbers among the leaves that are kept."""
        diff = [
            k for k, i in enumerate(self.diff) if not isinstance(self.leaves[i], (float, complex))
        ]
        names = tuple(self.names[k] for k in diff)
        return dataclasses.replace(self, diff=tuple(self.diff[k] for k in diff), names=names)

    def with_static(self, values: Mapping[int, Any]) -> Call:
        """The call with other values at some of its static positions."""
        args = tuple(values.get(i, arg) for i, arg in enumerate(self.args))
        return dataclasses.replace(self, args=args)

    def dynamic(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Those of the arguments that are not static."""
        return tuple(arg for i, arg in enumerate(args) if i not in self.static)


def align(given: Any, like: Any) -> list[Any]:
    """The parts of `given`, one for each leaf of `like`.

    None in `given` stands for zeros, for a leaf or for everything below a node, as in JAX.

    Raises:
        ValueError: the structures differ, be it that one leaf stands for several.
    """
    count = len(jax.tree.leaves(like))
    nothing = not count and (jax.tree_util.all_leaves([given]) or not jax.tree.leaves(given))
    if given is None or nothing:  # JAX drops an array that is given for an argument without leaves
        return [None] * count
    children, level = jax.tree.flatten(like, is_leaf=lambda node: node is not like)
    if jax.tree_util.treedef_is_leaf(level):
        if not jax.tree_util.treedef_is_leaf(jax.tree.structure(given)):
            raise ValueError("a container stands where the argument has a leaf")
        return [given]
    parts = level.flatten_up_to(given)
    return [
        leaf for part, child in zip(parts, children, strict=True) for leaf in align(part, child)
    ]


def cotangent_tree(outputs: Any, ct: Sequence[Any]) -> Any:
    """Floating-point cotangents in the output's structure, with float0 zeros for the rest."""
    rest = iter(ct)
    return jax.tree.map(
        lambda out: next(rest) if is_inexact(out) else np.zeros(out.shape, jax.dtypes.float0),
        outputs,
    )


def make_call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Call:
    """Sort out a function's arguments; see the module docstring.

    Raises:
        ValueError: `fn` is a method's rule, and the object is missing among the arguments.
    """
    if isinstance(fn, (types.MethodType, functools.partial)) and _is_bound_rule(fn):
        fn, args = _unbound(fn, args)
    given = len(args)
    args = _with_defaults(fn, args)
    static = tuple(i % len(args) for i in getattr(fn, "nondiff_argnums", ()) if args)
    static = static if isinstance(fn, (*RULES, Composed)) else ()
    paths, treedef = jax.tree_util.tree_flatten_with_path(
        tuple(arg for i, arg in enumerate(args) if i not in static)
    )
    leaves = [leaf for _, leaf in paths]
    parameters = _parameter_names(fn, len(args))
    dynamic = [name for i, name in enumerate(parameters) if i not in static]
    owner = tuple(path[0].idx for path, _ in paths)
    positions = [i for i in range(len(args)) if i not in static]
    # A default that was not given is kept: nobody asked for its derivative.
    asked = [i for i in range(len(leaves)) if positions[owner[i]] < given]
    diff = tuple(i for i in asked if _is_number(leaves[i]) and is_inexact(leaves[i]))
    arrays = [i for i in asked if isinstance(leaves[i], (jax.Array, np.ndarray))]
    names = tuple(dynamic[owner[i]] + keystr(paths[i][0][1:]) for i in diff)
    traced = tuple(i for i in arrays if i not in diff)
    return Call(fn, args, static, treedef, leaves, diff, traced, names, tuple(parameters), owner)


@dataclasses.dataclass(frozen=True, eq=False)
class Composed:
    """A function followed by a map of its outputs; arguments are sorted as the function's are.

    Attributes:
        fn: the function.
        then: what is called with its outputs.
    """

    fn: Callable[..., Any]
    then: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """The map of the outputs."""
        out = self.fn(*args)
        return self.then(*out) if isinstance(out, tuple) else self.then(out)

    @property
    def nondiff_argnums(self) -> tuple[int, ...]:
        """Those of the function, where it is a rule."""
        return tuple(self.fn.nondiff_argnums) if isinstance(self.fn, RULES) else ()

    @property
    def __wrapped__(self) -> Callable[..., Any]:  # `inspect.signature` follows it
        return self.fn

    @property
    def __name__(self) -> str:
        return getattr(self.fn, "__name__", type(self.fn).__name__)


def _is_bound_rule(fn: Any) -> bool:
    inner = fn.func if isinstance(fn, functools.partial) else fn.__func__
    plain = isinstance(fn, types.MethodType) or not fn.keywords
    return isinstance(inner, RULES) and plain


def _unbound(fn: Any, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A rule and all of its arguments: its `nondiff_argnums` counts those that were bound."""
    if isinstance(fn, functools.partial):
        return fn.func, (*fn.args, *args)
    return fn.__func__, (fn.__self__, *args)


def _with_defaults(fn: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments and the rule's own defaults for the others: JAX hands its `bwd` those too."""
    if not isinstance(fn, RULES):
        return args
    try:
        bound = inspect.signature(fn.__wrapped__).bind(*args)
    except TypeError as error:  # calling it will tell what is wrong
        if _lacks_self(fn, args):
            name = fn.__wrapped__.__qualname__
            raise ValueError(
                f"{name} takes {inspect.signature(fn.__wrapped__)} and got {len(args)} "
                f"argument{'s' if len(args) != 1 else ''}: JAX does not bind a decorated method to "
                f"the object that it is read from. Hand that over too: check_vjp({name}, "
                f"(the object, ...))"
            ) from error
        return args
    except ValueError:
        return args
    bound.apply_defaults()
    return bound.args


def _lacks_self(fn: Any, args: tuple[Any, ...]) -> bool:
    """Whether a method's rule got all of its arguments but the object."""
    parameters = list(inspect.signature(fn.__wrapped__).parameters)
    if parameters[:1] != ["self"]:
        return False
    with contextlib.suppress(TypeError):
        inspect.signature(fn.__wrapped__).bind(None, *args)
        return True
    return False


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (float, complex, jax.Array, np.ndarray, np.generic))


def _parameter_names(fn: Callable[..., Any], count: int) -> list[str]:
    """The parameters' names where the signature gives one to each argument, else args[i]."""
    fallback = [f"args[{i}]" for i in range(count)]
    try:
        parameters = list(inspect.signature(compat.described_by(fn)).parameters.values())
    except (TypeError, ValueError):
        return fallback
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in positional][:count]
    return names + fallback[len(names) :]


def trace(call: Call, fn: Callable[..., Any], xs: Arrays, zs: Arrays) -> Any:
    """The closed jaxpr of `call.function(fn)` at these arguments."""
    return jax.make_jaxpr(call.function(fn))(xs, zs)


@dataclasses.dataclass(frozen=True, eq=False)
class EagerTwin:
    """A function that cannot be traced, with every rule erased where it is called.

    Attributes:
        run: the flat function `f(xs, zs)`.
        out_avals: the shapes and dtypes of what it returns.
    """

    run: Callable[[Arrays, Arrays], Arrays]
    out_avals: tuple[Any, ...]


def make_twin(call: Call, fn: Callable[..., Any], xs: Arrays, zs: Arrays) -> Any:
    """The closed jaxpr of the flat function with every rule erased, traced at these arguments."""
    if not call.why_eager:
        return twins.erase_rules(trace(call, fn, xs, zs), call.is_rule)
    plain = call.function(fn)

    def run(xs: Arrays, zs: Arrays) -> Arrays:
        with compat.rules_erased():
            return plain(xs, zs)

    avals = tuple(jax.ShapeDtypeStruct(out.shape, out.dtype) for out in run(xs, zs))
    return EagerTwin(run, avals)


def twin_function(closed: Any) -> Callable[[Arrays, Arrays], Arrays]:
    """A twin as a flat function `f(xs, zs)`."""
    if isinstance(closed, EagerTwin):
        return closed.run
    run = twins.as_function(closed)
    return lambda xs, zs: tuple(run(*xs, *zs))
