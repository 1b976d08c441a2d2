"""The standard module `fcntl`, with locks that hold in the whole group.

    from libos_ipc import fcntl         # instead of: import fcntl

`flock`, `lockf`, and the lock commands of `fcntl` go to the group that this process joined last;
everything else, and everything outside of a group, is the kernel's. Answers and errors are those of
Linux: two paths to one file meet, a lock of an open file description is shared over a fork and
`dup` and ends when the last descriptor is closed, POSIX locks belong to the process. What differs:
a real cycle of waiters is found whatever its length; closing a descriptor *other* than the one that
locked does not drop POSIX locks; processes outside the group are not kept out (see
`group.file_lock(mirror=True)`); and there is `timeout`.
"""

from __future__ import annotations

import errno
import fcntl as _kernel
import operator
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libos_ipc._native import QuickCall
from libos_ipc.core.lock_words import EOF, NO_WAIT, READ, UNLOCK, WAIT, WAIT_TIMED, WRITE, Kind
from libos_ipc.errors import InvalidRange, IpcError, NotJoined, Timeout, error_for
from libos_ipc.group import _joined, current
from libos_ipc.locks import LockInfo, query
from libos_ipc.runtime.descriptor_call import DescriptorCall

if TYPE_CHECKING:
    from libos_ipc.group import Group

__all__ = ["getlk"]
__all__ += [name for name in dir(_kernel) if not name.startswith("_")]

_Fd = Any  #: a descriptor, or something with a `fileno`

_TYPES = {_kernel.LOCK_SH: READ, _kernel.LOCK_EX: WRITE, _kernel.LOCK_UN: UNLOCK}
_F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW = 36, 37, 38
_QUERIES = {_kernel.F_GETLK: Kind.POSIX, _F_OFD_GETLK: Kind.OFD}
_SETTERS = {
    _kernel.F_SETLK: (Kind.POSIX, False),
    _kernel.F_SETLKW: (Kind.POSIX, True),
    _F_OFD_SETLK: (Kind.OFD, False),
    _F_OFD_SETLKW: (Kind.OFD, True),
}
#: struct flock: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi")
#: Bytes of an argument that the standard module takes.
_LONGEST = 1024
#: Seconds between two attempts at a lock of the kernel's, which cannot be waited for in time.
_AGAIN_S = 0.005


def flock(fd: _Fd, operation: int, /, *, timeout: float | None = None) -> None:
    """`fcntl.flock`: LOCK_SH, LOCK_EX or LOCK_UN of the open file description, perhaps LOCK_NB.

    Timeout after `timeout` seconds. Signal handlers run while it waits; one that raises ends it.
    """
    number, operation = _number(fd), _int(operation)
    group = _group()
    if group is None:
        _of_kernel(lambda op: _kernel.flock(number, op), operation, timeout)
        return
    sys.audit("fcntl.flock", number, operation)
    if operation & _kernel.LOCK_MAND:
        return  # mandatory locks are no more: Linux takes this for done
    what = operation & ~_kernel.LOCK_NB
    if what not in _TYPES:
        raise IpcError(errno.EINVAL, f"flock: {operation!r} is none of LOCK_SH, LOCK_EX, LOCK_UN")
    if _flags(number) & os.O_PATH:
        raise IpcError(errno.EBADF, "flock: the descriptor was opened with O_PATH")
    waits = not operation & _kernel.LOCK_NB
    _set(group, number, Kind.FLOCK, (_TYPES[what], 0, EOF), waits, timeout)


if not TYPE_CHECKING:
    flock = QuickCall(flock, _joined, "_quick_flocks")


def lockf(
    fd: _Fd,
    cmd: int,
    len: int = 0,
    start: int = 0,
    whence: int = 0,
    /,
    *,
    timeout: float | None = None,
) -> None:
    """`fcntl.lockf`: a POSIX lock of `len` bytes (0: to the end), perhaps with LOCK_NB.

    Timeout after `timeout` seconds. Signal handlers run while it waits; one that raises ends it.
    """
    number, cmd, whence = _number(fd), _int(cmd), _int(whence)
    group = _group()
    if group is None:
        _of_kernel(lambda op: _kernel.lockf(number, op, len, start, whence), cmd, timeout)
        return
    sys.audit("fcntl.lockf", number, cmd, len, start, whence)
    type = _lockf_type(cmd)
    first, last = _bounds(number, start, len, whence)
    _check_mode(number, type)
    waits = not cmd & _kernel.LOCK_NB
    _set(group, number, Kind.POSIX, (type, first, last), waits, timeout)


if not TYPE_CHECKING:
    lockf = QuickCall(lockf, _joined, "_quick_files")


def fcntl(fd: _Fd, cmd: int, arg: Any = 0, /) -> Any:
    """`fcntl.fcntl`. F_SETLK, F_SETLKW, F_GETLK and their OFD forms are the group's."""
    group = _group() if cmd in _SETTERS or cmd in _QUERIES else None
    data = None if group is None else _bytes_of(arg)
    if group is None or data is None:
        return _kernel.fcntl(fd, cmd, arg)
    number = _number(fd)
    sys.audit("fcntl.fcntl", number, cmd, arg)
    type, whence, start, length, pid = _FLOCK.unpack_from(data.ljust(_FLOCK.size, b"\0"))
    kind = _QUERIES[cmd] if cmd in _QUERIES else _SETTERS[cmd][0]
    _check_mode(number, UNLOCK)
    if type == UNLOCK and cmd == _kernel.F_GETLK:
        raise IpcError(errno.EINVAL, "struct flock: no lock is in the way of unlocking")
    first, last = _bounds(number, start, length, whence)
    if type not in (READ, WRITE, UNLOCK):
        raise IpcError(errno.EINVAL, f"struct flock: {type} is no type of a lock")
    if cmd in _SETTERS:
        _check_mode(number, type)
    if kind == Kind.OFD and pid:
        raise IpcError(errno.EINVAL, "struct flock: the pid must be 0 for an OFD lock")
    if cmd in _SETTERS:
        _set(group, number, kind, (type, first, last), _SETTERS[cmd][1], None)
        return data
    found = _query(group, number, kind, (type, first, last))
    if found is None:
        answer = _FLOCK.pack(UNLOCK, whence, start, length, pid)
    else:
        kept = 0 if found.end == EOF else found.end - found.start + 1
        code = READ if found.type == "read" else WRITE
        answer = _FLOCK.pack(code, os.SEEK_SET, found.start, kept, found.os_pid)
    return answer[: len(data)] + data[_FLOCK.size :]


def getlk(fd: _Fd, cmd: int, len: int = 0, start: int = 0, whence: int = 0, /) -> LockInfo | None:
    """Who would stand in the way of `lockf` with these arguments, None if nobody does.

    Outside of a group the kernel's answer: `pid` is the OS pid then, too.
    """
    number, whence = _number(fd), _int(whence)
    type = _lockf_type(_int(cmd))
    if type == UNLOCK:
        raise IpcError(errno.EINVAL, "no lock is in the way of unlocking")
    group = _group()
    if group is not None:
        _check_mode(number, UNLOCK)
        bounds = _bounds(number, start, len, whence)
        return _query(group, number, Kind.POSIX, (type, *bounds))
    asks = _FLOCK.pack(type, whence, _int(start, 64), _int(len, 64), 0) + bytes(4)
    code, _, first, kept, pid = _FLOCK.unpack_from(_kernel.fcntl(number, _kernel.F_GETLK, asks))
    if code == UNLOCK:
        return None
    last = first + kept - 1 if kept else EOF
    kind = "ofd" if pid == -1 else "posix"
    return LockInfo(kind, "read" if code == READ else "write", first, last, pid, pid)


def ioctl(*arguments: Any) -> Any:
    """`fcntl.ioctl`, the kernel's."""
    return _kernel.ioctl(*arguments)


if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Everything else is the standard module's."""

else:
    # By names of this module, since looking for one that is not there takes longer than a lock.
    globals().update({name: getattr(_kernel, name) for name in {*__all__} - {*globals()}})


# ---- arguments


def _group() -> Group | None:
    try:
        return current()
    except NotJoined:
        return None


def _number(fd: _Fd) -> int:
    """The descriptor, by the rules and with the errors of the standard library."""
    if isinstance(fd, int):
        number = fd
    elif not hasattr(fd, "fileno"):
        raise TypeError("argument must be an int, or have a fileno() method.")
    else:
        number = fd.fileno()
        if not isinstance(number, int):
            raise TypeError("fileno() returned a non-integer")
    number = _int(number)
    if number < 0:
        raise ValueError(f"file descriptor cannot be a negative integer ({number})")
    return number


def _int(value: Any, bits: int = 32) -> int:
    """What a C function takes for a whole number; TypeError, OverflowError."""
    number = operator.index(value)
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise OverflowError(f"{number} has more than {bits} bits")
    return number


def _bytes_of(arg: Any) -> bytes | None:
    """What `arg` gives of a struct, None if it is none."""
    try:
        data = arg.encode() if isinstance(arg, str) else bytes(memoryview(arg))
    except TypeError:
        return None
    if len(data) > _LONGEST:
        raise ValueError("fcntl argument too long")
    return data


def _lockf_type(cmd: int) -> int:
    if cmd == _kernel.LOCK_UN:
        return UNLOCK
    for flag in (_kernel.LOCK_SH, _kernel.LOCK_EX):
        if cmd & flag:
            return _TYPES[flag]
    raise ValueError("unrecognized lockf argument")


def _flags(fd: int) -> int:
    return int(_kernel.fcntl(fd, _kernel.F_GETFL))


def _check_mode(fd: int, type: int) -> None:
    """EBADF unless the descriptor may read for a read lock, and write for a write lock; to
    unlock, or to ask, it must only not be O_PATH."""
    flags = _flags(fd)
    mode = flags & os.O_ACCMODE
    unfit = (type == READ and mode == os.O_WRONLY) or (type == WRITE and mode == os.O_RDONLY)
    if unfit or flags & os.O_PATH:
        raise IpcError(errno.EBADF, "the descriptor is not open for this type of lock")


def _bounds(fd: int, start: int, length: int, whence: int) -> tuple[int, int]:
    """First and last byte, as the kernel reckons: EINVAL before byte 0, EOVERFLOW past the end."""
    start, length = _int(start, 64), _int(length, 64)
    if whence == os.SEEK_SET:
        base = 0
    elif whence == os.SEEK_CUR:
        base = _position(fd)
    elif whence == os.SEEK_END:
        base = os.fstat(fd).st_size
    else:
        raise IpcError(errno.EINVAL, f"whence is one of SEEK_SET, SEEK_CUR, SEEK_END, not {whence}")
    first = base + start
    if first > EOF:
        raise IpcError(errno.EOVERFLOW, "the range begins after byte 2**63-1")
    if first < 0:
        raise InvalidRange("the range begins before byte 0")
    if length > 0:
        if length - 1 > EOF - first:
            raise IpcError(errno.EOVERFLOW, "the range ends after byte 2**63-1")
        return first, first + length - 1
    if length < 0:
        if first + length < 0:
            raise InvalidRange("the range begins before byte 0")
        return first + length, first - 1
    return first, EOF


def _position(fd: int) -> int:
    try:
        return os.lseek(fd, 0, os.SEEK_CUR)
    except OSError as error:
        if error.errno == errno.ESPIPE:
            return 0
        raise


# ---- the group's locks


def _set(
    group: Group,
    fd: int,
    kind: Kind,
    what: tuple[int, int, int],
    waits: bool,
    timeout: float | None,
) -> None:
    if timeout is not None and timeout <= 0:
        waits, timeout = False, None
    how = NO_WAIT if not waits else WAIT if timeout is None else WAIT_TIMED
    with _call(group, fd, kind) as call:
        call.set(what, how, timeout)


def _query(group: Group, fd: int, kind: Kind, what: tuple[int, int, int]) -> LockInfo | None:
    with _call(group, fd, kind) as call:
        return query(group, call.asks(what, NO_WAIT))


def _call(group: Group, fd: int, kind: Kind) -> DescriptorCall:
    return DescriptorCall(group._session, group._node.descriptions, group.pid, fd, kind)


def _of_kernel(call: Callable[[int], None], operation: int, timeout: float | None) -> None:
    """The kernel's own lock; with a time-out by asking again and again."""
    if timeout is None or operation & (_kernel.LOCK_NB | _kernel.LOCK_UN):
        call(operation)
        return
    deadline = time.monotonic() + timeout
    while True:
        try:
            call(operation | _kernel.LOCK_NB)
            return
        except BlockingIOError:
            if timeout <= 0:
                raise error_for(errno.EAGAIN, "the lock is not free") from None
        left = deadline - time.monotonic()
        if left <= 0:
            raise Timeout(f"the lock was not free within {timeout} s")
        time.sleep(min(_AGAIN_S, left))
