"""What programs do with sync handles; and what must hold of a value that all share.

A value is a number of versions here: whoever has a handle EXCLUSIVE commits the next one. Nobody
may use a handle while another uses it EXCLUSIVE; whoever gets it sees the version committed last,
by whomever, also where that one died right after. What a process has committed outlives it, as
the memory does in which it was published.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from libos_ipc.core.sync_words import Remains, State, Value
from libos_ipc.core.vocabulary import Publish
from libos_ipc.errors import Deadlock, IpcError, NotJoined

from .threads import Running, Ticket, Wait, never

if TYPE_CHECKING:
    from .node import SimNode
    from .world import World

__all__ = ["SYNC", "SyncHistory", "Syncing"]

#: The `code` of tickets for locks of handles: no message has it.
SYNC = -1
NAMES = ("one", "two")


class SyncHistory:
    """Who uses what, and what was committed last, in one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.using: dict[int, dict[int, State]] = {}  # handle -> VMID -> state
        #: the version committed last by anybody, in the handle's present life
        self.version: dict[int, int] = {}
        #: by VMID, what its memory says
        self.published: dict[int, dict[int, Value]] = {}
        self.names: dict[int, str] = {}
        #: commits by one
        self.passed = 0

    def on_passed(self, id: int, version: int) -> None:
        """A new value was given back by a baton."""
        assert version == self.version.get(id, 0) + 1
        self.version[id] = version
        self.passed += 1

    def on_commit(self, node: SimNode, effect: Publish) -> None:
        """A new value counts from now on; or only lies somewhere else, if its use is told, too."""
        value = Value(effect.version, bytes(effect.data))  # type: ignore[call-overload]
        self.published.setdefault(node.vmid, {})[effect.id] = value
        if effect.in_use is not None:
            return
        assert self.using[effect.id].get(node.vmid) == State.EXCLUSIVE, effect
        assert effect.version == self.version.get(effect.id, 0) + 1, effect
        self.version[effect.id] = effect.version

    def on_granted(self, node: SimNode, id: int, state: State, version: int) -> None:
        """A lock is held from now on."""
        self._world.say("sync", node.vmid, id, state.name, version)
        users = self.using.setdefault(id, {})
        for vmid, other in users.items():
            clash = State.EXCLUSIVE in (state, other)
            assert not clash, f"{node.vmid} has {id} {state.name}, {vmid} {other.name}"
        users[node.vmid] = state
        last = self.version.get(id, 0)
        assert version == last, f"{node.vmid} sees version {version} of {id}, last is {last}"

    def on_released(self, node: SimNode, id: int) -> None:
        """A lock is given up."""
        self.using[id].pop(node.vmid, None)

    def on_vanished(self, vmid: int) -> None:
        """Nothing is used by this process any more."""
        for users in self.using.values():
            users.pop(vmid, None)

    def on_record(self, kind: str, fields: tuple[object, ...]) -> None:
        """The server's records: a handle that nobody has open is forgotten with its value."""
        leader = self._world.leader
        if kind in ("close", "gone") and leader is not None and leader.member.leader is not None:
            there = leader.member.leader.sync.handles
            for id in [id for id in self.version if id not in there]:
                del self.version[id]

    def remains(self, vmid: int, id: int) -> Remains:
        """What a dead process has left of a handle."""
        return Remains(self.published.get(vmid, {}).get(id), False)

    def check_rest(self) -> None:
        """Nobody waits for a handle."""
        leader = self._world.leader
        if leader is None or leader.dead:
            return
        machine = leader.member.leader
        assert machine is not None
        for handle in machine.sync.handles.values():
            assert not handle.queue, f"{handle} is still wanted: {handle.queue}"
            assert handle.rows.keys() <= machine.processes.keys(), f"{handle} open for the gone"


class Syncing:
    """The calls of one node's program."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._world = node.world
        self.ids: dict[str, int] = {}
        self._threads = 0

    def random_call(self) -> Running:
        """Open, lock or close something."""
        rng = self._world.rng
        name = rng.choice(NAMES)
        if name not in self.ids:
            return self.open(name)
        if rng.random() < 0.1:
            return self.close(name)
        # Mostly the one that is passed on without the leader; or by turns the one that it takes.
        shared = 0.5 if self._world.knobs.put else 0.2
        state = State.SHARED if rng.random() < shared else State.EXCLUSIVE
        return self.use(self.ids[name], state, rng.choice((None, 0.01, 0.3, 2.0)))

    def open(self, name: str) -> Running:
        """`Group.sync`."""
        node = self._node
        ticket = self._ticket()
        asks = (0, 0, name.encode() + b"\0bytes")
        node.perform(node.member.sync.open(asks, ticket, self._world.now))
        yield Wait(ticket.settled, None, ticket)
        if ticket.error is None:
            (id,) = ticket.payload
            assert isinstance(id, int)
            self.ids[name] = id

    def close(self, name: str) -> Running:
        """`SyncHandle.close`."""
        node = self._node
        id = self.ids.pop(name)
        try:
            node.perform(node.member.sync.do(node.member.sync.client.close(id), self._world.now))
        except NotJoined:
            pass  # another thread was faster
        except IpcError as error:
            if error.errno != errno.EBUSY:
                raise
            self.ids[name] = id
        yield from ()

    def _ticket(self) -> Ticket:
        return self._world.history.ticket(self._node, self._node.member.leader_vmid, SYNC)

    def use(self, id: int, state: State, patience_s: float | None) -> Running:
        """Lock, stay a while, perhaps commit, unlock."""
        node, world = self._node, self._world
        client, history = node.member.sync.client, world.history.sync
        self._threads += 1
        thread, ticket = self._threads, self._ticket()
        asked = client.lock(id, thread, state, ticket, patience_s is not None)
        node.perform(node.member.sync.do(asked, world.now))
        answered = yield Wait(ticket.settled, patience_s, ticket)
        if not answered:
            node.perform(node.member.sync.do(client.withdraw(id, ticket), world.now))
            if not ticket.settled():
                ticket.state = "withdrawn"
            if ticket.state == "withdrawn" or ticket.error is not None:
                return
        if ticket.error is not None:
            assert isinstance(ticket.error, Deadlock | NotJoined | IpcError), ticket.error
            return
        if node.leaving or node.goodbye_said:
            return  # between the grant and the thread's waking
        version = Value(*ticket.payload).version  # type: ignore[misc, arg-type]
        history.on_granted(node, id, state, version)
        yield Wait(never, world.rng.random() * world.knobs.handler_s)
        if node.goodbye_said:
            return
        data = None
        if state == State.EXCLUSIVE and world.rng.random() < 0.7:
            data = b"%d" % (version + 1)
        try:
            wanted = client.unlock(id, thread, data)
        except NotJoined:
            return  # closed by force: the process leaves
        effects = node.member.sync.do(wanted, world.now)
        commits = [effect for effect in effects if isinstance(effect, Publish)]
        if data is not None and not commits:
            history.on_passed(id, version + 1)
        for effect in commits:
            node.perform([effect])
        history.on_released(node, id)
        node.perform([effect for effect in effects if not isinstance(effect, Publish)])
        if world.rng.random() < world.knobs.put:
            client.put(id)
