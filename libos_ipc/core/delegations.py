"""Files that the leader has given to one process each, to lock and unlock without a message.

A process that takes and gives up locks of a file again and again, while nobody else asks for
it, gets the file: a slot in memory that it shares with the leader, where it locks by itself. As
soon as anybody else asks, or the process itself asks in any other way, the leader takes the file
back, without needing the holder for it, and enters what it finds locked there into its own
table. So from outside nothing differs: the answers are the same, and so is what a death leaves.

    holder                              leader
       |   TAKE, UNLOCK, TAKE, UNLOCK …   |   nobody else asks: the file is given away
       |<---------------- FILE_DELEGATED -|
       |   locks in the slot, by itself   |
       |                                  |<--- TAKE, of another process
       |<----------------- FILE_RECALLED -|   the slot is closed and read, at once
       |- FILE_RETURNED ----------------->|   from now on the slot may be used again

Of a file, the locks of FLOCK are given by themselves, and all others together. What is locked by a
description that a forked child may have is never locked in a slot: a process that forks goes to the
leader with those that it had (`on_fork` for what it had locked already), and others are found
when their handle is known to be shared. A slot has numbers of its own for its grants, taken from
the leader's beforehand, so that fencing tokens grow whoever grants. Between recall and return
nobody writes the slot: a holder that was stopped in the middle of a change would write into what
is another file's by then.

With each lock stands by which descriptor it was taken, so that the leader, once it has the file
back, can find out that this was closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from libos_ipc.core.codes import Code
from libos_ipc.core.descriptors import Spot
from libos_ipc.core.lock_passing import TurnsMemory
from libos_ipc.core.lock_table import Place, place_of
from libos_ipc.core.lock_words import EOF, NO_WAIT, READ, WRITE, Ask, Kind, Owner
from libos_ipc.core.roster import Record, Roster
from libos_ipc.core.vocabulary import Effects, Journal, Say, State

__all__ = ["NUMBERS", "SLOTS", "STREAK", "Delegations", "Entry", "Memory"]

#: Uncontested acquisitions of a file in a row after which it is given away.
STREAK = 8
#: Slots of a process: more files are not given to it at a time.
SLOTS = 32
#: Numbers that a slot has for its grants.
NUMBERS = 1 << 24
#: Files whose acquisitions are counted.
_WATCHED = 4096


class Entry(NamedTuple):
    """A lock in a slot. `descriptor` and `duplicate` are a `Spot`."""

    kind: int
    handle: int  #: 0 for POSIX
    type: int
    start: int
    end: int
    number: int
    thread: int
    descriptor: int
    duplicate: int

    def meets(self, type: int, start: int, end: int) -> bool:
        """Whether it is in the way of another owner's lock."""
        return self.start <= end and start <= self.end and WRITE in (type, self.type)


class Memory(Protocol):
    """The slots, at the leader; and where processes take turns."""

    @property
    def turns(self) -> TurnsMemory | None:
        """None if nothing is handed on."""
        ...

    def begin(self, epoch: int, vmid: int, slot: int, first: int, last: int) -> bool:
        """Give an empty slot with these numbers to the process. False if that cannot be, or if
        nobody leads in this epoch any more: then a successor may have given it."""
        ...

    def recall(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        """Close the slot: what is locked in it, as its holder has written it."""
        ...

    def look(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        """What is locked in it, while the holder goes on."""
        ...

    def drop(self, vmid: int) -> None:
        """The process is gone."""
        ...

    def close(self) -> None:
        """Nobody leads here any more."""
        ...


class Grant(NamedTuple):
    """A file that has been given away."""

    vmid: int
    slot: int
    first: int
    last: int
    kind: int  #: of the locks after which it was given
    path: bytes


class Delegations:
    """Who has which file. Without `memory` nothing is given away."""

    def __init__(self, roster: Roster, memory: Memory | None) -> None:
        self._roster = roster
        self._memory = memory
        self._streaks: dict[Place, tuple[int, int]] = {}  # VMID, how often in a row

    # ---- giving

    def on_unlock(self, ask: Ask) -> Effects:
        """A process has given up a lock of its own accord: perhaps the file becomes its."""
        if self._memory is None or not self._is_its_own(ask):
            return []
        place = place_of(ask)
        vmid, count = self._streaks.get(place, (ask.src, 0))
        count = count + 1 if vmid == ask.src else 1
        if len(self._streaks) >= _WATCHED:
            self._streaks.clear()
        self._streaks[place] = ask.src, count
        if count < STREAK or self._roster.locks.spaces.get(place):
            return []
        return self._give(place, ask)

    def _is_its_own(self, ask: Ask) -> bool:
        """Whether nobody else has what it locks by."""
        if ask.owner.kind == Kind.POSIX:
            return True
        return ask.owner.id >> 32 == ask.src and not self._roster.locks.owners.is_shared(ask.owner)

    def _give(self, place: Place, ask: Ask) -> Effects:
        roster, vmid = self._roster, ask.src
        process = roster.processes.get(vmid)
        slot = self._free_slot(vmid)
        if slot is None or process is None or process.state is not State.RUNNING:
            return []
        first = roster.locks.next_number
        last = first + NUMBERS - 1
        assert self._memory is not None
        if not self._memory.begin(roster.epoch, vmid, slot, first, last):
            return []
        del self._streaks[place]
        what = (vmid, slot, first, last, int(ask.owner.kind), ask.path)
        given = self._record(("give", *place, *what))
        return [given, Say(vmid, Code.FILE_DELEGATED, (slot, *place))]

    def _free_slot(self, vmid: int) -> int | None:
        taken = self._roster.files.slots.get(vmid, {})
        return next((slot for slot in range(SLOTS) if slot not in taken), None)

    # ---- taking back

    def on_ask(self, src: int, place: Place, now: float) -> Effects:
        """Somebody asks the leader for a lock here, or what is locked."""
        streak = self._streaks.get(place)
        if streak is not None and streak[0] != src:
            del self._streaks[place]
        return self._take_back(place, now) if place in self._roster.files.given else []

    def on_clear(self, vmid: int, now: float) -> Effects:
        """A process gives up what it has locked as a process."""
        return self._take_all_back(vmid, (Kind.POSIX,), now)

    def on_fork(self, vmid: int, now: float) -> Effects:
        """A child of this process is there, with its descriptions: to be called before they are
        the child's, too."""
        return self._take_all_back(vmid, (Kind.OFD, Kind.FLOCK), now)

    def on_gone(self, vmid: int, now: float) -> Effects:
        """The process is gone, or has exec'ed: to be called before it is, since of what it has
        locked by itself something may stay."""
        effects = self._take_all_back(vmid, (Kind.POSIX, Kind.OFD, Kind.FLOCK), now)
        if self._memory is not None:
            self._memory.drop(vmid)
        return [effect for effect in effects if isinstance(effect, Journal)]

    def _take_all_back(self, vmid: int, kinds: tuple[Kind, ...], now: float) -> Effects:
        """Of a process every file in which it has locks of these kinds."""
        if vmid not in self._roster.files.slots:
            return []
        effects: Effects = []
        for place, (holder, slot, *_) in sorted(self._roster.files.given.items()):
            assert self._memory is not None
            if holder == vmid and any(e.kind in kinds for e in self._memory.look(vmid, slot)):
                effects += self._take_back(place, now)
        return effects

    def _take_back(self, place: Place, now: float) -> Effects:
        grant = Grant(*self._roster.files.given[place])
        assert self._memory is not None
        entries = self._memory.recall(grant.vmid, grant.slot)  # first: it may raise
        effects: Effects = [self._record(("recall", *place))]
        for entry in entries:
            ask = self._import(grant, place, entry)
            if ask is not None:
                spot = Spot(entry.descriptor, entry.duplicate)
                if spot.fd >= 0:
                    effects.append(self._record(_at(ask, spot)))
                effects.append(self._record(("lock", ask.plain(), entry.number, now)))
        return [*effects, Say(grant.vmid, Code.FILE_RECALLED, (grant.slot,))]

    def _import(self, grant: Grant, place: Place, entry: Entry) -> Ask | None:
        """What the holder says it has locked, if that can be."""
        process = self._roster.processes.get(grant.vmid)
        if process is None or not _is_sound(grant, place, entry):
            return None
        kind, handle, type, start, end, _, thread, *_ = entry
        owner = Owner(Kind(kind), process.pid if kind == Kind.POSIX else handle)
        known = (NO_WAIT, process.pid, thread or 1, grant.path)
        ask = Ask(grant.vmid, 0, place[:2], owner, type, start, end, *known)
        space = self._roster.locks.spaces.get(place)
        return ask if not (space and space.blocked(ask, False)) else None

    def on_returned(self, src: int, slot: int) -> Effects:
        """The holder has heard that a slot is closed."""
        if self._roster.files.slots.get(src, {}).get(slot) is not False:
            return []
        return [self._record(("back", src, slot))]

    def close(self) -> None:
        """Nobody leads here any more."""
        if self._memory is not None:
            self._memory.close()

    # ---- asking

    def table(self) -> Iterator[tuple[Place, Grant, tuple[Entry, ...]]]:
        """Where something has been given away, and what is locked there."""
        for place, fields in sorted(self._roster.files.given.items()):
            grant = Grant(*fields)
            assert self._memory is not None
            found = self._memory.look(grant.vmid, grant.slot)
            yield place, grant, tuple(each for each in found if _is_sound(grant, place, each))

    def _record(self, record: Record) -> Journal:
        self._roster.apply(record)
        return Journal(record)


def _is_sound(grant: Grant, place: Place, entry: Entry) -> bool:
    """Whether a process may have locked this in a slot. It wrote that itself."""
    kind, handle, type, start, end, number, *_ = entry
    return (
        type in (READ, WRITE)
        and start <= end <= EOF
        and grant.first <= number <= grant.last
        and kind in ((Kind.FLOCK,) if place[2] else (Kind.POSIX, Kind.OFD, Kind.FAIR))
        and handle >> 32 == (0 if kind == Kind.POSIX else grant.vmid)
        and (kind != Kind.FLOCK or (start, end) == (0, EOF))
    )


def _at(ask: Ask, spot: Spot) -> Record:
    """By which descriptor this is locked."""
    kind, handle = ask.owner
    key = (0, *ask.file) if kind == Kind.POSIX else (handle, 0, 0)
    return ("at", ask.src, int(kind), *key, *spot)
