"""Row 8: a file lock that nobody else wants, against the kernel's and three packages.

What is compared is a lock taken and given back: `libos_ipc.fcntl.lockf` with the standard module's
of the same name, and `group.file_lock` with what the packages offer in its place. The targets are
those of a *delegated* lock, which is taken without a message; a lock that is not is a request to
the leader each time, and is given for comparison.

What the ratios leave out: see `contenders/ours_locks.py` and `contenders/lock_packages.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.model import Line
from benchmarks.placement import Placement, placements
from benchmarks.rounds import Effort, Entry, Outcome, compete

NAME = "locks"
ROWS = "8"
WHAT = "file lock taken and given back"
PACKAGES = ("filelock", "portalocker", "fasteners")
#: How many times faster than filelock; the others are measured beside it.
FASTER = {"filelock": 60.0}
KERNEL = "kernel lockf"


class Habit(NamedTuple):
    """Ours with a setting of the group, and whether it is the one that the targets are about."""

    words: str
    config: dict[str, Any]
    judged: bool


HABITS = (
    Habit("not delegated", {"lock_delegation": False}, False),
    Habit("delegated", {"lock_delegation": True}, True),
)


def run(effort: Effort) -> list[Line]:
    return [line for placement in placements() for line in _placed(placement, effort)]


def _placed(placement: Placement, effort: Effort) -> list[Line]:
    where = placement.setup()
    settings = {_name(habit): habit.config for habit in HABITS}
    ours = [Entry.module(name, "ours_locks", config=c, **where) for name, c in settings.items()]
    packages = [Entry.module(name, "lock_packages", package=name, **where) for name in PACKAGES]
    kernel = Entry.module(KERNEL, "kernel_lockf", **where)
    found = compete([*ours, *packages, kernel], rounds=effort(8, 3), count=effort(200, 40))
    return [line for habit in HABITS for line in _lines(habit, placement, found)]


def _name(habit: Habit) -> str:
    return "ours" if habit.config["lock_delegation"] else "ours, each a message"


def _lines(habit: Habit, placement: Placement, found: dict[str, Outcome]) -> list[Line]:
    ours, kernel = found[_name(habit)], found[KERNEL].measured("pair")
    target = 1.0 if habit.judged else None
    lines = [
        Line(
            "8",
            f"{words}, {habit.words}",
            placement.name,
            "slower",
            target,
            ours=ours.measured(series),
            peer=kernel,
        )
        for words, series in (
            ("lockf and unlock", "lockf"),
            ("with group.file_lock", "file_lock"),
        )
    ]
    for package in PACKAGES if habit.judged else FASTER:
        lines.append(
            Line(
                "8",
                f"with group.file_lock, {habit.words}",
                placement.name,
                "faster",
                FASTER.get(package) if habit.judged else None,
                ours=ours.measured("file_lock"),
                peer=found[package].measured("pair"),
            )
        )
    return lines
