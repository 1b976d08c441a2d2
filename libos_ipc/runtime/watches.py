"""The descriptors that tell of other processes' ends, one pair per VMID.

The liveness connection tells of death and of exec; the pidfd tells of death alone, and also
where a descendant still holds the liveness socket open. A pidfd is opened only for a pid that
the kernel has named for a connection of that process, while the connection proves it alive.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable

from libos_ipc.runtime import liveness, process_state

__all__ = ["Watches"]


class Watches:
    """Watches by VMID. `on_end(vmid)` and `on_death(vmid)` are called by the polling thread."""

    def __init__(
        self,
        register: Callable[[int, Callable[[], None]], None],
        unregister: Callable[[int], None],
        on_end: Callable[[int], None],
        on_death: Callable[[int], None],
    ) -> None:
        self._register = register
        self._unregister = unregister
        self._on_end = on_end
        self._on_death = on_death
        self._live: dict[int, socket.socket] = {}
        self._pidfds: dict[int, int] = {}
        self._os_pids: dict[int, int] = {}  # of those with a pidfd
        self._single = -1  # the pidfd of `end_of`
        #: why no connection to them could be made
        self.unreached: dict[int, str] = {}

    def live(self, vmid: int, path: str) -> bool:
        """Watch the liveness socket at `path`. False if nobody listens there any more."""
        if vmid in self._live:
            return True
        try:
            watcher = liveness.watch(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        self._live[vmid] = watcher
        self._register(watcher.fileno(), lambda: self._look(watcher.fileno(), self._on_end, vmid))
        return True

    def confirm(self, vmid: int, path: str, os_pid: int) -> bool:
        """Whether the listener at `path` is process `os_pid`; watches it from then on."""
        watched = vmid in self._live
        if self.live(vmid, path) and self.os_pid(vmid) == os_pid:
            return True
        # Connected before a forked child took its socket over: look again.
        self.drop_live(vmid)
        if self.live(vmid, path):
            return self.os_pid(vmid) == os_pid
        if watched:
            self._on_end(vmid)  # it has ended in between; the watch dropped would have told
        return False

    def os_pid(self, vmid: int) -> int:
        """The OS pid behind a watched liveness socket, 0 if it is not watched."""
        watcher = self._live.get(vmid)
        return 0 if watcher is None else liveness.process_behind(watcher)[0]

    def process(self, vmid: int, os_pid: int) -> bool:
        """Watch the process itself. False if it is gone already."""
        if vmid in self._pidfds:
            return True
        try:
            pidfd = os.pidfd_open(os_pid)
        except ProcessLookupError:
            return False
        self._pidfds[vmid] = pidfd
        self._os_pids[vmid] = os_pid
        self._register(pidfd, lambda: self._look(pidfd, self._on_death, vmid))
        return True

    def end_of(self, os_pid: int, tell: Callable[[], None]) -> None:
        """Call `tell` when this process ends, whatever VMID it has; of one process at a time, 0 for
        none. OSError."""
        if self._single >= 0:
            self._unregister(self._single)
            os.close(self._single)
            self._single = -1
        if os_pid:
            self._single = fd = os.pidfd_open(os_pid)
            self._register(fd, lambda: self._look(fd, lambda vmid: tell(), 0))

    def _look(self, fd: int, tell: Callable[[int], None], vmid: int) -> None:
        """Tell, if it is true: an event may be older than the descriptor that has its number."""
        if _is_readable(fd):
            tell(vmid)

    def signal(self, vmid: int, sig: int) -> None:
        """Send a signal to a watched process; nothing if it is gone. PermissionError."""
        pidfd = self._pidfds.get(vmid)
        if pidfd is not None:
            try:
                signal.pidfd_send_signal(pidfd, sig)
            except ProcessLookupError:
                pass  # its end is about to be told

    def process_of(self, vmid: int) -> int:
        """The OS pid of a watched process, as the kernel has named it; 0 if it is not watched."""
        return self._os_pids.get(vmid, 0)

    def watches_process(self, vmid: int) -> bool:
        """Whether a pidfd of `vmid` is still being watched."""
        return vmid in self._pidfds

    def has_ended(self, vmid: int) -> bool:
        """Whether a watched process has ended, or is about to, though nobody was told yet."""
        watcher = self._live.get(vmid)
        return (watcher is not None and _is_readable(watcher.fileno())) or self.is_dying(vmid)

    def is_dying(self, vmid: int) -> bool:
        """Whether a watched process is on its way out, though its pidfd does not tell yet: one
        whose liveness connection has ended may also have exec'ed."""
        return vmid in self._pidfds and process_state.is_exiting(self._os_pids[vmid])

    def drop_live(self, vmid: int) -> None:
        """Stop watching the liveness socket."""
        watcher = self._live.pop(vmid, None)
        if watcher is not None:
            self._unregister(watcher.fileno())
            watcher.close()

    def drop_process(self, vmid: int) -> None:
        """Stop watching the process."""
        pidfd = self._pidfds.pop(vmid, None)
        self._os_pids.pop(vmid, None)
        if pidfd is not None:
            self._unregister(pidfd)
            os.close(pidfd)

    def abandon(self) -> None:
        """In a forked child: close our copies. The polling set is the parent's, and stays."""
        for watcher in self._live.values():
            watcher.close()
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        if self._single >= 0:
            os.close(self._single)
            self._single = -1
        self._live.clear()
        self._pidfds.clear()
        self._os_pids.clear()

    def close(self) -> None:
        """Drop everything."""
        for vmid in list(self._live):
            self.drop_live(vmid)
        for vmid in list(self._pidfds):
            self.drop_process(vmid)
        self.end_of(0, lambda: None)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
