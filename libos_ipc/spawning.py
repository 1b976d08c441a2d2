"""Starting processes and waiting for them: `group.fork`, `group.spawn`, `group.wait`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libos_ipc.core.codes import LEADER, Code
from libos_ipc.errors import IpcError, PeerDied, Timeout
from libos_ipc.runtime.children import ChildRow, ExitStatus

if TYPE_CHECKING:
    from libos_ipc.group import Group

__all__ = ["Child", "fork", "run_target", "wait_for_child"]


class Child:
    """A process that `group.spawn` started.

    `pid` is its ID in the group, `vmid` its VMID, `os_pid` what the kernel calls it. Any thread
    of the parent may use it; in a forked child it means nothing.
    """

    def __init__(self, group: Group, pid: int, vmid: int, os_pid: int) -> None:
        self._group = group
        self._status: ExitStatus | None = None
        self.pid = pid
        self.vmid = vmid
        self.os_pid = os_pid
        self._pidfd = os.pidfd_open(os_pid)

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait for its end, and take the zombie away. Timeout if it lives on. May be repeated."""
        if self._status is None:
            self._status = self._group.wait(self.pid, timeout)
            self._close()
        return self._status

    def kill(self, sig: int = signal.SIGTERM) -> None:
        """Send it a signal by way of the kernel. PeerDied if it has ended and was waited for."""
        if self._pidfd < 0:
            raise PeerDied(f"child {self.pid} has ended and was waited for")
        signal.pidfd_send_signal(self._pidfd, sig)

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __del__(self) -> None:
        if hasattr(self, "_pidfd"):
            self._close()

    def __repr__(self) -> str:
        return f"Child(pid={self.pid}, vmid={self.vmid}, os_pid={self.os_pid})"


def fork(group: Group) -> tuple[int, int, int]:
    """Fork; in the parent (group pid, VMID, OS pid) of the child, in the child zeros.

    NotJoined, and no fork, if the group is closed here; the OS's error if it cannot fork;
    IpcError if the child has not joined: EAGAIN, it found no identity in time, or the system's
    number, there was no room for its sockets. It runs nevertheless, as after `os.fork`.
    """
    node = group._node
    node.session.check_open()
    os_pid = os.fork()
    if not os_pid:
        return 0, 0, 0
    plan = node.forked.pop(threading.get_ident(), None)
    if plan is None:
        error = node.unplanned.pop(threading.get_ident(), None)
        number = 11 if error is None else error.errno or 11
        reason = "the leader gave no identity" if error is None else str(error)
        raise IpcError(number, f"OS process {os_pid} was forked but has not joined: {reason}")
    with node.session.lock:
        row = node.children.add(plan.pid, plan.vmid)
        node.children.own(row, os_pid)
        node.watch_child(row, os_pid)
    return plan.pid, plan.vmid, os_pid


def run_target(
    group: Group, target: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """In a spawned child: run `target`, tell the parent how it ended, and end the process."""
    code = 1
    try:
        target(*args, **kwargs)
        code = 0
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException:
        print(f"process {group.pid} of group {group.name!r}:", file=sys.stderr)
        traceback.print_exc()
    finally:
        try:
            _announce(group, code)
            _leave_quietly()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _announce(group: Group, code: int) -> None:
    """CHILDEXIT to the parent, or to whoever leads if there is none, or it is gone."""
    if group.closed:
        return
    me = group._node.identity
    told = (me.ppid, me.pid, os.getuid(), code & 0xFF, 0)
    with contextlib.suppress(PeerDied):  # the leader is told in its place
        group._session.send(me.parent_vmid or LEADER, Code.CHILDEXIT, told)


def _leave_quietly() -> None:
    from libos_ipc.group import leave_all

    try:
        leave_all()
    except Exception:
        traceback.print_exc()


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def wait_for_child(group: Group, pid: int, timeout: float | None) -> ExitStatus:
    """Wait for one child, or with -1 for any: see `Group.wait`."""
    node = group._node
    session = node.session
    rows = node.children.rows

    def candidates() -> list[ChildRow]:
        return list(rows.values()) if pid == -1 else [rows[pid]] if pid in rows else []

    def done() -> ChildRow | None:
        return next((row for row in candidates() if row.status is not None), None)

    with session.lock:
        session.check_open()
        if not candidates():
            what = "no child" if pid == -1 else f"no child {pid}"
            raise ChildProcessError(10, f"this process has {what} in group {group.name!r}")
        session.wait_for(lambda: done() is not None or not candidates(), timeout)
        row = done()
        if row is not None:
            row.reap()
            node.children.forget(row)
            assert row.status is not None
            return row.status
        if not candidates():
            which = "the last child" if pid == -1 else f"child {pid}"
            raise ChildProcessError(10, f"{which} never came to be: its fork failed")
    what = "no child" if pid == -1 else f"child {pid} has not"
    raise Timeout(f"{what} ended within {timeout} s")
