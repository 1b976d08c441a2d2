"""Row 10: a sync handle that is SHARED here already, and one that two processes change in turns.

The first sends no message, and its yardstick is a semaphore in shared memory. The second cannot
do without messages; its yardstick is what the standard library has for it.

What the ratios leave out: see `contenders/ours_sync.py`, `mp_lock.py` and `moving.py`.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import Placement, placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "sync"
ROWS = "10"
WHAT = "sync handle, SHARED already, and EXCLUSIVE to and fro"
LOCK = "multiprocessing.Lock"
MANAGER = "Manager().Value"


def run(effort: Effort) -> list[Line]:
    shared = [
        _shared(placement, effort)
        for placement in placements()
        if placement.name != "two cores"  # one process works here, and asks nobody
    ]
    return shared + [_moving(placement, effort) for placement in placements()]


def _shared(placement: Placement, effort: Effort) -> Line:
    ours = Entry.module("ours", "ours_sync", **placement.setup())
    peer = Entry.module(LOCK, "mp_lock", **placement.setup())
    found = compete([ours, peer], rounds=effort(8, 3), count=effort(50, 10))
    return Line(
        "10",
        "sync handle, SHARED already, lock and unlock",
        placement.name,
        "slower",
        3.0,
        ours=found["ours"].measured("pair"),
        peer=found[LOCK].measured("pair"),
    )


def _moving(placement: Placement, effort: Effort) -> Line:
    ours = Entry.module("ours", "moving", group=True, **placement.setup())
    peer = Entry.module(MANAGER, "moving", group=False, **placement.setup())
    found = compete([ours, peer], rounds=effort(8, 3), count=effort(300, 60))
    return Line(
        "10",
        "EXCLUSIVE moving to and fro, value changed",
        placement.name,
        "faster",
        10.0,
        ours=found["ours"].measured("moved"),
        peer=found[MANAGER].measured("moved"),
    )
