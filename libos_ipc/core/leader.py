"""The leader: who is in the group, and who owns which VMID and which ID.

Every decision is first made as a *record* and given out as a `Journal` effect ahead of the
answer that tells of it, so that whoever reads the journal knows all that anybody was told.
`apply` is the one way in which a record changes the state, at the leader as at its successor:
replaying the journal from the start gives this state again.

A process's way through the table:

    join:  admitted STARTING --hello--> RUNNING --leave--> gone
    fork:  VMID granted to the parent --CHILD_STARTED--> STARTING --hello--> RUNNING
    exec:  RUNNING --end of the liveness socket--> DETACHED --death--> gone
                                                            --join--> STARTING again, same pid

Hello and CHILD_STARTED of one child may come in either order. When a process dies, VMIDs
granted to it may belong to children that are just starting: they stay *in doubt* for
`doubt_s` seconds and may still say hello; then their IDs return.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.ids import IdSpace
from libos_ipc.core.vocabulary import (
    Answer,
    ChildExit,
    Effects,
    Ended,
    Expect,
    Journal,
    Note,
    Say,
    State,
)
from libos_ipc.errors import IpcError

__all__ = ["LEADER_CODES", "LEADER_VMID", "Admission", "Applicant", "Leader", "Process"]

#: Requests that only the leader answers.
LEADER_CODES = frozenset(
    {
        Code.GET_NEW_VMID,
        Code.ALLOC_ID_RANGE,
        Code.RELEASE_ID_RANGE,
        Code.CHANGE_ID_OWNER,
        Code.GET_ID_OWNER,
        Code.LEAVE,
        Code.GET_MEMBERS,
        Code.CHILD_STARTED,
        Code.CHILD_LOST,
    }
)
#: The leader's VMID in the first epoch.
LEADER_VMID = 1
#: Exits of children without a parent that are remembered.
ORPHANS_KEPT = 1024

Record: TypeAlias = tuple[object, ...]


class Applicant(NamedTuple):
    """A process that asks to be admitted; what the kernel says of it, and what it says."""

    os_pid: int
    start_time: int
    uid: int
    parent: int  #: VMID of the issuer of its token, 0 for none
    may_lead: bool


class Admission(NamedTuple):
    """What an admitted process is told."""

    vmid: int
    pid: int
    ppid: int
    pgid: int
    parent: int
    start: int  #: its first range of IDs, `pid` included
    end: int


class Process:
    """One row of the table."""

    __slots__ = (
        "forked",
        "joined_at",
        "may_lead",
        "os_pid",
        "parent",
        "pgid",
        "pid",
        "ppid",
        "start_time",
        "state",
        "uid",
        "vmid",
    )

    def __init__(self, vmid: int, pid: int, ppid: int, parent: int, pgid: int) -> None:
        self.vmid = vmid
        self.pid = pid
        self.ppid = ppid
        self.parent = parent
        self.pgid = pgid
        self.os_pid = 0
        self.start_time = 0
        self.uid = -1
        self.may_lead = True
        #: made by a fork of `parent`, which therefore knows of it
        self.forked = True
        self.state = State.STARTING
        self.joined_at = 0.0

    def row(self) -> tuple[object, ...]:
        """All fields in a fixed order, for comparing."""
        return tuple(getattr(self, name) for name in Process.__slots__)

    def public(self) -> tuple[int | float, ...]:
        """What everybody may know, in the order in which it is sent."""
        known = (self.vmid, self.pid, self.ppid, self.pgid, self.os_pid)
        return (*known, int(self.state), self.joined_at)


class Leader:
    """The leader's state. `wall` is the time of day of a `now`, told at each join.

    A leader that is a process of its own has VMID 1 and is no member; one that is the founder
    is the first to join: `first_vmid` is then 1.
    """

    def __init__(
        self,
        *,
        id_max: int,
        range_size: int,
        quarantine_s: float,
        doubt_s: float,
        first_vmid: int = LEADER_VMID + 1,
    ) -> None:
        self.ids = IdSpace(id_max=id_max, range_size=range_size, quarantine_s=quarantine_s)
        self.processes: dict[int, Process] = {}
        #: VMIDs that were given out and have not been seen: VMID -> who asked for it
        self.granted: dict[int, int] = {}
        self.granted_by: dict[int, set[int]] = {}
        #: children of the dead that may still say hello: (when the doubt ends, VMID)
        self.in_doubt: deque[tuple[float, int]] = deque()
        self.next_vmid = first_vmid
        self.ever_joined = False
        self.orphan_exits: deque[ChildExit] = deque(maxlen=ORPHANS_KEPT)
        self._doubt_s = doubt_s
        self._on_code: dict[int, Callable[[int, int, tuple[int, ...], float], Effects]] = {
            Code.GET_NEW_VMID: self._get_new_vmid,
            Code.ALLOC_ID_RANGE: self._alloc_id_range,
            Code.RELEASE_ID_RANGE: self._release_id_range,
            Code.CHANGE_ID_OWNER: self._change_id_owner,
            Code.GET_ID_OWNER: self._get_id_owner,
            Code.LEAVE: self._leave,
            Code.GET_MEMBERS: self._get_members,
            Code.CHILD_STARTED: self._child_started,
            Code.CHILD_LOST: self._child_lost,
        }

    # ---- inputs

    def on_request(
        self, src: int, code: int, seq: int, fields: tuple[object, ...], now: float
    ) -> Effects:
        """A message of an identified process to the leader."""
        return self._on_code[code](src, seq, fields, now)  # type: ignore[arg-type]

    def on_join(self, applicant: Applicant, now: float, wall: float) -> tuple[Admission, Effects]:
        """Admit a process. IpcError(EAGAIN) when no ID is left for it."""
        before = self._find_detached(applicant)
        vmid = self.next_vmid
        effects: Effects = []
        if before is None:
            got = self.ids.alloc_range(vmid, now)
            if got is None:
                raise IpcError(errno.EAGAIN, "no ID is left for a new member; raise id_max")
            effects.append(Journal(("range", vmid, *got, now)))
            pid, (start, end) = got[0], got
        else:
            pid, start, end = before.pid, before.pid, before.pid
        parent = self.processes.get(applicant.parent)
        ppid = parent.pid if parent else 0
        pgid = before.pgid if before else (parent.pgid if parent else pid)
        parent_vmid = parent.vmid if parent else 0
        joined: Record = ("join", vmid, pid, ppid, parent_vmid, pgid, *applicant, wall, now)
        effects.append(self._record(joined))
        effects.append(Expect(vmid))
        return Admission(vmid, pid, ppid, pgid, parent_vmid, start, end), effects

    def on_hello(
        self, vmid: int, os_pid: int, start_time: int, uid: int, now: float, wall: float
    ) -> Effects | None:
        """A process says who it is, and the kernel says which process that is.

        None if it cannot be: the VMID was never given out, or belongs to another process.
        """
        process = self.processes.get(vmid)
        if process is None:
            if vmid not in self.granted:
                return None
        elif process.os_pid not in (0, os_pid):
            return None
        elif process.state is State.RUNNING:
            return []
        effects: Effects = [self._record(("hello", vmid, os_pid, start_time, uid, wall))]
        process = self.processes[vmid]
        if not process.forked and process.parent in self.processes:
            effects.append(Say(process.parent, Code.CHILD_JOINED, (vmid, process.pid)))
        return effects

    def on_detached(self, vmid: int) -> Effects:
        """The liveness socket of `vmid` ended. It has exec'ed, or its death will be told next."""
        process = self.processes.get(vmid)
        if process is None or process.state is not State.RUNNING:
            return []
        return [self._record(("detached", vmid))]

    def on_gone(self, vmid: int, now: float) -> Effects:
        """The process behind `vmid` is dead: all that it held returns, once."""
        if vmid not in self.processes:
            return []
        effects: Effects = [
            Note("member gone", {"vmid": vmid}),
            self._record(("gone", vmid, False, now)),
        ]
        return effects + self._ended()

    def on_child_exit(self, told: ChildExit) -> None:
        """The exit of a child whose parent is gone."""
        self.orphan_exits.append(told)

    def on_tick(self, now: float) -> Effects:
        """End the doubts that are old enough."""
        effects: Effects = []
        while self.in_doubt and self.in_doubt[0][0] <= now:
            _, vmid = self.in_doubt.popleft()
            if vmid in self.granted:
                effects.append(self._record(("undoubted", vmid, now)))
        return effects + self._ended() if effects else effects

    def needs_tick(self) -> bool:
        """Whether time alone can change anything."""
        return bool(self.in_doubt)

    # ---- requests

    def _get_new_vmid(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        vmid = self.next_vmid
        return [
            self._record(("vmid", vmid, src)),
            Answer(src, seq, Code.GET_NEW_VMID, (vmid,)),
        ]

    def _alloc_id_range(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        got = self.ids.alloc_range(src, now)
        answer = Answer(src, seq, Code.ALLOC_ID_RANGE, got or (0, 0))
        return [Journal(("range", src, *got, now)), answer] if got else [answer]

    def _release_id_range(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        start, end = fields
        try:
            self.ids.release_range(start, end, src, now)
        except IpcError as error:
            return [Answer(src, seq, Code.RELEASE_ID_RANGE, (-(error.errno or errno.EINVAL),))]
        return [
            Journal(("release", start, end, src, now)),
            Answer(src, seq, Code.RELEASE_ID_RANGE, (0,)),
        ]

    def _change_id_owner(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        id, owner = fields
        if owner not in self.processes and owner not in self.granted:
            return [Answer(src, seq, Code.CHANGE_ID_OWNER, (-errno.ESRCH,))]
        try:
            self.ids.move(id, owner, by=src, now=now)
        except IpcError as error:
            return [Answer(src, seq, Code.CHANGE_ID_OWNER, (-(error.errno or errno.EINVAL),))]
        return [Journal(("move", id, owner, now)), Answer(src, seq, Code.CHANGE_ID_OWNER, (0,))]

    def _get_id_owner(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        return [Answer(src, seq, Code.GET_ID_OWNER, (self.ids.owner_of(fields[0]),))]

    def _leave(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        effects: Effects = []
        if src in self.processes:
            effects.append(self._record(("gone", src, True, now)))
        effects.append(Answer(src, seq, Code.LEAVE, (0,)))
        return effects + self._ended()

    def _get_members(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        rows = tuple(process.public() for process in self.processes.values())
        return [Answer(src, seq, Code.GET_MEMBERS, (rows, tuple(self.orphan_exits)))]

    def _child_started(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        vmid, pid = fields
        if vmid in self.processes:
            return []
        if self.granted.get(vmid) != src or self.ids.owner_of(pid) != vmid:
            return [Note("child refused", {"parent": src, "vmid": vmid, "pid": pid})]
        return [self._record(("child", vmid)), Expect(vmid)]

    def _child_lost(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        vmid = fields[0]
        process = self.processes.get(vmid)
        if process is not None:
            if process.parent != src or process.state is not State.STARTING:
                return []
            return [self._record(("gone", vmid, False, now)), *self._ended()]
        if self.granted.get(vmid) != src:
            return []
        return [self._record(("undoubted", vmid, now))]

    # ---- records

    def _record(self, record: Record) -> Journal:
        self.apply(record)
        return Journal(record)

    def apply(self, record: Record) -> None:
        """Change the state as this record says."""
        kind, *fields = record
        getattr(self, f"_apply_{kind}")(*fields)

    def replay(self, records: Iterable[Record]) -> None:
        """Rebuild the state from a journal. Ranges are allocated again, and must come out alike."""
        for record in records:
            self.apply(record)

    def _apply_range(self, owner: int, start: int, end: int, now: float) -> None:
        got = self.ids.alloc_range(owner, now)
        assert got == (start, end), (got, start, end)

    def _apply_release(self, start: int, end: int, owner: int, now: float) -> None:
        self.ids.release_range(start, end, owner, now)

    def _apply_move(self, id: int, owner: int, now: float) -> None:
        self.ids.move(id, owner, now=now)

    def _apply_vmid(self, vmid: int, asker: int) -> None:
        self.next_vmid = vmid + 1
        self.granted[vmid] = asker
        self.granted_by.setdefault(asker, set()).add(vmid)

    def _apply_join(
        self,
        vmid: int,
        pid: int,
        ppid: int,
        parent: int,
        pgid: int,
        os_pid: int,
        start_time: int,
        uid: int,
        asked_parent: int,
        may_lead: bool,
        wall: float,
        now: float,
    ) -> None:
        before = self._find_detached(Applicant(os_pid, start_time, uid, asked_parent, may_lead))
        if before is not None:
            self.ids.move(pid, vmid, now=now)
            self._apply_gone(before.vmid, False, now)
        self.next_vmid = vmid + 1
        process = Process(vmid, pid, ppid, parent, pgid)
        process.os_pid, process.start_time, process.uid = os_pid, start_time, uid
        process.may_lead, process.joined_at = may_lead, wall
        process.forked = False
        self.processes[vmid] = process
        self.ever_joined = True

    def _apply_child(self, vmid: int) -> None:
        parent_vmid = self.granted.pop(vmid)
        self.granted_by.get(parent_vmid, set()).discard(vmid)
        parent = self.processes.get(parent_vmid)
        ranges = self.ids.ranges_of(vmid)
        pid = ranges[0][0] if ranges else 0
        ppid, pgid = (parent.pid, parent.pgid) if parent else (0, pid)
        self.processes[vmid] = Process(vmid, pid, ppid, parent_vmid, pgid)
        self.ever_joined = True

    def _apply_hello(self, vmid: int, os_pid: int, start_time: int, uid: int, wall: float) -> None:
        if vmid not in self.processes:
            self._apply_child(vmid)
        process = self.processes[vmid]
        process.os_pid, process.start_time, process.uid = os_pid, start_time, uid
        process.state = State.RUNNING
        process.joined_at = process.joined_at or wall

    def _apply_detached(self, vmid: int) -> None:
        self.processes[vmid].state = State.DETACHED

    def _apply_gone(self, vmid: int, orderly: bool, now: float) -> None:
        del self.processes[vmid]
        self.ids.release_owner(vmid, now)
        for spare in sorted(self.granted_by.pop(vmid, ())):
            if orderly:
                del self.granted[spare]
                self.ids.release_owner(spare, now)
            else:
                self.in_doubt.append((now + self._doubt_s, spare))

    def _apply_undoubted(self, vmid: int, now: float) -> None:
        asker = self.granted.pop(vmid)
        self.granted_by.get(asker, set()).discard(vmid)
        self.ids.release_owner(vmid, now)

    # ---- helpers

    def _find_detached(self, applicant: Applicant) -> Process | None:
        for process in self.processes.values():
            if (
                process.state is State.DETACHED
                and process.os_pid == applicant.os_pid
                and process.start_time == applicant.start_time
            ):
                return process
        return None

    def _ended(self) -> Effects:
        """The group is over with its last member, and with the last that could become one."""
        if not self.ever_joined or self.processes:
            return []
        if any(vmid in self.granted for _, vmid in self.in_doubt):
            return []
        return [Ended()]

    def state(self) -> tuple[object, ...]:
        """All that the journal must bring back, comparable."""
        return (
            self.next_vmid,
            sorted(process.row() for process in self.processes.values()),
            sorted(self.granted.items()),
            sorted(doubt for doubt in self.in_doubt if doubt[1] in self.granted),
            self.ids.snapshot(),
        )

    def check(self) -> None:
        """Assert the invariants."""
        self.ids.check()
        assert not self.processes.keys() & self.granted.keys()
        for vmid, process in self.processes.items():
            assert vmid < self.next_vmid
            assert process.state is State.DETACHED or self.ids.owner_of(process.pid) == vmid
        for vmid in self.granted:
            assert vmid < self.next_vmid
