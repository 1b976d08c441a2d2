"""Memory in which all processes of a siege count: a row of numbers, each with one writer."""

from __future__ import annotations

import mmap
from enum import IntEnum

__all__ = ["Board", "Place"]


class Place(IntEnum):
    """What is counted where."""

    STOP = 0  #: not 0: work no more
    SENT = 1  #: misdeeds of the present attacker
    DONE = 2  #: deeds of the first bystander; those of the second behind it
    WORST_NS = 4  #: the longest that one took, of either
    ATTACKER = 6  #: the VMID of the present attacker, 0 for none
    NOTED = 7  #: what the victim has noted of misdeeds
    REFUSED = 8  #: connections and lanes that the victim has refused to read on
    FAILED = 9  #: not 0: somebody met with an error that is nobody's misdeed


class Board:
    """Numbers in memory that forked children share."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self._numbers = memoryview(self._map).cast("q")

    def __getitem__(self, place: int) -> int:
        return self._numbers[place]

    def __setitem__(self, place: int, number: int) -> None:
        self._numbers[place] = number

    def close(self) -> None:
        """Give the memory back."""
        self._numbers.release()
        self._map.close()
