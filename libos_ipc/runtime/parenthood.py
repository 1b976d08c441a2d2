"""What a node knows of its children: which processes they are, and how they ended.

Of a child that was forked the kernel tells at once (`fork.py`), or it announces itself in a page
that both have; the others come with their hello, or the leader tells of them. From then on its
pidfd is watched. What `wait` does with it stands in `children.py` and `spawning.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from libos_ipc.core.codes import Code
from libos_ipc.core.roster import Record
from libos_ipc.core.vocabulary import ChildExit
from libos_ipc.runtime.children import STATUS_S, Children, ChildRow
from libos_ipc.runtime.leadership import Leadership
from libos_ipc.runtime.shortage import persist

__all__ = ["Parenthood"]

#: Seconds between looks at whether a forked child runs by now.
LOOK_S = 0.005


class Parenthood(Leadership):
    """The part of a node that has children."""

    def __init__(self, founding: Iterable[Record] | None) -> None:
        super().__init__(founding)
        self.children = Children()

    def watch_forked(self, vmid: int) -> None:
        """It was forked just now: wait for its end, or learn first which process it is, when it has
        announced itself. Under the session's lock."""
        row = self.children.by_vmid(vmid)
        if row is None:
            return
        if row.os_pid:
            persist(self.session, lambda: self._register(row))
        else:
            self._expect(row)

    def _register(self, row: ChildRow) -> None:
        if row.pidfd >= 0 and not row.watched:
            self.session.loop.register(row.pidfd, lambda: self._on_child_end(row))
            row.watched = True

    def _expect(self, row: ChildRow) -> None:
        self.session.clock.later(LOOK_S, lambda: self._look_for(row))

    def _look_for(self, row: ChildRow) -> None:
        with self.session.lock:
            if row.os_pid or self.children.by_vmid(row.vmid) is not row:
                return
            os_pid = row.announced()
            if os_pid:
                self.watch_child(row, os_pid)
            else:
                self._expect(row)

    # ---- what the session tells, under its lock

    def child_exit(self, told: ChildExit) -> None:
        row = self.children.rows.get(told.pid)
        if row is not None and row.vmid == told.src:
            row.told = told

    def child_joined(self, vmid: int, pid: int) -> None:
        self.children.add(pid, vmid)

        def look() -> None:
            if self.session.watches.live(vmid, self.directory.live_socket(vmid)):
                self.identified(vmid, self.session.watches.os_pid(vmid))

        persist(self.session, look)

    def identified(self, vmid: int, os_pid: int) -> None:
        row = self.children.by_vmid(vmid)
        if row is not None and os_pid != os.getpid():
            self.watch_child(row, os_pid)

    def watch_child(self, row: ChildRow, os_pid: int) -> None:
        """Learn the OS pid of a child, and wait for its end. Under the session's lock."""
        if row.os_pid:
            return
        row.os_pid = os_pid

        def watch() -> None:
            if row.open(os_pid):
                self._register(row)
            else:
                self.session.clock.later(0, lambda: self._on_child_end(row))

        persist(self.session, watch)

    def gone(self, vmid: int) -> None:
        row = self.children.by_vmid(vmid)
        if row is not None and not row.os_pid:
            # It never said hello: a fork that failed, or a child that ended or exec'ed at once.
            self.reclaim(vmid, row.pid)
            os_pid = row.announced()
            if os_pid:
                self.watch_child(row, os_pid)
            else:
                self.children.forget(row)
            self.session.tell_progress()

    def reclaim(self, vmid: int, pid: int) -> None:
        """No child has this identity after all: the ID is to be used again. Under the lock."""
        session = self.session
        leader = session.member.leader_vmid
        session.perform(session.member.send(leader, Code.CHILD_LOST, (vmid, pid), time.monotonic()))

    def _on_child_end(self, row: ChildRow) -> None:
        """In the worker: a child's pidfd is readable, and stays so until it is closed."""
        session = self.session
        with session.lock:
            session.loop.unregister(row.pidfd)
            if row.status is None and not row.examine(time.monotonic()):
                again_s = 0.01 if row.pidfd >= 0 else STATUS_S  # no kernel tells of that one
                session.clock.later(again_s, lambda: self._on_child_end(row))
            else:
                self.children.settle(row)
            session.tell_progress()
