"""The part of `Group` by which processes share files and values: locks, and sync handles."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from libos_ipc.file_lock import FileLock
    from libos_ipc.group import Group
    from libos_ipc.locks import Locks
    from libos_ipc.sync import SyncHandle, SyncInfo

__all__ = ["Sharing"]


class Sharing:
    """The part of `Group` that locks files and shares values."""

    locks: Locks

    def _group(self) -> Group:
        return cast("Group", self)

    def file_lock(
        self,
        path: str | os.PathLike[str],
        *,
        shared: bool = False,
        start: int = 0,
        length: int | None = None,
        timeout: float | None = None,
        mirror: bool = False,
    ) -> FileLock:
        """A lock of a file, or of `length` bytes of it, for a `with` or an `async with`.

        Fair: nobody who comes later passes one that waits. It excludes other threads and tasks
        of this process like other processes; the same one asking again gets Deadlock, and so does
        whoever would close a longer cycle, of whatever locks. `timeout` bounds each waiting
        (Timeout; with 0 WouldBlock at once). The file must exist (NotFound). With `mirror` it
        holds the kernel's own lock as well, so that programs outside of the group are kept out;
        these are waited for by polling. `.token` is the fencing token, `.upgrade()` and
        `.downgrade()` change between shared and exclusive.

        >>> with group.file_lock(path) as lock:
        ...     assert lock.token.n > 0
        """
        from libos_ipc.file_lock import FileLock

        return FileLock(self._group(), path, shared, start, length, timeout, mirror)

    def sync(
        self,
        key: int | str | None = None,
        *,
        type: Any = bytes,
        on_owner_death: Literal["last", "raise"] = "last",
    ) -> SyncHandle[Any]:
        """Open a value that all processes share: by name, by ID, or, with neither, a new one.

        `type` is any type that msgspec encodes, the same for all who open it (InvalidArgument
        otherwise). If the one who changes it dies in the middle, the next one has what was
        committed last; with `on_owner_death="raise"` OwnerDied first. Asks the leader.

        >>> counter = group.sync("counter", type=int)
        >>> with counter.exclusive() as box:
        ...     box.value += 1
        """
        from libos_ipc.sync import open_sync

        return open_sync(self._group(), key, type, on_owner_death)

    def sync_table(self) -> list[SyncInfo]:
        """All shared values that anybody has open. Asks the leader."""
        from libos_ipc.sync import sync_table

        return sync_table(self._group())
