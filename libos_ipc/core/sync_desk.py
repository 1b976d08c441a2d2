"""The leader's part in sync handles: the server's machine between messages and the journal.

The machine speaks in words and records of its own. Here messages become words and words become
messages, its records are kept under one name in the leader's journal, and two things are added
that it leaves to others: cycles of waiters are looked for over file locks and handles together,
and the files in which large values lie are done away with when no handle leads to them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from libos_ipc.core.codes import Code
from libos_ipc.core.roster import Record, Roster
from libos_ipc.core.sync_end import FROM_SERVER, TO_SERVER, value_name
from libos_ipc.core.sync_payload import Word, pack, unpack
from libos_ipc.core.sync_server import SyncServer
from libos_ipc.core.sync_words import Decision, Reference, Remains, State
from libos_ipc.core.vocabulary import Answer, Discard, Effects, Journal, Note, Refuse, Say, make
from libos_ipc.core.wait_graph import Agent, Edge, explain, find_cycle
from libos_ipc.errors import IpcError

__all__ = ["WORD_OF", "ReadRemains", "SyncDesk"]

#: What a dead process has left of its handles: VMID -> handle -> remains.
ReadRemains = Callable[[int], Callable[[int], Remains]]

WORD_OF: dict[int, type[Word]] = {code: word for word, code in TO_SERVER.items()}
_CODE_OF: dict[type[Word], int] = {word: code for code, word in FROM_SERVER.items()}

_ON_DEATH = ("last", "raise")


class SyncDesk:
    """Answers what concerns sync handles. `read_remains` reads what dead processes published."""

    def __init__(self, roster: Roster, read_remains: ReadRemains | None) -> None:
        self._roster = roster
        self._read_remains = read_remains
        self._server.find_cycle = self._find_cycle
        self._roster.locks.others = self
        self._files: dict[int, set[bytes]] = {}  # by handle: where values of it may lie

    @property
    def _server(self) -> SyncServer:
        return self._roster.sync

    # ---- requests and messages

    def open(self, src: int, seq: int, fields: tuple[Any, ...], now: float) -> Effects:
        """SYNC_OPEN."""
        id, on_death, tail = fields
        name, _, type_text = tail.partition(b"\0")
        try:
            if on_death >= len(_ON_DEATH):
                raise IpcError(errno.EINVAL, f"on_owner_death {on_death} is neither 0 nor 1")
            words = (name.decode("utf-8", "replace"), type_text.decode("utf-8", "replace"))
            id, decision = self._server.open(src, id, *words, _ON_DEATH[on_death])
        except IpcError as error:
            return [Refuse(src, seq, error.errno or errno.EINVAL, str(error.args[-1]))]
        return [*self._tell(decision), Answer(src, seq, Code.SYNC_OPEN, (id,))]

    def on_word(self, src: int, code: int, fields: tuple[Any, ...], now: float) -> Effects:
        """A message of a client about a handle."""
        id = fields[0]
        try:
            word = unpack(WORD_OF[code], fields)
        except IpcError as error:
            return [Note("sync", {"peer": src, "handle": id, "error": str(error)})]
        return self._tell(self._server.on_message(src, word), id)  # type: ignore[arg-type]

    def list_all(self, src: int, seq: int, fields: tuple[Any, ...], now: float) -> Effects:
        """SYNC_TABLE."""
        effects = self._tell(self._server.end_batons())
        rows = tuple(_row(handle) for _, handle in sorted(self._server.handles.items()))
        return [*effects, Answer(src, seq, Code.SYNC_TABLE, (rows,))]

    def take_over(self) -> Effects:
        """Another leader begins: it does not know yet where large values lie, and what was passed
        on without the one before it."""
        effects = self._tell(self._server.end_batons())
        for id, handle in self._server.handles.items():
            self._keep_in_mind(id, *handle.value)
        return effects

    def on_gone(self, vmid: int) -> Effects:
        """A process is dead, has left, or has exec'ed: it uses no handle any more."""
        if self._server.deposits is not None:
            self._server.deposits.drop(vmid)
        if vmid not in self._server.open_at:
            return []
        ids = list(self._server.open_at[vmid])
        effects = self._tell(self._server.end_batons(ids))
        had = [i for i in ids if self._server.handles[i].rows[vmid].state == State.EXCLUSIVE]
        reads = self._read_remains if had else None
        remains = _nothing if reads is None else reads(vmid)
        for id in had:
            self._files.setdefault(id, set()).update(self._left_by(vmid, id, remains(id)))
        return [*effects, *self._tell(self._server.on_gone(vmid, remains), *ids)]

    def _left_by(self, vmid: int, id: int, remains: Remains) -> Iterator[bytes]:
        """Files that a process may have left which died while it had a handle to itself: of the
        value that it was about to commit, of the last one, and of the one before that."""
        newest = self._server.handles[id].value.version
        if remains.value is not None:
            last, data = remains.value
            newest = max(newest, last)
            if isinstance(data, Reference):
                yield value_name(id, vmid, last - 1).encode()
                yield value_name(id, vmid, last).encode()
        yield value_name(id, vmid, newest + 1).encode()

    def close(self) -> None:
        """Nobody leads here any more."""
        if self._server.batons is not None:
            self._server.batons.close()
        if self._server.deposits is not None:
            self._server.deposits.close()

    # ---- from the machine's words to messages

    def _tell(self, decision: Decision, *ids: int) -> Effects:
        effects: Effects = []
        for record in decision.records:
            effects.append(make(Journal, (("sync", *record),)))
            if record[0] == "value":
                self._keep_in_mind(*record[1:])
        if self._files:
            for id in ids:
                effects += self._discard(id)
        for vmid, word in decision.messages:
            effects.append(make(Say, (vmid, _CODE_OF[type(word)], pack(word))))
        effects += decision.notes
        return effects

    def _keep_in_mind(self, *value: Any) -> None:
        """A value was taken; a large one lies in a file."""
        id, _, data = value
        if not isinstance(data, bytes):
            self._files.setdefault(id, set()).add(data[0])

    def _discard(self, id: int) -> Effects:
        """The files of values that are not the handle's any more."""
        files = self._files.pop(id, None)
        if files is None:
            return []
        handle = self._server.handles.get(id)
        data = None if handle is None else handle.value.data
        if isinstance(data, Reference):
            self._files[id] = {data.where}
            files.discard(data.where)
        return [Discard(where) for where in sorted(files)]

    # ---- cycles, over locks and handles

    def waits_for(self, agent: Agent) -> Iterator[Edge]:
        """Whom this agent waits for over handles: for the graph of file locks."""
        for blocker, text in self._server.waits_for(agent):
            yield Edge(blocker, text)

    def is_waited_for(self, agent: Agent) -> bool:
        """False if certainly nobody waits for a handle."""
        return bool(self._server.waiting)

    def _find_cycle(self, agent: Agent, blockers: Iterable[tuple[Agent, str]]) -> str | None:
        first = [Edge(blocker, text) for blocker, text in blockers]
        cycle = find_cycle(first, (agent,), self._all_waits)
        return None if cycle is None else explain(cycle)

    def _all_waits(self, agent: Agent) -> Iterator[Edge]:
        yield from self.waits_for(agent)
        yield from self._roster.locks.waits_for(agent)


def _nothing(id: int) -> Remains:
    return Remains(None, False)


def _row(handle: Any) -> Record:
    data = handle.value.data
    size = data.size if isinstance(data, Reference) else len(data)
    states = tuple((vmid, int(row.state), row.user) for vmid, row in sorted(handle.rows.items()))
    queue = tuple((entry.vmid, int(entry.state)) for entry in handle.queue)
    return (handle.id, handle.name, handle.type_text, handle.value.version, size, states, queue)
