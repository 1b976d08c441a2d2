"""What must hold of processes: numbers are unique, and each parent learns how its child ended.

A child is on record with its parent: `child` (VMID, code it will end with), perhaps `killing`, and
what `wait` said (`waited`: VMID, code, signal).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .history import History

__all__ = ["judge_processes"]


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
        yield f"{vmid}: {line.kind}: {line.fields}"
