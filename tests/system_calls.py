"""Counts the system calls of a process's main thread, as the kernel sees them, by ptrace.

The process waits by `begin` until it is traced, and divides what it does then into parts by
`mark()`. `Traced.part` lets it run up to its next mark, and says what it has asked the kernel
meanwhile; it stands still there until the next part is asked for, so that the test can see to what
it is to find.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections import Counter

import pytest
from processes import Forked, Line

__all__ = ["Traced", "begin", "mark"]

_SYSCALL, _DETACH, _SEIZE, _INTERRUPT, _INFO = 24, 17, 0x4206, 0x4207, 0x420E
_SYSGOOD, _EXITKILL = 0x1, 0x100000
_WALL = 0x40000000
#: Of `struct ptrace_syscall_info`: what it is, and at an entry the number of the call.
_ENTRY = struct.Struct("=B23xQ")
_IS_ENTRY = 1
#: The number of getppid, by architecture.
_MARKS = {"x86_64": 110, "aarch64": 173}

#: Ends a part: a call that nothing else makes.
mark = os.getppid

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def begin(line: Line) -> None:
    """In the child: wait until it is traced."""
    line.send()
    line.recv()


class Traced:
    """The main thread of a child that begins, until the end of a `with`. All by one thread."""

    def __init__(self, child: Forked) -> None:
        if platform.machine() not in _MARKS:
            pytest.skip("the numbers of this architecture's calls are not known")
        self._child = child
        self._pid = child.os_pid
        self._mark = _MARKS[platform.machine()]

    def __enter__(self) -> Traced:
        self._child.recv()
        if _libc.ptrace(_SEIZE, self._pid, None, _SYSGOOD | _EXITKILL) < 0:
            pytest.skip(f"no process may be traced here: {os.strerror(ctypes.get_errno())}")
        self._ask(_INTERRUPT)
        self._wait()
        self._child.send()
        return self

    def part(self) -> Counter[int]:
        """The calls, by number, up to the next mark, that are begun."""
        seen: Counter[int] = Counter()
        sig = 0
        while True:
            self._ask(_SYSCALL, 0, sig)
            status = self._wait()
            sig = os.WSTOPSIG(status)
            if status >> 16:
                sig = 0  # begun to be traced, or stopped as a whole
            elif sig == signal.SIGTRAP | 0x80:
                sig = 0
                number = self._entered()
                if number == self._mark:
                    return seen
                if number is not None:
                    seen[number] += 1

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._ask(_DETACH)
        else:
            self._child.kill()  # it may be anywhere

    def _entered(self) -> int | None:
        """The number of the call at whose beginning it stands."""
        info = ctypes.create_string_buffer(88)
        self._ask(_INFO, len(info), ctypes.addressof(info))
        what, number = _ENTRY.unpack_from(info)
        return number if what == _IS_ENTRY else None

    def _ask(self, what: int, address: int = 0, data: int = 0) -> None:
        if _libc.ptrace(what, self._pid, address, data) < 0:
            raise OSError(ctypes.get_errno(), f"ptrace {what:#x}")

    def _wait(self) -> int:
        """Until it stops. The timeout of the test bounds it."""
        _, status = os.waitpid(self._pid, _WALL)
        if not os.WIFSTOPPED(status):
            self._child.status = status
            raise AssertionError(f"the traced process has ended: {status:#x}")
        return status
