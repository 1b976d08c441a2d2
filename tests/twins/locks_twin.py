"""File locks cell by cell: a file is a few cells, the last of which stands for all beyond.

Does what `FileLocks` does, by looking at every cell, owner and waiter every time. Who holds a
cell is a dict; whether somebody may have it is a loop over all others; whose turn it is, is
asked again from the first waiter after every grant; a cycle is any way through all edges.
"""

from __future__ import annotations

from errno import EAGAIN, EBADF, EDEADLK
from typing import NamedTuple

from libos_ipc.core.file_locks import FileLocks
from libos_ipc.core.lock_words import EOF, UNLOCK, WAIT, WRITE, Ask, Kind, Owner

#: Cells 0 … 11 are the bytes of these numbers, and this one all bytes from 12 on.
TAIL = 12


class Cell(NamedTuple):
    type: int
    vmid: int
    thread: int


class Waiting(NamedTuple):
    ask: Ask
    fair: bool


class Answer(NamedTuple):
    src: int
    seq: int
    errno: int


class Granted(NamedTuple):
    """What the owner had before a grant that came after waiting."""

    ask: Ask
    before: list[tuple[int, int, Cell]]


def cells(start: int, end: int) -> range:
    return range(start, min(end, TAIL) + 1)


def place_of(ask: Ask) -> tuple[tuple[int, int], bool]:
    return ask.file, ask.owner.kind == Kind.FLOCK


def agents(owner: Owner, vmid: int, thread: int) -> list[tuple[int, int]]:
    if owner.kind == Kind.POSIX:
        return [(vmid, 0), (vmid, thread)]
    return {Kind.FAIR: [(vmid, thread)], Kind.OFD: [(0, owner.id)], Kind.FLOCK: []}[
        Kind(owner.kind)
    ]


def shifted(ask: Ask, base: int) -> Ask:
    """With its bytes counted from `base`, so that a few cells will do."""
    end = EOF if ask.end == EOF else ask.end - base
    return ask._replace(start=max(0, ask.start - base), end=end)


class LocksTwin:
    def __init__(self) -> None:
        self.held: dict[object, dict[Owner, dict[int, Cell]]] = {}
        self.waiting: list[Waiting] = []  # in order of arrival
        self.sharers: dict[Owner, set[int]] = {}
        self.granted: dict[tuple[int, int], Granted] = {}
        self.answers: list[Answer] = []
        #: also edges through descriptions that several processes share
        self.trust_shared = False
        #: also edges from those who wait through a description
        self.trust_descriptions = True

    @classmethod
    def like(cls, machine: FileLocks, base: int = 0) -> LocksTwin:
        """In the state in which the machine is, as far as cycles are concerned."""
        twin = cls()
        for (device, inode, flock), space in sorted(machine.spaces.items()):
            owners = twin.held.setdefault(((device, inode), flock), {})
            for owner, held in space.ranges:
                had = owners.setdefault(owner, {})
                for cell in cells(max(0, held.start - base), held.end - base):
                    had[cell] = Cell(held.type, held.vmid, held.thread)
                twin.sharers[owner] = set(machine.sharers(owner))
            for waiter in space.waiters:
                twin.waiting.append(Waiting(shifted(waiter.ask, base), waiter.fair))
                twin.sharers[waiter.ask.owner] = set(machine.sharers(waiter.ask.owner))
        return twin

    # ---- requests

    def set(self, ask: Ask) -> list[Answer]:
        if ask.owner.kind == Kind.FLOCK:
            ask = ask._replace(start=0, end=EOF)
        fair = ask.owner.kind == Kind.FAIR and not self.has_part(ask)
        if ask.type == UNLOCK:
            if self.runs(place_of(ask), ask.owner, ask.start, ask.end):
                self.put(ask)
            let_in = self.settle()
            self.answer(ask, 0)
            return let_in + self.settle()
        if ask.owner.kind == Kind.FLOCK and self.type_of(ask) == ask.type:
            self.answer(ask, 0)
        elif not self.blockers(ask) and not (fair and self.ahead(ask, self.waiting)):
            self.grant(ask)
        else:
            self.wait_or_refuse(ask, fair)
        return self.settle()

    def wait_or_refuse(self, ask: Ask, fair: bool) -> None:
        if ask.owner.kind == Kind.FLOCK and self.type_of(ask) is not None:
            self.put(ask._replace(type=UNLOCK))
            self.forget_idle()
        if not ask.wait:
            self.answer(ask, EAGAIN)
        elif self.closes_a_cycle(ask, fair):
            self.answer(ask, EDEADLK)
        else:
            self.waiting.append(Waiting(ask, fair))
            self.sharers.setdefault(ask.owner, set()).add(ask.src)

    def withdraw(self, src: int, seq: int) -> tuple[bool, list[Answer]]:
        for waiting in self.waiting:
            if (waiting.ask.src, waiting.ask.seq) == (src, seq):
                self.waiting.remove(waiting)
                return True, self.settle()
        if (src, seq) in self.granted:
            ask, before = self.granted[src, seq]
            back = []
            for start, end, cell in before:
                meets = self.blockers(ask._replace(type=cell.type, start=start, end=end))
                back.append((start, end, cell._replace(type=0) if meets else cell))
            order = list(self.held[place_of(ask)])
            self.put(ask._replace(type=UNLOCK))
            for start, end, cell in back:
                now = ask._replace(type=cell.type, start=start, end=end)
                self.put(now._replace(src=cell.vmid, thread=cell.thread))
            owners = self.held[place_of(ask)]
            self.held[place_of(ask)] = {owner: owners[owner] for owner in order if owner in owners}
            return True, self.settle()
        return False, []

    def clear_pid(self, pid: int) -> list[Answer]:
        self.release(Owner(Kind.POSIX, pid))
        return self.settle()

    def share(self, parent: int, child: int) -> None:
        for owner, vmids in self.sharers.items():
            if parent in vmids and owner.kind in (Kind.OFD, Kind.FLOCK):
                vmids.add(child)

    def drop_reference(self, vmid: int, kind: int, handle: int) -> list[Answer]:
        owner = Owner(kind, handle)
        if vmid in self.sharers.get(owner, ()):
            for waiting in list(self.waiting):
                if waiting.ask.owner == owner and waiting.ask.src == vmid:
                    self.waiting.remove(waiting)
                    self.answer(waiting.ask, EBADF)
            self.unref(vmid, owner)
        return self.settle()

    def drop_process(self, vmid: int, kinds: tuple[Kind, ...] = tuple(Kind)) -> None:
        self.waiting = [waiting for waiting in self.waiting if waiting.ask.src != vmid]
        self.granted = {key: grant for key, grant in self.granted.items() if key[0] != vmid}
        for owner in list(self.sharers):
            if vmid in self.sharers[owner] and owner.kind in kinds:
                self.unref(vmid, owner)

    def detach(self, vmid: int) -> None:
        self.drop_process(vmid, (Kind.OFD, Kind.FLOCK, Kind.FAIR))

    def rename(self, old: int, new: int) -> None:
        for owner, vmids in self.sharers.items():
            if old in vmids and owner.kind == Kind.POSIX:
                vmids.remove(old)
                vmids.add(new)
                for owners in self.held.values():
                    for cell, had in owners.get(owner, {}).items():
                        owners[owner][cell] = had._replace(vmid=new)

    # ---- asking

    def get(self, ask: Ask) -> tuple[Owner, int, int, int] | None:
        place = place_of(ask)
        if ask.type == UNLOCK:
            found = self.whole_runs(place, ask.owner, ask.start, ask.end)
            return (ask.owner, found[0][2].type, *found[0][:2]) if found else None
        for owner in self.held.get(place, {}):
            if owner != ask.owner:
                for start, end, cell in self.whole_runs(place, owner, ask.start, ask.end):
                    if WRITE in (cell.type, ask.type):
                        return owner, cell.type, start, end
        return None

    def blockers(self, ask: Ask) -> list[tuple[Owner, Cell]]:
        return [
            (owner, had[cell])
            for owner, had in self.held.get(place_of(ask), {}).items()
            if owner != ask.owner
            for cell in cells(ask.start, ask.end)
            if cell in had and WRITE in (had[cell].type, ask.type)
        ]

    def ahead(self, ask: Ask, waiting: list[Waiting]) -> list[Ask]:
        """Those of `waiting` that conflict with this request."""
        return [
            other
            for other, _ in waiting
            if place_of(other) == place_of(ask)
            and other.start <= ask.end
            and ask.start <= other.end
            and WRITE in (other.type, ask.type)
        ]

    def runs(
        self, place: object, owner: Owner, start: int, end: int
    ) -> list[tuple[int, int, Cell]]:
        """What the owner has there: ranges of one type, as (start, end, cell)."""
        had = self.held.get(place, {}).get(owner, {})
        found: list[tuple[int, int, Cell]] = []
        for cell in cells(start, end):
            if cell in had:
                last = EOF if cell == TAIL else cell
                if found and found[-1][1] == cell - 1 and found[-1][2].type == had[cell].type:
                    found[-1] = (found[-1][0], last, had[cell])
                else:
                    found.append((cell, last, had[cell]))
        return found

    def whole_runs(
        self, place: object, owner: Owner, start: int, end: int
    ) -> list[tuple[int, int, Cell]]:
        whole = self.runs(place, owner, 0, EOF)
        return [run for run in whole if run[0] <= end and start <= run[1]]

    def type_of(self, ask: Ask) -> int | None:
        had = self.held.get(place_of(ask), {}).get(ask.owner)
        return had[0].type if had else None

    def has_part(self, ask: Ask) -> bool:
        owners = self.held.get(place_of(ask), {})
        return ask.owner in owners or any(
            (ask.src, ask.thread) in agents(owner, cell.vmid, cell.thread)
            for owner, had in owners.items()
            for cell in had.values()
        )

    # ---- deciding

    def settle(self) -> list[Answer]:
        """Grant to the first who can have it, again and again; give all answers since."""
        position = 0
        while position < len(self.waiting):
            waiting = self.waiting[position]
            blocked = self.blockers(waiting.ask) or (
                waiting.fair and self.ahead(waiting.ask, self.waiting[:position])
            )
            if blocked:
                position += 1
                continue
            self.waiting.remove(waiting)
            ask = waiting.ask
            before = self.runs(place_of(ask), ask.owner, ask.start, ask.end)
            self.grant(ask)
            self.granted[ask.src, ask.seq] = Granted(ask, before)
            position = 0
        answers, self.answers = self.answers, []
        return answers

    def grant(self, ask: Ask) -> None:
        self.put(ask)
        self.sharers.setdefault(ask.owner, set()).add(ask.src)
        self.answer(ask, 0)

    def put(self, ask: Ask) -> None:
        place, owner = place_of(ask), ask.owner
        for key, (old, _) in list(self.granted.items()):
            same = place_of(old) == place and old.owner == owner
            if same and old.start <= ask.end and ask.start <= old.end:
                del self.granted[key]
        had = self.held.setdefault(place, {}).setdefault(owner, {})
        for cell in cells(ask.start, ask.end):
            had.pop(cell, None)
            if ask.type != UNLOCK:
                had[cell] = Cell(ask.type, ask.src, ask.thread)
        for start, end, cell in self.whole_runs(place, owner, ask.start, ask.end):
            if cell.type == ask.type:
                for one in cells(start, end):
                    had[one] = Cell(ask.type, ask.src, ask.thread)
        if not had:
            del self.held[place][owner]

    def unref(self, vmid: int, owner: Owner) -> None:
        self.sharers[owner].discard(vmid)
        if not self.sharers[owner]:
            self.release(owner)

    def release(self, owner: Owner) -> None:
        for owners in self.held.values():
            owners.pop(owner, None)
        self.granted = {k: grant for k, grant in self.granted.items() if grant.ask.owner != owner}

    def answer(self, ask: Ask, errno: int) -> None:
        self.answers.append(Answer(ask.src, ask.seq, errno))

    def forget_idle(self) -> None:
        """Owners that neither hold nor wait belong to nobody, unless several share them."""
        busy = {owner for owners in self.held.values() for owner in owners}
        busy |= {waiting.ask.owner for waiting in self.waiting}
        for owner, vmids in list(self.sharers.items()):
            if not vmids or (owner not in busy and len(vmids) == 1):
                del self.sharers[owner]

    # ---- cycles

    def counts(self, ask: Ask) -> bool:
        """Whether this request takes part in cycles by waiting."""
        if ask.owner.kind == Kind.OFD and not self.trust_descriptions:
            return False
        shared = len(self.sharers.get(ask.owner, ())) > 1 and not self.trust_shared
        return ask.wait == WAIT and not shared

    def closes_a_cycle(self, ask: Ask, fair: bool) -> bool:
        if ask.wait != WAIT or ask.owner.kind not in (Kind.POSIX, Kind.FAIR):
            return False
        return self.is_in_a_cycle(ask, fair, self.waiting)

    def is_in_a_cycle(self, ask: Ask, fair: bool, ahead: list[Waiting]) -> bool:
        """Whether this request waits for itself, by any number of others."""
        edges: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for position, waiting in enumerate(self.waiting):
            if self.counts(waiting.ask):
                for agent in agents(waiting.ask.owner, waiting.ask.src, waiting.ask.thread):
                    mine = self.waits_for(waiting.ask, waiting.fair, self.waiting[:position])
                    edges.setdefault(agent, set()).update(mine)
        goal = set(agents(ask.owner, ask.src, ask.thread))
        reached: set[tuple[int, int]] = set()
        todo = self.waits_for(ask, fair, ahead)
        while todo:
            agent = todo.pop()
            if agent in goal:
                return True
            if agent not in reached:
                reached.add(agent)
                todo |= edges.get(agent, set())
        return False

    def waits_for(self, ask: Ask, fair: bool, ahead: list[Waiting]) -> set[tuple[int, int]]:
        found = set()
        for owner, cell in self.blockers(ask):
            if len(self.sharers.get(owner, ())) < 2 or self.trust_shared:
                found |= set(agents(owner, cell.vmid, cell.thread))
        if fair:
            for other in self.ahead(ask, ahead):
                if self.counts(other):
                    found.add(agents(other.owner, other.src, other.thread)[-1])
        return found
