"""Row 6: payloads of 1 MiB and of 64 MiB.

What the ratios leave out: `contenders/payloads.py` says it.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import Placement, placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "payloads"
ROWS = "6"
WHAT = "payloads of 1 MiB and 64 MiB, and a word back"
#: MiB, payloads that warm up, and payloads in a round.
SIZES = ((1, 40, 30), (64, 18, 2))
PEERS = (("copied through shared memory", "memory", 0.7), ("multiprocessing.Pipe", "pipe", 5.0))


def run(effort: Effort) -> list[Line]:
    return [
        line
        for placement in placements()
        if placement.name != "same core"
        for line in _placed(placement, effort)
    ]


def _placed(placement: Placement, effort: Effort) -> list[Line]:
    lines = []
    for size, warm, count in SIZES:
        setup = {"size": size << 20, "warm": warm, **placement.setup()}
        ours = Entry.module("ours", "payloads", by="ours", **setup)
        peers = {name: Entry.module(name, "payloads", by=by, **setup) for name, by, _ in PEERS}
        found = compete([ours, *peers.values()], rounds=effort(5, 2), count=effort(count, 2))
        lines += [
            Line(
                "6",
                f"payload of {size} MiB, and a word back",
                placement.name,
                "faster",
                target,
                ours=found["ours"].measured("payload"),
                peer=found[name].measured("payload"),
            )
            for name, _, target in PEERS
        ]
    return lines
