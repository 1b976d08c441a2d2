"""EXCLUSIVE that is passed on without the server: when that begins, and how it ends.

A handle that processes change in turns would cost four messages each time. So after `MOVES`
grants of EXCLUSIVE in a row the server gives them a *baton*: memory from which each of them takes
EXCLUSIVE with the newest value, and to which it gives both back, by itself.

    client 2                         server                        client 3
       |                                |     REQUEST_UPGRADE EXCLUSIVE      |
       |                                |<-----------------------------------|
       |                                |  CONFIRM_UPGRADE EXCLUSIVE, baton  |
       |   REQUEST_UPGRADE EXCLUSIVE    |----------------------------------->|  takes, gives
       |------------------------------->|                                    |
       |      CONFIRM_UPGRADE, baton    |                                    |
       |<-------------------------------|                                    |
       |  takes, gives, takes, gives …                          … takes, gives

It ends as soon as the server is told anything else about the handle, or a process is gone; and
without the server, as soon as a process finds EXCLUSIVE in use, has a second thread that waits,
wants to be told of changes, or has a value that is too large. Everybody sees the end at his next
step: whoever uses the handle in that moment has EXCLUSIVE from the server, the others have INVALID,
and ask. So everything that takes more than two steps of memory is the server's as ever: order of
arrival, cycles, recalls, deaths.

What is granted by a baton is reserved in it before the message goes out, so that nobody passes the
one who was next; and if the baton is ended before that one has seen it, what was reserved is
granted. So every baton serves at least one request. Who cannot have the memory declines, by
confirming INVALID, and asks again.

While a baton is there the queue is empty, and the table says INVALID of all. The journal knows that
there is one, and its memory outlives the server, so that a successor ends it.
"""

from __future__ import annotations

from collections.abc import Iterable

from libos_ipc.core.sync_rows import Entry, Handle, Row
from libos_ipc.core.sync_table import SyncTable
from libos_ipc.core.sync_words import (
    MOST_PASSED,
    Batons,
    ClientWord,
    ConfirmUpgrade,
    Decision,
    Record,
    RequestUpgrade,
    State,
    To,
    Value,
)
from libos_ipc.core.vocabulary import Note

__all__ = ["MOST_COMMITS", "MOVES", "SyncPassing"]

#: Grants of EXCLUSIVE in a row after which there is a baton.
MOVES = 4
#: Versions that one holder may add; more is a lie that would use the numbers up.
MOST_COMMITS = 2**40


class SyncPassing(SyncTable):
    """The part of the server that sees to batons. Without `batons` there are none."""

    batons: Batons | None = None
    #: see MOVES
    moves: int = MOVES

    def end_batons(self, ids: Iterable[int] | None = None) -> Decision:
        """Know everything of these handles, or of all, before somebody asks how things stand."""
        done = Decision([], [], [])
        for id in self.handles if ids is None else ids:
            self._end_baton(done, self.handles[id])
        return done

    def _passed(self, done: Decision, src: int, handle: Handle, row: Row, word: ClientWord) -> bool:
        """Whether this word is a request that the baton serves. If not, there is none any more."""
        assert handle.baton is not None
        assert self.batons is not None
        if isinstance(word, RequestUpgrade) and word.state == State.EXCLUSIVE:
            wanted = not (row.passing or row.is_over(word.number))
            if wanted and self.batons.reserve(handle.baton, src):
                self._hand(done, src, handle, word.number)
                return True
        self._end_baton(done, handle)
        return False

    def _begin_baton(self, done: Decision, handle: Handle, head: Entry) -> bool:
        """The head is about to be granted EXCLUSIVE: perhaps it gets a baton. True if so."""
        handle.moves += 1
        small = isinstance(handle.value.data, bytes) and len(handle.value.data) <= MOST_PASSED
        fresh = handle.rows[head.vmid].state == State.INVALID and not handle.owner_died
        if self.batons is None or handle.moves < self.moves or not (small and fresh):
            return False
        if len(handle.queue) > 1 or any(row.silent for row in handle.rows.values()):
            return False
        place = self.batons.begin(handle.id, head.vmid, handle.value)
        if place is None:
            return False
        self._record(done, ("baton", handle.id, *place))
        self._hand(done, head.vmid, handle, head.number)
        return True

    def _hand(self, done: Decision, vmid: int, handle: Handle, number: int) -> None:
        self._record(done, ("pass", vmid, handle.id, number))
        given = (handle.id, State.EXCLUSIVE, handle.value, False, handle.baton)
        done.messages.append(To(vmid, ConfirmUpgrade(*given)))

    def _end_baton(self, done: Decision, handle: Handle) -> None:
        """Everything about this handle is ours again."""
        if handle.baton is None:
            return
        assert self.batons is not None
        holder, in_use, value = self.batons.end(handle.baton)
        self._take_value(done, holder, handle, value)
        self._record(done, ("ended", handle.id, holder, in_use))
        handle.moves = 0

    def _forget_baton(self, id: int) -> None:
        """If nobody has this handle open any more, nobody needs what it had."""
        if self.batons is not None and id not in self.handles:
            self.batons.forget(id)

    # ---- what others need too

    def _take_value(self, done: Decision, src: int, handle: Handle, value: Value | None) -> None:
        if value is None or value.version <= handle.value.version:
            return
        if value.version <= handle.value.version + MOST_COMMITS:
            data = value.data if isinstance(value.data, bytes) else tuple(value.data)
            self._record(done, ("value", handle.id, value.version, data))
        else:
            fields: dict[str, object] = {"peer": src, "handle": handle.id}
            text = f"version {value.version} after {handle.value.version}"
            done.notes.append(Note("sync value refused", {**fields, "reason": text}))

    def _record(self, done: Decision, record: Record) -> None:
        self.apply(record)
        done.records.append(record)
