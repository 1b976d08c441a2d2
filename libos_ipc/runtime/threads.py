"""Threads around a fork: ended for the kernel too, and begun without waiting for them.

Python warns of a fork when the *kernel* counts more than one thread, and `Thread.join` returns
before the kernel's thread is gone; so whoever ends a thread for a fork waits for the latter.

After a fork, on the other hand, `Thread.start` waits until the new thread has run, and with it
for the interpreter lock, twice: up to 10 ms when the program computes. The worker is started
beneath that. It is no `threading.Thread` and never shows up among these.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from libos_ipc._native import block_signals
from libos_ipc.runtime.processes import STACK_SIGNAL
from libos_ipc.runtime.shortage import AGAIN_S

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["OTHERS_SIGNALS", "Gate", "QuickThread", "is_quick", "join_native"]

#: Give up waiting for a thread's end after so many seconds: it is then somebody's bug.
JOIN_S = 10.0
#: Seconds for which a thread is tried to be had that others wait for.
_PATIENCE_S = 1.0


def join_native(thread: threading.Thread) -> None:
    """Wait until a thread has ended for the kernel too."""
    thread.join(JOIN_S)
    _await_kernel(thread.native_id or 0)


#: What comes of the thread's own doing, and the one that tells its stack.
_OWN_SIGNALS = (
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    STACK_SIGNAL,
)
#: All others, as `block_signals` takes them.
OTHERS_SIGNALS = 2**64 - 1 - sum(1 << (sig - 1) for sig in _OWN_SIGNALS)


class Gate:
    """What opens once. Any number of threads wait for it, also in a signal handler that interrupts
    such a wait."""

    def __init__(self) -> None:
        self._opened = False  # set first: who finds it so does not touch the lock
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let all pass."""
        self._opened = True
        self._lock.release()

    def wait(self) -> None:
        """Return when it is open."""
        if not self._opened:
            with self._lock:
                pass


class QuickThread:
    """A daemon thread that runs `function(itself)`; to start it waits for nothing but for room in
    the system, if there is none: RuntimeError then. The function begins anew where there was no
    memory for something: nobody else would read what comes.

    It leaves signals to the others: the main thread, where Python handles them, would not be
    interrupted by one that the kernel gives to this thread.
    """

    def __init__(self, function: Callable[[QuickThread], None]) -> None:
        self._function = function
        self._native_id = 0
        self._running = threading.Lock()
        self._running.acquire()

    def start(self) -> None:
        """Once."""
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            self._start_patiently()

    def _start_patiently(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not self._starts(time.monotonic() > deadline):
            time.sleep(AGAIN_S)

    def _run(self) -> None:
        self._native_id = threading.get_native_id()
        block_signals(OTHERS_SIGNALS)
        try:
            while True:
                try:
                    self._function(self)
                    break
                except MemoryError:
                    time.sleep(AGAIN_S)
        finally:
            # `logging` has asked for the current thread, perhaps: up to Python 3.12 the stand-in
            # that `threading` makes then stays in its list for ever.
            threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]
            self._running.release()

    def _starts(self, at_last: bool) -> bool:
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            if at_last:
                raise
            return False
        return True

    def join(self) -> None:
        """Wait until it has ended, for the kernel too."""
        if self._running.acquire(timeout=JOIN_S):
            _await_kernel(self._native_id)


def is_quick(frame: FrameType) -> bool:
    """Whether this is what a `QuickThread` runs, which `threading` knows by no name."""
    while frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code is QuickThread._run.__code__


def _await_kernel(native_id: int) -> None:
    path = f"/proc/self/task/{native_id}"
    deadline = time.monotonic() + JOIN_S
    while os.path.exists(path) and time.monotonic() < deadline:
        os.sched_yield()
