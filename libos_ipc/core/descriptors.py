"""By which descriptors processes hold their locks, so that a closed one can be found out.

The kernel gives a lock up when its descriptor is closed, and programs rely on it. No process
tells anybody that it closes something; but when a lock stands in somebody's way, the kernel can
be asked whether the descriptor is still there. For that each process says once where it is: the
descriptor it locked by and, for locks of an open file description, a duplicate that it keeps and
by which the description is known again, whatever became of the other.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

__all__ = ["NOWHERE", "DescriptorTable", "Inspector", "Key", "Spot"]

#: (kind, handle, device, inode): of a POSIX lock the file, of others the handle, the rest is 0
Key: TypeAlias = tuple[int, int, int, int]


class Spot(NamedTuple):
    """Numbers of descriptors in one process. `duplicate` is -1 where there is none."""

    fd: int
    duplicate: int


#: Of locks by path and of acquisitions, which no descriptor ends.
NOWHERE = Spot(-1, -1)


class Inspector(Protocol):
    """What can be asked of the kernel. A process is its OS pid and start time."""

    def is_open(self, os_pid: int, start_time: int, spot: Spot, device: int, inode: int) -> bool:
        """Whether the process still has what it locked by. True where the kernel does not tell."""
        ...

    def is_same(self, os_pid: int, fd: int, other_pid: int, other_fd: int) -> bool:
        """Whether both descriptors are of one description. False where the kernel does not tell."""
        ...


class DescriptorTable:
    """Where each process has what it locks by."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[int, dict[Key, Spot]] = {}

    def put(
        self, vmid: int, kind: int, handle: int, device: int, inode: int, fd: int, duplicate: int
    ) -> None:
        """The process locks by this descriptor."""
        self._of.setdefault(vmid, {})[kind, handle, device, inode] = Spot(fd, duplicate)

    def spot(self, vmid: int, key: Key) -> Spot | None:
        """Where the process has it."""
        return self._of.get(vmid, {}).get(key)

    def names_of(self, vmid: int, key: Key) -> list[Key]:
        """All names of the same descriptor in this process: handles turn out to be one."""
        spots = self._of.get(vmid, {})
        spot = spots.get(key)
        if spot is None or spot.duplicate < 0:
            return [] if spot is None else [key]
        return [other for other, there in spots.items() if there == spot and other[0] == key[0]]

    def forget(self, vmid: int, key: Key) -> bool:
        """The process does not lock by it any more. True if it did."""
        spots = self._of.get(vmid, {})
        if spots.pop(key, None) is None:
            return False
        if not spots:
            del self._of[vmid]
        return True

    def share(self, parent: int, child: int, posix: int) -> None:
        """A forked child has the same descriptors, but none of the POSIX locks."""
        for key, spot in self._of.get(parent, {}).items():
            if key[0] != posix:
                self._of.setdefault(child, {})[key] = spot

    def drop(self, vmid: int) -> None:
        """The process is gone."""
        self._of.pop(vmid, None)

    def rename(self, old: int, new: int, posix: int) -> None:
        """The process has exec'ed and is back: what it holds as a process it still has."""
        for key, spot in self._of.get(old, {}).items():
            if key[0] == posix:
                self._of.setdefault(new, {})[key] = spot

    def state(self) -> tuple[object, ...]:
        """Comparable."""
        return tuple(sorted((vmid, sorted(spots.items())) for vmid, spots in self._of.items()))

    def check(self) -> None:
        """Assert the invariants."""
        assert all(self._of.values())
