"""A worker: a member that does one deed after the other until it is told to stop.

The board is memory that all processes of an act share: a byte for what is to be done now, and one
for each worker that says how far it is.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import sys
import time
from pathlib import Path

from libos_ipc import Group

from .deeds import Deeds
from .record import Record

__all__ = ["DONE", "GO", "LEAVE", "STOP", "Board", "work"]

GO, STOP, LEAVE = 0, 1, 2
BUSY, DONE = 0, 1


class Board:
    """What the processes of an act tell each other without the library."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._conductor = os.pidfd_open(os.getpid())

    @property
    def phase(self) -> int:
        """What is to be done. Without a conductor, who was killed perhaps, that is to leave."""
        return LEAVE if self._is_orphaned() else self._memory[0]

    def _is_orphaned(self) -> bool:
        return bool(select.select([self._conductor], [], [], 0)[0])

    @phase.setter
    def phase(self, phase: int) -> None:
        self._memory[0] = phase

    def progress(self, place: int) -> int:
        return self._memory[1 + place]

    def set_progress(self, place: int, progress: int) -> None:
        self._memory[1 + place] = progress

    def wait(self, phase: int) -> None:
        """Until that phase has come."""
        while self.phase < phase:
            time.sleep(0.005)

    def close(self) -> None:
        os.close(self._conductor)
        self._memory.close()


def work(group: Group, board: Board, place: int, seed: int, directory: Path) -> None:
    """What runs in a worker: `place` is its place on the board, `directory` that of the records."""
    record = Record(directory, lambda: group.vmid)
    record("hello", group.pid)
    deeds = Deeds(group, record, random.Random(seed), directory)
    try:
        deeds.listen()
        while board.phase == GO:
            deeds.do_one()
        deeds.finish()
        board.set_progress(place, DONE)
        board.wait(LEAVE)
        deeds.say_goodbye()
        group.close()
    except BaseException as error:
        record("unexpected", repr(error))
        board.set_progress(place, DONE)
        raise
    finally:
        sys.stdout.flush()
