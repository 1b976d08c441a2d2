"""Row 9: a lock that two processes want, handed from one to the other, against two requests.

Two requests are what it cannot do without as long as a leader arbitrates: one to give the lock
back, and one to ask for it. They are those of row 2, one behind the other, measured in turns with
ours. Beside it the kernel's own blocking lock, and three packages, two of which wait by polling.

What the ratios leave out: see `contenders/handing.py`.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import Placement, placements
from benchmarks.rounds import Effort, Entry, compete
from benchmarks.rows.locks import PACKAGES

NAME = "handing"
ROWS = "9"
WHAT = "contended file lock handed from process to process"
TWO = "two requests"
KERNEL = "kernel lockf"


def run(effort: Effort) -> list[Line]:
    return [line for placement in placements() for line in _placed(placement, effort)]


def _placed(placement: Placement, effort: Effort) -> list[Line]:
    where = placement.setup()
    one_core = placement.name == "same core"
    two = Entry.module(TWO, "ours", requests=2, config={} if one_core else {"spin": 0.0}, **where)
    peers = [Entry.module(KERNEL, "handing", **where)]
    peers += [Entry.module(name, "handing", package=name, **where) for name in PACKAGES]
    ours = Entry.module("ours", "handing", group=True, **where)
    found = compete([ours, two, *peers], rounds=effort(8, 2), count=effort(240, 160))
    handed, reference = found["ours"].measured("handed over"), found[TWO].measured()
    lines = [
        Line("9", WHAT, placement.name, "slower", 1.2, ours=handed, peer=reference),
        Line(
            "9",
            "file lock taken to and fro without a pause, each time",
            placement.name,
            "slower",
            None,
            ours=found["ours"].measured("to and fro"),
            peer=reference,
        ),
    ]
    return lines + [
        Line(
            "9",
            WHAT,
            placement.name,
            "faster",
            None,
            ours=handed,
            peer=found[peer.name].measured("handed over"),
        )
        for peer in peers
    ]
