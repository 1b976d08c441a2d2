"""What has passed between a process and the others: counted by the links, added up here.

Links count for their own purposes all that is asked for, so counting costs nothing more. What a
link has counted stays in the sum when its peer is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from libos_ipc.core.links import Link

__all__ = ["Counters", "Tally"]


class Counters(NamedTuple):
    """What a process has said to others and heard from them since it joined.

    The first four only grow: messages sent and received, the library's own included, and bytes of
    the program's, headers included. The others are as of now: requests that wait for an answer;
    messages that have not been seen to arrive; bytes sent that the receivers' handlers have not
    taken up; bytes received that ours have not; processes it has talked to; how many of these by
    shared memory.
    """

    sent: int
    received: int
    sent_bytes: int
    received_bytes: int
    outstanding: int
    unacknowledged: int
    owed: int
    backlog: int
    peers: int
    lanes: int


class Tally:
    """The sums of links that are no more, and how often each thing was noted, by its name."""

    __slots__ = ("_gone", "events")

    def __init__(self) -> None:
        self._gone = (0, 0, 0, 0)
        self.events: Counter[str] = Counter()

    def drop(self, link: Link) -> None:
        """The peer of this link is gone."""
        self._gone = _added(self._gone, _passed(link))

    def counters(self, links: Iterable[Link], outstanding: int) -> Counters:
        """The sums with these links, and with so many requests under way."""
        passed = self._gone
        unacknowledged = owed = backlog = peers = lanes = 0
        for link in links:
            passed = _added(passed, _passed(link))
            unacknowledged += link.sent - link.acked
            owed += link.owed
            backlog += link.received_bytes - link.consumed
            peers += 1
            lanes += bool(link.lane_from)
        return Counters(*passed, outstanding, unacknowledged, owed, backlog, peers, lanes)


def _passed(link: Link) -> tuple[int, int, int, int]:
    return link.sent, link.delivered, link.sent_bytes, link.received_bytes


def _added(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    a, b, c, d = one
    e, f, g, h = other
    return a + e, b + f, c + g, d + h
