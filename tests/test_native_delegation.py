"""A slot in shared memory: what its holder changes, and what is found when it is taken back."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import Forked, Line, poll

from libos_ipc._native import BUSY, FULL, GONE, SLOT_BYTES, Delegation
from libos_ipc.core.lock_ranges import LockRanges
from libos_ipc.core.lock_words import Held, Owner

EOF = 2**63 - 1
READ, WRITE, NONE = 0, 1, 2
POSIX, OFD, FAIR = 1, 2, 4
MOST = 8


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    yield memory
    memory.close()


@pytest.fixture
def ends(memory: mmap.mmap) -> Iterator[tuple[Delegation, Delegation]]:
    """The leader's end and the holder's, of a slot that was given away."""
    leader, holder = Delegation(memory, 0), Delegation(memory, 0)
    leader.begin(10, 10**6)
    yield leader, holder
    leader.close()
    holder.close()


def take(holder: Delegation, handle: int, type: int, start: int, end: int) -> int:
    """A lock of one acquisition."""
    return holder.set(FAIR, handle, type, start, end, 7, -1, -1)


def give(holder: Delegation, handle: int) -> int:
    return take(holder, handle, NONE, 0, EOF)


def test_locks_are_numbered_and_found_again(ends: tuple[Delegation, Delegation]) -> None:
    leader, holder = ends
    assert take(holder, 5, WRITE, 0, 9) == 10
    assert holder.set(OFD, 6, READ, 20, EOF, 8, 3, 4100) == 11
    assert take(holder, 5, READ, 0, 9) == 12, "what is there changes"
    one, other = (FAIR, 5, READ, 0, 9, 12, 7, -1, -1), (OFD, 6, READ, 20, EOF, 11, 8, 3, 4100)
    assert leader.look() == (13, (one, other))
    assert holder.set(OFD, 6, NONE, 0, EOF, 8, -1, -1) == 0
    assert holder.set(OFD, 6, NONE, 0, EOF, 8, -1, -1) == 0, "nothing to give is no harm"
    assert leader.recall() == (13, (one,))
    assert leader.recall() == (13, (one,)), "it stays as it was"
    assert take(holder, 5, READ, 0, 9) == GONE
    assert give(holder, 5) == GONE
    leader.begin(100, 200)
    assert leader.look() == (100, ())
    assert take(holder, 5, READ, 0, 9) == 100


def test_what_is_in_the_way_and_what_does_not_fit(ends: tuple[Delegation, Delegation]) -> None:
    leader, holder = ends
    assert take(holder, 1, READ, 0, 9) == 10
    assert take(holder, 2, WRITE, 9, 9) == BUSY
    assert take(holder, 2, READ, 9, 9) == 11
    assert take(holder, 1, WRITE, 0, 9) == BUSY, "an upgrade, too"
    assert take(holder, 1, WRITE, 0, 8) == 12
    found = leader.look()[1]
    assert [(entry[1], entry[2], *entry[3:5]) for entry in found] == [
        (1, WRITE, 0, 8),
        (1, READ, 9, 9),
        (2, READ, 9, 9),
    ]
    more = [take(holder, n, READ, 20 + n, 20 + n) for n in range(3, 10)]
    assert more == [13, 14, 15, 16, 17, FULL, FULL]
    assert leader.look()[0] == 18, "what does not fit takes no number"
    assert take(holder, 4, WRITE, 24, 24) == 18, "what is there may change"
    assert take(holder, 3, NONE, 23, 23) == 0
    assert holder.set(POSIX, 1, READ, 0, 0, 1, 3, -1) == BUSY, "owners are kind and handle"
    leader.begin(7, 8)
    assert [take(holder, 1, READ, 0, 0) for _ in range(3)] == [7, 8, FULL], "numbers end"


def owners_and_ranges(ranges: LockRanges) -> list[tuple[int, ...]]:
    return [(*owner, held.type, held.start, held.end) for owner, held in ranges]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([POSIX, OFD, FAIR]),
            st.integers(0, 2),
            st.sampled_from([READ, WRITE, NONE]),
            st.integers(0, 12),
            st.sampled_from([0, 1, 2, 5, EOF]),
        ),
        max_size=60,
    )
)
def test_it_is_what_the_leader_would_hold(asked: list[tuple[int, int, int, int, int]]) -> None:
    """Against the leader's ranges: the same conflicts, pieces, merges and order of owners."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    slot, ranges, number = Delegation(memory, 0), LockRanges(), 1
    slot.begin(1, 10**6)
    for kind, handle, type, start, length in asked:
        end = min(start + length, EOF)
        done = slot.set(kind, handle, type, start, end, 1, -1, -1)
        owner = Owner(kind, handle)
        if type != NONE and ranges.count(owner, type, start, end):
            assert done == BUSY
            continue
        held = Held(start, end, type, 2, 1, 1, number, 0.0, b"")
        before = owners_and_ranges(ranges), held
        if done == FULL:
            again = LockRanges()
            for *who, what, first, last in before[0]:
                again.put(Owner(*who), Held(first, last, what, 2, 1, 1, 0, 0.0, b""))
            again.put(owner, held)
            assert len(again) > MOST
            continue
        ranges.put(owner, held)
        assert done == (0 if type == NONE else number)
        number += type != NONE
        found = slot.look()
        assert found[0] == number
        # Within an owner the order is free.
        order = list(dict.fromkeys((entry[0], entry[1]) for entry in found[1]))
        pieces = sorted((order.index((e[0], e[1])), e[3], *e[:3], e[4]) for e in found[1])
        assert [(*piece[2:5], piece[1], piece[5]) for piece in pieces] == owners_and_ranges(ranges)
    slot.close()
    memory.close()


def test_bad_arguments_change_nothing(ends: tuple[Delegation, Delegation]) -> None:
    leader, holder = ends
    good = (FAIR, 1, READ, 0, 0, 0, -1, -1)
    for place, wrong in ((0, 16), (1, 2**64), (2, 3), (3, -1), (4, 2**63), (5, 2**32)):
        with pytest.raises(OverflowError):
            holder.set(*good[:place], wrong, *good[place + 1 :])
    for place, wrong in ((6, -2), (7, 2**31)):
        with pytest.raises(OverflowError, match=r"descriptor|duplicate"):
            holder.set(*good[:place], wrong, *good[place + 1 :])
    with pytest.raises(ValueError, match="ends before"):
        holder.set(FAIR, 1, READ, 5, 4, 0, -1, -1)
    with pytest.raises(TypeError):
        holder.set(FAIR, 1, READ, 0, 0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        holder.set(*good[:6], "1", -1)  # type: ignore[arg-type]
    assert leader.look() == (10, ())


def test_only_a_whole_slot_of_writable_memory(memory: mmap.mmap) -> None:
    for offset in (-8, 4, mmap.PAGESIZE - SLOT_BYTES + 8, mmap.PAGESIZE):
        with pytest.raises(ValueError, match="no slot"):
            Delegation(memory, offset)
    with pytest.raises(BufferError):
        Delegation(bytes(4096), 0)
    slot = Delegation(memory, 64)
    slot.close()
    slot.close()
    for call in (slot.recall, slot.look, lambda: give(slot, 1), lambda: slot.begin(1, 2)):
        with pytest.raises(ValueError, match="closed"):
            call()


@given(st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES))
def test_whatever_the_memory_says_nothing_breaks(content: bytes) -> None:
    """The other side is not trusted."""
    memory = bytearray(SLOT_BYTES + 16)
    offset = -_address(memory) % 8
    memory[offset : offset + SLOT_BYTES] = content
    slot = Delegation(memory, offset)
    assert take(slot, 1, WRITE, 0, 5) is not None
    assert give(slot, 1) in (0, GONE, FULL)
    assert len(slot.look()[1]) <= MOST
    assert len(slot.recall()[1]) <= MOST
    slot.close()


def _address(memory: bytearray) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_a_holder_that_is_killed_at_any_moment(ends: tuple[Delegation, Delegation]) -> None:
    """What it had done last is there whole, or is not there."""
    leader, holder = ends
    rng = random.Random(4711)

    def hammers(line: Line) -> None:
        line.send()
        while True:
            number = take(holder, 7, WRITE, 3, 5)
            assert number >= 0
            assert give(holder, 7) == 0

    for _ in range(20):
        leader.begin(1000, 10**9)
        with Forked(hammers) as child:
            child.recv()
            before = leader.look()[0]
            poll(lambda seen=before: leader.look()[0] > seen, pause=False)
            deadline = time.monotonic() + rng.random() * 0.002
            while time.monotonic() < deadline:
                pass
            os.kill(child.os_pid, signal.SIGKILL)
            child.wait()
        after, entries = leader.recall()
        assert after > 1000
        assert entries in ((), ((FAIR, 7, WRITE, 3, 5, after - 1, 7, -1, -1),))


def test_a_holder_sees_at_once_that_it_was_taken_back(
    ends: tuple[Delegation, Delegation],
) -> None:
    leader, holder = ends

    def hammers(line: Line) -> object:
        line.send()
        last = (0, False)
        while True:
            number = take(holder, 7, WRITE, 3, 5)
            if number == GONE:
                return last
            last = (number, True)
            if give(holder, 7) == GONE:
                return last
            last = (number, False)

    for _ in range(20):
        leader.begin(1000, 10**9)
        with Forked(hammers) as child:
            child.recv()
            poll(lambda: leader.look()[0] > 1010, pause=False)
            _, entries = leader.recall()
            number, held = child.result()
            assert entries == (((FAIR, 7, WRITE, 3, 5, number, 7, -1, -1),) if held else ())
