"""How two processes of one host come to a lane: shared memory in the place of connections.

Either offers one when it has said enough to the other; all of it travels as numbered messages
over the connections, so that each direction changes over at one point of its order:

    A                                        B
    |---- OFFER: memory, A's bell ------->   |  maps both
    |   <------------- TAKEN: B's bell ----  |  its next message is in the memory
    |  reads it; maps B's bell               |
    |---- OPEN --------------------------->  |  reads the memory
    |  its next message is in the memory     |

Nobody reads the memory before it has had, in its turn, the last message that came by the old
way. What was sent by connections stays the connections' until it is acknowledged. What is in
the memory is lost only with one of the two processes; but a sender that was interrupted may never
have put it there, so what the other has not got is asked for and written again here too.

If both offer at once, the offer of the lower VMID counts. Who cannot take one says so, and the two
go on as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from libos_ipc.core.codes import Code
from libos_ipc.core.lane_words import DropLane, ReachLane, ReadLane, TakeLane
from libos_ipc.core.links import Link
from libos_ipc.core.vocabulary import Body, Effects, Note, Outgoing

__all__ = ["Lane", "Lanes"]

Say = Callable[[Link, Outgoing, float], Effects]


class Lane(IntEnum):
    """How far a pair has come, as `Link.lane`."""

    NONE = 0
    OFFERED = 1  #: by us, and we have heard nothing yet
    TAKEN = 2  #: both have the memory
    REFUSED = 3  #: it could not be, and is not tried again


class Lanes:
    """The words about lanes, of one process. `say` sends a numbered message on a link."""

    __slots__ = ("_links", "_say", "_vmid", "on_code")

    def __init__(self, vmid: int, links: dict[int, Link], say: Say) -> None:
        self._vmid = vmid
        self._links = links
        self._say = say
        self.on_code: dict[int, Callable[[int, int, Body, float], Effects]] = {
            Code.LANE_OFFER: self._on_offer,
            Code.LANE_TAKEN: self._on_taken,
            Code.LANE_OPEN: self._on_open,
        }

    # ---- what the runtime says

    def offer(self, peer: int, memory: int, bell: int, line: int, now: float) -> Effects:
        """What OfferLane asked for is there: the descriptors of memory and bell, and the line of
        the bell that `peer` is to ring."""
        link = self._links.get(peer)
        if link is None or link.lane != Lane.NONE:
            return []
        link.lane = Lane.OFFERED
        return self._say(link, Outgoing(Code.LANE_OFFER, 0, (memory, bell, line)), now)

    def take(self, peer: int, result: int, bell: int, line: int, now: float) -> Effects:
        """What came of TakeLane: 0 or a negative errno, and our own bell."""
        link = self._links.get(peer)
        if link is None:
            return []
        effects = self._say(link, Outgoing(Code.LANE_TAKEN, 0, (result, bell, line)), now)
        if result == 0:
            link.lane_from = link.sent + 1
        else:
            link.lane = Lane.REFUSED
        return effects

    def open(self, peer: int, now: float) -> Effects:
        """What ReachLane asked for is done: we can write, too."""
        link = self._links.get(peer)
        if link is None:
            return []
        effects = self._say(link, Outgoing(Code.LANE_OPEN, 0, ()), now)
        link.lane_from = link.sent + 1
        return effects

    # ---- what the other says

    def _on_offer(self, src: int, seq: int, body: Body, now: float) -> Effects:
        link = self._links[src]
        if link.lane == Lane.OFFERED and self._vmid < src:
            return []  # ours counts
        if link.lane not in (Lane.NONE, Lane.OFFERED):
            return [Note("absurd", {"peer": src, "error": "a second lane"})]
        link.lane = Lane.TAKEN
        return [TakeLane(src, *body)]

    def _on_taken(self, src: int, seq: int, body: Body, now: float) -> Effects:
        link = self._links[src]
        result, bell, line = body
        assert isinstance(bell, int)
        assert isinstance(line, int)
        if link.lane != Lane.OFFERED:
            return [Note("absurd", {"peer": src, "error": "took a lane that was not offered"})]
        if result != 0:
            link.lane = Lane.REFUSED
            return [DropLane(src)]
        link.lane = Lane.TAKEN
        return [ReachLane(src, bell, line)]

    def _on_open(self, src: int, seq: int, body: Body, now: float) -> Effects:
        link = self._links[src]
        if link.lane != Lane.TAKEN:
            return [Note("absurd", {"peer": src, "error": "opened a lane that is not there"})]
        return [ReadLane(src)]
