"""For comparison: a process that holds a lock is killed; until who waits for it has it.

What it is compared with is what the kernel alone allows between three processes, in the same run
and beside the same load: see `contenders/released.py`, which also says what is left out.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "released"
ROWS = "none"
WHAT = "holder of a file lock killed, until who waits has it"
CHAIN = "pidfd and pipe"
TRANSPORTS = {"auto": "by shared memory", "zmq": "by connections"}


def run(effort: Effort) -> list[Line]:
    return [
        _line(effort, transport, words, beside)
        for beside in (0, 8)
        for transport, words in TRANSPORTS.items()
    ]


def _line(effort: Effort, transport: str, words: str, beside: int) -> Line:
    (*_, free) = placements()
    config = {"transport": transport, "fork_timeout": 1.0}
    entry = Entry.module("ours", "released", beside=beside, config=config, **free.setup())
    found = compete([entry], rounds=effort(4, 1), count=effort(10, 4))["ours"]
    ours = found.measured("lock", "ms", 1e6)
    chain = replace(found.measured("chain", "ms", 1e6), name=CHAIN)
    load = f"beside {beside} busy processes" if beside else "at rest"
    what = f"{WHAT}, {words}, {load}"
    return Line(ROWS, what, free.name, "slower", None, ours=ours, limit=chain)
