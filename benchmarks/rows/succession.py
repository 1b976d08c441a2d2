"""Row 15: the leader is killed; until every other member's next request is answered.

By then who leads next is decided, its journal read and begun, and all members have come back to it.
What the number leaves out: `contenders/leader_death.py` says it.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, compete

NAME = "succession"
ROWS = "15"
WHAT = "leader killed, until the last member has its next answer"
MEMBERS = 100
TARGET_MS = 250.0


def run(effort: Effort) -> list[Line]:
    (*_, free) = placements()
    members = effort(MEMBERS, 20)
    entry = Entry.module("ours", "leader_death", members=members, **free.setup())
    found = compete([entry], rounds=effort(2, 1), count=effort(3, 2))["ours"]
    return [
        Line(
            "15",
            f"leader killed with {members} members, one stopped, until all others have an answer",
            free.name,
            "added",
            TARGET_MS,
            ours=found.measured("answered", "ms", 1e6),
        )
    ]
