"""Who waits for whom over file locks: the edges of the graph in `wait_graph.py`.

A waiter waits for the owners of all ranges in its way, and a fair one also for the conflicting
waiters that came before it. Left out are those of whom nothing can be said: FLOCK and shared
descriptions, since any process that shares one may unlock it; and waiters with a time-out, who
will go on by themselves.

Of those ahead in one queue the last is enough, since it waits for all that the others wait for;
and those in its own queue a waiter can leave out, since it waits itself for all that they do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import NamedTuple, TypeAlias

from libos_ipc.core.lock_table import LockTable, place_of
from libos_ipc.core.lock_waiters import LAST, Queue
from libos_ipc.core.lock_words import WAIT, WRITE, Ask, Kind, Owner, agents_of, place
from libos_ipc.core.wait_graph import Agent, Edge, Waits, find_cycle

__all__ = ["LockWait", "cycle_of", "cycle_through", "in_words", "waits_for"]


class LockWait(NamedTuple):
    """One request waits for what another process holds, or for another request."""

    ask: Ask
    holder: Owner
    vmid: int
    thread: int
    is_held: bool

    def __str__(self) -> str:
        ask = self.ask
        what = place(ask.type, ask.start, ask.end, ask.path)
        has = "holds it" if self.is_held else "asked before"
        who = in_words(ask.owner, ask.src, ask.thread)
        return f"{who} waits for {what}: {in_words(self.holder, self.vmid, self.thread)} {has}"


def in_words(owner: Owner, vmid: int, thread: int) -> str:
    """Who this is, for people."""
    if owner.kind == Kind.POSIX:
        return f"pid {owner.id} (VMID {vmid}, thread {thread})"
    if owner.kind == Kind.FAIR:
        return f"thread {thread} of VMID {vmid}"
    return f"handle {owner.id} of VMID {vmid}"


#: Whether an edge to this agent can be part of a cycle.
Matters: TypeAlias = Callable[[Agent], bool]


def edges_of(
    table: LockTable, ask: Ask, arrival: int, fair: bool, matters: Matters
) -> Iterator[Edge]:
    """Whom a request waits for that came, or would come, as number `arrival`."""
    _, _, _, owner, type, start, end, *_ = ask
    space = table.spaces[place_of(ask)]
    for holder, held in space.ranges.in_the_way(owner, type, start, end):
        for agent in agents_of(holder, held.vmid, held.thread):
            if matters(agent) and not table.owners.is_shared(holder):
                yield Edge(agent, LockWait(ask, holder, held.vmid, held.thread, True))
    if fair:
        for queue in space.waiters.meeting(start, end):
            mine = (queue.start, queue.end, queue.type, queue.fair) == (start, end, type, True)
            if WRITE in (type, queue.type) and not mine:
                yield from _edge_to_last(table, ask, queue, arrival)


def _edge_to_last(table: LockTable, ask: Ask, queue: Queue, arrival: int) -> Iterator[Edge]:
    waiters = queue.waiters
    for position in range(bisect_left(waiters, (arrival,)) - 1, -1, -1):
        other = waiters[position].ask
        if other.wait == WAIT and not table.owners.is_shared(other.owner):
            why = LockWait(ask, other.owner, other.src, other.thread, False)
            # It is only that thread that has a place in the queue, not its whole process.
            yield Edge(agents_of(other.owner, other.src, other.thread)[-1], why)
            return


def waits_for(table: LockTable, agent: Agent, matters: Matters) -> Iterator[Edge]:
    """Whom this agent waits for over file locks."""
    for key in list(table.waits_of.get(agent, ())):
        _, waiter = table.waiting[key]
        if waiter.ask.wait == WAIT:
            yield from edges_of(table, waiter.ask, waiter.arrival, waiter.fair, matters)


def cycle_of(
    table: LockTable, others: Waits | None, ask: Ask, fair: bool, arrival: int = LAST
) -> list[Edge] | None:
    """The cycle that this request would close by waiting; None if none, or none is looked for."""
    if ask.wait != WAIT or ask.owner.kind not in (Kind.POSIX, Kind.FAIR):
        return None
    newcomer = agents_of(ask.owner, ask.src, ask.thread)
    ranges = table.spaces[place_of(ask)].ranges
    if not any(ranges.has_agent(agent) or is_wanted(table, others, agent) for agent in newcomer):
        return None
    matters = who_matters(table, others, newcomer)
    first = edges_of(table, ask, arrival, fair, matters)
    return find_cycle(first, newcomer, all_waits(table, others, matters))


def cycle_through(table: LockTable, others: Waits | None, ask: Ask) -> list[Edge] | None:
    """The cycle that a lock just granted has closed, since its owner waits elsewhere too.

    A thread waits, or its process by another thread: to go out by one and come back to the
    other is no cycle.
    """
    for agent in agents_of(ask.owner, ask.src, ask.thread):
        look = all_waits(table, others, who_matters(table, others, (agent,)))
        cycle = find_cycle(look(agent), (agent,), look)
        if cycle is not None:
            return cycle
    return None


def is_wanted(table: LockTable, others: Waits | None, agent: Agent) -> bool:
    """False if certainly nobody waits for what this agent has."""
    return table.is_waited_for(agent) or (others is not None and others.is_waited_for(agent))


def who_matters(table: LockTable, others: Waits | None, newcomer: Collection[Agent]) -> Matters:
    """Those who wait, and the newcomer. Of many who hold a lock most do not."""

    def matters(agent: Agent) -> bool:
        if agent in table.waits_of or agent in newcomer:
            return True
        return others is not None and any(True for _ in others.waits_for(agent))

    return matters


def all_waits(
    table: LockTable, others: Waits | None, matters: Matters
) -> Callable[[Agent], Iterable[Edge]]:
    """`waits_for` of both machines."""
    if others is None:
        return lambda agent: waits_for(table, agent, matters)
    return lambda agent: chain(waits_for(table, agent, matters), others.waits_for(agent))
