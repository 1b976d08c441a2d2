"""What one line of /proc tells of a process: whether it is there, since when, and in what state.

OS pid and start time together name a process; the pid alone is used again.
"""

from __future__ import annotations

import os

__all__ = [
    "fields_of",
    "is_exiting",
    "is_our_zombie",
    "is_stopped",
    "is_zombie",
    "start_time",
    "state_of",
]

#: A flag of the kernel's in the state of a process.
_EXITING = 0x4


def fields_of(os_pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on; empty if there is no such process. OSError if
    that cannot be read: no descriptor is left."""
    try:
        with open(f"/proc/{os_pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_time(os_pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if it is gone. OSError as above."""
    fields = fields_of(os_pid)
    return int(fields[19]) if fields else 0


def state_of(os_pid: int, started: int) -> str:
    """The kernel's letter for the state of this process, "" if it is gone."""
    fields = fields_of(os_pid)
    return fields[0].decode() if fields and int(fields[19]) == started else ""


def is_exiting(os_pid: int) -> bool:
    """Whether the process has begun to end, or is gone. It closes what it has open after that.
    False where that cannot be read."""
    try:
        fields = fields_of(os_pid)
    except OSError:
        return False
    return not fields or bool(int(fields[6]) & _EXITING)


def is_zombie(os_pid: int, started: int) -> bool:
    """Whether it has ended, and its parent has not waited for it."""
    return state_of(os_pid, started) == "Z"


def is_our_zombie(os_pid: int) -> bool:
    """Whether a child of ours has this pid, has ended, and was not waited for."""
    return fields_of(os_pid)[:2] == [b"Z", b"%d" % os.getpid()]


def is_stopped(os_pid: int, started: int) -> bool:
    """Whether a signal or a debugger has stopped it."""
    return state_of(os_pid, started) in ("T", "t")
