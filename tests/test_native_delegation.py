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

EOF = 2**63 - 1
READ, WRITE = 0, 1


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


def test_locks_are_numbered_and_found_again(ends: tuple[Delegation, Delegation]) -> None:
    leader, holder = ends
    assert holder.take(5, WRITE, 0, 9, 7) == 10
    assert holder.take(6, READ, 10, EOF, 8) == 11
    assert holder.take(5, READ, 0, 9, 7) == 12, "a handle has one range: it changes"
    held = {(6, READ, 10, EOF, 11, 8), (5, READ, 0, 9, 12, 7)}
    assert leader.look() == (13, tuple(sorted(held)))
    assert holder.give(6) == 0
    assert holder.give(6) == 0, "nothing to give is no harm"
    assert leader.recall() == (13, ((5, READ, 0, 9, 12, 7),))
    assert leader.recall() == (13, ((5, READ, 0, 9, 12, 7),)), "it stays as it was"
    assert holder.take(5, READ, 0, 9, 7) == GONE
    assert holder.give(5) == GONE
    leader.begin(100, 200)
    assert leader.look() == (100, ())
    assert holder.take(5, READ, 0, 9, 7) == 100


def test_what_is_in_the_way_and_what_does_not_fit(ends: tuple[Delegation, Delegation]) -> None:
    leader, holder = ends
    assert holder.take(1, READ, 0, 9, 1) == 10
    assert holder.take(2, WRITE, 9, 9, 1) == BUSY
    assert holder.take(2, READ, 9, 9, 1) == 11
    assert holder.take(1, WRITE, 0, 9, 1) == BUSY, "an upgrade, too"
    assert holder.take(1, WRITE, 0, 8, 1) == 12
    assert [holder.take(n, READ, 20 + n, 20 + n, 1) for n in (3, 4, 5)] == [13, 14, FULL]
    assert holder.take(4, READ, 30, 30, 1) == 15, "what is there may change"
    leader.begin(7, 8)
    assert [holder.take(1, READ, 0, 0, 1) for _ in range(3)] == [7, 8, FULL], "numbers end"


def test_bad_arguments_change_nothing(ends: tuple[Delegation, Delegation]) -> None:
    leader, holder = ends
    for arguments in ((1, 2, 0, 0, 0), (1, 0, -1, 0, 0), (1, 0, 0, 2**63, 0), (2**64, 0, 0, 0, 0)):
        with pytest.raises(OverflowError):
            holder.take(*arguments)
    with pytest.raises(TypeError):
        holder.take(1, 0, 0, 0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        holder.give("1")  # type: ignore[arg-type]
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
    for call in (slot.recall, slot.look, lambda: slot.give(1), lambda: slot.take(1, 0, 0, 0, 1)):
        with pytest.raises(ValueError, match="closed"):
            call()


@given(st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES))
def test_whatever_the_memory_says_nothing_breaks(content: bytes) -> None:
    """The other side is not trusted."""
    memory = bytearray(SLOT_BYTES + 16)
    offset = -_address(memory) % 8
    memory[offset : offset + SLOT_BYTES] = content
    slot = Delegation(memory, offset)
    assert slot.take(1, WRITE, 0, 5, 1) is not None
    assert slot.give(1) in (0, GONE)
    assert len(slot.look()[1]) <= 4
    assert len(slot.recall()[1]) <= 4
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
            number = holder.take(7, WRITE, 3, 5, 9)
            assert number >= 0
            assert holder.give(7) == 0

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
        assert entries in ((), ((7, WRITE, 3, 5, after - 1, 9),))


def test_a_holder_sees_at_once_that_it_was_taken_back(
    ends: tuple[Delegation, Delegation],
) -> None:
    leader, holder = ends

    def hammers(line: Line) -> object:
        line.send()
        last = (0, False)
        while True:
            number = holder.take(7, WRITE, 3, 5, 9)
            if number == GONE:
                return last
            last = (number, True)
            if holder.give(7) == GONE:
                return last
            last = (number, False)

    for _ in range(20):
        leader.begin(1000, 10**9)
        with Forked(hammers) as child:
            child.recv()
            poll(lambda: leader.look()[0] > 1010, pause=False)
            _, entries = leader.recall()
            number, held = child.result()
            assert entries == (((7, WRITE, 3, 5, number, 9),) if held else ())
