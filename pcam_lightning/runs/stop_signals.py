"""Handling of signals that ask a process to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pcam_lightning.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""submitit sends USR2 before the time limit; a terminal that closes sends HUP."""


class StopSignals:
    """The handler of this process for stop signals.

    The first signal raises `Preempted`; inside a `deferred` block it is only stored in `first`.
    Later signals are ignored, except that a second Ctrl-C raises KeyboardInterrupt. A process that
    ignores SIGHUP, as under nohup, keeps ignoring it.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        """The first signal received, None if there was none."""
        self._is_listening = self._is_deferred = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle stop signals within the block, and restore the earlier handlers after it.

        An inner block has no effect, nor has a block outside the main thread, where Python handles
        no signals.
        """
        if self._is_listening or threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        if handlers[signal.SIGHUP] == signal.SIG_IGN:
            del handlers[signal.SIGHUP]
        self.first, self._is_listening, self._numbers = None, True, tuple(handlers)
        try:
            self.install()
            yield
        finally:
            self._is_listening = False
            for number, handler in handlers.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Handle stop signals within the block by storing the first one."""
        with self.listening():
            before, self._is_deferred = self._is_deferred, True
            try:
                yield
            finally:
                self._is_deferred = before

    def install(self) -> None:
        """Restore this handler after a library has replaced it."""
        if self._is_listening:
            for number in self._numbers:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first = number
            if not self._is_deferred:
                raise Preempted(number)
        elif number == self.first == signal.SIGINT:
            raise KeyboardInterrupt


stop_signals = StopSignals()
"""The handler of this process; a process has one handler per signal."""
