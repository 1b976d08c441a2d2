"""Waiting for an answer: one ticket per request, settled once, by whoever has the answer.

A thread's ticket is `_native.Ticket`, with a word on which the thread sleeps: it is woken directly,
still handles signals (Ctrl-C ends the wait), and can be settled where no Python code may run. The
asyncio face has a ticket of its own.
"""

from __future__ import annotations

from typing import Protocol

from libos_ipc._native import Ticket
from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import IpcError

__all__ = ["Settled", "Ticket"]


class Settled(Protocol):
    """What the session does with a ticket. Called under the session's lock: never blocks."""

    def resolve(self, payload: Body, /) -> None: ...
    def fail(self, error: IpcError, /) -> None: ...
