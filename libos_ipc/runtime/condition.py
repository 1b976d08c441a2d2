"""Waiting under a lock until somebody says that something has changed.

What `threading.Condition` is, on locks of our own: with those the main thread does not sleep
through a signal that came just before it fell asleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from libos_ipc._native import Lock

__all__ = ["Condition"]


class Condition:
    """Of one lock, which is held at every call."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._waiters: list[Lock] = []

    def wait_for(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Let go of the lock until `ready`, at most so many seconds; what it says then. Blocks;
        signals are handled meanwhile, without the lock."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not ready():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._wait(left)
        return True

    def _wait(self, timeout: float | None) -> None:
        waiter = Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        self._lock.release()
        try:
            waiter.acquire(timeout=-1 if timeout is None else timeout)
        finally:
            self._lock.acquire()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def notify_all(self) -> None:
        """Have everybody look who waits."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.release()
