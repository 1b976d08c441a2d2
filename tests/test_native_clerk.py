"""The clerk and its desks: what is answered without the interpreter, and what can go wrong."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from exchange_sides import Side, make_sides
from processes import Forked, Line, poll
from shared_memory import memory

from libos_ipc._native import Clerk, Lane, Shared
from libos_ipc.core.codes import Code

#: Where the desk of the lane's second end is asked by the first, and how its clerk is called.
DESK, ANSWER_TURN, ANSWER = 1024, 1024 + 64, 1024 + 64 + 16
RECEPTION, OPEN = 1024, 1024 + 192


class Served:
    """Two sides; the first asks, and the second has a clerk."""

    def __init__(self) -> None:
        self.one, self.other = make_sides()
        self.clerk = Clerk(self.other.bell_memory)
        self.clerk.serve(self.one.vmid, self.other.lane)

    def open(self) -> None:
        """Pretend that there is a clerk."""
        view(self.other)[OPEN] = 1

    @property
    def asked(self) -> int:
        """The turn of the last question."""
        return int(struct.unpack_from("<I", memoryview(self.one.shared), DESK)[0])


def view(side: Side) -> memoryview:
    return memoryview(side.bell_memory).cast("B")


def put(shared: Shared, offset: int, turn: int, message: bytes, gap: int) -> None:
    """Write message and turn at a desk, as either side may."""
    at = memoryview(shared).cast("B")
    at[offset + 4 + gap : offset + 4 + gap + len(message)] = message
    at[offset : offset + 4] = struct.pack("<I", turn)


def message(code: int, seq: int, *, number: int = 0, size: int = 17) -> bytes:
    return struct.pack("<QQQQB", number, 0, size, seq, code)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.clerk.stop()


def test_questions_are_answered_one_after_the_other(served: Served) -> None:
    served.clerk.start()
    for _ in range(3000):
        assert served.one.exchange.ping(3, None) is True
    assert served.asked == 3000
    assert len(served.one.requests) == 0
    assert served.one.ledger.sent == 0


def test_a_number_is_never_used_twice(served: Served) -> None:
    served.clerk.start()
    served.one.exchange.ping(3, None)
    assert served.one.requests.add(3, "ticket") == 2


def test_many_threads_ask_and_whoever_cannot_is_told(served: Served) -> None:
    served.clerk.start()
    found: list[bool | None] = []

    def ask() -> None:
        found.extend(served.one.exchange.ping(3, None) for _ in range(500))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2000
    assert False not in found
    assert found.count(True) == served.asked > 0


def test_without_a_clerk_nobody_is_asked(served: Served) -> None:
    assert served.one.exchange.ping(3, None) is None
    served.clerk.start()
    assert served.one.exchange.ping(3, None) is True
    served.clerk.stop()
    assert served.one.exchange.ping(3, None) is None
    assert served.asked == 1


def test_who_is_no_peer_is_not_asked(served: Served) -> None:
    assert served.one.exchange.ping(9, None) is None
    with pytest.raises(OverflowError):
        served.one.exchange.ping(2**40, None)
    with pytest.raises(TypeError):
        served.one.exchange.ping(3, "soon")  # type: ignore[arg-type]


def test_a_lane_that_is_not_read_is_not_asked() -> None:
    one, other = make_sides()
    clerk = Clerk(other.bell_memory)
    clerk.serve(2, other.lane)
    clerk.start()
    one.exchange.disconnect(3)
    one.exchange.connect(3, 3, one.lane, one.ledger)
    assert one.exchange.ping(3, None) is None
    one.exchange.write(3)
    assert one.exchange.ping(3, None) is None
    one.exchange.read_from(3)
    assert one.exchange.ping(3, None) is True
    clerk.stop()


def test_it_is_too_late_or_somebody_else_is_to_be_asked(served: Served) -> None:
    served.open()
    assert served.one.exchange.ping(3, 0) is False
    assert served.one.exchange.ping(3, 0.001) is False
    assert served.one.exchange.ping(3, None) is None


def test_a_closed_lane_ends_the_wait(served: Served) -> None:
    served.open()
    found: list[bool | None] = []
    asking = threading.Thread(target=lambda: found.append(served.one.exchange.ping(3, None)))
    asking.start()
    poll(lambda: served.asked == 1)
    served.one.exchange.disconnect(3)
    served.one.lane.close()
    asking.join()
    assert found == [None]


def test_what_was_asked_while_the_clerk_was_away_is_answered(served: Served) -> None:
    served.open()
    found: list[bool | None] = []
    asking = threading.Thread(target=lambda: found.append(served.one.exchange.ping(3, None)))
    asking.start()
    poll(lambda: served.asked == 1)
    served.clerk.start()
    asking.join()
    poll(lambda: struct.unpack_from("<I", memoryview(served.one.shared), ANSWER_TURN)[0] == 1)
    assert found[0] is not False  # None, if the asker had lost its patience


@pytest.mark.parametrize(
    "odd",
    [
        message(Code.PING, 0),
        message(Code.PING, 7, number=1),
        message(Code.PING, 7, size=18),
        message(Code.PING, 7, size=2**64 - 1),
        message(Code.GET_ID_OWNER, 7),
        message(255, 7),
        bytes(33),
        b"\xff" * 33,
    ],
)
def test_what_the_clerk_does_not_know_it_leaves(served: Served, odd: bytes) -> None:
    served.clerk.start()
    answered = memoryview(served.one.shared).cast("B")[ANSWER_TURN : ANSWER_TURN + 4]
    put(served.one.shared, DESK, 77, odd, 4)
    # Rung by way of a question, at another desk: it is looked at in the order of the lines.
    other = Lane(shared := memory(4096 * 3), False)
    served.clerk.serve(900, other)
    put(shared, DESK, 5, message(Code.PING, 1), 4)
    bits = view(served.other)
    bits[RECEPTION + 64] |= 1 << 2
    bits[RECEPTION + 64 + 900 // 8] |= 1 << 900 % 8
    served.clerk.stop()
    served.clerk.start()
    poll(lambda: memoryview(shared).cast("B")[ANSWER_TURN] == 5)
    assert bytes(answered) == bytes(4)
    assert served.one.exchange.ping(3, None) is True


@pytest.mark.parametrize(
    "wrong", [message(Code.RESP, 9), message(Code.PING, 1), message(Code.RESP, 1, size=99)]
)
def test_an_answer_to_something_else_is_none(served: Served, wrong: bytes) -> None:
    served.open()

    def lie() -> None:
        poll(lambda: served.asked == 1)
        put(served.one.shared, ANSWER_TURN, 1, wrong, 12)

    liar = threading.Thread(target=lie)
    liar.start()
    assert served.one.exchange.ping(3, None) is None
    liar.join()


def test_a_turn_that_moves_on_and_on_keeps_nobody(served: Served) -> None:
    served.open()
    turn = memoryview(served.one.shared).cast("B")[ANSWER_TURN : ANSWER_TURN + 4].cast("I")

    def lie(line: Line) -> None:
        line.send()
        count = 1 << 31
        while os.getppid() == asker:
            for _ in range(100_000):
                count += 1
                turn[0] = count & 0xFFFFFFFF | 1 << 30

    asker = os.getpid()
    with Forked(lie) as liar:
        liar.recv()
        begun = time.monotonic()
        for _ in range(20):
            assert served.one.exchange.ping(3, 0.02) is False
        assert time.monotonic() - begun < 10
        liar.kill()


def test_desks_come_and_go_while_others_ask(served: Served) -> None:
    served.clerk.start()
    found: list[bool | None] = []
    asking = threading.Thread(
        target=lambda: found.extend(served.one.exchange.ping(3, None) for _ in range(2000))
    )
    asking.start()
    for line in [*range(20, 300), 1023]:
        served.clerk.serve(line, Lane(memory(4096 * 3), False))
        served.clerk.leave(line)
    asking.join()
    assert found == [True] * 2000


def test_a_desk_keeps_its_memory(served: Served) -> None:
    served.clerk.start()
    served.other.lane.close()
    assert served.one.exchange.ping(3, None) is True
    served.clerk.leave(2)
    with pytest.raises(ValueError, match="closed"):
        served.clerk.serve(2, served.other.lane)
    served.clerk.leave(1000)


def test_there_is_a_thread_only_while_there_is_something_to_do() -> None:
    before = set(os.listdir("/proc/self/task"))
    one, other = make_sides()
    clerk = Clerk(one.bell_memory)
    clerk.start()
    assert not clerk.running
    clerk.serve(3, one.lane)
    assert clerk.running
    assert len(set(os.listdir("/proc/self/task")) - before) == 1
    clerk.start()
    clerk.stop()
    assert not clerk.running
    assert set(os.listdir("/proc/self/task")) == before
    clerk.stop()
    clerk.start()
    assert clerk.running
    del clerk, one, other
    assert set(os.listdir("/proc/self/task")) == before


def test_a_forked_child_has_none(served: Served) -> None:
    served.clerk.start()
    pid = os.fork()
    if pid == 0:
        fine = not served.clerk.running
        served.clerk.leave(2)
        served.clerk.stop()
        os._exit(0 if fine else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert served.one.exchange.ping(3, None) is True


def test_small_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="no reception fits"):
        Clerk(memory(1024))
    with pytest.raises(TypeError):
        Clerk(b"memory")  # type: ignore[arg-type]
    one, _ = make_sides()
    clerk = Clerk(one.bell_memory)
    with pytest.raises(TypeError, match="takes a Lane"):
        clerk.serve(1, None)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        clerk.serve(1024, one.lane)
