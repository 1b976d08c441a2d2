"""One pair of processes: exactly once and in order, whatever happens to the connection.

A connection may be lost under a link at any time: either side ends its transport around a
fork, and what was in flight is gone. So every message between two processes carries a number
of its own direction, counted from 1, and the number up to which its sender has received the
other direction without a gap. The sender keeps each message until that acknowledgement covers
it; on a new connection, or when the other side shows that something is missing, it sends
everything it still keeps again (go-back-n: within one connection order is never lost, so there
is nothing to gain from selective repeats). The receiver delivers a number once: the next one.

    A                                     B
    |---- 1 -------------------------->   | delivered = 1
    |---- 2 ----------x  connection lost  |
    |---- hello (new connection) ------>  |
    |---- 2 -------------------------->   | delivered = 2
    |   <------------------- 1, acked 2 --|

A second count bounds what a slow receiver costs: bytes are *owed* from sending until the
receiver says that it has consumed them (CREDIT, a running total; resending changes neither
side's total). Acknowledged means arrived, consumed means taken up by a handler.

A question (PROBE) has no number, so nobody keeps it. Three must not be lost all the same: the one
that only makes us known, the one of callers that wait for room, without which the peer announces
nothing until much has been consumed, and the one of callers that wait for all to arrive, which it
acknowledges in its own time. They stay *open* and are asked again, like what is kept: until the
peer has answered, as long as it owes and a caller waits, and until that much has arrived.

Invariants: kept numbers are acked+1 … sent without a gap; delivered never shrinks; what is
owed is never negative. An acknowledgement or a credit beyond what was sent is hostile or
broken, and refused.
"""

from __future__ import annotations

from libos_ipc._native import FIRST_PROBE_S, Ledger
from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.vocabulary import HEADER_WEIGHT, Body, Outgoing

__all__ = ["LAST_PROBE_S", "Link", "weight"]

#: Seconds without progress after which the peer is asked again: from FIRST_PROBE_S doubled to this.
LAST_PROBE_S = 8.0

#: In the place of a message that must not be sent.
NOTHING = Outgoing(Code.ACK, 0, ())


def weight(code: int, body: Body) -> int:
    """Bytes that a message costs its receiver. The library's own are taken up at once: 0."""
    return HEADER_WEIGHT + len(body) if code >= FIRST_USER_CODE else 0


class Link(Ledger):
    """Both directions between this process and `peer`. Sizes are bytes of header and payload.

    What every message passes (numbering and keeping, recognizing the next, forgetting what was
    acknowledged) is the ledger's; here is what happens now and then.
    """

    __slots__ = (
        "asked_at",
        "awaited",
        "connected",
        "greeting",
        "lane",
        "lane_from",
        "peer",
        "probed_at_number",
        "revoked",
        "wanting",
    )

    def __init__(self, peer: int) -> None:
        self.peer = peer
        #: whether a connection was made that nobody has reported lost
        self.connected = False
        #: the last number sent before a question that is on its way for callers that wait, else -1:
        #: another one there would only be one more for a peer that does not read
        self.asked_at = -1
        self.probed_at_number = 0
        #: numbers of messages that were not sent, and must not be
        self.revoked: frozenset[int] = frozenset()
        # questions that the peer may not have heard: who we are, how much it has consumed, and what
        # has arrived
        self.greeting = False
        self.wanting = 0  # callers that wait for room
        self.awaited = 0  # the number up to which somebody waits for all to arrive
        #: how far the two have come with a lane, as in `lanes.py`
        self.lane = 0
        #: the first number that goes by the lane, 0 while none does
        self.lane_from = 0

    def on_lost(self) -> None:
        """There is no connection, or none any more, and what was on its way is lost."""
        self.connected = False
        self.asked_at = -1

    # ---- sending

    @property
    def owed(self) -> int:
        """Bytes sent that the peer has not consumed as far as we know."""
        return self.sent_bytes - self.credited

    @property
    def keeps(self) -> bool:
        """Whether anything sent has not been acknowledged."""
        return self.sent != self.acked

    def again(self, now: float) -> list[tuple[int, Outgoing]]:
        """Everything to be sent again, in order: on a new connection, or into the lane."""
        self._rest(now)
        kept = self.kept
        if self.revoked:
            kept = [(n, NOTHING if n in self.revoked else message) for n, message in kept]
        if not self.lane_from or self.by_lane:
            return kept
        return [(number, message) for number, message in kept if number < self.lane_from]

    def revoke(self, number: int) -> None:
        """This message must not go out, or not again: its number says nothing instead."""
        self.revoked |= {number}

    @property
    def by_lane(self) -> bool:
        """Whether a connection has nothing to do any more: all that it carried has arrived."""
        return 0 < self.lane_from <= self.acked + 1

    def on_credit(self, consumed: int) -> bool:
        """The peer has consumed `consumed` bytes in all. True if that is news."""
        if consumed <= self.credited:
            return False
        if consumed > self.sent_bytes:
            raise ValueError(f"consumed {consumed} bytes, but only {self.sent_bytes} were sent")
        self.credited = consumed
        return True

    @property
    def open(self) -> bool:
        """Whether anything is to be sent or asked again until the peer shows that it came."""
        return self.keeps or self.asking

    @property
    def asking(self) -> bool:
        """Whether a question is open."""
        return self.greeting or self.acked < self.awaited or (self.wanting > 0 and self.owed > 0)

    def probe_due(self, now: float) -> bool:
        """Whether to ask the peer what it has; each asking doubles the time to the next."""
        if not self.open or now < self.probe_at:
            return False
        self.probe_interval = min(self.probe_interval * 2, LAST_PROBE_S)
        self.probe_at = now + self.probe_interval
        # Where the question goes: behind what went the same way, and only there.
        by_connection = self.lane_from and not self.by_lane
        self.probed_at_number = min(self.sent, self.lane_from - 1) if by_connection else self.sent
        return True

    def on_probe_answered(self, acked: int) -> bool:
        """True if the answer shows that something sent before the question was lost."""
        lost = acked < self.probed_at_number
        self.probed_at_number = 0
        return lost

    def _rest(self, now: float) -> None:
        self.probe_interval = FIRST_PROBE_S
        self.probe_at = now + FIRST_PROBE_S

    # ---- receiving

    def ack_owed(self) -> bool:
        """Whether anything has arrived that the peer has not been told of."""
        return self.delivered != self.announced_ack

    def credit_due(self, quantum: int) -> bool:
        """Whether to announce what was consumed already."""
        return self.consume(0, quantum)

    def credit(self) -> int:
        """The running total to announce."""
        self.announced_credit = self.consumed
        if self.consumed == self.received_bytes:
            self.starving = False
        return self.consumed

    def check(self) -> None:
        """Assert the invariants."""
        numbers = [number for number, _ in self.kept]
        assert numbers == list(range(self.acked + 1, self.sent + 1)), (self.acked, self.sent)
        assert 0 <= self.credited <= self.sent_bytes
        assert 0 <= self.announced_credit <= self.consumed <= self.received_bytes
        assert 0 <= self.announced_ack <= self.delivered
        assert self.wanting >= 0
