"""What must hold of processes: numbers are unique, and each parent learns how its child ended.

A child is on record with its parent: `child` (VMID, code it will end with), perhaps `killing`, and
what `wait` said (`waited`: VMID, code, signal).

That something took too long says nothing if the machine had stood still: at a load of many times
what it can do, all processes of an act have been seen to rest for a minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .history import History
from .record import Line

__all__ = ["judge_processes"]

NS = 10**9
#: Longer than anybody waits for anything.
WAITED_S = 100


def judge_processes(history: History) -> Iterator[str]:
    """What went wrong."""
    hellos = Counter(vmid for vmid, _ in history.lines("hello"))
    yield from (f"VMID {vmid} said hello {n} times" for vmid, n in hellos.items() if n > 1)
    codes = {line.fields[0]: line.fields[1] for _, line in history.lines("child")}
    for parent, line in history.lines("waited"):
        vmid, code, signal = line.fields
        end = history.end_of(vmid)
        as_it_was = [(codes.get(vmid), None)]
        if end.killed:
            as_it_was.append((None, 9))  # unless it was through when the signal came
        if (code, signal) not in as_it_was:
            yield f"child {vmid} of {parent} ended with {(code, signal)}, not {as_it_was}"
    for vmid, line in history.lines("overdue", "unexpected"):
        if not (_is_late(line) and _was_standstill(history, line.at)):
            yield f"{vmid}: {line.kind}: {line.fields}"


def _is_late(line: Line) -> bool:
    return line.kind == "overdue" or "Timeout(" in str(line.fields)


def _was_standstill(history: History, at: int) -> bool:
    """Whether the machine stood still while what ended then was waited for."""
    return any(
        line.at - line.fields[0] * NS <= at + NS and at - WAITED_S * NS <= line.at
        for _, line in history.lines("stood still")
    )
