"""Memory by which processes pass EXCLUSIVE on among themselves: the leader's end, and a member's.

Each leader has a file of its own in the group's directory, made when it is first needed. It is
known by a random number, so that the files of two leaders are never taken for one another's. What
happens in it stands in native/baton.h.
"""

from __future__ import annotations

import mmap
import time
from collections import deque

from libos_ipc._native import BATON_BYTES, BATON_STRIDE, Baton
from libos_ipc.core.sync_words import Ended, Place, Value
from libos_ipc.runtime.mapped_files import MappedFiles

__all__ = ["LeadersBatons", "MembersBatons"]

#: Handles that have a baton at a time.
SLOTS = 256
_BYTES = -(-SLOTS * BATON_STRIDE // mmap.PAGESIZE) * mmap.PAGESIZE
#: Seconds that a place rests after its end, so that what was decided then is in the journal before
#: anything else is written there.
REST_S = 1.0

_NOTHING = Ended(0, False, Value(0, b""))


def _files(directory: str) -> MappedFiles:
    return MappedFiles(f"{directory}/batons", _BYTES)


class MembersBatons:
    """A member's end."""

    def __init__(self, directory: str, vmid: int) -> None:
        self._files = _files(directory)
        self._vmid = vmid
        self._opened: dict[tuple[int, int], Baton] = {}

    def open(self, place: Place) -> Baton | None:
        """The baton of which the leader has told; None if there is no memory for it."""
        where, slot, number = place
        try:
            baton = Baton(self._files.find(where), slot, number, self._vmid)
        except (OSError, ValueError):
            return None
        former = self._opened.pop((where, slot), None)
        if former is not None:
            former.release()  # it has ended, or there would not be another one in its place
        self._opened[where, slot] = baton
        return baton

    def close(self) -> None:
        """The process has left, or this is a forked child."""
        for baton in self._opened.values():
            baton.release()
        self._opened.clear()
        self._files.close()


class LeadersBatons:
    """The leader's end: `Batons` of the core. A successor ends what the former leader began.

    A process that is stopped in the middle of giving writes on when it wakes up, however late. So
    what was in use when it ended stays with its handle, which gets another baton only after that
    process has given it back.
    """

    slots = SLOTS
    rest_s = REST_S

    def __init__(self, directory: str) -> None:
        self._files = _files(directory)
        self._where = 0
        self._given: dict[Place, tuple[int, Baton]] = {}
        self._former: list[Baton] = []
        self._kept: dict[int, tuple[Baton, int]] = {}  # handle -> slot
        #: those that are free, and not before when
        self._free: deque[tuple[float, tuple[Baton, int]]] = deque()

    def begin(self, id: int, vmid: int, value: Value) -> Place | None:
        """A new one for this handle with this value, reserved for this process. None if that
        cannot be."""
        if not isinstance(value.data, bytes) or len(value.data) > BATON_BYTES:
            return None
        found = self._kept.pop(id, None) or self._next_free()
        if found is None:
            return None
        baton, slot = found
        number = baton.begin(value.version, value.data, vmid)
        if not number:
            baton.release()  # it has had its last, and is not used again
            return None
        place = (self._where, slot, number)
        self._given[place] = id, baton
        return place

    def _next_free(self) -> tuple[Baton, int] | None:
        try:
            if not self._where:
                self._prepare()
        except OSError:
            return None
        if not self._free or self._free[0][0] > time.monotonic():
            return None
        return self._free.popleft()[1]

    def _prepare(self) -> None:
        where = self._files.make()
        memory = self._files.find(where)
        self._free.extend((0.0, (Baton(memory, slot, 0, 0), slot)) for slot in range(self.slots))
        self._where = where

    def reserve(self, place: Place, vmid: int) -> bool:
        """EXCLUSIVE is for this process alone to take. False if it is not free."""
        given = self._given.get(place)
        return given is not None and given[1].reserve(vmid)

    def end(self, place: Place) -> Ended:
        """End it, or find how it was ended."""
        id, baton = self._given.pop(place, (0, None))
        ours = baton is not None
        if baton is None:  # a former leader's
            where, slot, number = place
            try:
                baton = Baton(self._files.find(where), slot, number, 0)
            except (OSError, ValueError):
                return _NOTHING
            self._former.append(baton)
        found = baton.end()
        holder, in_use, value = (0, False, (0, b"")) if found is None else found
        if ours and in_use:
            self._kept[id] = baton, place[1]
        elif ours:
            self._rest((baton, place[1]))
        return Ended(holder, in_use, Value(*value))

    def forget(self, id: int) -> None:
        """Nobody has this handle open any more."""
        kept = self._kept.pop(id, None)
        if kept is not None:
            self._rest(kept)

    def _rest(self, slot: tuple[Baton, int]) -> None:
        self._free.append((time.monotonic() + self.rest_s, slot))

    def close(self) -> None:
        """Nobody leads here any more."""
        rest = (*self._kept.values(), *(slot for _, slot in self._free))
        given = (baton for _, baton in self._given.values())
        for baton in (*given, *self._former, *(baton for baton, _ in rest)):
            baton.release()
        self._given.clear()
        self._free.clear()
        self._kept.clear()
        self._files.close()
