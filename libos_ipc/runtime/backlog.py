"""What the leader has decided while its journal had no room for it.

The decision stands: it has been made, others have been promised the same before, and with a full
file system no successor could begin a journal of its own anyway. So the record waits here, in
order, and is written as soon as there is room again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from libos_ipc.core.vocabulary import Note
from libos_ipc.runtime.journal_file import JournalFile, JournalSealed

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["Backlog"]

#: Seconds until it is tried again, if nothing is decided before.
_AGAIN_S = 0.1


class Backlog:
    """The records that wait. Under the session's lock."""

    def __init__(self) -> None:
        self._records: deque[tuple[object, ...]] = deque()

    @property
    def waits(self) -> bool:
        """Whether any does."""
        return bool(self._records)

    def append(self, session: Session, journal: JournalFile, record: tuple[object, ...]) -> None:
        """Write a record, behind those that wait; or let it wait."""
        if self._records:
            self._records.append(record)
            self._write(journal)
            return
        try:
            journal.append(record)
        except OSError as error:
            self._records.append(record)
            fields: dict[str, object] = {"error": str(error), "directory": session.directory.path}
            session.perform([Note("journal full", fields)])
            session.clock.later(_AGAIN_S, lambda: self._again(session, journal))

    def clear(self) -> None:
        """Others lead, or the group is over."""
        self._records.clear()

    def _write(self, journal: JournalFile) -> None:
        try:
            while self._records:
                journal.append(self._records[0])
                self._records.popleft()
        except OSError:
            pass  # still full
        except JournalSealed:
            self.clear()
            raise

    def _again(self, session: Session, journal: JournalFile) -> None:
        with session.lock:
            if session.closed or not self._records:
                return
            try:
                self._write(journal)
            except JournalSealed:
                return  # the next decision meets it too
            if self._records:
                session.clock.later(_AGAIN_S, lambda: self._again(session, journal))
