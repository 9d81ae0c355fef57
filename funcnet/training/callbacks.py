"""Callbacks: what `fit` calls on the host, between two epochs.

A callback is a function of one argument, an `Event`, called after each epoch; one that returns True
stops the run. An object may instead have `on_epoch_begin(event)` and `on_epoch_end(event)`. They
run between pieces of the compiled run and change no bit of it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from funcnet.errors import ConfigError
from funcnet.training.history import History
from funcnet.training.result import FitResult
from funcnet.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Event:
    """What a callback is told; what costs something is made when it is asked for.

    Attributes:
        epoch: the epoch just trained, counted from 0; before an epoch, the one to come.
        history: what has been recorded so far.
    """

    epoch: int
    history: History
    _run: TrainState = dataclasses.field(repr=False)
    _result: Callable[[], FitResult] = dataclasses.field(repr=False)

    @functools.cached_property
    def run(self) -> TrainState:
        """The training state, a copy: ask for it before the callback returns."""
        return jax.tree.map(jnp.copy, self._run)

    @functools.cached_property
    def result(self) -> FitResult:
        """What `fit` would return now: ask for it before the callback returns."""
        result = self._result()
        return dataclasses.replace(result, run=jax.tree.map(jnp.copy, result.run))


Callback = Callable[[Event], Any] | Any
"""A function of an event, or an object with `on_epoch_begin` or `on_epoch_end`."""

_HOOKS = ("on_epoch_begin", "on_epoch_end")


def require_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """The callbacks as a tuple; ConfigError where one is none."""
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise ConfigError(f"callbacks is {callbacks!r}, expected a list of functions of an event")
    for callback in callbacks:
        known = callable(callback) or any(hasattr(callback, hook) for hook in _HOOKS)
        if isinstance(callback, type) or not known:
            raise ConfigError(
                f"a callback is {callback!r}, expected a function of an event, or an object with "
                f"on_epoch_begin or on_epoch_end"
            )
    return tuple(callbacks)


def before_epoch(callbacks: Sequence[Callback], event: Event) -> None:
    """Tell those that want to know that an epoch begins."""
    for callback in callbacks:
        if hasattr(callback, "on_epoch_begin"):
            callback.on_epoch_begin(event)


def after_epoch(callbacks: Sequence[Callback], event: Event) -> bool:
    """Call every callback; whether one of them says to stop."""
    stop = False
    for callback in callbacks:
        if hasattr(callback, "on_epoch_end"):
            stop |= callback.on_epoch_end(event) is True
        elif not hasattr(callback, "on_epoch_begin"):
            stop |= callback(event) is True
    return stop


class CSVLogger:
    """Write the history to a file, a line after each epoch.

    The first epoch of a fit writes all that the history has, so that the file of a run that is
    resumed is that of an unbroken one.

    Args:
        path: the file; one that is there is replaced.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path: Path = Path(path).absolute()
        self._written = -1

    def __call__(self, event: Event) -> None:
        """Write the epoch just trained."""
        goes_on = event.epoch == self._written + 1
        event.history.to_csv(self.path, begin=event.epoch if goes_on else 0)
        self._written = event.epoch


class TensorBoard:
    """Write the history for TensorBoard to show; needs the extra `tensorboard`.

    Args:
        folder: of the run; one for each.

    Raises:
        ModuleNotFoundError: tensorboardX is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            import tensorboardX  # noqa: F401 (said before hours are spent)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"TensorBoard needs tensorboardX; install the extra: pip install "
                f"'funcnet[tensorboard]' ({error})"
            ) from None
        self.folder: Path = Path(folder).absolute()
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Write the epoch just trained."""
        from tensorboardX import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder))
        for name, entry in event.history.curves().items():
            self._writer.add_scalar(name, entry[-1], event.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file; after that, an epoch more opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
