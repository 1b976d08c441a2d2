"""Files of the group's directory that several processes have mapped.

Some are known by a path, others by a random number, so that the files of two leaders are never
taken for one another's.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

from libos_ipc._native import Descriptor

__all__ = ["MappedFiles", "map_file"]


def map_file(path: str, size: int, flags: int = 0) -> mmap.mmap:
    """Map this file; with O_CREAT among the flags it is made, with room for all of it. OSError,
    ValueError if it is too short. Does not block, whatever lies there."""
    file = Descriptor.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags)
    if flags & os.O_CREAT:
        os.posix_fallocate(file.fileno(), 0, size)
    return mmap.mmap(file.fileno(), size)


class MappedFiles:
    """Those that are known by numbers, all of one size, as far as they are mapped here."""

    def __init__(self, prefix: str, size: int) -> None:
        self._prefix = prefix
        self._size = size
        self._maps: dict[int, mmap.mmap] = {}

    def make(self) -> int:
        """A new one: its number. OSError."""
        where = int.from_bytes(os.urandom(4))
        try:
            self._map(where, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise  # somebody's
        except OSError:
            self.remove(where)
            raise
        return where

    def find(self, where: int) -> mmap.mmap:
        """The one of this number. OSError, ValueError if it is too short."""
        return self._maps.get(where) or self._map(where, 0)

    def _map(self, where: int, flags: int) -> mmap.mmap:
        self._maps[where] = mapped = map_file(self._path(where), self._size, flags)
        return mapped

    def _path(self, where: int) -> str:
        return f"{self._prefix}-{where:08x}"

    def keep_only(self, where: int) -> None:
        """Of all others nothing new is wanted. They stay mapped as long as anybody has any."""
        for number in [number for number in self._maps if number != where]:
            self._unmap(number)

    def _unmap(self, where: int) -> None:
        with suppress(KeyError, BufferError):  # it goes with the last that has any of it
            self._maps.pop(where).close()

    def remove(self, where: int) -> None:
        """Nobody will look for this one any more."""
        self._unmap(where)
        with suppress(OSError):  # the group ends, or another leader has done it
            os.unlink(self._path(where))

    def close(self) -> None:
        """Unmap all, of which nothing is in hand."""
        for mapped in self._maps.values():
            mapped.close()
        self._maps.clear()
