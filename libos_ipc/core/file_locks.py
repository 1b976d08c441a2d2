"""The leader's file locks: who gets what, who waits, who is woken, who would wait for ever.

A request that conflicts with no lock that is *held* is granted at once, also past those who
wait, as in Linux; only FAIR requests do not pass a conflicting waiter, unless their thread or
owner has a part of the file already (it might be what the waiter waits for). Otherwise it waits,
or is refused: EAGAIN if it would not wait, EDEADLK if by waiting it closed a cycle. Whoever is
in such a cycle already stays; it is the last link that is not made.

A grant can close a cycle too, where a process has several threads: one gets a lock while another
waits. The lock conflicts with nothing and is granted; the request that now waits in a cycle for
it is the one refused.

FLOCK is its own world. A conversion there gives up the old lock first, so that the refused or
waiting one has lost it; the same mode again changes nothing.

Each method decides, applies what it has decided (`lock_table.py`), settles what became free by
it, and returns the records of all that with the answers that follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EAGAIN, EBADF, EDEADLK
from itertools import islice

from libos_ipc.core.lock_edges import LockWait, cycle_of, cycle_through, in_words, waits_for
from libos_ipc.core.lock_table import LockTable, Place, place_of
from libos_ipc.core.lock_waiters import Waiter
from libos_ipc.core.lock_words import (
    EOF,
    NO_WAIT,
    UNLOCK,
    WRITE,
    Ask,
    Decision,
    FileId,
    Found,
    Held,
    Kind,
    Outcome,
    Owner,
    Record,
    Row,
    place,
)
from libos_ipc.core.wait_graph import Agent, Edge, Waits, explain

__all__ = ["FileLocks"]

#: How many of those it waits for a listing names per waiter.
NAMED_AT_MOST = 8


class FileLocks(LockTable):
    """The machine. `now` is in seconds of any clock that does not run backwards.

    `others` is another machine in which the same threads may wait, such as that of sync handles.
    """

    def __init__(self, others: Waits | None = None) -> None:
        super().__init__()
        self.others = others

    # ---- requests

    def set(self, ask: Ask, now: float) -> Decision:
        """Lock or unlock. Without an outcome for it, the request waits.

        The same request once more changes nothing, and is answered again if it can be.
        """
        decision = Decision([], [])
        again = self.grants.get(ask.src, ask.seq)
        if again is not None:
            return Decision([], [Outcome(ask.src, ask.seq, 0, again.number, "")])
        if (ask.src, ask.seq) in self.waiting:
            return decision
        if ask.owner.kind == Kind.FLOCK:
            ask = ask._replace(start=0, end=EOF)
        if ask.type == UNLOCK:
            if self._holds(ask):
                self._do(("lock", ask.plain(), 0, now), decision)
        elif not self._is_noop(ask, decision):
            self._lock(ask, now, decision)
        self._settle(now, decision)
        if ask.type == UNLOCK:  # after those whom it lets in: they are who loses time
            decision.outcomes.append(Outcome(ask.src, ask.seq, 0, 0, ""))
        return decision

    def claim(self, ask: Ask, now: float) -> Decision:
        """The request of an acquisition that waits under the number of its handle: it takes that
        place in the queue, unless it has closed a cycle."""
        decision = Decision([], [])
        src, handle = ask.src, ask.owner.id
        _, waiter = self.waiting[src, handle]
        cycle = cycle_of(self, self.others, ask, waiter.fair, waiter.arrival)
        if cycle is None:
            self._do(("named", src, handle, ask.seq), decision)
        else:
            self._do(("left", src, handle), decision)
            decision.outcomes.append(Outcome(src, ask.seq, EDEADLK, 0, explain(cycle)))
            self._settle(now, decision)
        return decision

    def must_wait(self, ask: Ask) -> bool:
        """Whether this request would wait, or be refused."""
        space = self.spaces.get(place_of(ask))
        fair = ask.owner.kind == Kind.FAIR
        return space is not None and ask.type != UNLOCK and space.blocked(ask, fair)

    def get(self, ask: Ask) -> Found | None:
        """The first lock in the way of this request; of type UNLOCK: the first of its owner."""
        space = self.spaces.get(place_of(ask))
        if space is None:
            return None
        _, _, _, owner, type, start, end, *_ = ask
        if owner.kind == Kind.FLOCK:
            start, end = 0, EOF
        if type == UNLOCK:
            found = space.ranges.first_of(owner, start, end)
        else:
            found = space.ranges.first(owner, type, start, end)
        if found is None:
            return None
        owner, held = found
        return Found(owner, held.type, held.start, held.end, held.pid, held.vmid, held.path)

    def withdraw(self, src: int, seq: int, now: float) -> tuple[bool, Decision]:
        """The asker of this request wants no answer any more.

        True if it waited, or had waited and what it was granted could be taken back.
        """
        decision = Decision([], [])
        grant = self.grants.get(src, seq)
        if (src, seq) in self.waiting:
            self._do(("left", src, seq), decision)
        elif grant is not None:
            self._do(("undo", src, seq), decision)
            self._free_of_cycles(grant.ask, decision)
        else:
            return False, decision
        self._settle(now, decision)
        return True, decision

    def clear_pid(self, pid: int, now: float) -> Decision:
        """All POSIX locks of this pid are released, in all files."""
        decision = Decision([], [])
        if self.owners.places(Owner(Kind.POSIX, pid)):
            self._do(("clear", pid), decision)
        self._settle(now, decision)
        return decision

    def drop_reference(self, vmid: int, kind: int, handle: int, now: float) -> Decision:
        """A process has closed a handle; the last one that does releases its locks.

        What it still waits for through that handle is refused (EBADF).
        """
        return self.drop_closed([(vmid, Owner(kind, handle))], (0, 0), now)

    def drop_closed(self, closed: list[tuple[int, Owner]], file: FileId, now: float) -> Decision:
        """Processes have closed what they locked by, at once: handles, or POSIX locks of a file.

        Whoever waits is looked after when all of it is gone, as at the end of a process.
        """
        decision = Decision([], [])
        for vmid, owner in closed:
            if owner.kind == Kind.POSIX:
                unlock = Ask(vmid, 0, file, owner, UNLOCK, 0, EOF, 0, owner.id, 1, b"")
                if self._holds(unlock):
                    self._do(("lock", unlock.plain(), 0, now), decision)
            elif vmid in self.owners.sharers(owner):
                self._drop_handle(vmid, owner, decision)
        self._settle(now, decision)
        return decision

    def _drop_handle(self, vmid: int, owner: Owner, decision: Decision) -> None:
        for where in self.owners.places(owner):
            for waiter in list(self.spaces[where].waiters.of_owner(owner)):
                if waiter.ask.src == vmid:
                    self._refuse(waiter.ask, EBADF, "the handle was closed", decision)
        if vmid in self.owners.sharers(owner):
            self._do(("unref", vmid, int(owner.kind), owner.id), decision)

    def settle(self, now: float) -> Decision:
        """Grant what became free by records that others applied."""
        decision = Decision([], [])
        self._settle(now, decision)
        return decision

    # ---- asking

    def holders_in_the_way(self, ask: Ask) -> list[tuple[Owner, frozenset[int]]]:
        """Who holds what this request conflicts with, in the order of queries, and whose it is."""
        space = self.spaces.get(place_of(ask))
        if space is None or ask.type == UNLOCK:
            return []
        start, end = (0, EOF) if ask.owner.kind == Kind.FLOCK else (ask.start, ask.end)
        found = space.ranges.in_the_way(ask.owner, ask.type, start, end)
        owners = space.ranges.in_order({owner for owner, _ in found})
        return [(owner, self.sharers(owner)) for owner in owners]

    def waits_for(self, agent: Agent) -> Iterator[Edge]:
        """Whom this agent waits for over file locks: for the graph of another machine."""
        return waits_for(self, agent, lambda _: True)

    def table(self, now: float) -> list[Row]:
        """All that is held and all that wait, file by file."""
        rows = []
        for where, space in sorted(self.spaces.items()):
            file = where[:2]
            for owner, held in space.ranges:
                rows.append(_row(file, owner, held, now, None))
            for waiter in space.waiters:
                _, _, _, owner, type, start, end, _, pid, thread, path = waiter.ask
                asks = Held(start, end, type, waiter.ask.src, pid, thread, 0, waiter.since, path)
                rows.append(_row(file, owner, asks, now, self._blockers(where, waiter)))
        return rows

    # ---- deciding

    def _lock(self, ask: Ask, now: float, decision: Decision) -> None:
        space = self.spaces.get(place_of(ask))
        fair = ask.owner.kind == Kind.FAIR
        if space is not None and space.blocked(ask, fair):
            fair = fair and not self.has_part(ask)
            if space.blocked(ask, fair):
                self._wait_or_refuse(ask, fair, now, decision)
                return
        self._grant(ask, now, decision)

    def _wait_or_refuse(self, ask: Ask, fair: bool, now: float, decision: Decision) -> None:
        if ask.owner.kind == Kind.FLOCK and self._holds(ask):
            given_up = ask._replace(type=UNLOCK)
            self._do(("lock", given_up.plain(), 0, now), decision)
        if ask.wait == NO_WAIT:
            text = f"{place(ask.type, ask.start, ask.end, ask.path)}: {self._who(ask)}"
            decision.outcomes.append(Outcome(ask.src, ask.seq, EAGAIN, 0, text))
            return
        cycle = cycle_of(self, self.others, ask, fair)
        if cycle is not None:
            decision.outcomes.append(Outcome(ask.src, ask.seq, EDEADLK, 0, explain(cycle)))
            return
        self._do(("wait", ask.plain(), fair, now), decision)

    def _is_noop(self, ask: Ask, decision: Decision) -> bool:
        """The same mode again, of an FLOCK handle."""
        if ask.owner.kind == Kind.FLOCK and self._holds(ask):
            held = self.spaces[place_of(ask)].ranges.held_by(ask.owner, 0, EOF)[0]
            if held.type == ask.type:
                decision.outcomes.append(Outcome(ask.src, ask.seq, 0, held.number, ""))
                return True
        return False

    def _grant(self, ask: Ask, now: float, decision: Decision) -> None:
        number = self.next_number
        self._do(("lock", ask.plain(), number, now), decision)
        decision.outcomes.append(Outcome(ask.src, ask.seq, 0, number, ""))
        self._free_of_cycles(ask, decision)

    def _free_of_cycles(self, ask: Ask, decision: Decision) -> None:
        """After a grant to an owner that waits elsewhere too."""
        while ask.owner.kind in (Kind.POSIX, Kind.FAIR):
            cycle = cycle_through(self, self.others, ask)
            if cycle is None or not isinstance(cycle[-1].why, LockWait):
                return
            stranded = cycle[-1].why.ask
            self._refuse(stranded, EDEADLK, explain(cycle), decision)

    def _refuse(self, waiting: Ask, errno: int, text: str, decision: Decision) -> None:
        """One that waits has to give up."""
        self._do(("left", waiting.src, waiting.seq), decision)
        decision.outcomes.append(Outcome(waiting.src, waiting.seq, errno, 0, text))

    def _settle(self, now: float, decision: Decision) -> None:
        """Grant whatever became free, file by file, in an order that any successor has too."""
        while self.freed:
            for where in sorted(self.freed):
                self._wake(where, now, decision)

    def _wake(self, where: Place, now: float, decision: Decision) -> None:
        freed = self.freed.pop(where, None)
        if freed is not None:

            def grant(waiter: Waiter) -> list[tuple[int, int]]:
                self._grant(waiter.ask, now, decision)
                return self.freed.pop(where, [])

            self.spaces[where].wake(freed, grant)

    def _do(self, record: Record, decision: Decision) -> None:
        self.apply(record)
        decision.records.append(record)

    # ---- helpers

    def _holds(self, ask: Ask) -> bool:
        space = self.spaces.get(place_of(ask))
        return space is not None and space.ranges.holds(ask.owner, ask.start, ask.end)

    def _who(self, ask: Ask) -> str:
        """What a refusal says of the one in the way."""
        ranges = self.spaces[place_of(ask)].ranges
        found = ranges.in_the_way(ask.owner, ask.type, ask.start, ask.end)
        for owner, held in found:
            what = place(held.type, held.start, held.end, held.path)
            return f"{in_words(owner, held.vmid, held.thread)} holds {what}"
        return "another one has asked before"

    def _blockers(self, where: Place, waiter: Waiter) -> tuple[tuple[int, int], ...]:
        """(VMID, pid) of some that it waits for."""
        space = self.spaces[where]
        _, _, _, owner, type, start, end, *_ = waiter.ask
        held = space.ranges.in_the_way(owner, type, start, end)
        found = {(other.vmid, other.pid): None for _, other in islice(held, NAMED_AT_MOST)}
        if waiter.fair and not found:
            for queue in space.waiters.meeting(start, end):
                first = queue.waiters[0]
                if WRITE in (type, queue.type) and first.arrival < waiter.arrival:
                    found[first.ask.src, first.ask.pid] = None
        return tuple(found)


def _row(
    file: tuple[int, int],
    owner: Owner,
    held: Held,
    now: float,
    waits_for: tuple[tuple[int, int], ...] | None,
) -> Row:
    handle = 0 if owner.kind == Kind.POSIX else owner.id
    start, end, type, vmid, pid, thread, _, since, path = held
    who = (pid, vmid, thread, handle, now - since)
    waiting = waits_for is not None
    return Row(file, path, owner.kind, type, start, end, *who, waiting, waits_for or ())
