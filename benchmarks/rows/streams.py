"""Row 5: one-way messages of 32 bytes, a Python handler for each, or for those that came together.

What the ratios leave out: `contenders/streams.py` says it. With pyzmq nothing bounds what the
sender is ahead of the reader, with ours the group's `send_buffer` does.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "streams"
ROWS = "5"
WHAT = "one-way messages, a Python handler for each; time per message"
BATCHED = "one-way messages, handled in batches; time per message"
MANY = "one-way messages, sent 200 at a time and handled in batches; time per message"
PEERS = (("pyzmq PUSH/PULL", "pyzmq", 2.0), ("multiprocessing.SimpleQueue", "queue", 8.0))


def run(effort: Effort) -> list[Line]:
    lines = []
    for placement in placements():
        where = placement.setup()
        ours = Entry.module("ours", "streams", by="ours", **where)
        peers = {name: Entry.module(name, "streams", by=by, **where) for name, by, _ in PEERS}
        batches = Entry.module("batches", "streams", by="batches", **where)
        many = Entry.module("many", "streams", by="many", **where)
        found = compete(
            [ours, batches, many, *peers.values()], rounds=effort(5, 2), count=effort(5, 2)
        )
        lines += [
            Line(
                "5",
                WHAT,
                placement.name,
                "faster",
                target,
                ours=found["ours"].measured("message"),
                peer=found[name].measured("message"),
            )
            for name, _, target in PEERS
        ]
        lines += [
            Line(
                "5",
                what,
                placement.name,
                "faster",
                5.0,
                ours=found[by].measured("message"),
                peer=found[PEERS[0][0]].measured("message"),
            )
            for what, by in ((BATCHED, "batches"), (MANY, "many"))
        ]
    return lines
