"""Many who ask at once, in one process: threads, and coroutines of one event loop.

What the ratios leave out: `contenders/threads.py` says it.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "threads"
ROWS = "3"
WHAT = "requests of many threads, or coroutines, of one process; time per request"
THREADS = (2, 16)
COROUTINES = (16, 256)


def run(effort: Effort) -> list[Line]:
    (*_, free) = placements()
    kinds = (("threads", THREADS), ("coroutines", COROUTINES))
    setups = {f"{many} {by}": (by, many) for by, sizes in kinds for many in (1, *sizes)}
    entries = [
        Entry.module(name, "threads", by=by, askers=many, **free.setup())
        for name, (by, many) in setups.items()
    ]
    found = compete(entries, rounds=effort(5, 2), count=effort(5, 2))
    return [
        Line(
            "3",
            f"{many} {by} that ask at once; time per request",
            free.name,
            "faster",
            1.0,
            ours=found[f"{many} {by}"].measured("request"),
            peer=found[f"1 {by}"].measured("request"),
        )
        for by, sizes in kinds
        for many in sizes
    ]
