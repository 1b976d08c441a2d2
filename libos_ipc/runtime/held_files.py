"""Files that the leader has given to one process to lock by itself: both ends of the memory.

Each member that was ever given a file has a small file of slots in the group's directory, which the
leader makes and both map. What is done in a slot stands in native/delegation.h.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from libos_ipc._native import BUSY, FULL, GONE, SLOT_BYTES, Delegation, same_file
from libos_ipc.core.delegations import SLOTS, Entry
from libos_ipc.core.descriptors import NOWHERE, Spot
from libos_ipc.core.lock_edges import in_words
from libos_ipc.core.lock_table import Place
from libos_ipc.core.lock_words import NO_WAIT, FileId, Kind, Owner, place
from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import IpcError, WouldBlock
from libos_ipc.runtime.journal_file import read_head
from libos_ipc.runtime.mapped_files import map_file
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.turns import LeadersTurns, MembersTurns

__all__ = ["Fork", "HeldFiles", "Locker", "SharedSlots", "What"]

#: (type, start, end)
What: TypeAlias = tuple[int, int, int]


class Locker(NamedTuple):
    """Who locks what file, and by what."""

    file: FileId
    kind: Kind
    handle: int
    thread: int
    spot: Spot = NOWHERE

    @property
    def place(self) -> Place:
        """Where it is decided."""
        return (*self.file, self.kind == Kind.FLOCK)


#: A slot begins at a multiple of a cache line.
_STRIDE = -(-SLOT_BYTES // 64) * 64
_FILE_BYTES = -(-SLOTS * _STRIDE // mmap.PAGESIZE) * mmap.PAGESIZE


class _Slots:
    """The mapped slots of one member."""

    def __init__(self, path: str, flags: int) -> None:
        self._map = map_file(path, _FILE_BYTES, flags)

    def slot(self, number: int) -> Delegation:
        """One of them, to be closed before all are."""
        return Delegation(self._map, number * _STRIDE)

    def close(self) -> None:
        """Unmap all."""
        self._map.close()


class SharedSlots:
    """The leader's end."""

    def __init__(self, directory: GroupDir) -> None:
        self._path_of = directory.slots
        self._journal_of = directory.journal
        self.turns = LeadersTurns(directory.path)
        self._members: dict[int, tuple[_Slots, dict[int, Delegation]]] = {}

    def begin(self, epoch: int, vmid: int, slot: int, first: int, last: int) -> bool:
        """Give an empty slot with these numbers to the process. False if there is no memory, or
        nobody leads in this epoch any more.

        This comes before it is in the journal, and so must look there itself: who was stopped, and
        goes on with what it was asked then, would find its successor's slots empty.
        """
        try:
            opened = self._slot(vmid, slot)
            head = read_head(self._journal_of(epoch))
            if head is None or head.sealed:
                return False
            opened.begin(first, last)
        except OSError:
            return False
        return True

    def _slot(self, vmid: int, number: int) -> Delegation:
        if vmid not in self._members:  # made here, or by who led before us
            self._members[vmid] = _Slots(self._path_of(vmid), os.O_CREAT), {}
        slots, opened = self._members[vmid]
        if number not in opened:
            opened[number] = slots.slot(number)
        return opened[number]

    def recall(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        """Close the slot: what is locked in it, as its holder has written it."""
        return tuple(map(Entry._make, self._slot(vmid, slot).recall()[1]))

    def look(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        """What is locked in it, while the holder goes on."""
        return tuple(map(Entry._make, self._slot(vmid, slot).look()[1]))

    def drop(self, vmid: int) -> None:
        """The process is gone."""
        slots, opened = self._members.pop(vmid, (None, {}))
        for slot in opened.values():
            slot.close()
        if slots is not None:
            slots.close()

    def close(self) -> None:
        """The group is over, or this is a child that a leader has forked."""
        for vmid in list(self._members):
            self.drop(vmid)


class Fork:
    """A fork of which the leader may not know yet: the ticket of a request that goes behind the
    news of the child.

    The child gets what is locked by a description when the leader hears of it. What was locked
    after the fork and before that would be taken for the child's, too; so in between locks by a
    description are for the leader to give.
    """

    def __init__(self, forks: dict[Fork, None]) -> None:
        self._forks = forks
        #: the request's number, once it has been sent
        self.seq = 0

    def resolve(self, payload: Body) -> None:
        """The leader knows."""
        self.end()

    def fail(self, error: IpcError) -> None:
        """There is no leader, or the group is closed here."""
        self.end()

    def end(self) -> None:
        """There is no child that it could hear of."""
        self._forks.pop(self, None)


class HeldFiles:
    """The holder's end. Any thread; a slot is changed in one step, under the interpreter lock."""

    def __init__(self, directory: GroupDir, vmid: int) -> None:
        self._path = directory.slots(vmid)
        self._vmid = vmid
        #: files that we lock in turns with others
        self.turns = MembersTurns(directory.path)
        self._slots: _Slots | None = None
        self._by_place: dict[Place, Delegation] = {}
        self._opened: dict[int, tuple[Place, Delegation]] = {}
        #: whether we were ever given anything
        self.used = False
        #: under way, or not known to the leader
        self._forks: dict[Fork, None] = {}

    def open(self, slot: int, device: int, inode: int, flock: bool) -> None:
        """The leader has given us this file. Under the session's lock."""
        self.used = True
        try:
            if self._slots is None:
                self._slots = _Slots(self._path, 0)
            opened = self._slots.slot(slot)
            self._by_place[device, inode, flock] = opened
            self._opened[slot] = (device, inode, flock), opened
        except (OSError, ValueError):
            pass  # then we go on asking the leader, who takes it back

    def open_turns(self, where: int, place: int, me: int, device: int, inode: int) -> None:
        """The same of a file that we lock in turns with others."""
        self.used = True
        self.turns.open(where, place, me, device, inode)

    def close_slot(self, slot: int) -> None:
        """The leader has taken it back. Under the session's lock.

        Whoever has it in hand finds it closed: it may be another file's soon.
        """
        place, opened = self._opened.pop(slot, (None, None))
        if opened is not None and place is not None:
            opened.close()
            if self._by_place.get(place) is opened:
                del self._by_place[place]

    def begin_fork(self) -> Fork:
        """A fork is about to happen. Takes no lock."""
        fork = Fork(self._forks)
        self._forks[fork] = None
        return fork

    def has(self, place: Place) -> bool:
        """Whether we may lock here by ourselves, as far as we know."""
        return place in self._by_place

    def slot(self, place: Place) -> Delegation | None:
        """Where we lock by ourselves, if we do."""
        return self._by_place.get(place)

    def set(self, locker: Locker, what: What) -> int | None:
        """Lock or unlock by ourselves: the number of the grant, 0 for an unlocking. None if that
        is for the leader to do."""
        done = self._set(locker, what)
        return done if done >= 0 else None

    def serve(self, locker: Locker, what: What, how: int, path: Callable[[], bytes]) -> int | None:
        """The same for a request that may wait. WouldBlock if it would not, and what is in its way
        is our own process's and certainly still open."""
        done = self._set(locker, what)
        if done == BUSY and how == NO_WAIT:
            found = self._in_the_way(locker, what)
            if found is not None:
                name = path()
                holder = in_words(Owner(found.kind, found.handle), self._vmid, found.thread)
                theirs = place(found.type, found.start, found.end, name)
                raise WouldBlock(f"{place(*what, name)}: {holder} holds {theirs}")
        return done if done >= 0 else None

    def is_free_of(self, locker: Locker) -> bool:
        """Whether that certainly has nothing here."""
        owner = locker.kind, locker.handle
        entries = self._look(locker.place)
        return entries is not None and owner not in {entry[:2] for entry in entries}

    def _set(self, locker: Locker, what: What) -> int:
        slot = self._by_place.get(locker.place)
        if slot is None:
            return GONE
        if self._forks and locker.kind in (Kind.OFD, Kind.FLOCK):
            return FULL
        try:
            done = slot.set(locker.kind, locker.handle, *what, locker.thread, *locker.spot)
        except ValueError:
            return GONE  # closed by another thread
        if done == GONE:
            self._by_place.pop(locker.place, None)
        return done

    def _look(self, place: Place) -> tuple[Entry, ...] | None:
        """What we have locked here by ourselves; None if that is the leader's by now."""
        slot = self._by_place.get(place)
        try:
            return None if slot is None else tuple(map(Entry._make, slot.look()[1]))
        except ValueError:
            return None  # closed by another thread

    def _in_the_way(self, locker: Locker, what: What) -> Entry | None:
        """What stands in the way of a request; None if that has to be looked into, for one because
        a refused conversion of FLOCK loses what is held."""
        found = None
        for entry in self._look(locker.place) or ():
            if (entry.kind, entry.handle) == (locker.kind, locker.handle):
                if entry.kind == Kind.FLOCK:
                    return None
            elif entry.meets(*what) and _is_certainly_open(entry):
                found = entry
        return found

    def close(self) -> None:
        """Give everything back: the process has left, or this is a forked child."""
        self.turns.close()
        self._by_place.clear()
        for _, opened in self._opened.values():
            opened.close()
        self._opened.clear()
        if self._slots is not None:
            self._slots.close()
            self._slots = None


def _is_certainly_open(entry: Entry) -> bool:
    """Whether nothing has to be found out about a lock of our own process's."""
    if entry.kind == Kind.FAIR:
        return True
    try:
        me = os.getpid()
        return entry.duplicate >= 0 and same_file(me, entry.descriptor, me, entry.duplicate)
    except OSError:
        return False
