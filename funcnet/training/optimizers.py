"""What optax's optimizers expect of a training loop, and what they leave in its state.

An optax transformation is a pair of functions, and what it needs shows when it is called. So it is
tried once on abstract values before anything runs: it may keep what it did not have at the start
(`optax.monitor`), hand the gradient on as it is (`optax.masked`), or want what no loop here gives,
and is then refused by its name.

Some optimizers train other parameters than those to use: `evaluation_params` finds these.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax import Array
from jax.core import Tracer

from funcnet._internal.identity import Shared
from funcnet.errors import ConfigError, FuncnetError
from funcnet.layers import Params
from funcnet.layers.module import dtype_of

# What an optimizer is refused for, by the name of the function of optax that made (part of) it.
_ADVICE = {
    "lookahead": "it keeps two sets of parameters, which no model here has; train with its fast "
    "optimizer, or average the iterates by optax.contrib.schedule_free_adamw",
    "hutchinson_estimator_diag_hessian": "optax.contrib.sophia's estimate of the Hessian needs "
    "forward mode, which hand-written rules do not have (see fn.without_rules); take "
    "optax.adamw, or optax.lbfgs for another second-order method",
    "differentially_private_aggregate": "it needs the gradient of each example, and fit gives that "
    "of the batch; in a loop of your own, take them by jax.vmap(jax.grad(...))",
    "measure_with_ema": "its updates are measurements; put it into optax.monitor, and chain that",
    "sam": "optax.contrib.sam takes no arguments meant for others, so it cannot be part of another "
    "optimizer; put the others into it: sam(optax.chain(...), ...)",
}


def require_optimizer(optimizer: Any) -> optax.GradientTransformation:
    """The transformation that an optimizer is.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(optimizer, optax.MultiSteps):
        return optimizer.gradient_transformation()
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    name = getattr(optimizer, "__name__", "optimizer")
    mend = f"; call it, as in optax.{name}(...)" if hasattr(optax, name) else ""
    raise ConfigError(
        f"optimizer is {optimizer!r}, expected an optax transformation such as optax.sgd(0.03)"
        f"{mend}"
    )


def optimizer_update(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    opt_state: Any,
    params: Params,
    value: Array,
    value_fn: Callable[[Params], Array],
) -> tuple[Params, Any]:
    """The updates of the parameters, and the optimizer's state after them.

    Args:
        optimizer: any; one that takes extra arguments gets `value`, `grad` and `value_fn` of the
            batch; one that names its arguments gets those, among them `grad_fn`.
        gradient: of the batch's loss at `params`.
        opt_state: the optimizer's state.
        params: the parameters.
        value: the loss at `params`, ().
        value_fn: from parameters to the loss of the batch.

    Raises:
        ConfigError: the optimizer cannot be used so, or its state changes its shapes or dtypes.
    """
    extra = {"value": value, "grad": gradient, "value_fn": value_fn}
    try:
        updates, after = optimizer.update(gradient, opt_state, params, **_taken(optimizer, extra))
        if jax.tree.structure(updates) != jax.tree.structure(params):
            raise TypeError(f"its updates are {jax.tree.structure(updates)}")
    except FuncnetError:
        raise
    except Exception as error:
        raise _refusal(optimizer, error) from error
    return updates, after


def _taken(optimizer: optax.GradientTransformation, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that an optimizer takes."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return {}
    named = inspect.signature(optimizer.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values()):
        return extra  # and no other: optax.lbfgs refuses what it does not know
    gradient = jax.grad(extra["value_fn"])
    extra["grad_fn"] = lambda params, *_: gradient(params)
    return {name: value for name, value in extra.items() if name in named}


def require_same_outline(before: Any, after: Any) -> None:
    """Raise ConfigError unless an optimizer's state keeps its structure, shapes and dtypes."""
    kinds = [jax.tree.map(_kind, state) for state in (before, after)]
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"the optimizer's state changed from {kinds[0]} to {kinds[1]} in a step, expected the "
            f"same shapes and dtypes; make its init return what its update does"
        )


def _kind(leaf: Any) -> str:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return f"{dtype}{list(jnp.shape(leaf))}"


class Trial(NamedTuple):
    """What a first step on abstract values tells of an optimizer.

    Attributes:
        grown: the state to start from, as shapes, where it has more entries than `init` makes;
            else None.
        raw: the parameters to which the gradient is added as it is: to climb, not to descend.
    """

    grown: Any
    raw: tuple[str, ...]


def trial(optimizer: Shared, params: Params) -> Trial:
    """Try an optimizer on parameters of these shapes.

    Args:
        optimizer: whose value is the optimizer.
        params: arrays, or their shapes and dtypes.

    Raises:
        ConfigError: it cannot be used.
    """
    leaves, structure = jax.tree.flatten(params)
    kinds = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _trial(optimizer, structure, kinds, jax.dtypes.canonicalize_dtype(float))


@functools.lru_cache(maxsize=256)
def _trial(
    shared: Shared, structure: Any, kinds: tuple[tuple[Any, Any], ...], widest: Any
) -> Trial:
    optimizer = shared.value
    params = structure.unflatten([jax.ShapeDtypeStruct(*kind) for kind in kinds])
    raw: list[str] = []

    def step(params, opt_state, gradient, value):
        def loss(params):  # of any parameters; only its shape and dtype count
            total = sum(p.sum().astype(value.dtype) for p in jax.tree.leaves(params))
            return value + total

        updates, after = optimizer_update(optimizer, gradient, opt_state, params, value, loss)
        evaluation_params(after, params)
        pairs = zip(
            jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(gradient), strict=True
        )
        raw[:] = [_name(path) for (path, update), given in pairs if update is given]
        return after

    try:
        before = jax.eval_shape(optimizer.init, params)
    except Exception as error:
        raise _refusal(optimizer, error) from error
    value = jax.ShapeDtypeStruct((), dtype_of(params))
    after = jax.eval_shape(step, params, before, params, value)
    if _same_shapes(before, after):
        return Trial(None, tuple(raw))
    grown = jax.eval_shape(lambda given: _merged(given, after), before)
    again = jax.eval_shape(step, params, grown, params, value)
    if not _same_shapes(grown, again):
        require_same_outline(before, after)
    return Trial(grown, tuple(raw))


def _same_shapes(a: Any, b: Any) -> bool:
    # Of the dtypes, that of the loss is not known here.
    return jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)


def _merged(given: Any, like: Any) -> Any:
    """The entries of `given` in the structure of `like`; 0 where it has none."""
    known = dict(jax.tree_util.tree_leaves_with_path(given))
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    return structure.unflatten(
        [known.get(path, jnp.zeros(leaf.shape, leaf.dtype)) for path, leaf in leaves]
    )


def first_state(shared: Shared, params: Params) -> Any:
    """The optimizer's state before the first step, its arrays no others than those of `params`.

    Raises:
        ConfigError: the optimizer cannot be used.
    """
    grown = trial(shared, params).grown
    state = shared.value.init(params)
    if grown is not None:
        state = _merged(state, grown)
    seen = {id(leaf) for leaf in jax.tree.leaves(params)}

    def own(leaf):
        if not isinstance(leaf, Array):
            return _as_array(leaf)
        # fit donates the state, and a buffer can be donated once.
        if id(leaf) in seen and not isinstance(leaf, Tracer):
            leaf = jnp.copy(leaf)
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(own, state)


_as_array = jax.jit(lambda leaf: leaf)  # a Python number stays weakly typed


def evaluation_params(opt_state: Any, params: Params) -> Params:
    """The parameters to use and to evaluate, where an optimizer trains others.

    `optax.contrib.schedule_free` takes gradients between two iterates, and the average is to be
    used; between two steps of its own, `optax.contrib.sam` has moved the parameters to where the
    loss is worst nearby.

    Args:
        opt_state: the optimizer's state.
        params: the parameters it trains.

    Returns:
        The parameters; those given, where they are the ones.
    """
    kinds = optax.contrib.ScheduleFreeState, optax.contrib.SAMState
    found = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kinds))
    for part in found:
        if isinstance(part, optax.contrib.ScheduleFreeState):
            params = _where_kept(functools.partial(_average, part), params, part.z)
        elif isinstance(part, optax.contrib.SAMState) and part.cache is not None:
            synced = part.steps_since_sync == 0
            params = _where_kept(functools.partial(jnp.where, synced), params, part.cache)
    return params


def _average(state: Any, param: Array, z: Array) -> Array:
    found = optax.contrib.schedule_free_eval_params(state._replace(z=z), param)
    return found.astype(param.dtype)


def _where_kept(f: Callable[..., Array], params: Params, kept: Any) -> Params:
    """What f makes of each parameter and of what is kept for it, where something is."""

    def of(param, part):
        return param if isinstance(part, optax.MaskedNode) else f(param, part)

    try:
        return jax.tree.map(of, params, kept)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the iterate to evaluate is not shaped as the parameters ({error}); put what shapes "
            f"them into the optimizer: schedule_free(optax.flatten(...), ...)"
        ) from None


def held_back(opt_state: Any) -> str | None:
    """What an accumulator still holds, in words; None if nothing."""
    kinds = optax.MultiStepsState, optax.ApplyEvery
    for part in jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kinds)):
        if isinstance(part, kinds):
            multi = isinstance(part, optax.MultiStepsState)
            steps = int(np.asarray(part.mini_step if multi else part.count))
            if steps:
                name = "optax.MultiSteps" if multi else "optax.apply_every"
                return (
                    f"{name} still holds the gradients of the last {steps} "
                    f"{'step' if steps == 1 else 'steps'}, which have not updated the parameters; "
                    f"they do if result.run is trained on, or if the steps of all epochs are a "
                    f"multiple of the number it waits for"
                )
    return None


def overflowed(opt_state: Any) -> str | None:
    """Which averages of an optimizer are no longer finite in float16, in words; None if none is.

    Those of squares: the update divides by them and becomes 0, which no check of the parameters
    sees.
    """
    leaves = [leaf for leaf in jax.tree.leaves(opt_state) if jnp.ndim(leaf)]
    half = [leaf for leaf in leaves if leaf.dtype == jnp.float16]
    lost = sum(int((~jnp.isfinite(leaf)).sum()) for leaf in half)
    if not lost:
        return None
    return (
        f"the optimizer's state is not finite in {lost} places: the square of a gradient beyond "
        f"256 is beyond 65504, the largest number of float16, and such parameters stand still; "
        f"train with dtype=jnp.bfloat16 or jnp.float32, or scale the data so that gradients stay "
        f"small"
    )


def added_as_it_is(names: tuple[str, ...]) -> str:
    """A warning that the gradient of these parameters is added to them."""
    which = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"the optimizer hands on the gradient of {which} as it is, and what is added climbs: "
        f"optax.masked does so where its mask is False, and optax.identity everywhere; to freeze "
        f"parameters, take optax.partition({{'train': optimizer, 'freeze': optax.set_to_zero()}}, "
        f"labels)"
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _refusal(optimizer: optax.GradientTransformation, error: Exception) -> ConfigError:
    """Why an optimizer cannot be used, by its name, and what to do."""
    names = list(dict.fromkeys(_makers(optimizer, set())))
    advice = next((_ADVICE[name] for name in names if name in _ADVICE), None)
    named = ", ".join(names) or "given"
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if advice is None:
        advice = (
            "fit calls optimizer.update(gradient, opt_state, params), with value=, grad= and "
            "value_fn= if it takes extra arguments; an optimizer of optax does with that"
        )
    return ConfigError(f"the optimizer ({named}) cannot train here: {advice} (it raised {text})")


def _makers(value: Any, seen: set[int]) -> Iterator[str]:
    """The functions that made an optimizer, and what it is made of, outermost first."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if inspect.ismethod(value):
        yield type(value.__self__).__name__
    elif inspect.isfunction(value):
        maker, nested, _ = value.__qualname__.partition(".<locals>.")
        if nested and maker not in ("with_extra_args_support", "chain"):
            yield maker
    for _, part in _held(value):
        yield from _makers(part, seen)


def _held(value: Any) -> list[tuple[Any, Any]]:
    """What an optimizer, or a part of it, holds; with its names, where it has some."""
    if isinstance(value, tuple | list):
        return [("", part) for part in value]
    if inspect.ismethod(value):
        value = vars(value.__self__)
    elif inspect.isfunction(value):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return [(name, cell.cell_contents) for name, cell in cells if cell != types.CellType()]
    return list(value.items()) if isinstance(value, dict) else []


def vanishing_epsilon(optimizer: optax.GradientTransformation, dtype: Any) -> tuple[str, float]:
    """The epsilon of an optimizer that rounds to 0 in a dtype, and its name; ("", 0) if none does.

    It is to keep a division finite: by 0 it does not.
    """
    seen: set[int] = set()
    found: list[tuple[Any, Any]] = [("", optimizer)]
    while found:
        name, value = found.pop(0)
        if isinstance(value, int | float | np.number) and "eps" in str(name):
            if value and not np.asarray(value).astype(dtype):
                return name, float(value)
        elif id(value) not in seen:
            seen.add(id(value))
            found += _held(value)
    return "", 0.0
