"""Waiting for descriptors, and calling what belongs to them: by a thread of the loop's own, or
by whoever is waiting for the outcome anyway.

The worker thread is always there. But a message that the worker takes in for somebody else
costs a second wake-up, of that somebody, as much as the message itself. So a thread that waits
for an answer, or for the next message to handle, may take the *seat*: it polls beside the
worker and does the worker's rounds itself. Linux wakes the thread that began to poll last, so
what arrives goes to the seat; the worker sleeps on, and takes over whenever nobody sits.

    seated thread:  poll -> round -> is it there? -> poll -> …      at most one
    worker:         poll ………………………………………………… (woken while the seat is busy)

Rounds exclude each other. Whoever brings about what the seated thread waits for, in any other
way than that thread's own round, must *nudge* it: a wake-up that the worker leaves for it.

The loop can be stopped and started again with everything still registered: its thread is ended
before a fork and made anew after it.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable

from libos_ipc.runtime.threads import QuickThread

__all__ = ["Loop"]

#: Seconds between attempts to begin.
_AGAIN_S = 0.05

log = logging.getLogger("libos_ipc")

Events = list[tuple[int, int]]


class Loop:
    """Descriptors and their callbacks. `on_round` runs after each round and gives the seconds
    that the next may wait at most, None for ever."""

    def __init__(self, name: str, on_round: Callable[[], float | None]) -> None:
        self._name = name
        self._on_round = on_round
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._rounds = threading.Lock()
        self._timeout: float | None = 0
        self._stopping = False
        self._thread: QuickThread | None = None
        self._main: int | None = None
        self._seat = threading.Lock()
        self._sitter = 0  # thread identity, 0 for none
        self._sitter_urgent = False
        self._nudged = False
        #: somebody who needs the seat more than a thread that only waits for messages
        self._seat_wanted = False
        self.register(self._wake_fd, self._on_wake)

    def register(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Call `callback` whenever `fd` is readable, or, with `edge`, whenever it becomes so.

        A descriptor that stays readable until it is read wakes the worker beside the seated
        thread; one whose callback always empties it need not. Any thread.
        """
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))

    def unregister(self, fd: int) -> None:
        """The reverse, before `fd` is closed. Any thread."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Begin a round now. Any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def start(self, first: Callable[[], None]) -> None:
        """Run in a thread of its own, which begins with `first`.

        What that meets of the operating system (no descriptors left) is tried again until it
        succeeds or the loop is stopped: the program that forked must not lose its group by it.
        """
        self._stopping = False
        self._main = threading.main_thread().ident  # after a fork, another one
        self._on_wake()
        self._thread = QuickThread(lambda: self._begin(first))

    def _begin(self, first: Callable[[], None]) -> None:
        failed = False
        while not self._stopping:
            try:
                first()
                break
            except OSError:
                if not failed:
                    log.exception("%s: cannot go on, trying again", self._name)
                failed = True
                time.sleep(_AGAIN_S)
        self.run()

    def stop(self) -> None:
        """End the thread, and return when it is gone and nobody sits. Not from a round."""
        thread, self._thread = self._thread, None
        self.end()
        if self._sitter != threading.get_ident():
            with self._seat:
                pass
        if thread is not None:
            thread.join()

    def end(self) -> None:
        """Let `run` return after the present round."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Poll and call until ended."""
        self._round([])
        while not self._stopping:
            self._round(self._epoll.poll(self._timeout))

    def close(self) -> None:
        """Give the descriptors back. After `stop`, or in a forked child that never ran it."""
        self._epoll.close()
        os.close(self._wake_fd)

    # ---- the seat

    def sit(self, done: Callable[[], object], deadline: float | None, *, urgent: bool) -> None:
        """Poll in this thread until `done`, or `deadline` (monotonic).

        May return earlier, when another thread sits, the loop is being stopped, or a sitter
        that is not urgent is in the way of one that is: the caller then waits by other means.
        So does the main thread, always: a signal handler that raises, as Ctrl-C's does, would
        end a round in the middle, and what it had taken in would be lost.
        """
        me = threading.get_ident()
        if me == self._main:
            return
        if not self._seat.acquire(blocking=False):
            self._seat_wanted = self._seat_wanted or urgent
            return
        self._sitter_urgent = urgent
        self._sitter = me
        try:
            while not (done() or self._stopping or (self._seat_wanted and not urgent)):
                timeout = self._timeout
                if deadline is not None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return
                    timeout = left if timeout is None else min(left, timeout)
                self._round(self._epoll.poll(timeout))
        finally:
            self._sitter = 0
            self._seat_wanted = False
            self._seat.release()
            if self._nudged:
                self._on_wake()

    def nudge(self, *, urgent: bool) -> None:
        """Have the seated thread look whether it is done, if it is one that waits for this.

        Nothing if it is the caller itself.
        """
        if self._sitter_urgent is urgent and self._sitter not in (0, threading.get_ident()):
            self._nudged = True
            self.wake()

    def _round(self, events: Events) -> None:
        callbacks = self._callbacks
        with self._rounds:
            for fd, _ in events:
                callback = callbacks.get(fd)
                if callback is not None:
                    callback()
            self._timeout = self._on_round()

    def _on_wake(self) -> None:
        if self._stopping:
            return  # meant for everybody: `start` takes it away
        if self._nudged and self._sitter not in (0, threading.get_ident()):
            os.sched_yield()  # meant for the seated thread: leave it there
            return
        self._nudged = False
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass  # another round has read it
