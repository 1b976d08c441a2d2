"""Messages by a connection without Python: what is dealt with there, and what is left to it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from exchange_sides import EVERY, MOST, SEND_BUFFER, USER, Side
from processes import poll
from shared_memory import memory

from libos_ipc import GroupConfig
from libos_ipc._native import Ledger, Port, Ticket, pack_envelope, pack_frames, pack_message
from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Message

ROUTE = b"\0\0\0\1"


class Known:
    """What a process knows of a connection, as far as the exchange asks for it."""

    def __init__(self, heard: int) -> None:
        self.heard = heard


class Line:
    """Two processes' halves in one, and a connection each way."""

    def __init__(self) -> None:
        module = sys.modules[zmq.backend.Socket.__module__].__file__
        assert module is not None
        self.module = module
        self.context = zmq.Context(0)  # no threads: within this process none are needed
        self.one, self.other = (Side(n, memory(4096 * 3), first=True) for n in (2, 3))
        self.known: dict[bytes, Known] = {}
        self.sockets: list[zmq.Socket[bytes]] = []
        self.to_other, self.from_one = self._connect(self.one, 3)
        self.to_one, self.from_other = self._connect(self.other, 2)

    def _connect(self, side: Side, to: int) -> tuple[Port, Port]:
        out, into = self.context.socket(zmq.ROUTER), self.context.socket(zmq.ROUTER)
        self.sockets += out, into  # a port has but the address
        out.router_mandatory = True
        into.bind(f"inproc://{to}")
        out.set(zmq.CONNECT_ROUTING_ID, ROUTE)
        out.connect(f"inproc://{to}")
        port = Port(self.module, out.underlying)
        side.exchange.reach(to, port, ROUTE, side.ledger)
        return port, Port(self.module, into.underlying)

    def arrive(self) -> Any:
        """What arrives at the other, from a connection that is known to be the one's."""
        return self._take(self.other, self.from_one, 2)

    def return_(self) -> Any:
        """What arrives at the one."""
        return self._take(self.one, self.from_other, 3)

    def _take(self, side: Side, port: Port, peer: int) -> Any:
        with side.rounds:
            found = side.exchange.take_in(port, self.known)
            if isinstance(found[2], tuple) and len(found[2]) == 4:  # the first of a connection
                self.known[found[2][0]] = Known(peer)
        return found

    def open(self) -> None:
        """Have both connections known."""
        for port, take in ((self.to_other, self.arrive), (self.to_one, self.return_)):
            assert port.send(ROUTE, (b"hello",))
            assert take()[2][3] == [b"hello"]


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.context.destroy(0)


def test_a_request_is_answered(line: Line) -> None:
    line.open()
    one, other = line.one, line.other
    for number in range(1, 200):
        ticket = Ticket()
        assert one.exchange.call(3, USER, b"%d" % number, ticket, 0) is False, "too late already"
        assert ticket.number == number
        messages, _, rest = line.arrive()
        assert messages == [Message(2, USER, number, b"%d" % number)]
        assert type(messages[0]) is Message
        assert rest is None
        assert other.exchange.send(2, Code.RESP, number, b"%d" % number * 2) is True
        assert line.return_()[::2] == ([], None)
        assert ticket.settled()
        assert ticket.result() == b"%d" % number * 2
    assert len(one.requests) == 0
    assert (one.ledger.sent, one.ledger.delivered) == (199, 199)
    assert one.ledger.acked == 199


def test_a_caller_waits_for_whoever_takes_the_answer_in(line: Line) -> None:
    line.open()
    answers: list[object] = []
    caller = threading.Thread(
        target=lambda: answers.append(line.one.exchange.ask(3, USER, b"how?", None))
    )
    line.one.exchange.unclocked = False
    caller.start()
    messages = poll(lambda: line.arrive()[0], what="the request")
    assert messages == [Message(2, USER, 1, b"how?")]
    line.other.exchange.send(2, Code.RESP, 1, b"so")
    line.return_()
    caller.join()
    assert answers == [b"so"]


def test_what_is_withdrawn_is_not_answered_any_more(line: Line) -> None:
    line.open()
    assert line.one.exchange.ask(3, USER, b"", 0) is False
    assert line.one.withdrawn == [1]
    line.arrive()
    line.other.exchange.send(2, Code.RESP, 1, b"late")
    messages, news, left = line.return_()
    assert (messages, news) == ([], [])
    assert left[1] == list(pack_frames(1, 1, Code.RESP, 1, b"late")), "it is for the machine"


def test_one_way_messages_come_in_order_and_at_most_so_many_at_once(line: Line) -> None:
    line.open()
    line.one.exchange.unclocked = False
    for number in range(300):
        assert line.one.exchange.post(3, USER, b"%d" % number)
    first, news, more = line.arrive()
    assert more is True
    assert news.count(2) == len(news) > 0, "the sender is to be told"
    second, _, rest = line.arrive()
    assert rest is None
    assert [message.payload for message in first + second] == [b"%d" % n for n in range(300)]


def test_that_everything_has_arrived_is_news_to_those_who_watch(line: Line) -> None:
    line.open()
    for watched in (False, True):
        line.one.exchange.watched = watched
        assert line.one.exchange.send(3, USER, 0, b"x")
        line.arrive()
        assert line.other.exchange.send(2, USER, 0, b"y")
        assert line.return_()[1] == ([3] if watched else [])
    assert line.one.ledger.acked == 2


def test_what_is_not_sent_from_here(line: Line) -> None:
    one = line.one
    one.exchange.unclocked = False
    with one.lock:
        assert not one.exchange.post(3, USER, b"x")
        assert one.exchange.ask(3, USER, b"x", 1) is None
    assert not one.exchange.post(3, USER, bytes(16384)), "in two frames"
    assert not one.exchange.post(4, USER, b"x")
    one.ledger.sent_bytes = SEND_BUFFER
    assert not one.exchange.post(3, USER, b"x"), "no room"
    one.ledger.sent_bytes = 0
    line.to_other.close()
    assert not one.exchange.post(3, USER, b"x")
    one.exchange.unreach(3)
    one.exchange.unreach(3)
    assert not one.exchange.send(3, USER, 0, b"x")
    assert one.ledger.sent == 0
    assert len(one.requests) == 0
    with pytest.raises(TypeError):
        line.other.exchange.take_in(line.to_other, {})


def test_a_route_that_has_ended_keeps_what_was_sent(line: Line) -> None:
    line.one.exchange.reach(3, line.to_other, b"nowhere", line.one.ledger)
    assert line.one.exchange.send(3, USER, 0, b"x") is True
    assert line.one.ledger.sent == 1
    assert [number for number, _ in line.one.ledger.kept] == [1]


def test_nothing_goes_by_a_closed_exchange(line: Line) -> None:
    line.one.exchange.close()
    assert not line.one.exchange.send(3, USER, 0, b"x")
    line.one.exchange.reach(3, line.to_other, ROUTE, line.one.ledger)
    assert not line.one.exchange.send(3, USER, 0, b"x")


GOOD = pack_message(USER, 0, b"good")
LEFT = {
    "one frame": (b"x" * 16,),
    "no payload": (pack_envelope(1, 0), b""),
    "short envelope": (pack_envelope(1, 0)[:-1], GOOD),
    "wrong size": (pack_envelope(1, 0), GOOD + b"!"),
    "three frames": (pack_envelope(1, 0), GOOD, b"and more"),
    "out of turn": (pack_envelope(2, 0), GOOD),
    "unnumbered": (pack_envelope(0, 0), GOOD),
    "absurd acknowledgement": (pack_envelope(1, 7), GOOD),
    "the library's own": (pack_envelope(1, 0), pack_message(Code.ACK, 0, b"")),
    "an answer to nothing": (pack_envelope(1, 0), pack_message(Code.RESP, 5, b"")),
    "too large": (pack_envelope(1, 0), pack_message(USER, 0, bytes(MOST))),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_is_left_to_python(line: Line, what: str) -> None:
    """It is given as it came, behind what came before it, and nothing is counted."""
    line.open()
    assert line.to_other.send(ROUTE, (pack_envelope(1, 0), GOOD))
    frames = tuple(
        pack_envelope(2, 0) + frame[16:] if n == 0 and frame == pack_envelope(1, 0) else frame
        for n, frame in enumerate(LEFT[what])
    )
    if what == "out of turn":
        frames = (pack_envelope(3, 0), GOOD)
    elif what == "absurd acknowledgement":
        frames = (pack_envelope(2, 7), GOOD)
    assert line.to_other.send(ROUTE, frames)
    messages, _, left = line.arrive()
    assert messages == [Message(2, USER, 0, b"good")]
    connection, given = left
    assert connection.heard == 2
    assert given == list(frames)
    assert line.other.ledger.delivered == 1
    assert line.to_other.send(ROUTE, (pack_envelope(2, 0), GOOD))
    assert line.arrive()[0] == [Message(2, USER, 0, b"good")], (
        "the next one begins at its beginning"
    )


@pytest.mark.parametrize("heard", [0, 9])
def test_who_is_not_to_be_heard_is_left_to_python(line: Line, heard: int) -> None:
    line.open()
    for known in line.known.values():
        known.heard = heard
    assert line.to_other.send(ROUTE, (pack_envelope(1, 0), GOOD))
    messages, _, left = line.arrive()
    assert messages == []
    assert left[1] == [pack_envelope(1, 0), GOOD]


def test_an_object_without_a_word_on_who_is_heard(line: Line) -> None:
    line.open()
    line.known = dict.fromkeys(line.known, object())  # type: ignore[arg-type]
    assert line.to_other.send(ROUTE, (pack_envelope(1, 0), GOOD))
    with pytest.raises(AttributeError):
        line.arrive()
    assert line.to_other.send(ROUTE, (b"next",))
    assert line.arrive()[2][1] == [b"next"]


def test_what_is_refused(line: Line) -> None:
    exchange = line.one.exchange
    for arguments in ((3, "port", ROUTE, Ledger()), (3, line.to_other, ROUTE, None)):
        with pytest.raises(TypeError):
            exchange.reach(*arguments)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        exchange.reach(2**32, line.to_other, ROUTE, Ledger())
    with pytest.raises(TypeError):
        exchange.take_in(line.from_one, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        exchange.handle(line, line, {}, (1, 2, 3, b""))  # type: ignore[arg-type]


def test_the_way_back_is_told_now_and_then(line: Line) -> None:
    line.open()
    for number in range(EVERY):
        assert line.one.exchange.send(3, USER, 0, b"%d" % number)
    assert line.arrive()[1] == [2]


def test_a_group_needs_no_machine_for_its_requests(
    transport: str, config: GroupConfig, found: Any
) -> None:
    """Over connections too: what the machine in Python sees does not grow with the requests."""
    seen = 0
    group = found()

    def ask(group: Any) -> None:
        nonlocal seen
        receiver = group._session.receiver
        before = receiver.on_message

        def count(*message: Any) -> None:
            nonlocal seen
            seen += 1
            before(*message)

        for _ in range(50):
            group.request(group.parent_vmid, USER, b"x")
        receiver.on_message = count
        for _ in range(200):
            assert group.request(group.parent_vmid, USER, b"x") == b"xx"
        assert seen < 40, "acknowledgements, and what the clock brings"

    group.on(USER)(lambda message: message.payload * 2)
    assert group.spawn(ask, group).wait(20).code == 0
