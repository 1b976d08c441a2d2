"""The kernel's own lock beside the group's, so that processes outside the group are kept out too.

It is a lock of an open file description. Each acquisition has a description of its own, so that
those of one process do not release one another's; and a description once opened is kept until the
group is closed, since closing any descriptor of a file drops the POSIX locks that the program
may have taken in it by other means. The kernel cannot be waited for and given up in time, so it
is asked again and again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator

from libos_ipc._native import Descriptor
from libos_ipc.core.lock_words import UNLOCK, WRITE, FileId
from libos_ipc.errors import IpcError, Timeout, WouldBlock
from libos_ipc.runtime.lock_file import FLOCK

__all__ = ["Mirror", "Mirrors"]

#: Seconds between two attempts: from the first doubled to the last.
_FIRST_S, _LAST_S = 0.0005, 0.02
#: What opening for writing fails with where reading may still be possible.
_ONLY_TO_READ = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.EISDIR)


class Mirrors:
    """The open descriptions of one process, by file: those in use, and those that wait for one."""

    def __init__(self) -> None:
        #: whether there ever was any
        self.used = False
        self._lock = threading.Lock()
        self._idle: dict[FileId, list[Descriptor]] = {}
        self._all: list[Descriptor] = []

    def take(self, keeper: int, type: int) -> Descriptor:
        """A description of the file that `keeper` leads to, good for this type of lock."""
        self.used = True
        found = os.fstat(keeper)
        with self._lock:
            idle = self._idle.get((found.st_dev, found.st_ino))
            if idle:
                return idle.pop()
        try:
            file = Descriptor.open(f"/proc/self/fd/{keeper}", os.O_RDWR)
        except OSError as error:
            if type == WRITE or error.errno not in _ONLY_TO_READ:
                raise
            file = Descriptor.open(f"/proc/self/fd/{keeper}", os.O_RDONLY)
        with self._lock:
            self._all.append(file)
        return file

    def give(self, file: Descriptor) -> None:
        """It is not needed now."""
        found = os.fstat(file.fileno())
        with self._lock:
            self._idle.setdefault((found.st_dev, found.st_ino), []).append(file)

    def reborn(self) -> None:
        """In a forked child, which has nothing of it."""
        if self.used:
            self._lock = threading.Lock()
            self.close()

    def close(self) -> None:
        """Close everything: the group is closed."""
        for file in self._all:
            file.close()
        self._all.clear()
        self._idle.clear()


class Mirror:
    """The kernel's side of one `FileLock`."""

    def __init__(self, mirrors: Mirrors, start: int, length: int) -> None:
        self._mirrors = mirrors
        self._start = start
        self._length = length
        self._file: Descriptor | None = None

    def take(self, keeper: int, type: int, timeout: float | None, deadline: float | None) -> None:
        """Lock, or change the type. Polls, in steps of at most 20 ms, until `deadline`, which
        was `timeout` seconds ahead when this waiting began."""
        for pause_s in self._attempts(keeper, type, timeout, deadline):
            time.sleep(pause_s)

    async def atake(
        self, keeper: int, type: int, timeout: float | None, deadline: float | None
    ) -> None:
        """`take` for asyncio."""
        import asyncio

        for pause_s in self._attempts(keeper, type, timeout, deadline):
            await asyncio.sleep(pause_s)

    def _attempts(
        self, keeper: int, type: int, timeout: float | None, deadline: float | None
    ) -> Iterator[float]:
        """Seconds to pause before each next attempt, until one succeeds."""
        if self._file is None:
            self._file = self._mirrors.take(keeper, type)
        file, pause_s = self._file, _FIRST_S
        while not self._set(file, type):
            if timeout is not None and timeout <= 0:
                raise WouldBlock("a process outside of the group holds a lock of the file")
            if deadline is not None and time.monotonic() >= deadline:
                raise Timeout(f"a process outside of the group kept its lock for {timeout} s")
            yield pause_s if deadline is None else min(pause_s, deadline - time.monotonic())
            pause_s = min(2 * pause_s, _LAST_S)

    def release(self) -> None:
        """Unlock."""
        file, self._file = self._file, None
        if file is not None:
            self._set(file, UNLOCK)
            self._mirrors.give(file)

    def _set(self, file: Descriptor, type: int) -> bool:
        asks = FLOCK.pack(type, os.SEEK_SET, self._start, self._length, 0)
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, asks)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise IpcError(error.errno or 5, f"the kernel's lock: {error.strerror}") from error
        return True
