"""Row 7: the same request with ZeroMQ forced, against what one would write by hand with pyzmq.

The first peer has the same threads as we have: a worker that owns the sockets, and a dispatch
thread for handlers. The ratio to it is the price of everything a library does and a sketch does
not. The second peer is the direct exchange of two main threads, which hands a request over to
nobody: the ratio to it is the price of the threads as well.

What the ratios leave out: one request is under way at a time, so nothing is said about rates.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import Placement, placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "over-zeromq"
ROWS = "7"
WHAT = "request over ZeroMQ, Python handler"
PEERS = (
    ("pyzmq, same threads by hand", "pyzmq_threads", 1.15),
    ("pyzmq, direct", "pyzmq_direct", 1.6),
)


def run(effort: Effort) -> list[Line]:
    return [line for placement in placements() for line in _placed(placement, effort)]


def _placed(placement: Placement, effort: Effort) -> list[Line]:
    where = placement.setup()
    ours = Entry.module("ours", "ours", config={"transport": "zmq"}, **where)
    peers = [Entry.module(name, module, **where) for name, module, _ in PEERS]
    found = compete([ours, *peers], rounds=effort(10, 3), count=effort(1500, 300))
    return [
        Line(
            "7",
            WHAT,
            placement.name,
            "slower",
            target,
            ours=found["ours"].measured(),
            peer=found[name].measured(),
        )
        for name, _, target in PEERS
    ]
