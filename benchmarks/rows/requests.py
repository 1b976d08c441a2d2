"""Rows 2 and 3: a request of 32 bytes, answered by a Python handler.

Against what the machine allows (C processes over a futex; Python processes over one, the least that
any library between them can take) and against three peers, whose handler is a Python function as
well. On two cores, and free, the wake-up of a sleeping core is most of the time, and each side may
avoid it by spinning before it sleeps: ours is therefore measured both ways, and only the spinning
one is compared with the peers.

What the ratios leave out: the peers here do less than we do. See each contender's own words.
"""

from __future__ import annotations

from benchmarks import limits
from benchmarks.model import Line
from benchmarks.placement import Placement, placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "requests"
ROWS = "2, 3"
WHAT = "request answered by a Python handler"
SPIN_S = 50e-6
PEERS = (
    ("pyzmq DEALER/ROUTER", "pyzmq_direct", 8.0),
    ("multiprocessing.Pipe", "pipe", 3.0),
    ("rpyc", "rpyc_unix", 15.0),
)


def run(effort: Effort) -> list[Line]:
    return [line for placement in placements() for line in _placed(placement, effort)]


def _placed(placement: Placement, effort: Effort) -> list[Line]:
    where = placement.setup()
    one_core = placement.name == "same core"
    peers = {name: Entry.module(name, module, **where) for name, module, _ in PEERS}
    sleeper = Entry.module("ours", "ours", config={} if one_core else {"spin": 0.0}, **where)
    spinner = Entry.module("ours, spinning", "ours", config={"spin": SPIN_S}, **where)
    still, awake = limits.futex(placement), limits.futex(placement, spinning=True)
    least = limits.python_futex(placement)
    entries = [sleeper, *peers.values(), still, least] + ([] if one_core else [spinner, awake])
    outcomes = compete(entries, rounds=effort(8, 3), count=effort(1500, 300))
    found = {name: outcome.measured() for name, outcome in outcomes.items()}

    # Spinning is for two cores: on one it would only keep the other end from running.
    best, best_limit = (sleeper, still) if one_core else (spinner, awake)
    row, words = ("2", WHAT) if one_core else ("3", f"{WHAT}, sleeping")
    ours, limit = found[sleeper.name], found[still.name]
    target = 1.6 if one_core else 1.3
    lines = [
        Line(row, words, placement.name, "slower", target, ours=ours, limit=limit),
        Line(row, words, placement.name, "slower", None, ours=ours, peer=found[least.name]),
    ]
    lines += [
        Line(
            "3",
            WHAT if one_core else f"{WHAT}, spinning",
            placement.name,
            "faster",
            faster,
            ours=found[best.name],
            peer=found[name],
            limit=found[best_limit.name],
        )
        for name, _, faster in PEERS
    ]
    return lines
