"""Row 11: IDs in a member that is not the leader, and the leader's tree of ranges as it grows.

The yardstick for a new ID and its release is one lock and unlock of a file by the kernel, the
cheapest arbiter that processes have without a library. For the tree it is the tree itself, a
thousand times smaller.

What the ratios leave out: see `contenders/ours_ids.py` and `contenders/id_space.py`.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "ids"
ROWS = "11"
WHAT = "IDs in a member, and the leader's tree of ranges"
SMALL = 10**3
HABITS = (
    ("at once", "new ID and its release, at once"),
    ("held", "new ID and its release, 1000 held"),
)


def run(effort: Effort) -> list[Line]:
    return [*_in_a_member(effort), _in_the_leader(effort)]


def _in_a_member(effort: Effort) -> list[Line]:
    lines = []
    for placement in placements():
        if placement.name == "two cores":
            continue  # one process works here; the leader, where it is asked, goes where we are
        ours = Entry.module("ours", "ours_ids", **placement.setup())
        kernel = Entry.module("kernel lockf", "kernel_lockf", **placement.setup())
        found = compete([ours, kernel], rounds=effort(6, 3), count=effort(40, 8))
        lines += [
            Line(
                "11",
                what,
                placement.name,
                "slower",
                1.0,
                ours=found["ours"].measured(series),
                peer=found["kernel lockf"].measured("pair"),
            )
            for series, what in HABITS
        ]
    return lines


def _in_the_leader(effort: Effort) -> Line:
    large = effort(10**6, 10**5)
    sizes = {"small": SMALL, "large": large}
    tree = Entry.module(f"{large:,} ranges", "id_space", sizes=sizes, **placements()[0].setup())
    found = compete([tree], rounds=effort(8, 3), count=effort(2000, 400))[tree.name]
    small = found.measured("small")
    return Line(
        "11",
        f"leader's tree: range released, another given, {large:,} vs {SMALL:,} ranges",
        "one process",
        "slower",
        2.5,
        ours=found.measured("large"),
        peer=replace(small, name=f"{SMALL:,} ranges"),
    )
