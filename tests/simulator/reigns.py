"""A group that loses its leader again and again, with real members: what `allegiance.py` is for.

Real machines everywhere: members, leaders, successions, links. Simulated are the journals and
locks of the epochs, the connections (`reigns_process.py`) and the programs (`reigns_program.py`).
Between any two effects that a process performs another one may run, and it may be stopped or
die: before a record, between a record and its answers, while it inherits or tells of its epoch.
A connection may be lost at any time, with any part of what was in it.

In the end all that live are in the last epoch, nobody waits, and what the leader has on its books
is what its members were told (`reigns_books.py`). Where nobody may lead, all who wait for a leader
are told that it is lost, and nobody else notices.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import msgspec

from libos_ipc.core.leader import Leader
from libos_ipc.core.member import Member
from libos_ipc.core.roster import Applicant
from libos_ipc.core.succession import Succession
from libos_ipc.core.succession_words import Role
from libos_ipc.core.sync_words import Remains, Value
from libos_ipc.core.vocabulary import Journal
from libos_ipc.runtime.codec import decode_answer, decode_body

from .deposits import DepositsTwin, DepositTwin, Memory
from .history import Violation
from .reigns_books import check_rest
from .reigns_process import Log, Process
from .reigns_program import Program

__all__ = ["Reigns"]

#: Steps without an end, at most.
MOST_STEPS = 60_000
#: How long an exchange of questions may go on once nobody does anything.
MOST_TICKS = 60
TICK_S = 10.0


class Reigns:
    """All of it, and the hand that makes things happen."""

    def __init__(self, seed: int, *, steps: int | None = None) -> None:
        rng = self.rng = random.Random(seed)
        self.dice = random.Random(seed)  # for what is put, which changes little else
        self.now = 0.0
        self.left = rng.randint(50, 1200) if steps is None else steps
        self.faults = rng.randint(1, 20)
        self.logs: dict[int, Log] = {1: Log()}
        self.locks: dict[int, int] = {}
        self.processes: dict[int, Process] = {}
        self.begun = [1]
        self.heirless = rng.random() < 0.06
        self.haste = rng.choice((0.0, 0.5, 0.9))  # to go on with the same process
        # what programs do most, by its place in `act`: locks, words, handles, signals, forks
        self.favourite = rng.choice((-1, -1, -1, 3, 5, 8, 8, 8, 11, 13))
        self.has_parents = seed % 4 == 3
        # what programs were told
        self.vmids: set[int] = set()
        self.sent: dict[tuple[int, int], int] = {}
        #: ends told: whose, its number there, who has heard it; and how often
        self.ends: Counter[tuple[int, int, int]] = Counter()
        self.come: dict[tuple[int, int], int] = {}
        self.handles = 0
        self.last_grant = 0
        self.values: dict[int, tuple[int, bytes]] = {}
        self.deposits: Memory = {}
        # how eventful it was
        self.refused_records = 0
        self.shortened = 0
        self.notes: dict[str, int] = {}
        self.found()

    # ---- founding, and whoever comes later

    def new_leader(self, first_vmid: int = 2) -> Leader:
        return Leader(
            id_max=4000,
            range_size=4,
            quarantine_s=2.0,
            first_vmid=first_vmid,
            read_remains=lambda vmid: lambda id: self._remains(vmid, id),
            deposits=DepositsTwin(self.deposits, self._remains),
        )

    def _remains(self, vmid: int, id: int) -> Remains:
        process = next(p for p in self.processes.values() if p.vmid == vmid)
        last = process.published.get(id)
        return Remains(None if last is None else Value(*last), False)

    def replayed(self, log: Log) -> Leader:
        """A leader that has read this journal."""
        leader = self.new_leader()
        leader.replay(tuple(msgspec.msgpack.decode(record)) for record in log.records)
        return leader

    def new_member(self, vmid: int, epoch: int, leader_vmid: int, leader: Leader | None) -> Member:
        member = Member(
            vmid,
            leader_vmid=leader_vmid,
            epoch=epoch,
            send_buffer=1 << 20,
            quarantine_s=1.0,
            decode_answer=decode_answer,
            leader=leader,
            decode_body=decode_body,
        )
        member.sync.client.open_deposit = lambda id: DepositTwin(
            self.deposits, vmid, id, member.epoch
        )
        return member

    def found(self) -> None:
        embedded = not self.heirless and self.rng.random() < 0.4
        leader = self.new_leader(1 if embedded else 2)
        log = self.logs[1]
        log.append(("epoch", 1))
        log.leader = log.vmid = 1
        if embedded:
            self._admit(leader, log)
        else:
            founder = self.spawn(1, 0, 1, 1, leader)
            founder.is_member = False
        for _ in range(self.rng.randint(2, 5)):
            self._admit(leader, log)

    def _admit(self, leader: Leader, log: Log) -> None:
        """A member of the first hour."""
        os_pid = len(self.processes) + 1
        applicant = Applicant(os_pid, 1, 0, 0, True)
        admission, effects = leader.on_join(applicant, self.now, self.now)
        effects += leader.on_hello(admission.vmid, os_pid, 1, 0, self.now, self.now) or []
        for effect in effects:
            if isinstance(effect, Journal):
                log.append(effect.record)
        own = leader if admission.vmid == 1 else None
        process = self.spawn(admission.vmid, admission.pid, 1, 1, own)
        self._grant(process, admission.start, admission.end)
        process.program.is_first = True
        greet = [] if own is not None else process.member.greet(1, self.now)
        process.do(lambda: process.perform(greet), process.program.catch)
        for founder in self.processes.values():
            if founder.member.leader is leader:
                founder.watched.add(admission.vmid)

    def _grant(self, process: Process, start: int, end: int) -> None:
        ids = process.member.ids
        ids.grant(start, end)
        if ids.new(self.now) != process.program.pid:
            raise Violation("the first ID is not the process's own")

    def spawn(
        self, vmid: int, pid: int, epoch: int, leader_vmid: int, leader: Leader | None = None
    ) -> Process:
        """A process that thinks it is in this epoch."""
        os_pid = len(self.processes) + 1
        member = self.new_member(vmid, epoch, leader_vmid, leader)
        member.inbox.pid, member.inbox.uid = pid, 0
        process = Process(self, os_pid, member, None if leader is None else self.logs[1])
        process.program.pid = process.program.pgid = pid
        may_lead = bool(pid) and not self.heirless and (pid == 1 or self.rng.random() < 0.8)
        known = self.logs[epoch].leader
        process.succession = Succession(os_pid, epoch=epoch, leader=known, may_lead=may_lead)
        self.processes[os_pid] = process
        return process

    def join(self) -> None:
        """A process asks the leader of the last epoch to let it in."""
        log = self.logs[max(self.begun)]
        host = self.processes[log.leader]
        leader = host.member.leader
        if not host.alive or host.stopped or host.stack or host.log is not log or leader is None:
            return
        joiner = Applicant(len(self.processes) + 1, 1, 0, 0, True)
        admission, effects = leader.on_join(joiner, self.now, self.now)
        process = self.spawn(admission.vmid, admission.pid, host.member.epoch, host.vmid)
        may_lead, process.succession.may_lead = process.succession.may_lead, False
        process.is_member = False
        process.asks = host

        def let_in() -> None:
            process.asks = None
            if host.member.leader is not leader:  # it was not written
                self.kill(process)
                return
            process.is_member, process.succession.may_lead = True, may_lead
            self._grant(process, admission.start, admission.end)
            process.perform(process.member.greet(host.vmid, self.now))

        host.do(lambda: host.perform(host.member.lead(effects, self.now)), let_in)

    # ---- who is there

    def listening(self, vmid: int) -> Process | None:
        """Whoever takes connections as this VMID."""
        for process in self.processes.values():
            if process.vmid == vmid and process.alive and process.asks is None:
                return process
        return None

    def lives(self, vmid: int) -> bool:
        return any(p.vmid == vmid and p.alive for p in self.processes.values())

    def heirs(self) -> list[Process]:
        """Those alive that may lead."""
        return [p for p in self.processes.values() if p.alive and p.succession.may_lead]

    def programs(self) -> list[Program]:
        """Of the members alive."""
        return [p.program for p in self.processes.values() if p.alive and p.is_member]

    def new_vmid(self, vmid: int) -> None:
        if vmid in self.vmids:
            raise Violation(f"VMID {vmid} given out twice")
        self.vmids.add(vmid)

    def has_begun(self, epoch: int) -> None:
        if epoch <= self.begun[-1]:
            raise Violation(f"epoch {epoch} after {self.begun}")
        self.begun.append(epoch)

    def let_go(self, epoch: int, os_pid: int) -> None:
        if self.locks.get(epoch) == os_pid:
            del self.locks[epoch]

    # ---- one step of somebody

    def step(self) -> bool:
        """Somebody does something. False if nobody has anything to do."""
        able = [p for p in self.processes.values() if p.alive and not p.stopped]
        while able:
            process = self.rng.choice(able)
            steps = self.steps_of(process)
            if steps:
                self.now += 0.001
                self.rng.choice(steps)()
                while process.stack and self.rng.random() < self.haste:
                    process.run()
                return True
            able.remove(process)
        return False

    @staticmethod
    def steps_of(process: Process) -> list[Callable[[], None]]:
        if process.asks is not None:
            return []
        if process.program.leaving == "left" and not process.stack:
            return [process.program.finish]
        return process.steps()

    def tick(self) -> bool:
        """Time passes, for everybody. True if somebody has something to say then."""
        self.now += TICK_S
        found = False
        for process in self.processes.values():
            if process.alive and not process.stack:
                effects, again = process.member.on_tick(self.now)
                process.perform(effects)
                process.shorten()
                found = found or again or bool(effects)
        return found

    # ---- faults

    def fault(self) -> None:
        victims = [p for p in self.processes.values() if p.alive and p.asks is None]
        first = [p for p in victims if p.succession.role in (Role.LEADING, Role.INHERITING)]
        victim = self.rng.choice(first if first and self.rng.random() < 0.7 else victims)
        chance = self.rng.random()
        if victim.stopped:
            victim.stopped = False
        elif chance < 0.3:
            victim.stopped = True
        elif chance < 0.4:
            self.disconnect(victim)
        elif self._can_spare(victim):
            if chance < 0.5 and victim.is_member:
                if not victim.stack and not victim.program.leaving:
                    victim.program.leave()
            else:
                self.kill(victim)

    def _can_spare(self, victim: Process) -> bool:
        """Somebody stays, and can lead, unless this is a world where nobody can."""
        staying = [p for p in self.programs() if p.process is not victim and not p.leaving]
        able = [p for p in staying if p.process.succession.may_lead]
        return len(staying) > 1 and bool(self.heirless or able)

    def disconnect(self, victim: Process) -> None:
        if victim.out and not victim.stack:
            peer = self.rng.choice(sorted(victim.out))
            victim.cut(peer)
            victim.perform(victim.member.on_disconnected(peer, self.now))

    def kill(self, victim: Process) -> None:
        victim.alive = False
        victim.stack.clear()
        for epoch in [epoch for epoch, pid in self.locks.items() if pid == victim.os_pid]:
            del self.locks[epoch]
        for wire in victim.out.values():
            wire.closed = True
        for other in self.processes.values():
            if other.alive and other.asks is victim:
                self.kill(other)

    # ---- a life

    def live(self) -> None:
        """From the founding until nobody has anything to do."""
        for _ in range(self.left):
            chance = self.rng.random()
            if chance < 0.3:
                able = [p for p in self.programs() if not p.process.stopped]
                able = [p for p in able if not p.process.stack]
                if able:
                    self.rng.choice(able).act()
            elif chance < 0.33 and self.faults:
                self.faults -= 1
                self.fault()
            elif chance < 0.335 and len(self.programs()) < 6:
                self.join()
            elif chance < 0.34:
                self.tick()
            else:
                self.step()
        self.come_to_rest()
        check_rest(self)

    def come_to_rest(self) -> None:
        """Everybody goes on, and gives up what others may wait for."""
        for process in self.processes.values():
            process.stopped = False
        ticks = 0
        for _ in range(MOST_STEPS):
            if self.step():
                continue
            if self._release():
                ticks = 0
            elif not self.tick():
                return
            else:
                ticks += 1
                if ticks > MOST_TICKS:
                    break
        raise Violation("no rest")

    def _has_left(self, program: Program) -> bool:
        """Whether it is none of the group's any more, as far as the leader knows."""
        leader = self.processes[self.logs[self.begun[-1]].leader].member.leader
        return leader is not None and program.process.vmid not in leader.processes

    def _release(self) -> bool:
        found = False
        for program in self.programs():
            if program.leaving == "asking" and self._has_left(program):
                program.leaving = "left"  # whoever could have told it so is dead: its time is over
                found = True
            if program.process.stack or program.leaving:
                continue
            if program.lock and not program.taking_back:
                program.unlock()
                found = True
            elif program.using is not None:
                program.unlock_handle()
                found = True
        return found
