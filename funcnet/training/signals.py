"""Let a run that is asked to stop save first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Held:
    """The signal that came while signals were held.

    Attributes:
        received: the first one; None if there was none.
    """

    received: signal.Signals | None = None

    def deliver(self) -> None:
        """Let the signal act as it would have: KeyboardInterrupt, or the end of the process."""
        if self.received is not None:
            signal.raise_signal(self.received)


@contextlib.contextmanager
def held_signals() -> Iterator[Held]:
    """Note SIGINT and SIGTERM instead of acting on them, so that the block can end in order.

    The second signal acts as usual: nobody has to wait for a disk that hangs. Handlers that
    somebody has set, and threads other than the main one, are left alone.
    """
    held = Held()
    taken = {}
    if threading.current_thread() is threading.main_thread():
        taken = {number: old for number, old in _USUAL.items() if signal.getsignal(number) == old}

    def give_back():
        for number, old in taken.items():
            signal.signal(number, old)

    def note(number, frame):
        held.received = signal.Signals(number)
        give_back()

    for number in taken:
        signal.signal(number, note)
    try:
        yield held
    finally:
        give_back()
