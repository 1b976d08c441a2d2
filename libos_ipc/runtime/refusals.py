"""Connections that are read no more, and what becomes of them: they are ended.

Or each would take a descriptor of ours as long as its owner likes. One that makes no sense ends at
once. One whose hello was refused, or a member's, ends a little later: its owner comes again at
once, perhaps, and is refused again. One by which nothing is said ends when there are many of them.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from libos_ipc.core.vocabulary import Note
from libos_ipc.runtime.connections import Connection

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session
    from libos_ipc.runtime.zmq_transport import Transport

__all__ = ["Refusals"]

#: Seconds until a connection is ended whose owner may come again at once.
HANG_UP_S = 1.0


class Refusals:
    """The connections of one session that are to be ended. In the worker."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._refused: deque[tuple[float, Connection]] = deque()  # and when
        self._awaits_words = False

    def clear(self) -> None:
        """The transport is another one: all connections are gone."""
        self._refused.clear()

    def refuse(self, connection: Connection, reason: str, *, later: bool = False) -> None:
        """Nothing more is read from this connection."""
        if later or connection.peer:
            self.end_later(connection)
        else:
            connection.mute()
            connection.hang_up()
        fields: dict[str, object] = {
            "peer": connection.peer,
            "os_pid": connection.os_pid,
            "uid": connection.uid,
            "reason": reason,
        }
        self._session.perform([Note("connection refused", fields)])

    def end_later(self, connection: Connection) -> None:
        """The same, with nothing to be noted."""
        connection.mute()
        if not self._refused:
            self._session.clock.later(HANG_UP_S, self._end_due)
        self._refused.append((time.monotonic() + HANG_UP_S, connection))

    def _end_due(self) -> None:
        while self._refused and self._refused[0][0] <= time.monotonic():
            self._refused.popleft()[1].hang_up()
        if self._refused:
            self._session.clock.later(HANG_UP_S, self._end_due)

    def look_at(self, transport: Transport) -> None:
        """Connections have come, perhaps many by which nothing is said: now, and again until that
        is known of all."""
        if not self._awaits_words:
            self._look(transport)

    def _look(self, transport: Transport) -> None:
        self._awaits_words = transport.end_silent()
        if self._awaits_words:
            self._session.clock.later(HANG_UP_S, lambda: self._look(transport))
