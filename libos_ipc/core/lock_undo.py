"""Grants that can still be undone.

Whoever waits for a lock may give up at the moment in which it is granted: the answer and the
cancellation cross. The lock must then not stay with somebody who does not know of it, and what
it replaced must come back. So what the owner had there is kept from the grant on.

Nothing tells when that is no longer needed, so memory has bounds instead: the last UNDO_KEPT
grants, and none that replaced more than UNDO_PIECES ranges. And nothing is undone that its owner
has built upon: the next thing it sets there, by whatever thread, is taken for an answer received.

Invariants: both tables hold the same grants, oldest first, no more than UNDO_KEPT.
"""

from __future__ import annotations

from typing import NamedTuple

from libos_ipc.core.lock_words import Ask, FileId, Held, Owner

__all__ = ["UNDO_KEPT", "UNDO_PIECES", "Undo", "UndoMemory"]

UNDO_KEPT = 1024
UNDO_PIECES = 64


class Undo(NamedTuple):
    """A grant after waiting, and what its owner had in that range before."""

    ask: Ask
    number: int
    before: tuple[Held, ...]


class UndoMemory:
    """The last grants, by (VMID, sequence number) of the request."""

    __slots__ = ("_by_owner", "_by_request")

    def __init__(self) -> None:
        self._by_request: dict[tuple[int, int], Undo] = {}
        self._by_owner: dict[Owner, dict[tuple[int, int], Undo]] = {}

    def __len__(self) -> int:
        return len(self._by_request)

    def get(self, src: int, seq: int) -> Undo | None:
        """The grant of this request, if it can be undone."""
        return self._by_request.get((src, seq))

    def keep(self, grant: Undo) -> None:
        """Remember a grant, and forget the oldest if they become too many."""
        if len(grant.before) > UNDO_PIECES:
            return
        key = (grant.ask.src, grant.ask.seq)
        self._by_request[key] = grant
        self._by_owner.setdefault(grant.ask.owner, {})[key] = grant
        if len(self._by_request) > UNDO_KEPT:
            self._forget(next(iter(self._by_request)))

    def on_change(self, owner: Owner, file: FileId, start: int, end: int) -> None:
        """The owner's locks from `start` to `end` of a file are not as a grant has left them."""
        grants = self._by_owner.get(owner)
        if grants:
            for key, (ask, _, _) in list(grants.items()):
                if ask.file == file and ask.start <= end and start <= ask.end:
                    self._forget(key)

    def on_gone(self, vmid: int) -> None:
        """A process that will withdraw nothing. O(all)."""
        for key in [key for key in self._by_request if key[0] == vmid]:
            self._forget(key)

    def _forget(self, key: tuple[int, int]) -> None:
        owner = self._by_request.pop(key).ask.owner
        grants = self._by_owner[owner]
        del grants[key]
        if not grants:
            del self._by_owner[owner]

    def state(self) -> tuple[object, ...]:
        """All of it, comparable."""
        return tuple(self._by_request.values())

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self) <= UNDO_KEPT
        assert all(self._by_owner.values())
        both = {key: grant for grants in self._by_owner.values() for key, grant in grants.items()}
        assert both == self._by_request
        for (src, seq), grant in self._by_request.items():
            assert (grant.ask.src, grant.ask.seq) == (src, seq)
            assert len(grant.before) <= UNDO_PIECES
