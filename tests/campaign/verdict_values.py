"""What must hold of shared values: whatever their users saw, one order of operations explains it.

`call` (operation, handle, kind, put) and `return` (operation, got) enclose each; one that failed
(`failed`) has not happened, and of one that its process was killed in nobody knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from .history import History
from .linearizability import NEVER, Operation, explain

__all__ = ["judge_values"]

FIRST = 0


def judge_values(history: History) -> Iterator[str]:
    """What went wrong."""
    of: dict[str, list[Operation]] = defaultdict(list)
    for vmid, lines in history.of.items():
        calls = {}
        for line in lines:
            if line.kind == "call":
                number, handle, kind, put = line.fields
                calls[number] = (handle, kind, put, line.at)
            elif line.kind == "return":
                number, got = line.fields
                handle, kind, put, called = calls.pop(number)
                of[handle].append(Operation(kind, got, put, called, line.at, str(vmid)))
            elif line.kind == "failed":
                calls.pop(line.fields[0], None)
        for handle, kind, put, called in calls.values():
            of[handle].append(Operation(kind, None, put, called, NEVER, str(vmid)))
    for handle, operations in of.items():
        complaint = explain(operations, FIRST)
        if complaint is not None:
            yield f"value {handle}: {complaint}"
