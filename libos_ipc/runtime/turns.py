"""Memory in which processes hand file locks on among themselves: the leader's end, and a member's.

Each leader has files of its own in the group's directory, made when they are needed, and known by
random numbers. No place in them is used twice, so a process that was stopped in the middle of a
step writes, when it wakes up, where nobody looks any more. What happens there stands in
native/turns.h.
"""

from __future__ import annotations

import mmap

from libos_ipc._native import TURNS_STRIDE, Turns
from libos_ipc.core.lock_passing import Found, Turn
from libos_ipc.core.lock_words import FileId
from libos_ipc.runtime.mapped_files import MappedFiles

__all__ = ["LeadersTurns", "MembersTurns"]

#: Places in a file.
PLACES = 56
_BYTES = -(-PLACES * TURNS_STRIDE // mmap.PAGESIZE) * mmap.PAGESIZE
_NOTHING = Found(False, ())


def _files(directory: str) -> MappedFiles:
    return MappedFiles(f"{directory}/turns", _BYTES)


class MembersTurns:
    """A member's end. Under the session's lock, but for `at`."""

    def __init__(self, directory: str) -> None:
        self._files = _files(directory)
        self._by_file: dict[FileId, Turns] = {}

    def open(self, where: int, place: int, me: int, device: int, inode: int) -> None:
        """The leader has told of turns for this file."""
        for file, turns in list(self._by_file.items()):
            if turns.ended():
                self._by_file.pop(file).release()
        try:
            self._by_file[device, inode] = Turns(self._files.find(where), place, me)
        except (OSError, ValueError):
            pass  # then we go on asking the leader, who ends them
        self._files.keep_only(where)

    def at(self, file: FileId) -> Turns | None:
        """Those of this file, if there are any."""
        turns = self._by_file.get(file)
        return None if turns is None or turns.ended() else turns

    def close(self) -> None:
        """The process has left, or this is a forked child."""
        for turns in self._by_file.values():
            turns.release()
        self._by_file.clear()
        self._files.keep_only(0)


class LeadersTurns:
    """The leader's end: `TurnsMemory` of the core. A successor finds what its predecessor made."""

    def __init__(self, directory: str) -> None:
        self._files = _files(directory)
        self._where = 0
        self._next = PLACES

    def begin(self, queue: tuple[Turn, ...], last: int) -> tuple[int, int] | None:
        """New ones, where the first has the lock: where. None if there is no memory."""
        try:
            if self._next == PLACES:
                self._where, self._next = self._files.make(), 0
            place = self._next
            self._next += 1
            turns = Turns(self._files.find(self._where), place, 0)
        except OSError:
            return None
        turns.begin(tuple(turn[1:] for turn in queue), last)
        return self._where, place

    def look(self, where: int, place: int) -> Found:
        """What is there, while they go on."""
        return self._read(where, place, False)

    def end(self, where: int, place: int) -> Found:
        """What is there, and nobody changes it any more."""
        return self._read(where, place, True)

    def _read(self, where: int, place: int, end: bool) -> Found:
        try:
            turns = Turns(self._files.find(where), place, 0)
        except (FileNotFoundError, ValueError):
            return _NOTHING  # with its directory, or by somebody's hand: nobody can find it
        taken, rows = turns.end() if end else turns.look()
        return Found(taken, tuple(map(Turn._make, rows)))

    def drop(self, where: int) -> None:
        """All that was begun in this file has ended."""
        if where != self._where or self._next == PLACES:
            self._files.remove(where)

    def close(self) -> None:
        """Nobody leads here any more."""
        self._files.keep_only(0)
        self._next = PLACES
