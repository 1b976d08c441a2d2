"""What must hold, from what was observed: every message, answer, grant and end goes through here.

Two things are watched separately: what travels between two processes (each message delivered
once and in order, each ticket settled once and with its own answer), and what the leader grants
(every record of its journal, in the order of writing). The second is kept as a *shadow*: a fresh
leader that applies each record when it is written, and must equal the real one at any time. Who
*uses* an ID is known here better than anywhere: from the call that gave it to a program until
that program gives it up or the leader says that its owner is gone.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import msgspec

from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.lock_words import Ask
from libos_ipc.core.vocabulary import Body, ChildExit, ChildJoined, Message, Outgoing
from libos_ipc.errors import (
    Deadlock,
    IpcError,
    LeaderLost,
    NotJoined,
    PeerDied,
    WouldBlock,
)

from .locks import LOCK_CODES, LockHistory
from .signals import SignalHistory
from .sync import SYNC, SyncHistory
from .threads import Ticket

if TYPE_CHECKING:
    from .node import SimNode
    from .world import World

__all__ = ["History", "Violation"]

LEADER = 1
#: Steps of the leader between two comparisons with its shadow.
COMPARE_EVERY = 32


class Violation(AssertionError):
    """Something that must hold does not."""


class History:
    """The record of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tokens = 0
        # messages: (from, to) -> tokens in the order of sending; how many of them came
        self.sent: dict[tuple[int, int], list[int]] = {}
        self.come: dict[tuple[int, int], int] = {}
        self.handled: set[int] = set()
        self.answered: dict[int, bool] = {}  # token -> whether it was refused
        self.tickets: list[Ticket] = []
        self.closing: SimNode | None = None
        # grants
        self.records: list[tuple[object, ...]] = []
        self.shadow: Leader = world.new_leader()
        self.vmids: set[int] = set()
        self.vmids_told: set[int] = set()
        self.ranges: set[tuple[int, int]] = set()
        self.uses: dict[int, int] = {}  # ID in use -> VMID
        #: IDs moved from one program to another -> VMID, which may not know of it
        self.moved: dict[int, int] = {}
        self.moving: set[tuple[int, int]] = set()
        self.ended = 0
        self._until_compared = COMPARE_EVERY
        # children
        #: VMID and what it says of its end -> to whom, and how often that one has heard it
        self.child_exits: dict[tuple[int, ...], dict[int, int]] = {}
        self.joined_children: dict[tuple[int, int], int] = {}
        self.hostile: set[int] = set()
        self.signals = SignalHistory(world)
        self.locks = LockHistory(world)
        self.sync = SyncHistory(world)
        self.pids: dict[int, int] = {}  # of every VMID that there ever was

    def _must(self, holds: object, *otherwise: object) -> None:
        if not holds:
            raise Violation(" ".join(map(str, otherwise)))

    # ---- messages

    def on_sent(self, node: SimNode, dst: int, size: int) -> tuple[int, bytes]:
        """A message is about to be sent: its token and its payload."""
        self._tokens += 1
        token = self._tokens
        self.sent.setdefault((node.vmid, dst), []).append(token)
        self._world.say("message", node.vmid, dst, token)
        return token, token.to_bytes(4, "big").ljust(size, b".")

    def after_send(self, node: SimNode, dst: int, token: int, size: int) -> None:
        """It was: or not, if the other process turned out to be gone."""
        member = node.member
        link = member.links.get(dst)
        if link is None:
            if dst != node.vmid:
                self.sent[node.vmid, dst].remove(token)
                self._must(
                    not self._is_listening(dst), f"VMID {dst} is gone for {node.vmid}, but lives"
                )
            return
        self._must(link.owed <= max(member.send_buffer, size), f"{link.owed} bytes owed")

    def on_delivered(self, node: SimNode, message: Message) -> None:
        """The receiver's machine hands a message out: it must be the next one."""
        token = int.from_bytes(message.payload[:4], "big")
        pair = message.src, node.vmid
        self._world.say("deliver", *pair, token)
        sent, at = self.sent.get(pair, []), self.come.get(pair, 0)
        self._must(
            at < len(sent) and sent[at] == token,
            f"message {token} of {pair} delivered instead of {sent[at : at + 1]}",
        )
        self.come[pair] = at + 1

    def on_handled(self, node: SimNode, code: int, seq: int, payload: bytes) -> int:
        """A handler begins: never again for this message."""
        token = int.from_bytes(payload[:4], "big")
        self._must(token not in self.handled, f"message {token} handled twice")
        self.handled.add(token)
        return token

    def on_answered(self, node: SimNode, token: int, *, refused: bool) -> None:
        """A handler has answered."""
        self.answered[token] = refused

    def on_transmit(self, node: SimNode, peer: int, message: Outgoing) -> None:
        """What the leader tells must be in its journal by then."""
        if message.of == Code.GET_NEW_VMID:
            self._must(message.body[0] in self.vmids, f"told but not written: {message}")
        elif message.of == Code.ALLOC_ID_RANGE and message.body[0]:
            self._must(tuple(message.body) in self.ranges, f"told but not written: {message}")
        elif message.of == Code.TRADE_ID_RANGES:
            for given in message.body[0]:
                self._must(given in self.ranges, f"told but not written: {message}")

    # ---- tickets

    def ticket(self, node: SimNode, dst: int, code: int, token: int = 0) -> Ticket:
        """The ticket of a new request."""
        ticket = Ticket(node, dst, code, token)
        self.tickets.append(ticket)
        return ticket

    def on_resolved(self, ticket: Ticket, payload: Body) -> None:
        """An answer has come: once, and the right one."""
        self._settles(ticket)
        if ticket.code >= FIRST_USER_CODE:
            self._must(
                payload == ticket.token.to_bytes(4, "big"),
                f"request {ticket.token} got the answer {payload!r}",
            )
            self._must(self.answered.get(ticket.token) is False, "answered by nobody")
        elif ticket.code == Code.GET_NEW_VMID:
            assert isinstance(payload, tuple)
            vmid = payload[0]
            self._must(vmid not in self.vmids_told, f"VMID {vmid} told twice")
            self.vmids_told.add(vmid)

    def on_failed(self, ticket: Ticket, error: IpcError) -> None:
        """No answer will come: for a reason that is true."""
        self._settles(ticket)
        self._world.say("fail", ticket.node.vmid, ticket.dst, type(error).__name__)
        if self.closing is ticket.node:
            return
        if ticket.code == SYNC:
            return
        if isinstance(error, LeaderLost):
            self._must(ticket.dst == LEADER and not self._is_listening(LEADER), "no leader lost")
        elif ticket.code in LOCK_CODES and isinstance(error, Deadlock | WouldBlock | NotJoined):
            left = ticket.node.goodbye_said
            self._must(left or not isinstance(error, NotJoined), f"refused, but a member: {error}")
        elif error.errno == errno.ECANCELED:
            self._must(ticket in self.locks.taken_back, f"nobody has withdrawn this: {error}")
        elif isinstance(error, PeerDied):
            self._must(not self._is_listening(ticket.dst), f"VMID {ticket.dst} lives: {error}")
        else:
            self._must(self.answered.get(ticket.token), f"request {ticket.token}: {error}")
            self._must(str(ticket.token) in str(error), f"the refusal of another one: {error}")

    def _settles(self, ticket: Ticket) -> None:
        self._must(ticket.state == "open", f"{ticket.state} request {ticket.token} settled again")
        self._must(not ticket.node.dead, "a request of the dead settled")

    def on_closing(self, node: SimNode) -> None:
        """The requests of this node fail now because it leaves."""
        self.closing = node

    def on_vanished(self, node: SimNode) -> None:
        """Nobody waits for the requests of this node any more."""
        self.locks.on_vanished(node.vmid)
        self.sync.on_vanished(node.vmid)
        for ticket in self.tickets:
            if ticket.node is node and ticket.state == "open":
                ticket.state = "dropped"

    def _is_listening(self, vmid: int) -> bool:
        port = self._world.kernel.ports.get(vmid)
        return port is not None and port.owner.alive and port.owner in port.holders

    # ---- IDs in use

    def on_new_id(self, node: SimNode, id: int) -> None:
        """A program got an ID."""
        self._world.say("new id", node.vmid, id)
        self._must(id not in self.uses, f"ID {id} given to {node.vmid}, in use by {self._use(id)}")
        self._must(1 <= id <= self._world.knobs.id_max, f"ID {id} given out")
        self.uses[id] = node.vmid

    def on_released_id(self, node: SimNode, id: int) -> None:
        """A program gave an ID up."""
        self._world.say("release", node.vmid, id)
        self._must(self.uses.pop(id, 0) == node.vmid, f"ID {id} was not {node.vmid}'s")

    def after_move(self, node: SimNode, id: int, owner: int) -> None:
        """A program was told that an ID is another process's now: that one hears of it."""
        other = self._world.nodes.get(owner)
        if other is not None and self.uses.get(id) == owner:
            other.program.extra.append((id, id))

    def after_release(
        self, node: SimNode, start: int, end: int, ours: bool, answer: Body | tuple[object, ...]
    ) -> None:
        """The leader's word on a range given back."""
        self._must((answer == (0,)) == ours, f"giving back {start}-{end}: {answer}, ours: {ours}")

    def _use(self, id: int) -> int:
        return self.uses.get(id, 0)

    # ---- the journal

    def on_journal(self, record: tuple[object, ...]) -> None:
        """A record is written."""
        self._world.say("journal", *record)
        # as it comes back from the file: tuples are lists there, and nothing else differs
        read = tuple(msgspec.msgpack.decode(msgspec.msgpack.encode(record)))
        self.records.append(read)
        whole = read if read[0] == "step" else ("step", (read,), (), (), ())  # the founder's own
        kind, records, *told = whole
        for each in records:
            getattr(self, f"_on_{each[0]}", lambda *rest: None)(*each[1:])
            self.shadow.apply(each)
        self.shadow.apply((kind, (), *told))

    def _on_lock(self, asks: tuple[object, ...], number: int, now: float) -> None:
        self.locks.on_record(Ask.of(asks), number)

    def _on_sync(self, kind: str, *fields: object) -> None:
        self.sync.on_record(kind, fields)

    def _on_vmid(self, vmid: int, asker: int) -> None:
        self._must(vmid not in self.vmids, f"VMID {vmid} given out twice")
        self.vmids.add(vmid)

    def _on_range(self, owner: int, start: int, end: int, now: float) -> None:
        for id in range(start, end + 1):
            self._must(id not in self.uses, f"range {start}-{end}: {self._use(id)} uses {id}")
        self.ranges.add((start, end))

    def _on_trade(self, owner: int, back: object, given: list[tuple[int, int]], now: float) -> None:
        for start, end in given:
            self._on_range(owner, start, end, now)

    def _on_join(self, vmid: int, pid: int, *rest: object) -> None:
        self._must(vmid not in self.vmids, f"VMID {vmid} given out twice")
        self.vmids.add(vmid)
        before = self.uses.get(pid)
        if before is not None:  # the same process came back after an exec: its pid stays
            row = self.shadow.processes[before]
            self._must((row.os_pid, row.start_time) == rest[3:5], f"pid {pid} collides")
            self._drop_uses(before)
        self.uses[pid] = vmid

    def _on_move(self, id: int, owner: int, now: float) -> None:
        mover = self.shadow.ids.owner_of(id)
        self._must(
            self.uses.get(id, mover) in (mover, owner), f"{mover} moved ID {id}, not its own"
        )
        self.uses[id] = owner
        self.moved.pop(id, None)
        if (id, owner) in self.moving and owner != mover:
            self.moved[id] = owner

    def _on_release(self, start: int, end: int, owner: int, now: float) -> None:
        for id in range(start, end + 1):
            self._must(id not in self.uses, f"{start}-{end} taken back: {self._use(id)} uses {id}")
            self.moved.pop(id, None)

    def _on_gone(self, vmid: int, now: float) -> None:
        node = self._world.nodes.get(vmid)
        self._must(node is None or node.leaving, f"VMID {vmid} is told gone, but lives")
        self._must(node or not self._is_listening(vmid), f"child {vmid} is told gone, but lives")
        self._drop_uses(vmid)

    def _on_lost(self, vmid: int, now: float) -> None:
        self._must(not self._is_listening(vmid), f"child {vmid} lives, and lost its ID")
        self._drop_uses(vmid)

    def _drop_uses(self, vmid: int) -> None:
        for id in [id for id, user in self.uses.items() if user == vmid]:
            del self.uses[id]
            self.moved.pop(id, None)

    def on_ended(self) -> None:
        """The leader says that the group is over."""
        self._world.say("ended")
        self.ended += 1
        there = [node.vmid for node in self._world.nodes.values() if not node.leaving]
        self._must(not set(there) - {LEADER}, f"ended, but {there} are members")
        ports = self._world.kernel.ports.values()
        unborn = [port.vmid for port in ports if port.node is None]
        self._must(not unborn, f"ended, but {unborn} are about to be born")

    # ---- children

    def on_ending(self, node: SimNode, dst: int, told: tuple[int, ...]) -> None:
        """A child is about to say how it ends, to its parent or the leader."""
        self.child_exits.setdefault((node.vmid, *told), {})[dst] = 0

    def on_child_exit(self, node: SimNode, told: ChildExit) -> None:
        """A child's word of its end: once, to whom it was sent or to the leader in its place."""
        heard = self.child_exits.get(tuple(told), {})
        if node.member.leader is not None and not any(map(self._is_listening, heard)):
            heard.setdefault(node.vmid, 0)
        self._must(heard.get(node.vmid) == 0, f"unexpected or repeated: {told}")
        heard[node.vmid] = 1

    def after_goodbye(self, node: SimNode, told: tuple[int, ...]) -> None:
        """A child has left: unless its parent owes it an acknowledgement, its end is known."""
        heard, links = self.child_exits[(node.vmid, *told)], node.member.links
        owed = any(vmid in links and links[vmid].keeps for vmid in heard)
        self._must(owed or any(heard.values()), f"lost: how VMID {node.vmid} has ended")

    def on_child_joined(self, node: SimNode, told: ChildJoined) -> None:
        """The leader's word of a child: once."""
        key = node.vmid, told.vmid
        self.joined_children[key] = self.joined_children.get(key, 0) + 1
        self._must(self.joined_children[key] == 1, f"told twice: {told}")

    # ---- after each step

    def check_node(self, node: SimNode) -> None:
        """What must hold of a node's machines, as seen from outside."""
        if node.member.leader is not None:
            self._until_compared -= 1
            if not self._until_compared:
                self._until_compared = COMPARE_EVERY
                self.compare()

    def compare(self) -> None:
        """The leader and its shadow are alike."""
        leader = self._world.leader
        assert leader is not None
        assert leader.member.leader is not None
        there, replayed = leader.member.leader.state(), self.shadow.state()
        self._must(there == replayed, f"leader {there}\nreplayed {replayed}")
