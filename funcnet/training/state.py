"""What changes during training: the state of a run, and the carry of the compiled loop."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from funcnet.layers import Params, State
from funcnet.layers.module import dtype_of

Data = tuple[Any, Any]
"""(x, y): each a pytree of arrays whose first axis counts the examples."""

WeightedData = tuple[Any, Any, Any]
"""(x, y, sample_weight): with what each example counts, (examples,)."""


class TrainState(NamedTuple):
    """All that changes during training: one pytree.

    Attributes:
        params: the model's parameters.
        state: the model's state.
        opt_state: the optimizer's state.
        key: typed scalar key; epoch e draws from fold_in(key, e).
        epoch: () int32, how many epochs have been trained.
        step: () int32, how many updates have been made, or left out for their loss scale.
        loss_scale: what the loss is multiplied by in float16; () without `loss_scale`.
    """

    params: Params
    state: State
    opt_state: Any
    key: Array
    epoch: Array
    step: Array
    loss_scale: Any = ()


class Clock:
    """How long the compiled program has run.

    Attributes:
        seconds: in the calls before this one too, where a run was resumed.
    """

    seconds: float = 0.0


class Watching(NamedTuple):
    """What early stopping looks at: an entry of the history, and which values are better."""

    entry: str = "validation_loss"
    mode: Literal["min", "max"] = "min"


class Watch(NamedTuple):
    """What early stopping remembers."""

    best: TrainState
    best_value: Array  # ()
    patience: Array  # () int32


class Progress(NamedTuple):
    """The carry of the loop over epochs."""

    run: TrainState
    done: Array  # () int32: epochs of this history so far
    diverged_at: Array  # () int32, -1 while all is finite
    history: dict[str, Array]  # (epochs,) each
    watch: Watch | None


def start(
    run: TrainState,
    epochs: int,
    entries: tuple[str, ...],
    patience: int | None = None,
    watching: Watching | None = None,
) -> Progress:
    """The carry before the first epoch of a history of `epochs`, with these entries."""
    dtype = loss_dtype(run.params)
    # No epoch has an entry too: the loop is traced, and would find nowhere to write.
    unseen = jnp.full((max(epochs, 1),), jnp.nan, dtype)
    watch = None
    if patience is not None and watching is not None:
        # Copies, since fit donates the carry, and a buffer can be donated once.
        best = jax.tree.map(jnp.copy, run)
        worst = jnp.asarray(jnp.inf if watching.mode == "min" else -jnp.inf, dtype)
        watch = Watch(best, worst, jnp.int32(min(patience, epochs)))
    return Progress(
        run,
        done=jnp.int32(0),
        diverged_at=jnp.int32(-1),
        history={name: unseen.copy() for name in entries},
        watch=watch,
    )


def resumed(progress: Progress, saved: Progress) -> Progress:
    """The carry to go on with: what was saved, in a history of as many epochs as `progress` has."""
    history = {
        name: unseen.at[: len(saved.history[name])].set(saved.history[name])
        for name, unseen in progress.history.items()
    }
    watch = saved.watch
    if watch is not None and progress.watch is not None:  # its patience depends on the epochs
        watch = watch._replace(patience=progress.watch.patience)
    return saved._replace(history=history, watch=watch)


def cut(progress: Progress, epochs: int) -> Progress:
    """The carry with the first `epochs` of its history: what there is to save."""
    # By NumPy: JAX would compile for each length.
    history: Any = {name: np.asarray(a)[:epochs] for name, a in progress.history.items()}
    return progress._replace(diverged_at=jnp.int32(-1), history=history)


def has_stopped(progress: Progress) -> Any:
    """Whether the run has diverged, or its patience is at an end."""
    stopped = progress.diverged_at >= 0
    watch = progress.watch
    if watch is not None:
        stopped |= progress.run.epoch - watch.best.epoch >= watch.patience
    return stopped


def chosen(condition: Array, new: TrainState, old: TrainState) -> TrainState:
    """One of two states of a run. Its key never changes; choosing would count as using it."""
    trees = [run._replace(key=()) for run in (new, old)]
    picked = jax.tree.map(lambda a, b: jnp.where(condition, a, b), *trees)
    return picked._replace(key=old.key)


# Where in which state of optax; the last two are new in 0.2.6 and 0.2.7.
_SEEN = {
    "InjectStatefulHyperparamsState": "hyperparams",
    "InjectHyperparamsState": "hyperparams",
    "SnapshotState": "measurement",
    "MonitorState": "measurements",
}


def hyperparameters(opt_state: Any) -> dict[str, Any]:
    """The numbers that an optimizer keeps in its state to be seen, by name.

    Those of `optax.inject_hyperparams`, `optax.monitor` and `optax.snapshot`.

    Where two have one name, the second is called name_2.
    """
    entry = {getattr(optax, name): place for name, place in _SEEN.items() if hasattr(optax, name)}
    kept = tuple(entry)
    found: dict[str, Any] = {}
    for part in jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kept)):
        if isinstance(part, kept):
            for name, value in getattr(part, entry[type(part)]).items():
                if jnp.ndim(value) == 0 and jnp.issubdtype(jnp.result_type(value), jnp.floating):
                    found[_unused(name, found)] = value
    return found


def _unused(name, taken):
    number = 2
    unused = name
    while unused in taken:
        unused, number = f"{name}_{number}", number + 1
    return unused


def loss_dtype(params: Params) -> Any:
    """The dtype losses are averaged in."""
    return jnp.promote_types(dtype_of(params), jnp.float32)


def is_finite(tree: Any) -> Array:
    """Whether every number of a tree is finite, ()."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)] or [True]).all()


def outline(tree: Any) -> Any:
    """The same tree with each array's dtype and shape in words, to compare and to print."""
    return jax.tree.map(lambda a: f"{jnp.asarray(a).dtype}{list(jnp.shape(a))}", tree)
