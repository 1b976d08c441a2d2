"""File locks that processes hand on among themselves: when that begins, and how it ends.

A lock that goes from one process to another costs each of them a request, and the leader two
decisions. So when a file has been locked in turns by the same two processes for a while, the leader
gives them *turns*: memory with a queue, at whose head is who may have the lock. Who wants it goes
to the end of the queue by itself, who gives it back wakes the next. This is for locks of whole
files, one acquisition each (FAIR, WRITE), which is what programs contend for.

    client 2                         leader                         client 3
       |  UNLOCK                       |                               | waits
       |------------------------------>|                               |
       |                               |  FILE_IN_TURNS, FILE_LOCK_TAKE answered
       |  FILE_IN_TURNS, answered      |------------------------------>|  has the lock
       |<------------------------------|                               |
       |  waits in turns, has it, gives it to 3, waits, …              |

They end as soon as the leader is asked for anything in that file, by whomever; or for another lock
by one of these processes, where that would have to wait; or when one of them is gone. Who waits for
more than a moment asks the leader, too, and is then looked for in cycles. The end needs nobody's
help: the head that had taken the lock has it in the leader's table from then on, and those behind
it wait there, in their order, under the handles of their acquisitions: their own requests take
these places when they come.

While there are turns the table has nothing of the file. The journal knows of them, and their memory
outlives the leader, so that a successor goes on with them, and ends them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.lock_table import place_of
from libos_ipc.core.lock_words import EOF, UNLOCK, WAIT, WAIT_TIMED, WRITE, Ask, FileId, Kind, Owner
from libos_ipc.core.roster import Record, Roster
from libos_ipc.core.vocabulary import Effects, Journal, Say, State

__all__ = ["MOVES", "Found", "LockPassing", "Turn", "TurnsMemory"]

#: Hand-overs between the same two processes in a row after which there are turns.
MOVES = 4
#: As many more are wanted, by whomever, after turns that were hardly used.
WASTED = 32
#: Numbers for the grants of one file's turns.
NUMBERS = 1 << 24
#: Files whose hand-overs are counted.
_WATCHED = 1024


class Turn(NamedTuple):
    """A process in the queue, and what it wrote of its acquisition there."""

    which: int  #: of those who were told of these turns, from 1
    handle: int
    thread: int
    wait: int
    number: int


class Found(NamedTuple):
    """A queue. `taken`: its head has the lock."""

    taken: bool
    queue: tuple[Turn, ...]


class TurnsMemory(Protocol):
    """The memory, at the leader."""

    def begin(self, first: Turn, last: int) -> tuple[int, int] | None:
        """New ones, with the lock as the first has it: where. None if there is no memory."""
        ...

    def look(self, where: int, place: int) -> Found:
        """What is there, while they go on."""
        ...

    def end(self, where: int, place: int) -> Found:
        """What is there, and nobody changes it any more. OSError if that cannot be seen now."""
        ...

    def drop(self, where: int) -> None:
        """All that was begun in this file has ended."""
        ...

    def close(self) -> None:
        """Nobody leads here any more."""
        ...


class Given(NamedTuple):
    """A file whose lock is handed on."""

    where: int
    place: int
    first: int
    last: int
    path: bytes
    vmids: tuple[int, ...]


#: (turn, its VMID, whether it has the lock)
Standing: TypeAlias = tuple[Turn, int, bool]


class LockPassing:
    """Where there are turns. Without `memory` nowhere."""

    def __init__(self, roster: Roster, memory: TurnsMemory | None) -> None:
        self._roster = roster
        self._memory = memory
        self._moves: dict[FileId, tuple[frozenset[int], int]] = {}

    # ---- beginning

    def on_unlock(self, ask: Ask) -> Effects:
        """A process has given up a lock: perhaps the one who has it now hands it on."""
        if self._memory is None or ask.owner.kind != Kind.FAIR:
            return []
        space = self._roster.locks.spaces.get(place_of(ask))
        if space is None or len(space.waiters) or len(space.ranges) != 1:
            return []
        ((owner, held),) = space.ranges
        whole = (owner.kind, held.type, held.start, held.end) == (Kind.FAIR, WRITE, 0, EOF)
        if not whole or held.vmid == ask.src:
            return []
        pair = frozenset((held.vmid, ask.src))
        before, count = self._moves.pop(ask.file, (pair, 0))
        count = count + 1 if before == pair or count < 0 else 1
        if len(self._moves) >= _WATCHED:
            self._moves.clear()
        self._moves[ask.file] = pair, count
        if count < MOVES or not all(map(self._is_running, pair)):
            return []
        ours = Ask(
            held.vmid, 0, ask.file, owner, UNLOCK, 0, EOF, 0, held.pid, held.thread, held.path
        )
        return self._begin(ours, held.number, (held.vmid, ask.src))

    def _is_running(self, vmid: int) -> bool:
        process = self._roster.processes.get(vmid)
        return process is not None and process.state is State.RUNNING

    def _begin(self, holds: Ask, number: int, vmids: tuple[int, ...]) -> Effects:
        """The lock that is held goes out of the table, and into memory."""
        assert self._memory is not None
        last = self._roster.locks.next_number + NUMBERS
        there = self._memory.begin(Turn(1, holds.owner.id, holds.thread, WAIT, number), last)
        if there is None:
            return []
        effects: Effects = [
            self._record(("lock", holds.plain(), 0, 0.0)),
            self._record(("turns", *holds.file, *there, number, last, holds.path, vmids)),
        ]
        for which, vmid in enumerate(vmids, 1):
            effects.append(Say(vmid, Code.FILE_IN_TURNS, (*there, which, *holds.file)))
        return effects

    # ---- ending

    def on_ask(self, file: FileId, now: float) -> Effects:
        """Somebody asks the leader for a lock here, or what is locked."""
        return self._end(file, now) if file in self._roster.files.turns else []

    def on_wait(self, vmid: int, now: float) -> Effects:
        """This process is about to wait for another lock, and may have locks in turns."""
        return [effect for file in self._files_of(vmid) for effect in self._end(file, now)]

    def on_gone(self, vmid: int, now: float) -> Effects:
        """The process is gone, or has exec'ed: to be called before it is."""
        return self.on_wait(vmid, now)

    def _files_of(self, vmid: int) -> list[FileId]:
        turns = self._roster.files.turns
        return sorted(file for file, fields in turns.items() if vmid in fields[-1]) if turns else []

    def _end(self, file: FileId, now: float) -> Effects:
        assert self._memory is not None
        given = Given(*self._roster.files.turns[file])
        taken, queue = self._memory.end(given.where, given.place)  # first: it may raise
        effects: Effects = [self._record(("turned", *file))]
        locks = self._roster.locks
        most = given.first
        for turn, vmid, has_it in self._sound(given, taken, queue):
            ask = self._ask(file, given, turn, vmid)
            if not has_it:  # its own request is on its way: see `FileLocks.claim`
                effects += map(Journal, locks.set(ask, now).records)
                continue
            believed = given.first <= turn.number <= given.last
            number = turn.number if believed else locks.next_number
            most = max(most, number)
            effects.append(self._record(("lock", ask._replace(seq=0).plain(), number, now)))
        if most - given.first < WASTED:
            self._moves[file] = frozenset(given.vmids), -WASTED
        if all(fields[0] != given.where for fields in self._roster.files.turns.values()):
            self._memory.drop(given.where)
        return effects

    def _sound(self, given: Given, taken: bool, queue: tuple[Turn, ...]) -> Iterator[Standing]:
        """Those in the queue who can be, and whether they have the lock, by their own word."""
        for place, turn in enumerate(queue):
            vmid = given.vmids[turn.which - 1] if turn.which <= len(given.vmids) else 0
            if turn.handle >> 32 == vmid and vmid in self._roster.processes:
                yield turn, vmid, taken and place == 0

    def _ask(self, file: FileId, given: Given, turn: Turn, vmid: int) -> Ask:
        """The request of one in the queue, by the number of its handle, which no request has."""
        owner, pid = Owner(Kind.FAIR, turn.handle), self._roster.processes[vmid].pid
        wait = WAIT_TIMED if turn.wait == WAIT_TIMED else WAIT
        known = (wait, pid, turn.thread or 1, given.path)
        return Ask(vmid, turn.handle, file, owner, WRITE, 0, EOF, *known)

    def close(self) -> None:
        """Nobody leads here any more."""
        if self._memory is not None:
            self._memory.close()

    # ---- asking

    def table(self) -> Iterator[tuple[FileId, list[tuple[Ask, bool]]]]:
        """Files that have turns, and who has or waits for the lock there."""
        for file, fields in sorted(self._roster.files.turns.items()):
            given = Given(*fields)
            assert self._memory is not None
            found = self._sound(given, *self._memory.look(given.where, given.place))
            yield file, [(self._ask(file, given, turn, vmid), held) for turn, vmid, held in found]

    def _record(self, record: Record) -> Journal:
        self._roster.apply(record)
        return Journal(record)
