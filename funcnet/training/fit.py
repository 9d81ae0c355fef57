"""fit: training for people. Checks everything first, shows progress, raises when it fails."""

import dataclasses
import functools
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from tqdm import tqdm

from funcnet._internal.checks import (
    require_choice,
    require_floating_dtype,
    require_key,
    require_positive_int,
)
from funcnet._internal.fields import set_fields
from funcnet.data import arrays
from funcnet.errors import (
    ConfigError,
    DataError,
    DivergenceError,
    DtypeError,
    FuncnetError,
    ParamsError,
    TrainingInterrupted,
)
from funcnet.io import checkpoint
from funcnet.layers import Loss, Module, Params, State
from funcnet.layers.module import as_pair
from funcnet.training.callbacks import (
    Callback,
    Event,
    after_epoch,
    before_epoch,
    require_callbacks,
)
from funcnet.training.checkpointing import Checkpoints, about_run
from funcnet.training.divergence import SMALLER_STEPS, diagnose
from funcnet.training.metrics import VALIDATION, Metric, mode_of
from funcnet.training.optimizers import (
    added_as_it_is,
    held_back,
    overflowed,
    require_optimizer,
    trial,
)
from funcnet.training.precision import Scale, often_skipped
from funcnet.training.result import FitResult, history_of, require_labels, result_of
from funcnet.training.signals import Held, held_signals
from funcnet.training.state import (
    Clock,
    Data,
    Progress,
    TrainState,
    Watching,
    WeightedData,
    has_stopped,
    outline,
    start,
)
from funcnet.training.step import loss_and_state
from funcnet.training.trainer import Trainer, begun, epoch_entries, require_epochs, train_donating
from funcnet.training.weights import for_labels

# fit returns to Python about this often, in seconds, to move the progress bar.
PROGRESS_INTERVAL = 0.2

# Epochs that the shortest history has room for.
LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `fit` was asked for, checked."""

    trainer: Trainer
    data: Data
    validation: Data | None
    epochs: int
    patience: int | None
    watching: Watching
    callbacks: Sequence[Callback]
    progress: bool | str
    checkpoint_dir: str | os.PathLike[str] | None
    checkpoint_every: int | timedelta | None
    resume: bool
    given: tuple[Params | None, State | None] | None
    """The parameters and state to start from, as the caller gave them."""
    clock: Clock = dataclasses.field(default_factory=Clock)

    def __post_init__(self) -> None:
        set_fields(self, callbacks=require_callbacks(self.callbacks))


def fit(
    model: Module,
    loss: Callable[[Any, Any], Array],
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    data: Data,
    *,
    epochs: int,
    key: Array,
    batch_size: int = 100,
    sample_weight: Any = None,
    validation: Data | WeightedData | None = None,
    patience: int | None = None,
    watch: str | None = None,
    watch_mode: Literal["min", "max"] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    callbacks: Sequence[Callback] = (),
    params: Params | None = None,
    state: State | None = None,
    progress: bool | str = True,
    dtype: Any = jnp.float32,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta | None = None,
    resume: bool = False,
    on_divergence: Literal["raise", "keep"] = "raise",
    compute_dtype: Any = None,
    loss_scale: Scale = None,
) -> FitResult:
    """Train a model; check everything first, show progress, raise on divergence.

    With `checkpoint_dir` the run is saved as it goes, at its end, and when SIGINT or SIGTERM asks
    it to stop: then a sentence says how to go on, and the signal acts. The same call with
    `resume=True` goes on from the last checkpoint and ends with the bits of an unbroken run.

    Args:
        model: a `Module`.
        loss: maps (prediction, target) to a scalar: a `Loss`, or a function, whose loss is taken
            for a mean over the examples.
        optimizer: an optax transformation, or an `optax.MultiSteps`.
        data: (x, y), each a pytree of arrays whose first axis counts the examples.
        epochs: how many, at least 0.
        key: typed scalar key. The same key gives the same bits.
        batch_size: examples a step; a last, smaller batch is trained on.
        sample_weight: what each example counts in the loss, (examples,), numbers >= 0: one of
            weight k as k equal examples. Needs a `Loss`; metrics and `accuracy` are not weighted.
        validation: (x, y), or (x, y, sample_weight), whose loss and metrics are recorded after
            each epoch.
        patience: stop after this many epochs in a row without a better value of what is watched,
            and return the state after the best one. None never stops.
        watch: what is watched on the validation data: "loss", which None stands for, or the name
            of a metric.
        watch_mode: whether a smaller or a larger value is better: "min" or "max". None asks the
            metric, which may say so by an attribute `mode`, as those of `fn.metrics` do.
        metrics: from names to metrics, see `Trainer`: recorded for the training batches as they
            are seen, and for the validation data. In training a function's values are averaged
            over the batches; over the validation data it sees the whole set.
        callbacks: functions of one argument, an `Event` with `epoch`, `history`, `run` and
            `result`, called after each epoch; one that returns True stops the run. An object may
            instead have `on_epoch_begin` and `on_epoch_end`. See `fn.callbacks`.
        params: the parameters to start from, in the shapes of `model.init`'s, cast to `dtype`;
            None to draw them with `key`.
        state: the model's state to start from, likewise.
        progress: whether to show a progress bar; a text is its title. A bar below another one
            vanishes when it is full.
        dtype: floating dtype of the parameters, to which floating data are cast once.
        checkpoint_dir: folder of this run's checkpoints; needs the extra `checkpoint`.
        checkpoint_every: how often to save: a number of epochs, or a `datetime.timedelta`. None
            for every five minutes. The last three checkpoints are kept.
        resume: go on with the run in `checkpoint_dir`, whose settings and data must be the same;
            `epochs` may be more. If nothing is saved there, start.
        on_divergence: "raise" the error below, or "keep" the last finite epoch's result, with a
            warning; `history["diverged_at"]` tells.
        compute_dtype: dtype of the forward and the backward pass in training, see `Trainer`: mixed
            precision, where `dtype` is that of the parameters.
        loss_scale: for compute_dtype=jnp.float16, see `Trainer`.

    Raises:
        ShapeError, DtypeError, DataError, ConfigError, ParamsError: before training.
        CheckpointError: before training: `checkpoint_dir` holds another run, or one that is not to
            be resumed, or is in use by another process, or none of its checkpoints is whole.
        OSError, ModuleNotFoundError: before training: the folder can't be written; Orbax is
            missing. A checkpoint that can't be written later is a warning.
        DivergenceError: the loss or a parameter became non-finite; `.epoch` says when, and
            `.result` holds what was learned until then.
        TrainingInterrupted: a KeyboardInterrupt: Ctrl-C without `checkpoint_dir`, at the end of the
            piece of epochs at hand; `.result` holds what was learned until then. A second Ctrl-C
            does not wait.
    """
    mixed = compute_dtype, loss_scale
    trainer = Trainer(model, loss, require_optimizer(optimizer), batch_size, metrics, *mixed)
    _require_start(dtype, on_divergence, key, data, validation, params, state, sample_weight)
    saving = _checked_saving(checkpoint_dir, checkpoint_every, resume)
    epochs = require_epochs(epochs)
    trainer, data, validation = _checked_sets(trainer, data, sample_weight, validation, dtype)
    watching = _watching(trainer, validation, patience, watch, watch_mode)
    given = None if params is None and state is None else (params, state)
    settings = Settings(
        trainer, data, validation, epochs, patience, watching, callbacks, progress, *saving, given
    )
    _warn_of_climbing(trainer, dtype)
    return _result_or_error(settings, _trained(settings, key, dtype), on_divergence)


def _result_or_error(settings: Settings, carry: Progress, on_divergence: str) -> FitResult:
    """What was learned; or a warning or an error that the run has diverged."""
    result, diverged_at = _result(settings, carry), int(carry.diverged_at)
    if diverged_at < 0:
        run = result.run
        skipped = often_skipped(settings.trainer.loss_scale, run)
        for warning in (held_back(run.opt_state), overflowed(run.opt_state), skipped):
            if warning:
                warnings.warn(warning, RuntimeWarning, stacklevel=3)
        return result
    diagnosis = diagnose(settings.trainer, carry.run, settings.data)
    found = "" if diagnosis is None else f": {diagnosis}"
    message = (
        f"the loss, a parameter or the model's state became infinite or NaN in epoch {diverged_at} "
        f"(counted from 0){found}; {SMALLER_STEPS if diagnosis is None else diagnosis.mend}"
    )
    if on_divergence == "raise":
        raise DivergenceError(
            f"{message}; error.result holds the last finite epoch's parameters",
            epoch=diverged_at,
            result=result,
            diagnosis=diagnosis,
        )
    kept = f"{message}; the result is the last finite epoch's"
    warnings.warn(kept, RuntimeWarning, stacklevel=3)
    return result


def _first_run(settings: Settings, key: Array, dtype: Any) -> TrainState:
    """The state before the first epoch: drawn, or what the caller gave."""
    trainer = settings.trainer
    drawn = trainer.init(key, dtype)
    if settings.given is None:
        return drawn
    params, state = (
        tree if given is None else _like(name, given, tree)
        for name, given, tree in zip(
            ("params", "state"), settings.given, (drawn.params, drawn.state), strict=True
        )
    )
    return begun(trainer, jnp.copy(key), params, state)


def _like(name: str, given: Any, drawn: Any) -> Any:
    """A copy of what was given, since fit donates it, in the dtypes of what would be drawn.

    Raises:
        ParamsError: its structure or a shape differs.
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (given, drawn)]
    if shapes[0] != shapes[1]:
        raise ParamsError(
            f"{name} is {outline(given)}, expected {outline(drawn)}, as model.init makes it; give "
            f"that of the same model"
        )
    return jax.tree.map(lambda a, like: jnp.array(a, like.dtype), given, drawn)


def _trained(settings: Settings, key: Array, dtype: Any) -> Progress:
    """The carry when the run has ended, in one way or another."""
    run = _first_run(settings, key, dtype)
    trainer, validation, watching = settings.trainer, settings.validation, settings.watching
    names = epoch_entries(trainer, run, validated=validation is not None)
    # A history of any length up to a power of 2, so that other epochs are the same program.
    length = max(LENGTH, 1 << (settings.epochs - 1).bit_length())
    carry = start(run, length, names, settings.patience, watching)
    if settings.checkpoint_dir is None:
        return _train_unsaved(settings, carry)
    given = None if settings.given is None else (run.params, run.state)
    about = about_run(trainer, run, settings.data, validation, settings.patience, watching, given)
    checkpoints = Checkpoints(
        settings.checkpoint_dir, settings.checkpoint_every, about, settings.clock
    )
    with checkpoint.locked(checkpoints.folder):
        carry = checkpoints.begin(carry, settings.resume, settings.epochs)
        return _train_saving(settings, checkpoints, carry)


def _train_in_pieces(
    settings: Settings, carry: Progress, held: Held, checkpoints: Checkpoints | None = None
) -> Progress:
    """The epochs left, in pieces short enough to move a bar, to save, and to stop when asked to.

    The bits are those of one piece.
    """
    epochs, show, callbacks = settings.epochs, settings.progress, settings.callbacks
    done = int(carry.done)
    piece = 1 if show or checkpoints or callbacks or held.active else epochs
    title = show if isinstance(show, str) else None
    bar = tqdm(total=epochs, unit="epoch", desc=title, disable=not show, leave=None, initial=done)
    with bar:
        while done < epochs and not has_stopped(carry):
            until = min(done + piece, epochs)
            if checkpoints:
                until = min(until, checkpoints.until(done))
            if callbacks:
                before_epoch(callbacks, _event(settings, carry, done))
            carry, trained, spent = _train_piece(settings, carry, done, until)
            done += trained
            bar.update(trained)
            if callbacks and trained and _told_to_stop(settings, carry, held, checkpoints):
                break
            if done < until:  # diverged or stopped early
                break
            if show:
                loss = np.asarray(carry.history["loss"])[done - 1]
                bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            if not callbacks:
                piece = max(1, round(PROGRESS_INTERVAL * trained / spent))
            if checkpoints:
                checkpoints.after(carry, done)
            if held.received is not None:
                break
    return carry


def _train_piece(settings, carry, done, until):
    """Train until `until` epochs are done: the carry, how many were, and in how many seconds."""
    program, sets = settings.trainer._program, (settings.data, settings.validation)
    started = time.perf_counter()
    carry = train_donating(program, carry, *sets, until, settings.watching)
    trained = int(carry.done) - done  # waits for the program
    spent = time.perf_counter() - started
    settings.clock.seconds += spent
    return carry, trained, spent


def _told_to_stop(settings, carry, held, checkpoints):
    """Call the callbacks; whether one of them says to stop, or Ctrl-C came while one ran."""
    try:
        return after_epoch(settings.callbacks, _event(settings, carry, int(carry.done) - 1))
    except KeyboardInterrupt:
        if checkpoints:
            raise
        held.received = signal.SIGINT
        return True


def _train_unsaved(settings: Settings, carry: Progress) -> Progress:
    """Train without checkpoints; asked to stop by Ctrl-C, hand over what was learned so far.

    Raises:
        TrainingInterrupted: it was.
    """
    with held_signals((signal.SIGINT,)) as held:
        carry = _train_in_pieces(settings, carry, held)
    if held.received is not None and int(carry.diverged_at) < 0:
        raise TrainingInterrupted(
            f"Ctrl-C: stopped after epoch {int(carry.done)} of {settings.epochs}; what was learned "
            f"so far is in the result attribute of this KeyboardInterrupt",
            _result(settings, carry),
        )
    return carry


def _event(settings: Settings, carry: Progress, epoch: int) -> Event:
    history = history_of(settings.trainer, carry, settings.watching)
    return Event(epoch, history, carry.run, functools.partial(_result, settings, carry))


def _result(settings: Settings, carry: Progress) -> FitResult:
    trainer, data, watching = settings.trainer, settings.data, settings.watching
    return result_of(trainer, carry, data, watching, settings.clock.seconds)


def _train_saving(settings: Settings, checkpoints: Checkpoints, carry: Progress) -> Progress:
    """Train under checkpoints; asked to stop, save, say so and let the signal act."""
    with held_signals() as held:
        carry = _train_in_pieces(settings, carry, held, checkpoints)
        saved = checkpoints.save(carry, int(carry.done))
    if held.received is not None:
        what = f"{held.received.name}: stopped after epoch {int(carry.done)} of {settings.epochs}"
        where = f"the last checkpoint is of epoch {checkpoints.saved}" if not saved else "all saved"
        print(
            f"{what}, {where}; the same call with resume=True goes on from {checkpoints.folder}",
            file=sys.stderr,
            flush=True,
        )
        held.deliver()
    return carry


def _require_start(
    dtype: Any,
    on_divergence: Any,
    key: Any,
    data: Any,
    validation: Any,
    params: Any,
    state: Any,
    sample_weight: Any,
) -> None:
    """Raise unless these are a dtype, a choice and a key, and nothing is traced."""
    given = {"key": key, "data": data, "validation": validation, "params": params}
    given |= {"state": state, "sample_weight": sample_weight}
    for name, tree in given.items():
        # A generator is refused with the data: it is no node of a pytree.
        leaves = jax.tree.leaves(tree, is_leaf=lambda part: isinstance(part, Iterator))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            raise DtypeError(
                f"fit's {name} is traced: fit runs on the host and cannot be jitted or mapped; "
                f"use Trainer.run, which can"
            )
    require_key(key)
    require_floating_dtype(dtype)
    require_choice("on_divergence", on_divergence, ("raise", "keep"))


def _require_patience(patience, validation):
    if patience is None:
        return
    require_positive_int("patience", patience)
    if validation is None:
        raise ConfigError("patience needs validation data: pass validation=(x, y)")


def _watching(trainer, validation, patience, watch, watch_mode) -> Watching:
    """What to watch, and which values of it are better."""
    _require_patience(patience, validation)
    if watch_mode is not None:
        require_choice("watch_mode", watch_mode, ("min", "max"))
    if validation is None and watch is not None:
        raise ConfigError("watch needs validation data: pass validation=(x, y)")
    metrics = dict(trainer.metrics)
    name = "loss" if watch is None else watch
    if name != "loss" and name not in metrics:
        known = ", ".join(map(repr, ("loss", *metrics)))
        raise ConfigError(f"watch is {watch!r}, expected one of {known}; name it in metrics")
    mode = watch_mode or ("min" if name == "loss" else mode_of(metrics[name]))
    if mode not in ("min", "max"):
        raise ConfigError(
            f"watch is {watch!r}, whose metric does not say which values are better; pass "
            f"watch_mode='min' or watch_mode='max'"
        )
    return Watching(VALIDATION + name, mode)


def _checked_saving(folder, every, resume):
    """The three, as they are."""
    if not isinstance(resume, bool):
        raise ConfigError(f"resume is {resume!r}, expected True or False")
    if folder is None and (resume or every is not None):
        given = "resume" if resume else "checkpoint_every"
        raise ConfigError(f"{given} needs a folder: pass checkpoint_dir")
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"checkpoint_dir is {folder!r}, expected a path")
    return folder, every, resume


def _checked_sets(
    trainer, data, sample_weight, validation, dtype
) -> tuple[Trainer, Data, Data | None]:
    """The sets as arrays, of which all shapes and values fit the model, the loss and metrics.

    And the trainer, its loss with the class weights that the training labels ask for.
    """
    data = arrays.checked("data", data, dtype, sample_weight)
    if validation is not None:
        pair, weight = arrays.weight_apart(validation)
        validation = arrays.checked("validation", pair, dtype, weight)
    trainer = for_labels(trainer, arrays.contents(data[1]))
    _require_fitting(trainer, data, dtype)
    _require_counted(trainer, data[1])
    if validation is not None:
        try:
            _require_fitting(trainer, validation, dtype)
        except FuncnetError as error:
            error.subject = "validation"
            raise
    return trainer, data, validation


def _require_fitting(trainer, data, dtype):
    """Trace the model and the loss on the shapes of one batch; check inputs' and labels' values."""
    rows = min(trainer.batch_size, arrays.examples(data))
    shapes, structure = jax.tree.flatten(arrays.of_batch(data, rows))
    require_labels(
        trainer,
        data,
        _traced_prediction(trainer._scoring, np.dtype(dtype), structure, tuple(shapes)),
    )


def _require_counted(trainer, y):
    y = arrays.contents(arrays.target_of(y))
    counted = trainer.loss.counted(y) if isinstance(trainer.loss, Loss) else None
    if counted is not None and not counted.any():
        raise DataError(
            f"no label counts: each one is the ignore_index of {trainer.loss!r}; there is nothing "
            f"to train on"
        )


def _warn_of_climbing(trainer, dtype):
    params, _ = _traced_init(trainer.model, np.dtype(dtype))
    raw = trial(trainer._beginning, params).raw
    if raw:
        warnings.warn(added_as_it_is(raw), RuntimeWarning, stacklevel=3)


@functools.lru_cache(maxsize=256)
def _traced_init(model, dtype) -> Any:
    """The shapes of the model's parameters and state."""
    return jax.eval_shape(
        lambda key: as_pair(model, "init", model.init(key, dtype)), jax.random.key(0)
    )


@functools.lru_cache(maxsize=256)
def _traced_prediction(scoring, dtype, structure, shapes) -> Any:
    """What the model returns for a batch; raises what the model or the loss raises."""
    trainer = scoring.value
    params, state = _traced_init(trainer.model, dtype)

    def prediction_of(params, state, x, y, key):
        return loss_and_state(trainer, params, state, x, y, key)[1][1]

    batch = jax.tree.unflatten(structure, shapes)
    return jax.eval_shape(prediction_of, params, state, *batch, jax.random.key(0))
