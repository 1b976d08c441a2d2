"""What the next child will need of the system, made while nobody waits for it.

A child's two sockets listen before it is there, and its parent watches one of them. To make them
takes a third of what a fork costs before the kernel's part; to give them the child's name, two
renames. So behind each fork, where another may follow, the worker makes those of the next child,
whoever that will be. Until then they lie under our own name, and go with us.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from collections import deque
from typing import NamedTuple

from libos_ipc.runtime.liveness import watch
from libos_ipc.runtime.reserve import are_left
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.sockets import Sockets

__all__ = ["Cradle", "Nursery"]

#: Descriptors that must be left when the next child's are made.
_MARGIN = 64


class Cradle(NamedTuple):
    """For one child."""

    sockets: Sockets
    #: connected while our own copy is open: the end of it tells of a failed fork, too
    watcher: socket.socket
    page: mmap.mmap  #: where the child will note first of all which process it is

    @classmethod
    def make(cls, messages: str, live: str) -> Cradle:
        """One whose sockets listen at these paths."""
        sockets = Sockets.listen(messages, live)
        try:
            return cls(sockets, watch(live), mmap.mmap(-1, 8))
        except BaseException:
            sockets.close()
            raise

    def close(self) -> None:
        """No child will need it, or that is another process's business."""
        self.sockets.close()
        self.watcher.close()


class Nursery:
    """The cradle of one process's next child, if there is one."""

    def __init__(self, directory: GroupDir, vmid: int) -> None:
        self._directory = directory
        self._waiting = directory.next_sockets(vmid)
        self._ready: deque[Cradle] = deque()  # one at most, which several threads may want

    def prepare(self) -> None:
        """Have one ready, unless the system is short of something: a fork looks for itself then.
        In the worker."""
        if not self._ready and are_left(_MARGIN):
            with contextlib.suppress(OSError):
                self._ready.append(Cradle.make(*self._waiting))

    def take(self, vmid: int) -> Cradle:
        """One for a child that is to have this VMID. OSError if it cannot be made. Any thread."""
        messages, live = self._directory.message_socket(vmid), self._directory.live_socket(vmid)
        try:
            cradle = self._ready.pop()
        except IndexError:
            return Cradle.make(messages, live)
        try:
            os.rename(self._waiting[1], live)  # first: who can reach a process can hear of its end
            os.rename(self._waiting[0], messages)
        except OSError:
            cradle.close()
            return Cradle.make(messages, live)
        except BaseException:
            cradle.close()
            raise
        return cradle

    def close(self) -> None:
        """There will be none, or not here: in a forked child the parent's copy is closed."""
        while self._ready:
            self._ready.pop().close()
