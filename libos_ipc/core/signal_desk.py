"""The leader's part in signals: who has an ID, who is in a process group, and relays to many.

Who signals one process or thread asks here whom the ID names and which signals that one catches,
and sends the kernel's signal itself. All others come here and go out once for each member that
they are for, in the sender's name, as a message where the number is caught and by way of the
kernel where it is not.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from libos_ipc.core.codes import Code
from libos_ipc.core.roster import Process, Record, Roster
from libos_ipc.core.signals import LAST_SIGNAL, MOST_PENDING, RELAYS, Kind, may_signal, numbered
from libos_ipc.core.vocabulary import Answer, Effects, Journal, KernelSignal, Say, State

__all__ = ["NO_UID", "SignalDesk"]

NO_UID = 2**32 - 1
#: The kernel's own: nobody catches them.
_SIGKILL, _SIGSTOP = 9, 19
_UNCATCHABLE = 1 << _SIGKILL | 1 << _SIGSTOP
#: Bytes that the entries of one process may take.
MOST_META = 1 << 20


class SignalDesk:
    """Answers what concerns signals, process groups, threads and published entries."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        #: relays to a member that have not arrived there as far as is known
        self.unheard: Callable[[int], int] = lambda vmid: 0

    # ---- whom an ID names

    def get_process(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """GET_PROCESS: the process or thread of this ID, or a process that had it as its pid."""
        id = fields[0]
        return [Answer(src, seq, Code.GET_PROCESS, self._describe(id))]

    def _describe(self, id: int) -> tuple[int, ...]:
        roster = self._roster
        vmid = roster.ids.owner_of(id)
        process = roster.processes.get(vmid)
        native = 0
        if process is not None and process.pid != id:
            thread = roster.particulars.threads.get(id)
            if thread is None or thread[0] != vmid:
                process = None
            else:
                native = thread[1]
        if process is not None:
            caught = roster.particulars.caught.get(vmid, 0)
            if process.state is State.DETACHED:
                caught = 0
            known = (process.os_pid, process.start_time, process.uid & NO_UID, int(process.state))
            return 0, vmid, process.pid, *known, native, caught
        gone = roster.particulars.departed.get(id)
        if gone is None:
            return -errno.ESRCH, 0, 0, 0, 0, NO_UID, 0, 0, 0
        return -errno.ESRCH, gone.vmid, id, gone.os_pid, gone.start_time, gone.uid & NO_UID, 0, 0, 0

    def _process_of(self, pid: int) -> Process | None:
        """The member with this pid, if it is there."""
        process = self._roster.processes.get(self._roster.ids.owner_of(pid))
        return process if process is not None and process.pid == pid else None

    # ---- what a process says of itself

    def set_caught(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """SET_CAUGHT: these numbers come as messages from now on."""
        record: Record = ("caught", src, fields[0] & ~_UNCATCHABLE & ~1)
        return self._done(record, src, seq, Code.SET_CAUGHT)

    def set_thread(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """SET_THREAD: an ID of the sender names a thread of it, or no longer does."""
        tid, native = fields
        roster = self._roster
        ours = roster.ids.owner_of(tid) == src and tid != roster.processes[src].pid
        if not ours and (native or roster.particulars.threads.get(tid, (0,))[0] != src):
            return [Answer(src, seq, Code.SET_THREAD, (-errno.EINVAL,))]
        return self._done(("thread", src, tid, native), src, seq, Code.SET_THREAD)

    def set_meta(self, src: int, seq: int, fields: tuple[object, ...], now: float) -> Effects:
        """SET_META: publish an entry of the sender, or take it back."""
        there, tail = fields
        assert isinstance(tail, bytes)
        name, _, value = tail.partition(b"\0")
        key = name.decode("utf-8", "replace")
        particulars = self._roster.particulars
        if there and particulars.room(src) + len(tail) > MOST_META:
            return [Answer(src, seq, Code.SET_META, (-errno.ENOSPC,))]
        record: Record = ("meta", src, key, value if there else None)
        return self._done(record, src, seq, Code.SET_META)

    def get_meta(self, src: int, seq: int, fields: tuple[object, ...], now: float) -> Effects:
        """GET_META: an entry of the process with this pid."""
        pid, tail = fields
        assert isinstance(pid, int)
        assert isinstance(tail, bytes)
        process = self._process_of(pid)
        if process is None:
            return [Answer(src, seq, Code.GET_META, (-errno.ESRCH, b""))]
        entries = self._roster.particulars.entries.get(process.vmid, {})
        value = entries.get(tail.decode("utf-8", "replace"))
        answer = (-errno.ENOENT, b"") if value is None else (0, value)
        return [Answer(src, seq, Code.GET_META, answer)]

    def _done(self, record: Record, src: int, seq: int, code: Code) -> Effects:
        self._roster.apply(record)
        return [Journal(record), Answer(src, seq, code, (0,))]

    # ---- process groups

    def set_pgid(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """SET_PGID: of the sender itself or of a child of it, as setpgid(2) has it."""
        roster = self._roster
        pid, pgid = fields
        pid = pid or roster.processes[src].pid
        pgid = pgid or pid
        process = self._process_of(pid)
        if process is None or src not in (process.vmid, process.parent):
            return [Answer(src, seq, Code.SET_PGID, (-errno.ESRCH,))]
        if pgid != pid and pgid not in roster.groups.members:
            return [Answer(src, seq, Code.SET_PGID, (-errno.EPERM,))]
        record: Record = ("pgid", process.vmid, pgid, now)
        journal, answer = self._done(record, src, seq, Code.SET_PGID)
        return [journal, Say(process.vmid, Code.PGID_CHANGED, (pgid,)), answer]

    # ---- relays

    def kill(self, src: int, seq: int, fields: tuple[int, ...], now: float) -> Effects:
        """PID_KILL: of a process group, of everybody but the sender, or of one process, so that the
        signal does not depend on its sender's staying until it is taken."""
        roster = self._roster
        sender, pid, id, sig, kind = fields
        me = roster.processes[src]
        if not 0 <= sig <= LAST_SIGNAL or not 0 <= kind < len(Kind):
            return self._result(src, seq, -errno.EINVAL)
        if sender != me.pid:
            return self._result(src, seq, -errno.EPERM)
        if kind < 2:
            process = self._process_of(pid)
            targets = [] if process is None else [process]
        elif kind == 2:
            vmids = sorted(roster.groups.members.get(id, ()))
            targets = [roster.processes[vmid] for vmid in vmids if vmid in roster.processes]
        else:
            targets = [process for process in roster.processes.values() if process.vmid != src]
        permitted = [target for target in targets if may_signal(me.uid, target.uid)]
        if not permitted:
            return self._result(src, seq, -errno.EPERM if targets else -errno.ESRCH)
        if not sig:
            return self._result(src, seq, 0)
        # One that is stopped, and takes nothing up, must not cost more and more memory.
        open_ = [each for each in permitted if self.unheard(each.vmid) < MOST_PENDING]
        if not open_:
            return self._result(src, seq, -errno.EAGAIN)
        effects: Effects = []
        for target in open_:
            effects += self._relay(target, (sender, target.pid, id, sig), kind)
        return effects + self._result(src, seq, 0)

    def _relay(self, target: Process, message: tuple[int, ...], kind: int) -> Effects:
        sig = message[3]
        caught = self._roster.particulars.caught.get(target.vmid, 0)
        running = target.state is State.RUNNING
        if target.state is State.STARTING or (running and caught >> sig & 1):
            number = self._roster.relays % (RELAYS - 1) + 1
            record: Record = ("relay", number)
            self._roster.apply(record)
            said = (*message, numbered(kind, number))
            return [Journal(record), Say(target.vmid, Code.PID_KILL, said)]
        return [KernelSignal(target.vmid, sig, (*message, kind))]

    def _result(self, src: int, seq: int, result: int) -> Effects:
        return [Answer(src, seq, Code.PID_KILL, (result,))] if seq else []
