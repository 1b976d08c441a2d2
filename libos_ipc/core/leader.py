"""The leader's decisions: who is admitted, who gets which VMID and which IDs.

Every decision is first made as a *record* and given out as a `Journal` effect ahead of the
answer that tells of it, so that whoever reads the journal knows all that anybody was told.
What the records change is the roster, from which the leader inherits.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from libos_ipc.core.catching_up import missed_by, told_again
from libos_ipc.core.codes import Code
from libos_ipc.core.delegations import Memory
from libos_ipc.core.descriptors import Inspector
from libos_ipc.core.lock_desk import LockDesk
from libos_ipc.core.process_rows import Admission, Process
from libos_ipc.core.roster import Applicant, Record, Roster
from libos_ipc.core.signal_desk import SignalDesk
from libos_ipc.core.sync_deposits import Deposits
from libos_ipc.core.sync_desk import WORD_OF, ReadRemains, SyncDesk
from libos_ipc.core.sync_words import Batons
from libos_ipc.core.vocabulary import (
    Answer,
    ChildExit,
    Effect,
    Effects,
    Ended,
    Expect,
    Journal,
    Note,
    Refuse,
    Say,
    State,
)
from libos_ipc.errors import IpcError

__all__ = ["LEADER_CODES", "Admission", "Leader"]

#: Requests that only the leader answers.
LEADER_CODES = frozenset(
    {
        Code.GET_NEW_VMID,
        Code.ALLOC_ID_RANGE,
        Code.RELEASE_ID_RANGE,
        Code.TRADE_ID_RANGES,
        Code.CHANGE_ID_OWNER,
        Code.GET_ID_OWNER,
        Code.LEAVE,
        Code.GET_MEMBERS,
        Code.CHILD_STARTED,
        Code.CHILD_LOST,
        Code.GET_PROCESS,
        Code.SET_CAUGHT,
        Code.SET_PGID,
        Code.SET_THREAD,
        Code.SET_META,
        Code.GET_META,
        Code.FILE_LOCK_SET,
        Code.FILE_LOCK_GET,
        Code.FILE_LOCK_CLEAR_PID,
        Code.FILE_LOCK_TAKE,
        Code.FILE_LOCK_WITHDRAW,
        Code.FILE_LOCK_TABLE,
        Code.HANDLE_AT,
        Code.HANDLE_CLOSED,
        Code.FILE_RETURNED,
        Code.SYNC_OPEN,
        Code.SYNC_TABLE,
    }
)
#: Admissions of one process that are not taken up: who asks on is told the last one again.
MOST_STARTING = 16
#: Ranges given to one process at a time, at most.
RANGES_AT_A_TIME = 16


class Leader(Roster):
    """The leader's machine. `wall` is the time of day of a `now`."""

    def __init__(
        self,
        *,
        inspector: Inspector | None = None,
        memory: Memory | None = None,
        read_remains: ReadRemains | None = None,
        batons: Batons | None = None,
        deposits: Deposits | None = None,
        **knobs: Any,
    ) -> None:
        super().__init__(**knobs)
        self.sync.batons, self.sync.deposits = batons, deposits
        self.lock_desk = locks = LockDesk(self, inspector, memory)
        self.sync_desk = sync = SyncDesk(self, read_remains)
        self.signal_desk = signals = SignalDesk(self)
        self._on_code: dict[int, Callable[[int, int, tuple[Any, ...], float], Effects]] = {
            Code.GET_NEW_VMID: self._get_new_vmid,
            Code.ALLOC_ID_RANGE: self._alloc_id_range,
            Code.RELEASE_ID_RANGE: self._release_id_range,
            Code.TRADE_ID_RANGES: self._trade_id_ranges,
            Code.CHANGE_ID_OWNER: self._change_id_owner,
            Code.GET_ID_OWNER: self._get_id_owner,
            Code.LEAVE: self._leave,
            Code.GET_MEMBERS: self._get_members,
            Code.CHILD_STARTED: self._child_started,
            Code.CHILD_LOST: self._child_lost,
            Code.GET_PROCESS: signals.get_process,
            Code.SET_CAUGHT: signals.set_caught,
            Code.SET_PGID: signals.set_pgid,
            Code.SET_THREAD: signals.set_thread,
            Code.SET_META: signals.set_meta,
            Code.GET_META: signals.get_meta,
            Code.PID_KILL: signals.kill,
            Code.FILE_LOCK_SET: locks.set,
            Code.FILE_LOCK_GET: locks.get,
            Code.FILE_LOCK_CLEAR_PID: locks.clear_pid,
            Code.FILE_LOCK_TAKE: locks.take,
            Code.FILE_LOCK_WITHDRAW: locks.withdraw,
            Code.FILE_LOCK_TABLE: locks.list_all,
            Code.HANDLE_AT: locks.descriptors.handle_at,
            Code.HANDLE_CLOSED: locks.descriptors.handle_closed,
            Code.FILE_RETURNED: locks.returned,
            Code.SYNC_OPEN: sync.open,
            Code.SYNC_TABLE: sync.list_all,
        }

    # ---- inputs

    def take_over(self, now: float) -> Effects:
        """The first input of a successor, which has replayed the journal: who is there still is
        asked of the kernel, and nobody is waited for."""
        absent = Expect(tuple(sorted({*self.processes, *self.spares})))
        return [*self.sync_desk.take_over(), absent]

    def unheard(self, own: int) -> dict[int, Effects]:
        """Who does not know yet that we lead: all but ourselves."""
        return {vmid: [] for vmid in (*self.processes, *self.spares) if vmid != own}

    def on_back(self, src: int, waits: frozenset[int]) -> Effects:
        """A member follows us. It waits for these answers, has all others, and may have missed
        what the leader before us had to tell it."""
        self.answered.only(src, waits)
        return missed_by(self, src)

    def on_request(
        self, src: int, code: int, seq: int, fields: tuple[object, ...], now: float
    ) -> Effects:
        """A message of an identified process to the leader."""
        if src not in self.processes and code != Code.LEAVE:
            # Asked behind its own LEAVE: what is granted to it now would never return.
            return [Refuse(src, seq, errno.ENOTCONN, f"VMID {src} has left")] if seq else []
        known = self.answered.find(src, seq) if seq else None
        if known is not None:  # by a leader before us, who had no time to tell
            return [told_again(src, seq, *known)]
        if code in WORD_OF:
            return self.sync_desk.on_word(src, code, fields, now)
        return self._on_code[code](src, seq, fields, now)

    def on_join(self, applicant: Applicant, now: float, wall: float) -> tuple[Admission, Effects]:
        """Admit a process. IpcError(EAGAIN) when no ID is left for it."""
        starting = self.find_starting(applicant)
        again = [row for row in starting if row.attempt and row.attempt == applicant.attempt]
        if again or len(starting) >= MOST_STARTING:
            return self._admitted_before((again or starting)[-1]), []
        before = self.find_detached(applicant)
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
        if before is not None:
            ppid, pgid, parent_vmid = before.ppid, before.pgid, before.parent
        elif parent is not None:
            ppid, pgid, parent_vmid = parent.pid, parent.pgid, parent.vmid
        else:
            ppid, pgid, parent_vmid = 0, pid, 0
        spares = [] if before is None else sorted(self.spares_of.get(before.vmid, ()))
        joined: Record = ("join", vmid, pid, ppid, parent_vmid, pgid, *applicant, wall, now)
        effects += [self._record(joined), Expect((vmid, *spares))]
        return Admission(vmid, pid, ppid, pgid, parent_vmid, start, end), effects

    def _admitted_before(self, process: Process) -> Admission:
        """What this process was told when it was admitted."""
        vmid, pid = process.vmid, process.pid
        own = next(r for r in self.ids.ranges_of(vmid) if r[0] <= pid <= r[1])
        return Admission(vmid, pid, process.ppid, process.pgid, process.parent, *own)

    def on_hello(
        self, vmid: int, os_pid: int, start_time: int, uid: int, now: float, wall: float
    ) -> Effects | None:
        """A process says who it is, and the kernel says which process that is.

        None if it cannot be: the VMID was never given out, or belongs to another process.
        """
        process = self.processes.get(vmid)
        if process is None:
            if vmid not in self.spares or not self.spares[vmid].pid:
                return None
        elif process.os_pid not in (0, os_pid):
            return None
        elif process.state is State.RUNNING:
            return []
        effects: Effects = []
        if process is None:
            effects += self.lock_desk.delegations.on_fork(self.spares[vmid].asker, now)
        effects.append(self._record(("hello", vmid, os_pid, start_time, uid, wall)))
        process = self.processes[vmid]
        if self.regrouped:  # perhaps its parent, while it was being born
            effects.append(Say(vmid, Code.PGID_CHANGED, (process.pgid,)))
        if not process.forked and process.parent in self.processes:
            effects.append(Say(process.parent, Code.CHILD_JOINED, (vmid, process.pid)))
        return effects

    def on_detached(self, vmid: int, now: float) -> Effects:
        """The liveness socket of `vmid` ended. It has exec'ed, or its death will be told next."""
        process = self.processes.get(vmid)
        if process is None or process.state is not State.RUNNING:
            return []
        spares = tuple(sorted(self.spares_of.get(vmid, ())))
        effects = self.lock_desk.on_gone(vmid, now)
        effects += [self._record(("detached", vmid)), *self.sync_desk.on_gone(vmid)]
        return [*effects, Expect(spares)]

    def on_gone(self, vmid: int, now: float) -> Effects:
        """Nobody listens as `vmid`, and its process is dead if there was one: all that it held
        returns, once."""
        if vmid in self.spares:
            return self.on_expected([vmid], now)
        if vmid not in self.processes:
            return []
        return [Note("member gone", {"vmid": vmid}), *self._gone(vmid, now)]

    def on_expected(self, absent: Sequence[int], now: float) -> Effects:
        """The answer to Expect: nobody listens as these. Now it is known who has what the dead
        held, and who waits for it is looked after."""
        effects: Effects = []
        for vmid in absent:
            spare = self.spares.get(vmid)
            if spare is None:
                effects += self.on_gone(vmid, now)
            elif not self._still_forks(spare.asker):
                effects.append(self._record(("lost", vmid, now)))
        return [*effects, *self.lock_desk.settle(now), *self._ended()]

    def on_child_exit(self, told: ChildExit) -> Effects:
        """A child tells its own exit to us, since its parent is gone."""
        child = self.processes.get(told.src)
        if child is None or child.pid != told.pid:
            return []
        return [self._record(("orphan", *told))]

    def on_tick(self, now: float) -> tuple[Effects, bool]:
        """Do what nobody asks for. True if another tick will be needed."""
        return self.lock_desk.on_tick(now)

    def on_cancel(self, src: int, seq: int, now: float) -> Effects:
        """A request is withdrawn, which may wait here."""
        return self.lock_desk.on_cancel(src, seq, now)

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
        result = self._take_back(src, start, end, now)
        answer = Answer(src, seq, Code.RELEASE_ID_RANGE, (result,))
        return [answer] if result else [Journal(("release", start, end, src, now)), answer]

    def _take_back(self, src: int, start: int, end: int, now: float) -> int:
        """Take a range back from its owner. 0, or a negative errno, and nothing has changed."""
        if start <= self.processes[src].pid <= end or self.groups.kept.get(start) == src:
            return -errno.EINVAL
        try:
            self.ids.release_range(start, end, src, now)
        except IpcError as error:
            return -(error.errno or errno.EINVAL)
        return 0

    def _trade_id_ranges(self, src: int, seq: int, fields: tuple[Any, ...], now: float) -> Effects:
        """A member's own ranges: some come back, as far as they are its own, and others go."""
        wanted, back = fields
        back = tuple(
            (start, end) for start, end in back if not self._take_back(src, start, end, now)
        )
        given: list[tuple[int, int]] = []
        for _ in range(self._at_a_time(wanted)):
            got = self.ids.alloc_range(src, now)
            if got is None:
                break
            given.append(got)
        answer = Answer(src, seq, Code.TRADE_ID_RANGES, (tuple(given),))
        if not back and not given:
            return [answer]
        return [Journal(("trade", src, back, tuple(given), now)), answer]

    def _at_a_time(self, wanted: int) -> int:
        """More than one range only as long as nobody else could miss them."""
        wanted = min(wanted, RANGES_AT_A_TIME)
        much = 2 * (len(self.ids) + wanted) * self.ids.range_size > self.ids.id_max
        return min(wanted, 1) if much else wanted

    def _change_id_owner(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        id, owner = fields
        if owner not in self.processes and not self._may_furnish(src, owner, id):
            return [Answer(src, seq, Code.CHANGE_ID_OWNER, (-errno.ESRCH,))]
        if (id == self.processes[src].pid and owner != src) or id in self.groups.kept:
            return [Answer(src, seq, Code.CHANGE_ID_OWNER, (-errno.EINVAL,))]
        try:
            self.move(id, owner, now, by=src)
        except IpcError as error:
            return [Answer(src, seq, Code.CHANGE_ID_OWNER, (-(error.errno or errno.EINVAL),))]
        return [Journal(("move", id, owner, now)), Answer(src, seq, Code.CHANGE_ID_OWNER, (0,))]

    def _may_furnish(self, src: int, vmid: int, id: int) -> bool:
        """A VMID without a process gets one ID from its asker, the pid to be. Others may know of
        the process before we do, and give it more."""
        spare = self.spares.get(vmid)
        if spare is None:
            return False
        return spare.pid in (0, id) if src == spare.asker else spare.pid != 0

    def _get_id_owner(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        return [Answer(src, seq, Code.GET_ID_OWNER, (self.ids.owner_of(fields[0]),))]

    def _leave(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        answer = Answer(src, seq, Code.LEAVE, (0,))
        if src not in self.processes:
            return [answer]
        return self._gone(src, now, answer)

    def _get_members(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        rows = tuple(process.public() for process in self.processes.values())
        return [Answer(src, seq, Code.GET_MEMBERS, (rows, tuple(self.orphan_exits)))]

    def _child_started(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        vmid, pid = fields
        if vmid in self.processes:
            return []
        spare = self.spares.get(vmid)
        if spare is None or (spare.asker, spare.pid) != (src, pid):
            return [Note("child refused", {"parent": src, "vmid": vmid, "pid": pid})]
        effects = self.lock_desk.delegations.on_fork(src, now)
        return [*effects, self._record(("child", vmid)), Expect((vmid,))]

    def _child_lost(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        vmid = fields[0]
        process = self.processes.get(vmid)
        if process is not None:
            if process.parent != src or process.state is not State.STARTING:
                return []
            return self._gone(vmid, now)
        spare = self.spares.get(vmid)
        if spare is None or spare.asker != src:
            return []
        return [self._record(("lost", vmid, now)), *self.lock_desk.settle(now)]

    # ---- helpers

    def _still_forks(self, vmid: int) -> bool:
        process = self.processes.get(vmid)
        return process is not None and process.state is not State.DETACHED

    def _record(self, record: Record) -> Journal:
        self.apply(record)
        return Journal(record)

    def _gone(self, vmid: int, now: float, *answers: Effect) -> Effects:
        """A process is gone. Children of whom it had no time to tell are there or they are not:
        until that is known, they have what it had, and nobody who waits for any of it is looked
        after, or one who waits for a part would pass another who came first and needs all."""
        spares = tuple(sorted(self.spares_of.get(vmid, ())))
        effects = self.lock_desk.on_gone(vmid, now)
        effects += [self._record(("gone", vmid, now)), *answers, *self.sync_desk.on_gone(vmid)]
        return [*effects, Expect(spares)]

    def _ended(self) -> Effects:
        """The group is over with its last member, and with the last that could become one."""
        return [Ended()] if self.ever_joined and not (self.processes or self.spares) else []
