"""Let a run that is asked to stop save first."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence

TO_STOP = signal.SIGINT, signal.SIGTERM
_USUAL = signal.default_int_handler, signal.SIG_DFL


class Held:
    """The signal that came while signals were held.

    Attributes:
        received: the first one; None if there was none.
        active: whether any signal is held.
    """

    received: signal.Signals | None = None
    active: bool = False

    def deliver(self) -> None:
        """Let the signal act as it would have: the end of the process, or KeyboardInterrupt.

        Raises:
            KeyboardInterrupt: its argument is the signal.
        """
        if self.received is not None:
            try:
                signal.raise_signal(self.received)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self.received) from None


@contextlib.contextmanager
def held_signals(numbers: Sequence[signal.Signals] = TO_STOP) -> Iterator[Held]:
    """Note SIGINT and SIGTERM instead of acting on them, so that the block can end in order.

    The second signal acts as usual: nobody has to wait for a disk that hangs. Handlers that
    somebody has set, and threads other than the main one, are left alone.
    """
    held = Held()
    taken = {}
    if threading.current_thread() is threading.main_thread():
        taken = {number: old for number in numbers if (old := signal.getsignal(number)) in _USUAL}

    def give_back():
        for number, old in taken.items():
            signal.signal(number, old)

    def note(number, frame):
        held.received = signal.Signals(number)
        give_back()

    held.active = bool(taken)
    for number in taken:
        signal.signal(number, note)
    try:
        yield held
    finally:
        give_back()
