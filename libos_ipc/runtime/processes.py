"""What the kernel tells of a process, and signals by way of it, never by a bare pid.

A process is its OS pid and start time. A pidfd holds on to it while we ask: what is read between
opening it and finding the start time right belongs to that process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from libos_ipc._native import tgkill
from libos_ipc.runtime.process_state import fields_of, start_time, state_of

__all__ = [
    "KINDS",
    "STACK_SIGNAL",
    "Usage",
    "read_process",
    "signal_process",
    "signal_thread",
]

_T = TypeVar("_T")

#: What `faulthandler` answers with the Python stacks of a process: see `stacks`.
STACK_SIGNAL: int = int(signal.SIGRTMAX) - 2

#: What may be asked of a process, and its number on the wire.
KINDS: Final = {
    "cred": 0,
    "exec": 1,
    "cwd": 2,
    "root": 3,
    "cmdline": 4,
    "usage": 5,
    "stack": 6,
    "counters": 7,
}

_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What a process has used so far.

    Seconds of processor time in user and kernel mode; the most memory it ever had resident, in
    bytes; page faults without and with input from disk; threads it has now.
    """

    user: float
    system: float
    max_rss: int
    minor_faults: int
    major_faults: int
    threads: int


def _held(os_pid: int, started: int, act: Callable[[int], _T]) -> _T:
    """Do something to a process, which is held by a pidfd. ProcessLookupError if it is gone."""
    pidfd = os.pidfd_open(os_pid)
    try:
        if start_time(os_pid) != started:
            raise ProcessLookupError(3, f"OS process {os_pid} is another one by now")
        return act(pidfd)
    finally:
        os.close(pidfd)


def signal_process(os_pid: int, started: int, sig: int) -> None:
    """Send a signal by way of the kernel. ProcessLookupError, PermissionError."""
    _held(os_pid, started, lambda pidfd: signal.pidfd_send_signal(pidfd, sig))


def signal_thread(os_pid: int, started: int, thread: int, sig: int) -> None:
    """The same to one thread, by its number in the kernel."""
    _held(os_pid, started, lambda _: tgkill(os_pid, thread, sig))


def read_process(os_pid: int, started: int, what: str) -> bytes | tuple[int, int] | Usage:
    """One of `"cred"`, `"exec"`, `"cwd"`, `"root"`, `"cmdline"` and `"usage"`, from /proc.

    FileNotFoundError where the directory or file was removed, ProcessLookupError if the process
    is gone, PermissionError if it is not ours to look at.
    """
    try:
        found = _READERS[what](os_pid)
    except FileNotFoundError as error:
        if state_of(os_pid, started) in ("", "Z"):
            raise ProcessLookupError(3, f"OS process {os_pid} is gone") from error
        raise
    if state_of(os_pid, started) in ("", "Z"):
        raise ProcessLookupError(3, f"OS process {os_pid} is gone")
    return found


def _cred(os_pid: int) -> tuple[int, int]:
    status = _status(os_pid)
    return int(status["Uid"].split()[0]), int(status["Gid"].split()[0])


def _status(os_pid: int) -> dict[str, str]:
    with open(f"/proc/{os_pid}/status") as file:
        return {name: value for name, _, value in (line.partition(":") for line in file)}


def _link(name: str) -> Callable[[int], bytes]:
    def read(os_pid: int) -> bytes:
        link = b"/proc/%d/%s" % (os_pid, name.encode())
        path = os.readlink(link)
        if name == "cwd" and path.endswith(b" (deleted)") and not os.stat(link).st_nlink:
            raise FileNotFoundError(2, "its working directory was removed", os.fsdecode(path))
        return path

    return read


def _cmdline(os_pid: int) -> bytes:
    with open(f"/proc/{os_pid}/cmdline", "rb") as file:
        return file.read()


def _usage(os_pid: int) -> Usage:
    fields = fields_of(os_pid)
    if not fields:
        raise FileNotFoundError(2, f"OS process {os_pid} is gone")
    resident = _status(os_pid).get("VmHWM", "0 kB").split()
    return Usage(
        int(fields[11]) / _TICKS,
        int(fields[12]) / _TICKS,
        int(resident[0]) * 1024,
        int(fields[7]),
        int(fields[9]),
        int(fields[17]),
    )


_READERS: dict[str, Callable[[int], bytes | tuple[int, int] | Usage]] = {
    "cred": _cred,
    "exec": _link("exe"),
    "cwd": _link("cwd"),
    "root": _link("root"),
    "cmdline": _cmdline,
    "usage": _usage,
}
