"""All handles of a group as the server sees them, and the records that change this table.

`apply` is the one way in which a record changes it, at the server as at its successor: replaying
a journal from its start gives the table again. Nothing here decides anything.

A handle is there as long as any process has it open; with the last one its value is forgotten.
What each process has of it, and how that changes:

    open:     INVALID
    grant:    --> SHARED or EXCLUSIVE, and its entry leaves the queue
    recall:   it has been asked down to a state, and holds what it has until …
    drop:     … it has confirmed
    taken:    as drop, without its help; what it asked for earlier waits is over
    baton:    all are INVALID, as far as this table knows, and those that pass EXCLUSIVE
              among themselves (pass) see to it alone until …
    ended:    … whoever has it in that moment, or was to have it, has it by this table
    close, gone: out of the table

The queue holds who wants an upgrade, in order of arrival, at most one entry per process; who
replaces its entry by one for the same state or a lower one keeps its place. Beside it stands
what is known of waiting inside the processes (`use`, `wait`), for whoever looks for cycles.

`takeover` begins the time of another leader: what was under way is dropped, since every process
asks again, and each row is *silent* until its process has told what it really has; until then
nothing is said to it, so that nothing crosses. A row that stays silent holds what it had.

Invariants: an EXCLUSIVE stands beside INVALID alone; entries of the queue want more than their
process has; a recall is below what its process has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libos_ipc.core.sync_rows import IN_THE_WAY, Entry, Handle, Row
from libos_ipc.core.sync_words import Agent, Data, Record, Reference, State, Value
from libos_ipc.core.vocabulary import make

__all__ = ["IN_THE_WAY", "Entry", "Handle", "Row", "SyncTable"]

INVALID, SHARED, EXCLUSIVE = State.INVALID, State.SHARED, State.EXCLUSIVE


class SyncTable:
    """The handles, who has them open, and who waits where.

    IDs that nobody asked for by number come from `first_id` … `last_id`, in turn.
    """

    def __init__(self, *, first_id: int = 2**22, last_id: int = 2**32 - 1) -> None:
        self.first_id = first_id
        self.last_id = last_id
        self.next_id = first_id
        self.epoch = 1
        self.handles: dict[int, Handle] = {}
        self.names: dict[str, int] = {}
        self.open_at: dict[int, dict[int, None]] = {}  # VMID -> IDs, in order of opening
        #: who may be part of a cycle -> ID -> how often it waits there
        self.waiting: dict[Agent, dict[int, int]] = {}

    def apply(self, record: Record) -> None:
        """Change the table as this record says."""
        _APPLY[record[0]](self, *record[1:])  # type: ignore[index]

    def replay(self, records: Iterable[Record]) -> None:
        """Rebuild the table from a journal."""
        for record in records:
            self.apply(record)

    # ---- open and closed

    def _apply_open(
        self, vmid: int, id: int, name: str, type_text: str, on_death: str, counted: bool
    ) -> None:
        handle = self.handles.get(id)
        if handle is None:
            handle = self.handles[id] = Handle(id, name, type_text, on_death)
            if name:
                self.names[name] = id
            if counted:
                self.next_id = id + 1 if id < self.last_id else self.first_id
        handle.rows[vmid] = Row()
        self.open_at.setdefault(vmid, {})[id] = None

    def _apply_close(self, vmid: int, id: int) -> None:
        del self.open_at[vmid][id]
        if not self.open_at[vmid]:
            del self.open_at[vmid]
        self._remove(vmid, id)

    def _apply_gone(self, vmid: int) -> None:
        for id in self.open_at.pop(vmid, ()):
            self._remove(vmid, id)

    def _remove(self, vmid: int, id: int) -> None:
        handle = self.handles[id]
        self._drop_entry(handle, vmid)
        self._forget_waits(vmid, handle)
        del handle.rows[vmid]
        if not handle.rows:
            del self.handles[id]
            if handle.name:
                del self.names[handle.name]

    # ---- upgrades and downgrades

    def _apply_want(
        self, vmid: int, id: int, state: int, number: int, thread: int, timed: bool
    ) -> None:
        handle = self.handles[id]
        self._asks(handle, vmid, number)
        entry = make(Entry, (vmid, state, number, thread, timed))
        former = handle.entry_of(vmid)
        if former is None:
            handle.queue = (*handle.queue, entry)
        elif state <= former.state:
            self._leave(former.agent, id)
            handle.queue = tuple(entry if each is former else each for each in handle.queue)
        else:
            self._drop_entry(handle, vmid)
            handle.queue = (*handle.queue, entry)
        self._enter(entry.agent, id)

    # ---- the baton

    def _apply_baton(self, id: int, where: int, slot: int, number: int) -> None:
        self.handles[id].baton = (where, slot, number)

    def _apply_pass(self, vmid: int, id: int, number: int) -> None:
        handle = self.handles[id]
        self._asks(handle, vmid, number)
        self._drop_entry(handle, vmid)
        handle.rows[vmid].passing = True

    def _apply_ended(self, id: int, holder: int, in_use: bool) -> None:
        handle = self.handles[id]
        handle.baton = None
        for vmid, row in handle.rows.items():
            if vmid == holder and row.passing:
                row.state, row.lent, row.offered = EXCLUSIVE, in_use, not in_use
            row.passing = False

    # ---- upgrades and downgrades, once more

    def _apply_has(self, vmid: int, id: int, number: int) -> None:
        self._asks(self.handles[id], vmid, number)
        self._drop_entry(self.handles[id], vmid)

    def _asks(self, handle: Handle, vmid: int, number: int) -> None:
        """A process asks for wait `number` of its own: so nobody uses the handle there."""
        row = handle.rows[vmid]
        row.set_user(0, INVALID)
        row.silent = row.lent = False
        if row.waits is not None:
            self._end_wait(vmid, handle, number)

    def _apply_unwant(self, vmid: int, id: int) -> None:
        self._drop_entry(self.handles[id], vmid)

    def _apply_grant(self, vmid: int, id: int, state: int) -> None:
        handle = self.handles[id]
        self._drop_entry(handle, vmid)
        row = handle.rows[vmid]
        row.state = state
        row.warned = handle.owner_died
        handle.owner_died = False

    def _apply_recall(self, vmid: int, id: int, state: int) -> None:
        self.handles[id].rows[vmid].recall = state

    def _apply_drop(self, vmid: int, id: int, state: int) -> None:
        row = self.handles[id].rows[vmid]
        row.state = state
        row.warned &= state > INVALID
        row.set_user(0, INVALID)
        row.lent = row.offered = False
        if row.recall >= state:
            row.recall = 0

    def _apply_taken(self, vmid: int, id: int, state: int, over: int) -> None:
        self._apply_drop(vmid, id, state)
        self.handles[id].rows[vmid].over = over

    def _apply_value(self, id: int, version: int, data: Data) -> None:
        kept = data if isinstance(data, bytes) else Reference(*data)
        self.handles[id].value = make(Value, (version, kept))

    def _apply_death(self, id: int) -> None:
        self.handles[id].owner_died = True

    # ---- waiting inside a process

    def _apply_use(self, vmid: int, id: int, thread: int, using: int) -> None:
        handle = self.handles[id]
        row = handle.rows[vmid]
        row.set_user(thread, using)
        if row.waits is not None:
            for number in [n for n, waiter in row.waits.items() if waiter == thread]:
                self._end_wait(vmid, handle, number)

    def _apply_wait(
        self, vmid: int, id: int, number: int, thread: int, user: int, using: int
    ) -> None:
        handle = self.handles[id]
        row = handle.rows[vmid]
        row.set_user(user, using)
        self._end_wait(vmid, handle, number)
        if row.waits is None:
            row.waits = {}
        row.waits[number] = thread
        self._enter((vmid, thread), id)

    def _apply_unwait(self, vmid: int, id: int, number: int) -> None:
        self._end_wait(vmid, self.handles[id], number)

    def _end_wait(self, vmid: int, handle: Handle, number: int) -> None:
        row = handle.rows[vmid]
        thread = (row.waits or {}).get(number)
        if row.waits is None or thread is None:
            return
        del row.waits[number]
        row.waits = row.waits or None
        self._leave((vmid, thread), handle.id)

    # ---- another leader

    def _apply_takeover(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.waiting.clear()
        for handle in self.handles.values():
            handle.queue = ()
            for row in handle.rows.values():
                row.recall = 0
                row.set_user(0, INVALID)
                row.waits = None
                row.silent = True

    def _apply_resume(self, vmid: int, id: int, state: int) -> None:
        handle = self.handles[id]
        row = handle.rows[vmid]
        self._drop_entry(handle, vmid)
        self._forget_waits(vmid, handle)
        row.warned &= state == row.state
        row.state = state
        row.recall = 0
        row.set_user(0, INVALID)
        row.silent = row.lent = row.offered = False

    # ---- helpers

    def _drop_entry(self, handle: Handle, vmid: int) -> None:
        entry = handle.entry_of(vmid)
        if entry is None:
            return
        if len(handle.queue) == 1:
            handle.queue = ()
        else:
            handle.queue = tuple([each for each in handle.queue if each is not entry])
        self._leave(entry.agent, handle.id)

    def _forget_waits(self, vmid: int, handle: Handle) -> None:
        for number in list(handle.rows[vmid].waits or ()):
            self._end_wait(vmid, handle, number)

    def _enter(self, agent: Agent | None, id: int) -> None:
        if agent is not None:
            ids = self.waiting.get(agent)
            if ids is None:
                self.waiting[agent] = {id: 1}
            else:
                ids[id] = ids.get(id, 0) + 1

    def _leave(self, agent: Agent | None, id: int) -> None:
        if agent is not None:
            ids = self.waiting[agent]
            ids[id] -= 1
            if not ids[id]:
                del ids[id]
            if not ids:
                del self.waiting[agent]

    # ---- asking, and what must hold

    def state(self) -> tuple[object, ...]:
        """All that the journal must bring back, comparable and hashable."""
        handles = tuple(handle.fields() for _, handle in sorted(self.handles.items()))
        return self.next_id, handles

    def check(self) -> None:
        """Assert the invariants. O(n)."""
        assert self.names == {h.name: id for id, h in self.handles.items() if h.name}
        pairs = {(vmid, id) for id, handle in self.handles.items() for vmid in handle.rows}
        assert pairs == {(vmid, id) for vmid, ids in self.open_at.items() for id in ids}
        assert all(self.open_at.values())
        waiting: list[tuple[Agent, int]] = []
        for id, handle in self.handles.items():
            assert handle.id == id
            assert handle.rows
            states = sorted(row.state for row in handle.rows.values())
            assert handle.baton is not None or not any(row.passing for row in handle.rows.values())
            assert handle.baton is None or (states[-1] == INVALID and not handle.queue)
            assert states[-1] < EXCLUSIVE or states[-2:-1] in ([], [INVALID]), states
            vmids = [entry.vmid for entry in handle.queue]
            assert len(vmids) == len(set(vmids))
            assert all(entry.state > handle.rows[entry.vmid].state for entry in handle.queue)
            waiting += [(entry.agent, id) for entry in handle.queue if entry.agent]
            for vmid, row in handle.rows.items():
                assert not row.recall or (row.recall < row.state and not row.silent)
                assert row.waits is None or row.waits
                waiting += [((vmid, thread), id) for thread in (row.waits or {}).values()]
        known = [
            (a, id) for a, ids in self.waiting.items() for id, n in ids.items() for _ in range(n)
        ]
        assert sorted(waiting) == sorted(known)


_APPLY: dict[str, Callable[..., None]] = {
    "open": SyncTable._apply_open,
    "close": SyncTable._apply_close,
    "gone": SyncTable._apply_gone,
    "want": SyncTable._apply_want,
    "has": SyncTable._apply_has,
    "baton": SyncTable._apply_baton,
    "pass": SyncTable._apply_pass,
    "ended": SyncTable._apply_ended,
    "unwant": SyncTable._apply_unwant,
    "grant": SyncTable._apply_grant,
    "recall": SyncTable._apply_recall,
    "drop": SyncTable._apply_drop,
    "taken": SyncTable._apply_taken,
    "value": SyncTable._apply_value,
    "death": SyncTable._apply_death,
    "use": SyncTable._apply_use,
    "wait": SyncTable._apply_wait,
    "unwait": SyncTable._apply_unwait,
    "takeover": SyncTable._apply_takeover,
    "resume": SyncTable._apply_resume,
}
