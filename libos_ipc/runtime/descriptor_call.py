"""A request for a lock by a descriptor: from what the program gives to whoever decides on it.

That is this process alone, where the leader has given it the file; otherwise the leader, which must
know first by what we lock, so that it can find out when that is closed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from types import TracebackType
from typing import Self

from libos_ipc._native import Delegation
from libos_ipc.core.codes import LEADER, Code
from libos_ipc.core.lock_desk import ANY_PID
from libos_ipc.core.lock_words import EOF, UNLOCK, FileId, Kind
from libos_ipc.errors import IpcError
from libos_ipc.runtime.descriptions import Descriptions, Word
from libos_ipc.runtime.held_files import Locker, What
from libos_ipc.runtime.locking import ask_leader
from libos_ipc.runtime.session import Session
from libos_ipc.wire import FileLock as Asks

__all__ = ["DescriptorCall"]

_ALL_FREE: What = (UNLOCK, 0, EOF)


class DescriptorCall:
    """One call of the program's, for as long as it lasts. OSError if `fd` is no descriptor."""

    def __init__(
        self, session: Session, descriptions: Descriptions, pid: int, fd: int, kind: Kind
    ) -> None:
        self._session = session
        self._descriptions = descriptions
        self._pid = pid
        self._fd = fd
        self._freed = False  # the whole file was unlocked
        self._locks = False  # this asks for a lock
        self._alone = False  # the leader has not heard of it
        self._slot: Delegation | None = None  # where that was done
        # What was closed is given up before other threads ask for anything by the same file.
        descriptions.used = True
        with descriptions.telling:
            self._place = descriptions.begin(fd, kind, session.member.vmid, weakref.ref(self))
            try:
                self._give_up_what_is_closed()
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise

    def __enter__(self) -> Self:
        return self

    def set(self, what: What, how: int, timeout: float | None) -> None:
        """Lock or unlock a range; `how` it waits is one of NO_WAIT, WAIT and WAIT_TIMED.

        WouldBlock, Deadlock, Timeout.
        """
        self._locks = what[0] != UNLOCK
        if self._set_alone(what, how):
            return
        ask_leader(self._session, Code.FILE_LOCK_SET, self.asks(what, how), timeout)
        self._freed = what == _ALL_FREE

    def _set_alone(self, what: What, how: int) -> bool:
        file, kind, handle, spot, _, shared, _ = self._place
        locker = Locker(file, kind, handle, threading.get_native_id(), spot)
        held = self._session.held_files
        if shared or not held.has(locker.place):
            return False
        self._slot = held.slot(locker.place)
        self._alone = held.serve(locker, what, how, self._path) is not None
        if not self._alone:
            self._slot = None
        if self._alone and not self._locks:
            self._freed = what == _ALL_FREE or held.is_free_of(locker)
        return self._alone

    def asks(self, what: What, how: int) -> Asks:
        """The request in the leader's words, which hears first by what we lock."""
        with self._descriptions.telling:
            word = self._descriptions.tell(self._place)
            if word is not None:
                self._send(word)
        file, kind, handle, *_ = self._place
        pid = ANY_PID if kind == Kind.OFD else self._pid
        family = 2 if kind == Kind.FLOCK else 1
        type, start, end = what
        known = how, self._path(), *file, threading.get_native_id()
        return Asks(family, type, start, end, pid, handle, *known)

    def _give_up_what_is_closed(self) -> None:
        """When this returns, nothing of it can meet what is locked from now on."""
        sent = False
        for word in self._descriptions.closed():
            kind, _, *file = word[1]
            if kind != Kind.POSIX or not self._free_alone((file[0], file[1])):
                self._send(word)
                sent = sent or kind == Kind.POSIX
        if self._place.fresh and not self._free_alone(self._place.file):
            gone = Asks(1, *_ALL_FREE, self._pid, 0, 0, b"", *self._place.file, 1)
            session = self._session
            session.send(LEADER, Code.FILE_LOCK_SET, gone)
            sent = True
        if sent and self._session.config.lock_delegation:
            self._session.fence()
        if self._place.fresh:
            self._descriptions.refresh(self._place)

    def _free_alone(self, file: FileId) -> bool:
        """Whether we could give up our POSIX locks of a file without the leader."""
        locker = Locker(file, Kind.POSIX, 0, threading.get_native_id())
        return self._session.held_files.set(locker, _ALL_FREE) is not None

    def _path(self) -> bytes:
        return os.fsencode(os.readlink(f"/proc/self/fd/{self._fd}"))[-4096:]

    def _send(self, word: Word) -> None:
        session = self._session
        session.send(LEADER, *word)

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        granted = self._locks and not isinstance(error, IpcError)
        end = self._descriptions.end
        with self._descriptions.telling:
            word = end(
                self._place,
                weakref.ref(self),
                freed=self._freed,
                granted=granted,
                alone=self._alone,
                slot=self._slot,
            )
            if word is None:
                return
            try:
                self._send(word)
            except IpcError:
                return  # the group was closed meanwhile
        if word[0] == Code.HANDLE_AT:
            with contextlib.suppress(IpcError):
                self._session.fence()
