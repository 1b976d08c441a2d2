"""The errors of the library, split by what the caller does next.

Every one derives from `IpcError`, which is an `OSError`: `errno` holds the number named in
the class's docstring, and the text says what was attempted, on which ID, and what to do.
Where Python has a built-in error of the same meaning, ours derives from it too, so that a
program may catch `TimeoutError` or `PermissionError` without knowing this library.
"""

from __future__ import annotations

import errno as _errno
from typing import ClassVar

__all__ = [
    "Deadlock",
    "GroupExists",
    "IdsExhausted",
    "InvalidArgument",
    "InvalidRange",
    "IpcError",
    "LeaderLost",
    "MessageTooLarge",
    "NoHandler",
    "NotFound",
    "NotJoined",
    "OwnerDied",
    "PeerDied",
    "PermissionDenied",
    "ProtocolError",
    "RemoteError",
    "Timeout",
    "WouldBlock",
    "error_for",
]


class IpcError(OSError):
    """Base of all errors of this library [EIO where nothing better fits].

    `IpcError("text")` uses the class's own errno; `IpcError(number, "text")` another one.
    """

    default_errno: ClassVar[int] = _errno.EIO

    def __new__(cls, *args: object) -> IpcError:
        return super().__new__(cls, *cls._normal(args))

    def __init__(self, *args: object) -> None:
        super().__init__(*self._normal(args))

    @classmethod
    def _normal(cls, args: tuple[object, ...]) -> tuple[object, ...]:
        """OSError sets `errno` only when it is given number and text."""
        if len(args) >= 2 and isinstance(args[0], int):
            return args
        return (cls.default_errno, *(args or (cls._summary(),)))

    @classmethod
    def _summary(cls) -> str:
        return (cls.__doc__ or cls.__name__).split("\n", 1)[0].split(" [", 1)[0]


class NotJoined(IpcError):
    """This process is in no group, or the group was closed here [ENOTCONN]."""

    default_errno = _errno.ENOTCONN


class PeerDied(IpcError, ProcessLookupError):
    """The process addressed is gone: it ended, left the group, or never was [ESRCH]."""

    default_errno = _errno.ESRCH


class Timeout(IpcError, TimeoutError):
    """The time given ran out before the call was done [ETIMEDOUT]."""

    default_errno = _errno.ETIMEDOUT


class WouldBlock(IpcError, BlockingIOError):
    """The call would have to wait, and was told not to [EAGAIN]."""

    default_errno = _errno.EAGAIN


class Deadlock(IpcError):
    """Waiting here would close a cycle of waiters [EDEADLK]."""

    default_errno = _errno.EDEADLK


class OwnerDied(IpcError):
    """The owner died while it held the value exclusively [EOWNERDEAD]."""

    default_errno = _errno.EOWNERDEAD


class IdsExhausted(IpcError):
    """Every ID up to `id_max` is in use [EAGAIN]."""

    default_errno = _errno.EAGAIN


class PermissionDenied(IpcError, PermissionError):
    """The caller may not do this [EPERM]."""

    default_errno = _errno.EPERM


class InvalidArgument(IpcError, ValueError):
    """An argument that can mean nothing here; the text says what may be given [EINVAL]."""

    default_errno = _errno.EINVAL


class InvalidRange(InvalidArgument):
    """A number out of its range, or an ID or range that the caller does not own [EINVAL]."""


class GroupExists(IpcError, FileExistsError):
    """A group of this name is alive in this runtime directory [EEXIST]."""

    default_errno = _errno.EEXIST


class ProtocolError(IpcError):
    """A message that breaks the protocol [EPROTO]."""

    default_errno = _errno.EPROTO


class MessageTooLarge(IpcError):
    """A message over `max_message` bytes [EMSGSIZE]."""

    default_errno = _errno.EMSGSIZE


class NoHandler(IpcError):
    """The receiver has no handler for this code [ENOSYS]."""

    default_errno = _errno.ENOSYS


class NotFound(IpcError, FileNotFoundError):
    """What was asked for is not there: a removed directory, an entry nobody published [ENOENT]."""

    default_errno = _errno.ENOENT


class RemoteError(IpcError):
    """The remote handler raised; the text ends with its traceback [EREMOTEIO]."""

    default_errno = _errno.EREMOTEIO


class LeaderLost(IpcError):
    """The group's leader is gone and no successor can take over [EHOSTDOWN]."""

    default_errno = _errno.EHOSTDOWN


_BY_ERRNO: dict[int, type[IpcError]] = {
    kind.default_errno: kind
    for kind in (
        NotJoined,
        PeerDied,
        Timeout,
        WouldBlock,
        Deadlock,
        OwnerDied,
        PermissionDenied,
        GroupExists,
        InvalidRange,
        ProtocolError,
        MessageTooLarge,
        NoHandler,
        NotFound,
        RemoteError,
        LeaderLost,
    )
}


def error_for(number: int, text: str) -> IpcError:
    """The error that an ERROR answer or a negative result stands for.

    `number` is a positive errno. One without a class of its own becomes a plain `IpcError`.
    """
    return _BY_ERRNO.get(number, IpcError)(number, text)
