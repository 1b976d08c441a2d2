"""File locks that processes hand on among themselves: when that begins, and how it ends.

A lock that goes from one process to another costs each of them a request, and the leader two
decisions. So when a lock has gone from process to process for a while, the leader gives them
*turns*: memory with a queue, at whose head is who may have the lock. Who wants it goes to the end
of the queue by itself, who gives it back wakes the next. This is for locks of whole files, one
acquisition each (FAIR, WRITE), which is what programs contend for.

    client 2                         leader                         client 3
       |  UNLOCK                       |                               | waits
       |------------------------------>|                               |
       |                               |  FILE_IN_TURNS, FILE_LOCK_TAKE answered
       |  FILE_IN_TURNS, answered      |------------------------------>|  has the lock
       |<------------------------------|                               |
       |  waits in turns, has it, gives it to 3, waits, …              |

Who waits at that moment is in the queue already; its answer, with number 0, sends it there. So does
that to a process that asks for the lock later, and takes turns from then on. They end as soon as
the leader is asked for anything else in that file, or by one of these processes for anything; or by
one of them for another lock that it has to wait for; or when one of them is gone. Who waits for
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

from libos_ipc._native import MOST_TURNS
from libos_ipc.core.codes import Code
from libos_ipc.core.lock_answers import LockAnswers
from libos_ipc.core.lock_table import place_of
from libos_ipc.core.lock_words import (
    EOF,
    NO_WAIT,
    UNLOCK,
    WAIT,
    WAIT_TIMED,
    WRITE,
    Ask,
    Decision,
    FileId,
    Kind,
    Owner,
)
from libos_ipc.core.roster import Record, Roster
from libos_ipc.core.vocabulary import Answer, Effects, Journal, Say, State

__all__ = ["MOVES", "Found", "LockPassing", "Turn", "TurnsMemory"]

#: Hand-overs from one process to another after which there are turns.
MOVES = 4
#: As many more are wanted after turns that were hardly used.
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

    def begin(self, queue: tuple[Turn, ...], last: int) -> tuple[int, int] | None:
        """New ones, where the first has the lock: where. None if there is no memory."""
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

    def __init__(self, roster: Roster, memory: TurnsMemory | None, answers: LockAnswers) -> None:
        self._roster = roster
        self._answers = answers
        self._memory = memory
        self._moves: dict[FileId, int] = {}
        #: where turns have ended since others began
        self._ended_in: set[int] = set()

    # ---- beginning

    def on_unlock(self, ask: Ask) -> Effects:
        """A process has given up a lock: perhaps the one who has it now hands it on."""
        if self._memory is None or ask.owner.kind != Kind.FAIR:
            return []
        space = self._roster.locks.spaces.get(place_of(ask))
        if space is None or len(space.ranges) != 1:
            return []
        ((owner, held),) = space.ranges
        what = (held.type, held.start, held.end, WAIT)
        holds = Ask(held.vmid, 0, ask.file, owner, *what, held.pid, held.thread, held.path)
        waiters = [waiter.ask for waiter in space.waiters]
        if held.vmid == ask.src or not all(map(_can_be_handed, (holds, *waiters))):
            return []
        count = self._moves.get(ask.file, 0) + 1
        if len(self._moves) >= _WATCHED:
            self._moves.clear()
        self._moves[ask.file] = count
        return self._begin(holds, held.number, waiters, ask.src) if count >= MOVES else []

    def _begin(self, holds: Ask, number: int, waiters: list[Ask], last_one: int) -> Effects:
        """What is held and who waits goes out of the table, and into memory."""
        assert self._memory is not None
        asks, file = [holds, *waiters], holds.file
        vmids = tuple(dict.fromkeys((*(ask.src for ask in asks), last_one)))
        if vmids[: len(asks)] != tuple(ask.src for ask in asks) or len(vmids) > MOST_TURNS:
            return []  # of a process two are there
        if not all(map(self._is_running, vmids)):
            return []
        rows = ((ask.owner.id, ask.thread, ask.wait) for ask in asks)
        queue = [Turn(which, *row, 0) for which, row in enumerate(rows, 1)]
        queue[0] = queue[0]._replace(number=number)
        last = self._roster.locks.next_number + NUMBERS
        self._tidy(self._memory)
        there = self._memory.begin(tuple(queue), last)
        if there is None:
            return []
        effects: Effects = [self._record(("left", ask.src, ask.seq)) for ask in waiters]
        effects.append(self._record(("lock", holds._replace(type=UNLOCK).plain(), 0, 0.0)))
        effects.append(self._record(("turns", *file, *there, number, last, holds.path, vmids)))
        for which, vmid in enumerate(vmids, 1):
            effects.append(self._tell(vmid, file, (*there, which)))
        return [*effects, *map(_look_there, waiters)]

    def _is_running(self, vmid: int) -> bool:
        process = self._roster.processes.get(vmid)
        return process is not None and process.state is State.RUNNING

    def _tell(self, vmid: int, file: FileId, where: tuple[int, int, int]) -> Say:
        return Say(vmid, Code.FILE_IN_TURNS, (*where, *file))

    def join(self, ask: Ask) -> Effects:
        """One more process wants the lock: it takes turns too, if it can. Nothing if not."""
        given = self._roster.files.turns.get(ask.file)
        if given is None or not _can_be_handed(ask) or ask.wait == NO_WAIT:
            return []
        where, place, *_, vmids = given
        if ask.src in vmids or len(vmids) == MOST_TURNS or not self._is_running(ask.src):
            return []
        joined = self._record(("turn", *ask.file, ask.src))
        told = self._tell(ask.src, ask.file, (where, place, len(vmids) + 1))
        return [joined, told, _look_there(ask)]

    # ---- ending

    def on_ask(self, ask: Ask, now: float) -> Effects:
        """Somebody asks the leader for a lock here, or what is locked."""
        if ask.file in self._roster.files.turns:
            return self._end(ask.file, now)
        if ask.type != UNLOCK and not _can_be_handed(ask) and self._moves.get(ask.file, 0) > 0:
            del self._moves[ask.file]
        return []

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
                effects += self._wait_on(ask, now)
                continue
            believed = given.first <= turn.number <= given.last
            number = turn.number if believed else locks.next_number
            most = max(most, number)
            effects.append(self._record(("lock", ask._replace(seq=0).plain(), number, now)))
        if most - given.first < WASTED:
            self._moves[file] = -WASTED
        self._ended_in.add(given.where)
        return effects

    def _tidy(self, memory: TurnsMemory) -> None:
        """Nobody needs what had ended before this step. Not at once: one who led and does not know
        that others do would take it from them, who have yet to read it."""
        still = {fields[0] for fields in self._roster.files.turns.values()}
        for where in self._ended_in - still:
            memory.drop(where)
        self._ended_in.clear()

    def _wait_on(self, ask: Ask, now: float) -> Effects:
        """Who waited in turns waits in the table. Others may be in a cycle by that, and hear so."""
        records, outcomes = self._roster.locks.set(ask, now)
        own = ask.src, ask.seq
        return self._answers.tell(Decision(records, [o for o in outcomes if o[:2] != own]))

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


def _can_be_handed(ask: Ask) -> bool:
    """Whether processes hand on what this asks for; not to a task, which cannot wait there."""
    what = ask.owner.kind, ask.type, ask.start, ask.end
    own = ask.owner.id >> 32 == ask.src and not ask.thread >> 31
    return own and what == (Kind.FAIR, WRITE, 0, EOF)


def _look_there(ask: Ask) -> Answer:
    """The answer to a request that is to be met in turns."""
    return Answer(ask.src, ask.seq, Code.FILE_LOCK_TAKE, (0, 0))
