"""Rows 1 and 4: what is answered without the interpreter, and whether a busy one matters.

Row 1 is `group.ping` by a lane against what the machine allows: one C process waking another by a
futex in shared memory, and back. Row 4 compares tails: the 99th percentile of each round, while the
main thread of the process asked runs pure Python, with that while it idles; and the same of a
question to the leader while the group's founder computes, and of a handle taken from a process that
has it and does not use it.

What the numbers leave out: see `contenders/pings.py`, `leader_asked.py` and `taken.py`.
"""

from __future__ import annotations

from benchmarks import limits
from benchmarks.model import Line, Measured, Series
from benchmarks.placement import Placement, placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "native"
ROWS = "1, 4"
WHAT = "what is answered without the interpreter"
SPIN_S = 50e-6
SLOWER, SLOWER_SPINNING, SLOWER_BUSY = 1.3, 4.0, 3.0


def run(effort: Effort) -> list[Line]:
    lines = [line for placement in placements() for line in _limited(placement, effort)]
    for placement in placements():
        if placement.name == "two cores":
            lines += _busy(placement, effort)
    return lines


def _limited(placement: Placement, effort: Effort) -> list[Line]:
    one_core = placement.name == "same core"
    ways = [(False, SLOWER)] if one_core else [(False, SLOWER), (True, SLOWER_SPINNING)]
    pairs = []
    for spinning, target in ways:
        how = "" if one_core else ", spinning" if spinning else ", sleeping"
        config = {} if one_core else {"spin": SPIN_S if spinning else 0.0}
        where = placement.setup() | {"config": config, "computing": False}
        entry = Entry.module(f"ours{how}", "pings", **where)
        pairs.append((how, target, entry, limits.futex(placement, spinning=spinning)))
    entries = [entry for _, _, *both in pairs for entry in both]
    found = compete(entries, rounds=effort(8, 3), count=effort(3000, 500))
    return [
        Line(
            "1",
            f"ping, answered natively{how}",
            placement.name,
            "slower",
            target,
            ours=found[ours.name].measured(),
            limit=found[limit.name].measured(),
        )
        for how, target, ours, limit in pairs
    ]


def _busy(placement: Placement, effort: Effort) -> list[Line]:
    asked = (
        ("pings", "ping, main thread of the process asked", 3000),
        ("leader_asked", "owner of an ID asked of the leader, founder", 1000),
        ("taken", "EXCLUSIVE taken from a process that has it SHARED, and is", 200),
    )
    lines = []
    for module, what, count in asked:
        idle, busy = (
            Entry.module(name, module, **placement.setup(), computing=name == "computing")
            for name in ("idle", "computing")
        )
        found = compete([busy, idle], rounds=effort(8, 3), count=effort(count, min(count, 300)))
        lines.append(
            Line(
                "4",
                f"{what} computing: p99 of a round",
                placement.name,
                "slower",
                SLOWER_BUSY,
                ours=_tails(found[busy.name].measured()),
                peer=_tails(found[idle.name].measured()),
            )
        )
    return lines


def _tails(measured: Measured) -> Measured:
    """The 99th percentile of each round, as a series."""
    if measured.series is None:
        return measured
    rounds = measured.series.rounds
    tails = tuple((Series((values,), measured.series.unit).p99,) for values in rounds)
    return Measured(measured.name, Series(tails, measured.series.unit))
