"""Row 12: a broadcast, until the last member has it.

What the ratio leaves out: `contenders/broadcasts.py` says it.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "broadcasts"
ROWS = "12"
WHAT = "broadcast, until the last member has handled it"
PEER = "pyzmq PUB/SUB"


def run(effort: Effort) -> list[Line]:
    (*_, free) = placements()
    setup = {"members": effort(100, 20), **free.setup()}
    entries = [
        Entry.module("ours", "broadcasts", by="ours", **setup),
        Entry.module(PEER, "broadcasts", by="pyzmq", **setup),
    ]
    found = compete(entries, rounds=effort(6, 2), count=effort(30, 5))
    return [
        Line(
            "12",
            f"broadcast to {setup['members']} members, until the last has handled it",
            free.name,
            "faster",
            2.0,
            ours=found["ours"].measured("broadcast"),
            peer=found[PEER].measured("broadcast"),
        )
    ]
