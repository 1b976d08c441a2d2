"""A thread that waits for descriptors and calls what belongs to them.

The loop can be stopped and started again with everything still registered: its thread is ended
before a fork and made anew after it, in the parent at least. Ended means that the kernel's
thread is gone too (`Thread.join` returns before that), since it is the kernel's count of
threads that Python looks at when it warns of a fork.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable

__all__ = ["Loop", "join_native"]

#: Give up waiting for a thread's end after so many seconds: it is then somebody's bug.
_JOIN_S = 10.0


def join_native(thread: threading.Thread) -> None:
    """Wait until a thread has ended for the kernel too."""
    thread.join(_JOIN_S)
    path = f"/proc/self/task/{thread.native_id}"
    deadline = time.monotonic() + _JOIN_S
    while os.path.exists(path) and time.monotonic() < deadline:
        os.sched_yield()


class Loop:
    """Descriptors and their callbacks. `on_round` runs after each round and gives the seconds
    that the next may wait at most, None for ever."""

    def __init__(self, name: str, on_round: Callable[[], float | None]) -> None:
        self._name = name
        self._on_round = on_round
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.register(self._wake_fd, self._on_wake)

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` is readable. Any thread."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        """The reverse, before `fd` is closed. Any thread."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """Begin a round now. Any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def start(self) -> None:
        """Run in a thread of its own."""
        self._stopping = False
        self._thread = threading.Thread(target=self.run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and return when it is gone. Not from the loop itself."""
        thread, self._thread = self._thread, None
        self.end()
        if thread is not None and thread is not threading.current_thread():
            join_native(thread)

    def end(self) -> None:
        """Let `run` return after the present round."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Poll and call until ended."""
        callbacks = self._callbacks
        timeout = self._on_round()
        while not self._stopping:
            for fd, _ in self._epoll.poll(timeout):
                callback = callbacks.get(fd)
                if callback is not None:
                    callback()
            timeout = self._on_round()

    def close(self) -> None:
        """Give the descriptors back. After `stop`, or in a forked child that never ran it."""
        self._epoll.close()
        os.close(self._wake_fd)

    def _on_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass  # another round has read it
