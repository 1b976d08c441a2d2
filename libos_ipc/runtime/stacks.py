"""The Python stacks of a process that cannot tell them, since it holds the interpreter lock.

Every process of a group keeps a small file in memory and has `faulthandler` write the stacks of
all threads into it on a signal that is reserved for that. The handler needs no lock and runs no
Python. Who wants the stacks finds the file among the descriptors of the process, empties it, sends
the signal, and reads. Whoever may do that is the same user.

The signal is ignored before the handler comes and after it has gone, so one that is late ends
nobody.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import time

from libos_ipc._native import ignore_signal
from libos_ipc.runtime.processes import STACK_SIGNAL, signal_process

__all__ = ["StackFile", "demand"]

_NAME = "libos_ipc_stacks"
_LINK = f"/memfd:{_NAME} (deleted)"
#: Seconds to wait for others who ask, and as many for the process itself; and seconds in which
#: nothing more must come for it to be complete.
_WITHIN_S = 0.35
_QUIET_S = 0.01


class StackFile:
    """This process's file, while it is in any group."""

    def __init__(self) -> None:
        self._fd = -1

    def open(self) -> None:
        """Begin, if that has not been done. Nothing where the program handles the signal itself."""
        if self._fd >= 0 or signal.getsignal(STACK_SIGNAL) not in (signal.SIG_DFL, signal.SIG_IGN):
            return
        try:
            self._fd = _make()
        except OSError:
            return  # out of descriptors: everything else works without
        ignore_signal(STACK_SIGNAL)
        faulthandler.register(STACK_SIGNAL, self._fd, all_threads=True)

    def close(self) -> None:
        """End."""
        if self._fd >= 0:
            faulthandler.unregister(STACK_SIGNAL)
            os.close(self._fd)
            self._fd = -1

    def reborn(self) -> None:
        """In a forked child: the file is the parent's."""
        if self._fd >= 0:
            try:
                ours = _make()
            except OSError:
                self.close()
                return
            faulthandler.register(STACK_SIGNAL, ours, all_threads=True)
            os.close(self._fd)
            self._fd = ours


def _make() -> int:
    fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


def demand(os_pid: int, started: int) -> str:
    """Make a process write its stacks; "" if it does not. Blocks for 0.7 s at most."""
    try:
        fd = _find(os_pid)
        if fd < 0:
            return ""
        try:
            if not _have_alone(fd, time.monotonic() + _WITHIN_S):
                return ""
            os.ftruncate(fd, 0)
            signal_process(os_pid, started, STACK_SIGNAL)
            return _read(fd, time.monotonic() + _WITHIN_S)
        finally:
            os.close(fd)
    except OSError:
        return ""


def _find(os_pid: int) -> int:
    place = f"/proc/{os_pid}/fd"
    for name in os.listdir(place):
        try:
            if os.readlink(f"{place}/{name}") == _LINK:
                return os.open(f"{place}/{name}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # closed meanwhile
    return -1


def _have_alone(fd: int, deadline: float) -> bool:
    """Keep others away who want the same."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_QUIET_S / 2)


def _read(fd: int, deadline: float) -> str:
    size, since = 0, time.monotonic()
    while True:
        time.sleep(_QUIET_S / 4)
        now = time.monotonic()
        found = os.fstat(fd).st_size
        if found != size:
            size, since = found, now
        if (size and now - since >= _QUIET_S) or now >= deadline:
            return os.pread(fd, size, 0).decode("utf-8", "replace")
