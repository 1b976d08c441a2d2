"""Process groups: who is in which, and who keeps the ID that names it.

A group is named by the pid of the process that began it, and outlives that process. Its ID must
not be given out again as long as anybody is in it; so when the owner of the ID dies, or a keeper
leaves, the ID goes to another process of the group, which *keeps* it without knowing, and with
the last one it returns.

A VMID that was given out for a child of a process now gone counts as being in that process's
group: the child may be there.
"""

from __future__ import annotations

from collections.abc import Callable

from libos_ipc.core.ids import IdSpace

__all__ = ["ProcessGroups"]


class ProcessGroups:
    """The groups of all processes, by pgid. `pid_of` gives a VMID's own pid, 0 if it is gone."""

    __slots__ = ("_ids", "_pid_of", "kept", "members")

    def __init__(self, ids: IdSpace, pid_of: Callable[[int], int]) -> None:
        self._ids = ids
        self._pid_of = pid_of
        self.members: dict[int, set[int]] = {}
        #: pgid -> VMID that has the ID only for the group's sake
        self.kept: dict[int, int] = {}

    def enter(self, vmid: int, pgid: int) -> None:
        """A process, or a VMID that may be one, is in this group from now on."""
        if pgid:
            self.members.setdefault(pgid, set()).add(vmid)

    def leave(self, vmid: int, pgid: int, now: float) -> None:
        """It is not any more; it still owns its IDs, and its own pid if it lives."""
        members = self.members.get(pgid)
        if members is None or vmid not in members:
            return
        members.discard(vmid)
        if not members:
            del self.members[pgid]
        if self._ids.owner_of(pgid) != vmid or self._pid_of(vmid) == pgid:
            return
        if members:
            self.kept[pgid] = heir = min(members)
            self._ids.move(pgid, heir, now=now)
        elif self.kept.pop(pgid, 0):
            self._ids.release_range(pgid, pgid, vmid, now)

    def settle(self, vmid: int, pid: int, now: float) -> None:
        """A process is about to give all its IDs back: those that name groups go to others."""
        for pgid in sorted({pid, *(pgid for pgid, keeper in self.kept.items() if keeper == vmid)}):
            members = self.members.get(pgid, set()) - {vmid}
            if members and self._ids.owner_of(pgid) == vmid:
                self.kept[pgid] = heir = min(members)
                self._ids.move(pgid, heir, now=now)
            elif self.kept.get(pgid) == vmid:
                del self.kept[pgid]

    def state(self) -> tuple[object, ...]:
        """Comparable."""
        members = sorted((pgid, sorted(vmids)) for pgid, vmids in self.members.items())
        return members, sorted(self.kept.items())

    def check(self) -> None:
        """Assert the invariants."""
        for pgid, members in self.members.items():
            assert members, pgid
            assert self._ids.owner_of(pgid), f"nobody has the ID of process group {pgid}"
        for pgid, keeper in self.kept.items():
            assert keeper in self.members[pgid]
            assert self._ids.owner_of(pgid) == keeper
