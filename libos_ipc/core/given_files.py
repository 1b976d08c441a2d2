"""Files whose locks the leader has given away: to one process each, or to some that take turns.

A part of the leader's state, changed by records alone: see `delegations.py` and `lock_passing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from libos_ipc.core.file_locks import FileLocks
from libos_ipc.core.lock_table import Place
from libos_ipc.core.lock_words import FileId

__all__ = ["GivenFiles"]


class GivenFiles:
    """Who has which file."""

    def __init__(self, locks: FileLocks) -> None:
        self._locks = locks
        #: where one process locks alone: VMID, slot, first and last number, kind, path
        self.given: dict[Place, tuple[int, int, int, int, int, bytes]] = {}
        #: slots in use, by VMID; False for one that was closed and not returned
        self.slots: dict[int, dict[int, bool]] = {}
        #: where processes take turns: file and place of the memory, first and last number, path,
        #: their VMIDs
        self.turns: dict[FileId, tuple[int, int, int, int, bytes, tuple[int, ...]]] = {}
        self.records: dict[str, Callable[..., None]] = {
            "give": self._give,
            "recall": self._recall,
            "back": self._back,
            "turns": self._begin_turns,
            "turn": self._add_turn,
            "turned": self._end_turns,
        }

    def _give(
        self,
        device: int,
        inode: int,
        flock: bool,
        vmid: int,
        slot: int,
        first: int,
        last: int,
        kind: int,
        path: bytes,
    ) -> None:
        self.given[device, inode, flock] = vmid, slot, first, last, kind, path
        self.slots.setdefault(vmid, {})[slot] = True
        self._locks.next_number = last + 1

    def _recall(self, device: int, inode: int, flock: bool) -> None:
        vmid, slot, *_ = self.given.pop((device, inode, flock))
        self.slots[vmid][slot] = False

    def _back(self, vmid: int, slot: int) -> None:
        del self.slots[vmid][slot]

    def _begin_turns(
        self,
        device: int,
        inode: int,
        where: int,
        place: int,
        first: int,
        last: int,
        path: bytes,
        vmids: Iterable[int],
    ) -> None:
        self.turns[device, inode] = where, place, first, last, path, tuple(vmids)
        self._locks.next_number = last + 1

    def _add_turn(self, device: int, inode: int, vmid: int) -> None:
        *fields, vmids = self.turns[device, inode]
        self.turns[device, inode] = *fields, (*vmids, vmid)  # type: ignore[assignment]

    def _end_turns(self, device: int, inode: int) -> None:
        del self.turns[device, inode]

    def drop(self, vmid: int) -> None:
        """This process has nothing alone any more."""
        if self.slots.pop(vmid, None) is not None:
            for place in [place for place, given in self.given.items() if given[0] == vmid]:
                del self.given[place]

    def state(self) -> tuple[object, ...]:
        """All that the journal must bring back, comparable."""
        slots = ((vmid, sorted(slots.items())) for vmid, slots in self.slots.items() if slots)
        return sorted(self.given.items()), sorted(slots), sorted(self.turns.items())

    def check(self) -> None:
        """Assert that nothing of these files stands in the table too."""
        for file in self.turns:
            assert (*file, False) not in self._locks.spaces.keys() | self.given.keys()
