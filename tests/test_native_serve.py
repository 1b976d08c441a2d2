"""Handlers called by the exchange: what it does itself, what it leaves to its host, and who looks
at what is rung while a handler runs."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from exchange_sides import SEND_BUFFER, USER, Side, make_sides
from processes import poll

from libos_ipc._native import PORTER, SEAT, Ticket
from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Message

encode = msgspec.msgpack.encode


class Host:
    """Serves at one side, in a thread, and writes down what was left to it."""

    def __init__(self, side: Side, *, shared: bool = False) -> None:
        self.side = side
        self.shared = shared
        self.handlers: dict[int, tuple[Any, Any, Any]] = {}
        self.queue: deque[object] = deque()  # what is no message ends it
        self.calls: list[tuple[Any, ...]] = []
        self.left: list[tuple[list[int], list[int]]] = []
        self.raised: list[BaseException] = []
        self.thread = threading.Thread(target=self._serve)

    def on(self, code: int, function: Callable[..., object], decode: Any = None) -> None:
        self.handlers[code] = (function, decode, encode)

    def serve(self) -> None:
        self.side.exchange.serve(self, self, self.handlers, self.queue.__len__, self.shared)

    def _serve(self) -> None:
        try:
            self.serve()
        except BaseException as error:
            self.raised.append(error)

    def __enter__(self) -> Host:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.queue.append("the end")
        while self.thread.is_alive():
            self.side.bell.nudge(SEAT)
            self.thread.join(0.01)

    # ---- what `serve` calls

    def take(self) -> object:
        return self.queue.popleft() if isinstance(self.queue[0], Message) else None

    def run(self, message: Message) -> None:
        self.calls.append(("run", message))

    def failed(self, replies: object, message: Message, error: BaseException) -> None:
        assert replies is self
        self.calls.append(("failed", message, error))
        if isinstance(error, KeyboardInterrupt):
            raise error

    def answer(self, replies: object, src: int, seq: int, payload: object) -> None:
        assert replies is self
        self.calls.append(("answer", src, seq, payload))

    def consumed(self, replies: object, src: int, payload: bytes) -> None:
        assert replies is self
        self.calls.append(("consumed", src, payload))

    def announce(self, replies: object, src: int) -> None:
        assert replies is self
        self.calls.append(("announce", src))

    def finish_round(self) -> None:
        assert self.side.rounds.locked()
        self.left.append(self.side.exchange.left())

    def deliver(self, message: Message) -> None:
        self.calls.append(("deliver", message))


@pytest.fixture
def sides() -> tuple[Side, Side]:
    return make_sides()


@pytest.fixture
def host(sides: tuple[Side, Side]) -> Iterator[Host]:
    host = Host(sides[1])
    yield host
    assert host.raised == []
    assert not host.side.seat.locked()
    assert not host.side.exchange.waiting
    assert host.side.exchange.inside == 0


def ask(side: Side, code: int, payload: bytes, timeout: float | None = 20.0) -> object:
    return side.exchange.ask(3, code, payload, timeout)


def test_requests_are_answered_on_the_seat(sides: tuple[Side, Side], host: Host) -> None:
    one, other = sides
    host.on(USER, lambda message: message.payload * 2)
    with host:
        for number in range(2000):
            assert ask(one, USER, b"%d" % number) == b"%d" % number * 2
    assert host.calls == []
    assert len(one.requests) == 0
    assert other.ledger.consumed == other.ledger.received_bytes == one.ledger.sent_bytes
    assert (one.ledger.delivered, other.ledger.delivered) == (2000, 2000)


def test_values_are_decoded_and_encoded(sides: tuple[Side, Side], host: Host) -> None:
    decode = msgspec.msgpack.Decoder(list[int]).decode
    seen: list[Message] = []

    def total(numbers: list[int], message: Message) -> int:
        seen.append(message)
        return sum(numbers)

    host.on(USER, total, decode)
    host.on(USER + 1, lambda payload, message: payload[::-1], bytes)
    with host:
        assert ask(sides[0], USER, encode([1, 2, 3])) == encode(6)
        assert ask(sides[0], USER + 1, b"abc") == b"cba"
        assert sides[0].exchange.post(3, USER, encode([4]))
        assert sides[0].exchange.post(3, USER, b"\xc1 no list")
        poll(lambda: host.calls)
    assert seen == [
        Message(2, USER, 1, encode([1, 2, 3])),
        Message(2, USER, 0, encode([4])),
    ]
    assert type(seen[0]) is Message
    assert host.calls == [("run", Message(2, USER, 0, b"\xc1 no list"))]


def test_what_is_no_handlers_is_the_hosts(sides: tuple[Side, Side], host: Host) -> None:
    host.handlers[USER + 1] = None  # type: ignore[assignment]
    with host:
        assert ask(sides[0], USER, b"who?", 0.05) is False
        assert sides[0].exchange.post(3, USER + 1, b"odd")
        poll(lambda: len(host.calls) == 2)
    assert host.calls == [
        ("run", Message(2, USER, 1, b"who?")),
        ("run", Message(2, USER + 1, 0, b"odd")),
    ]


def test_an_exception_is_the_hosts(sides: tuple[Side, Side], host: Host) -> None:
    host.on(USER, lambda message: 1 // 0)
    host.on(USER + 1, lambda message: object())
    with host:
        assert ask(sides[0], USER, b"", 0.05) is False
        sides[0].exchange.post(3, USER, b"")
        assert ask(sides[0], USER + 1, b"", 0.05) is False
    kinds = [(call[0], call[1].seq, type(call[2])) for call in host.calls]
    assert kinds == [
        ("failed", 1, ZeroDivisionError),
        ("failed", 0, ZeroDivisionError),
        ("failed", 2, TypeError),
    ]
    assert host.calls[0][2].__traceback__ is not None


def test_an_answer_that_cannot_be_sent_is_a_failure(sides: tuple[Side, Side], host: Host) -> None:
    def refuses(replies: object, src: int, seq: int, payload: bytes) -> None:
        raise OverflowError(len(payload))

    host.answer = refuses  # type: ignore[method-assign]
    host.on(USER, lambda message: bytes(10**6))
    with host:
        assert ask(sides[0], USER, b"", 0.05) is False
    assert [(call[0], call[1].seq, type(call[2])) for call in host.calls] == [
        ("failed", 1, OverflowError)
    ]


def test_what_the_host_raises_ends_it(sides: tuple[Side, Side]) -> None:
    def enough(message: Message) -> None:
        raise KeyboardInterrupt

    host = Host(sides[1])
    host.on(USER, enough)
    with host:
        sides[0].exchange.post(3, USER, b"")
        host.thread.join()
    assert [type(error) for error in host.raised] == [KeyboardInterrupt]
    assert not sides[1].seat.locked()
    assert not sides[1].state() & 8, "nobody is awake"


def test_what_waits_elsewhere_goes_first(sides: tuple[Side, Side], host: Host) -> None:
    host.on(USER, host.calls.append)
    host.queue.append("before")
    sides[0].exchange.post(3, USER, b"")
    host.serve()
    assert host.calls == []
    host.queue.clear()
    with host:
        poll(lambda: host.calls)


def test_messages_of_the_queue_are_handled_before_those_of_the_lane(
    sides: tuple[Side, Side], host: Host
) -> None:
    one, other = sides
    seen: list[bytes] = []
    awake: list[bool] = []

    def handler(message: Message) -> None:
        seen.append(message.payload)
        awake.append(bool(other.state() & 8))

    host.on(USER, handler)
    host.queue += [Message(9, USER, 0, b"1"), Message(9, 0, 0, b"withdrawn")]
    host.queue.append(Message(2, USER, 0, b"2"))
    one.exchange.post(3, USER, b"3")
    with host:
        poll(lambda: len(seen) == 3)
    assert seen == [b"1", b"2", b"3"]
    assert awake[1:] == [True, True], "the porter would add to the queue for ever"
    assert host.calls == [("consumed", 9, b"1"), ("consumed", 9, b"withdrawn")]


def test_a_sleeping_server_looks_at_the_queue_when_nudged(
    sides: tuple[Side, Side], host: Host
) -> None:
    host.thread.start()
    poll(lambda: host.side.state() & SEAT)
    assert host.side.exchange.waiting
    host.queue.append("something")
    host.side.bell.nudge(SEAT)
    host.thread.join()


def test_the_seat_is_given_up_if_it_is_wanted(sides: tuple[Side, Side], host: Host) -> None:
    one, other = sides
    host.thread.start()
    poll(lambda: other.state() & SEAT)
    assert other.exchange.call(2, USER, b"", Ticket(), time.monotonic()) is False
    assert other.exchange.wanted
    one.exchange.post(3, USER, b"")  # anything
    host.thread.join()
    assert not other.exchange.wanted
    assert not other.seat.locked()


def test_a_withdrawn_request_is_not_handled(sides: tuple[Side, Side], host: Host) -> None:
    one, other = sides
    first, second = one.requests.add(3, (USER, Ticket())), one.requests.add(3, (USER, Ticket()))
    seen: list[int] = []

    def handler(message: Message) -> bytes:
        seen.append(message.seq)
        if message.seq == first:
            assert other.exchange.withdraw(2, second)
            assert not other.exchange.withdraw(2, second), "it is not there any more"
            assert not other.exchange.withdraw(2, first), "it has begun"
        return b""

    host.on(USER, handler)
    for seq in (first, second):
        one.exchange.send(3, USER, seq, b"payload")
    one.exchange.post(3, USER, b"behind")
    with host:
        poll(lambda: len(seen) == 2)
    assert seen == [first, 0]
    assert other.ledger.consumed == other.ledger.received_bytes


def test_others_may_handle_what_is_shared(sides: tuple[Side, Side]) -> None:
    host = Host(sides[1], shared=True)
    here: list[bytes] = []
    host.on(USER, lambda message: here.append(message.payload))
    for payload in (b"1", b"2", b"3"):
        sides[0].exchange.post(3, USER, payload)
    with host:
        poll(lambda: here)
    assert here == [b"1"]
    assert [(name, message.payload) for name, message in host.calls] == [
        ("deliver", b"2"),
        ("deliver", b"3"),
    ]


def test_the_rest_of_a_batch_is_handled_by_the_next(sides: tuple[Side, Side]) -> None:
    """A handler that ends the thread that serves loses nothing behind it."""
    host = Host(sides[1])
    seen: list[bytes] = []

    def handler(message: Message) -> None:
        seen.append(message.payload)
        if message.payload == b"1":
            raise KeyboardInterrupt

    host.on(USER, handler)
    for payload in (b"1", b"2", b"3"):
        sides[0].exchange.post(3, USER, payload)
    with host:
        host.thread.join()
    assert seen == [b"1"]
    host.queue.clear()
    host.thread = threading.Thread(target=host._serve)
    with host:
        poll(lambda: seen == [b"1", b"2", b"3"])


def test_an_exchange_closed_by_a_handler(sides: tuple[Side, Side], host: Host) -> None:
    one, other = sides

    def close(message: Message) -> bytes:
        other.exchange.close()
        return b"answer"

    host.on(USER, close)
    one.exchange.post(3, USER, b"")
    one.exchange.post(3, USER, b"never handled")
    seq = one.requests.add(3, (USER, Ticket()))
    one.exchange.send(3, USER, seq, b"")
    host.serve()
    assert host.calls == []
    host.serve()
    assert host.calls == []


def test_what_others_are_to_know_is_told(sides: tuple[Side, Side], host: Host) -> None:
    one, other = sides
    host.on(USER, lambda message: b"answer")
    other.exchange.unclocked = True
    with host:
        assert ask(one, USER, b"", 0.05) is False
        assert host.calls == [("answer", 2, 1, b"answer")], "it is told to the clock"
        assert host.left, "so is what has come"
        other.exchange.unclocked = False
        other.ledger.starving = True
        assert ask(one, USER, b"") == b"answer"
        assert host.calls[1:] == [("announce", 2)]
        one.lane.send(3, 0, Code.PROBE, 0, b"")
        poll(lambda: ([2], []) in host.left)
    one.exchange.unclocked = True
    assert ask(one, USER, b"") is None
    assert one.exchange.post(3, USER, b"") is False


def test_what_is_not_plain_goes_the_long_way(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    for code, payload in (
        (USER, bytearray(b"")),
        (USER, "text"),
        (Code.RESP, b""),
        (256, b""),
        (-1, b""),
        ("70", b""),
        (USER, bytes(10**6)),
    ):
        assert one.exchange.ask(3, code, payload, None) is None  # type: ignore[arg-type]
        assert one.exchange.post(3, code, payload) is False  # type: ignore[arg-type]
    assert one.exchange.ask(9, USER, b"", None) is None
    assert one.exchange.post("3", USER, b"") is False  # type: ignore[arg-type]
    one.ledger.sent_bytes = SEND_BUFFER
    assert one.exchange.post(3, USER, b"") is False
    assert one.ledger.sent == 0
    with pytest.raises(TypeError):
        one.exchange.ask(3, USER, b"", "soon")  # type: ignore[arg-type]


def test_an_error_is_raised(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    raised: list[BaseException] = []

    def asks() -> None:
        try:
            one.exchange.ask(3, USER, b"", None)
        except LookupError as error:
            raised.append(error)

    thread = threading.Thread(target=asks)
    thread.start()
    poll(lambda: one.state() & SEAT)
    ((_, ticket),) = one.requests.drain()
    ticket.fail(LookupError("no answer"))
    one.bell.nudge(SEAT)
    thread.join()
    assert [str(error) for error in raised] == ["no answer"]
    assert one.withdrawn == []


def test_a_request_that_nobody_waits_for_is_withdrawn(sides: tuple[Side, Side]) -> None:
    one, _ = sides

    def enough(*args: object) -> None:
        raise InterruptedError("by a handler")

    assert ask(one, USER, b"", 0) is False
    assert one.withdrawn == [1]
    before = signal.signal(signal.SIGALRM, enough)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError, match="by a handler"):
            ask(one, USER, b"")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert one.withdrawn == [1, 2]
    assert len(one.requests) == 0


def test_signals_end_the_wait_of_the_main_thread(sides: tuple[Side, Side], host: Host) -> None:
    class Enough(Exception):
        pass

    def enough(*args: object) -> None:
        assert not host.side.seat.locked()
        raise Enough

    before = signal.signal(signal.SIGALRM, enough)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Enough):
            host.serve()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not host.side.state() & (8 | SEAT)


# ---- one way


@pytest.mark.parametrize(("tick_in_s", "told"), [(60.0, False), (-60.0, True)])
def test_the_clock_hears_of_what_comes_when_a_tick_may_be_due(
    sides: tuple[Side, Side], host: Host, tick_in_s: float, told: bool
) -> None:
    one, other = sides
    other.exchange.unclocked = True
    other.exchange.tick_at = time.monotonic() + tick_in_s
    seen: list[bytes] = []
    host.on(USER, lambda message: seen.append(message.payload))
    with host:
        one.exchange.post(3, USER, b"one")
        poll(lambda: seen)
    assert (host.left == [([], [])]) is told


def test_what_a_handler_returns_that_nobody_asked_is_not_encoded(
    sides: tuple[Side, Side], host: Host
) -> None:
    one, _ = sides
    seen: list[bytes] = []

    def handler(message: Message) -> object:
        seen.append(message.payload)
        return object()

    host.on(USER, handler)
    with host:
        one.exchange.post(3, USER, b"one")
        poll(lambda: seen)
        assert host.calls == []
        one.exchange.send(3, USER, 7, b"two")
        poll(lambda: host.calls)
    assert [call[0] for call in host.calls] == ["failed"]


# ---- the vigil


class Porter:
    """Sleeps as the porter does, counts how often it is to read, and answers what it finds."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.reads = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping:
            self.side.bell.sleep(PORTER, None)
            self.reads += 1
            for message in self.side.read():
                if message.seq:
                    self.side.exchange.send(message.src, Code.RESP, message.seq, b"")

    def __enter__(self) -> Porter:
        self._thread.start()
        poll(lambda: self.side.state() & PORTER)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping = True
        self.side.bell.nudge(PORTER)
        self._thread.join()


@pytest.mark.parametrize("burst", [0, 50], ids=["alone", "behind many"])
def test_what_is_rung_during_a_long_handler_is_read(
    sides: tuple[Side, Side], host: Host, burst: int
) -> None:
    one, other = sides
    entered, go_on = threading.Event(), threading.Event()

    def wait(message: Message) -> None:
        entered.set()
        assert go_on.wait(20)

    host.on(USER, lambda message: b"")
    host.on(USER + 1, wait)
    with Porter(other) as porter, host:
        for _ in range(burst):
            assert ask(one, USER, b"") == b""
        one.exchange.post(3, USER + 1, b"")
        assert entered.wait(20)
        for _ in range(3):
            before = porter.reads
            one.exchange.post(3, USER, b"")
            poll(lambda before=before: porter.reads > before)  # type: ignore[misc]
        go_on.set()
        assert ask(one, USER, b"") == b""


def test_a_stream_of_short_handlers_leaves_the_porter_asleep(
    sides: tuple[Side, Side], host: Host
) -> None:
    one, other = sides
    host.on(USER, lambda message: b"")
    with Porter(other) as porter, host:
        for _ in range(100):
            ask(one, USER, b"")
        before = porter.reads
        for _ in range(3000):
            ask(one, USER, b"")
        assert porter.reads - before < 300
    assert not other.state() & 8, "nobody is awake"
