"""All handles of one process: which are open here, and to which of them a message goes.

What happens to a handle while it is open stands in `sync_handle`; here is how it begins and
ends. Opening is a request to the server, closing is not:

    client                                        server
       |   OPEN name                                 |
       |-------------------------------------------->|  the first opener decides on the type
       |   id                                        |
       |<--------------------------------------------|
       |   …                                         |
       |   REQUEST_CLOSE, with the value if EXCLUSIVE|
       |-------------------------------------------->|  the last close forgets the value
       |   CONFIRM_CLOSE                             |
       |<--------------------------------------------|

Between these two the client says nothing about the handle and hears nothing; opening it again
may be asked at once, and its answer comes behind the CONFIRM_CLOSE. One race is left. An agent
asks to open what another agent of its process has open and is about to close: if the server
sees the opening first, the close undoes it. Its answer then comes *before* the CONFIRM_CLOSE,
and so it is recognised: `opened` says that the request must be made once more.

A process may open a handle several times; it stays open until as many closes.

Invariants: a handle is open, closing or unknown, and only one of these.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from libos_ipc._native import HandleCell
from libos_ipc.core.sync_check import check_handle
from libos_ipc.core.sync_deposits import Deposit
from libos_ipc.core.sync_handle import Effects, LocalHandle, ignored
from libos_ipc.core.sync_mark import Mark, mark, return_to
from libos_ipc.core.sync_words import (
    Baton,
    Closed,
    ConfirmClose,
    ConfirmUpgrade,
    Data,
    Failed,
    Place,
    RefuseWait,
    RequestClose,
    RequestDowngrade,
    ServerWord,
    State,
    Value,
)
from libos_ipc.errors import IpcError, NotJoined

__all__ = ["SyncClient"]

_ON_MESSAGE: dict[type[ServerWord], Callable[[LocalHandle, Any], Effects]] = {
    RequestDowngrade: LocalHandle.on_downgrade,
    ConfirmUpgrade: LocalHandle.on_upgrade,
    RefuseWait: LocalHandle.on_refused,
}


def _no_baton(place: Place) -> Baton | None:
    return None


def _no_deposit(id: int) -> Deposit | None:
    return None


class SyncClient:
    """The handles of one process. Not thread-safe: its owner holds one lock.

    Threads are numbers from 1; tickets are hashable, and no two that wait at a time are equal.
    `max_value` is in bytes; `open_baton` gives what the server has told of, and `open_deposit`
    the place of a handle; None if they cannot.
    """

    __slots__ = ("_closing", "_handles", "max_value", "open_baton", "open_deposit")

    def __init__(
        self,
        *,
        max_value: int,
        open_baton: Callable[[Place], Baton | None] = _no_baton,
        open_deposit: Callable[[int], Deposit | None] = _no_deposit,
    ) -> None:
        self.max_value = max_value
        self.open_baton = open_baton
        self.open_deposit = open_deposit
        self._handles: dict[int, LocalHandle] = {}
        self._closing: dict[int, RequestClose] = {}

    def __len__(self) -> int:
        """How many handles are open."""
        return len(self._handles)

    # ---- opening and closing

    def opened(self, id: int) -> bool:
        """The server has answered that the handle is open here.

        False if another agent of this process has closed it since: it must be asked once more.
        """
        if id in self._closing:
            return False
        handle = self._handles.get(id)
        if handle is None:
            self._handles[id] = handle = LocalHandle(id)
            handle.deposit = self.open_deposit(id)
        else:
            handle.opened += 1
        return True

    def close(self, id: int, *, force: bool = False) -> Effects:
        """Undo one opening; the last close ends what waits here, and tells the server.

        While an agent uses the handle the last close is refused with IpcError(EBUSY), unless by
        `force`, which ends all openings at once and drops what the user has not committed.
        """
        handle = self._find(id)
        handle.take_back()
        if handle.opened > 1 and not force:
            handle.opened -= 1
            return []
        if handle.user and not force:
            text = f"closing sync handle {id}: thread {handle.user} uses it, and must unlock first"
            raise IpcError(errno.EBUSY, text)
        text = f"sync handle {id} was closed here"
        effects: Effects = [Failed(each, errno.ENOTCONN, text) for each in handle.waiting()]
        word = handle.last_word()
        said = word if word.state == State.EXCLUSIVE else word._replace(value=None)
        self._closing[id] = word  # from here on no signal handler can raise
        del self._handles[id]
        handle.opened, handle.deposit = 0, None
        return [*effects, said]

    def close_all(self) -> Effects:
        """Close every handle by force, as when the process leaves."""
        return [effect for id in list(self._handles) for effect in self.close(id, force=True)]

    # ---- locking and waiting

    def lock(
        self, id: int, thread: int, state: State, ticket: object, timed: bool = False
    ) -> Effects:
        """Get the lock for `thread`, at once or later: `ticket` is granted or fails.

        `timed` is for who gives up by itself, and so closes no cycle.
        """
        handle = self._at(id)
        if handle is None:
            return [Failed(ticket, errno.ENOTCONN, f"locking sync handle {id}: not open here")]
        return handle.lock(thread, state, ticket, timed)

    def unlock(self, id: int, thread: int, data: Data | None = None) -> Effects:
        """Give up the lock; under EXCLUSIVE perhaps with a new value.

        PermissionDenied if `thread` does not use the handle, NotJoined if it is not open;
        InvalidArgument or MessageTooLarge for `data`: then nothing has changed, the lock is
        still held.
        """
        handle = self._find(id)
        handle.take_back()
        return handle.unlock(thread, data, self.max_value)

    def put(self, id: int) -> None:
        """All that was decided is done: what nobody here uses of the handle may be taken."""
        handle = self._handles.get(id)
        if handle is not None:
            handle.put()

    def cell_of(self, id: int) -> HandleCell | None:
        """What may be locked and unlocked between two steps, until it is closed; None if it is."""
        return self._handles.get(id)

    def lock_now(self, id: int, thread: int, state: State) -> Value | None:
        """Get the lock, if that takes neither waiting nor a word: the value, or None."""
        handle = self._at(id)
        return handle.value if handle is not None and handle.lock_now(thread, state) else None

    def unlock_now(self, id: int, thread: int) -> bool:
        """Give up the lock, the value as it is, if nobody is to be told."""
        handle = self._handles.get(id)
        return handle is not None and handle.unlock_now(thread)

    def mark(self, id: int) -> Mark | None:
        """Where the handle stands before a step of it; None if it is not open here."""
        handle = self._at(id)
        return None if handle is None else mark(handle)

    def return_to(self, id: int, before: Mark | None) -> Effects:
        """That step was broken off by a signal handler that raised: it has not happened."""
        handle = self._handles.get(id)
        return [] if handle is None or before is None else return_to(handle, before)

    def withdraw(self, id: int, ticket: object) -> Effects:
        """`ticket` waits no longer, for the lock or for a change. Nothing if it is settled."""
        handle = self._at(id)
        return [] if handle is None else handle.withdraw(ticket)

    def abandon_waits(self) -> list[object]:
        """There is no server: the tickets of all who wait, who wait no longer."""
        tickets = []
        for handle in self._handles.values():
            handle.take_back()
            # From the end, so that none is served because the one before it went.
            for ticket in reversed(handle.waiting()):
                handle.withdraw(ticket)
                tickets.append(ticket)
        return tickets

    def watch(self, id: int, ticket: object, version: int) -> Effects:
        """Wait for a version newer than `version`: `ticket` is told of the first one seen here.

        For an agent that has seen that version under the lock, and does not hold it.
        """
        handle = self._at(id)
        if handle is None:
            return [Failed(ticket, errno.ENOTCONN, f"watching sync handle {id}: not open here")]
        return handle.watch(ticket, version)

    # ---- the server

    def on_message(self, word: ServerWord) -> Effects:
        """A message of the server. What fits nothing here is ignored with a note."""
        if isinstance(word, ConfirmClose):
            return [] if self._closing.pop(word.id, None) is None else [Closed(word.id)]
        handle = self._at(word.id)
        if handle is None:
            return [] if word.id in self._closing else [ignored(word, "not open here")]
        if isinstance(word, ConfirmUpgrade) and word.baton is not None:
            return handle.on_baton(word, self.open_baton(word.baton))
        return _ON_MESSAGE[type(word)](handle, word)

    def resume(self) -> Effects:
        """There is a new leader, who knows the journal: tell it the rest, and ask again.

        Nothing that the former leader said may come after this.
        """
        effects: Effects = list(self._closing.values())
        for id, handle in self._handles.items():
            handle.take_back()
            handle.deposit = self.open_deposit(id)  # which no former leader finds
            effects += handle.resume()
        return effects

    # ---- asking

    def state_of(self, id: int) -> State:
        """The state that this process has of a handle. NotJoined if it is not open here."""
        return State(self._find(id).left())

    def version_of(self, id: int) -> int:
        """The newest version of the value that has been here. NotJoined if it is not open."""
        return self._find(id).value.version

    def user_of(self, id: int) -> int:
        """The thread that uses the handle, 0 for none. NotJoined if it is not open here."""
        return self._find(id).user

    def _at(self, id: int) -> LocalHandle | None:
        """The handle, before a step of it."""
        handle = self._handles.get(id)
        if handle is not None:
            handle.take_back()
        return handle

    def _find(self, id: int) -> LocalHandle:
        handle = self._handles.get(id)
        if handle is None:
            raise NotJoined(f"sync handle {id} is not open here: it was closed, or never opened")
        return handle

    def state(self) -> tuple[object, ...]:
        """All there is, comparable; hashable if the tickets are."""
        rows = tuple(handle.row() for _, handle in sorted(self._handles.items()))
        return rows, tuple(sorted(self._closing.items()))

    def check(self) -> None:
        """Assert the invariants. O(n)."""
        assert not self._handles.keys() & self._closing.keys()
        for id, handle in self._handles.items():
            assert handle.id == id
            check_handle(handle)
