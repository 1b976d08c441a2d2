"""Memory in which all processes of a siege count: a row of numbers, each with one writer."""

from __future__ import annotations

import mmap
from enum import IntEnum

__all__ = ["Board", "Place"]


class Place(IntEnum):
    """What is counted where."""

    STOP = 0  #: not 0: work no more
    FAILED = 1  #: not 0: somebody met with an error that is nobody's misdeed
    DONE = 2  #: deeds of the first bystander; those of the second behind it
    WORST_NS = 4  #: the longest that one took, of either
    SENT = 6  #: misdeeds of the present attacker of the first target; of the second behind it
    ATTACKER = 8  #: the VMID of either, 0 for none
    NOTED = 10  #: what the victim has noted of misdeeds
    REFUSED = 11  #: connections and lanes that the victim has refused to read on


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
