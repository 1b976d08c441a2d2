"""Files that the leader has given to one process to lock by itself: both ends of the memory.

Each member that was ever given a file has a small file of slots in the group's directory, which the
leader makes and both map. What is done in a slot stands in native/delegation.h.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from libos_ipc._native import GONE, SLOT_BYTES, Delegation
from libos_ipc.core.delegations import SLOTS, Entry
from libos_ipc.core.lock_words import UNLOCK, FileId

if TYPE_CHECKING:
    from libos_ipc.wire import FileLock

__all__ = ["HeldFiles", "SharedSlots"]

#: A slot begins at a multiple of a cache line.
_STRIDE = -(-SLOT_BYTES // 64) * 64
_FILE_BYTES = -(-SLOTS * _STRIDE // mmap.PAGESIZE) * mmap.PAGESIZE


class _Slots:
    """The mapped slots of one member."""

    def __init__(self, path: str, flags: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        try:
            if flags & os.O_CREAT:
                os.posix_fallocate(fd, 0, _FILE_BYTES)
            self._map = mmap.mmap(fd, _FILE_BYTES)
        finally:
            os.close(fd)

    def slot(self, number: int) -> Delegation:
        """One of them, to be closed before all are."""
        return Delegation(self._map, number * _STRIDE)

    def close(self) -> None:
        """Unmap all."""
        self._map.close()


class SharedSlots:
    """The leader's end; `path_of` gives the path of a member's slots."""

    def __init__(self, path_of: Callable[[int], str]) -> None:
        self._path_of = path_of
        self._members: dict[int, tuple[_Slots, dict[int, Delegation]]] = {}

    def begin(self, vmid: int, slot: int, first: int, last: int) -> bool:
        """Give an empty slot with these numbers to the process. False if there is no memory."""
        try:
            if vmid not in self._members:
                flags = os.O_CREAT | os.O_TRUNC
                self._members[vmid] = _Slots(self._path_of(vmid), flags), {}
        except OSError:
            return False
        self._slot(vmid, slot).begin(first, last)
        return True

    def _slot(self, vmid: int, number: int) -> Delegation:
        slots, opened = self._members[vmid]
        if number not in opened:
            opened[number] = slots.slot(number)
        return opened[number]

    def recall(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        """Close the slot: what is locked in it, as its holder has written it."""
        return self._slot(vmid, slot).recall()[1]

    def look(self, vmid: int, slot: int) -> tuple[Entry, ...]:
        """What is locked in it, while the holder goes on."""
        return self._slot(vmid, slot).look()[1]

    def drop(self, vmid: int) -> None:
        """The process is gone."""
        slots, opened = self._members.pop(vmid, (None, {}))
        for slot in opened.values():
            slot.close()
        if slots is not None:
            slots.close()

    def close(self) -> None:
        """The group is over, or this is a child that a leader has forked."""
        for vmid in list(self._members):
            self.drop(vmid)


class HeldFiles:
    """The holder's end. Any thread; a slot is changed in one step, under the interpreter lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._slots: _Slots | None = None
        self._by_file: dict[FileId, Delegation] = {}
        self._opened: dict[int, tuple[FileId, Delegation]] = {}

    def open(self, slot: int, device: int, inode: int) -> None:
        """The leader has given us this file. Under the session's lock."""
        try:
            if self._slots is None:
                self._slots = _Slots(self._path, 0)
            opened = self._slots.slot(slot)
            self._by_file[device, inode] = opened
            self._opened[slot] = (device, inode), opened
        except (OSError, ValueError):
            pass  # then we go on asking the leader, who takes it back

    def close_slot(self, slot: int) -> None:
        """The leader has taken it back. Under the session's lock.

        Whoever has it in hand finds it closed: it may be another file's soon.
        """
        file, opened = self._opened.pop(slot, (None, None))
        if opened is not None and file is not None:
            opened.close()
            if self._by_file.get(file) is opened:
                del self._by_file[file]

    def serve(self, asks: FileLock) -> int | None:
        """Lock or unlock by ourselves: the number of the grant, 0 for an unlocking. None if that
        is for the leader to do."""
        slot = self._by_file.get((asks.device, asks.inode))
        if slot is None:
            return None
        try:
            if asks.type == UNLOCK:
                done = slot.give(asks.handle_id)
            else:
                done = slot.take(asks.handle_id, asks.type, asks.start, asks.end, asks.thread)
        except ValueError:
            return None  # closed by another thread
        if done == GONE:
            self._by_file.pop((asks.device, asks.inode), None)
        return done if done >= 0 else None

    def close(self) -> None:
        """Give everything back: the process has left, or this is a forked child."""
        self._by_file.clear()
        for _, opened in self._opened.values():
            opened.close()
        self._opened.clear()
        if self._slots is not None:
            self._slots.close()
            self._slots = None
