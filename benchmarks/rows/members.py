"""Row 14: many idle members: what a request costs beside them, and the leader's memory for each.

The memory for a member is the difference of the leader's between many members and two, divided by
how many more there are: over ZeroMQ alone, and by lanes. Both ends of the request run on one core:
left free, the scheduler puts one pair on one core and the other on two, and then the ratio tells
that. What the numbers leave out: `contenders/idle_members.py` says it.
"""

from __future__ import annotations

from benchmarks.model import Line, Measured, Series
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, Outcome, compete

NAME = "members"
ROWS = "14"
WHAT = "request beside idle members, and the leader's memory for each"
FEW = 2
#: KiB for a member, by what carries its messages.
TARGETS = {"zmq": 96.0, "native": 32.0}


def run(effort: Effort) -> list[Line]:
    (same, *_) = placements()
    many = effort(500, 40)
    lines = []
    for transport, target in TARGETS.items():
        config = {"transport": transport}
        names = {members: f"{members} idle members" for members in (many, FEW)}
        entries = [
            Entry.module(name, "idle_members", members=members, config=config, **same.setup())
            for members, name in names.items()
        ]
        found = compete(entries, rounds=effort(6, 2), count=effort(500, 100))
        crowd, pair = found[names[many]], found[names[FEW]]
        lines += [
            Line(
                "14",
                f"request beside {many} idle members, {transport}",
                same.name,
                "slower",
                1.3 if transport == "native" else None,
                ours=crowd.measured("request"),
                peer=pair.measured("request"),
            ),
            Line(
                "14",
                f"leader's memory (PSS) for each of {many} members, {transport}",
                same.name,
                "added",
                target,
                ours=_for_each(crowd, pair, many - FEW),
            ),
        ]
    return lines


def _for_each(crowd: Outcome, pair: Outcome, more: int) -> Measured:
    """The leader's memory in KiB, by which it is larger with so many more members, for each."""
    large, small = (one.measured("leader", "KiB", 1.0) for one in (crowd, pair))
    if large.series is None or small.series is None:
        return Measured("ours", failure=large.failure or small.failure)
    least = small.series.p50
    rounds = tuple(tuple((value - least) / more for value in one) for one in large.series.rounds)
    return Measured("ours", Series(rounds, "KiB"))
