"""A leader without processes, for tests of what it says about file locks."""

from __future__ import annotations

from typing import Any

from simulator.turns import TurnsTwin

from libos_ipc.core.codes import Code
from libos_ipc.core.delegations import STREAK, Entry
from libos_ipc.core.leader import Leader
from libos_ipc.core.lock_words import EOF, UNLOCK, WRITE, Kind
from libos_ipc.core.roster import Applicant, Roster
from libos_ipc.core.vocabulary import Answer, Effects, Expect, Journal, Refuse, Say

__all__ = ["ANY_PID", "Play", "Slots"]

ANY_PID = 2**32 - 1
KNOBS: dict[str, Any] = {"id_max": 10**4, "range_size": 32, "quarantine_s": 60.0}


class Slots:
    """Memory whose contents a test writes."""

    def __init__(self) -> None:
        self.first: dict[tuple[int, int], int] = {}
        self.held: dict[tuple[int, int], list[Entry]] = {}
        self.closed: list[tuple[int, int]] = []
        self.turns = TurnsTwin()

    def begin(self, epoch: int, vmid: int, slot: int, first: int, last: int) -> bool:
        self.first[vmid, slot] = first
        self.held[vmid, slot] = []
        return True

    def recall(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        self.closed.append((vmid, slot))
        return self.look(vmid, slot)

    def look(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        return tuple(self.held[vmid, slot])

    def drop(self, vmid: int) -> None:
        for key in [key for key in self.held if key[0] == vmid]:
            del self.held[key]

    def close(self) -> None:
        self.held.clear()


class Play:
    """A leader, members 2, 3, … with pids 1, 33, …, and what was said to whom."""

    def __init__(self, members: int = 2) -> None:
        self.slots = Slots()
        self.leader = Leader(memory=self.slots, **KNOBS)
        self.shadow = Roster(**KNOBS)
        self.said: list[tuple[int, Code, tuple[Any, ...]]] = []
        self.answers: dict[int, int] = {}
        self.grants: dict[int, int] = {}  # their numbers, by request
        self.expected: list[tuple[int, ...]] = []
        self._seq = 0
        for n in range(members):
            admission, effects = self.leader.on_join(Applicant(100 + n, 7, 0, 0, True), 0.0, 0.0)
            self.done(effects)
            self.done(self.leader.on_hello(admission.vmid, 100 + n, 7, 0, 0.0, 0.0) or [])

    def done(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Journal):
                self.shadow.apply(effect.record)
            elif isinstance(effect, Say):
                self.said.append((effect.dst, Code(effect.code), effect.fields))
            elif isinstance(effect, Answer) and effect.seq:
                self.answers[effect.seq] = effect.fields[0]
                if effect.of == Code.FILE_LOCK_TAKE:
                    self.grants[effect.seq] = effect.fields[1]
            elif isinstance(effect, Refuse):
                self.answers[effect.seq] = -effect.errno
            elif isinstance(effect, Expect):
                self.expected.append(effect.vmids)
        self.leader.check()
        assert self.shadow.state() == self.leader.state()

    def ask(self, src: int, code: Code, *fields: Any) -> int | None:
        self._seq += 1
        self.done(self.leader.on_request(src, code, self._seq, fields, 1.0))
        return self.answers.get(self._seq)

    @property
    def last(self) -> int:
        """The number of the last request."""
        return self._seq

    def pid(self, vmid: int) -> int:
        return self.leader.processes[vmid].pid

    def set(
        self,
        src: int,
        kind: Kind,
        type: int,
        start: int = 0,
        end: int = EOF,
        handle: int = 0,
        wait: int = 0,
    ) -> int | None:
        if kind != Kind.POSIX:
            handle = handle or src << 32 | 1
        code = Code.FILE_LOCK_TAKE if kind == Kind.FAIR else Code.FILE_LOCK_SET
        pid = ANY_PID if kind == Kind.OFD else self.pid(src)
        family = 2 if kind == Kind.FLOCK else 1
        return self.ask(src, code, family, type, start, end, pid, handle, wait, b"/f", 8, 9, 1)

    def give(self, src: int, kind: Kind) -> None:
        """Lock and unlock until the file is given to this process."""
        for _ in range(STREAK):
            assert self.said == []
            assert self.set(src, kind, WRITE) == 0
            assert self.set(src, kind, UNLOCK) == 0
        assert self.said.pop() == (src, Code.FILE_DELEGATED, (0, 8, 9, kind == Kind.FLOCK))

    def hold(self, src: int, by: Kind, type: int = WRITE, **wrong: int) -> None:
        """The process has locked this by itself."""
        handle = 0 if by == Kind.POSIX else src << 32 | 1
        number = self.slots.first[src, 0]
        duplicate = -1 if by == Kind.POSIX else 4100
        entry = Entry(int(by), handle, type, 0, EOF, number, 1, 3, duplicate)
        self.slots.held[src, 0].append(entry._replace(**wrong))

    def rows(self) -> list[tuple[int, int, int, int]]:
        """(kind, type, start, VMID) of what is held at the leader."""
        return [(row.kind, row.type, row.start, row.vmid) for row in self.leader.locks.table(1.0)]
