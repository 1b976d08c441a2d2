"""Messages through shared memory, and the bell: bytes, wrap, room, sleep, and a hostile writer."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import DEADLINE_S, Forked, Line, descriptors, poll
from shared_memory import memory

from libos_ipc._native import BELL_LINES, PORTER, SEAT, Doorbell, Lane, Malformed, Shared

SMALLEST = 4096
BELL_BYTES = 4096
MOST = 1 << 30
#: Where the counts of the two channels lie: written, read, wanting; the first's, and the second's.
CHANNEL = 192
HEAD = struct.Struct("<QQQQB")


class Pair:
    """Both ends of a lane in one process, and their bells."""

    def __init__(self, capacity: int = SMALLEST) -> None:
        self.memory = memory(4096 + 2 * capacity)
        self.bells = memory(BELL_BYTES), memory(BELL_BYTES)
        self.doorbells = Doorbell(self.bells[0]), Doorbell(self.bells[1])
        self.ends = Lane(self.memory, True), Lane(self.memory, False)
        self.ends[0].reach(self.bells[1], 3)
        self.ends[1].reach(self.bells[0], 900)

    def counts(self, which: int) -> memoryview:
        """written, and eight words later read, of the channel from end `which`."""
        return memoryview(self.memory)[which * CHANNEL :].cast("B")[:CHANNEL].cast("Q")


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_messages_arrive_in_order_both_ways(pair: Pair) -> None:
    one, other = pair.ends
    for number in range(1, 6):
        one.send(number, number + 1, 70, 2**63 + number, bytes([number]) * number)
    other.send(9, 8, 255, 0, memoryview(b"back"))
    for number in range(1, 6):
        found = other.receive(MOST)
        assert found == (number, number + 1, 70, 2**63 + number, bytes([number]) * number)
    assert other.receive(MOST) is None
    assert one.receive(MOST) == (9, 8, 255, 0, b"back")
    assert not one.waits


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 3 * SMALLEST), max_size=40), st.randoms(use_true_random=False))
def test_what_has_no_room_goes_when_there_is(sizes: list[int], rng: object) -> None:
    pair = Pair()
    one, other = pair.ends
    sent = [os.urandom(size) for size in sizes]
    got: list[bytes] = []
    todo = list(enumerate(sent, 1))
    while len(got) < len(sent):
        if todo and rng.random() < 0.5:  # type: ignore[attr-defined]
            number, payload = todo.pop(0)
            one.send(number, 0, 64, number, payload)
        elif (found := other.receive(MOST)) is not None:
            assert found[0] == found[3] == len(got) + 1
            got.append(found[4])
        else:
            one.flush()
    assert got == sent
    assert not one.waits


def test_who_waits_for_room_is_rung(pair: Pair) -> None:
    one, other = pair.ends
    one.send(1, 0, 64, 0, bytes(2 * SMALLEST))
    assert one.waits
    assert pair.doorbells[0].take() == []
    assert other.receive(MOST) is None, "the first part, which made room"
    assert pair.doorbells[0].take() == [900]
    one.flush()
    assert not one.waits or other.receive(MOST) is None
    one.flush()
    found = other.receive(MOST)
    assert found is not None
    assert len(found[4]) == 2 * SMALLEST
    one.send(2, 0, 64, 0, b"")
    assert other.receive(MOST) == (2, 0, 64, 0, b"")
    assert pair.doorbells[0].take() in ([], [900])


def _resident(memory: Shared) -> int:
    """Bytes of it that the system has given a page to."""
    with open("/proc/self/smaps") as lines:
        mine = f"{ctypes.addressof(ctypes.c_char.from_buffer(memory)):x}-"
        for line in lines:
            if line.startswith(mine):
                return next(int(more.split()[1]) for more in lines if more.startswith("Rss")) * 1024
    raise AssertionError("not mapped")


def test_the_window_grows_for_what_does_not_fit_and_its_memory_is_given_back() -> None:
    pair = Pair(1 << 18)
    one, other = pair.ends
    assert one.window == SMALLEST
    for turn, size in enumerate((3 * SMALLEST, 200_000, 10), 1):
        one.send(turn, 0, 64, 0, bytes([turn]) * size)
        assert other.receive(MOST) == (turn, 0, 64, 0, bytes([turn]) * size)
        assert not one.waits, "no room was waited for"
    assert one.window == 1 << 18
    assert _resident(pair.memory) > 200_000
    one.settle(False)
    assert one.window == 1 << 18, "it was needed lately"
    one.settle(False)
    assert one.window == SMALLEST
    assert _resident(pair.memory) <= 3 * 4096
    one.send(4, 0, 64, 0, bytes(200_000))
    one.settle(True)
    assert one.window == 1 << 18, "something is under way"
    assert other.receive(MOST) == (4, 0, 64, 0, bytes(200_000))
    one.settle(True)
    one.settle(True)
    assert one.window == SMALLEST
    one.send(5, 0, 64, 0, b"five")
    assert other.receive(MOST) == (5, 0, 64, 0, b"five")


def test_the_window_is_as_large_as_it_may_be(pair: Pair) -> None:
    large = Pair(1 << 18)
    one, other = large.ends
    assert (pair.ends[0].most, one.most) == (SMALLEST, 1 << 18)
    one.most = 1 << 14
    one.send(1, 0, 64, 0, bytes(100_000))
    while (found := other.receive(MOST)) is None:
        one.flush()
    assert len(found[4]) == 100_000
    assert one.window == 1 << 14
    for wrong in (0, 2048, 10_000, 1 << 19, 2**63):
        with pytest.raises(ValueError, match="no window"):
            one.most = wrong
    with pytest.raises(TypeError):
        one.most = "all"  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        del one.most


def test_many_small_messages_grow_the_window_when_all_was_read() -> None:
    pair = Pair(1 << 20)
    one, other = pair.ends
    for number in range(1, 30_000):
        one.send(number, 0, 64, 0, b"small")
    assert one.window == SMALLEST, "something is under way"
    seen = 0
    while seen < 29_999:
        found = other.receive(MOST)
        if found is None:
            one.flush()
        else:
            seen += 1
            assert found == (seen, 0, 64, 0, b"small")
    assert one.window == 1 << 17, "no larger for small ones"


@pytest.mark.parametrize("left", range(33, 40))
def test_a_head_that_lies_alone_is_not_waited_for(left: int) -> None:
    pair = Pair(1 << 18)
    one, other = pair.ends
    one.send(1, 0, 64, 0, bytes(SMALLEST - HEAD.size - left))
    one.send(2, 0, 64, 0, b"second" * 50)
    assert one.waits, "its head is there, and little more"
    assert other.receive(MOST) is not None
    assert other.receive(MOST) is None
    assert pair.doorbells[0].take() == [900], "who waits for room is told"
    one.flush()
    assert not one.waits
    assert other.receive(MOST) == (2, 0, 64, 0, b"second" * 50)


@pytest.mark.parametrize("doublings", [7, 31, 32, 2**31, 2**32 - 1])
def test_windows_that_no_channel_has(doublings: int) -> None:
    pair = Pair(1 << 18)
    pair.ends[0].send(1, 0, 64, 0, b"")
    memoryview(pair.memory).cast("I")[2] = doublings
    with pytest.raises(Malformed, match="room for less"):
        pair.ends[1].receive(MOST)


@pytest.mark.parametrize("read", [1, 2**63, 2**64 - 1])
def test_a_reader_that_lies_has_no_larger_window(read: int) -> None:
    pair = Pair(1 << 18)
    pair.counts(0)[8] = read
    pair.ends[0].send(1, 0, 64, 0, bytes(100_000))
    pair.ends[0].flush()
    pair.ends[0].settle(True)
    assert pair.ends[0].waits
    assert pair.ends[0].window == SMALLEST


def test_others_run_while_a_large_message_is_copied_and_may_close() -> None:
    for _ in range(40):
        pair = Pair(1 << 18)
        one, other = pair.ends
        turns: list[int] = []
        begun = threading.Event()

        def interfere(one: Lane = one, begun: threading.Event = begun) -> None:
            begun.wait()
            with contextlib.suppress(ValueError):
                one.send(2, 0, 64, 0, b"behind")
            one.close()

        def read(other: Lane = other, turns: list[int] = turns) -> None:
            with contextlib.suppress(ValueError):
                while other.receive(MOST) is None:
                    turns.append(1)

        threads = [threading.Thread(target=interfere), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        begun.set()
        with contextlib.suppress(ValueError):
            one.send(1, 0, 64, 0, bytes(8 << 20))
            while one.flush():
                pass
        threads[0].join()
        other.close()
        threads[1].join()


def _mapped(size: int) -> int:
    """Mappings of a lane's memory that this process has."""
    with open("/proc/self/maps") as file:
        bounds = [line.split()[0].split("-") for line in file if "memfd:libos_ipc" in line]
    return sum(int(last, 16) - int(first, 16) == size for first, last in bounds)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_during_a_copy_keeps_nothing_of_the_lane() -> None:
    """The threads that copy do not come with it, and cannot let go of what they hold."""
    capacity = 1 << 19
    pair = Pair(capacity)
    one, other = pair.ends
    payload = bytes(32 << 20)
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            one.send(number, 0, 64, 0, payload)
            while one.waits and not done.is_set():
                one.flush()

    def read() -> None:
        while not done.is_set():
            other.receive(MOST)

    def child(line: Line) -> int:
        before = _mapped(4096 + 2 * capacity)
        one.close()
        other.close()
        del pair.memory
        return before - _mapped(4096 + 2 * capacity)

    threads = [threading.Thread(target=each) for each in (write, read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with Forked(child) as forked:
                assert forked.result() == 1
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_child_that_closes_its_copy_changes_nothing_of_the_parents(pair: Pair) -> None:
    pair.ends[0].send(1, 0, 64, 0, b"word")
    before = bytes(memoryview(pair.memory))

    def child(line: Line) -> None:
        for end in pair.ends:
            end.close()

    with Forked(child) as forked:
        forked.result()
    assert bytes(memoryview(pair.memory)) == before


def test_the_bell_tells_which_lines_were_rung(pair: Pair) -> None:
    one, other = pair.ends
    one.send(1, 0, 64, 0, b"")
    other.send(1, 0, 64, 0, b"")
    here, there = pair.doorbells
    assert there.take() == [3]
    assert there.take() == []
    for line in (0, 63, 64, BELL_LINES - 1):
        here.again(line)
    assert here.take() == [0, 63, 64, 900, BELL_LINES - 1]
    assert here.take() == []


def test_what_lies_unread_is_rung_again(pair: Pair) -> None:
    one, other = pair.ends
    assert not one.remind()
    one.send(1, 0, 64, 0, b"")
    one.send(2, 0, 64, 0, b"")
    memoryview(pair.bells[1])[64:] = bytes(BELL_BYTES - 64)  # somebody takes the rings away
    assert not one.remind()
    assert pair.doorbells[1].take() == [], "it may have been rung just now"
    assert other.remind(), "there is something, rung or not"
    assert not one.remind()
    assert pair.doorbells[1].take() == [3]
    assert other.receive(MOST) is not None
    one.remind()
    assert pair.doorbells[1].take() == [], "something was read"
    assert other.receive(MOST) is not None
    for _ in range(3):
        assert not one.remind()
        assert not other.remind()
    assert pair.doorbells[1].take() == []
    one.close()
    assert not one.remind()


def test_what_is_sent_quietly_wakes_nobody_until_it_is_rung(pair: Pair) -> None:
    """It is there all the same for who looks."""
    one, other = pair.ends
    count = memoryview(pair.bells[1]).cast("B")[:4].cast("I")
    woken: list[bool] = []
    sleeper = threading.Thread(
        target=lambda: woken.append(pair.doorbells[1].sleep(PORTER, time.monotonic() + DEADLINE_S))
    )
    sleeper.start()
    poll(lambda: memoryview(pair.bells[1]).cast("B")[4:8].cast("I")[0] & PORTER)
    before = count[0]
    one.quiet = True
    one.send(1, 0, 64, 0, b"")
    one.quiet = False
    assert (count[0], other.receive(MOST)) == (before, (1, 0, 64, 0, b""))
    one.ring()
    sleeper.join(DEADLINE_S)
    assert woken == [True]
    assert pair.doorbells[1].take() == [3]


@pytest.mark.parametrize("who", [SEAT, PORTER])
def test_a_sleeper_is_woken_by_a_ring_and_not_before(pair: Pair, who: int) -> None:
    here = pair.doorbells[0]
    woken: list[bool] = []
    here.sleep(who, 0)  # what was seen before is seen
    thread = threading.Thread(target=lambda: woken.append(here.sleep(who, None)))
    thread.start()
    poll(lambda: memoryview(pair.bells[0]).cast("I")[1] & who)
    assert not woken
    pair.ends[1].send(1, 0, 64, 0, b"")
    thread.join()
    assert woken == [True]
    assert here.take() == [900]
    assert here.take() == []


def test_what_is_rung_already_is_not_slept_over(pair: Pair) -> None:
    here = pair.doorbells[0]
    pair.ends[1].send(1, 0, 64, 0, b"")
    assert here.sleep(SEAT, None) is True
    assert here.take() == [900]
    assert here.take() == []
    here.nudge(SEAT)
    assert here.sleep(SEAT, None) is True
    before = time.monotonic()
    assert here.sleep(SEAT, before + 0.01) is False
    assert time.monotonic() >= before + 0.01
    assert here.sleep(SEAT, -1e300) is False


def test_the_seat_is_woken_rather_than_the_porter(pair: Pair) -> None:
    here = pair.doorbells[0]
    state = memoryview(pair.bells[0]).cast("I")
    order: list[str] = []
    here.sleep(PORTER, 0)
    porter = threading.Thread(target=lambda: (here.sleep(PORTER, None), order.append("porter")))
    porter.start()
    poll(lambda: state[1] & PORTER)
    here.sleep(SEAT, 0)
    seat = threading.Thread(target=lambda: (here.sleep(SEAT, None), order.append("seat")))
    seat.start()
    poll(lambda: state[1] & SEAT)
    pair.ends[1].send(1, 0, 64, 0, b"")
    seat.join()
    assert order == ["seat"]
    # Who was woken is at work: until it has looked, others are left alone.
    assert here.take() == [900]
    pair.ends[1].send(2, 0, 64, 0, b"")
    assert porter.is_alive()
    assert here.take() == [900]
    assert here.take() == []
    pair.ends[1].send(3, 0, 64, 0, b"")
    porter.join()
    assert order == ["seat", "porter"]


def test_nobody_is_woken_while_somebody_is_awake_who_will_look(pair: Pair) -> None:
    here = pair.doorbells[0]
    state = memoryview(pair.bells[0]).cast("I")
    woken: list[bool] = []
    here.sleep(PORTER, 0)
    porter = threading.Thread(target=lambda: woken.append(here.sleep(PORTER, None)))
    porter.start()
    poll(lambda: state[1] & PORTER)
    here.sit()
    pair.ends[1].send(1, 0, 64, 0, b"")
    assert porter.is_alive()
    assert here.sleep(SEAT, None) is True, "it looks before it sleeps"
    assert here.take() == [900]
    pair.ends[1].send(2, 0, 64, 0, b"")
    assert porter.is_alive()
    assert here.stand() is True
    here.nudge(PORTER)
    porter.join()
    assert woken == [True]
    assert here.take() == [900]
    assert here.take() == []
    assert here.stand() is False


def test_signals_are_handled_while_asleep(pair: Pair) -> None:
    class Enough(Exception):
        pass

    def enough(*args: object) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, enough)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        pair.doorbells[0].sleep(SEAT, 0)
        with pytest.raises(Enough):
            pair.doorbells[0].sleep(SEAT, None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- what the other side may have written


@pytest.mark.parametrize("claimed", [SMALLEST + 1, 2**63, 2**64 - 1])
def test_a_channel_with_more_in_it_than_it_holds(pair: Pair, claimed: int) -> None:
    pair.counts(0)[0] = claimed
    with pytest.raises(Malformed, match="room for less"):
        pair.ends[1].receive(MOST)


@pytest.mark.parametrize("claimed", [1, 2**62, 2**63])
def test_a_reader_that_claims_what_was_not_written(pair: Pair, claimed: int) -> None:
    pair.counts(0)[8] = claimed
    pair.ends[0].send(1, 0, 64, 0, b"kept")
    assert pair.ends[0].waits
    pair.ends[0].flush()
    assert pair.ends[0].waits, "no room: its own loss"


@pytest.mark.parametrize("size", [0, 16, 1001, 2**63, 2**64 - 1])
def test_sizes_that_no_message_has(pair: Pair, size: int) -> None:
    data = memoryview(pair.memory)[4096:]
    data[: HEAD.size] = HEAD.pack(1, 0, size, 0, 64)
    pair.counts(0)[0] = HEAD.size
    with pytest.raises(Malformed, match=f"a message of {size} bytes"):
        pair.ends[1].receive(1000)


def test_what_cannot_be_believed_is_said_once_and_nothing_more_is_read(pair: Pair) -> None:
    data = memoryview(pair.memory)[4096:]
    data[: HEAD.size] = HEAD.pack(1, 0, 3, 0, 64)
    pair.counts(0)[0] = HEAD.size
    with pytest.raises(Malformed):
        pair.ends[1].receive(MOST)
    data[HEAD.size : 2 * HEAD.size] = HEAD.pack(1, 0, 17, 0, 64)
    pair.counts(0)[0] = 2 * HEAD.size
    assert pair.ends[1].receive(MOST) is None


def test_half_a_head_is_none(pair: Pair) -> None:
    pair.counts(0)[0] = HEAD.size - 1
    assert pair.ends[1].receive(MOST) is None


@given(st.binary(min_size=1, max_size=SMALLEST))
def test_garbage_is_read_or_refused(garbage: bytes) -> None:
    pair = Pair()
    memoryview(pair.memory)[4096 : 4096 + len(garbage)] = garbage
    pair.counts(0)[0] = len(garbage)
    try:
        while (found := pair.ends[1].receive(SMALLEST)) is not None:
            assert len(found[4]) + 17 <= SMALLEST
    except Malformed:
        pass


def test_memory_that_could_be_taken_away_is_refused() -> None:
    for seals in (0, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SHRINK):
        with pytest.raises(OSError, match="Invalid argument"):
            memory(4096, seals)
    made = Shared(4096)
    path = f"/proc/self/fd/{made.fileno()}"
    for size in (4095, 8192):
        with pytest.raises(OSError, match="Invalid argument"):
            Shared(size, path)
    for size in (0, -1):
        with pytest.raises(ValueError):
            Shared(size, path)
    made.close()
    with pytest.raises(FileNotFoundError):
        Shared(4096, path)
    for other in (lambda: os.memfd_create("test", os.MFD_ALLOW_SEALING), lambda: os.pipe()[0]):
        before = set(descriptors())
        fd = other()
        with pytest.raises(OSError, match="Invalid argument"):
            Shared(4096, f"/proc/self/fd/{fd}")
        for each in set(descriptors()) - before:
            os.close(each)


def test_made_memory_is_found_until_it_is_closed() -> None:
    before = set(descriptors())
    made = Shared(4096)
    found = Shared(4096, f"/proc/self/fd/{made.fileno()}")
    assert set(descriptors()) - before == {made.fileno()}
    assert found.fileno() == -1
    made.close()
    made.close()
    assert made.fileno() == -1
    assert set(descriptors()) == before
    memoryview(made)[:2] = b"ab"
    assert bytes(memoryview(found)[:2]) == b"ab"


@pytest.mark.parametrize("size", [4096, 4096 + SMALLEST, 4096 + 2 * 6000, 2 * SMALLEST])
def test_memory_of_a_size_that_no_lane_has(size: int) -> None:
    with pytest.raises(ValueError, match="no lane has"):
        Lane(memory(size), True)


def test_what_is_closed_refuses(pair: Pair) -> None:
    one = pair.ends[0]
    one.send(1, 0, 64, 0, bytes(3 * SMALLEST))
    one.close()
    one.close()
    assert not one.waits
    for call in (
        lambda: one.send(1, 0, 64, 0, b""),
        lambda: one.receive(MOST),
        one.flush,
        lambda: one.reach(pair.bells[1], 0),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_wrong_arguments(pair: Pair) -> None:
    with pytest.raises(TypeError):
        Lane(b"no memory", True)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Doorbell(bytearray(4096))  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        pair.ends[0].reach(pair.bells[1], BELL_LINES)
    with pytest.raises(ValueError, match="SEAT or PORTER"):
        pair.doorbells[0].sleep(4, None)
    with pytest.raises(ValueError, match="SEAT or PORTER"):
        pair.doorbells[0].nudge(0)
    with pytest.raises(TypeError):
        pair.ends[0].send(1, 0, 64, 0, "text")  # type: ignore[arg-type]


# ---- between processes


def _payload(number: int) -> bytes:
    return number.to_bytes(8, "little") * (number % 700 * (1 if number % 16 else 13))


def _write_for_ever(line: Line, pair: Pair) -> None:
    line.send()
    number, lane, bell = 0, pair.ends[0], pair.doorbells[0]
    while True:
        number += 1
        lane.send(number, 0, 64, number, _payload(number))
        while lane.waits:
            bell.sleep(SEAT, None)
            while bell.take():
                pass
            lane.flush()


@pytest.mark.parametrize("capacity", [SMALLEST, 1 << 16])
def test_a_writer_killed_at_any_moment_leaves_whole_messages_in_order(capacity: int) -> None:
    for round in range(60):
        pair = Pair(capacity)
        with Forked(_write_for_ever, pair) as writer:
            writer.recv()
            expected = 1
            deadline = time.monotonic() + 0.0003 * round
            killed = False
            while True:
                found = pair.ends[1].receive(MOST)
                if found is not None:
                    assert found == (expected, 0, 64, expected, _payload(expected))
                    expected += 1
                elif killed:
                    break
                if not killed and time.monotonic() > deadline:
                    os.kill(writer.os_pid, signal.SIGKILL)
                    os.waitid(os.P_PID, writer.os_pid, os.WEXITED | os.WNOWAIT)
                    killed = True


def _echo(line: Line, pair: Pair, turns: int) -> None:
    lane, bell = pair.ends[1], pair.doorbells[1]
    line.send()
    while turns:
        found = lane.receive(MOST)
        if found is None:
            assert bell.sleep(SEAT, None), "a wake-up was lost"
            while bell.take():
                pass
        else:
            lane.send(*found)
            turns -= 1


def test_no_wake_up_is_lost_between_two_processes() -> None:
    pair, turns = Pair(), 4000
    lane, bell = pair.ends[0], pair.doorbells[0]
    with Forked(_echo, pair, turns) as other:
        other.recv()
        for number in range(1, turns + 1):
            lane.send(number, 0, 64, number, b"")
            while (found := lane.receive(MOST)) is None:
                assert bell.sleep(SEAT, None), "a wake-up was lost"
                while bell.take():
                    pass
            assert found[0] == number
        other.result()
