"""Who waits for whom on one handle, for those who look for cycles.

An upgrade in the queue waits for the agents that use the handle where a process is in its way,
as far as they are known, and for the entries ahead that it cannot share with:

    queue:    SHARED a    SHARED b    EXCLUSIVE c    SHARED d    EXCLUSIVE e
    waits:                            for a, b       for c       for d, c

The edges of all entries together must stay few, or a long queue would cost its square. So what
stands ahead of the nearest EXCLUSIVE is left to that one, who waits for all of it, and so are
the users: `e` finds `a` and `b` through `c`. Only if `c` waits with a time-out, and so is part
of no cycle, the search for others goes on behind it.

Who waits inside a process waits for its user there, or else for the agent that it asks for.

Agents that wait with a time-out, and thread 0, which only wants a copy, wait for nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

from libos_ipc.core.sync_rows import IN_THE_WAY, Entry, Handle, Row
from libos_ipc.core.sync_words import Agent, State

__all__ = ["blockers_inside", "blockers_of_entry", "uses_in_the_way"]


def blockers_of_entry(handle: Handle, entry: Entry) -> Iterator[tuple[Agent, str]]:
    """For whom this entry of the queue waits, and why."""
    ahead = handle.queue[: handle.queue.index(entry)]
    for other in reversed(ahead):
        if State.EXCLUSIVE not in (entry.state, other.state):
            continue
        if other.thread:
            yield (other.vmid, other.thread), f"asked for {handle} before"
        if other.state == State.EXCLUSIVE and other.agent is not None:
            return
    for vmid, row in handle.rows.items():
        if vmid != entry.vmid and uses_in_the_way(row, entry):
            yield (vmid, row.user), f"uses {handle}"


def uses_in_the_way(row: Row, entry: Entry) -> bool:
    """Whether it is known that somebody uses the handle so that the entry must wait for that.

    It is not enough that the process is in the way: it may go down while it is in use.
    """
    return bool(row.user) and (entry.state, row.using) in IN_THE_WAY


def blockers_inside(handle: Handle, vmid: int, thread: int) -> Iterator[tuple[Agent, str]]:
    """For whom a thread waits behind another one of its process, and why."""
    row, entry = handle.rows[vmid], handle.entry_of(vmid)
    if row.user:
        if row.user != thread:
            yield (vmid, row.user), f"uses {handle}"
    elif entry is not None and entry.thread not in (0, thread):
        yield (vmid, entry.thread), f"asked for {handle} before"
