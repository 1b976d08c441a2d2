"""What the fast paths ask of the kernel: counted call by call, in the thread that goes them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from lane_users import ECHO, answer
from processes import DEADLINE_S, Forked, Line, poll
from shared_memory import memory
from system_calls import Traced, begin, mark

from libos_ipc import Group, fcntl
from libos_ipc._native import PORTER, SEAT, Doorbell, Lane

TIMES = 100


def write(line: Line, lane: Lane) -> None:
    """Send many, one, many, one, and many."""
    begin(line)
    mark()
    for count in (TIMES, 1, TIMES, 1, TIMES):
        for _ in range(count):
            lane.send(1, 0, 64, 0, b"word")
        mark()


def doze(line: Line, bell: Doorbell, who: int) -> None:
    bell.sleep(who, 0)  # what was seen before is seen
    bell.sleep(who, None)


def test_a_ring_is_one_call_if_anybody_sleeps_and_none_otherwise() -> None:
    shared, bell_memory = memory(4096 + 2 * (1 << 16)), memory(4096)
    bell, state = Doorbell(bell_memory), memoryview(bell_memory).cast("I")
    lane, other = Lane(shared, True), Lane(shared, False)
    lane.reach(bell_memory, 3)

    def read() -> None:
        while other.receive(1000):
            pass

    with ExitStack() as stack:
        traced = stack.enter_context(Traced(stack.enter_context(Forked(write, lane))))
        traced.part()
        porter = stack.enter_context(Forked(doze, bell, PORTER))
        poll(lambda: state[1] & PORTER)
        bell.sit()
        assert not traced.part(), "the seat is awake"
        bell.stand()
        while bell.take():
            read()
        assert traced.part().total() == 1
        porter.result()
        assert bell.take() == [3]
        read()
        seat = stack.enter_context(Forked(doze, bell, SEAT))
        poll(lambda: state[1] & SEAT)
        assert not traced.part(), "the porter is at work, and will look again"
        while bell.take():
            read()
        seat.stop()
        assert traced.part().total() == 1
        assert not traced.part(), "it was woken, though it does not run yet"
        seat.kill(signal.SIGCONT)
        seat.result()


def least(traced: Traced) -> int:
    """The calls of the next part, of three of the same: others' turns come in between."""
    return min(traced.part().total() for _ in range(3))


def repeat(act: Callable[[], object]) -> None:
    """Three parts of the same."""
    mark()
    for _ in range(3):
        for _ in range(TIMES):
            act()
        mark()


@pytest.mark.config(transport="native", spin=0.0)
def test_a_message_is_a_wake_up_at_most_and_an_answer_a_sleep_more(group: Group) -> None:
    def member(line: Line) -> None:
        for _ in range(50):
            group.request(group.parent_vmid, ECHO, b"", timeout=DEADLINE_S)
        begin(line)
        repeat(lambda: group.send(group.parent_vmid, ECHO, b""))
        repeat(lambda: group.request(group.parent_vmid, ECHO, b""))
        line.pause()
        group.close()

    answer(group)
    with Forked(member) as child, Traced(child) as traced:
        for most in (TIMES, 2 * TIMES):
            traced.part()
            assert least(traced) <= most


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


@pytest.mark.parametrize("group", ["delegating"], indirect=True)
def test_locks_and_handles_that_are_here(group: Group, path: Path) -> None:
    """A path may lead to another file by now, and a descriptor be another one: that is asked."""

    def member(line: Line) -> None:
        def block() -> None:
            with lock:
                pass

        def lockf() -> None:
            fcntl.lockf(fd, fcntl.LOCK_EX)
            fcntl.lockf(fd, fcntl.LOCK_UN)

        def exclusive() -> None:
            with handle.exclusive() as box:
                box.value += 1

        def shared() -> None:
            with handle.shared():
                pass

        lock, fd = group.file_lock(path), os.open(path, os.O_RDWR)
        handle = group.sync("number", type=int)
        acts = shared, exclusive, block, lockf
        for act in acts:
            for _ in range(50):
                act()
        begin(line)
        asked = group._session.member.calls.table.last
        for act in acts:
            repeat(act)
        line.send(group._session.member.calls.table.last - asked)
        line.pause()
        group.close()

    with Forked(member) as child:
        with Traced(child) as traced:
            found = []
            for _ in range(4):
                traced.part()
                found.append(least(traced))
        assert child.recv() == 0, "nobody was asked"
        assert found == [0, 0, TIMES, 3 * TIMES]
