"""The seat: whoever waits for an outcome anyway does the work of the thread made for it.

A message that a thread of ours takes in for somebody else costs a second wake-up, of that
somebody, as much as the message itself. So a thread that waits for an answer, or for the next
message to handle, may take the *seat*: it waits for what comes, beside the thread made for that,
and does its rounds itself.

    seated thread:   wait -> round -> is it there? -> wait -> …     at most one
    thread of ours:  wait ………………………………………………… (woken while the seat is busy)

Whoever brings about what the seated thread waits for, in any other way than that thread's own
round, must *nudge* it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from libos_ipc._native import Lock

__all__ = ["Seat"]


class Seat:
    """What has a seat: to be derived from. Any thread."""

    #: somebody who needs the seat more than a thread that only waits for messages
    _seat_wanted = False

    def __init__(self) -> None:
        self._stopping = False
        self._main: int | None = None
        self._seat = Lock()
        self._sitter = 0  # thread identity, 0 for none
        self._sitter_urgent = False

    def _turn(self, timeout: float | None) -> None:
        """Wait, at most so many seconds, and do what came, in the seated thread."""
        raise NotImplementedError

    def _call(self) -> None:
        """Let the seated thread's `_turn` end soon."""
        raise NotImplementedError

    def _taken(self) -> None:
        """Somebody sits, and will look at what there is."""

    def _vacated(self) -> None:
        """Nobody sits any more."""

    def sit(self, done: Callable[[], object], deadline: float | None, *, urgent: bool) -> None:
        """Take turns in this thread until `done`, or `deadline` (monotonic).

        May return earlier, when another thread sits, all is being stopped, or a sitter that is
        not urgent is in the way of one that is: the caller then waits by other means. So does
        the main thread, always: a signal handler that raises, as Ctrl-C's does, would end a
        round in the middle, and what it had taken in would be lost.
        """
        me = threading.get_ident()
        if me == self._main:
            return
        if not self._seat.acquire(blocking=False):
            self._seat_wanted = self._seat_wanted or urgent
            return
        self._sitter = me
        self._taken()
        self._sitter_urgent = urgent
        try:
            while not (done() or self._stopping or (self._seat_wanted and not urgent)):
                left = None
                if deadline is not None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return
                self._turn(left)
        finally:
            self._sitter = 0
            self._seat_wanted = False
            self._seat.release()
            self._vacated()

    def nudge(self, *, urgent: bool) -> None:
        """Have the seated thread look whether it is done, if it is one that waits for this.

        Nothing if it is the caller itself.
        """
        if self._sitter_urgent is urgent and self._sitter not in (0, threading.get_ident()):
            self._call()

    def _begin_sitting(self) -> None:
        """Turns may be taken from now on."""
        self._stopping = False
        self._main = threading.main_thread().ident  # after a fork, another one

    def _await_vacancy(self) -> None:
        """Return when nobody sits. After `_stopping` was set and a sitter was called."""
        if self._sitter != threading.get_ident():
            with self._seat:
                pass
