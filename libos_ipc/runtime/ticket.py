"""Waiting for an answer: one ticket per request, settled once, by whoever has the answer.

A thread's ticket is a lock that the answer opens, so a waiting thread costs nothing, is woken
directly, and still handles signals (a lock's `acquire` is interrupted by them, and Ctrl-C ends
it). The asyncio face has a ticket of its own.
"""

from __future__ import annotations

import threading
from typing import Protocol

from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import IpcError

__all__ = ["Settled", "Ticket"]


class Settled(Protocol):
    """What the session does with a ticket. Called under the session's lock: never blocks."""

    def resolve(self, payload: Body) -> None: ...
    def fail(self, error: IpcError) -> None: ...


class Ticket:
    """A request that a thread waits for."""

    __slots__ = ("_error", "_gate", "_payload")

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self._payload: Body = b""
        self._error: IpcError | None = None

    def resolve(self, payload: Body) -> None:
        self._payload = payload
        self._gate.release()

    def fail(self, error: IpcError) -> None:
        self._error = error
        self._gate.release()

    def settled(self) -> bool:
        """Whether there is a result."""
        return not self._gate.locked()

    def succeeded(self) -> bool:
        """Whether the result is no error. Only when settled."""
        return self._error is None

    def wait(self, timeout: float | None) -> bool:
        """Wait until settled; False when `timeout` seconds pass first."""
        if timeout is None:
            return self._gate.acquire()
        return self._gate.acquire(timeout=min(max(timeout, 0), threading.TIMEOUT_MAX))

    def result(self) -> Body:
        """The answer, or the error raised. Only after `wait` returned True."""
        if self._error is not None:
            raise self._error
        return self._payload
