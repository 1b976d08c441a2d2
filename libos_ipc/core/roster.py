"""Who is in the group and what each owns: the leader's state, and the records that change it.

`apply` is the one way in which a record changes this state, at the leader as at its successor:
replaying a journal from its start gives the state again. Nothing here decides anything.

A process's way through the table:

    join:  admitted STARTING --hello--> RUNNING --leave--> gone
    fork:  VMID granted to the parent --CHILD_STARTED--> STARTING --hello--> RUNNING
    exec:  RUNNING --end of the liveness socket--> DETACHED --death--> gone
                                                            --join--> STARTING again, same pid

Hello and CHILD_STARTED of one child may come in either order, and a child may be there of which
its parent had no time to tell. So the *spare* VMIDs of a process outlive it, until the kernel
says that nobody listens as one of them, and never did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias

from libos_ipc.core.answered import Answered, Kept, frozen
from libos_ipc.core.descriptors import DescriptorTable
from libos_ipc.core.file_locks import FileLocks
from libos_ipc.core.given_files import GivenFiles
from libos_ipc.core.ids import IdSpace
from libos_ipc.core.lock_words import Kind
from libos_ipc.core.particulars import Particulars
from libos_ipc.core.process_groups import ProcessGroups
from libos_ipc.core.process_rows import Applicant, Process, Spare
from libos_ipc.core.snapshot import restore
from libos_ipc.core.sync_server import SyncServer
from libos_ipc.core.vocabulary import ChildExit, State

__all__ = ["LEADER_VMID", "Applicant", "Process", "Record", "Roster"]

#: The leader's VMID in the first epoch.
LEADER_VMID = 1
#: Exits of children without a parent that are remembered.
ORPHANS_KEPT = 1024
Record: TypeAlias = tuple[object, ...]


class Roster:
    """The table of processes, the VMIDs given out, and the space of IDs.

    `first_vmid` is 2, unless the leader is the founder itself and so the first member.
    """

    def __init__(
        self,
        *,
        id_max: int,
        range_size: int,
        quarantine_s: float,
        first_vmid: int = LEADER_VMID + 1,
    ) -> None:
        self.ids = IdSpace(id_max=id_max, range_size=range_size, quarantine_s=quarantine_s)
        self.processes: dict[int, Process] = {}
        #: VMIDs that were given out and have not been seen
        self.spares: dict[int, Spare] = {}
        self.spares_of: dict[int, set[int]] = {}  # who asked for them -> VMIDs
        self.next_vmid = first_vmid
        self.epoch = 1
        self.ever_joined = False
        #: a process has been moved from one process group into another
        self.regrouped = False
        self.groups = ProcessGroups(self.ids, self._pid_of)
        self.particulars = Particulars()
        self.locks = FileLocks()
        self.descriptors = DescriptorTable()
        self.files = GivenFiles(self.locks)
        self.answered = Answered()
        #: the number of the last signal that was relayed
        self.relays = 0
        #: exits of children without a parent
        self.orphan_exits: deque[ChildExit] = deque(maxlen=ORPHANS_KEPT)
        self.sync = SyncServer(find_cycle=lambda agent, blockers: None)
        self._apply: dict[str, Callable[..., None]] = {
            "snapshot": lambda data: restore(self, data),
            "epoch": self._apply_epoch,
            "relay": self._apply_relay,
            "step": self._apply_step,
            "range": self._apply_range,
            "release": self._apply_release,
            "trade": self._apply_trade,
            "move": self._apply_move,
            "vmid": self._apply_vmid,
            "join": self._apply_join,
            "child": self._apply_child,
            "hello": self._apply_hello,
            "detached": self._apply_detached,
            "gone": self._apply_gone,
            "lost": self._apply_lost,
            "orphan": lambda *told: self.orphan_exits.append(ChildExit(*told)),
            "pgid": self._apply_pgid,
            "caught": self.particulars.catch,
            "thread": self.particulars.set_thread,
            "meta": self.particulars.set_entry,
            "at": self.descriptors.put,
            "unat": self._apply_unat,
            "sync": lambda *record: self.sync.apply(record),
        }
        self._apply |= {kind: partial(self._apply_to_locks, kind) for kind in self.locks.kinds}
        self._apply |= self.files.records

    def _apply_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.locks.begin_epoch(epoch)
        self.sync.apply(("takeover", epoch))

    def _pid_of(self, vmid: int) -> int:
        process = self.processes.get(vmid)
        return process.pid if process is not None else 0

    def find_detached(self, applicant: Applicant) -> Process | None:
        """The process that exec'ed and now asks to be admitted again: the last that it was."""
        for process in reversed(self.processes.values()):
            if (
                process.state is State.DETACHED
                and process.os_pid == applicant.os_pid
                and process.start_time == applicant.start_time
            ):
                return process
        return None

    def find_starting(self, applicant: Applicant) -> list[Process]:
        """As whom this process was admitted and has not said hello yet."""
        who = applicant.os_pid, applicant.start_time
        return [
            process
            for process in self.processes.values()
            if process.state is State.STARTING and (process.os_pid, process.start_time) == who
        ]

    def knows(self, vmid: int, os_pid: int) -> bool:
        """Whether this process has said already that it is `vmid`: its hello says nothing new."""
        process = self.processes.get(vmid)
        return process is not None and (process.os_pid, process.state) == (os_pid, State.RUNNING)

    def apply(self, record: Record) -> None:
        """Change the state as this record says."""
        kind, *fields = record
        self._apply[str(kind)](*fields)

    def replay(self, records: Iterable[Record]) -> None:
        """Rebuild the state from a journal. Ranges are allocated again, and must come out alike."""
        for record in records:
            self.apply(record)

    def _apply_step(
        self,
        records: Iterable[Record],
        answers: Iterable[Kept],
        cause: Sequence[int],
        received: Iterable[tuple[int, int]],
    ) -> None:
        for record in records:
            self.apply(record)
        self.apply_told(map(frozen, answers), cause, received)  # type: ignore[arg-type]

    def apply_told(
        self,
        answers: Iterable[Kept],
        cause: Sequence[int],
        received: Iterable[tuple[int, int]],
    ) -> None:
        """What a step tells whom, of which message it came, and what is known to have arrived."""
        if cause and cause[0] in self.processes:
            self.answered.hear(*cause)
        for dst, seq, of, fields in answers:
            if seq and dst in self.processes:
                self.answered.keep(dst, seq, of, fields)
        for dst, seq in received:
            self.answered.forget(dst, seq)

    def _apply_relay(self, number: int) -> None:
        self.relays = number

    def _apply_range(self, owner: int, start: int, end: int, now: float) -> None:
        got = self.ids.alloc_range(owner, now)
        assert got == (start, end), (got, start, end)

    def _apply_release(self, start: int, end: int, owner: int, now: float) -> None:
        self.ids.release_range(start, end, owner, now)

    def _apply_trade(
        self,
        owner: int,
        back: Iterable[tuple[int, int]],
        given: Iterable[tuple[int, int]],
        now: float,
    ) -> None:
        for start, end in back:
            self._apply_release(start, end, owner, now)
        for start, end in given:
            self._apply_range(owner, start, end, now)

    def _apply_move(self, id: int, owner: int, now: float) -> None:
        self.move(id, owner, now)

    def move(self, id: int, owner: int, now: float, by: int | None = None) -> None:
        """Give an ID to another VMID. The first that a spare gets from its asker is its pid."""
        before = self.ids.owner_of(id)
        self.ids.move(id, owner, by=by, now=now)
        spare = self.spares.get(owner)
        if spare is not None and not spare.pid and spare.asker == before:
            spare.pid = id

    def _apply_vmid(self, vmid: int, asker: int) -> None:
        self.next_vmid = vmid + 1
        self.spares[vmid] = Spare(asker)
        self.spares_of.setdefault(asker, set()).add(vmid)

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
        attempt: int,
        wall: float,
        now: float,
    ) -> None:
        before = self.find_detached(Applicant(os_pid, start_time, uid, asked_parent, may_lead))
        if before is not None:
            self.ids.move(pid, vmid, now=now)
            self.groups.enter(vmid, pgid)
            self.locks.rename(before.vmid, vmid)
            self.descriptors.rename(before.vmid, vmid, Kind.POSIX)
            self._apply_gone(before.vmid, now)
            self.particulars.departed.pop(pid, None)
        self.next_vmid = vmid + 1
        process = Process(vmid, pid, ppid, parent, pgid)
        process.os_pid, process.start_time, process.uid = os_pid, start_time, uid
        process.may_lead, process.attempt, process.joined_at = may_lead, attempt, wall
        process.forked = False
        self.processes[vmid] = process
        self.groups.enter(vmid, pgid)
        self.ever_joined = True

    def _apply_child(self, vmid: int) -> None:
        spare = self._take_spare(vmid)
        parent = self.processes.get(spare.asker)
        ppid, pgid = (parent.pid, parent.pgid) if parent else (spare.ppid, spare.pgid)
        process = self.processes[vmid] = Process(vmid, spare.pid, ppid, spare.asker, pgid)
        process.forebears = parent.line() if parent else spare.forebears
        process.may_lead = parent is None or parent.may_lead
        process.uid = parent.uid if parent else -1  # until the kernel says so itself
        self.groups.enter(vmid, pgid)
        self.particulars.inherit(spare.asker, vmid)
        self.locks.share(spare.asker, vmid)
        self.descriptors.share(spare.asker, vmid, Kind.POSIX)
        self.ever_joined = True

    def _take_spare(self, vmid: int) -> Spare:
        spare = self.spares.pop(vmid)
        self.spares_of.get(spare.asker, set()).discard(vmid)
        return spare

    def _apply_hello(self, vmid: int, os_pid: int, start_time: int, uid: int, wall: float) -> None:
        if vmid not in self.processes:
            self._apply_child(vmid)
        process = self.processes[vmid]
        process.os_pid, process.start_time, process.uid = os_pid, start_time, uid
        process.state = State.RUNNING
        process.joined_at = process.joined_at or wall

    def _apply_detached(self, vmid: int) -> None:
        self.processes[vmid].state = State.DETACHED
        self._share_with_unborn(vmid)
        self.locks.detach(vmid)
        self.files.drop(vmid)

    def _apply_gone(self, vmid: int, now: float) -> None:
        process = self.processes.pop(vmid)
        self.answered.drop(vmid)
        pid, pgid = process.pid, process.pgid
        self._share_with_unborn(vmid)
        for orphan in self.spares_of.pop(vmid, ()):
            self.spares[orphan].ppid = pid
            self.spares[orphan].pgid = pgid
            self.spares[orphan].forebears = process.line()
            self.groups.enter(orphan, pgid)
        self._give_back(vmid, pid, pgid, now)
        self.locks.drop_process(vmid)
        self.descriptors.drop(vmid)
        self.files.drop(vmid)
        self.particulars.drop(vmid, pid, process.os_pid, process.start_time, process.uid)

    def _share_with_unborn(self, vmid: int) -> None:
        """A child of whom nobody has told yet has the descriptors that its parent had."""
        for spare in self.spares_of.get(vmid, ()):
            self.locks.share(vmid, spare)
            self.descriptors.share(vmid, spare, Kind.POSIX)

    def _apply_lost(self, vmid: int, now: float) -> None:
        spare = self._take_spare(vmid)
        self._give_back(vmid, spare.pid, spare.pgid, now)
        self.locks.drop_process(vmid)
        self.descriptors.drop(vmid)

    def _give_back(self, vmid: int, pid: int, pgid: int, now: float) -> None:
        self.groups.settle(vmid, pid, now)
        self.groups.leave(vmid, pgid, now)
        self.ids.release_owner(vmid, now)

    def _apply_to_locks(self, kind: str, *fields: object) -> None:
        self.locks.apply((kind, *fields))

    def _apply_unat(self, vmid: int, kind: int, handle: int, device: int, inode: int) -> None:
        self.descriptors.forget(vmid, (kind, handle, device, inode))

    def _apply_pgid(self, vmid: int, pgid: int, now: float) -> None:
        process = self.processes[vmid]
        before, process.pgid = process.pgid, pgid
        self.regrouped = True
        self.groups.enter(vmid, pgid)
        if before != pgid:
            self.groups.leave(vmid, before, now)

    def state(self) -> tuple[object, ...]:
        """All that the journal must bring back, comparable."""
        return (
            self.next_vmid,
            self.relays,
            sorted(process.row() for process in self.processes.values()),
            sorted((vmid, *spare.row()) for vmid, spare in self.spares.items()),
            self.ids.snapshot(),
            self.groups.state(),
            self.particulars.state(),
            self.locks.state(),
            self.descriptors.state(),
            self.sync.state(),
            self.answered.state(),
            tuple(self.orphan_exits),
            self.files.state(),
        )

    def check(self) -> None:
        """Assert the invariants."""
        self.ids.check()
        self.groups.check()
        self.particulars.check()
        self.locks.check()
        self.descriptors.check()
        self.sync.check()
        self.files.check()
        assert not self.processes.keys() & self.spares.keys()
        for vmid, process in self.processes.items():
            assert vmid < self.next_vmid
            assert process.state is State.DETACHED or self.ids.owner_of(process.pid) == vmid
        for vmid, spare in self.spares.items():
            assert vmid < self.next_vmid
            assert not spare.pid or self.ids.owner_of(spare.pid) == vmid
            assert spare.asker not in self.processes or vmid in self.spares_of[spare.asker]
        assert sum(map(len, self.spares_of.values())) <= len(self.spares)
