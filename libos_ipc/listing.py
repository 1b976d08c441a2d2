"""Which groups are alive, by what lies in a runtime directory; none of them is asked."""

from __future__ import annotations

import os

from libos_ipc.errors import IpcError
from libos_ipc.runtime.rundir import GroupDir, check_private, default_runtime_dir

__all__ = ["groups"]


def groups(runtime_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """The names of the groups that can be joined now, sorted.

    Alive is a group whose leader holds its lock; what dead groups left behind is passed over.
    Any process may ask, in a group or not; nothing is joined, changed or waited for.
    PermissionDenied if the runtime directory is not safely ours; one that does not exist has
    no groups.

    >>> with libos_ipc.Group.create("build"):
    ...     libos_ipc.groups()
    ['build']
    """
    directory = os.fspath(runtime_dir or default_runtime_dir())
    check_private(directory, must_exist=False)
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [name for name in names if _alive(directory, name)]


def _alive(runtime_dir: str, name: str) -> bool:
    try:
        GroupDir(runtime_dir, name).read()
    except IpcError:
        return False
    return True
