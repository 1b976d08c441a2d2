"""Who leads which epoch, and who could, by the kernel's word: POSIX locks on bytes of one file.

    byte 0       shared by every process that may lead
    byte n       whoever leads epoch n, or is about to
    all of it    whoever founds the group, for a moment

The kernel gives a lock back when its process ends, and a forked child has none of its parent's:
so what can be seen here is never older than the processes. Nobody ever waits for a lock.

A POSIX lock goes with the first descriptor of its file that its process closes, whichever that is.
So the file is opened once in a process, however many members of the group it is (`_opened`), and
stays open as long as one of them needs it; the births of two members run at once in a forked child,
hence the guard. For the same reason a child closes what its parent had open first of all: later it
would lose the locks of its own by it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FLOCK", "LockFile"]

#: struct flock of 64-bit Linux: type, whence, start, length, pid.
FLOCK = struct.Struct("hhqqi4x")
_HEIRS = 0
_ALL = 0  # as a length: up to the end


class _Opened:
    """The descriptor of one file in this process, and what it has locked by it."""

    __slots__ = ("fd", "mine", "users")

    def __init__(self, path: str, flags: int) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        self.users = 0
        self.mine: set[int] = set()

    def is_at(self, path: str) -> bool:
        """Whether the file still lies there."""
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return False
        ours = os.fstat(self.fd)
        return (found.st_ino, found.st_dev) == (ours.st_ino, ours.st_dev)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


#: By path: open in this process.
_opened: dict[str, _Opened] = {}
#: Held to look into it, and to open and close. A thread that the fork has left behind may have it.
_guard = threading.RLock()


def _forked() -> None:
    global _guard
    _guard = threading.RLock()
    for file in _opened.values():
        file.close()
    _opened.clear()


os.register_at_fork(after_in_child=_forked)


class LockFile:
    """One user's view of the lock file at `path`, which is opened when it is first needed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: _Opened | None = None

    # ---- for whoever founds, leads, or may

    def found(self) -> bool:
        """Lead epoch 1 of a new group. False if somebody leads one here, or may."""
        while True:
            file = self._open(os.O_CREAT)
            if file.mine or not self._set(file, fcntl.F_WRLCK, 0, _ALL):
                self.close()
                return False
            if file.is_at(self._path):
                break
            self.close()  # of a group that has ended in this moment
        file.mine.add(1)
        self._set(file, fcntl.F_UNLCK, 0, 1)
        self._set(file, fcntl.F_UNLCK, 2, _ALL)
        return True

    def stand(self) -> bool:
        """Be one of those that may lead. False if another member in this process is one already:
        the kernel knows only processes."""
        file = self._open(os.O_CREAT)
        if _HEIRS in file.mine or not self._set(file, fcntl.F_RDLCK, _HEIRS, 1):
            return False
        file.mine.add(_HEIRS)
        return True

    def bid(self, epoch: int) -> int:
        """Take this epoch's lock: 0 if it is ours now, or whose it is."""
        file = self._open(os.O_CREAT)
        while not self._set(file, fcntl.F_WRLCK, epoch, 1):
            holder = self.holder(epoch)
            if holder:
                return holder
        file.mine.add(epoch)
        return 0

    def let_go(self, epoch: int) -> None:
        """Give this epoch's lock back, if it is ours."""
        file = self._file
        if file is not None and epoch in file.mine:
            file.mine.discard(epoch)
            self._set(file, fcntl.F_UNLCK, epoch, 1)

    # ---- for everybody

    def holder(self, epoch: int) -> int:
        """The OS pid of who has this epoch's lock; 0 if nobody does."""
        return os.getpid() if self._is_mine(epoch) else self._find(epoch)

    def is_there_an_heir(self) -> bool:
        """Whether a process is alive that may lead, this one included."""
        return self._is_mine(_HEIRS) or self.is_there_another_heir()

    def is_there_another_heir(self) -> bool:
        """Whether a process beside this one may lead."""
        return self._find(_HEIRS) != 0

    def close(self) -> None:
        """Give everything back that was locked in this process, if nobody else here needs the file.
        In a forked child the parent's view of it has nothing to give."""
        with _guard:
            file, self._file = self._file, None
            if file is None:
                return
            file.users -= 1
            if file.users == 0:
                if _opened.get(self._path) is file:
                    del _opened[self._path]
                file.close()

    # ---- helpers

    def _open(self, flags: int = 0) -> _Opened:
        with _guard:
            file = self._file
            if file is None:
                file = _opened.get(self._path)
                if file is None or not file.is_at(self._path):
                    file = _opened[self._path] = _Opened(self._path, flags)
                file.users += 1
                self._file = file
            return file

    @contextmanager
    def _look(self) -> Iterator[_Opened | None]:
        """The file, kept open only if it is already. None if there is none: the group has ended."""
        before = self._file
        try:
            file = self._open()
        except FileNotFoundError:
            yield None
            return
        try:
            yield file
        finally:
            if before is None:
                self.close()

    @staticmethod
    def _set(file: _Opened, kind: int, start: int, length: int) -> bool:
        wanted = FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(file.fd, fcntl.F_SETLK, wanted)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def _is_mine(self, byte: int) -> bool:
        with self._look() as file:
            return file is not None and byte in file.mine

    def _find(self, byte: int) -> int:
        """Which other process has this byte's lock, 0 for none."""
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        with self._look() as file:
            if file is None:
                return 0
            found = fcntl.fcntl(file.fd, fcntl.F_GETLK, asked)
        kind, _, _, _, os_pid = FLOCK.unpack(found)
        return 0 if kind == fcntl.F_UNLCK else os_pid
