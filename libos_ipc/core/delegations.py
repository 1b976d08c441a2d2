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

Only locks of acquisitions (FAIR) are delegated: others are shared by forks, merged and split. A
slot has numbers of its own for its grants, taken from the leader's beforehand, so that fencing
tokens grow whoever grants. Between recall and return nobody writes the slot: a holder that was
stopped in the middle of a change would write into what is another file's by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.lock_words import EOF, NO_WAIT, READ, WRITE, Ask, FileId, Kind, Owner
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

#: (handle, type, start, end, number, thread)
Entry: TypeAlias = tuple[int, int, int, int, int, int]


class Memory(Protocol):
    """The slots, at the leader."""

    def begin(self, vmid: int, slot: int, first: int, last: int) -> bool:
        """Give an empty slot with these numbers to the process. False if that cannot be."""
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
    path: bytes


class Delegations:
    """Who has which file. Without `memory` nothing is given away."""

    def __init__(self, roster: Roster, memory: Memory | None) -> None:
        self._roster = roster
        self._memory = memory
        self._streaks: dict[FileId, tuple[int, int]] = {}  # VMID, how often in a row

    # ---- giving

    def on_unlock(self, ask: Ask) -> Effects:
        """A process has given up a lock of its own accord: perhaps the file becomes its."""
        if self._memory is None or ask.owner.kind != Kind.FAIR:
            return []
        vmid, count = self._streaks.get(ask.file, (ask.src, 0))
        count = count + 1 if vmid == ask.src else 1
        if len(self._streaks) >= _WATCHED:
            self._streaks.clear()
        self._streaks[ask.file] = ask.src, count
        if count < STREAK or self._roster.locks.spaces.get((*ask.file, False)):
            return []
        return self._give(ask)

    def _give(self, ask: Ask) -> Effects:
        roster, vmid = self._roster, ask.src
        process = roster.processes.get(vmid)
        slot = self._free_slot(vmid)
        if slot is None or process is None or process.state is not State.RUNNING:
            return []
        first = roster.locks.next_number
        last = first + NUMBERS - 1
        assert self._memory is not None
        if not self._memory.begin(vmid, slot, first, last):
            return []
        del self._streaks[ask.file]
        given = self._record(("give", *ask.file, vmid, slot, first, last, ask.path))
        return [given, Say(vmid, Code.FILE_DELEGATED, (slot, *ask.file))]

    def _free_slot(self, vmid: int) -> int | None:
        taken = self._roster.slots.get(vmid, {})
        return next((slot for slot in range(SLOTS) if slot not in taken), None)

    # ---- taking back

    def on_ask(self, src: int, file: FileId, now: float) -> Effects:
        """Somebody asks the leader for a lock of this file, or what is locked."""
        streak = self._streaks.get(file)
        if streak is not None and streak[0] != src:
            del self._streaks[file]
        if file not in self._roster.given:
            return []
        grant = Grant(*self._roster.given[file])
        effects: Effects = [self._record(("recall", *file))]
        assert self._memory is not None
        for entry in self._memory.recall(grant.vmid, grant.slot):
            ask = self._import(grant, file, entry)
            if ask is not None:
                effects.append(self._record(("lock", ask.plain(), entry[4], now)))
        return [*effects, Say(grant.vmid, Code.FILE_RECALLED, (grant.slot,))]

    def _import(self, grant: Grant, file: FileId, entry: Entry) -> Ask | None:
        """What the holder says it has locked, if that can be."""
        handle, type, start, end, number, thread = entry
        process = self._roster.processes.get(grant.vmid)
        sound = type in (READ, WRITE) and start <= end <= EOF and handle >> 32 == grant.vmid
        if process is None or not sound or not grant.first <= number <= grant.last:
            return None
        owner = Owner(Kind.FAIR, handle)
        known = (NO_WAIT, process.pid, thread or 1, grant.path)
        ask = Ask(grant.vmid, 0, file, owner, type, start, end, *known)
        space = self._roster.locks.spaces.get((*file, False))
        return ask if not (space and space.blocked(ask, False)) else None

    def on_returned(self, src: int, slot: int) -> Effects:
        """The holder has heard that a slot is closed."""
        if self._roster.slots.get(src, {}).get(slot) is not False:
            return []
        return [self._record(("back", src, slot))]

    def on_gone(self, vmid: int) -> None:
        """The process is gone, and its slots with it."""
        if self._memory is not None:
            self._memory.drop(vmid)

    def close(self) -> None:
        """Nobody leads here any more."""
        if self._memory is not None:
            self._memory.close()

    # ---- asking

    def table(self) -> Iterator[tuple[FileId, Grant, tuple[Entry, ...]]]:
        """Each file given away, and what is locked in it."""
        for file, fields in sorted(self._roster.given.items()):
            grant = Grant(*fields)
            assert self._memory is not None
            yield file, grant, self._memory.look(grant.vmid, grant.slot)

    def _record(self, record: Record) -> Journal:
        self._roster.apply(record)
        return Journal(record)
