"""The open file descriptions by which this process locks, and the handles they have in the group.

A descriptor says little of what it is: after `dup` two numbers are one description, after a
close and an open one number is another. So for each description that locks we keep a duplicate,
with which any descriptor can be compared (kcmp). It goes when nothing is held by the description
any more: after an unlocking of the whole file, or when the leader says so. What a program has
closed without unlocking is looked for now and then, so that these duplicates do not pile up.

For POSIX locks, which belong to the process and the file, we keep an O_PATH descriptor, so that
the inode is not used again meanwhile; closing that drops no lock of the kernel's, which closing a
duplicate would.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import resource
import threading
from typing import NamedTuple

from libos_ipc._native import same_file
from libos_ipc.core.lock_words import FileId, Kind

__all__ = ["Descriptions", "Place"]

log = logging.getLogger("libos_ipc")


class Place(NamedTuple):
    """What a lock request says of its file and handle. `at` is what the leader must hear first: the
    fields of HANDLE_AT, or None; `fresh` that POSIX locks of before are gone with their descriptor.
    """

    file: FileId
    handle: int
    at: tuple[int, ...] | None
    fresh: bool


class _Description:
    __slots__ = ("calls", "crossed", "duplicate", "fd", "file", "handle", "lost", "told")

    def __init__(self, file: FileId, handle: int, fd: int, duplicate: int) -> None:
        self.file = file
        self.calls = 0  # that are under way
        self.crossed = False  # several were, so that nobody here knows what came last
        self.handle = handle
        self.fd = fd
        self.duplicate = duplicate
        self.told: set[int] = set()  # the kinds by which the leader knows it
        self.lost: set[int] = set()  # those that it has forgotten during a call

    def is_of(self, fd: int) -> bool:
        """Whether `fd` is of this description."""
        try:
            me = os.getpid()
            return same_file(me, fd, me, self.duplicate)
        except OSError as error:
            if error.errno == errno.EBADF:
                return False
            _say_once(error.errno)
            return fd == self.fd


class _PosixFile:
    __slots__ = ("calls", "crossed", "fd", "keeper", "lost")

    def __init__(self, fd: int, keeper: int) -> None:
        self.calls = 0
        self.crossed = False
        self.fd = fd
        self.keeper = keeper
        self.lost: set[int] = set()


class Descriptions:
    """Of one process in one group. Any thread."""

    def __init__(self) -> None:
        #: held from `begin` until the leader has been told what follows from it
        self.telling = threading.RLock()
        self._lock = threading.Lock()
        self._of: dict[FileId, list[_Description]] = {}
        self._by_handle: dict[int, _Description] = {}
        self._posix: dict[FileId, _PosixFile] = {}
        self._last = 0
        self._sweep_at = _SWEEP_FROM

    # ---- a call

    def begin(self, fd: int, kind: Kind, vmid: int) -> Place:
        """What a request by `fd` is about; `end` follows. OSError if that is no descriptor."""
        found = os.fstat(fd)
        file = (found.st_dev, found.st_ino)
        with self._lock:
            if kind == Kind.POSIX:
                place = self._posix_place(fd, file)
                _enter(self._posix[file])
                return place
            description = next((one for one in self._of.get(file, ()) if one.is_of(fd)), None)
            if description is None:
                self._last += 1
                handle = vmid << 32 | self._last
                description = _Description(file, handle, fd, _duplicate(fd))
                self._of.setdefault(file, []).append(description)
                self._by_handle[handle] = description
            _enter(description)
            at = None
            if kind not in description.told:
                description.told.add(kind)
                at = _at(description, kind)
            return Place(file, description.handle, at, False)

    def _posix_place(self, fd: int, file: FileId) -> Place:
        known = self._posix.get(file)
        if known is not None:
            if known.fd == fd or _leads_to(known.fd, file):
                return Place(file, 0, None, False)
            known.fd = fd
        else:
            self._posix[file] = _PosixFile(fd, os.open(f"/proc/self/fd/{fd}", _KEEP))
        return Place(file, 0, (int(Kind.POSIX), 0, *file, fd, -1), known is not None)

    def end(
        self, place: Place, kind: Kind, *, freed: bool, granted: bool
    ) -> tuple[int, ...] | None:
        """The request is answered. With `freed` it has unlocked the whole file, with `granted` it
        may have locked something. What the leader must hear now: the fields of HANDLE_AT, if it may
        have forgotten by what."""
        with self._lock:
            one: _Description | _PosixFile | None = self._by_handle.get(place.handle)
            if kind == Kind.POSIX:
                one = self._posix.get(place.file)
            if one is None:
                return None
            one.calls -= 1
            crossed = one.crossed
            if not one.calls:
                one.crossed = False
            lost = kind in one.lost
            one.lost.discard(kind)
            if (freed or (lost and not granted)) and not crossed:
                self._drop(kind, place.handle, place.file)
                return None
            if isinstance(one, _Description):
                if lost:
                    return _at(one, kind)
                self._remove_unused(one)
                return None
            return (int(kind), 0, *place.file, one.fd, -1) if lost else None

    # ---- what is not needed any more

    def on_dropped(self, kind: int, handle: int, device: int, inode: int) -> None:
        """The leader's word: nothing is held by this any more. In the worker: must not block.

        A request under way may have come there after that; its end makes up for it.
        """
        with self._lock:
            one = self._by_handle.get(handle) if handle else self._posix.get((device, inode))
            if one is not None and one.calls:
                one.lost.add(kind)
            else:
                self._drop(kind, handle, (device, inode))

    def _drop(self, kind: int, handle: int, file: FileId) -> None:
        if kind == Kind.POSIX:
            posix = self._posix.pop(file, None)
            if posix is not None:
                os.close(posix.keeper)
            return
        description = self._by_handle.get(handle)
        if description is None:
            return
        description.told.discard(kind)
        self._remove_unused(description)

    def _remove_unused(self, one: _Description) -> None:
        if not one.told and not one.calls:
            del self._by_handle[one.handle]
            self._of[one.file].remove(one)
            if not self._of[one.file]:
                del self._of[one.file]
            os.close(one.duplicate)

    def closed(self) -> list[tuple[int, int, int, int]]:
        """Now and then: what was closed without unlocking, as the fields of HANDLE_CLOSED."""
        with self._lock:
            if len(self._by_handle) + len(self._posix) < self._sweep_at:
                return []
            gone: list[tuple[int, int, int, int]] = []
            for file, posix in self._posix.items():
                if not posix.calls and not _leads_to(posix.fd, file):
                    gone.append((int(Kind.POSIX), 0, *file))
            numbers: list[int] | None = None
            for handle, one in self._by_handle.items():
                if one.calls or one.is_of(one.fd):
                    continue
                numbers = numbers or [int(name) for name in os.listdir("/proc/self/fd")]
                if not any(fd != one.duplicate and one.is_of(fd) for fd in numbers):
                    gone += [(kind, handle, 0, 0) for kind in sorted(one.told)]
            there = len(self._by_handle) + len(self._posix) - len(gone)
            self._sweep_at = max(_SWEEP_FROM, 2 * there)
            return gone

    def reborn(self) -> None:
        """In a forked child: it has the descriptions, too, and none of the POSIX locks."""
        self.telling = threading.RLock()
        self._lock = threading.Lock()
        for posix in self._posix.values():
            os.close(posix.keeper)
        self._posix.clear()
        for one in self._by_handle.values():
            one.calls, one.crossed = 0, False
            one.lost.clear()

    def close(self) -> None:
        """Give all descriptors back: the process has left the group."""
        with self._lock:
            for description in self._by_handle.values():
                os.close(description.duplicate)
            for posix in self._posix.values():
                os.close(posix.keeper)
            self._by_handle.clear()
            self._of.clear()
            self._posix.clear()


@functools.cache
def _say_once(number: int | None) -> None:
    log.warning("this kernel compares no descriptors (errno %s): each number locks alone", number)


def _at(one: _Description, kind: int) -> tuple[int, ...]:
    return (int(kind), one.handle, 0, 0, one.fd, one.duplicate)


def _enter(one: _Description | _PosixFile) -> None:
    one.calls += 1
    one.crossed = one.crossed or one.calls > 1


#: Descriptions from which on it is worth looking for closed ones.
_SWEEP_FROM = 16
#: The least number of a duplicate, where so many are allowed.
_LOWEST = 4096
_KEEP = os.O_PATH | os.O_CLOEXEC


def _duplicate(fd: int) -> int:
    """A close-on-exec duplicate, out of the way of the numbers that programs get: one that took the
    number of a closed descriptor would look like that."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = _LOWEST if allowed < 0 else min(_LOWEST, allowed // 2)
    try:
        return int(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return int(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0))


def _leads_to(fd: int, file: FileId) -> bool:
    """Whether this is a descriptor of the file by which it may be locked: a keeper is none."""
    try:
        found = os.fstat(fd)
        path_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == file and not path_only
