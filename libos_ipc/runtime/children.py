"""How children ended, by the best word that there is.

In this order: what the kernel tells the parent, by only looking (WNOWAIT), so that `Popen.wait`
and the like still find their child; what the kernel keeps with a pidfd after the child has been
reaped, by us or by anybody (Linux 6.15 and newer); what the child itself announced (CHILDEXIT).
If none of these is to be had the status is unknown, and says so.

Only children of `group.fork` and `group.spawn` are reaped here, inside `wait`.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import struct
from typing import NamedTuple

from libos_ipc._native import children
from libos_ipc.core.vocabulary import ChildExit

__all__ = ["ChildRow", "Children", "ExitStatus", "of_this_thread"]

#: Seconds that an exit status may take to appear where others must reap first.
STATUS_S = 2.0
#: Children that have ended and that nobody waits for here: so many are remembered.
ENDED_KEPT = 1024


#: The OS pid that a new child first of all notes in a page of memory, which its parent has too.
_PID = struct.Struct("q")
#: An OS pid that no process has: Linux has none over 2**22.
_NOBODY = 2**22 + 1


def of_this_thread() -> frozenset[int] | None:
    """The OS pids of the processes that this thread has forked and nobody has waited for, with
    those that other threads left behind. None where the kernel does not tell, or cannot now, and
    where /proc has other numbers than we: it is another namespace's, and has no such thread."""
    try:
        return frozenset(map(int, children().split()))
    except OSError:
        return None


class ExitStatus(NamedTuple):
    """How a process ended. `code` is None when a signal ended it, and the other way round.

    `pid` is the group's; both are None where nobody can know, and then `unknown` is true.
    """

    pid: int
    code: int | None
    signal: int | None
    core_dumped: bool
    uid: int

    @property
    def unknown(self) -> bool:
        """Whether it is only known that the process ended."""
        return self.code is None and self.signal is None


class ChildRow:
    """One child that has not been waited for."""

    __slots__ = (
        "ended_at",
        "os_pid",
        "ours",
        "page",
        "pid",
        "pidfd",
        "status",
        "told",
        "vmid",
        "watched",
    )

    def __init__(self, pid: int, vmid: int) -> None:
        self.pid = pid
        self.vmid = vmid
        self.os_pid = 0
        self.pidfd = -1
        #: whether the end that the pidfd tells is waited for
        self.watched = False
        #: started by `group.fork`: ours to reap
        self.ours = False
        #: where it was to announce itself, if a fork of ours made it
        self.page: mmap.mmap | None = None
        self.told: ChildExit | None = None
        self.status: ExitStatus | None = None
        self.ended_at: float | None = None

    def open(self, os_pid: int) -> bool:
        """Learn which process it is. False if it is gone already; OSError if it cannot be held."""
        try:
            self.pidfd = os.pidfd_open(os_pid)
        except ProcessLookupError:
            self.os_pid = os_pid
            return False
        self.os_pid = os_pid
        return True

    def announced(self) -> int:
        """The OS pid that it has announced, 0 if it never came to that.

        The number is a name only as long as the process is our child: a zombie at least.
        """
        os_pid = 0 if self.page is None else _PID.unpack_from(self.page)[0]
        try:
            if os_pid:
                os.waitid(os.P_PID, os_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return _NOBODY
        return int(os_pid)

    def close(self) -> None:
        """Give descriptor and memory back."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.page = None

    def examine(self, now: float) -> bool:
        """The child has ended: find out how. False while it may still become known."""
        if self.ended_at is None:
            self.ended_at = now
        self.status = self._from_wait() or self._from_pidfd()
        if self.status is None and now - self.ended_at >= STATUS_S:
            self.status = self._from_message()
        return self.status is not None

    def reap(self) -> None:
        """Take the zombie away, if it is ours and still there."""
        if self.ours and self.pidfd >= 0:
            try:
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            except ChildProcessError:
                pass  # the program has waited for it itself

    def _from_wait(self) -> ExitStatus | None:
        if self.pidfd < 0:
            return None
        try:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return ExitStatus(self.pid, found.si_status, None, False, found.si_uid)
        dumped = found.si_code == os.CLD_DUMPED
        return ExitStatus(self.pid, None, found.si_status, dumped, found.si_uid)

    def _from_pidfd(self) -> ExitStatus | None:
        if self.pidfd < 0:
            return None
        found = exit_code_of(self.pidfd)
        if found is None:
            return None
        code, uid = found
        if os.WIFEXITED(code):
            return ExitStatus(self.pid, os.WEXITSTATUS(code), None, False, uid)
        return ExitStatus(self.pid, None, os.WTERMSIG(code), os.WCOREDUMP(code), uid)

    def _from_message(self) -> ExitStatus:
        told = self.told
        if told is None:
            return ExitStatus(self.pid, None, None, False, -1)
        if told.term_signal:
            return ExitStatus(self.pid, None, told.term_signal, False, told.uid)
        return ExitStatus(self.pid, told.exit_code, None, False, told.uid)


#: struct pidfd_info of <linux/pidfd.h>, first version: mask, cgroupid; pid, tgid, ppid;
#: real, effective, saved and file-system uid and gid; exit_code.
_INFO = struct.Struct("QQ3I8Ii")
_INFO_EXIT = 1 << 3
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11


def exit_code_of(pidfd: int) -> tuple[int, int] | None:
    """Wait status and uid that the kernel keeps of a reaped process; None if it has none."""
    buffer = array.array("b", _INFO.pack(_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, buffer)
    except OSError:
        return None
    info = _INFO.unpack(buffer.tobytes())
    return (info[13], info[5]) if info[0] & _INFO_EXIT else None


class Children:
    """The children of this process that it has not waited for, by group pid."""

    def __init__(self) -> None:
        self.rows: dict[int, ChildRow] = {}
        self._by_vmid: dict[int, ChildRow] = {}
        self._ended: dict[int, ChildRow] = {}  # by VMID, those that the program reaps itself

    def add(self, pid: int, vmid: int) -> ChildRow:
        """A child exists, or is about to; or one that exec'ed has joined again."""
        row = self.rows.get(pid)
        if row is not None and row.status is not None:
            self.forget(row)  # its ID is in use again
            row = None
        if row is None:
            row = self.rows[pid] = ChildRow(pid, vmid)
        self._by_vmid.pop(row.vmid, None)
        row.vmid = vmid
        self._by_vmid[vmid] = row
        return row

    def by_vmid(self, vmid: int) -> ChildRow | None:
        """The child with this VMID."""
        return self._by_vmid.get(vmid)

    def forget(self, row: ChildRow) -> None:
        """It has been waited for, or never came to be."""
        self.rows.pop(row.pid, None)
        self._by_vmid.pop(row.vmid, None)
        self._ended.pop(row.vmid, None)
        row.close()

    def own(self, row: ChildRow, os_pid: int) -> None:
        """`group.fork` has made it, and nobody has reaped it: that is ours to do."""
        row.ours = True
        if self._ended.pop(row.vmid, None) is not None:
            row.open(os_pid)  # it has ended before we could say so

    def settle(self, row: ChildRow) -> None:
        """Its status is known. One that the program reaps by itself needs no descriptor any more,
        and perhaps nobody ever asks for it here."""
        if not row.ours:
            row.close()
            self._ended[row.vmid] = row
            if len(self._ended) > ENDED_KEPT:
                self.forget(next(iter(self._ended.values())))

    def close(self) -> None:
        """Give all descriptors back."""
        for row in list(self.rows.values()):
            self.forget(row)
