"""Asking the kernel about the descriptors of other processes, for the leader.

It needs nothing of the process that is asked about, which may be stopped or stuck. A process that
is gone has nothing open: who has waited for its end finds its locks free, though the leader may
hear of that end only a moment later. What the kernel does not tell (another user's process, a
kernel without kcmp, no descriptor left to look by) counts as unchanged.
"""

from __future__ import annotations

import errno
import os

from libos_ipc._native import same_file
from libos_ipc.core.descriptors import Spot
from libos_ipc.runtime import process_state

__all__ = ["Inspector"]


class Inspector:
    """The kernel's word."""

    def is_open(self, os_pid: int, start_time: int, spot: Spot, device: int, inode: int) -> bool:
        """Whether the process still has what it locked by. Another one of that pid has not."""
        if os_pid <= 0:
            return True
        try:
            if process_state.start_time(os_pid) != start_time:
                return False
            if spot.duplicate < 0:
                return _leads_to(os_pid, spot.fd, device, inode)
            if _same(os_pid, spot.fd, spot.duplicate):
                return True
            return any(
                _same(os_pid, fd, spot.duplicate)
                for fd in map(int, os.listdir(f"/proc/{os_pid}/fd"))
                if fd != spot.duplicate
            )
        except (FileNotFoundError, ProcessLookupError):
            return False
        except OSError:
            return True

    def is_same(self, os_pid: int, fd: int, other_pid: int, other_fd: int) -> bool:
        """Whether both descriptors are of one description."""
        try:
            return same_file(os_pid, fd, other_pid, other_fd)
        except OSError:
            return False


def _leads_to(os_pid: int, fd: int, device: int, inode: int) -> bool:
    """Whether this is a descriptor of the file by which it may be locked: with O_PATH it is none,
    such as those by which the library itself keeps files."""
    found = os.stat(f"/proc/{os_pid}/fd/{fd}")
    if (found.st_dev, found.st_ino) != (device, inode):
        return False
    with open(f"/proc/{os_pid}/fdinfo/{fd}") as file:
        flags = next(line.split()[1] for line in file if line.startswith("flags:"))
    return not int(flags, 8) & os.O_PATH


def _same(os_pid: int, fd: int, duplicate: int) -> bool:
    try:
        return same_file(os_pid, fd, os_pid, duplicate)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
