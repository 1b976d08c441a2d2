"""Processes that use sync handles as a test tells them, one word at a time."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

from processes import Forked, Line, poll

from libos_ipc import Group, State
from libos_ipc.sync import SyncHandle

__all__ = ["EXCLUSIVE", "SHARED", "Stuck", "User", "waiting_at"]

SHARED, EXCLUSIVE = State.SHARED, State.EXCLUSIVE


class User(Forked):
    """A forked member that has one handle open. Called with a word, it does that, and the call
    gives what came of it; an error as the name of its type."""

    def __init__(self, group: Group, key: Any = "h", **more: Any) -> None:
        self._group = group

        def body(line: Line) -> None:
            handle = group.sync(key, **more)
            line.send((group.vmid, group.pid))
            while True:
                words = line.recv()
                if isinstance(words, str) or not _obey(line, handle, *words):
                    break  # the test is over, or it is told to leave
            group.close()

        super().__init__(body)
        self.vmid, self.pid = self.recv()

    def __call__(self, *words: Any) -> Any:
        self.send(words)
        return self.recv()

    def leave(self) -> None:
        """Leave the group, and end."""
        self.send(("leave",))
        self.result()

    def wait_in_line(self, *words: Any) -> None:
        """Tell it to lock, and return when the leader has it among those who wait."""
        self.send(words)
        poll(lambda: self.vmid in waiting_at(self._group))


class Stuck(User):
    """One that can be made to stick in native code, where it answers to nothing."""

    def __init__(self, group: Group, key: Any = "h", **more: Any) -> None:
        self._told, self._tell = os.pipe()
        self._wait, self._go = os.pipe()
        super().__init__(group, key, **more)
        self._stuck = False

    def stick(self) -> None:
        self.send(("stick", self._tell, self._wait))
        os.read(self._told, 1)
        self._stuck = True

    def free(self) -> None:
        os.write(self._go, b".")
        self._stuck = False
        self.recv()

    def __exit__(self, *failed: Any) -> None:
        if self._stuck:
            os.write(self._go, b".")
        super().__exit__(*failed)
        for fd in (self._told, self._tell, self._wait, self._go):
            os.close(fd)


def _obey(line: Line, handle: SyncHandle[Any], word: str, *args: Any) -> bool:
    if word == "leave":
        return False
    try:
        answer = _WORDS[word](handle, *args)
    except OSError as error:
        answer = type(error).__name__
    line.send(answer)
    return True


def _set(handle: SyncHandle[Any], value: Any) -> None:
    with handle.exclusive() as box:
        box.value = value


def _get(handle: SyncHandle[Any], timeout: float | None = None) -> Any:
    with handle.shared(timeout) as value:
        return value


def _add(handle: SyncHandle[int], times: int) -> int:
    for _ in range(times):
        with handle.exclusive() as box:
            box.value += 1
            value = box.value
    return value


def _timed(handle: SyncHandle[Any], state: State, timeout: float) -> tuple[str, float]:
    began = time.monotonic()
    try:
        handle.lock(state, timeout)
    except OSError as error:
        return type(error).__name__, time.monotonic() - began
    return "locked", time.monotonic() - began


def _stick(handle: SyncHandle[Any], tell: int, wait: int) -> None:
    """Stay in native code, with the interpreter lock in hand: no other thread runs any Python."""
    native = ctypes.PyDLL(None)
    native.write(tell, b".", 1)
    native.read(wait, ctypes.create_string_buffer(1), 1)


_WORDS: dict[str, Any] = {
    "lock": SyncHandle.lock,
    "timed": _timed,
    "unlock": SyncHandle.unlock,
    "set": _set,
    "get": _get,
    "add": _add,
    "wait": lambda handle, least: handle.wait(lambda value: value >= least),
    "state": lambda handle: handle.state,
    "version": lambda handle: handle.version,
    "close": SyncHandle.close,
    "stick": _stick,
}


def waiting_at(group: Group) -> list[int]:
    """VMIDs of those whom the leader has waiting for any handle."""
    return [vmid for row in group.sync_table() for vmid, _ in row.waiting]
