"""One process of the group: a `Member`, driven as the runtime's session and receiver drive it.

The real ones are threads, descriptors and ZeroMQ; here a *round* is an event: read what has
arrived, hear of ends, tick if the machine wants to be ticked, and come back when the next of
these is due. The rules are the runtime's own:

- A connection is bound to a VMID by its hello, after the kernel was asked.
- An end is told when everything that the other process had sent has been read; until then the
  process counts as watched, and a hello of its last moments is still believed.
- Time is asked about only while the machine said so or something was sent.
- Between `pause` and `resume` no round runs and nothing leaves, but the program goes on.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from libos_ipc import wire
from libos_ipc._native import Malformed, unpack_frames
from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.member import Member
from libos_ipc.core.roster import Applicant
from libos_ipc.core.vocabulary import (
    Body,
    ChildExit,
    ChildJoined,
    Close,
    Confirm,
    Delegated,
    Discard,
    Disconnect,
    Effects,
    Ended,
    Expect,
    Fail,
    GetMeta,
    HandleDropped,
    Heard,
    InTurns,
    Journal,
    KernelSignal,
    LeaderGone,
    LookForEpoch,
    Message,
    Note,
    Offer,
    Open,
    Outgoing,
    Own,
    PgidChanged,
    Progress,
    Publish,
    Recalled,
    Reopen,
    Resolve,
    Signalled,
    Transmit,
    Unpublish,
    Withdraw,
)
from libos_ipc.errors import IpcError, ProtocolError
from libos_ipc.runtime.codec import decode_answer, decode_body

from .batons import BatonTwin
from .deposits import DepositTwin
from .lanes import NodeLanes
from .program import Program
from .threads import Ticket

if TYPE_CHECKING:
    from libos_ipc.core.leader import Admission

    from .kernel import OsProcess, Port
    from .network import Connection
    from .world import World

__all__ = ["LEADER", "Identity", "SimNode"]

LEADER = 1
EPOCH = 1
TICK_S = 0.1
MAX_MESSAGE = 1 << 20
LEFT_ASIDE = 0.3


class Identity(NamedTuple):
    """Who a process is in its group."""

    vmid: int
    pid: int
    ppid: int
    pgid: int
    parent: int


class SimNode:
    """A membership. `dead` once its process is dead or exec'ed, or it has left."""

    def __init__(
        self,
        world: World,
        process: OsProcess,
        identity: Identity,
        port: Port,
        leader: Leader | None = None,
    ) -> None:
        self.world = world
        self.process = process
        self.identity = identity
        self.vmid = identity.vmid
        self.port = port
        self.dead = False
        self.leaving = False
        #: the leader has been told: nothing more is asked of it for this process
        self.goodbye_said = False
        self.member = Member(
            self.vmid,
            leader_vmid=LEADER,
            epoch=EPOCH,
            send_buffer=world.knobs.send_buffer,
            quarantine_s=world.knobs.quarantine_s,
            decode_answer=decode_answer,
            leader=leader,
            lane_after=world.knobs.lane_after,
        )
        self.member.inbox.pid, self.member.inbox.uid = identity.pid, 0
        batons, me, client = world.batons, identity.vmid, self.member.sync.client
        client.open_baton = lambda place: BatonTwin(batons, *place[1:], me)
        client.open_deposit = lambda id: DepositTwin(world.deposits, me, id, EPOCH)
        world.history.pids[self.vmid] = identity.pid
        self.program = Program(self)
        self.lanes = NodeLanes(self)
        self.pauses = 0
        self.out: dict[int, Connection] = {}
        self.watched: set[int] = set()
        self.watched_processes: dict[int, OsProcess] = {}
        self._up = False
        self._own: deque[Outgoing] = deque()  # from itself to itself, after what is performed
        self._performing = 0
        self._idle = False
        self._next_tick = 0.0
        self._wake_at = inf
        self._checked = 0
        self._lost: deque[tuple[int, Connection]] = deque()
        #: ends heard of and not told: VMID -> whether the process is dead for sure
        self._ends: dict[int, bool] = {}
        process.node = self
        port.node = self
        world.nodes[self.vmid] = self
        self._perform_one = {
            Open: self._open,
            Reopen: self._open,
            Disconnect: lambda effect: self._disconnect(effect.peer),
            Close: self._close,
            Transmit: self._transmit,
            Message: self.program.deliver,
            Withdraw: lambda effect: self.program.withdrawn(effect.src, effect.seq),
            Resolve: self._resolve,
            Fail: self._fail,
            Progress: lambda effect: self.program.on_progress(),
            Own: lambda effect: self._own.append(effect.message),
            Heard: lambda effect: self.member.on_heard(effect.message),
            LeaderGone: self._leader_gone,
            LookForEpoch: lambda effect: None,
            Confirm: lambda effect: None,
            Journal: lambda effect: world.history.on_journal(effect.record),
            Expect: self._expect,
            ChildExit: lambda effect: world.history.on_child_exit(self, effect),
            ChildJoined: lambda effect: world.history.on_child_joined(self, effect),
            Signalled: lambda effect: world.history.signals.on_signalled(self, effect),
            KernelSignal: lambda effect: world.say("kernel", effect.vmid, effect.sig),
            PgidChanged: self._change_pgid,
            GetMeta: lambda effect: None,
            HandleDropped: lambda effect: None,
            Delegated: self.program.locking.delegated,
            Recalled: self.program.locking.recalled,
            InTurns: self.program.locking.in_turns,
            Publish: lambda effect: world.history.sync.on_commit(self, effect),
            Unpublish: lambda effect: None,
            Offer: lambda effect: self.member.sync.client.put(effect.id),
            Discard: lambda effect: None,
            Ended: lambda effect: world.history.on_ended(),
            Note: lambda effect: world.say("note", self.vmid, effect.event, effect.fields),
            **self.lanes.table,
        }

    # ---- life

    def begin(self) -> None:
        """The first round, and being known to the leader."""
        self.resume()
        now = self.world.now
        if self.vmid != LEADER:
            self.perform(self.member.greet(LEADER, now))
        self.perform(self.member.provision.top_up(now))

    def resume(self) -> None:
        """The transport is made, or made again."""
        self._up = True
        self.perform(self.member.on_rebuilt(self.world.now))
        self._idle = False
        self.wake(self.world.now)

    def pause(self) -> None:
        """The transport is ended, with all connections of both directions."""
        self._up = False
        self._wake_at = inf
        for connection in self.out.values():
            self.world.network.cut(connection, report=False)
        self.out.clear()
        self._lost.clear()
        for connection in list(self.port.connections):
            if not connection.lane:
                self.world.network.cut(connection, lose_all=True)
        self.port.connections = [each for each in self.port.connections if each.lane]

    def vanish(self) -> None:
        """Death, exec, or the end of leaving: nothing of it runs any more."""
        if self.dead:
            return
        self.dead = True
        self._up = False
        self.process.node = None
        if self.world.nodes.get(self.vmid) is self:
            del self.world.nodes[self.vmid]
        for connection in self.out.values():
            self.world.network.cut(connection, report=False)
        self.world.history.on_vanished(self)

    def check(self) -> None:
        """Everything that must hold of this process alone."""
        member = self.member
        # The leader's machine is large, and changes by records.
        records = 0 if member.leader is None else len(self.world.history.records)
        if records != self._checked:
            self._checked = records
            member.check()
        else:
            member.ids.check()
            for link in member.links.values():
                link.check()
        self.world.history.check_node(self)

    @property
    def up(self) -> bool:
        """Whether it has a transport."""
        return self._up

    # ---- performing

    def perform(self, effects: Effects) -> None:
        """Do what the machine has decided."""
        self.world.touch(self)
        self._performing += 1
        table = self._perform_one
        for effect in effects:
            table[type(effect)](effect)
        self._performing -= 1
        if self.member.own and not self._performing and self._leaves_aside():
            self.world.at(0.0, lambda: self.perform([]), self.process)
            return
        while (self._own or self.member.own) and not self._performing:
            if self._own:
                self.perform(self.member.on_own(self._own.popleft(), self.world.now))
            else:
                self.perform(self.member.hear_own(self.world.now))

    def _leaves_aside(self) -> bool:
        """Whether this thread leaves it to another one what was said to the leader in us."""
        return not self._own and self.world.dice.random() < LEFT_ASIDE

    def _leader_gone(self, effect: LeaderGone) -> None:
        """Nobody can take over here: `reigns.py` has groups where somebody does."""
        self.perform(self.member.on_leader_lost(self.world.now))

    def _open(self, effect: Open | Reopen) -> None:
        peer = effect.peer
        if not self.watch(peer):
            self.perform(self.member.on_gone(peer, self.world.now))
        elif self._up:
            self._disconnect(peer)
            if peer not in self._ends:
                self.out[peer] = self.world.network.connect(self, peer)

    def _close(self, effect: Close) -> None:
        self._disconnect(effect.peer)
        self.lanes.drop(effect.peer)

    def watch(self, peer: int) -> bool:
        """Watch a process's port. False if there is none, and never was one for us."""
        if peer not in self.watched:
            if not self.world.kernel.watch_port(self, peer):
                return False
            self.watched.add(peer)
        return True

    def _disconnect(self, peer: int) -> None:
        connection = self.out.pop(peer, None)
        if connection is not None:
            stale = self.world.faulty and self.world.rng.random() < self.world.knobs.stale
            self.world.network.cut(connection, report=stale)

    def _transmit(self, effect: Transmit) -> None:
        if not self._up:
            return
        peer, number, acked, message = effect
        self.stay_awake()
        self.world.history.on_transmit(self, peer, message)
        connection = self.out.get(peer)
        if connection is not None:
            self.world.say("send", self.vmid, peer, number, acked, message)
            self.world.network.transmit(connection, number, acked, message)

    def stay_awake(self) -> None:
        """Something was sent: time is asked about from now on."""
        self._idle = False
        self.wake(max(self._next_tick, self.world.now))

    def _resolve(self, effect: Resolve) -> None:
        assert isinstance(effect.ticket, Ticket)
        effect.ticket.resolve(effect.payload)

    def _fail(self, effect: Fail) -> None:
        assert isinstance(effect.ticket, Ticket)
        effect.ticket.fail(effect.error)

    def _change_pgid(self, effect: PgidChanged) -> None:
        self.identity = self.identity._replace(pgid=effect.pgid)

    def _expect(self, effect: Expect) -> None:
        leader = self.member.leader
        assert leader is not None
        absent = [vmid for vmid in effect.vmids if not self._is_there(leader, vmid)]
        effects = leader.on_expected(absent, self.world.now)
        self.perform(self.member.lead(effects, self.world.now))

    def _is_there(self, leader: Leader, vmid: int) -> bool:
        row = leader.processes.get(vmid)
        if row is not None and row.os_pid:
            process = self.world.kernel.find(row.os_pid, row.start_time)
            return self._watch_process(vmid, process)
        return self.watch(vmid)

    def _watch_process(self, vmid: int, process: OsProcess | None) -> bool:
        if vmid in self.watched_processes:
            return True
        if process is None or not self.world.kernel.watch_process(self, vmid, process):
            return False
        self.watched_processes[vmid] = process
        return True

    # ---- rounds

    def wake(self, at: float) -> None:
        """Have a round at this time, if none is due before."""
        if self._up and at < self._wake_at:
            self._wake_at = at
            world = self.world
            world.at(max(at - world.now, 0.0), lambda: self._round(at), self.process)

    def _round(self, at: float) -> None:
        if self.dead or at != self._wake_at or not self._up:
            return
        self._wake_at = inf
        self._read()
        while self._lost:
            peer, connection = self._lost.popleft()
            known = self.out.get(peer)
            if known is connection or (known is not None and self.world.faulty):
                self.world.say("cut", self.vmid, peer)
                self.perform(self.member.on_disconnected(peer, self.world.now))
        for vmid, dead in list(self._ends.items()):
            if not any(c.queue and vmid in (c.peer, c.src.vmid) for c in self.port.connections):
                del self._ends[vmid]
                self._tell_end(vmid, dead)
        now = self.world.now
        if not self._idle and now >= self._next_tick:
            self._next_tick = now + TICK_S
            effects, again = self.member.on_tick(now)
            self._idle = not again
            if effects:
                self.perform(effects)
        due = inf if self._idle else self._next_tick
        for connection in self.port.connections:
            if connection.queue:
                due = min(due, connection.queue[0][0])
        if due < inf:
            self.wake(due)

    def _read(self) -> None:
        """Read all that has arrived, each connection in its order, all by time of arrival."""
        connections, now = self.port.connections, self.world.now
        while True:
            first: Connection | None = None
            for connection in connections:
                queue = connection.queue
                if queue and queue[0][0] <= now and (not first or queue[0] < first.queue[0]):
                    first = connection
            if first is None:
                return
            _, frames = first.queue.popleft()
            if first.cut and not first.queue:
                connections.remove(first)
            if not first.muted:
                self._on_arrival(first, frames)

    def hear_of_end(self, vmid: int, dead: bool) -> None:
        """The kernel's word, on its way to being told."""
        if not self.dead:
            self._ends[vmid] = dead or self._ends.get(vmid, False)
            self.wake(self.world.now)

    def on_lost(self, peer: int, connection: Connection) -> None:
        """The transport's word that a connection of ours has ended."""
        if not self.dead and self._up:
            self._lost.append((peer, connection))
            self.wake(self.world.now)

    def _tell_end(self, vmid: int, dead: bool) -> None:
        self.world.say("end", self.vmid, vmid, dead)
        now, leader = self.world.now, self.member.leader
        self.watched.discard(vmid)
        self.perform(self.member.on_gone(vmid, now))
        if leader is not None:
            known = vmid in leader.processes and vmid in self.watched_processes
            alive = known and not dead and vmid not in self.world.left
            effects = leader.on_detached(vmid, now) if alive else leader.on_gone(vmid, now)
            self.perform(self.member.lead(effects, now))
            if not alive:
                self.watched_processes.pop(vmid, None)
        else:
            self.watched_processes.pop(vmid, None)
        self._idle = False

    # ---- what arrives

    def _on_arrival(self, connection: Connection, frames: list[bytes]) -> None:
        world, peer = self.world, connection.peer
        try:
            number, acked, code, seq, payload = unpack_frames(frames, MAX_MESSAGE)
        except Malformed:
            connection.muted = True
            return
        if not peer:
            self._on_stranger(connection, code, payload)
            return
        world.say("receive", self.vmid, peer, number, acked, code, seq)
        body: Body = payload
        now = world.now
        if code < FIRST_USER_CODE:
            try:
                body = decode_body(code, payload)
            except ProtocolError as error:
                told = self.member.on_malformed(peer, number, acked, code, seq, str(error), now)
                self.perform(told)
                return
        self.perform(self.member.on_message(peer, number, acked, code, seq, body, now))

    def _on_stranger(self, connection: Connection, code: int, payload: bytes) -> None:
        if code == Code.HELLO:
            _, _, vmid, _incarnation, epoch, _ = wire.decode(Code.HELLO, payload)
            assert epoch == EPOCH
            if self._admit(vmid, connection.src.process):
                connection.peer = vmid
                self.perform(self.member.on_hello(vmid, self.world.now))
                return
        self.world.say("refused", self.vmid, connection.src.vmid, code)
        connection.muted = True

    def _admit(self, vmid: int, process: OsProcess) -> bool:
        if not self.watch(vmid):
            return False
        leader, now = self.member.leader, self.world.now
        if leader is not None:
            told = leader.on_hello(vmid, process.os_pid, process.start_time, 0, now, now)
            if told is None:
                return False
            self.perform(self.member.lead(told, now))
        if not self._watch_process(vmid, process):
            self.hear_of_end(vmid, True)
        return True

    def let_in(self, process: OsProcess, parent: int) -> Admission | None:
        """As the leader: a request to join. None if no ID is left."""
        leader, now = self.member.leader, self.world.now
        assert leader is not None
        applicant = Applicant(process.os_pid, process.start_time, 0, parent, True)
        try:
            admission, effects = leader.on_join(applicant, now, now)
        except IpcError:
            return None
        self.perform(self.member.lead(effects, now))
        return admission
