"""What members have told of themselves, kept by the leader so that anybody may ask at any time.

Which signals a process catches with handlers of the group, which of its threads have IDs, and
the entries that it publishes. All of it ends with the process. What is remembered of the dead,
for a while, is who they were: a zombie still counts as being there.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Departed", "Particulars"]

#: Processes remembered after their end.
DEPARTED_KEPT = 1024


class Departed(NamedTuple):
    """Who a process was that is gone."""

    vmid: int
    os_pid: int
    start_time: int
    uid: int


class Particulars:
    """The particulars of all processes, by VMID."""

    __slots__ = ("_threads_of", "caught", "departed", "entries", "threads")

    def __init__(self) -> None:
        self.caught: dict[int, int] = {}  # VMID -> one bit per signal number
        self.threads: dict[int, tuple[int, int]] = {}  # thread ID -> VMID, number in the kernel
        self._threads_of: dict[int, set[int]] = {}
        self.entries: dict[int, dict[str, bytes]] = {}
        self.departed: dict[int, Departed] = {}  # by pid, the oldest first

    def catch(self, vmid: int, mask: int) -> None:
        """These signals come as messages from now on."""
        if mask:
            self.caught[vmid] = mask
        else:
            self.caught.pop(vmid, None)

    def set_thread(self, vmid: int, tid: int, native: int) -> None:
        """An ID of the process names this thread of it; with `native` 0 no thread any more."""
        before, _ = self.threads.pop(tid, (0, 0))  # of another process, if the ID has moved since
        if before:
            self._threads_of[before].discard(tid)
            if not self._threads_of[before]:
                del self._threads_of[before]
        if native:
            self.threads[tid] = vmid, native
            self._threads_of.setdefault(vmid, set()).add(tid)

    def set_entry(self, vmid: int, key: str, value: bytes | None) -> None:
        """Publish an entry, or take it back with None."""
        entries = self.entries.setdefault(vmid, {})
        if value is None:
            entries.pop(key, None)
        else:
            entries[key] = value
        if not entries:
            del self.entries[vmid]

    def room(self, vmid: int) -> int:
        """Bytes that the entries of this process take."""
        return sum(len(key) + len(value) for key, value in self.entries.get(vmid, {}).items())

    def drop(self, vmid: int, pid: int, os_pid: int, start_time: int, uid: int) -> None:
        """The process is gone."""
        self.catch(vmid, 0)
        self.entries.pop(vmid, None)
        for tid in self._threads_of.pop(vmid, ()):
            del self.threads[tid]
        if os_pid:
            self.departed.pop(pid, None)
            self.departed[pid] = Departed(vmid, os_pid, start_time, uid)
            if len(self.departed) > DEPARTED_KEPT:
                del self.departed[next(iter(self.departed))]

    def inherit(self, parent: int, child: int) -> None:
        """A forked child catches what its parent does."""
        self.catch(child, self.caught.get(parent, 0))

    def state(self) -> tuple[object, ...]:
        """Comparable."""
        return (
            sorted(self.caught.items()),
            sorted(self.threads.items()),
            sorted((vmid, sorted(entries.items())) for vmid, entries in self.entries.items()),
            list(self.departed.items()),
        )

    def check(self) -> None:
        """Assert the invariants."""
        assert sum(map(len, self._threads_of.values())) == len(self.threads)
        for vmid, tids in self._threads_of.items():
            assert tids
            assert all(self.threads[tid][0] == vmid for tid in tids)
        assert all(self.entries.values())
        assert len(self.departed) <= DEPARTED_KEPT
