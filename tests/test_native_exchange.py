"""Messages by a lane without Python: what is dealt with there, what is left, and who is woken."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from typing import Any

import exchange_sides
import pytest
from exchange_sides import EVERY, MOST, ROOM, SEND_BUFFER, USER, Side, make_sides
from processes import Forked, Line, poll
from shared_memory import memory

from libos_ipc._native import PORTER, SEAT, Exchange, Landing, Lane, Ledger, Shared, Ticket
from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Message, Outgoing
from libos_ipc.errors import PeerDied


@pytest.fixture
def sides() -> tuple[Side, Side]:
    return make_sides()


class Answering:
    """A thread that answers every request of `one` with its payload twice."""

    def __init__(self, side: Side, to: int, code: int = Code.RESP) -> None:
        self._side, self._to, self._code = side, to, code
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stopping = True
        self._side.bell.nudge(PORTER)
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._side.bell.sleep(PORTER, None)
            for message in self._side.read():
                twice = message.payload * 2
                assert self._side.exchange.send(self._to, self._code, message.seq, twice)


def test_a_request_is_answered(sides: tuple[Side, Side]) -> None:
    one, other = sides
    with Answering(other, 2):
        for number in range(1, 2000):
            ticket = Ticket()
            assert one.exchange.call(3, USER, b"%d" % number, ticket, None) is True
            assert ticket.settled()
            assert ticket.number == number
            assert ticket.result() == b"%d" % number * 2
    assert len(one.requests) == 0
    assert (one.ledger.sent, one.ledger.delivered) == (1999, 1999)
    assert one.ledger.kept == []
    assert not one.exchange.waiting
    assert not one.seat.locked()
    assert not one.rounds.locked()


def test_what_is_kept_of_a_request_could_be_sent_again(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    before = time.monotonic()
    assert one.exchange.call(3, USER, b"body", Ticket(), before + 0.01) is False
    assert time.monotonic() >= before + 0.01
    assert one.exchange.send(3, 200, 0, memoryview(b"more"))
    (first, asked), (second, said) = one.ledger.kept
    assert (first, second) == (1, 2)
    assert asked == Outgoing(USER, 1, b"body")
    assert type(asked) is Outgoing
    assert (said.code, said.seq, bytes(said.body), said.of) == (200, 0, b"more", 0)
    assert one.requests.peer_of(1) == 3
    assert one.ledger.sent_bytes == 17 + 4 + 17 + 4


def test_messages_of_the_program_are_handed_out(sides: tuple[Side, Side]) -> None:
    one, other = sides
    for number in range(20):
        assert one.exchange.send(3, USER + number, number, b"x" * number)
    found = other.read()
    assert found == [Message(2, USER + n, n, b"x" * n) for n in range(20)]
    assert {type(message) for message in found} == {Message}
    assert (other.ledger.delivered, other.ledger.received_bytes) == (20, 20 * 17 + 190)


def test_many_are_read_in_order_whenever_they_are_published(sides: tuple[Side, Side]) -> None:
    one, other = sides
    payloads = tuple(b"%d" % number for number in range(50))
    assert one.exchange.post_many(3, USER, payloads, 0) == 50
    assert one.exchange.post(3, USER, b"between")
    assert one.exchange.post_many(3, USER, payloads, 45) == 50
    found = [message.payload for message in other.read()]
    assert found == [*payloads, b"between", *payloads[45:]]
    assert (one.ledger.sent, other.ledger.delivered) == (56, 56)


def test_many_end_at_the_first_that_goes_the_long_way(sides: tuple[Side, Side]) -> None:
    one, other = sides
    payloads = (b"one", b"two", "text", b"three")
    assert one.exchange.post_many(3, USER, payloads, 0) == 2
    assert one.exchange.post_many(3, USER, payloads, 2) == 2
    assert one.exchange.post_many(3, USER, payloads, 3) == 4
    assert one.exchange.post_many(3, USER, payloads, 9) == 9
    assert one.exchange.post_many(9, USER, payloads, 0) == 0
    assert one.exchange.post_many(3, 20, payloads, 0) == 0
    assert one.exchange.post_many(-3, USER, payloads, 1) == 1
    with one.lock:
        assert one.exchange.post_many(3, USER, payloads, 0) == 0
    assert [message.payload for message in other.read()] == [b"one", b"two", b"three"]
    for wrong in ((3, USER, [b"list"], 0), (3, USER, (), -1)):
        with pytest.raises((TypeError, OverflowError)):
            one.exchange.post_many(*wrong)  # type: ignore[arg-type]


def test_many_that_do_not_fit_go_on_when_there_is_room(sides: tuple[Side, Side]) -> None:
    one, other = sides
    payloads = tuple(b"%d" % number * 10 for number in range(1000))
    assert one.exchange.post_many(3, USER, payloads, 0) == 1000
    found: list[bytes] = []
    while len(found) < 1000:
        found += [message.payload for message in other.read()]
        one.read()
    assert tuple(found) == payloads


def test_a_lane_is_closed_while_its_writer_yields(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane is full, as a stream makes it: each message lets others run before it goes."""
    monkeypatch.setattr(exchange_sides, "ROOM", 1 << 17)
    for _ in range(20):
        one, other = make_sides()
        posted = 0

        def post(one: Side = one) -> None:
            nonlocal posted
            while one.exchange.post(3, USER, b"small"):
                posted += 1

        writer = threading.Thread(target=post)
        writer.start()
        found: list[Message] = []
        while len(found) < 10_000:
            found += other.read()
            one.read()
        one.exchange.disconnect(3)
        one.lane.close()
        writer.join()
        assert posted >= len(found)
        assert {message.payload for message in found} == {b"small"}


def test_one_message_to_each_of_several_peers(sides: tuple[Side, Side]) -> None:
    one, other = sides
    assert one.exchange.post_all((9, 3, 4), USER, b"all") == [9, 4]
    assert one.exchange.post_all((), USER, b"all") == []
    assert one.exchange.post_all((3, 9), USER, "text") == [3, 9]
    assert [message.payload for message in other.read()] == [b"all"]
    for wrong in (([3], USER, b""), ((-1,), USER, b""), ((3,), 300, b"")):
        with pytest.raises((TypeError, OverflowError)):
            one.exchange.post_all(*wrong)  # type: ignore[arg-type]


def test_news_of_what_has_arrived_for_those_who_want_it(sides: tuple[Side, Side]) -> None:
    one, other = sides
    for _ in range(EVERY):
        one.exchange.send(3, USER, 0, b"")
    with other.rounds:
        rung = other.exchange.read()
    assert rung is not None
    assert rung[2] == [2], "so many have not been acknowledged"
    assert other.exchange.read() is None
    other.exchange.send(2, USER, 0, b"")
    one.read()
    assert one.exchange.read() is None, "nobody asked"
    one.exchange.watched = True
    one.exchange.send(3, USER, 0, b"")
    other.read()
    other.exchange.send(2, USER, 0, b"")
    rung = one.exchange.read()
    assert rung is not None
    assert rung[2] == [3]


@pytest.mark.parametrize(
    ("number", "acked", "code", "seq"),
    [(1, 0, Code.PROBE, 0), (2, 0, USER, 0), (0, 0, USER, 0), (1, 1, USER, 0), (1, 0, 0, 77)],
    ids=["library's", "early", "unnumbered", "absurd", "answer to nothing"],
)
def test_what_is_more_than_that_is_left_where_it_is(
    sides: tuple[Side, Side], number: int, acked: int, code: int, seq: int
) -> None:
    one, other = sides
    one.lane.send(number, acked, code, seq, b"payload")
    with other.rounds:
        rung = other.exchange.read()
    assert rung == ([], [2], [])
    assert other.lane.receive(MOST) == (number, acked, code, seq, b"payload")
    assert other.ledger.delivered == 0


def test_an_answer_that_somebody_else_decodes_is_left(sides: tuple[Side, Side]) -> None:
    one, other = sides
    seq = one.requests.add(3, (Code.GET_ID_OWNER, Ticket()))
    other.exchange.send(2, Code.RESP, seq, b"1234")
    assert one.exchange.read() == ([], [3], [])
    foreign = one.requests.add(9, (USER, Ticket()))
    one.lane.receive(MOST)
    other.exchange.send(2, Code.RESP, foreign, b"1234")
    assert one.exchange.read() == ([], [3], [])


def test_a_waiter_leaves_to_the_porter_what_is_no_answer(sides: tuple[Side, Side]) -> None:
    one, other = sides
    tickets = [Ticket()]
    asked = threading.Thread(
        target=lambda: one.exchange.call(3, USER, b"", tickets[0], None), name="asks"
    )
    porter_woken: list[bool] = []
    one.bell.sleep(PORTER, 0)
    porter = threading.Thread(target=lambda: porter_woken.append(one.bell.sleep(PORTER, None)))
    porter.start()
    poll(lambda: one.state() & PORTER)
    asked.start()
    poll(lambda: one.state() & SEAT)
    assert one.exchange.waiting
    other.exchange.send(2, USER, 5, b"for a handler")
    porter.join()
    assert porter_woken == [True]
    with one.rounds:
        assert one.exchange.read() == ([], [3], []), "for Python to look"
        assert one.exchange.read() is None
    assert one.lane.receive(MOST) == (1, 0, USER, 5, b"for a handler")
    one.ledger.receive(1, 0, 30, 0.0)
    assert not tickets[0].settled()
    other.read()
    other.exchange.send(2, Code.RESP, tickets[0].number, b"answer")
    asked.join()
    assert tickets[0].result() == b"answer"


def test_a_waiter_is_woken_though_another_has_read_its_answer(sides: tuple[Side, Side]) -> None:
    one, other = sides
    ticket = Ticket()
    asked = threading.Thread(target=one.exchange.call, args=(3, USER, b"", ticket, None))
    asked.start()
    poll(lambda: one.state() & SEAT)
    # Somebody is at work, so the answer wakes nobody …
    one.bell.again(900)
    assert one.bell.take() == [900]
    other.read()
    other.exchange.send(2, Code.RESP, ticket.number, b"answer")
    assert one.state() & SEAT
    # … and is read by him.
    count = memoryview(one.bell_memory).cast("I")
    before = count[0]
    assert one.read() == []
    assert count[0] != before, "the seat was not called: it would sleep for seconds"
    asked.join()
    assert ticket.result() == b"answer"


def test_a_waiter_does_not_wait_for_another_who_reads(sides: tuple[Side, Side]) -> None:
    """Signal handlers would run meanwhile, on the seat."""
    one, other = sides
    ticket = Ticket()
    results: list[object] = []
    with one.rounds:
        asked = threading.Thread(
            target=lambda: results.append(one.exchange.call(3, USER, b"", ticket, None))
        )
        asked.start()
        poll(lambda: one.state() & SEAT)
        other.read()
        other.exchange.send(2, Code.RESP, ticket.number, b"answer")
        poll(lambda: not one.seat.locked())
        assert results == []
    assert one.read() == []
    asked.join()
    assert results == [True]


def test_lines_that_nobody_has_are_remembered_once(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    stop = threading.Event()

    def hostile() -> None:
        while not stop.is_set():
            for line in range(100, 900, 7):
                one.bell.again(line)
            one.bell.nudge(SEAT)

    attacker = threading.Thread(target=hostile)
    attacker.start()
    ticket = Ticket()
    assert one.exchange.call(3, USER, b"", ticket, time.monotonic() + 0.2) is False
    stop.set()
    attacker.join()
    rung = one.exchange.read()
    assert rung is not None
    assert set(rung[1]) <= set(range(100, 900, 7))
    assert len(rung[1]) <= 2 * len(range(100, 900, 7))


def test_under_the_sessions_lock_nothing_goes_this_way(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    with one.lock:
        assert one.exchange.call(3, USER, b"", Ticket(), None) is None
        assert one.exchange.send(3, USER, 0, b"") is False
    assert one.ledger.sent == 0
    assert len(one.requests) == 0
    assert not one.seat.locked()


def test_what_there_is_no_room_for_waits(sides: tuple[Side, Side]) -> None:
    """In order, and whoever sends next sends what waits as far as there is room."""
    one, other = sides
    sent = [bytes([number]) * size for number, size in enumerate([1000] * 6 + [3 * ROOM, 0, 50])]
    for payload in sent:
        assert one.exchange.send(3, USER, 0, payload)
    assert one.lane.waits
    assert one.ledger.sent == len(sent)
    found: list[bytes] = []
    while len(found) < len(sent) - 1:
        arrival = other.lane.receive(MOST)
        if arrival is not None:
            found.append(arrival[4])
        elif len(found) < 7:
            one.lane.flush()
        else:
            break
    one.exchange.send(3, USER, 0, b"last")
    assert not one.lane.waits
    while (arrival := other.lane.receive(MOST)) is not None:
        found.append(arrival[4])
    assert found == [*sent, b"last"]


def test_what_may_change_while_it_waits_goes_the_long_way(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    assert one.exchange.send(3, USER, 0, memoryview(bytes(ROOM))) is False
    assert one.exchange.call(3, USER, memoryview(bytes(ROOM)), Ticket(), None) is None
    assert one.ledger.sent == 0


def test_the_bound_in_bytes_holds_for_programs_and_not_for_answers(
    sides: tuple[Side, Side],
) -> None:
    one, _ = sides
    one.ledger.sent_bytes = SEND_BUFFER
    assert one.exchange.send(3, USER, 0, b"") is False
    assert one.exchange.call(3, USER, b"", Ticket(), None) is None
    assert one.exchange.send(3, Code.RESP, 9, b"") is True
    assert one.exchange.call(3, Code.GET_ID_OWNER, b"1234", Ticket(), 0) is False


def test_who_is_not_there(sides: tuple[Side, Side]) -> None:
    one, other = sides
    assert one.exchange.call(9, USER, b"", Ticket(), None) is None
    assert one.exchange.send(9, USER, 0, b"") is False
    for mark in (one.exchange.write, one.exchange.read_from):
        with pytest.raises(ValueError, match="not connected"):
            mark(9)
    one.exchange.disconnect(9)
    one.exchange.disconnect(3)
    assert one.exchange.send(3, USER, 0, b"") is False
    other.exchange.send(2, USER, 0, b"")
    assert one.exchange.read() == ([], [3], []), "for Python to look"


def test_closed_it_carries_nothing_and_keeps_nothing_back(sides: tuple[Side, Side]) -> None:
    one, other = sides
    one.exchange.close()
    assert one.exchange.call(3, USER, b"", Ticket(), None) is None
    one.exchange.connect(3, 3, one.lane, one.ledger)
    one.exchange.write(3)
    one.exchange.read_from(3)
    assert one.exchange.send(3, USER, 0, b"") is False
    other.exchange.send(2, USER, 0, b"")
    assert one.exchange.read() == ([], [3], [])
    assert one.exchange.read() is None


def test_before_it_may_be_read_it_is_not() -> None:
    shared = memory(4096 + 2 * ROOM)
    one, other = Side(2, shared, first=True), Side(3, shared, first=False)
    one.meet(other)
    other.lane.reach(one.bell_memory, 3)
    other.exchange.connect(2, 2, other.lane, other.ledger)
    assert one.exchange.send(3, USER, 0, b"early")
    assert other.read() == []
    assert other.exchange.send(2, USER, 0, b"") is False
    other.exchange.read_from(2)
    other.bell.again(2)
    assert [message.payload for message in other.read()] == [b"early"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="no Python code runs in a reading then")
def test_what_may_be_read_from_the_middle_of_a_reading_on_is_left_to_the_next(
    sides: tuple[Side, Side],
) -> None:
    """Who reads for handlers has seen before it that nothing is queued. As where the interpreter
    lock is let go of for a large payload, and a connection brings the last that goes before."""
    one, other = sides
    shared = memory(4096 + 2 * ROOM)
    third, lane = Side(4, shared, first=False), Lane(shared, True)
    lane.reach(third.bell_memory, 2)
    one.exchange.connect(4, 4, lane, Ledger())
    third.meet(one)
    words = [b"first", b"second", b"third", b"fourth"]
    for word in words:
        assert other.exchange.send(2, USER, 0, word)
    assert third.exchange.send(2, USER, 0, b"behind the queue")
    opened: list[str] = []

    def come(phase: str, info: dict[str, int]) -> None:
        if not opened and one.ledger.delivered:
            opened.append(phase)
            one.exchange.read_from(4)
            one.bell.again(4)

    before = gc.get_threshold()
    gc.callbacks.append(come)
    gc.set_threshold(1)
    try:
        first = one.exchange.read()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(come)
    assert opened
    assert first is not None
    assert [message.payload for message in first[0]] == words
    assert [message.payload for message in one.read()] == [b"behind the queue"]


def test_signals_are_handled_while_waiting(sides: tuple[Side, Side]) -> None:
    class Enough(Exception):
        pass

    def enough(*args: object) -> None:
        raise Enough

    one, other = sides
    before = signal.signal(signal.SIGALRM, enough)
    ticket = Ticket()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Enough):
            one.exchange.call(3, USER, b"", ticket, None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ticket.number == 1
    assert not one.seat.locked()
    assert not one.exchange.waiting
    other.read()
    other.exchange.send(2, Code.RESP, 1, b"late")
    one.read()
    assert ticket.result() == b"late"


def test_halted_nobody_takes_the_seat_or_stays(sides: tuple[Side, Side]) -> None:
    one, other = sides
    results: list[object] = []
    ticket = Ticket()
    thread = threading.Thread(
        target=lambda: results.append(one.exchange.call(3, USER, b"", ticket, None))
    )
    thread.start()
    poll(lambda: one.state() & SEAT)
    one.exchange.halted = True
    one.bell.nudge(SEAT)
    poll(lambda: not one.seat.locked())
    assert one.exchange.call(3, USER, b"", Ticket(), time.monotonic()) is False
    other.read()
    other.exchange.send(2, Code.RESP, ticket.number, b"answer")
    one.read()
    thread.join()
    assert results == [True]


def test_two_who_wait_at_once_both_hear(sides: tuple[Side, Side]) -> None:
    one, other = sides
    failed: list[object] = []

    def ask(name: int) -> None:
        for number in range(400):
            payload = b"%d %d" % (name, number)
            ticket = Ticket()
            done = one.exchange.call(3, USER, payload, ticket, None)
            if not done and not ticket.wait(20):
                failed.append((name, number))
            elif ticket.result() != payload * 2:
                failed.append(ticket.result())

    stop = threading.Event()

    def porter() -> None:
        while not stop.is_set():
            one.bell.sleep(PORTER, None)
            one.read()

    own = threading.Thread(target=porter)
    own.start()
    with Answering(other, 2):
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stop.set()
    one.bell.nudge(PORTER)
    own.join()
    assert failed == []
    assert len(one.requests) == 0


def test_wrong_arguments(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    call: Any = one.exchange.call
    for wrong in (
        (3, 256, b"", Ticket(), None),
        (2**32, USER, b"", Ticket(), None),
        (3, USER, "text", Ticket(), None),
        (3, USER, b"", object(), None),
        (3, USER, b"", Ticket(), "soon"),
        (3, USER, b"", Ticket()),
    ):
        with pytest.raises((TypeError, OverflowError)):
            call(*wrong)
    connect: Any = one.exchange.connect
    for wrong in ((4, 4, one.lane, object()), (4, 4, object(), one.ledger), (4, 2000, 0, 0)):
        with pytest.raises((TypeError, OverflowError)):
            connect(*wrong)
    with pytest.raises(ValueError, match="connected"):
        connect(3, 4, one.lane, one.ledger)
    with pytest.raises(ValueError, match="in use"):
        connect(4, 3, one.lane, one.ledger)
    assert one.ledger.sent == 0
    with pytest.raises(TypeError):
        Exchange(
            one.bell,
            one.requests,
            one.lock,
            one.rounds,
            one.seat,
            int,
            Outgoing,
            1,
            1,
            1,  # type: ignore[arg-type]
        )


def test_a_ticket_is_settled_once() -> None:
    ticket = Ticket()
    assert not ticket.settled()
    assert not ticket.wait(0)
    assert not ticket.wait(0.001)
    with pytest.raises(RuntimeError, match="not settled"):
        ticket.result()
    ticket.resolve(b"answer")
    assert ticket.settled()
    assert ticket.succeeded()
    assert ticket.wait(None)
    assert ticket.result() == b"answer"
    for settle in (lambda: ticket.resolve(b""), lambda: ticket.fail(ValueError())):
        with pytest.raises(RuntimeError, match="already"):
            settle()
    failed = Ticket()
    with pytest.raises(TypeError):
        failed.fail("no exception")  # type: ignore[arg-type]
    failed.fail(PeerDied("gone"))
    assert failed.wait(None)
    assert not failed.succeeded()
    with pytest.raises(PeerDied, match="gone"):
        failed.result()


def test_a_ticket_wakes_the_thread_that_waits() -> None:
    for settle in (lambda ticket: ticket.resolve(b""), lambda ticket: ticket.fail(ValueError())):
        ticket = Ticket()
        thread = threading.Thread(target=ticket.wait, args=(None,))
        thread.start()
        settle(ticket)
        thread.join()


def test_a_loop_is_called_once_for_all_that_land_until_it_takes_them() -> None:
    def calls() -> int:
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(landing.fileno())
        return 0

    landing, found = Landing(), list[Ticket]()
    tickets = [Ticket(landing, object()) for _ in range(5)]  # type: ignore[arg-type]
    tickets[0].resolve(b"")
    tickets[1].fail(PeerDied("gone"))
    assert (calls(), landing.landed) == (1, 2)
    landing.take(found)
    tickets[2].resolve(b"")
    assert calls() == 1
    landing.take(found)
    landing.attending = True  # it looks by itself
    tickets[3].resolve(b"")
    assert (calls(), landing.landed) == (0, 1)
    landing.take(found)
    landing.attending = False
    tickets[4].resolve(b"")
    assert calls() == 1
    landing.take(found)
    assert found == tickets
    landing.close()


def _give_room_and_take_it_back(line: Line, shared: Shared) -> None:
    counts = memoryview(shared).cast("Q")
    line.send()
    while not line._pipe.poll(0):
        for number in range(1000):
            full = number % 10 == 0
            counts[8] = (counts[0] - 2**20 * full) % 2**64


def test_what_was_sent_is_there_though_the_reader_takes_room_back() -> None:
    """Whatever it claims at any moment: what counts as sent lies in its memory, or waits."""
    one, _ = make_sides()
    counts = memoryview(one.shared).cast("Q")
    sent = 0
    with Forked(_give_room_and_take_it_back, one.shared) as reader:
        reader.recv()
        for _ in range(20_000):
            sent += one.exchange.post(3, USER, b"")
        reader.send()
        reader.result()
    assert sent > 1000

    def is_out() -> bool:
        counts[8] = counts[0]
        one.lane.flush()
        return not one.lane.waits

    poll(is_out)
    assert counts[0] == 33 * sent
