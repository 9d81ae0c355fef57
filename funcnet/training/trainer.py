"""Training: mini-batch descent as one compiled program.

`Trainer` is the pure part: many epochs of shuffling, gradients and updates are one XLA program,
which may itself be jitted, mapped or continued. `fit`, in fitting.py, is the part for people.

The program is a loop over epochs around a loop over batches. The number of epochs is an argument
of the compiled program, not a constant in it, so that any split of a run executes the same
instructions and gives the same bits.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer

from funcnet._internal.checks import (
    require_arrays,
    require_floating_dtype,
    require_int,
    require_key,
    require_loss,
    require_positive_int,
)
from funcnet.data import arrays, shuffle
from funcnet.errors import ConfigError, DtypeError, ParamsError, ShapeError
from funcnet.layers import Module, Params, State
from funcnet.layers.module import as_pair, require_module

Data = tuple[Any, Any]

PREDICT_BATCH = 1000

# Parameters, between two networks measured: 1,427 are copied in no time, 932,362 in a tenth of a
# step.
LARGE = 2**18


class TrainState(NamedTuple):
    """All that changes during training: one pytree.

    Attributes:
        params: the model's parameters.
        state: the model's state.
        opt_state: the optimizer's state.
        key: typed scalar key; epoch e draws from fold_in(key, e).
        epoch: () int32, how many epochs have been trained.
    """

    params: Params
    state: State
    opt_state: Any
    key: Array
    epoch: Array


class Watch(NamedTuple):
    """What early stopping remembers of the validation loss."""

    best: TrainState
    best_loss: Array  # ()
    patience: Array  # () int32


class Progress(NamedTuple):
    """The carry of the loop over epochs."""

    run: TrainState
    done: Array  # () int32: epochs of this history so far
    diverged_at: Array  # () int32, -1 while all is finite
    loss: Array  # (epochs,)
    validation_loss: Array | None  # (epochs,)
    watch: Watch | None


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model, a loss, an optimizer and a batch size: all that stays fixed during training.

    Args:
        model: a `Module`.
        loss: maps (prediction, target) to a scalar.
        optimizer: an optax transformation. One that takes extra arguments gets `value`, `grad`
            and `value_fn` of the current batch.
        batch_size: examples a step, at least 1; more than there are means all of them.

    Raises:
        ConfigError: one of these is something else, or not hashable.
    """

    model: Module
    loss: Callable[[Array, Array], Array]
    optimizer: optax.GradientTransformation
    batch_size: int = 100

    def __post_init__(self):
        require_module(self.model)
        require_loss(self.loss)
        if not isinstance(self.optimizer, optax.GradientTransformation):
            raise ConfigError(
                f"optimizer is {self.optimizer!r}, expected an optax transformation such as "
                f"optax.sgd(0.03)"
            )
        object.__setattr__(self, "batch_size", require_positive_int("batch_size", self.batch_size))
        for name in ("model", "loss"):
            try:
                hash(getattr(self, name))
            except TypeError as error:
                raise ConfigError(
                    f"{name} is not hashable ({error}); its fields hold sizes and options, no "
                    f"arrays: use tuples of numbers"
                ) from None

    def init(self, key: Array, dtype: Any = jnp.float32) -> TrainState:
        """The state before the first epoch, drawn with `key`.

        Args:
            key: typed scalar key; the parameters are those of `model.init(key, dtype)`.
            dtype: floating dtype of the parameters.
        """
        require_key(key)
        return _init(self, key, np.dtype(require_floating_dtype(dtype)))

    def run(self, run: TrainState, data: Data, epochs: int) -> tuple[TrainState, dict[str, Array]]:
        """Train for some epochs. A pure function: `run` stays usable, nothing is raised midway.

        Each epoch visits every example once, in a fresh order; a last, smaller batch is trained
        on. At the first non-finite loss or parameter nothing is updated any more: the state
        returned is the one before that epoch.

        Args:
            run: as `init` made it or an earlier call returned it.
            data: (x, y), arrays of the same first axis, the examples. Floating arrays are cast
                to the dtype of the parameters.
            epochs: how many, a static integer >= 0.

        Returns:
            The state after them, and the history: "loss" (epochs,), the mean over the examples
            as they were seen, NaN from a divergence on; a batch in which no label counts has no
            mean and is left out; "diverged_at" () int32, -1 or the epoch
            in which the first non-finite number appeared.

        Raises:
            ShapeError, DtypeError, ConfigError, ParamsError: before anything runs.
        """
        epochs = require_epochs(epochs)
        _require_run(self, run)
        data = arrays.as_arrays("data", data, dtype_of(run.params))
        progress = _train(self, start(run, epochs), data, None, epochs)
        loss = progress.loss if epochs else progress.loss[:0]
        return progress.run, {"loss": loss, "diverged_at": progress.diverged_at}

    def evaluate(self, params: Params, state: State, data: Data) -> Array:
        """Mean loss over the examples, in the order given, not training.

        Args:
            params: the model's parameters.
            state: the model's state.
            data: (x, y), as for `run`.

        Returns:
            () in at least float32.
        """
        return _evaluate(self, params, state, arrays.as_arrays("data", data, dtype_of(params)))

    def predict(self, params: Params, state: State, x: Any) -> Array:
        """The model's output for all of x, computed in batches.

        Args:
            params: the model's parameters.
            state: the model's state.
            x: (examples, ...), cast to the dtype of the parameters if floating.

        Returns:
            (examples, ...), what the model returns: for a classifier the logits.
        """
        x = arrays.as_array("x", x, dtype_of(params))
        batches = range(0, max(len(x), 1), PREDICT_BATCH)
        outputs = [_apply(self.model, params, state, x[i : i + PREDICT_BATCH]) for i in batches]
        return jnp.concatenate(outputs)


def epoch_order(key: Array, epoch: Any, examples: int) -> Array:
    """The order in which an epoch visits the examples.

    Args:
        key: the run's key.
        epoch: which epoch, counted from 0.
        examples: how many there are.

    Returns:
        (examples,) int32; batch i takes the entries from i * batch_size on.
    """
    return shuffle.permutation(jax.random.fold_in(_epoch_key(key, epoch), 0), examples)


def _epoch_key(key, epoch):
    return jax.random.fold_in(key, epoch)


@partial(jax.jit, static_argnums=(0, 2))
def _init(trainer, key, dtype):
    params, state = as_pair(trainer.model, "init", trainer.model.init(key, dtype))
    return TrainState(params, state, trainer.optimizer.init(params), key, jnp.int32(0))


def start(run: TrainState, epochs: int, validated: bool = False, patience: int | None = None):
    """The carry before the first epoch of a history of `epochs`."""
    dtype = _loss_dtype(run.params)
    # No epoch has an entry too: the loop is traced, and would find nowhere to write.
    unseen = jnp.full((max(epochs, 1),), jnp.nan, dtype)
    watch = None
    if patience is not None:
        # Copies, since fit donates the carry, and a buffer can be donated once.
        best = jax.tree.map(jnp.copy, run)
        watch = Watch(best, jnp.asarray(jnp.inf, dtype), jnp.int32(min(patience, epochs)))
    return Progress(
        run,
        done=jnp.int32(0),
        diverged_at=jnp.int32(-1),
        loss=unseen,
        validation_loss=unseen.copy() if validated else None,
        watch=watch,
    )


def resumed(progress: Progress, saved: Progress) -> Progress:
    """The carry to go on with: what was saved, in a history of as many epochs as `progress` has."""

    def filled(history, begun):
        return None if history is None else history.at[: len(begun)].set(begun)

    watch = saved.watch
    if watch is not None and progress.watch is not None:  # its patience depends on the epochs
        watch = watch._replace(patience=progress.watch.patience)
    return saved._replace(
        loss=filled(progress.loss, saved.loss),
        validation_loss=filled(progress.validation_loss, saved.validation_loss),
        watch=watch,
    )


def cut(progress: Progress, epochs: int) -> Progress:
    """The carry with the first `epochs` of its history: what there is to save."""
    validation_loss = progress.validation_loss
    return progress._replace(
        diverged_at=jnp.int32(-1),
        loss=np.asarray(progress.loss)[:epochs],  # by NumPy: JAX would compile for each length
        validation_loss=None if validation_loss is None else np.asarray(validation_loss)[:epochs],
    )


def _train_epochs(trainer, progress, data, validation, until):
    """Train until `until` epochs of the history are done, diverged or stopped early."""
    _require_opt_state(trainer, progress.run)
    # Hidden from XLA: a program that knew the number of epochs could round differently.
    until = jax.lax.optimization_barrier(jnp.int32(until))

    def unfinished(progress):
        going = (progress.done < until) & (progress.diverged_at < 0)
        watch = progress.watch
        if watch is not None:
            going &= progress.run.epoch - watch.best.epoch < watch.patience
        return going

    return jax.lax.while_loop(
        unfinished, lambda progress: _advance(trainer, progress, data, validation), progress
    )


_train = jax.jit(_train_epochs, static_argnums=0)
train_donating = jax.jit(_train_epochs, static_argnums=0, donate_argnums=1)


def _advance(trainer, progress, data, validation):
    """One epoch, kept only if all of it is finite."""
    before = progress.run
    after, loss = _epoch(trainer, before, *data)
    finite = jnp.isfinite(loss)
    for leaf in jax.tree.leaves((after.params, after.state)):
        finite &= jnp.isfinite(leaf).all()
    run = _chosen(finite, after, before)
    progress = progress._replace(
        run=run,
        diverged_at=jnp.where(finite, -1, before.epoch),
        loss=progress.loss.at[progress.done].set(jnp.where(finite, loss, jnp.nan)),
        done=progress.done + finite,
    )
    return progress if validation is None else _validated(trainer, progress, validation, finite)


def _chosen(condition, new, old):
    """One of two states of a run. Its key never changes; choosing would count as using it."""
    chosen = jax.tree.map(partial(jnp.where, condition), *(r._replace(key=()) for r in (new, old)))
    return chosen._replace(key=old.key)


def _validated(trainer, progress, validation, finite):
    """Record the validation loss of the epoch just trained; remember the best one's run."""
    run, watch = progress.run, progress.watch
    loss = _evaluate_batches(trainer, run.params, run.state, validation)
    # After a divergence, `done` stands on the epoch that was not kept: its entry stays NaN.
    at = progress.done - finite
    recorded = progress.validation_loss.at[at].set(jnp.where(finite, loss, jnp.nan))
    if watch is not None:
        better = finite & (loss < watch.best_loss)
        watch = watch._replace(
            best=_chosen(better, run, watch.best),
            best_loss=jnp.where(better, loss, watch.best_loss),
        )
    return progress._replace(validation_loss=recorded, watch=watch)


def _epoch(trainer, run, x, y):
    """Every example once, in batches: the run after it and the mean loss, ()."""
    n = len(x)
    size = min(trainer.batch_size, n)
    full = n // size
    order = epoch_order(run.key, run.epoch, n)
    key = _epoch_key(run.key, run.epoch)

    def on_batch(run, batch):
        number, indices = batch
        batch = _take(x, indices), _take(y, indices)
        return step(trainer, run, *batch, _step_key(key, number))

    batches = (jnp.arange(full), order[: full * size].reshape(full, size))
    run, losses = jax.lax.scan(on_batch, run, batches, unroll=_steps_at_once(run.params))
    last = None
    if n > full * size:
        run, last = on_batch(run, (full, order[full * size :]))
    loss = _mean_loss(trainer, y, lambda: order, losses, last)
    return run._replace(epoch=run.epoch + 1), loss


def _steps_at_once(params):
    """How many steps the compiled loop holds: two for a large network.

    A step reads a weight for its input's cotangent and replaces it, in an order that XLA's copy
    insertion on a CPU does not know; so it copies the weight first. Of two steps, the first writes
    to other memory and the second, which needs all of the first, writes back: no copy. A small
    network has little to copy, and two steps take longer to compile.
    """
    return 2 if sum(p.size for p in jax.tree.leaves(params)) >= LARGE else 1


def batches(trainer: Trainer, run: TrainState, x: Array, y: Array) -> Iterator[tuple[Array, ...]]:
    """The batches of the next epoch, as it takes them: x, y and the key of each."""
    order = epoch_order(run.key, run.epoch, len(x))
    key = _epoch_key(run.key, run.epoch)
    for number, begin in enumerate(range(0, len(x), trainer.batch_size)):
        indices = order[begin : begin + trainer.batch_size]
        yield x[indices], y[indices], _step_key(key, number)


def _step_key(epoch_key, number):
    return jax.random.fold_in(jax.random.fold_in(epoch_key, 1), number)


def _mean_loss(trainer, y, order, losses, last):
    """The mean over the examples of their batches' losses, ().

    The mean over a batch in which no label counts is NaN, and its gradient 0: it is left out.

    Args:
        trainer: what trains.
        y: the targets.
        order: a function of nothing, to the order in which the batches take them.
        losses: of the full batches, (batches,).
        last: of the smaller batch after them, or None.
    """
    n = len(y)
    size = min(trainer.batch_size, n)
    total = losses.sum() * size
    if last is not None:
        total += last * (n % size)
    counted = trainer.loss.counted(y) if hasattr(trainer.loss, "counted") else None
    if counted is None:
        return total / n

    def without_empty_batches():
        each = losses if last is None else jnp.append(losses, last)
        sizes = np.full(len(each), size)
        sizes[-1] = n - sizes[:-1].sum()
        counts = counted.reshape(n, -1).any(axis=1)[order()]
        counts = jnp.pad(counts, (0, size * len(each) - n)).reshape(-1, size).any(axis=1)
        kept = counts | ~jnp.isnan(each)
        sizes = jnp.where(kept, jnp.asarray(sizes, each.dtype), 0)
        return jnp.where(kept, each * sizes, 0).sum() / sizes.sum()

    return jax.lax.cond(jnp.isnan(total), without_empty_batches, lambda: total / n)


def step(trainer, run, x, y, key):
    """One update on one batch: the run after it and the loss before it, ()."""
    return watched_step(trainer, run, x, y, key)[:2]


def watched_step(trainer, run, x, y, key):
    """The same, and the gradient and the updates."""

    def loss_of(params):
        return loss_and_state(trainer, params, run.state, x, y, key)

    (loss, state), gradient = jax.value_and_grad(loss_of, has_aux=True)(run.params)
    updates, opt_state = optax.with_extra_args_support(trainer.optimizer).update(
        gradient,
        run.opt_state,
        run.params,
        value=loss,
        grad=gradient,
        value_fn=lambda params: loss_of(params)[0],
    )
    params = optax.apply_updates(run.params, updates)
    run = run._replace(params=params, state=state, opt_state=opt_state)
    return run, loss.astype(_loss_dtype(params)), gradient, updates


def loss_and_state(trainer, params, state, x, y, key):
    """The training loss of one batch, (), and the model's next state."""
    output = trainer.model.apply(params, state, x, key=key, train=True)
    prediction, after = as_pair(trainer.model, "apply", output)
    if _outline(after) != _outline(state):
        raise ParamsError(
            f"the model's state changed from {_outline(state)} to {_outline(after)}, expected the "
            f"same shapes and dtypes; convert them in the layer's apply"
        )
    return _batch_loss(trainer, prediction, y), after


def _batch_loss(trainer, prediction, y):
    loss = trainer.loss(prediction, y)
    if not isinstance(loss, Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
        what = _outline(loss) if isinstance(loss, Array) else type(loss).__name__
        raise DtypeError(f"the loss of a batch is {what}, expected one floating number, an array")
    if loss.shape != ():
        raise ShapeError(
            f"the loss of a batch has shape {loss.shape}, expected one number, (); use "
            f"reduction='mean' or 'sum'"
        )
    return loss


def _take(array, indices):
    return array.at[indices].get(mode="promise_in_bounds", unique_indices=True)


@partial(jax.jit, static_argnums=0)
def _apply(model, params, state, x):
    return model.apply(params, state, x, key=None, train=False)[0]


def _evaluate_batches(trainer, params, state, data):
    n = len(data[0])
    size = min(trainer.batch_size, n)
    full = n // size

    def loss_of(batch):
        x, y = batch
        prediction, _ = trainer.model.apply(params, state, x, key=None, train=False)
        return _batch_loss(trainer, prediction, y).astype(_loss_dtype(params))

    split = [a[: full * size].reshape(full, size, *a.shape[1:]) for a in data]
    losses = jax.lax.map(loss_of, split)
    last = loss_of([a[full * size :] for a in data]) if n > full * size else None
    return _mean_loss(trainer, data[1], lambda: jnp.arange(n), losses, last)


_evaluate = jax.jit(_evaluate_batches, static_argnums=0)


def require_epochs(epochs: Any) -> int:
    """Raise ConfigError unless `epochs` is an integer >= 0, known while tracing."""
    if isinstance(epochs, Tracer):
        raise ConfigError("epochs is traced, expected a static integer; name it in static_argnames")
    number = require_int("epochs", epochs)
    if not 0 <= number < 2**31:
        raise ConfigError(f"epochs is {number}, expected 0 to 2**31 - 1")
    return number


def _require_run(trainer, run):
    """Raise unless `run` is a TrainState whose optimizer state this optimizer could have made."""
    if not isinstance(run, TrainState):
        raise DtypeError(
            f"run is {type(run).__name__}, expected a TrainState; make one with trainer.init(key)"
        )
    require_key(run.key)
    tree = run._replace(key=())._asdict()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not isinstance(leaf, bool | int | float):  # an optimizer may count in these
            require_arrays("run", **{name: leaf})
        if path[0].key == "params" and not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ParamsError(
                f"run.{name} is {_outline(leaf)}, expected floating point; make run with "
                f"trainer.init(key)"
            )
    if _outline(run.epoch) != "int32[]":
        raise ParamsError(f"run.epoch is {_outline(run.epoch)}, expected int32[]: one integer")


def _require_opt_state(trainer, run):
    """Raise ParamsError unless this optimizer could have made the optimizer's state."""
    expected = jax.eval_shape(trainer.optimizer.init, run.params)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (run.opt_state, expected)]
    if shapes[0] != shapes[1]:
        raise ParamsError(
            f"run.opt_state holds {len(jax.tree.leaves(run.opt_state))} arrays, and not the "
            f"{len(jax.tree.leaves(expected))} that this trainer's optimizer keeps for run.params; "
            f"make it with trainer.init(key), of the same optimizer and model"
        )


def _loss_dtype(params):
    """The dtype losses are averaged in."""
    return jnp.promote_types(dtype_of(params), jnp.float32)


def _outline(tree):
    """The same tree with each array's dtype and shape in words, to compare and to print."""
    return jax.tree.map(lambda a: f"{jnp.asarray(a).dtype}{list(jnp.shape(a))}", tree)


def dtype_of(params: Params) -> Any:
    """The dtype that floating data are cast to: that of the first floating parameter."""
    floating = (p.dtype for p in jax.tree.leaves(params) if jnp.issubdtype(p.dtype, jnp.floating))
    return next(floating, jnp.dtype(jnp.float32))
