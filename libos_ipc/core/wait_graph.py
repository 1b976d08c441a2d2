"""Cycles of waiters: A waits for what B has, and B, by way of others, for what A has.

An *agent* is whoever can wait and hold: a thread or task of a process, (VMID, thread); a process
as a whole, (VMID, 0), because a POSIX lock belongs to all its threads; an open file description
that one process alone has, (0, handle). A waiter goes on when *all* it waits for have gone on,
so every cycle is a deadlock, of whatever length and over whatever things; and since one is
refused when its last link is made, only cycles through the newcomer need to be looked for.

The search is breadth-first from the newcomer, so that the cycle it names is a shortest one. It
knows nothing of locks: an `Edge` is a promise that some agent waits for another, with words for
people. So one search serves file locks and sync handles together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

__all__ = ["Agent", "Edge", "Waits", "explain", "find_cycle"]

#: Of how many links of a cycle an error tells.
NAMED_AT_MOST = 16

Agent: TypeAlias = tuple[int, int]


class Edge(NamedTuple):
    """Somebody waits for `agent`; `str(why)` says who for what."""

    agent: Agent
    why: object


class Waits(Protocol):
    """What a machine tells another of those who wait in it."""

    def waits_for(self, agent: Agent) -> Iterable[Edge]:
        """Whom this agent waits for."""
        ...

    def is_waited_for(self, agent: Agent) -> bool:
        """False if certainly nobody waits for anything that this agent has."""
        ...


def find_cycle(
    first: Iterable[Edge],
    newcomer: Collection[Agent],
    waits_for: Callable[[Agent], Iterable[Edge]],
) -> list[Edge] | None:
    """The shortest way from the edges `first` back to one of the agents `newcomer`."""
    came_by: dict[Agent, tuple[Edge, Agent | None]] = {}
    reached: deque[Agent] = deque()

    def walk(edges: Iterable[Edge], origin: Agent | None) -> Edge | None:
        for edge in edges:
            if edge.agent in newcomer:
                return edge
            if edge.agent not in came_by:
                came_by[edge.agent] = (edge, origin)
                reached.append(edge.agent)
        return None

    last, origin = walk(first, None), None
    while last is None:
        if not reached:
            return None
        origin = reached.popleft()
        last = walk(waits_for(origin), origin)
    cycle = [last]
    while origin is not None:
        edge, origin = came_by[origin]
        cycle.append(edge)
    return cycle[::-1]


def explain(cycle: Sequence[Edge]) -> str:
    """The cycle in words; of a very long one its beginning and its end."""
    words = [str(edge.why) for edge in cycle]
    if len(words) > NAMED_AT_MOST:
        words[NAMED_AT_MOST - 1 : -1] = [f"... and {len(words) - NAMED_AT_MOST} more"]
    return "; ".join(words)
