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

import contextlib
import errno
import fcntl
import functools
import itertools
import logging
import os
import resource
import threading
import weakref
from typing import NamedTuple, TypeAlias

from libos_ipc._native import Delegation, Descriptor, QuickFiles, QuickFlocks, same_file
from libos_ipc.core.codes import Code
from libos_ipc.core.descriptors import Spot
from libos_ipc.core.lock_words import FileId, Kind

__all__ = ["Descriptions", "Place", "Word"]

log = logging.getLogger("libos_ipc")

#: A call of the program's, as long as anybody has it.
Call: TypeAlias = "weakref.ref[object]"
#: A message to the leader: HANDLE_AT or HANDLE_CLOSED, and its fields.
Word: TypeAlias = tuple[Code, tuple[int, ...]]


class Place(NamedTuple):
    """What a lock request says of its file and handle, and by which descriptors it locks.

    `fresh` that POSIX locks of before are gone with their descriptor; `shared` that other processes
    may have this description, too; `turn` how often `QuickFlocks` had been emptied before.
    """

    file: FileId
    kind: Kind
    handle: int
    spot: Spot
    fresh: bool
    shared: bool
    turn: int


class _Known:
    """Something by which this process locks, a file or a description of it."""

    __slots__ = ("calls", "crossed", "fd", "lost", "told", "used")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.calls: set[Call] = set()  # that are under way, or were when a signal handler raised
        self.crossed = False  # several were, so that nobody here knows what came last
        self.used: set[int] = set()  # the kinds by which it may hold something
        self.told: set[int] = set()  # those by which the leader knows it
        self.lost: set[int] = set()  # those that it has forgotten during a call

    def enter(self, kind: int, call: Call) -> None:
        self.used.add(kind)
        self.crossed = self.crossed or self.is_busy()
        self.calls.add(call)

    def is_busy(self) -> bool:
        """Whether a call is under way. A reference, so that one that nobody could end is not."""
        self.calls = {call for call in self.calls if call() is not None}
        return bool(self.calls)

    def forget(self, kind: int) -> None:
        self.used.discard(kind)
        self.told.discard(kind)


class _Description(_Known):
    __slots__ = ("duplicate", "file", "handle", "shared")

    def __init__(self, file: FileId, handle: int, fd: int, duplicate: Descriptor) -> None:
        super().__init__(fd)
        self.file = file
        self.handle = handle
        self.shared = False
        self.duplicate = duplicate

    def close(self) -> None:
        self.duplicate.close()

    def is_of(self, fd: int) -> bool:
        """Whether `fd` is of this description."""
        duplicate = self.duplicate.fileno()
        if duplicate < 0:
            return False  # it was closed while a fork took it over from `flocks`
        try:
            me = os.getpid()
            return same_file(me, fd, me, duplicate)
        except OSError as error:
            if error.errno == errno.EBADF:
                return False
            _say_once(error.errno)
            return fd == self.fd


class _PosixFile(_Known):
    __slots__ = ("_keeper",)

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._keeper = Descriptor(fd)

    def close(self) -> None:
        self._keeper.close()


class Descriptions:
    """Of one process in one group. Any thread."""

    def __init__(self) -> None:
        self.used = False  #: anything was ever locked by a descriptor: set first of all
        #: held from `begin` until the leader has been told what follows from it
        self.telling = threading.RLock()
        self._lock = threading.Lock()
        self._of: dict[FileId, list[_Description]] = {}
        self._by_handle: dict[int, _Description] = {}
        self._posix: dict[FileId, _PosixFile] = {}
        #: those of them that are ours to lock, which `lockf` does there without us
        self.quick = QuickFiles()
        self._numbers = itertools.count(1)
        #: the same for `flock`: a description that has a lock is known there or here
        self.flocks = QuickFlocks(self._numbers, _lowest())
        self._forking = False
        self._sweep_at = _SWEEP_FROM

    # ---- a call

    def begin(self, fd: int, kind: Kind, vmid: int, call: Call) -> Place:
        """What a request by `fd` is about; `end` follows, with the same call. OSError if that is
        no descriptor."""
        found = os.fstat(fd)
        file = (found.st_dev, found.st_ino)
        with self._lock:
            if kind == Kind.POSIX:
                return self._posix_place(fd, file, call)
            turn = self.flocks.turn
            self._adopt(self.flocks.withdraw(*file))
            one = next((one for one in self._of.get(file, ()) if one.is_of(fd)), None)
            if one is None:
                handle = vmid << 32 | next(self._numbers)
                one = _Description(file, handle, fd, Descriptor(fd, _lowest()))
                self._add(one)
            one.enter(kind, call)
            spot = Spot(one.fd, one.duplicate.fileno())
            return Place(file, kind, one.handle, spot, False, one.shared, turn)

    def _add(self, one: _Description) -> None:
        self._of.setdefault(one.file, []).append(one)
        self._by_handle[one.handle] = one
        one.shared = self._forking  # read after that, so that `begin_fork` sees it or we do

    def _adopt(self, rows: list[tuple[int, int, Descriptor, int, int]]) -> None:
        """What `flocks` has withdrawn is known here now. A fork may be doing the same."""
        for handle, fd, duplicate, *file in rows:
            if handle not in self._by_handle:
                one = _Description((file[0], file[1]), handle, fd, duplicate)
                one.used.add(Kind.FLOCK)
                self._add(one)
            self.flocks.forget(handle)

    def _posix_place(self, fd: int, file: FileId, call: Call) -> Place:
        known = self._posix.get(file)
        if known is None:
            known = self._posix[file] = _PosixFile(fd)
        fresh = known.fd != fd and not _leads_to(known.fd, file)
        known.enter(Kind.POSIX, call)
        return Place(file, Kind.POSIX, 0, Spot(fd if fresh else known.fd, -1), fresh, False, 0)

    def refresh(self, place: Place) -> None:
        """What was locked by a former descriptor is given up: this is the one by now."""
        with self._lock:
            known = self._posix.get(place.file)
            if known is not None:
                known.fd = place.spot.fd
                known.told.clear()
                self.quick.forget(*place.file)

    def tell(self, place: Place) -> Word | None:
        """What the leader must hear before a request: by what it locks, if it does not know."""
        with self._lock:
            one = self._find(place)
            if one is None or place.kind in one.told:
                return None
            one.told.add(place.kind)
            return _at(place)

    def end(
        self,
        place: Place,
        call: Call,
        *,
        freed: bool,
        granted: bool,
        alone: bool,
        slot: Delegation | None = None,
    ) -> Word | None:
        """The request is answered. With `freed` it has unlocked the whole file, with `granted` it
        may have locked something; `alone` if the leader has not heard of it, and then `slot` is
        where it was done. What it must hear now: by what we lock, if it may have forgotten, or that
        this is closed."""
        with self._lock:
            one = self._find(place)
            if one is None:
                return None
            one.calls.discard(call)
            crossed = one.crossed
            if not one.is_busy():
                one.crossed = False
            lost = place.kind in one.lost
            one.lost.discard(place.kind)
            if slot is not None and not lost and self._offer(place, slot):
                return None  # known for as long as that may be locked without us
            if (freed or (lost and not granted)) and not crossed:
                left = alone and place.kind in one.told and place.handle
                self._drop(place.kind, place.handle, place.file)
                if slot is not None and not lost:
                    self._offer_flocks(place, slot)
                return (Code.HANDLE_CLOSED, (place.kind, place.handle, 0, 0)) if left else None
            if lost:
                return _at(place)
            if isinstance(one, _Description):
                self._remove_unused(one)
            return None

    def _offer(self, place: Place, slot: Delegation) -> bool:
        """Whether `lockf` may do the next by itself."""
        if place.kind != Kind.POSIX:
            return False
        try:
            return self.quick.offer(place.spot.fd, *place.file, slot)
        except ValueError:
            return False  # it was taken back just now

    def _offer_flocks(self, place: Place, slot: Delegation) -> None:
        """Have `flock` do the next by itself, but for the descriptions that are known here."""
        if place.kind != Kind.FLOCK or place.shared:
            return
        others = tuple(one.duplicate for one in self._of.get(place.file, ()))
        if len(others) > _MOST_OTHERS:
            self._sweep_at = 0  # most of them may be closed: they are looked for next time
            return
        base = place.handle >> 32 << 32
        with contextlib.suppress(ValueError):  # it was taken back just now
            self.flocks.offer(place.turn, *place.file, slot, base, others)

    def _find(self, place: Place) -> _Known | None:
        if place.kind == Kind.POSIX:
            return self._posix.get(place.file)
        return self._by_handle.get(place.handle)

    # ---- what is not needed any more

    def on_dropped(self, kind: int, handle: int, device: int, inode: int) -> None:
        """The leader's word: nothing is held by this any more. In the worker: must not block.

        A request under way may have come there after that; its end makes up for it.
        """
        with self._lock:
            one = self._by_handle.get(handle) if handle else self._posix.get((device, inode))
            if one is not None and one.is_busy():
                one.lost.add(kind)
            else:
                self.flocks.forget(handle)
                self._drop(kind, handle, (device, inode))

    def _drop(self, kind: int, handle: int, file: FileId) -> None:
        if kind == Kind.POSIX:
            self.quick.forget(*file)
            posix = self._posix.pop(file, None)
            if posix is not None:
                posix.close()
            return
        description = self._by_handle.get(handle)
        if description is None:
            return
        description.forget(kind)
        self._remove_unused(description)

    def _remove_unused(self, one: _Description) -> None:
        if not one.used and not one.is_busy():
            del self._by_handle[one.handle]
            self._of[one.file].remove(one)
            if not self._of[one.file]:
                del self._of[one.file]
            one.close()

    def closed(self) -> list[Word]:
        """Now and then: what was closed without unlocking, as the leader must hear it."""
        if len(self._by_handle) + len(self._posix) < self._sweep_at:
            return []
        with self._lock:
            gone: list[tuple[int, int, int, int]] = []
            for file, posix in self._posix.items():
                if not posix.is_busy() and not _leads_to(posix.fd, file):
                    gone.append((Kind.POSIX, 0, *file))
            numbers: list[int] = []
            for handle, one in self._by_handle.items():
                if one.is_busy() or one.is_of(one.fd):
                    continue
                numbers = numbers or [int(name) for name in os.listdir("/proc/self/fd")]
                if not any(fd != one.duplicate.fileno() and one.is_of(fd) for fd in numbers):
                    gone += [(kind, handle, *one.file) for kind in sorted(one.used)]
            for kind, handle, device, inode in gone:
                self._drop(kind, handle, (device, inode))
            self._sweep_at = max(_SWEEP_FROM, 2 * (len(self._by_handle) + len(self._posix)))
            return [(Code.HANDLE_CLOSED, each) for each in gone]

    def begin_fork(self) -> None:
        """Until `end_fork` a child may get every description that is or comes here. No lock is
        taken: this may be a signal handler's thread."""
        self._forking = True
        self._adopt(self.flocks.withdraw_all())
        for one in list(self._by_handle.values()):
            one.shared = True

    def end_fork(self) -> None:
        """Descriptions are this process's own again, those of now excepted."""
        self._forking = False

    def reborn(self) -> None:
        """In a forked child: it has the descriptions, too, and none of the POSIX locks."""
        self._forking = False
        if not self.used:
            return
        self.telling, self._lock = threading.RLock(), threading.Lock()
        self.quick.clear()
        self._adopt(self.flocks.withdraw_all())
        for posix in self._posix.values():
            posix.close()
        self._posix.clear()
        for one in self._by_handle.values():
            one.calls, one.crossed, one.shared = set(), False, True
            one.lost.clear()

    def close(self) -> None:
        """Give all descriptors back: the process has left the group."""
        with self._lock:
            self.quick.clear()
            self._adopt(self.flocks.withdraw_all())
            for description in self._by_handle.values():
                description.close()
            for posix in self._posix.values():
                posix.close()
            self._by_handle.clear()
            self._of.clear()
            self._posix.clear()


@functools.cache
def _say_once(number: int | None) -> None:
    log.warning("this kernel compares no descriptors (errno %s): each number locks alone", number)


def _at(place: Place) -> Word:
    file = place.file if place.kind == Kind.POSIX else (0, 0)
    return Code.HANDLE_AT, (place.kind, place.handle, *file, *place.spot)


#: Descriptions from which on it is worth looking for closed ones.
_SWEEP_FROM = 16
#: Descriptions of a file with which `flock` may compare each time.
_MOST_OTHERS = 4
#: The least number of a duplicate, where so many are allowed.
_LOWEST = 4096


def _lowest() -> int:
    """The least number of a duplicate, out of the way of those that programs get: one that took the
    number of a closed descriptor would look like that."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _LOWEST if allowed < 0 else min(_LOWEST, allowed // 2)


def _leads_to(fd: int, file: FileId) -> bool:
    """Whether this is a descriptor of the file by which it may be locked: a keeper is none."""
    try:
        found = os.fstat(fd)
        path_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == file and not path_only
