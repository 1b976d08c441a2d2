"""Row 13: what a group adds to `os.fork`: time, silence towards others, memory.

Outside a group `os.fork` copies the caller's tables and is done. Inside, the child has joined
when it returns, and the caller's threads, which do not survive a fork, have been stopped and made
again. The target for time is a difference, not a ratio, as is that for memory.

What the numbers leave out: see `contenders/forking.py`, `silence.py` and `resident.py`.
"""

from __future__ import annotations

from benchmarks.model import Line
from benchmarks.placement import placements
from benchmarks.rounds import Effort, Entry, Outcome, compete

NAME = "forks"
ROWS = "13"
WHAT = "os.fork inside a group: time, silence, memory"
ADDED_MS = 1.5
SILENT_MS = 2.0
ADDED_MIB = 3.0


def run(effort: Effort) -> list[Line]:
    return [*_times(effort), *_silences(effort), *_memory(effort)]


def _times(effort: Effort) -> list[Line]:
    lines = []
    for placement in placements():
        ours = Entry.module("ours", "forking", group=True, **placement.setup())
        plain = Entry.module("outside", "forking", group=False, **placement.setup())
        found = compete([ours, plain], rounds=effort(6, 2), count=effort(25, 8))
        lines += [
            Line(
                "13",
                f"os.fork until it returns in the {where}, added",
                placement.name,
                "added",
                ADDED_MS,
                ours=found["ours"].measured(where, "ms", 1e6),
                peer=found["outside"].measured(where, "ms", 1e6),
            )
            for where in ("parent", "child")
        ]
    return lines


def _silences(effort: Effort) -> list[Line]:
    lines = []
    for placement in placements():
        entry = Entry.module("ours", "silence", **placement.setup())
        found = compete([entry], rounds=effort(3, 1), count=effort(15, 8))["ours"]
        quiet = found.measured("quiet", "ms", 1e6).series
        hiccups = f"{quiet.p50:.2f} ms" if quiet else "not measured"
        lines.append(
            Line(
                "13",
                "no answer from a member that forks",
                placement.name,
                "added",
                SILENT_MS,
                ours=found.measured("around", "ms", 1e6),
                notes=(f"Silence without a fork, same span ({placement.name}): {hiccups}.",),
            )
        )
    return lines


def _memory(effort: Effort) -> list[Line]:
    kinds = {"group": "ours", "plain": "child of plain Python", "imported": "child after import"}
    found = {kind: Outcome(name) for kind, name in kinds.items()}
    for _ in range(effort(3, 1)):
        entries = [Entry.module(name, "resident", kind=kind) for kind, name in kinds.items()]
        once = compete(entries, rounds=1, count=1, warm_up=0)
        for kind, name in kinds.items():
            found[kind].failure = found[kind].failure or once[name].failure
            for series, rounds in once[name].rounds.items():
                found[kind].rounds.setdefault(series, []).extend(rounds)
    ours, plain, imported = (found[kind].measured("pss", "MiB", 1024.0) for kind in kinds)
    what = "memory (PSS) of a forked member, added"
    return [
        Line("13", what, "free", "added", ADDED_MIB, ours=ours, peer=plain),
        Line("13", what, "free", "added", None, ours=ours, peer=imported),
    ]
