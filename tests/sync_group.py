"""A group around the real machines of sync handles: processes, agents, channels, a journal.

Nothing moves by itself: each message waits in its channel until it is told to arrive. Every
message is packed and unpacked on its way; every record of the journal passes through msgpack,
and a successor that replays them all must have the server's state at any time.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Any

from msgspec import msgpack
from sync_space import search_cycle

from libos_ipc.core.sync_client import SyncClient
from libos_ipc.core.sync_payload import pack, unpack
from libos_ipc.core.sync_server import SyncServer
from libos_ipc.core.sync_table import IN_THE_WAY, SyncTable
from libos_ipc.core.sync_words import (
    NEVER_WRITTEN,
    Agent,
    Blockers,
    Changed,
    Closed,
    Commit,
    Decision,
    Failed,
    Granted,
    Remains,
    State,
    Value,
)
from libos_ipc.core.vocabulary import Note

NAMES = {getattr(errno, name): name for name in ("EDEADLK", "EOWNERDEAD", "ENOTCONN")}

SHARED, EXCLUSIVE = State.SHARED, State.EXCLUSIVE


class Group:
    """A server and clients by VMID. Tickets are (vmid, thread, n)."""

    def __init__(self, *vmids: int, max_value: int = 1000) -> None:
        self.max_value = max_value
        self.server = SyncServer(find_cycle=self.find_cycle)
        self.successor = SyncTable()
        self.clients: dict[int, SyncClient] = {}
        self.up: dict[int, deque[Any]] = {}
        self.down: dict[int, deque[Any]] = {}
        self.adrift: set[int] = set()  # clients that have not turned to the new leader
        self.memory: dict[tuple[int, int], Value] = {}
        self.last: dict[int, Value] = {}  # what was committed last, by ID
        self.settled: dict[Any, Any] = {}  # ticket -> Granted, Failed or Changed
        self.notes: list[Note] = []
        self.sent: list[tuple[int, object]] = []  # all messages so far, by VMID of the client
        self.elsewhere: dict[Agent, list[Agent]] = {}  # waits on what is no handle
        self.cycles: list[tuple[Agent, str]] = []
        self.tickets = 0
        for vmid in vmids:
            self.join(vmid)

    def join(self, vmid: int) -> None:
        self.clients[vmid] = SyncClient(max_value=self.max_value)
        self.up[vmid], self.down[vmid] = deque(), deque()

    # ---- what agents do

    def open(self, vmid: int, id: int = 0, name: str = "", on_death: str = "last") -> int:
        """Ask, and wait for the answer."""
        self.ask_to_open(vmid, id, name, on_death)
        before = set(self.clients[vmid]._handles)
        self.run()
        new = set(self.clients[vmid]._handles) - before
        return new.pop() if new else id or self.server.names[name]

    def ask_to_open(self, vmid: int, id: int, name: str = "", on_death: str = "last") -> None:
        if vmid not in self.adrift:
            self.up[vmid].append(("open", (id, name, "bytes", on_death)))

    def lock(
        self, vmid: int, id: int, thread: int = 1, state: State = EXCLUSIVE, timed: bool = False
    ) -> Any:
        self.tickets += 1
        ticket = (vmid, thread, self.tickets)
        self.perform(vmid, self.clients[vmid].lock(id, thread, state, ticket, timed))
        return ticket

    def unlock(self, vmid: int, id: int, thread: int = 1, data: bytes | None = None) -> None:
        self.perform(vmid, self.clients[vmid].unlock(id, thread, data))

    def watch(self, vmid: int, id: int, version: int | None = None) -> Any:
        self.tickets += 1
        ticket = (vmid, 0, self.tickets)
        known = self.clients[vmid].version_of(id) if version is None else version
        self.perform(vmid, self.clients[vmid].watch(id, ticket, known))
        return ticket

    def withdraw(self, vmid: int, id: int, ticket: Any) -> None:
        self.perform(vmid, self.clients[vmid].withdraw(id, ticket))

    def close(self, vmid: int, id: int, *, force: bool = False) -> None:
        self.perform(vmid, self.clients[vmid].close(id, force=force))

    def kill(self, vmid: int, *, lost: bool = False) -> None:
        """What it has sent arrives before the news of its death, or is lost."""
        client = self.clients.pop(vmid)
        in_use = {id for id, handle in client._handles.items() if handle.using == EXCLUSIVE}
        if lost:
            self.up[vmid].clear()
        self.down[vmid].clear()
        self.adrift.discard(vmid)
        self.up[vmid].append(("gone", in_use))

    def lose_leader(self) -> None:
        """Another leader has read the journal. What was on its way is lost."""
        server = SyncServer(find_cycle=self.find_cycle)
        server.replay(self.journal())
        assert server.state() == self.server.state()
        self.server = server
        self.decide(server.takeover())
        for vmid in self.up:
            self.up[vmid] = deque(word for word in self.up[vmid] if word[0] == "gone")
            self.down[vmid].clear()
        self.adrift = set(self.clients)

    def resume(self, vmid: int) -> None:
        self.adrift.discard(vmid)
        self.perform(vmid, self.clients[vmid].resume())

    # ---- what arrives

    def run(self) -> None:
        """Let all messages arrive, the oldest of each channel in turn."""
        while any(self.up.values()) or any(self.down.values()):
            for vmid in list(self.up):
                self.arrive_up(vmid)
                self.arrive_down(vmid)

    def arrive_up(self, vmid: int) -> None:
        if not self.up[vmid]:
            return
        kind, fields = self.up[vmid].popleft()
        if kind == "open":
            id, decision = self.server.open(vmid, *fields)
            self.decide(decision)
            if vmid in self.clients:
                self.down[vmid].append(("opened", (id, fields)))
        elif kind == "gone":

            def remains(id: int) -> Remains:
                return Remains(self.memory.get((vmid, id)), id in fields)

            self.decide(self.server.on_gone(vmid, remains))
        else:
            self.decide(self.server.on_message(vmid, unpack(kind, fields)))  # type: ignore[arg-type]

    def arrive_down(self, vmid: int) -> None:
        if not self.down[vmid]:
            return
        kind, fields = self.down[vmid].popleft()
        client = self.clients[vmid]
        if kind == "opened":
            id, asked = fields
            if not client.opened(id):
                self.ask_to_open(vmid, *asked[:2], asked[3])
        else:
            self.perform(vmid, client.on_message(unpack(kind, fields)))  # type: ignore[arg-type]

    # ---- what follows

    def perform(self, vmid: int, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Commit):
                self.memory[vmid, effect.id] = self.last[effect.id] = effect.value
            elif isinstance(effect, Granted | Failed | Changed):
                assert effect.ticket not in self.settled
                self.settled[effect.ticket] = effect
            elif isinstance(effect, Closed):
                self.memory.pop((vmid, effect.id), None)
            elif isinstance(effect, Note):
                self.notes.append(effect)
            elif vmid not in self.adrift:
                self.sent.append((vmid, effect))
                self.up[vmid].append((type(effect), pack(effect)))

    def decide(self, decision: Decision) -> None:
        self.successor.replay(msgpack.decode(msgpack.encode(decision.records)))
        self._journal = [*getattr(self, "_journal", ()), *decision.records]
        self.notes += decision.notes
        for vmid, word in decision.messages:
            if vmid in self.clients:
                self.sent.append((vmid, word))
                self.down[vmid].append((type(word), pack(word)))
        for id in self.last.keys() - self.server.handles.keys():
            del self.last[id]

    def journal(self) -> list[Any]:
        return list(msgpack.decode(msgpack.encode(self._journal)))

    def find_cycle(self, agent: Agent, blockers: Blockers) -> str | None:
        edges = list(blockers)
        text = search_cycle(_Both(self), agent, edges)  # type: ignore[arg-type]
        if text is not None:
            self.cycles.append((agent, text))
            self.on_cycle(agent)
        return text

    def on_cycle(self, agent: Agent) -> None:
        """For tests."""

    # ---- what is true, seen from above

    def truly_waits_for(self, agent: Agent) -> set[Agent]:
        """For whom an agent waits, by what all processes know together."""
        vmid, thread = agent
        found: set[Agent] = set(self.elsewhere.get(agent, ()))
        client = self.clients.get(vmid)
        for id, handle in client._handles.items() if client else ():
            waits = list(handle.waits or ())
            wait = next((wait for wait in waits if wait.thread == thread), None)
            if wait is None or wait.timed:
                continue
            ahead = waits[: waits.index(wait)]
            found |= {(vmid, other.thread) for other in ahead}
            if handle.user:
                found.add((vmid, handle.user))
            entry = self.server.handles[id].entry_of(vmid)
            if entry is not None and entry.number == wait.number:
                found |= self._truly_ahead(id, entry)
        return found

    def _truly_ahead(self, id: int, entry: Any) -> set[Agent]:
        queue = self.server.handles[id].queue
        found = {
            (other.vmid, other.thread)
            for other in queue[: queue.index(entry)]
            if other.thread and EXCLUSIVE in (entry.state, other.state)
        }
        for vmid, client in self.clients.items():
            there = client._handles.get(id)
            if vmid != entry.vmid and there and (entry.state, there.using) in IN_THE_WAY:
                found.add((vmid, there.user))
        return found

    def truly_in_a_cycle(self, agent: Agent) -> bool:
        seen: set[Agent] = set()
        ways = self.truly_waits_for(agent)
        while ways:
            other = ways.pop()
            if other == agent:
                return True
            if other not in seen:
                seen.add(other)
                ways |= self.truly_waits_for(other)
        return False

    def check(self) -> None:
        """What holds at any time."""
        self.server.check()
        assert self.successor.state() == self.server.state()
        self.successor.check()
        states: dict[int, list[int]] = {}
        for client in self.clients.values():
            client.check()
            for id, handle in client._handles.items():
                states.setdefault(id, []).append(handle.state)
                if handle.state >= SHARED:
                    assert handle.value == self.last.get(id, NEVER_WRITTEN)
        for there in states.values():
            there.sort()
            assert there[-1] < EXCLUSIVE or there[-2:-1] in ([], [State.INVALID]), states

    def failed_with(self, ticket: Any) -> str | None:
        """The errno's name, None if it did not fail."""
        effect = self.settled.get(ticket)
        return NAMES[effect.errno] if isinstance(effect, Failed) else None

    def value_of(self, ticket: Any) -> tuple[int, object] | None:
        """What a lock was granted with."""
        effect = self.settled.get(ticket)
        return tuple(effect.value) if isinstance(effect, Granted) else None  # type: ignore[return-value]


class _Both:
    """The waits on handles, and those elsewhere."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def waits_for(self, agent: Agent) -> list[tuple[Agent, str]]:
        elsewhere = self.group.elsewhere.get(agent, ())
        edges = [(other, f"holds what {agent} waits for") for other in elsewhere]
        return [*self.group.server.waits_for(agent), *edges]
