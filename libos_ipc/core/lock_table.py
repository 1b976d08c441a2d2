"""Every file lock of the group and everybody who waits for one: the state, and what changes it.

`apply` is the one way in which a record changes this state, at the leader as at its successor:
replaying a journal gives the state again. Nothing here decides anything: a record says what was
decided. What became free by it is only noted (`freed`); whoever decides settles that.

    ("lock", ask, number, now)        its owner has this now; ask.type UNLOCK for nothing
    ("wait", ask, fair, now)          it waits
    ("left", src, seq)                it waits no more, and got nothing
    ("named", src, old, new)          it waits as request `new` from now on
    ("undo", src, seq)                it had waited, was granted, and nobody wants it now
    ("clear", pid)                    the POSIX locks of this pid are gone
    ("unref", vmid, kind, handle)     this process has the handle no more

What happens to whole processes is told by records that are not ours, for which there are methods:
`share`, `drop_process`, `detach` and `rename`.

Invariants: those of its parts; a request waits in one place; every owner that holds or waits
belongs to a process; a file without locks and waiters is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from libos_ipc.core.lock_owners import LockOwners
from libos_ipc.core.lock_space import Freed, LockSpace
from libos_ipc.core.lock_undo import Undo, UndoMemory
from libos_ipc.core.lock_waiters import Waiter
from libos_ipc.core.lock_words import (
    EOF,
    READ,
    UNLOCK,
    Ask,
    Held,
    Kind,
    Owner,
    Record,
    agents_of,
    first_number,
)
from libos_ipc.core.wait_graph import Agent

__all__ = ["LockTable", "Place", "place_of"]

#: Freed ranges of a file that are remembered one by one.
FREED_KEPT = 16

#: (device, inode, whether it is the world of FLOCK)
Place: TypeAlias = tuple[int, int, bool]


def place_of(ask: Ask) -> Place:
    """Where this request is decided."""
    return (*ask.file, ask.owner.kind == Kind.FLOCK)


def _cleared(start: int = 0, end: int = EOF) -> Held:
    return Held(start, end, UNLOCK, 0, 0, 0, 0, 0.0, b"")


class LockTable:
    """All locks, all waiters, and which process has which owner."""

    def __init__(self) -> None:
        self.spaces: dict[Place, LockSpace] = {}
        self.owners: LockOwners[Place] = LockOwners()
        self.waiting: dict[tuple[int, int], tuple[Place, Waiter]] = {}  # by (src, seq)
        self.waits_of: dict[Agent, dict[tuple[int, int], None]] = {}
        self.grants = UndoMemory()
        #: where somebody waits
        self.contested: dict[Place, None] = {}
        #: where something became free and nobody has looked yet whose turn it is
        self.freed: dict[Place, Freed] = {}
        self.next_number = 1
        self._next_arrival = 1
        self._requests_of: dict[int, dict[tuple[int, int], None]] = {}  # by VMID, those that wait
        self._apply: dict[str, Callable[..., None]] = {
            "lock": self._apply_lock,
            "wait": self._apply_wait,
            "left": self._apply_left,
            "named": self._apply_named,
            "undo": self._apply_undo,
            "clear": self._apply_clear,
            "unref": self._apply_unref,
        }

    # ---- records

    @property
    def kinds(self) -> list[str]:
        """The first words of the records that are this table's."""
        return list(self._apply)

    def apply(self, record: Record) -> None:
        """Change the state as this record says. Sequences of any kind stand for tuples."""
        kind, *fields = record
        self._apply[kind](*fields)

    def replay(self, records: Iterable[Record]) -> None:
        """Rebuild the state from a journal; `settle` goes on where its writer stopped."""
        for record in records:
            self.apply(record)

    def _apply_lock(self, fields: Iterable[Any], number: int, now: float) -> None:
        ask = Ask.of(tuple(fields))
        src, seq, _, owner, type, start, end, _, pid, thread, path = ask
        place = place_of(ask)
        waited = self.waiting.get((src, seq))
        before: tuple[Held, ...] = ()
        if waited is not None:
            self._unwait(*waited)
            before = tuple(self._space(place).ranges.held_by(owner, start, end))
        self._put(place, owner, Held(start, end, type, src, pid, thread, number, now, path))
        if type != UNLOCK:
            self.next_number = max(self.next_number, number + 1)
            self.owners.give(src, owner)
            if waited is not None:
                self.grants.keep(Undo(ask, number, before))
        self._look_after(place, owner)

    def _apply_wait(self, fields: Iterable[Any], fair: bool, now: float) -> None:
        ask = Ask.of(tuple(fields))
        place = place_of(ask)
        key = (ask.src, ask.seq)
        waiter = Waiter(self._next_arrival, ask, fair, now)
        self._next_arrival += 1
        self._space(place).waiters.add(waiter)
        self.contested[place] = None
        self.waiting[key] = place, waiter
        self._requests_of.setdefault(ask.src, {})[key] = None
        for agent in agents_of(ask.owner, ask.src, ask.thread):
            self.waits_of.setdefault(agent, {})[key] = None
        self.owners.give(ask.src, ask.owner)
        self._look_after(place, ask.owner)

    def _apply_left(self, src: int, seq: int) -> None:
        place, waiter = self.waiting[src, seq]
        self._unwait(place, waiter)
        self._note(place, waiter.ask.start, waiter.ask.end)
        self._look_after(place, waiter.ask.owner)

    def _apply_named(self, src: int, old: int, new: int) -> None:
        place, waiter = self.waiting.pop((src, old))
        other = self.spaces[place].waiters.replace(waiter, waiter.ask._replace(seq=new))
        self.waiting[src, new] = place, other
        for index, entry in self._indexes(other.ask):
            del index[entry][src, old]
            index[entry][src, new] = None

    def _apply_undo(self, src: int, seq: int) -> None:
        grant = self.grants.get(src, seq)
        assert grant is not None
        ask = grant.ask
        place, owner = place_of(ask), ask.owner
        ranges = self._space(place).ranges
        back = []
        for held in grant.before:
            # What was a write lock and became a read lock may have let other readers in.
            taken = ranges.count(owner, held.type, held.start, held.end)
            back.append(held._replace(type=READ) if taken else held)
        # First what it had, and then the gaps, so that it keeps its order among the owners.
        for held in back:
            self._put(place, owner, held)
        gaps = [ask.start, *(bound for h in back for bound in (h.start - 1, h.end + 1)), ask.end]
        for start, end in zip(gaps[::2], gaps[1::2], strict=True):
            if start <= end:
                self._put(place, owner, _cleared(start, end))
        self._look_after(place, owner)

    def _apply_clear(self, pid: int) -> None:
        self._release(Owner(Kind.POSIX, pid))

    def _apply_unref(self, vmid: int, kind: int, handle: int) -> None:
        owner = Owner(kind, handle)
        if self.owners.take(vmid, owner):
            self._release(owner)

    def begin_epoch(self, epoch: int) -> None:
        """Another leader grants from here on. What goes on without it keeps its numbers: they are
        less than those that it gives out."""
        self.next_number = max(self.next_number, first_number(epoch))

    # ---- whole processes

    def share(self, parent_vmid: int, child_vmid: int) -> None:
        """The child was forked by the parent, and has its open file descriptions too."""
        for owner in self.owners.owners_of(parent_vmid):
            if owner.kind in (Kind.OFD, Kind.FLOCK):
                self.owners.give(child_vmid, owner)

    def drop_process(self, vmid: int) -> None:
        """This process is gone, with all that it held and waited for. `settle` comes next."""
        self._drop(vmid, {Kind.POSIX, Kind.OFD, Kind.FLOCK, Kind.FAIR})

    def detach(self, vmid: int) -> None:
        """This process has exec'ed: only its POSIX locks stay. `settle` comes next."""
        self._drop(vmid, {Kind.OFD, Kind.FLOCK, Kind.FAIR})

    def rename(self, old_vmid: int, new_vmid: int) -> None:
        """The detached process has joined again: its POSIX locks belong to the new VMID."""
        for owner in self.owners.owners_of(old_vmid):
            if owner.kind == Kind.POSIX:
                self.owners.give(new_vmid, owner)
                self.owners.take(old_vmid, owner)
                for place in self.owners.places(owner):
                    self.spaces[place].ranges.relabel(owner, new_vmid)

    def _drop(self, vmid: int, kinds: set[Kind]) -> None:
        for src, seq in list(self._requests_of.get(vmid, ())):
            self._apply_left(src, seq)
        self.grants.on_gone(vmid)
        for owner in self.owners.owners_of(vmid):
            if owner.kind in kinds and self.owners.take(vmid, owner):
                self._release(owner)

    # ---- asking

    def sharers(self, owner: Owner) -> frozenset[int]:
        """The processes that may have this handle; of a POSIX or FAIR owner the one process."""
        return self.owners.sharers(owner)

    def is_waited_for(self, agent: Agent) -> bool:
        """False if certainly nobody waits for a lock of this agent, which is no handle.

        O(files with waiters), or O(what its process has) where that is less.
        """
        owners = self.owners.owners_of(agent[0])
        places: Iterable[Place] = self.contested
        if len(owners) < len(self.contested):
            mine = (place for owner in owners for place in self.owners.places(owner))
            places = (place for place in mine if place in self.contested)
        return any(self.spaces[place].ranges.has_agent(agent) for place in places)

    def has_part(self, ask: Ask) -> bool:
        """Whether the owner, or else the same thread, holds any of the file."""
        ranges = self.spaces[place_of(ask)].ranges
        return ask.owner in ranges or ranges.has_agent((ask.src, ask.thread))

    # ---- the parts, in step with one another

    def _space(self, place: Place) -> LockSpace:
        space = self.spaces.get(place)
        if space is None:
            space = self.spaces[place] = LockSpace()
        return space

    def _put(self, place: Place, owner: Owner, held: Held) -> None:
        self.grants.on_change(owner, place[:2], held.start, held.end)
        freed = self._space(place).ranges.put(owner, held)
        if freed is not None:
            self._note(place, *freed)

    def _note(self, place: Place, start: int, end: int) -> None:
        """Something of this range became free."""
        if len(self.spaces[place].waiters):
            freed = self.freed.setdefault(place, [])
            freed.append((start, end))
            if len(freed) > FREED_KEPT:
                freed[:] = [(0, EOF)]

    def _unwait(self, place: Place, waiter: Waiter) -> None:
        ask = waiter.ask
        key = (ask.src, ask.seq)
        waiters = self.spaces[place].waiters
        waiters.remove(waiter)
        if not len(waiters):
            del self.contested[place]
        del self.waiting[key]
        for index, entry in self._indexes(ask):
            del index[entry][key]
            if not index[entry]:
                del index[entry]

    def _indexes(self, ask: Ask) -> list[tuple[Any, Any]]:
        """Where a request that waits is found: an index, and its entry there."""
        agents = agents_of(ask.owner, ask.src, ask.thread)
        return [(self._requests_of, ask.src), *((self.waits_of, agent) for agent in agents)]

    def _release(self, owner: Owner) -> None:
        """The owner holds nothing any more."""
        for place in self.owners.places(owner):
            self._put(place, owner, _cleared())
            self._look_after(place, owner)

    def _look_after(self, place: Place, owner: Owner) -> None:
        """After a change of what this owner has here."""
        space = self._space(place)
        self.owners.on_place(owner, place, owner in space.ranges or space.waiters.has(owner))
        if not space:
            del self.spaces[place]
            self.freed.pop(place, None)

    # ---- for tests and successors

    def state(self) -> tuple[object, ...]:
        """All that the journal must bring back, comparable."""
        spaces = [
            (place, tuple(space.ranges), tuple(space.waiters))
            for place, space in sorted(self.spaces.items())
        ]
        counters = (self.next_number, self._next_arrival)
        return counters, spaces, self.owners.state(), self.grants.state()

    def check(self) -> None:
        """Assert the invariants. O(n log n) at best."""
        self.owners.check()
        self.grants.check()
        waiting = {}
        assert self.contested.keys() == {p for p, s in self.spaces.items() if len(s.waiters)}
        for place, space in self.spaces.items():
            assert space
            space.check()
            if place not in self.freed:
                space.check_settled()
            for owner in {owner for owner, _ in space.ranges}:
                assert place in self.owners.places(owner)
            for waiter in space.waiters:
                ask = waiter.ask
                assert place in self.owners.places(ask.owner)
                assert waiter.arrival < self._next_arrival
                assert place_of(ask) == place
                waiting[ask.src, ask.seq] = (place, waiter)
        assert waiting == self.waiting
        requests = {key for keys in self._requests_of.values() for key in keys}
        assert requests == self.waiting.keys()
        for agent, keys in self.waits_of.items():
            assert keys
            for key in keys:
                ask = self.waiting[key][1].ask
                assert agent in agents_of(ask.owner, ask.src, ask.thread)
