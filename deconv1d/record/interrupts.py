"""Ctrl-C waits while the state of a model or of the process is half changed.

Python runs a signal's handler between two instructions of the main thread, wherever that is. In the
middle of entering or leaving a pass the exception would skip what puts things back:

    held_back()                 from here on a signal is noted
        enter                   modules to eval, hooks on, recorder on torch's dispatch stack
        interruptible()         here its handler runs, as ever (KeyboardInterrupt)
            model(x)
        leave                   all of it undone
    afterwards                  what was noted is delivered now
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Those whose handlers raise exceptions: Ctrl-C, a scheduler's end, a test's timeout."""


class _Signals:
    """The handlers of one pass in the main thread; in other threads Python runs none."""

    def __init__(self) -> None:
        self.passing = False
        self.noted: list[int] = []
        self.before: dict[int, Callable[..., Any]] = {}
        self._own = self._handle

    def take(self) -> None:
        """Puts our handler in the place of those that are Python functions."""
        for number in (getattr(signal, name, None) for name in SIGNALS):
            handler = None if number is None else signal.getsignal(number)
            if number is not None and callable(handler):
                self.before[number] = handler
                signal.signal(number, self._own)

    def _handle(self, number: int, frame: Any) -> None:
        if not self.passing:
            self.noted.append(number)
            return
        # If the handler raises, what follows is leaving: nothing more may interrupt that.
        self.passing = False
        self.before[number](number, frame)
        self.passing = True

    def deliver(self) -> None:
        """Runs the handlers of what was noted."""
        while self.noted:
            number = self.noted.pop(0)
            self.before[number](number, None)

    def give_back(self) -> None:
        """Puts the handlers back, unless somebody else has set others since."""
        for number, handler in self.before.items():
            if signal.getsignal(number) == self._own:
                signal.signal(number, handler)


_visits: list[_Signals] = []
"""Of the main thread; more than one if a model's forward pass runs another model."""


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, signals wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = _Signals()
    try:
        signals.take()
        _visits.append(signals)
        yield
    finally:
        signals.passing = False
        if signals in _visits:
            _visits.remove(signals)
        signals.give_back()
        signals.deliver()


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, signals are delivered again; after the first that raises they wait once more."""
    if threading.current_thread() is not threading.main_thread() or not _visits:
        yield
        return
    signals = _visits[-1]
    try:
        signals.passing = True
        signals.deliver()
        yield
    finally:
        signals.passing = False
