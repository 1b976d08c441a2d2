"""Waiting for descriptors, and calling what belongs to them: by a thread of the loop's own, the
*worker*, or by whoever has taken the seat (`seat.py`).

Linux wakes the thread that began to poll last, so what arrives goes to the seated thread; the
worker sleeps on, and takes over whenever nobody sits. Rounds exclude each other. To *nudge* is
to make a wake-up that the worker leaves for the seated thread.

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

from libos_ipc._native import notify
from libos_ipc.runtime.seat import Seat
from libos_ipc.runtime.shortage import AGAIN_S
from libos_ipc.runtime.threads import QuickThread

__all__ = ["Loop"]

log = logging.getLogger("libos_ipc")

Events = list[tuple[int, int]]


class Loop(Seat):
    """Descriptors and their callbacks. `on_round` runs after each round and gives the seconds
    that the next may wait at most, None for ever."""

    def __init__(self, name: str, on_round: Callable[[], float | None]) -> None:
        super().__init__()
        self._name = name
        self._on_round = on_round
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._callbacks: dict[int, Callable[[], None]] = {}
        #: those that are told once of what happens; and whether there was no memory to hear it
        self._edges: set[int] = set()
        self._missed = False
        self._rounds = threading.Lock()
        self._timeout: float | None = 0
        self._thread: QuickThread | None = None
        self._nudged = False
        self.register(self._wake_fd, self._on_wake)

    def register(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Call `callback` whenever `fd` is readable, or, with `edge`, whenever it becomes so.

        A descriptor that stays readable until it is read wakes the worker beside the seated
        thread; one whose callback always empties it need not. Any thread.
        """
        self._callbacks[fd] = callback
        if edge:
            self._edges.add(fd)
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))

    def unregister(self, fd: int) -> None:
        """The reverse, before `fd` is closed. Any thread."""
        self._edges.discard(fd)
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Begin a round now. Any thread, which goes on at once."""
        notify(self._wake_fd)

    def start(
        self, first: Callable[[], None], thread: QuickThread | None = None
    ) -> Callable[[], None]:
        """Run in a thread of its own, which begins with `first`; or in this one, which has to call
        what is returned.

        What `first` meets of the operating system (no descriptors left) is tried again until it
        succeeds or the loop is stopped: the program that forked must not lose its group by it.
        """
        self._begin_sitting()
        self._on_wake()

        def work() -> None:
            self._begin(first)

        if thread is None:
            thread = QuickThread(lambda own: work())
            thread.start()
        self._thread = thread
        return work

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
                time.sleep(AGAIN_S)
        self.run()

    def stop(self) -> None:
        """End the thread, and return when it is gone and nobody sits. Not from a round."""
        thread, self._thread = self._thread, None
        self.end()
        self._await_vacancy()
        if thread is not None:
            thread.join()

    def end(self) -> None:
        """Let `run` return after the present round."""
        self._stopping = True
        self.wake()

    def hold(self, timeout: float) -> bool:
        """Have no round begin until `let_go`. False if the present one has not ended in time."""
        return self._rounds.acquire(timeout=timeout)

    @property
    def let_go(self) -> Callable[[], None]:
        """What lets rounds begin again."""
        return self._rounds.release

    def run(self) -> None:
        """Poll and call until ended."""
        self._round([])
        while not self._stopping:
            self._round(self._poll(self._timeout))

    def close(self) -> None:
        """Give the descriptors back. After `stop`, or in a forked child that never ran it."""
        self._epoll.close()
        os.close(self._wake_fd)

    # ---- the seat

    def _turn(self, timeout: float | None) -> None:
        if self._timeout is not None:
            timeout = self._timeout if timeout is None else min(timeout, self._timeout)
        self._round(self._poll(timeout))

    def _call(self) -> None:
        self._nudged = True
        self.wake()

    def _vacated(self) -> None:
        if self._nudged:
            self._on_wake()

    def _poll(self, timeout: float | None) -> Events:
        try:
            if not self._missed:
                return self._epoll.poll(timeout)
            events = self._epoll.poll(AGAIN_S) + [(fd, 0) for fd in self._edges]
        except MemoryError:
            self._miss()
            raise
        self._missed = False
        return events

    def _miss(self) -> None:
        """There was no memory to deal with what has happened: have the worker look again."""
        self._missed = True
        self.wake()

    def _round(self, events: Events) -> None:
        callbacks = self._callbacks
        try:
            with self._rounds:
                for fd, _ in events:
                    callback = callbacks.get(fd)
                    if callback is not None:
                        self._call_back(callback)
                self._timeout = self._on_round()
        except MemoryError:
            self._miss()
            raise

    def _call_back(self, callback: Callable[[], None]) -> None:
        """What the system refuses to one must not end the worker for all others."""
        try:
            callback()
        except (OSError, MemoryError) as error:
            if isinstance(error, MemoryError):
                self._miss()
            log.exception("%s: something that came could not be dealt with", self._name)

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
