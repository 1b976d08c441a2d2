"""One process of a group whose leaders die: a real `Member` beside a real `Succession`.

Driven as the runtime drives them (`runtime/heir.py`, `session.py`, `receiver.py`), with one
difference: what is performed is performed effect by effect, and between any two of them other
processes go on, this one may be stopped, or die. So what is under way is a stack of lists: the
list that is being performed lies on top, below it those that go on after it. While the stack is
not empty, this process takes up nothing else; it holds its lock.

A journal that refuses a record ends the list that it stands in, and no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from libos_ipc import wire
from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.member import Member
from libos_ipc.core.snapshot import snapshot
from libos_ipc.core.succession import Succession
from libos_ipc.core.succession_words import (
    Announce,
    Begun,
    Bid,
    Evidence,
    FindHolder,
    GiveUp,
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
    Watch,
    Won,
)
from libos_ipc.core.vocabulary import (
    ChildExit,
    ChildJoined,
    Close,
    Confirm,
    Discard,
    Effects,
    Ended,
    Expect,
    Fail,
    Heard,
    Journal,
    KernelSignal,
    LeaderGone,
    LookForEpoch,
    Message,
    Note,
    Offer,
    Open,
    Own,
    PgidChanged,
    Progress,
    Publish,
    Reopen,
    Resolve,
    Signalled,
    Transmit,
    Unpublish,
    Withdraw,
)
from libos_ipc.runtime.codec import decode_body, payload_of

from .history import Violation
from .reigns_program import Program

if TYPE_CHECKING:
    from .reigns import Reigns

__all__ = ["Log", "Process", "Wire"]

Action: TypeAlias = Callable[[], None]
#: Records from which on a journal is shortened.
LONG = 20
#: In what is under way: now what it has said to itself.
_OWN = object()
#: How often a thread of the program leaves it at that.
LEFT_ASIDE = 0.5


class Log:
    """The journal of one epoch; `leader` is a pid once it is begun."""

    def __init__(self) -> None:
        self.leader = 0
        self.vmid = 0
        self.sealed = False
        self.records: list[bytes] = []

    def append(self, record: tuple[object, ...]) -> bool:
        """False if it is sealed."""
        if not self.sealed:
            self.records.append(msgspec.msgpack.encode(record))
        return not self.sealed


class Wire:
    """A connection, one way."""

    def __init__(self, src: Process, dst: Process) -> None:
        self.src = src
        self.dst = dst
        self.queue: deque[tuple[int, int, int, int, bytes]] = deque()
        self.peer = 0  # once it is bound
        self.muted = False
        self.closed = False


class Process:
    """A process; without a `pid` in the group it only leads."""

    def __init__(self, world: Reigns, os_pid: int, member: Member, leads: Log | None) -> None:
        self.world = world
        self.os_pid = os_pid
        self.member = member
        self.vmid = member.vmid
        self.alive = True
        self.stopped = False
        self.is_member = True
        self.asks: Process | None = None  # whom it asks to be let in
        self.stack: list[deque[Any]] = []
        self.later: deque[Action] = deque()
        self.own: deque[Any] = deque()
        self.log = leads
        self.out: dict[int, Wire] = {}
        self.inbound: list[Wire] = []
        self.watched: set[int] = set()
        self.ends: dict[int, bool] = {}
        self.published: dict[int, Any] = {}
        self.inherited: tuple[Leader, Log] | None = None
        self.program = Program(self)
        self.succession: Succession
        program = self.program
        self._do_effect: dict[type, Callable[[Any], None]] = {
            Open: self._open,
            Reopen: self._open,
            Close: lambda effect: self.cut(effect.peer),
            Transmit: self._transmit,
            Message: program.deliver,
            Withdraw: program.withdrawn,
            Resolve: lambda effect: effect.ticket.resolve(effect.payload),
            Fail: lambda effect: effect.ticket.fail(effect.error),
            Progress: lambda effect: None,
            Journal: self._journal,
            Confirm: self._confirm,
            Own: lambda effect: self.own.append(effect.message),
            Heard: lambda effect: self.member.on_heard(effect.message),
            LeaderGone: self._leader_gone,
            LookForEpoch: lambda effect: self.look(),
            Expect: self._expect,
            ChildExit: program.hears_how_it_ended,
            ChildJoined: program.child_joined,
            PgidChanged: program.pgid_changed,
            Signalled: program.signalled,
            KernelSignal: lambda effect: None,
            Publish: program.publish,
            Discard: lambda effect: None,
            Unpublish: lambda effect: self.published.pop(effect.id, None),
            Offer: lambda effect: self.member.sync.client.put(effect.id),
            Ended: lambda effect: None,
            Note: self._note,
        }
        self._do_deed: dict[type, Callable[[Any, deque[Any]], None]] = {
            Watch: lambda deed, deeds: None,
            Bid: self._bid,
            FindHolder: lambda deed, deeds: None,
            Inherit: self._inherit,
            Announce: self._announce,
            StepDown: lambda deed, deeds: self.step_down(),
            Rejoin: self._rejoin,
            LetGo: lambda deed, deeds: self.world.let_go(deed.epoch, os_pid),
            GiveUp: lambda deed, deeds: self.perform(self.member.on_leader_lost(self.now)),
        }

    @property
    def now(self) -> float:
        return self.world.now

    # ---- what is under way

    def perform(self, effects: Effects) -> None:
        """What a machine has decided: the next steps of this process. Then what it has said to
        itself."""
        if effects or self.member.own:
            self.stack.append(deque([_OWN]))
        if effects:
            self.stack.append(deque(effects))

    def perform_aside(self, effects: Effects) -> None:
        """The same in a thread of the program. It may leave to another one what was said to the
        leader in us."""
        if self.member.own and not self.stack and self.world.dice.random() < LEFT_ASIDE:
            self.later.append(partial(self.perform, []))
            self.perform_within(effects)
        else:
            self.perform(effects)

    def perform_within(self, effects: Effects) -> None:
        """The same for what comes of an effect, while others of its list are still to come."""
        if effects:
            self.stack.append(deque(effects))

    def _perform_own(self) -> None:
        member, now = self.member, self.now
        self.stack[-1].append(_OWN)
        more = member.on_own(self.own.popleft(), now) if self.own else member.hear_own(now)
        self.perform_within(more)

    def do(self, *actions: Action) -> None:
        """One after the other, each with all that it performs."""
        self.stack.append(deque(actions))

    def run(self) -> None:
        """One step of what is under way."""
        item = self.stack[-1].popleft()
        if item is _OWN:
            self._perform_own()
        elif isinstance(item, tuple):
            self._do_effect[type(item)](item)
        else:
            item()
        while self.stack and self._is_through(self.stack[-1]):
            self.stack.pop()

    def _is_through(self, frame: deque[Any]) -> bool:
        return not frame or (frame[0] is _OWN and not self.own and not self.member.own)

    def steps(self) -> list[Action]:
        """What this process can do next."""
        if self.stack:
            return [self.run]
        steps: list[Action] = [partial(self.read, wire) for wire in self.inbound if wire.queue]
        if self.later:
            steps.append(self._do_later)
        for vmid in self.watched:
            if not self.world.lives(vmid):
                steps.append(partial(self.notice, vmid))
        for vmid in self.ends:
            if not any(wire.peer == vmid and wire.queue for wire in self.inbound):
                steps.append(partial(self.tell_end, vmid))
        return steps + self._looks() + self.program.steps()

    def _do_later(self) -> None:
        self.later.popleft()()

    def _looks(self) -> list[Action]:
        """What it notices when it looks around, where the runtime does."""
        machine, world = self.succession, self.world
        if machine.role is Role.LEADING:
            return [self.on_sealed] if self.log is not None and self.log.sealed else []
        if machine.role is Role.FOLLOWING and not self.member.waits_for_leader:
            return []
        if self.begun() is not None:
            return [self.look]
        if machine.role in (Role.AWAITING, Role.WATCHING):
            holder = world.locks.get(machine.target, 0)
            if holder != machine.watched:
                return [lambda: self.step(Taken(machine.target, holder))]
            if not holder and not world.heirs():
                return [lambda: self.step(NoHeir(machine.target))]
        if machine.role in (Role.FOLLOWING, Role.AWAITING) and machine.watched:
            watched = machine.watched
            if world.processes[watched].stopped:
                return [lambda: self.step(Stalled(watched))]
        return []

    # ---- effects

    def _open(self, effect: Open | Reopen) -> None:
        peer = effect.peer
        other = self.world.listening(peer)
        if other is None and peer in self.watched and not self.world.lives(peer):
            self.cut(peer)  # and what is sent goes nowhere, until its end is noticed
            return
        if other is None:
            if any(wire.peer == peer for wire in self.inbound):
                self.ends.setdefault(peer, True)
            else:
                self.perform_within(self.member.on_gone(peer, self.now))
            return
        self.cut(peer)
        self.watched.add(peer)
        made = self.out[peer] = Wire(self, other)
        other.inbound.append(made)

    def cut(self, peer: int) -> None:
        """Close our connection, and lose what was in it, or a part of that."""
        closed = self.out.pop(peer, None)
        if closed is not None:
            closed.closed = True
            for _ in range(self.world.rng.randint(0, len(closed.queue))):
                closed.queue.pop()
            if not closed.queue and closed in closed.dst.inbound:
                closed.dst.inbound.remove(closed)

    def _transmit(self, effect: Transmit) -> None:
        peer, number, acked, message = effect
        made = self.out.get(peer)
        if made is not None and made.dst.alive:
            payload = bytes(payload_of(message, b"group"))
            made.queue.append((number, acked, message.code, message.seq, payload))

    def _journal(self, effect: Journal) -> None:
        """As the runtime has it: a leader that has stepped down has no journal."""
        if self.log is None or not self.log.append(effect.record):
            self.world.refused_records += 1
            self._drop_the_rest(effect)

    def shorten(self) -> None:
        """Have the journal say what the state is, while nothing is under way."""
        leader, log = self.member.leader, self.log
        if leader is None or log is None or self.stack or log.sealed:
            return
        if len(log.records) > LONG:
            log.records = [msgspec.msgpack.encode(("snapshot", snapshot(leader)))]
            self.world.shortened += 1

    def _confirm(self, effect: Confirm) -> None:
        if self.log is None or self.log.sealed:
            self._drop_the_rest(effect)

    def _drop_the_rest(self, effect: Journal | Confirm) -> None:
        self.member.take_back([effect, *self.stack.pop()])
        self.do(self.on_sealed)

    def _expect(self, effect: Expect) -> None:
        leader = self.member.leader
        if leader is None:
            return
        absent = [vmid for vmid in effect.vmids if not self._is_there(leader, vmid)]
        self.perform_within(self.member.lead(leader.on_expected(absent, self.now), self.now))

    def _is_there(self, leader: Leader, vmid: int) -> bool:
        if vmid == self.vmid or vmid in self.watched or vmid in self.ends:
            return True
        row = leader.processes.get(vmid)
        if row is not None and row.os_pid:
            there = self.world.processes[row.os_pid].alive
        else:
            there = self.world.listening(vmid) is not None
        if there:
            self.watched.add(vmid)
        return there

    def _note(self, effect: Note) -> None:
        if effect.event in ("absurd", "malformed", "unnumbered"):
            raise Violation(f"VMID {self.vmid}: {effect}")
        self.world.notes[effect.event] = self.world.notes.get(effect.event, 0) + 1

    # ---- what arrives

    def read(self, wire: Wire) -> None:
        """One message of a connection."""
        number, acked, code, seq, payload = wire.queue.popleft()
        if wire.closed and not wire.queue:
            self.inbound.remove(wire)
        if wire.muted:
            return
        if wire.peer:
            body = payload if code >= FIRST_USER_CODE else decode_body(code, payload)
            self.perform(
                self.member.on_message(wire.peer, number, acked, code, seq, body, self.now)
            )
        elif code == Code.HELLO:
            self._on_hello(wire, payload)
        else:
            wire.muted = True

    def _on_hello(self, link: Wire, payload: bytes) -> None:
        _, _, vmid, _, epoch, _ = wire.decode(Code.HELLO, payload)
        admit = partial(self._admit, link, vmid, epoch)
        if epoch > self.member.epoch:
            self.do(self.look, admit)
        else:
            self.do(admit)

    def _admit(self, wire: Wire, vmid: int, epoch: int) -> None:
        src = wire.src
        if epoch != self.member.epoch or not (vmid in self.watched or src.alive):
            wire.muted = True
            return
        leader = self.member.leader
        effects: Effects = []
        if leader is not None:
            found = leader.on_hello(vmid, src.os_pid, 1, 0, self.now, self.now)
            if found is None:
                wire.muted = True
                return
            effects = self.member.lead(found, self.now)
        self.watched.add(vmid)
        if not src.alive:
            self.ends.setdefault(vmid, True)

        def bind() -> None:
            wire.peer = vmid
            self.perform(self.member.on_hello(vmid, self.now))

        self.do(lambda: self.perform(effects), bind)

    # ---- ends

    def notice(self, vmid: int) -> None:
        """The kernel says that it has ended: what it sent is still to be read."""
        self.watched.discard(vmid)
        self.ends.setdefault(vmid, self.world.rng.random() < 0.8)

    def tell_end(self, vmid: int) -> None:
        """All that it had sent has been read."""
        dead = self.ends.pop(vmid)
        self.watched.discard(vmid)
        self.inbound = [wire for wire in self.inbound if wire.peer != vmid]

        def tell_leader() -> None:
            leader, now = self.member.leader, self.now
            if leader is not None:
                told = leader.on_gone(vmid, now) if dead else leader.on_detached(vmid, now)
                self.perform(self.member.lead(told, now))

        self.do(lambda: self.perform(self.member.on_gone(vmid, self.now)), tell_leader)
        if not dead:  # as one that may have exec'ed; its process's end is told next
            self.ends[vmid] = True

    def _leader_gone(self, effect: LeaderGone) -> None:
        machine = self.succession
        leader = machine.watched
        if effect.epoch == machine.epoch and leader:
            self.later.append(lambda: self.tell(Gone(leader)))

    # ---- the succession

    def begun(self) -> Begun | None:
        """The last epoch that has begun, if it is later than ours, and not by us."""
        found = None
        for epoch, log in sorted(self.world.logs.items()):
            if epoch > self.succession.epoch and log.leader and log.vmid != self.vmid:
                found = Begun(epoch, log.leader)
        return found

    def look(self) -> None:
        """A later epoch may have begun."""
        begun = self.begun()
        if begun is not None:
            self.step(begun)

    def tell(self, evidence: Evidence) -> None:
        """What was put off: what is known by now comes first."""
        self.do(self.look, lambda: self.step(evidence))

    def step(self, evidence: Evidence) -> None:
        """Evidence, and all that is to be done about it."""
        machine = self.succession
        before = machine.epoch
        deeds: deque[Any] = deque()
        self._add_deeds(deeds, machine.on(evidence))
        if machine.epoch < before:
            raise Violation("an epoch fell")
        if deeds:
            self.stack.append(deeds)

    def _add_deeds(self, deeds: deque[Any], more: Any) -> None:
        deeds.extend(partial(self._do_deed[type(deed)], deed, deeds) for deed in more)

    def _find(self, deeds: deque[Any], evidence: Evidence) -> None:
        self._add_deeds(deeds, self.succession.on(evidence))

    def _bid(self, deed: Bid, deeds: deque[Any]) -> None:
        begun = self.begun()
        if begun is not None and begun.epoch >= deed.epoch:
            return self._find(deeds, begun)
        holder = self.world.locks.setdefault(deed.epoch, self.os_pid)
        mine = holder == self.os_pid
        return self._find(deeds, Won(deed.epoch) if mine else Taken(deed.epoch, holder))

    def _inherit(self, deed: Inherit, deeds: deque[Any]) -> None:
        def seal(epoch: int) -> None:
            self.world.logs.setdefault(epoch, Log()).sealed = True

        seals = [partial(seal, epoch) for epoch in range(deed.since, deed.epoch)]
        self.do(*seals, lambda: self._begin(deed, deeds))

    def _begin(self, deed: Inherit, deeds: deque[Any]) -> None:
        world, epoch = self.world, deed.epoch
        log = world.logs.setdefault(epoch, Log())
        if log.sealed or log.leader:
            return self._find(deeds, Sealed(epoch))
        last = max(e for e in range(deed.since, epoch) if e in world.logs and world.logs[e].leader)
        log.records = [*world.logs[last].records, msgspec.msgpack.encode(("epoch", epoch))]
        leader = world.replayed(log)
        leader.check()
        hello = leader.on_hello(self.vmid, self.os_pid, 1, 0, self.now, self.now)
        if hello is None:
            raise Violation(f"VMID {self.vmid} is not in the journal, and cannot lead")
        for effect in hello:
            if isinstance(effect, Journal):
                log.append(effect.record)
        log.leader, log.vmid = self.os_pid, self.vmid
        world.has_begun(epoch)
        self.inherited = leader, log
        return self._find(deeds, Inherited(epoch))

    def _announce(self, deed: Announce, deeds: deque[Any]) -> None:
        assert self.inherited is not None
        leader, self.log = self.inherited
        self.inherited = None
        member = self.member

        def take_over() -> None:
            if member.leader is leader:
                self.perform(member.lead(leader.take_over(self.now), self.now))

        self.do(
            lambda: self.perform(member.adopt(deed.epoch, member.vmid, leader, self.now)),
            take_over,
            *(
                partial(self._tell_of_epoch, vmid)
                for vmid, process in sorted(leader.processes.items())
                if vmid != member.vmid and process.os_pid
            ),
        )

    def _tell_of_epoch(self, vmid: int) -> None:
        self.perform(self.member.send(vmid, Code.NEW_EPOCH, (), self.now))

    def _rejoin(self, deed: Rejoin, deeds: deque[Any]) -> None:
        leader = self.world.logs[deed.epoch].vmid
        self.perform(self.member.adopt(deed.epoch, leader, None, self.now))

    def on_sealed(self) -> None:
        """Our journal takes nothing more."""
        epoch = self.succession.epoch
        self.step_down()
        self.later.append(lambda: self.tell(Sealed(epoch)))

    def step_down(self) -> None:
        """Somebody else leads, or is about to."""
        self.member.depose()
        self.log = None
        if not self.is_member:
            self.world.kill(self)
