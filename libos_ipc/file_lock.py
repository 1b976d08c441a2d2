"""`group.file_lock`: a lock of a file for a `with`, fair, and between threads and tasks too."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from libos_ipc._native import Delegation, Descriptor, QuickLock, Turns
from libos_ipc.core.codes import Code
from libos_ipc.core.lock_words import (
    EOF,
    GRANTS,
    NO_WAIT,
    READ,
    UNLOCK,
    WAIT,
    WAIT_TIMED,
    WRITE,
    FileId,
)
from libos_ipc.errors import InvalidArgument, InvalidRange, IpcError, Timeout
from libos_ipc.locks import TYPE_NAMES, check_range, identify
from libos_ipc.runtime.agents import current_agent
from libos_ipc.runtime.locking import alock, lock, unlock_unheard
from libos_ipc.runtime.mirror import Mirror
from libos_ipc.wire import FileLock as Asks

if TYPE_CHECKING:
    from libos_ipc.group import Group
    from libos_ipc.runtime.session import Session

__all__ = ["FileLock", "Token"]

#: Handles of acquisitions: beside those of descriptors and of `Locks.flock`.
_ACQUISITION = 3 << 30


_Call: TypeAlias = "tuple[Session, Code, Asks, float | None]"


class Token(NamedTuple):
    """A fencing token: it grows with every grant in the group, whatever happens to its leaders.

    Whoever writes somewhere under a lock passes it along, and what has seen a greater one refuses.
    """

    epoch: int
    n: int

    @classmethod
    def of(cls, number: int) -> Self:
        """That of a grant: processes that hand a lock on may not all know the same leader."""
        return cls(number // GRANTS + 1, number % GRANTS)


class FileLock(QuickLock):
    """A lock for the time of a `with` or `async with`; may be entered again when it was left.

    Each acquisition excludes every other one: those of other processes, and of other threads and
    tasks of this one. Made by `group.file_lock`.
    """

    def __init__(
        self,
        group: Group,
        path: str | os.PathLike[str],
        shared: bool,
        start: int,
        length: int | None,
        timeout: float | None,
        mirror: bool,
    ) -> None:
        if length is not None and (not isinstance(length, int) or length <= 0):
            raise InvalidRange(f"a length of {length!r} bytes locks nothing; None is to the end")
        self._end = EOF if length is None else start + length - 1
        check_range(start, self._end)
        self._group = group
        self.path = os.fsdecode(path)
        self._start = start
        self._timeout = timeout
        self._type = READ if shared else WRITE
        self._mirror = Mirror(group._node.mirrors, start, length or 0) if mirror else None
        self._handle = 0
        self._keeper: Descriptor | None = None
        self._held = UNLOCK
        self._vmid = 0
        #: by the VMID of this process: that somebody acquires or holds it
        self._inside: dict[int, object] = {}
        self._token: Token | None = None
        self._last_call: _Call | None = None  # how to unlock what was held last

    # ---- in and out

    def acquire(self, timeout: float | None = None) -> Token:
        """Take it; WouldBlock, Timeout or Deadlock if that cannot be. `with` does this."""
        timeout = self._timeout if timeout is None else timeout
        deadline, before, me = _deadline(timeout), self._mine, object()
        try:
            if self._take(timeout):
                return self._quick_token()
            self._begin(me)
            waits_until = self._until  # from when it began to wait in turns
            return self._acquire(timeout, deadline if waits_until is None else waits_until)
        except BaseException as error:
            if self._mine not in (0, before):  # a signal handler raised when it was taken
                self.release()
            self._give_up(me, error)
            self._leave_turns()
            if isinstance(error, Timeout):  # it knows of the last part of that time only
                raise Timeout(f"{self.path!r} was not free within {timeout} s") from None
            raise

    def _acquire(self, timeout: float | None, deadline: float | None) -> Token:
        session, code, asks, left = self._call(self._type, timeout)
        if left is not None and deadline is not None:  # it may have waited in turns already
            left = max(0.0, deadline - time.monotonic())
        self._got(self._type, lock(session, code, asks, left))
        if self._mirror is not None:
            self._mirror.take(self._kept(), self._type, timeout, deadline)
        assert self._token is not None
        return self._token

    async def aacquire(self, timeout: float | None = None) -> Token:
        """`acquire` for asyncio; `async with` does this."""
        timeout = self._timeout if timeout is None else timeout
        deadline, me = _deadline(timeout), object()
        try:
            self._begin(me)
            self._got(self._type, await alock(*self._call(self._type, timeout)))
            if self._mirror is not None:
                await self._mirror.atake(self._kept(), self._type, timeout, deadline)
        except BaseException as error:
            self._give_up(me, error)
            raise
        assert self._token is not None
        return self._token

    def release(self) -> None:
        """Give it back; the next has it when this returns. Does nothing in a forked child, or if
        it is not held."""
        try:
            call = self._leave() if not self._give() and self._has else None
            if call is not None:
                lock(*call)
        except IpcError:
            pass  # closed meanwhile, or the leader is gone: nothing is held
        except BaseException:
            self._part()
            raise

    async def arelease(self) -> None:
        """`release` for asyncio; `async with` does this."""
        try:
            call = self._leave() if self._has else None
            if call is not None:
                await alock(*call)
        except IpcError:
            pass  # as above
        except BaseException:
            self._part()
            raise

    def _part(self) -> None:
        """A signal handler has raised, or a task was cancelled, in the middle of it."""
        if self._has or self._last_call is not None:
            self._leave()
            self._unlock_last()

    def _unlock_last(self) -> None:
        if self._last_call is not None:
            session, code, asks, _ = self._last_call
            unlock_unheard(session, code, asks)

    def upgrade(self, timeout: float | None = None) -> Token:
        """From shared to exclusive, without letting go in between. Deadlock if another holder
        already waits to do the same; what is held then stays shared."""
        return self._change(WRITE, timeout)

    def downgrade(self) -> Token:
        """From exclusive to shared, at once."""
        return self._change(READ, None)

    def _change(self, type: int, timeout: float | None) -> Token:
        self._hold_as_ever()
        if self._held == UNLOCK or self._vmid != self._group.vmid:
            raise InvalidArgument(f"the lock of {self.path!r} is not held here")
        if type != self._held:
            deadline = _deadline(timeout)
            before = self._held
            self._got(type, lock(*self._call(type, timeout)))
            if self._mirror is not None:
                try:
                    self._mirror.take(self._kept(), type, timeout, deadline)
                except BaseException:
                    self._got(before, lock(*self._call(before, None)))
                    raise
        assert self._token is not None
        return self._token

    @property
    def _has(self) -> bool:
        """Whether there is anything to leave, also of the process that this one was forked from."""
        return bool(self._quick) or self._held != UNLOCK

    @property
    def _ours(self) -> bool:
        """Whether that is this process's, and was not given back with the group."""
        return self._vmid == self._group.vmid and not self._group.closed

    @property
    def held(self) -> str | None:
        """`"read"`, `"write"`, or None."""
        type = UNLOCK if not self._ours else self._type if self._quick else self._held
        return None if type == UNLOCK else TYPE_NAMES[type]

    @property
    def token(self) -> Token | None:
        """The fencing token of the present acquisition."""
        if not self._ours:
            return None
        return self._quick_token() if self._quick else self._token

    # ---- without leaving C

    def _quick_token(self) -> Token:
        return Token.of(self._quick)

    def _offer_next(self, keeper: Descriptor, file: FileId) -> None:
        """If the file is ours to lock, the next acquisition needs no Python."""
        held = self._group._session.held_files
        slot: Delegation | Turns | None = held.slot((*file, False))
        if slot is None and (self._type, self._start, self._end) == (WRITE, 0, EOF):
            slot = held.turns.at(file)
        if slot is None or self._mirror is not None:
            return
        numbers, base = self._group._node.acquisitions, self._vmid << 32 | _ACQUISITION
        what = (self._type, self._start, self._end)
        try:
            name, timeout = os.fsencode(self.path), self._timeout
            self._offer(slot, name, numbers, base, file, what, keeper, timeout)
        except ValueError:
            pass  # the slot was closed just now

    def _hold_as_ever(self) -> None:
        """What was locked without leaving C cannot be given back so: we know of it from now on."""
        if self._quick:
            self._handle, number, self._keeper = self._take_over()
            self._vmid = self._handle >> 32
            self._inside[self._vmid] = object()  # not self: a cycle would keep the keeper open
            self._held = self._type
            self._token = Token.of(number)
            self._taken_over()  # last: a signal handler that raises before that changes nothing

    def _leave_turns(self) -> None:
        """Whoever of us may wait in turns still does so no more."""
        if self._asked is not None:
            handle, device, inode = self._asked
            if handle >> 32 == self._group.vmid and not self._group.closed:
                what = (1, UNLOCK, self._start, self._end, self._group.pid, handle, NO_WAIT)
                name = os.fsencode(self.path)[-4096:]
                asks = Asks(*what, name, device, inode, current_agent())
                unlock_unheard(self._group._session, Code.FILE_LOCK_TAKE, asks)
            self._settled()

    # ---- by Python

    def _begin(self, me: object) -> None:
        vmid = self._group.vmid
        if self._quick or self._waiting >> 32 == vmid:
            raise self._in_use()
        self._withdraw()  # one at a time: by Python, from here until it is left
        identify(self.path)
        self._group._session.check_open()
        if self._inside.setdefault(vmid, me) is not me:
            raise self._in_use()
        try:
            self._keeper = Descriptor.open(self.path, os.O_PATH)
        except BaseException:
            self._inside.clear()
            raise
        self._held = UNLOCK
        self._last_call = None
        self._vmid = vmid
        asked = self._asked
        if asked is not None and asked[1:] != self._file():
            self._leave_turns()  # the path leads elsewhere by now
            asked = None
        if asked is not None and asked[0] >> 32 == vmid:
            self._handle = asked[0]
        else:
            self._handle = vmid << 32 | _ACQUISITION | next(self._group._node.acquisitions)

    def _file(self) -> FileId:
        """Which file it is, as long as it is kept."""
        found = os.fstat(self._kept())
        return found.st_dev, found.st_ino

    def _kept(self) -> int:
        assert self._keeper is not None
        return self._keeper.fileno()

    def _in_use(self) -> InvalidArgument:
        return InvalidArgument(f"this lock of {self.path!r} is in use already: make another one")

    def _call(self, type: int, timeout: float | None) -> _Call:
        if timeout is not None and timeout <= 0:
            how, timeout = NO_WAIT, None
        else:
            how = WAIT if timeout is None else WAIT_TIMED
        name = os.fsencode(self.path)[-4096:]
        known = (self._group.pid, self._handle, how, name, *self._file(), current_agent())
        asks = Asks(1, type, self._start, self._end, *known)
        return self._group._session, Code.FILE_LOCK_TAKE, asks, timeout

    def _got(self, type: int, number: int) -> None:
        self._held = type
        self._token = Token.of(number)
        self._settled()

    def _leave(self) -> _Call | None:
        """Hold nothing any more, here: how to unlock, None if nothing of ours is to be unlocked."""
        self._hold_as_ever()
        try:
            keeper = self._keeper
            if keeper is None:
                return None  # or this has begun already: see `_last_call`
            ours = self._ours
            self._last_call = self._call(UNLOCK, None) if ours else None
            if self._mirror is not None and ours:
                self._mirror.release()
            self._held = UNLOCK
            self._token = None
            if ours:
                self._offer_next(keeper, self._file())
            self._keeper = None
        finally:
            self._inside.clear()  # also if a signal handler raises: nobody comes back to it
        return self._last_call

    def _give_up(self, me: object, error: BaseException) -> None:
        """The acquisition has failed, perhaps in the moment in which it succeeded. Nothing if it
        had not begun, or is another thread's."""
        if me not in self._inside.values():
            return
        held = self._held != UNLOCK
        self._leave()
        if held or not isinstance(error, IpcError):
            self._unlock_last()
        if self._asked is not None and self._asked[0] == self._handle:
            self._settled()

    async def __aenter__(self) -> Self:
        await self.aacquire()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.arelease()

    def __repr__(self) -> str:
        return f"<FileLock of {self.path!r}: {self.held or 'not held'}>"


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
