"""The raw operations of file locks: `group.locks`."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from libos_ipc.core.codes import LEADER, Code
from libos_ipc.core.lock_desk import ANY_PID
from libos_ipc.core.lock_words import EOF, NO_WAIT, READ, UNLOCK, WAIT, WAIT_TIMED, WRITE, Kind
from libos_ipc.errors import InvalidArgument, InvalidRange, NotFound, error_for
from libos_ipc.runtime.locking import ask_leader, lock
from libos_ipc.wire import FileLock as Asks

if TYPE_CHECKING:
    from libos_ipc.group import Group

__all__ = ["EOF", "TYPE_NAMES", "LockInfo", "Locks", "check_range", "identify", "query"]

Type = Literal["read", "write", "unlock"]
_TYPES = {"read": READ, "write": WRITE, "unlock": UNLOCK}
#: What the types of locks are called, by their numbers.
TYPE_NAMES = {value: name for name, value in _TYPES.items()}
_KINDS = {Kind.POSIX: "posix", Kind.OFD: "ofd", Kind.FLOCK: "flock", Kind.FAIR: "file_lock"}


class LockInfo(NamedTuple):
    """A lock that is held, or waited for.

    `kind` is `"posix"`, `"ofd"`, `"flock"` or `"file_lock"`, `type` `"read"` or `"write"`; `end` is
    inclusive, `EOF` for no end. `pid` is the group's and `os_pid` the kernel's; both are -1 for an
    open file description in a query, which no single process has. `handle` is 0 for POSIX locks,
    which belong to the process. `since` is how long it has been held, or waited for, in seconds.
    A `delegated` file is locked by one process without a word to anybody, until another one asks,
    or by some that hand its lock on: how long is not known then, and one that its only process has
    not locked just now has the type `"none"`.
    """

    kind: str
    type: str
    start: int
    end: int
    pid: int
    os_pid: int
    handle: int = 0
    path: str = ""
    device: int = 0
    inode: int = 0
    vmid: int = 0
    thread: int = 0
    since: float = 0.0
    waiting: bool = False
    waits_for: tuple[int, ...] = ()
    delegated: bool = False


class Locks:
    """The raw operations: locks of files by path, as Linux has them, in the whole group.

    A file is its device and inode, however it is called; it must exist. Blocking calls let signal
    handlers run, and take the waiter away if one raises.
    """

    def __init__(self, group: Group) -> None:
        self._group = group

    def posix(
        self,
        path: str | os.PathLike[str],
        type: Type,
        start: int = 0,
        end: int = EOF,
        *,
        pid: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Lock or unlock the bytes `start` … `end` for this whole process.

        Sets what is new in that range: `"write"` over one's own `"read"` upgrades it. With `wait`
        it waits for locks in the way, at most `timeout` seconds (Timeout), else WouldBlock.
        Deadlock if waiting would close a cycle; the old lock is kept then. PermissionDenied for
        another `pid` than our own. The locks end with the process, not with a descriptor.
        """
        own = self._group.pid
        pid = own if pid is None else pid
        self._set(self._fields(1, path, type, start, end, pid, 0), wait, timeout)

    def flock(
        self,
        path: str | os.PathLike[str],
        type: Type,
        handle: int,
        *,
        wait: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Lock or unlock a whole file for `handle`, any number of this process's choosing above 0.

        Two handles exclude each other, also within a process. A change of type gives up the old
        lock before it waits for the new one. Sees no POSIX lock. Ends with the process.
        """
        if not isinstance(handle, int) or not 0 < handle < 2**31:
            raise InvalidRange(f"{handle!r} is no handle: give a whole number in 1 … 2**31-1")
        # Handles of different processes are different; those of descriptors are below 2**31 too.
        number = self._group.vmid << 32 | 1 << 31 | handle
        fields = self._fields(2, path, type, 0, EOF, self._group.pid, number)
        self._set(fields, wait, timeout)

    def get(
        self,
        path: str | os.PathLike[str],
        type: Type,
        start: int = 0,
        end: int = EOF,
        *,
        pid: int | None = None,
        handle: int | None = None,
    ) -> LockInfo | None:
        """The first lock that would stand in the way of this one, None if none would.

        A POSIX lock of `pid`, any process's (by default ours), or with `handle` our own flock's.
        """
        if handle is not None:
            number = self._group.vmid << 32 | 1 << 31 | handle
            fields = self._fields(2, path, type, 0, EOF, self._group.pid, number)
        else:
            own = self._group.pid
            fields = self._fields(1, path, type, start, end, own if pid is None else pid, 0)
        return query(self._group, fields)

    def clear(self, pid: int) -> None:
        """Drop all POSIX locks of this process, in all files. PermissionDenied for another pid."""
        (result,) = self._group._session.ask_leader(Code.FILE_LOCK_CLEAR_PID, pid)
        if result:
            raise error_for(-result, f"the locks of process {pid} are not ours to drop")

    def table(self) -> list[LockInfo]:
        """All locks of the group that are held or waited for, file by file."""
        (rows,) = self._group._session.ask_leader(Code.FILE_LOCK_TABLE)
        os_pids = {member.vmid: member.os_pid for member in self._group.members()}
        return [_row(row, os_pids) for row in rows]

    def _fields(
        self,
        family: int,
        path: str | os.PathLike[str],
        type: Type,
        start: int,
        end: int,
        pid: int,
        handle: int,
    ) -> Asks:
        if type not in _TYPES:
            raise InvalidArgument(f'{type!r} is no type of a lock: "read", "write" or "unlock"')
        file = identify(path)
        check_range(start, end)
        thread = threading.get_native_id()
        name = os.fsencode(path)[-4096:]
        return Asks(family, _TYPES[type], start, end, pid, handle, 0, name, *file, thread)

    def _set(self, fields: Asks, wait: bool, timeout: float | None) -> None:
        if timeout is not None and timeout <= 0:
            wait = False
        how = NO_WAIT if not wait else WAIT if timeout is None else WAIT_TIMED
        call = lock if fields.pid == self._group.pid else ask_leader
        call(self._group._session, Code.FILE_LOCK_SET, fields._replace(wait=how), timeout)


def identify(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Device and inode of a file. NotFound, InvalidArgument if it is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"there is no file {os.fsdecode(path)!r} to lock") from error
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        raise InvalidArgument(f"{os.fsdecode(path)!r} is no file, but a pipe or a socket")
    return found.st_dev, found.st_ino


def check_range(start: int, end: int) -> None:
    """InvalidRange unless these are the first and the last of some bytes."""
    if not (isinstance(start, int) and isinstance(end, int)) or not 0 <= start <= end <= EOF:
        raise InvalidRange(
            f"bytes {start!r} … {end!r} are no range: 0 <= start <= end <= 2**63-1, both included"
        )


def query(group: Group, fields: Asks) -> LockInfo | None:
    """FILE_LOCK_GET: what is in the way."""
    session = group._session
    answer: Any = session.call(LEADER, Code.FILE_LOCK_GET, fields, None)
    _, family, type, start, end, pid, handle = answer
    if type == UNLOCK:
        return None
    kind = "flock" if family == 2 else "posix" if not handle else "file_lock"
    if pid == ANY_PID:
        return LockInfo("ofd", TYPE_NAMES[type], start, end, -1, -1, handle)
    process = session.ask_leader(Code.GET_PROCESS, pid)
    path = os.fsdecode(fields.path)
    return LockInfo(kind, TYPE_NAMES[type], start, end, pid, process[3], handle, path)


def _row(row: Any, os_pids: dict[int, int]) -> LockInfo:
    file, path, kind, type, start, end, pid, vmid, thread, *rest = row
    handle, since, waiting, waits, delegated = rest
    return LockInfo(
        _KINDS[Kind(kind)],
        TYPE_NAMES[type] if type != UNLOCK else "none",
        start,
        end,
        pid,
        os_pids.get(vmid, 0),
        handle,
        os.fsdecode(path),
        file[0],
        file[1],
        vmid=vmid,
        thread=thread,
        since=since,
        waiting=waiting,
        waits_for=tuple(pid for _, pid in waits),
        delegated=delegated,
    )
