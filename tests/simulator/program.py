"""What programs do with the library: its faces, as `Group`, `Ids` and `Vmids` have them.

Each method is one call in one thread, a generator that waits where the real one blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import HEADER_WEIGHT, Message, Progress
from libos_ipc.errors import IpcError

from .handlers import ONE_WAY, Handlers
from .locks import Locking
from .signals import Signalling
from .sync import Syncing
from .threads import Running, Thread, Ticket, Wait, never

if TYPE_CHECKING:
    from .node import SimNode

__all__ = ["Program"]


class Program:
    """The threads of one node, and the IDs that they hold."""

    def __init__(self, node: SimNode) -> None:
        self.node = node
        self.world = node.world
        self.threads: dict[Thread, None] = {}
        self.handlers = Handlers(node, ready=node.world.rng.random() < 0.8)
        self.signalling = Signalling(node)
        self.locking = Locking(node)
        self.syncing = Syncing(node)
        #: IDs in use that come from a range of ours
        self.held: list[int] = []
        #: IDs and ranges of ours that only the leader knows of: (first, last)
        self.extra: list[tuple[int, int]] = []

    def start(self, name: str, generator: Running) -> None:
        """Run a thread."""
        self.world.say("call", self.node.vmid, name)
        Thread(self.node, name, generator).run()

    # ---- what the machine tells

    def deliver(self, message: Message) -> None:
        self.handlers.deliver(message)

    def withdrawn(self, src: int, seq: int) -> None:
        self.handlers.withdrawn(src, seq)

    def on_progress(self) -> None:
        for thread in list(self.threads):
            thread.on_progress()

    def on_one_way(self, src: int) -> None:
        """A handler of a one-way message may send something back, itself from the handler."""
        if src != self.node.vmid and self.world.rng.random() < 0.1 and self.world.faulty:
            self.start("reply", self.send(src, 8, 0.0))

    # ---- messages

    def _room(self, dst: int, size: int, timeout_s: float | None) -> Running:
        member = self.node.member
        if not member.has_room(dst, size):
            self.node.perform(member.await_room(dst))
            yield Wait(lambda: member.has_room(dst, size), timeout_s)
            member.stop_awaiting_room(dst)

    def send(self, dst: int, size: int, timeout_s: float | None) -> Running:
        """`Group.send`: with a timeout of 0 it gives up at once where there is no room."""
        member, weight = self.node.member, HEADER_WEIGHT + size
        if timeout_s != 0:
            yield from self._room(dst, weight, timeout_s)
        if member.has_room(dst, weight):
            self._send_now(dst, size)

    def _send_now(self, dst: int, size: int) -> None:
        node, history = self.node, self.world.history
        token, payload = history.on_sent(node, dst, size)
        node.perform(node.member.send(dst, ONE_WAY, payload, self.world.now))
        history.after_send(node, dst, token, HEADER_WEIGHT + size)

    def request(self, dst: int, code: int, size: int, timeout_s: float | None) -> Running:
        """`Group.request`: withdrawn if the time is over first."""
        node, member, weight = self.node, self.node.member, HEADER_WEIGHT + size
        yield from self._room(dst, weight, timeout_s)
        if not member.has_room(dst, weight):
            return
        history = self.world.history
        token, payload = history.on_sent(node, dst, size)
        ticket = history.ticket(node, dst, code, token)
        seq, effects = member.request(dst, code, payload, ticket, self.world.now)
        node.perform(effects)
        history.after_send(node, dst, token, weight)
        answered = yield Wait(ticket.settled, timeout_s, ticket)
        if not answered:
            ticket.state = "withdrawn"
            self.world.say("withdraw", node.vmid, dst, seq)
            node.perform(member.withdraw(seq, self.world.now))

    def broadcast(self, size: int) -> Running:
        """`Group.broadcast`: to all that the leader names, except where there is no room."""
        ticket = self._ask(Code.GET_MEMBERS)
        yield Wait(ticket.settled, None, ticket)
        if ticket.error is None:
            assert isinstance(ticket.payload, tuple)
            for row in ticket.payload[0]:  # type: ignore[attr-defined]
                vmid = row[0]
                if vmid != self.node.vmid and self.node.member.has_room(vmid, HEADER_WEIGHT + size):
                    self._send_now(vmid, size)

    def flush(self, timeout_s: float | None) -> Running:
        """`Group.flush`."""
        node, member = self.node, self.node.member
        waiting = member.unarrived()
        for peer in waiting:
            node.perform(member.ask_progress(peer))
        links = member.links
        yield Wait(lambda: not any(p in links and links[p].keeps for p in waiting), timeout_s)

    def _ask(self, code: Code, *fields: int) -> Ticket:
        """Send a request of the library's own to the leader."""
        node, member = self.node, self.node.member
        ticket = self.world.history.ticket(node, member.leader_vmid, code)
        node.perform(member.request(member.leader_vmid, code, fields, ticket, self.world.now)[1])
        return ticket

    def ask(self, code: Code, *fields: int) -> Running:
        """A request to the leader whose answer only has to be right."""
        ticket = self._ask(code, *fields)
        yield Wait(ticket.settled, None, ticket)

    # ---- IDs

    def new_id(self) -> Running:
        """`Ids.new`."""
        node, member = self.node, self.node.member
        provision = member.provision
        while True:
            now = self.world.now
            id = member.ids.new(now)
            if id is not None:
                self.world.history.on_new_id(node, id)
                self.held.append(id)
                if member.ids.low():
                    node.perform(provision.want_range(now))
                return
            node.perform(provision.want_range(now))
            yield Wait(lambda: not provision.range_coming)
            if provision.failed is not None or provision.exhausted or node.goodbye_said:
                return

    def release_id(self, id: int) -> None:
        """`Ids.release` of an ID from a range of ours."""
        node, now = self.node, self.world.now
        self.held.remove(id)
        self.world.history.on_released_id(node, id)
        spent = node.member.ids.release(id, now)
        assert spent is not None, f"{id} is not known to VMID {node.vmid}, which holds it"
        if spent:
            self.world.say("give back", node.vmid, *spent)
            node.perform(node.member.provision.give_back(spent, now))

    def move_id(self, id: int, owner: int) -> Running:
        """`Ids.move` of an ID that we hold or of an extra one. A signal may end the wait."""
        member, history = self.node.member, self.world.history
        single = (id, id) in self.extra
        if single:
            self.extra.remove((id, id))
        else:
            self.held.remove(id)
        history.moving.add((id, owner))
        ticket = history.ticket(self.node, member.leader_vmid, Code.CHANGE_ID_OWNER)
        ticket.then = lambda: self._on_moved(ticket, id, owner, single)
        self.node.perform(member.move_id(id, owner, ticket, self.world.now))
        yield Wait(ticket.settled, self.world.rng.choice((None, self.world.knobs.delay_s)), ticket)

    def _on_moved(self, ticket: Ticket, id: int, owner: int, single: bool) -> None:
        moved = ticket.error is None and ticket.payload == (0,)
        if moved and owner != self.node.vmid:
            self.world.history.after_move(self.node, id, owner)
        elif ticket.error is not None:
            pass  # it may have moved or not: the leader that knew has died
        elif single:
            self.extra.append((id, id))
        else:
            self.held.append(id)

    def alloc_range(self) -> Running:
        """`Ids.alloc_range`."""
        ticket = self._ask(Code.ALLOC_ID_RANGE)
        yield Wait(ticket.settled, None, ticket)
        if ticket.error is None and ticket.payload[0] and not self.node.goodbye_said:
            start, end = ticket.payload
            assert isinstance(start, int)
            assert isinstance(end, int)
            self.extra.append((start, end))
            for id in range(start, end + 1):
                self.world.history.on_new_id(self.node, id)

    def release_range(self, start: int, end: int) -> Running:
        """`Ids.release_range` of something that is ours, which must succeed; or is not."""
        ours = (start, end) in self.extra
        if ours:
            self.extra.remove((start, end))
            for id in range(start, end + 1):
                self.world.history.on_released_id(self.node, id)
        ticket = self._ask(Code.RELEASE_ID_RANGE, start, end)
        yield Wait(ticket.settled, None, ticket)
        if ticket.error is None:
            self.world.history.after_release(self.node, start, end, ours, ticket.payload)

    # ---- leaving

    def leave(self, told: tuple[int, ...] | None) -> Running:
        """`Group.close`, after a word to the parent (or the leader) if the process ends."""
        node, member = self.node, self.node.member
        node.leaving = True
        if told is not None:
            parent = node.identity.parent or member.leader_vmid
            self.world.history.on_ending(node, parent, told)
            node.perform(member.send(parent, Code.CHILDEXIT, told, self.world.now))
        node.perform(member.sync.do(member.sync.client.close_all(), self.world.now))
        self.world.history.sync.on_vanished(node.vmid)
        yield from self.flush(2.0)
        ticket = self._ask(Code.LEAVE)
        node.goodbye_said = True
        self.world.history.locks.on_vanished(node.vmid)
        self.world.history.sync.on_vanished(node.vmid)
        yield Wait(ticket.settled, 2.0, ticket)
        if told is not None and ticket.error is None and ticket.state != "open":
            self.world.history.after_goodbye(node, told)
        while node.pauses:  # another thread is inside a fork
            yield Wait(never, 0.005)
        node.leaving = False
        error = IpcError("closed")
        self.world.history.on_closing(node)
        node.perform([*member.calls.fail_all(error), Progress(0)])
        self.world.left.add(node.vmid)
        node.vanish()
        self.world.kernel.close(node.port, node.process)
