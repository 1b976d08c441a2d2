"""A group that loses its leader again and again, at any step: nothing granted is lost or doubled.

Real machines (succession, leader, roster, links at the leader) in a small world of their own:
journals and locks as `core/succession.py` has them, members that ask and wait. Between any two
atomic steps a process may die or be stopped: before a record, in the middle of it, between the
record and its answers, while it inherits. Members send again what is outstanding whenever there
is another epoch. In the end each request was answered once, and what the leader has on its
books is exactly what its members were told.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import msgspec

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.member import Member
from libos_ipc.core.roster import Applicant
from libos_ipc.core.succession_words import (
    Begun,
    Bid,
    Evidence,
    FindHolder,
    Gone,
    Inherit,
    Inherited,
    LetGo,
    NoHeir,
    Rejoin,
    Role,
    Sealed,
    Stalled,
    StepDown,
    Taken,
    Won,
)
from libos_ipc.core.vocabulary import Confirm, Effects, Expect, Journal, Transmit
from libos_ipc.runtime.codec import decode_answer

from .claims import Claims, Led, Log, Process
from .history import Violation

__all__ = ["World"]


FOUNDER = 1  # the first leader, a process of its own


class World(Claims):
    """All of it, and the hand that makes things happen."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.logs: dict[int, Log] = {1: Log()}
        self.locks: dict[int, int] = {1: FOUNDER}
        self.processes: dict[int, Process] = {}
        self.told_vmids: set[int] = set()
        self.tokens: list[tuple[int, int]] = []
        self.faults = self.rng.randint(1, 10)
        self.begun: list[int] = [1]
        self.answered_again = 0
        self.said_again = 0
        self.refused_commits = 0
        self.found(self.rng.randint(3, 6))

    # ---- founding

    def new_member(self, epoch: int, leader: Leader) -> Member:
        return Member(
            10_000 + epoch,
            leader_vmid=10_000 + epoch,
            epoch=epoch,
            send_buffer=1000,
            quarantine_s=1.0,
            decode_answer=decode_answer,
            leader=leader,
        )

    def new_leader(self) -> Leader:
        return Leader(id_max=400, range_size=4, quarantine_s=2.0)

    def found(self, count: int) -> None:
        founder = self.processes[FOUNDER] = Process(FOUNDER, 1, FOUNDER, may_lead=True)
        self.logs[1].leader = FOUNDER
        founder.led = Led(1, self.new_member(1, self.new_leader()))
        for pid in range(2, 2 + count):
            process = self.processes[pid] = Process(
                pid, 1, FOUNDER, may_lead=pid == 2 or self.rng.random() < 0.8
            )
            leader = founder.led.member.leader
            assert leader is not None
            admission, effects = leader.on_join(Applicant(pid, 1, 0, 0, True), self.now, self.now)
            effects += leader.on_hello(admission.vmid, pid, 1, 0, self.now, self.now) or []
            process.vmid = admission.vmid
            process.ranges.add((admission.start, admission.end))
            for effect in founder.led.member.lead(effects, self.now):
                if isinstance(effect, Journal):
                    self.commit(self.logs[1], effect.record)

    def running(self) -> list[Process]:
        return [p for p in self.processes.values() if p.alive and not p.stopped]

    # ---- the journal

    def commit(self, log: Log, record: tuple[object, ...]) -> bool:
        if log.sealed:
            return False
        log.records.append(msgspec.msgpack.encode(record))
        return True

    def last_begun(self) -> int:
        return max(epoch for epoch, log in self.logs.items() if log.leader)

    # ---- one step of somebody

    def step(self) -> bool:
        """Somebody does something. False if nobody has anything to do."""
        steps = [step for process in self.running() for step in self.steps_of(process)]
        if not steps:
            return False
        self.now += 0.001
        self.rng.choice(steps)()
        return True

    def steps_of(self, process: Process) -> list[Callable[[], None]]:
        if process.deeds:
            return [lambda: self.do(process)]
        steps: list[Callable[[], None]] = [
            lambda found=found: self.tell(process, found) for found in self.evidence(process)
        ]
        led = process.led
        if led is not None and (led.doing or led.inbox):
            steps.append(lambda: self.lead(process, led))
        if process.inbox:
            steps.append(lambda: self.read(process))
        return steps

    def tell(self, process: Process, evidence: Evidence) -> None:
        before = process.succession.epoch
        process.deeds += process.succession.on(evidence)
        if process.succession.epoch < before:
            raise Violation("an epoch fell")

    def evidence(self, process: Process) -> list[Evidence]:
        machine = process.succession
        found: list[Evidence] = []
        epoch = self.last_begun()
        if epoch > machine.epoch:
            found.append(Begun(epoch, self.logs[epoch].leader))
        if machine.watched:
            watched = self.processes[machine.watched]
            if not watched.alive:
                found.append(Gone(machine.watched))
            elif watched.stopped:
                found.append(Stalled(machine.watched))
        if machine.role in (Role.AWAITING, Role.WATCHING):
            holder = self.locks.get(machine.target, 0)
            if holder != machine.watched:
                found.append(Taken(machine.target, holder))
            heirs = [p for p in self.processes.values() if p.alive and p.succession.may_lead]
            if machine.role is Role.WATCHING and not holder and not heirs:
                found.append(NoHeir(machine.target))
        return found

    def do(self, process: Process) -> None:
        deed = process.deeds.popleft()
        match deed:
            case Bid(epoch):
                holder = self.locks.setdefault(epoch, process.pid)
                mine = holder == process.pid
                self.tell(process, Won(epoch) if mine else Taken(epoch, holder))
            case Inherit(epoch, since):
                parts = [("seal", at) for at in range(since, epoch)]
                process.deeds.extendleft(reversed([*parts, ("begin", epoch, since)]))
            case ("seal", at):
                self.logs.setdefault(at, Log()).sealed = True
            case ("begin", epoch, since):
                self.begin(process, epoch, since)
            case LetGo(epoch):
                if self.locks.get(epoch) == process.pid:
                    del self.locks[epoch]
            case StepDown():
                process.led = None
            case Rejoin(epoch, _):
                process.led = None
                self.rejoin(process, epoch)
            case FindHolder():
                pass
            case _:
                if type(deed).__name__ == "Announce":
                    self.rejoin(process, deed.epoch)

    def begin(self, process: Process, epoch: int, since: int) -> None:
        log = self.logs.setdefault(epoch, Log())
        if log.sealed or log.leader:
            self.tell(process, Sealed(epoch))
            return
        last = max(e for e in range(since, epoch) if e in self.logs and self.logs[e].leader)
        log.records = list(self.logs[last].records)
        leader = self.new_leader()
        leader.replay(tuple(msgspec.msgpack.decode(record)) for record in log.records)
        leader.check()
        log.leader = process.pid
        if epoch <= self.begun[-1]:
            raise Violation(f"epoch {epoch} after {self.begun}")
        self.begun.append(epoch)
        led = process.led = Led(epoch, self.new_member(epoch, leader))
        led.inbox.append(lambda: led.member.lead(leader.take_over(self.now), self.now))
        self.tell(process, Inherited(epoch))

    # ---- the leader

    def lead(self, process: Process, led: Led) -> None:
        """One effect of the step under way, or the next step."""
        if not led.doing:
            led.doing.extend(led.inbox.popleft()())
            return
        effect = led.doing.popleft()
        if isinstance(effect, Journal):
            if not self.commit(self.logs[led.epoch], effect.record):
                self.refused_commits += 1
                self.seal_found(process, led)
        elif isinstance(effect, Confirm):
            if self.logs[led.epoch].sealed:
                self.seal_found(process, led)
        elif isinstance(effect, Transmit):
            peer, number, acked, message = effect
            for other in self.members:
                if other.vmid == peer and message.code != Code.HELLO:
                    other.inbox.append((led.epoch, number, acked, message))
        elif isinstance(effect, Expect):
            there = {other.vmid for other in self.members}
            absent = [vmid for vmid in effect.vmids if vmid not in there]
            leader = led.member.leader
            assert leader is not None
            found = leader.on_expected(absent, self.now)
            led.doing.extendleft(reversed(led.member.lead(found, self.now)))

    def seal_found(self, process: Process, led: Led) -> None:
        process.led = None
        self.tell(process, Sealed(led.epoch))

    # ---- faults

    def fault(self) -> None:
        victims = [p for p in self.processes.values() if p.alive]
        leading = [p for p in victims if p.succession.role in (Role.LEADING, Role.INHERITING)]
        victim = self.rng.choice(leading if leading and self.rng.random() < 0.7 else victims)
        able = [p for p in self.members if p.succession.may_lead and p is not victim]
        if victim.stopped:
            victim.stopped = False
        elif self.rng.random() < 0.4:
            victim.stopped = True
        elif able and len(self.members) > 2:
            self.kill(victim)

    def kill(self, victim: Process) -> None:
        victim.alive = False
        victim.led = None
        victim.lock = 0
        victim.deeds.clear()
        for epoch in [epoch for epoch, pid in self.locks.items() if pid == victim.pid]:
            del self.locks[epoch]
        for other in self.processes.values():
            if other.led is not None and victim.vmid:
                other.led.inbox.append(partial(self.gone, other.led.member, victim.vmid))

    def gone(self, member: Member, vmid: int) -> Effects:
        leader = member.leader
        assert leader is not None
        effects = member.on_gone(vmid, self.now)
        return effects + member.lead(leader.on_gone(vmid, self.now), self.now)

    # ---- a life

    def live(self) -> None:
        for _ in range(self.rng.randint(40, 400)):
            chance = self.rng.random()
            if chance < 0.25:
                able = [p for p in self.members if not p.stopped]
                if able:
                    self.request(self.rng.choice(able))
            elif chance < 0.30 and self.faults:
                self.faults -= 1
                self.fault()
            else:
                self.step()
        for process in self.processes.values():
            process.stopped = False
        for _ in range(20_000):
            if not self.step() and not self.unlock():
                break
        else:
            raise Violation("no rest")
        self.check_rest()

    def unlock(self) -> bool:
        """At rest somebody may hold what others wait for."""
        holders = [p for p in self.members if p.lock]
        for process in holders:
            while process.wants_lock:
                self.request(process)
        return bool(holders)

    def check_rest(self) -> None:
        epoch = self.last_begun()
        leader = self.processes[self.logs[epoch].leader]
        if not leader.alive or leader.led is None or leader.led.epoch != epoch:
            raise Violation("nobody leads")
        machine = leader.led.member.leader
        assert machine is not None
        machine.check()
        if self.begun != sorted(set(self.begun)):
            raise Violation(f"epochs {self.begun}")
        numbers = [number for _, number in self.tokens]
        if len(set(numbers)) != len(numbers):
            raise Violation(f"tokens {self.tokens}")
        for process in self.members:
            if process.succession.epoch != epoch or process.epoch != epoch:
                raise Violation(f"{process.pid} is in epoch {process.epoch}, not {epoch}")
            if process.waits:
                raise Violation(f"{process.pid} waits for {process.waits}")
            owned = set(machine.ids.ranges_of(process.vmid))
            if owned != process.ranges:
                raise Violation(f"{process.pid} was told {process.ranges}, on the books {owned}")
            heard = [exit.exit_code for exit in machine.orphan_exits if exit.src == process.vmid]
            if heard != list(range(1, process.said + 1)):
                raise Violation(f"{process.pid} said {process.said} words, {heard} were heard")
            spares = set(machine.spares_of.get(process.vmid, ()))
            if spares != process.vmids:
                raise Violation(f"{process.pid} was told {process.vmids}, on the books {spares}")
        successor = self.new_leader()
        records = (tuple(msgspec.msgpack.decode(r)) for r in self.logs[epoch].records)
        successor.replay(records)
        if successor.state() != machine.state():
            raise Violation("the journal does not bring the state back")
