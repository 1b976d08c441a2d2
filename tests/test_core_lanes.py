"""How two machines come to a lane: who changes over when, and what stays with the connections."""

from __future__ import annotations

import errno
from collections import deque

import pytest

from libos_ipc.core.codes import Code
from libos_ipc.core.lane_words import DropLane, OfferLane, ReachLane, ReadLane, TakeLane
from libos_ipc.core.lanes import Lane
from libos_ipc.core.member import Member
from libos_ipc.core.vocabulary import Disconnect, Effects, Message, Note, Outgoing, Transmit, Write

USER = 70
Sent = tuple[int, int, Outgoing]


class End:
    """A member whose transport, lane and memory are lists."""

    def __init__(self, vmid: int, lane_after: int = 2) -> None:
        self.member = Member(
            vmid,
            leader_vmid=9,
            epoch=1,
            send_buffer=10**6,
            quarantine_s=1.0,
            decode_answer=lambda code, body: (),
            lane_after=lane_after,
        )
        self.connection: deque[Sent] = deque()
        self.memory: deque[Sent] = deque()
        #: what the machine has asked for, and nobody has answered
        self.wants: list[object] = []
        self.got: list[bytes] = []
        self.notes: list[dict[str, object]] = []

    def done(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                self.connection.append(tuple(effect[1:]))  # type: ignore[arg-type]
            elif isinstance(effect, Write):
                self.memory.append(tuple(effect[1:]))  # type: ignore[arg-type]
            elif isinstance(effect, Message):
                self.got.append(effect.payload)
            elif isinstance(effect, Note):
                self.notes.append(effect.fields)
            elif isinstance(effect, OfferLane | TakeLane | ReachLane | ReadLane | DropLane):
                self.wants.append(effect)

    def send(self, dst: int, payload: bytes) -> None:
        self.done(self.member.send(dst, USER, payload, 0.0))

    def hear(self, src: End, sent: deque[Sent], most: int = 100) -> None:
        """Take what `src` has put there, as the receiver does."""
        self.member.on_hello(src.member.vmid, 0.0)
        while sent and most:
            number, acked, (code, seq, body, _) = sent.popleft()
            most -= 1
            if code != Code.HELLO:
                effects = self.member.on_message(
                    src.member.vmid, number, acked, code, seq, body, 0.0
                )
                self.done(effects)

    def lane(self, peer: End) -> int:
        return self.member.links[peer.member.vmid].lane


@pytest.fixture
def pair() -> tuple[End, End]:
    return End(2), End(3)


def offered(a: End, b: End) -> None:
    """`a` has said enough to `b`, and made the memory."""
    a.send(b.member.vmid, b"1")
    assert a.wants == []
    a.send(b.member.vmid, b"2")
    assert a.wants == [OfferLane(b.member.vmid)]
    a.wants.clear()
    a.done(a.member.lanes.offer(b.member.vmid, 40, 41, 7, 0.0))


@pytest.mark.parametrize(("lane_after", "offers"), [(100, 1), (0, 0)])
def test_many_bytes_are_worth_a_lane_as_many_messages_are(lane_after: int, offers: int) -> None:
    a = End(2, lane_after)
    a.send(3, bytes(60_000))
    assert a.wants == []
    for _ in range(3):
        a.send(3, bytes(10_000))
    assert a.wants == [OfferLane(3)] * offers


def taken(a: End, b: End) -> None:
    b.hear(a, a.connection)
    assert b.wants == [TakeLane(a.member.vmid, 40, 41, 7)]
    b.wants.clear()
    b.done(b.member.lanes.take(a.member.vmid, 0, 51, 8, 0.0))


def opened(a: End, b: End) -> None:
    a.hear(b, b.connection)
    assert a.wants == [ReachLane(b.member.vmid, 51, 8)]
    a.wants.clear()
    a.done(a.member.lanes.open(b.member.vmid, 0.0))


def by_lane(a: End, b: End) -> tuple[End, End]:
    """Both directions have changed over, and nothing is under way."""
    offered(a, b)
    taken(a, b)
    opened(a, b)
    b.hear(a, a.connection)
    b.send(2, b"heard")
    a.hear(b, b.memory)
    return a, b


def test_each_direction_changes_over_at_one_point_of_its_order(pair: tuple[End, End]) -> None:
    a, b = pair
    offered(a, b)
    a.send(3, b"3")
    assert not a.memory, "not before it is taken"
    taken(a, b)
    assert b.got == [b"1", b"2", b"3"]
    b.send(2, b"one")
    assert [sent[2].body for sent in b.memory] == [b"one"]
    opened(a, b)
    a.hear(b, b.memory)
    assert a.got == [b"one"]
    a.send(3, b"4")
    assert [sent[2].body for sent in a.memory] == [b"4"]
    b.hear(a, a.connection)
    assert b.wants == [ReadLane(2)], "the memory is read behind the last of the connection"
    b.hear(a, a.memory)
    assert b.got == [b"1", b"2", b"3", b"4"]
    assert not a.notes + b.notes


def test_a_lost_connection_is_made_again_for_its_own_messages_alone(pair: tuple[End, End]) -> None:
    a, b = pair
    offered(a, b)
    taken(a, b)
    opened(a, b)
    a.send(3, b"3")
    a.connection.clear()  # OPEN is lost with it
    a.done(a.member.on_disconnected(3, 0.0))
    again = [sent[2].code for sent in a.connection]
    assert again[0] == Code.HELLO
    assert Code.LANE_OPEN in again
    assert USER not in again, "what is in the memory is not sent again"
    b.hear(a, a.connection)
    b.hear(a, a.memory)
    assert b.got == [b"1", b"2", b"3"]


def test_no_connection_is_needed_any_more(pair: tuple[End, End]) -> None:
    a, _ = by_lane(*pair)
    a.send(3, b"3")
    assert a.member.links[3].keeps
    assert a.member.on_disconnected(3, 0.0) == []
    assert a.member.on_rebuilt(0.0) == []
    a.done(a.member.on_tick(10.0)[0])
    assert [sent[2].code for sent in a.memory] == [USER, Code.PROBE]
    assert not a.connection


def test_a_connection_is_dropped_when_all_that_it_carried_has_arrived(
    pair: tuple[End, End],
) -> None:
    a, b = pair
    offered(a, b)
    taken(a, b)
    opened(a, b)
    assert Disconnect(3) not in a.member.on_tick(0.0)[0], "OPEN is still under way"
    b.hear(a, a.connection)
    b.send(2, b"heard")
    a.hear(b, b.memory)
    assert Disconnect(3) in a.member.on_tick(0.0)[0]
    assert Disconnect(3) not in a.member.on_tick(0.0)[0], "there is none any more"
    a.done(a.member.greet(3, 0.0))
    a.done(a.member.ask_progress(3))
    a.send(3, b"3")
    assert [sent[2].code for sent in a.memory] == [Code.PROBE, Code.PROBE, USER]
    assert not a.connection


def test_what_an_interrupted_sender_never_wrote_is_written_again(pair: tuple[End, End]) -> None:
    a, b = by_lane(*pair)
    for number in range(3, 6):
        a.send(3, b"%d" % number)
    a.memory.popleft()
    b.hear(a, a.memory)
    assert b.got == [b"1", b"2"]
    a.done(a.member.on_tick(10.0)[0])
    assert [sent[2].code for sent in a.memory] == [Code.PROBE]
    b.hear(a, a.memory)
    a.hear(b, b.memory)
    b.hear(a, a.memory)
    assert b.got == [b"1", b"2", b"3", b"4", b"5"]
    assert not a.connection


def test_of_two_offers_the_lower_vmids_counts(pair: tuple[End, End]) -> None:
    a, b = pair
    offered(a, b)
    b.wants.clear()
    b.send(2, b"x")
    b.send(2, b"y")
    b.wants.clear()
    b.done(b.member.lanes.offer(2, 60, 61, 9, 0.0))
    a.hear(b, b.connection)
    assert a.wants == [], "ours counts"
    taken(a, b)
    opened(a, b)
    assert (a.lane(b), b.lane(a)) == (Lane.TAKEN, Lane.TAKEN)
    assert not a.notes + b.notes


def test_what_cannot_be_taken_is_said_and_not_offered_again(pair: tuple[End, End]) -> None:
    a, b = pair
    offered(a, b)
    b.hear(a, a.connection)
    b.done(b.member.lanes.take(2, -errno.EMFILE, -1, 0, 0.0))
    a.hear(b, b.connection)
    assert a.wants == [DropLane(3)]
    for _ in range(20):
        a.send(3, b"more")
        b.send(2, b"more")
    b.hear(a, a.connection)
    assert not a.memory
    assert not b.memory
    assert a.wants == [DropLane(3)]
    assert len(b.got) == 22


def test_one_direction_alone_where_a_bell_cannot_be_reached(pair: tuple[End, End]) -> None:
    a, b = pair
    offered(a, b)
    taken(a, b)
    a.hear(b, b.connection)  # … and `open` is never called
    a.send(3, b"3")
    b.send(2, b"one")
    b.hear(a, a.connection)
    a.hear(b, b.memory)
    assert (a.got, b.got) == ([b"one"], [b"1", b"2", b"3"])


@pytest.mark.parametrize(
    ("code", "body"),
    [(Code.LANE_TAKEN, (0, 5, 6)), (Code.LANE_OPEN, ()), (Code.LANE_TAKEN, (-5, -1, 0))],
)
def test_words_out_of_their_order_change_nothing(
    pair: tuple[End, End], code: Code, body: tuple[int, ...]
) -> None:
    a, b = pair
    b.member.on_hello(2, 0.0)
    b.done(b.member.on_message(2, 1, 0, code, 0, body, 0.0))
    assert b.wants == []
    assert [note["peer"] for note in b.notes] == [2]
    assert b.lane(a) == Lane.NONE


def test_a_second_offer_is_refused(pair: tuple[End, End]) -> None:
    a, b = pair
    offered(a, b)
    taken(a, b)
    number = b.member.links[2].delivered + 1
    b.done(b.member.on_message(2, number, 0, Code.LANE_OFFER, 0, (1, 2, 3), 0.0))
    assert b.wants == []
    assert b.notes == [{"peer": 2, "error": "a second lane"}]


def test_a_peer_that_is_gone_is_not_answered(pair: tuple[End, End]) -> None:
    a, b = pair
    offered(a, b)
    a.member.on_gone(3, 0.0)
    assert a.member.lanes.offer(3, 1, 2, 3, 0.0) == []
    assert a.member.lanes.take(3, 0, 1, 2, 0.0) == []
    assert a.member.lanes.open(3, 0.0) == []


def test_a_group_without_lanes_offers_none() -> None:
    a = End(2, lane_after=0)
    for _ in range(40):
        a.send(3, b"x")
    assert a.wants == []
