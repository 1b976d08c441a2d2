"""Memory in which a process leaves what it has of sync handles and does not use: both ends of it.

Each member that has a handle open has a small file of such words in the group's directory, which it
makes, and maps; the leader maps it when it has to take something there first. What is done in one
stands in native/deposit.h, and what that is good for in `core/sync_deposits.py`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

from libos_ipc._native import (
    DEPOSIT_BYTES,
    DEPOSIT_CELLS,
    DEPOSIT_PROBES,
    NO_SLAB,
    Deposit,
    find_deposit,
    lower_deposit,
)
from libos_ipc.core.sync_deposits import Taken
from libos_ipc.core.sync_words import State
from libos_ipc.runtime.mapped_files import map_file
from libos_ipc.runtime.slabs import open_slab, read_record

__all__ = ["MOST_MAPPED", "LeadersDeposits", "MembersDeposits"]

#: Members whose memory the leader has mapped at a time: each costs it a descriptor.
MOST_MAPPED = 64


class MembersDeposits:
    """A member's end. Under the session's lock; `epoch` tells whose member it is."""

    def __init__(self, path: str, epoch: Callable[[], int]) -> None:
        self._path = path
        self._epoch = epoch
        self._table: mmap.mmap | None = None
        self._opened: dict[int, tuple[int, Deposit]] = {}  # handle -> its place, and what is there
        self._taken: set[int] = set()

    def open(self, id: int) -> Deposit | None:
        """Where this handle is put in the present epoch, from which nothing is put yet; None if
        there is no memory for that."""
        index = self._give_up(id)
        try:
            if self._table is None:
                self._table = map_file(self._path, DEPOSIT_BYTES, os.O_CREAT | os.O_TRUNC)
        except OSError:
            return None
        if index is None:
            near = ((id + probe) % DEPOSIT_CELLS for probe in range(DEPOSIT_PROBES))
            index = next((each for each in near if each not in self._taken), None)
        if index is None:
            return None
        opened = Deposit(self._table, index, id, self._epoch())
        self._taken.add(index)
        self._opened[id] = index, opened
        return opened

    def forget(self, id: int) -> None:
        """The handle is closed; it had been taken back before that."""
        index = self._give_up(id)
        if index is not None:
            self._taken.discard(index)

    def _give_up(self, id: int) -> int | None:
        index, opened = self._opened.pop(id, (None, None))
        if opened is not None:
            opened.release()
        return index

    def close(self) -> None:
        """The process has left, or this is a forked child: what is there is not touched."""
        for _, opened in self._opened.values():
            opened.release()
        self._opened.clear()
        self._taken.clear()
        if self._table is not None:
            self._table.close()
            self._table = None


class LeadersDeposits:
    """The leader's end: `Deposits` of the core. Both functions give paths by VMID, of the deposits
    and of the slabs."""

    def __init__(self, path_of: Callable[[int], str], slabs_of: Callable[[int], str]) -> None:
        self._path_of = path_of
        self._slabs_of = slabs_of
        self._tables: dict[int, mmap.mmap] = {}  # by VMID; the one used last is the last

    def lower(self, epoch: int, vmid: int, id: int, state: int, to: int) -> Taken | None:
        """Leave only `to` where this process has put `state` of the handle, in this epoch. None if
        it has not put that, or we could not read what lies there."""
        table = self._table(vmid)
        slab = None if table is None else find_deposit(table, id, epoch, state)
        if slab is None:
            return None
        if state < State.EXCLUSIVE or slab == NO_SLAB:  # nothing to be read
            lowered = lower_deposit(table, id, epoch, state, slab, to)
            return None if lowered is None else Taken(None, lowered[1])
        try:
            fd = open_slab(self._slabs_of(vmid), slab)  # first: what was taken must be read
        except OSError:
            return None
        try:
            lowered = lower_deposit(table, id, epoch, state, slab, to)
            if lowered is None:
                return None
            where, over = lowered
            return Taken(None if where < 0 else read_record(fd, where, id).value, over)
        finally:
            os.close(fd)

    def _table(self, vmid: int) -> mmap.mmap | None:
        table = self._tables.pop(vmid, None)
        if table is None:
            try:
                table = map_file(self._path_of(vmid), DEPOSIT_BYTES)
            except (OSError, ValueError):
                return None
            if len(self._tables) >= MOST_MAPPED:
                self.drop(next(iter(self._tables)))
        self._tables[vmid] = table
        return table

    def drop(self, vmid: int) -> None:
        """The process is gone."""
        table = self._tables.pop(vmid, None)
        if table is not None:
            table.close()

    def close(self) -> None:
        """Nobody leads here any more."""
        for vmid in list(self._tables):
            self.drop(vmid)
