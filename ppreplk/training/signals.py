"""Signals to stop, put off until what must not be cut in two is done.

:class:`StopRequests` is the one place that decides when a training stops, and lets its processes agree on it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ..utils.distributed import largest_over_processes, processes, rank

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
AGREEMENT_INTERVAL = 10  # steps between two questions to the other processes; each waits for the device


class Stop(KeyboardInterrupt):
    """A training stops where a signal has asked it to."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class StopRequests:
    """Signals to stop, kept until the training has come to a place that it can go on from.

    While its ``with`` block runs, Ctrl-C, SIGTERM and SIGHUP only leave a note. The training asks for it with
    :meth:`requested`, saves, and raises :class:`Stop`. The end of the block then gives the signal to the handler that
    was there before, which decides how the process ends; so does one that came too late for the training to ask. A
    second Ctrl-C raises :class:`Stop` at once.

    Signals reach Python code in the main thread; in any other thread nobody asks this process to stop.
    """

    def __init__(self) -> None:
        self._received = 0  # the first one
        self._interrupted = False  # whether Ctrl-C was among them
        self._at_once = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                # None: not installed from Python, so it cannot be put back. Ignored ones, as under nohup, stay so.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        number = error.number if isinstance(error, Stop) else self._received if error is None else 0
        if number:
            signal.raise_signal(number)

    def _receive(self, number: int, frame: object) -> None:
        again = number == signal.SIGINT and self._interrupted
        self._received = self._received or number
        self._interrupted = self._interrupted or number == signal.SIGINT
        if again or self._at_once:
            raise Stop(self._received)
        if number == signal.SIGINT and rank() == 0:  # written past Python's buffers, which may be in use right now
            os.write(2, b"stopping after the running step; Ctrl-C again stops at once\n")

    def requested(self) -> int:
        """Number of the signal that any process has received, or 0. All processes must ask at the same moment."""
        return largest_over_processes(self._received)

    def requested_after(self, step: int, last: bool) -> int:
        """The same after a step. Several processes find out every few steps, and after the last one of an epoch."""
        if processes() == 1 or last or step % AGREEMENT_INTERVAL == 0:
            return self.requested()
        return 0

    def stopped(self, number: int) -> Stop:
        """What to raise after saving, in all processes. It waits for the one that writes."""
        largest_over_processes(0)
        return Stop(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise :class:`Stop` as soon as a signal comes, in a block that changes nothing; not in several processes."""
        self._at_once = processes() == 1
        try:
            if self._at_once and self._received:
                raise Stop(self._received)
            yield
        finally:
            self._at_once = False


@contextmanager
def stopping_put_off() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP take effect at the end of the block.

    Signals reach Python code in the main thread; in any other thread this does nothing.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) is not None:  # None: not installed from Python, so it cannot be put back
                handlers[number] = signal.signal(number, lambda received_number, _: received.append(received_number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)
