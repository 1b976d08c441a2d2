"""Which process has which owner of locks, and in which files it matters.

A POSIX owner belongs to one process, and so does a FAIR one; an open file description (OFD,
FLOCK) belongs to all processes that share it since a fork. What nobody has any more must hold
nothing: `take` tells when that is the case.

An owner that neither holds nor waits anywhere is forgotten, or the table would grow with every
file that was ever locked; only if several share it, it stays: whether it is locked or not, it
ends with the last of them.

Invariants: the two tables of belonging are each other's converse, without empty rows; an owner
that is somewhere belongs to somebody, and one that is nowhere to nobody or to several.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from libos_ipc.core.lock_words import Owner

__all__ = ["LockOwners"]

PlaceT = TypeVar("PlaceT")


class LockOwners(Generic[PlaceT]):
    """Owners, the processes that have them, and the places where they hold or wait."""

    __slots__ = ("_owners_of", "_places", "_sharers")

    def __init__(self) -> None:
        self._owners_of: dict[int, dict[Owner, None]] = {}
        self._sharers: dict[Owner, dict[int, None]] = {}
        self._places: dict[Owner, dict[PlaceT, None]] = {}

    def owners_of(self, vmid: int) -> list[Owner]:
        """What belongs to this process, the first it had first."""
        return list(self._owners_of.get(vmid, ()))

    def sharers(self, owner: Owner) -> frozenset[int]:
        """The processes that have this owner."""
        return frozenset(self._sharers.get(owner, ()))

    def is_shared(self, owner: Owner) -> bool:
        """Whether several processes have it."""
        return len(self._sharers.get(owner, ())) > 1

    def places(self, owner: Owner) -> list[PlaceT]:
        """Where it holds or waits."""
        return list(self._places.get(owner, ()))

    def give(self, vmid: int, owner: Owner) -> None:
        """The process has it, now if not before."""
        self._sharers.setdefault(owner, {})[vmid] = None
        self._owners_of.setdefault(vmid, {})[owner] = None

    def take(self, vmid: int, owner: Owner) -> bool:
        """The process has it no more. True if now nobody has."""
        sharers = self._sharers.get(owner, {})
        if vmid not in sharers:
            return False
        del sharers[vmid]
        if not sharers:
            del self._sharers[owner]
        owners = self._owners_of[vmid]
        del owners[owner]
        if not owners:
            del self._owners_of[vmid]
        if len(sharers) == 1 and owner not in self._places:
            self._forget(owner)
        return not sharers

    def on_place(self, owner: Owner, place: PlaceT, is_there: bool) -> None:
        """Whether the owner holds or waits in this place."""
        if is_there:
            self._places.setdefault(owner, {})[place] = None
            return
        places = self._places.get(owner)
        if places is not None:
            places.pop(place, None)
            if not places:
                del self._places[owner]
                places = None
        if places is None and len(self._sharers.get(owner, ())) == 1:
            self._forget(owner)

    def _forget(self, owner: Owner) -> None:
        for vmid in list(self._sharers[owner]):
            self.take(vmid, owner)

    def state(self) -> tuple[object, ...]:
        """All of it, comparable."""
        sharers = {owner: tuple(sorted(vmids)) for owner, vmids in self._sharers.items()}
        return sorted(sharers.items()), sorted(self._places)

    def check(self) -> None:
        """Assert the invariants."""
        pairs = {(vmid, owner) for vmid, owners in self._owners_of.items() for owner in owners}
        assert pairs == {(v, owner) for owner, vmids in self._sharers.items() for v in vmids}
        assert all(self._owners_of.values())
        assert all(self._sharers.values())
        assert all(self._places.values())
        assert self._places.keys() <= self._sharers.keys()
        assert all(o in self._places or len(vmids) > 1 for o, vmids in self._sharers.items())
