"""Rows 8 and 10, of large numbers: the leader's machine as locks and waiters grow, and memory.

Measured as the tree of ranges of row 11 is: the same operation of the same data structure at two
sizes, in turns. Memory is that of a living group, and has no target.

What the numbers leave out: see `contenders/lock_space.py` and `contenders/lock_memory.py`.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "lock-scale"
ROWS = "8, 10"
WHAT = "thousands of locks, waiters and handles: time and memory"
HABITS = (
    ("locks", "one range unlocked, another locked", "locks", 100, 10_000),
    ("queue", "lock passed on, and asked for again", "waiters for one range", 10, 1000),
    ("ranges", "waiter gives up, and asks again", "waiters, each for his own range", 10, 1000),
)
WEIGHED = (
    ("8", "lock", 10_000, "a lock that is held"),
    ("8", "waiter", 1000, "a task that waits for a lock"),
    ("8", "pair", 10_000, "a lock taken and given back"),
    ("10", "handle", 5000, "a sync handle that is open and SHARED"),
)
PLACES = ("client", "leader", "journal")


def run(effort: Effort) -> list[Line]:
    return [*(_times(effort, *habit) for habit in HABITS), *_memory(effort)]


def _times(effort: Effort, habit: str, what: str, of: str, small: int, large: int) -> Line:
    setup = {"habit": habit, "sizes": {"small": small, "large": large}, **placements()[0].setup()}
    name = f"{large:,} {of}"
    found = compete(
        [Entry.module(name, "lock_space", **setup)], rounds=effort(8, 3), count=effort(2000, 400)
    )[name]
    return Line(
        "8",
        f"leader's file locks: {what}, {large:,} vs {small:,} {of}",
        "one process",
        "slower",
        2.5,
        ours=found.measured("large"),
        peer=replace(found.measured("small"), name=f"{small:,} {of}"),
    )


def _memory(effort: Effort) -> list[Line]:
    lines = []
    for row, what, count, words in WEIGHED:
        entry = Entry.module("ours", "lock_memory", what=what)
        found = compete([entry], rounds=1, count=effort(count, count // 5), warm_up=0)["ours"]
        lines += [
            Line(
                row,
                f"memory for {words}: {place}",
                "free",
                "added",
                None,
                ours=found.measured(f"{what}, {place}", "B", 1.0),
            )
            for place in PLACES
        ]
    return lines
