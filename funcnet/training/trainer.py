"""Training: mini-batch descent as one compiled program.

`Trainer` is the pure part: many epochs of shuffling, gradients and updates are one XLA program,
which may itself be jitted, mapped or continued. `fit`, in fit.py, is the part for people.

The program is a loop over epochs around a loop over batches. The number of epochs is an argument
of the compiled program, not a constant in it, so that any split of a run executes the same
instructions and gives the same bits.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Final

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
from funcnet._internal.fields import set_fields
from funcnet._internal.identity import Shared, identity
from funcnet.data import arrays
from funcnet.errors import ConfigError, DtypeError, ParamsError
from funcnet.layers import Module, Params, State
from funcnet.layers.module import as_pair, dtype_of, require_module
from funcnet.training import metrics
from funcnet.training.evaluation import evaluate, mean_loss
from funcnet.training.metrics import VALIDATION, Metric, Metrics, as_metrics
from funcnet.training.optimizers import evaluation_params, first_state, require_optimizer
from funcnet.training.precision import (
    Scale,
    first_scale,
    require_compute_dtype,
    require_loss_scale,
    require_scale,
)
from funcnet.training.state import (
    Data,
    TrainState,
    chosen,
    has_stopped,
    hyperparameters,
    loss_dtype,
    outline,
    start,
)
from funcnet.training.step import batch_key, epoch_key, epoch_order, single_key, update

PREDICT_BATCH = 1000

# Parameters, between two networks measured: 1,427 are copied in no time, 932,362 in a tenth of a
# step.
LARGE = 2**18


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model, a loss, an optimizer and a batch size: all that stays fixed during training.

    Args:
        model: a `Module`.
        loss: maps (prediction, target) to a scalar: a `Loss`, or a function, whose loss is taken
            for a mean over the examples.
        optimizer: an optax transformation. One that takes extra arguments gets `value`, `grad`
            and `value_fn` of the current batch, `grad_fn` too if it names it. An
            `optax.MultiSteps` is stored as its transformation.
        batch_size: examples a step, at least 1; more than there are means all of them.
        metrics: from names to metrics, each a function (y_true, y_pred) -> number that JAX can
            trace, where y_pred is the model's output; or an object with `init() -> carry`,
            `update(carry, y_true, y_pred) -> carry` and `result(carry) -> number`. Stored as a
            tuple of pairs.
        compute_dtype: dtype of the forward and the backward pass in training, such as
            jnp.bfloat16; parameters, their gradients and updates, the model's state and the loss
            stay as they are. None for the parameters' own. Evaluation and `predict` do not use it.
        loss_scale: for compute_dtype=jnp.float16 what the loss is multiplied by, and its gradient
            divided: a number, or "dynamic". A step whose gradient is not finite is left out.

    Raises:
        ConfigError, DtypeError: one of these is something else, or not hashable.
    """

    model: Module
    loss: Callable[[Any, Any], Array]
    optimizer: optax.GradientTransformation
    batch_size: int = 100
    metrics: Mapping[str, Metric] | Metrics | None = None
    compute_dtype: Any = None
    loss_scale: Scale = None

    def __post_init__(self) -> None:
        require_module(self.model)
        require_loss(self.loss)
        optimizer = require_optimizer(self.optimizer)
        batch_size = require_positive_int("batch_size", self.batch_size)
        metrics = as_metrics(self.metrics)
        dtype = require_compute_dtype(self.compute_dtype)
        scale = require_loss_scale(self.loss_scale, dtype)
        set_fields(self, optimizer=optimizer, batch_size=batch_size, metrics=metrics)
        set_fields(self, compute_dtype=dtype, loss_scale=scale)
        for name in ("model", "loss", "metrics"):
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
        params, state, key = _init(self.model, key, np.dtype(require_floating_dtype(dtype)))
        return begun(self, key, params, state)

    def run(
        self, run: TrainState, data: Data, epochs: int, sample_weight: Any = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """Train for some epochs. A pure function: `run` stays usable, nothing is raised midway.

        Each epoch visits every example once, in a fresh order; a last, smaller batch is trained
        on. At the first non-finite loss or parameter nothing is updated any more: the state
        returned is the one before that epoch.

        Args:
            run: as `init` made it or an earlier call returned it.
            data: (x, y), each a pytree of arrays whose first axis counts the examples. Floating
                arrays are cast to the dtype of the parameters.
            epochs: how many, a static integer >= 0.
            sample_weight: what each example counts in the loss, (examples,), see `fit`.

        Returns:
            The state after them, and the history, NaN from a divergence on: "loss" (epochs,), over
            the examples as they were seen (a batch in which nothing counts is left out); each
            metric (epochs,), a function's mean over the batches by their sizes; the numbers that
            `optax.inject_hyperparams`, `optax.monitor` and `optax.snapshot` keep, (epochs,) each,
            as the last step had them; and "diverged_at" () int32, -1 or the epoch in which the
            first non-finite number appeared.

        Raises:
            ShapeError, DtypeError, ConfigError, ParamsError: before anything runs.
        """
        epochs = require_epochs(epochs)
        _require_run(self, run)
        data = arrays.as_arrays("data", data, dtype_of(run.params), sample_weight)
        progress = start(run, epochs, epoch_entries(self, run))
        progress = _train(self._program, progress, data, None, epochs)
        history = progress.history
        if not epochs:
            history = {name: entry[:0] for name, entry in history.items()}
        return progress.run, history | {"diverged_at": progress.diverged_at}

    def step(
        self, run: TrainState, batch: Data, sample_weight: Any = None
    ) -> tuple[TrainState, Array]:
        """One update on one batch, for a loop of one's own. A pure function, compiled inside.

        Layers that draw get a key told by `run.key` and `run.step`. Nothing is checked but shapes
        and dtypes: a loss that is not finite is returned as it is, and updates the parameters.

        Args:
            run: as `init` made it or an earlier call returned it.
            batch: (x, y) of the batch, as for `run`.
            sample_weight: what each example counts in the loss, (examples,).

        Returns:
            The state after it, with one step more, and the loss before it, () in at least float32.

        Raises:
            ShapeError, DtypeError, ConfigError, ParamsError: before anything runs.
        """
        _require_run(self, run)
        _require_opt_state(self, run)
        pair = arrays.as_arrays("batch", batch, dtype_of(run.params), sample_weight)
        return _step(self._program, run, *pair)

    def evaluate(
        self,
        params: Params,
        state: State,
        data: Data,
        sample_weight: Any = None,
    ) -> Array:
        """The loss over a set, in the order given, not training.

        Args:
            params: the model's parameters.
            state: the model's state.
            data: (x, y), as for `run`.
            sample_weight: what each example counts, likewise.

        Returns:
            () in at least float32; the same for any batch size, but for rounding.
        """
        data = arrays.as_arrays("data", data, dtype_of(params), sample_weight)
        scoring = dataclasses.replace(self, metrics=None)._scoring
        return evaluated(scoring, params, state, data)["loss"]

    def predict(self, params: Params, state: State, x: Any) -> Any:
        """The model's output for all of x, computed in batches.

        Args:
            params: the model's parameters.
            state: the model's state.
            x: a pytree of arrays (examples, ...), cast to the dtype of the parameters if floating.

        Returns:
            (examples, ...), what the model returns: for a classifier the logits.
        """
        x = arrays.as_examples("x", x, dtype_of(params))
        n = arrays.examples(x)
        if not isinstance(n, int):  # in jax.export, any number of them
            return _apply(self.model, params, state, x)
        begins = range(0, max(n, 1), PREDICT_BATCH)
        batches = (arrays.part(x, i, i + PREDICT_BATCH) for i in begins)
        outputs = [_apply(self.model, params, state, batch) for batch in batches]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)

    @cached_property
    def _program(self) -> Shared:
        """This trainer as a compiled program's static argument.

        It equals that of another trainer which trains the same way: see `identity`. Of the
        optimizer, only how it updates counts; what it starts from is the program's argument.
        """
        mixed = self.compute_dtype, self.loss_scale
        return Shared(self, lambda: (self._scored(), _made_of(self.optimizer)[::2], mixed))

    @cached_property
    def _scoring(self) -> Shared:
        """The same for what evaluates, where the optimizer does not count."""
        return Shared(self, self._scored)

    @cached_property
    def _beginning(self) -> Shared:
        """The optimizer likewise, with what it starts from."""
        return Shared(self.optimizer, lambda: _made_of(self.optimizer))

    def _scored(self):
        metrics = tuple((name, identity(metric)) for name, metric in self.metrics or ())
        return self.model, identity(self.loss), self.batch_size, metrics

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def entries(trainer: Trainer) -> tuple[str, ...]:
    """What is told of a set: its loss and each metric."""
    return ("loss", *(name for name, _ in trainer.metrics or ()))


def epoch_entries(trainer: Trainer, run: TrainState, validated: bool = False) -> tuple[str, ...]:
    """What the history of a run has for every epoch."""
    names = entries(trainer)
    seen = tuple(VALIDATION + name for name in names) if validated else ()
    kept = tuple(name for name in hyperparameters(run.opt_state) if name not in names)
    return (*names, *seen, *kept)


@partial(jax.jit, static_argnums=(0, 2))
def _init(model, key, dtype):
    return *as_pair(model, "init", model.init(key, dtype)), key


def begun(trainer: Trainer, key: Array, params: Params, state: State) -> TrainState:
    """The run that has these parameters before its first epoch."""
    # Two zeros: fit donates the state, and a buffer can be donated once.
    opt_state = first_state(trainer._beginning, params)
    scale = first_scale(trainer.loss_scale)
    return TrainState(params, state, opt_state, key, jnp.int32(0), jnp.int32(0), scale)


def _train_epochs(program, progress, data, validation, until, watching=None):
    """Train until `until` epochs of the history are done, diverged or stopped early."""
    trainer = program.value
    _require_opt_state(trainer, progress.run)
    # Hidden from XLA: a program that knew the number of epochs could round differently.
    until = jax.lax.optimization_barrier(jnp.int32(until))

    def unfinished(progress):
        return (progress.done < until) & ~has_stopped(progress)

    def advance(progress):
        progress, finite = _advance(trainer, progress, data)
        if validation is None:
            return progress
        return _validated(trainer, progress, validation, finite, watching)

    return jax.lax.while_loop(unfinished, advance, progress)


_train = jax.jit(_train_epochs, static_argnums=(0, 5))
train_donating: Final = jax.jit(_train_epochs, static_argnums=(0, 5), donate_argnums=1)


def _advance(trainer, progress, data):
    """One epoch, kept only if all of it is finite; and whether it is."""
    before = progress.run
    after, seen = _epoch(trainer, before, *data)
    finite = jnp.isfinite(seen["loss"])
    for leaf in jax.tree.leaves((after.params, after.state)):
        finite &= jnp.isfinite(leaf).all()
    for name, value in hyperparameters(after.opt_state).items():
        seen.setdefault(name, value)
    history = _recorded(progress.history, seen, progress.done, finite)
    progress = progress._replace(
        run=chosen(finite, after, before),
        diverged_at=jnp.where(finite, -1, before.epoch),
        history=history,
        done=progress.done + finite,
    )
    return progress, finite


def _recorded(history, seen, at, finite):
    """The history with what was seen in an epoch; NaN where the epoch is not kept."""
    now = {
        name: history[name].at[at].set(jnp.where(finite, value, jnp.nan))
        for name, value in seen.items()
    }
    return history | now


def _validated(trainer, progress, validation, finite, watching):
    """Record how the epoch just trained does on the validation set; remember the best one's run."""
    run, watch = progress.run, progress.watch
    params = evaluation_params(run.opt_state, run.params)
    found = evaluate(trainer, params, run.state, validation)
    found = {VALIDATION + name: value for name, value in found.items()}
    # After a divergence, `done` stands on the epoch that was not kept: its entry stays NaN.
    history = _recorded(progress.history, found, progress.done - finite, finite)
    if watch is not None:
        value = found[watching.entry]
        lower = watching.mode == "min"
        better = finite & (value < watch.best_value if lower else value > watch.best_value)
        watch = watch._replace(
            best=chosen(better, run, watch.best),
            best_value=jnp.where(better, value, watch.best_value),
        )
    return progress._replace(history=history, watch=watch)


def _epoch(trainer, run, x, y):
    """Every example once, in batches: the run after it, and its loss and metrics, () each."""
    n = arrays.examples(x)
    size = min(trainer.batch_size, n)
    full = n // size
    order = epoch_order(run.key, run.epoch, n)
    key = epoch_key(run.key, run.epoch)
    dtype = loss_dtype(run.params)

    def on_batch(carry, batch):
        run, carries = carry
        number, indices = batch
        x_batch, y_batch = arrays.take((x, y), indices)
        run, loss, prediction = update(trainer, run, x_batch, y_batch, batch_key(key, number))
        target = arrays.target_of(y_batch)
        carries = metrics.added(trainer.metrics, carries, target, prediction)
        return (run, carries), (loss, metrics.values(trainer.metrics, target, prediction, dtype))

    carry = run, metrics.begin(trainer.metrics)
    batches = (jnp.arange(full), order[: full * size].reshape(full, size))
    carry, (losses, values) = jax.lax.scan(
        on_batch, carry, batches, unroll=_steps_at_once(run.params)
    )
    last, steps = None, full
    means = jax.tree.map(lambda a: a.sum() * size, values)
    if n > full * size:
        carry, (last, rest) = on_batch(carry, (full, order[full * size :]))
        means = jax.tree.map(lambda total, a: total + a * (n - full * size), means, rest)
        steps += 1
    run, carries = carry
    seen = {
        "loss": mean_loss(trainer, y, losses, last, order),
        **jax.tree.map(lambda total: total / n, means),
        **metrics.results(trainer.metrics, carries, dtype),
    }
    return run._replace(epoch=run.epoch + 1, step=run.step + steps), seen


def _steps_at_once(params):
    """How many steps the compiled loop holds: two for a large network.

    A step reads a weight for its input's cotangent and replaces it, in an order that XLA's copy
    insertion on a CPU does not know; so it copies the weight first. Of two steps, the first writes
    to other memory and the second, which needs all of the first, writes back: no copy. A small
    network has little to copy, and two steps take longer to compile.
    """
    return 2 if sum(p.size for p in jax.tree.leaves(params)) >= LARGE else 1


@partial(jax.jit, static_argnums=0)
def _step(program, run, x, y):
    trainer = program.value
    after, loss, _ = update(trainer, run, x, y, single_key(run))
    return after._replace(step=run.step + 1), loss


@partial(jax.jit, static_argnums=0)
def _apply(model, params, state, x):
    return as_pair(model, "apply", model.apply(params, state, x, key=None, train=False))[0]


@partial(jax.jit, static_argnums=0)
def evaluated(scoring: Shared, params: Params, state: State, data: Data) -> dict[str, Array]:
    """The loss over a set and every metric, compiled; of `Trainer._scoring`."""
    return evaluate(scoring.value, params, state, data)


def _made_of(optimizer):
    return type(optimizer), identity(optimizer.init), identity(optimizer.update)


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
                f"run.{name} is {outline(leaf)}, expected floating point; make run with "
                f"trainer.init(key)"
            )
    for name in ("epoch", "step"):
        if outline(count := getattr(run, name)) != "int32[]":
            raise ParamsError(f"run.{name} is {outline(count)}, expected int32[]: one integer")


def _require_opt_state(trainer, run):
    """Raise ParamsError unless the trainer could have made the optimizer's state and the scale."""
    require_scale(trainer.loss_scale, run.loss_scale)
    expected = jax.eval_shape(partial(first_state, trainer._beginning), run.params)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (run.opt_state, expected)]
    if shapes[0] != shapes[1]:
        raise ParamsError(
            f"run.opt_state holds {len(jax.tree.leaves(run.opt_state))} arrays, and not the "
            f"{len(jax.tree.leaves(expected))} that this trainer's optimizer keeps for run.params; "
            f"make it with trainer.init(key), of the same optimizer and model"
        )
