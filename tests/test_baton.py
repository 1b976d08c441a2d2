"""EXCLUSIVE that processes pass on among themselves: the memory, and real processes that use it."""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import both_leaders
from hypothesis import given
from hypothesis import strategies as st
from processes import DEADLINE_S, Forked, Line, poll
from simulator.batons import BatonTwin, Word

from libos_ipc import Group, OwnerDied
from libos_ipc._native import BATON_BYTES, BATON_STRIDE, Baton
from libos_ipc.core.sync_check import check_handle
from libos_ipc.core.sync_handle import LocalHandle
from libos_ipc.core.sync_words import (
    MOST_PASSED,
    ConfirmDowngrade,
    ConfirmUpgrade,
    Granted,
    Hold,
    RequestDowngrade,
    Value,
)
from libos_ipc.runtime.batons import LeadersBatons, MembersBatons
from libos_ipc.runtime.journal_file import read_head
from libos_ipc.sync import State, SyncHandle, sync_table

EXCLUSIVE = State.EXCLUSIVE

# ---- the memory

#: On two cores some ten or more meet in that time, of several 100,000.
RACING_S = 0.7
#: Looks at what the other one says before it gets the processor, if it has none.
SPINS = 300
VALUES = st.binary(max_size=BATON_BYTES)
STEPS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 3)),
    st.tuples(st.just("give"), st.integers(0, 3)),
    st.tuples(st.just("give"), st.integers(0, 3), st.integers(0, 2**62 - 1), VALUES),
    st.tuples(st.just("reserve"), st.just(0), st.integers(1, 4)),
    st.tuples(st.just("begin"), st.just(0), st.integers(0, 9), VALUES, st.integers(1, 4)),
    st.tuples(st.sampled_from(["end", "ended"]), st.integers(0, 3)),
)


@given(st.lists(STEPS, max_size=40), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_the_memory_is_as_its_twin(steps: list[tuple[Any, ...]], numbers: list[int]) -> None:
    """The leader, and three processes that have heard of different uses of a place."""
    memory: dict[int, Word] = {}
    place = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
    leaders = Baton(place, 1, 0, 0), BatonTwin(memory, 1, 0, 0)
    pairs = [leaders]
    for me in (1, 2, 3):
        pairs.append((Baton(place, 1, numbers[me], me), BatonTwin(memory, 1, numbers[me], me)))
    for name, who, *args in [("begin", 0, 0, b"", 1), *steps]:
        ours, theirs = pairs[who]
        assert getattr(ours, name)(*args) == getattr(theirs, name)(*args), (name, who, args)


def test_what_is_no_baton() -> None:
    place = mmap.mmap(-1, mmap.PAGESIZE)
    for index, number in ((-1, 0), (mmap.PAGESIZE // BATON_STRIDE, 0), (0, 2**28)):
        with pytest.raises(ValueError, match="no baton"):
            Baton(place, index, number, 1)
    with pytest.raises(ValueError, match="no baton"):
        Baton(memoryview(place)[8:], 0, 0, 1)
    baton = Baton(place, 0, 0, 1)
    for wrong in (bytes(BATON_BYTES + 1), bytearray(1)):
        with pytest.raises(ValueError, match="at most"):
            baton.begin(1, wrong, 1)  # type: ignore[arg-type]
    assert BATON_BYTES == MOST_PASSED
    assert Baton(place, 0, 2**28 - 1, 1).begin(1, b"", 1) == 0  # numbers are used up


def test_what_another_process_may_have_written() -> None:
    place = mmap.mmap(-1, mmap.PAGESIZE)
    Baton(place, 0, 0, 0).begin(1, b"x", 1)
    place[8:20] = b"\xff" * 12  # version and size
    baton = Baton(place, 0, 1, 1)
    found = baton.take()
    assert found is not None
    assert (found[0], len(found[1])) == (2**62 - 1, BATON_BYTES)
    assert baton.give(found[0] + 1, b"")


def test_what_was_reserved_is_had_if_it_has_ended() -> None:
    place = mmap.mmap(-1, mmap.PAGESIZE)
    leaders, ours, theirs = (Baton(place, 0, number, me) for number, me in ((0, 0), (1, 1), (1, 2)))
    leaders.begin(9, b"x", 1)
    assert theirs.take() is None
    assert theirs.end() == (1, False, (9, b"x"))
    assert (theirs.take(), ours.take()) == (None, (9, b"x"))
    assert not ours.give(10, b"y")
    assert leaders.end() == (1, False, (9, b"x"))


def test_what_is_ended_in_the_moment_in_which_it_is_taken_is_had_too() -> None:
    """Another process takes what is reserved for it, and the leader ends it, again and again."""
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    place, line = memoryview(memory), memoryview(memory)[mmap.PAGESIZE :].cast("Q")
    over = 2**62

    def take(_: Line) -> None:
        last = looks = 0
        while (number := line[0]) != over:
            looks += 1
            if number != last:
                last, looks = number, 0
                line[1] = 2 * number + (Baton(place, 1, number, 5).take() is not None)
            elif looks > SPINS:
                os.sched_yield()

    leader, dice = Baton(place, 1, 0, 0), random.Random(1)
    begun = time.monotonic()
    with Forked(take) as child:
        while (now := time.monotonic()) < begun + RACING_S:
            number = leader.begin(1, b"", 5)
            spins = dice.randrange(80)
            line[0] = number
            for _ in range(spins):
                pass
            ended = leader.end()
            assert ended is not None
            assert ended[0] == 5
            looks = 0
            while line[1] >> 1 != number:
                looks += 1
                if looks > SPINS:
                    os.sched_yield()
                    assert time.monotonic() < now + DEADLINE_S
            assert line[1] & 1, f"it was reserved, or in use: {ended[1]}"
        line[0] = over
        child.result()


def test_what_was_in_use_at_its_end_is_not_given_to_another_handle(tmp_path: Any) -> None:
    """Its user may have been stopped in the middle of giving, and go on late."""
    batons = LeadersBatons(str(tmp_path))
    batons.slots, batons.rest_s = 2, 0.0
    value = Value(0, b"")
    place = batons.begin(7, 2, value)
    assert place is not None
    user = MembersBatons(str(tmp_path), 2)
    baton = user.open(place)
    assert baton is not None
    assert baton.take() == (0, b"")
    assert batons.end(place) == (2, True, value)
    other = batons.begin(8, 2, value)
    assert other is not None
    assert other[1] != place[1]
    assert batons.begin(9, 2, value) is None
    again = batons.begin(7, 2, value)
    assert again is not None
    assert again[1] == place[1]
    assert not baton.give()
    assert batons.end(again) == (2, False, value)
    assert batons.begin(9, 2, value) is not None
    user.close()
    batons.close()


# ---- a signal handler that raises between what is done in the memory and what is said of it


class Struck(BatonTwin):
    """Takes and gives, and then there is an exception."""

    def take(self) -> None:
        if super().take() is not None:
            raise InterruptedError

    def give(self, *value: Any) -> bool:
        super().give(*value)
        raise InterruptedError


def passing(memory: dict[int, Word], me: int) -> LocalHandle:
    """What this process has of a handle for which there is a baton, which is free."""
    handle = LocalHandle(9)
    baton = BatonTwin(memory, 0, 1, me)
    if not memory:
        BatonTwin(memory, 0, 0, 0).begin(5, b"five", me)
    handle.on_baton(ConfirmUpgrade(9, EXCLUSIVE, Value(5, b"five"), False, (0, 0, 1)), baton)
    assert handle.baton is baton
    assert handle.state == State.INVALID
    return handle


@pytest.mark.parametrize("recalled", [False, True])
def test_what_was_taken_when_a_signal_handler_raised_is_ours(recalled: bool) -> None:
    memory: dict[int, Word] = {}
    handle = passing(memory, 2)
    handle.baton = Struck(memory, 0, 1, 2)
    with pytest.raises(InterruptedError):
        handle.lock(1, EXCLUSIVE, "ticket", False)
    assert BatonTwin(memory, 0, 1, 0).end() == (2, True, (5, b"five"))  # by who else wants it
    value = Value(5, b"five")
    hold = Hold(9, value, False)
    if recalled:
        given = ConfirmDowngrade(9, State.INVALID, value, False)
        assert handle.on_downgrade(RequestDowngrade(9, State.INVALID)) == [hold, given]
    else:
        granted = Granted("ticket", value)
        assert handle.lock(1, EXCLUSIVE, "ticket", False) == [hold, granted]
    check_handle(handle)


@pytest.mark.parametrize("ended", [False, True])
def test_what_was_given_when_a_signal_handler_raised_is_not_ours(ended: bool) -> None:
    memory: dict[int, Word] = {}
    handle = passing(memory, 2)
    assert handle.lock(1, EXCLUSIVE, "ticket", False) == [Granted("ticket", Value(5, b"five"))]
    handle.baton = Struck(memory, 0, 1, 2)
    if ended:
        BatonTwin(memory, 0, 1, 0).end()
    with pytest.raises(InterruptedError):
        handle.unlock(1, b"six", 100)
    handle.baton = BatonTwin(memory, 0, 1, 2)
    value = Value(5, b"five") if ended else Value(6, b"six")
    assert handle.lock(3, EXCLUSIVE, "next", False)[-1] == Granted("next", value)
    check_handle(handle)


# ---- processes


def is_passed(handle: SyncHandle[Any]) -> bool:
    """Whether this process takes and gives the handle without the leader."""
    client = handle._group._session.member.sync.client
    cell = client.cell_of(handle.id)
    return cell is not None and cell.baton is not None


class Other:
    """Another process, in which blocks are entered, and left, when it is told to."""

    def __init__(self, group: Group, name: str = "passed", type: Any = int) -> None:
        def serve(line: Any) -> None:
            with group.sync(name, type=type, on_owner_death="raise") as handle:
                while True:
                    change = line.recv()
                    if change == "the test is over":
                        return
                    with handle.exclusive() as box:
                        line.send(box.value)
                        if change == "stay":
                            line.pause()
                        box.value = change if isinstance(change, bytes) else box.value + change
                    line.send(is_passed(handle))

        self.child = Forked(serve)

    def change(self, change: Any) -> tuple[Any, bool]:
        """What it found, and whether it was without the leader."""
        self.child.send(change)
        return self.child.recv(), self.child.recv()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *exc: object) -> None:
        self.child.__exit__(None, None, None)


@pytest.fixture
def handle(group: Group) -> Iterator[SyncHandle[int]]:
    with group.sync("passed", type=int, on_owner_death="raise") as handle:
        yield handle


def passed_between(handle: SyncHandle[int], other: Other) -> int:
    """Change it in turns until that goes without the leader: the value that it has then."""
    value = 0
    with handle.exclusive() as box:
        value = box.value
    for _ in range(20):
        found, theirs = other.change(1)
        assert found == value
        with handle.exclusive() as box:
            assert box.value == value + 1
            box.value += 1
        value += 2
        if theirs and is_passed(handle):
            return value
    raise AssertionError("it is never passed on")


def said_to_leader(group: Group) -> int:
    """Messages, if that is another process."""
    link = group._session.member.links.get(group.leader_vmid)
    return 0 if link is None else link.sent


@both_leaders
def test_it_is_passed_on_and_nothing_is_lost(group: Group, handle: SyncHandle[int]) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)
        before = said_to_leader(group)
        for _ in range(50):
            assert other.change(1) == (value, True)
            with handle.exclusive() as box:
                assert box.value == value + 1
                box.value += 1
            value += 2
        assert said_to_leader(group) - before < 10
        assert handle.version == value
        (row,) = sync_table(group)
        assert (row.version, row.waiting) == (value, ())
        assert other.change(1)[0] == value


@both_leaders
@pytest.mark.parametrize("who", ["nobody", "dead", "other"])
def test_a_forged_holder_keeps_nobody_waiting(
    group: Group, handle: SyncHandle[int], who: str
) -> None:
    """A member writes into the memory that somebody has it, or is to have it, who has not."""
    with Forked(lambda line: group.vmid) as child:
        dead = child.result()
    with Other(group) as other:
        passed_between(handle, other)
        (path,) = Path(group._node.directory.path).glob("batons-*")
        (theirs,) = {vmid for row in sync_table(group) for vmid, *_ in row.states} - {group.vmid}
        holder = {"nobody": 2**32 - 1, "dead": dead, "other": theirs}[who]
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        for how in (2, 4, 3, 5):  # in use or reserved, and perhaps ended
            value = passed_between(handle, other)
            at = max(range(0, len(memory), BATON_STRIDE), key=lambda at: live(memory, at))
            word = live(memory, at) & ~(2**36 - 1 - 8) | holder << 4 | how
            memory[at : at + 8] = word.to_bytes(8, "little")
            with handle.exclusive(timeout=DEADLINE_S) as box:
                assert box.value == value
        assert other.change(1)[0] == value
        memory.close()


def live(memory: mmap.mmap, at: int) -> int:
    """The word there, 0 if it was ended."""
    word = int.from_bytes(memory[at : at + 8], "little")
    return 0 if word & 1 else word


@both_leaders
@pytest.mark.parametrize("count", [2, 4])
def test_all_that_many_have_added_is_there(
    group: Group, handle: SyncHandle[int], count: int
) -> None:
    """All at the same time: so it is passed on, and ended, again and again."""

    def add(line: Any) -> None:
        with group.sync("passed", type=int, on_owner_death="raise") as mine:
            for _ in range(150):
                with mine.exclusive() as box:
                    box.value += 1

    children = [Forked(add) for _ in range(count)]
    try:
        for child in children:
            child.result(timeout=60)
    finally:
        for child in children:
            child.__exit__(None, None, None)
    assert handle.lock(EXCLUSIVE) == 150 * count
    handle.unlock()
    assert handle.version == 150 * count


@both_leaders
def test_one_who_reads_finds_the_newest(group: Group, handle: SyncHandle[int]) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)
        with handle.shared() as found:
            assert found == value
        assert not is_passed(handle)
        assert other.change(1) == (value, False)
        assert handle.wait(lambda found: found == value + 1) == value + 1
        assert passed_between(handle, other) > value


@both_leaders
def test_one_who_waits_for_a_change_is_told(group: Group, handle: SyncHandle[int]) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)
        found: list[int] = []
        waiter = threading.Thread(
            target=lambda: found.append(handle.wait(lambda value: value >= 1000))
        )
        waiter.start()
        for _ in range(3):
            other.change(1)
        other.change(1000)
        waiter.join()
        assert found == [value + 1003]


@both_leaders
def test_one_who_dies_while_it_uses_it_is_told_of_once(
    group: Group, handle: SyncHandle[int]
) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)
        other.child.send("stay")
        assert other.child.recv() == value
        other.child.kill(signal.SIGKILL)
        with pytest.raises(OwnerDied):
            handle.lock(EXCLUSIVE)
        assert handle.lock(EXCLUSIVE) == value
        handle.unlock()


@both_leaders
def test_one_who_dies_while_another_waits(group: Group, handle: SyncHandle[int]) -> None:
    """Who waits has ended the baton already; the dead one has not heard of it."""
    with Other(group) as other:
        value = passed_between(handle, other)
        other.child.send("stay")
        assert other.child.recv() == value
        other.child.kill(signal.SIGSTOP)
        found: list[object] = []

        def wait() -> None:
            try:
                handle.lock(EXCLUSIVE)
            except OwnerDied:
                found.append(handle.lock(EXCLUSIVE))
                handle.unlock()

        waiter = threading.Thread(target=wait)
        waiter.start()
        client = group._session.member.sync.client
        poll(lambda: bool(client._handles[handle.id].waits), what="somebody who waits")
        other.child.kill(signal.SIGKILL)
        waiter.join()
        assert found == [value]


@both_leaders
def test_one_who_dies_with_nothing_in_hand_leaves_the_last_value(
    group: Group, handle: SyncHandle[int]
) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)
        assert other.change(5) == (value, True)
        other.child.kill(signal.SIGKILL)
        assert handle.lock(EXCLUSIVE) == value + 5
        handle.unlock(1)

        def ended() -> bool:
            assert handle.lock(EXCLUSIVE) == 1
            handle.unlock()
            return not is_passed(handle)

        poll(ended, what="the end of the baton with the news of the death")


def test_a_value_that_is_too_large_goes_by_the_leader(group: Group) -> None:
    with (
        Other(group, "large", bytes) as other,
        group.sync("large", type=bytes, on_owner_death="raise") as handle,
    ):
        value = b""
        for size in (*range(12), 200, 201, 100_000, 3, *range(12), 70_000, 0):
            assert other.change(bytes(size))[0] == value
            with handle.exclusive() as box:
                assert box.value == bytes(size)
                box.value = value = b"x" * size
            with handle.exclusive() as box:
                assert box.value == value


def test_a_second_thread_waits_its_turn(group: Group, handle: SyncHandle[int]) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)
        order: list[int] = []
        with handle.exclusive() as box:
            box.value += 1

            def second() -> None:
                with handle.exclusive() as box:
                    order.append(box.value)
                    box.value += 1

            thread = threading.Thread(target=second)
            thread.start()
            client = group._session.member.sync.client
            poll(lambda: bool(client._handles[handle.id].waits), what="somebody who waits")
            assert not is_passed(handle)
        thread.join()
        assert order == [value + 1]
        assert other.change(1)[0] == value + 2


def test_the_leader_dies_meanwhile(group: Group, handle: SyncHandle[int]) -> None:
    """Who passes it on does not notice; the next leader knows what was committed last."""
    head = read_head(f"{group._node.directory.path}/journal-1")
    assert head is not None
    with Other(group) as other:
        value = passed_between(handle, other)
        with handle.exclusive() as box:
            box.value += 1
            os.kill(head.os_pid, signal.SIGKILL)
        value += 1
        for _ in range(5):
            assert other.change(1)[0] == value
            with handle.exclusive() as box:
                assert box.value == value + 1
                box.value += 1
            value += 2
        with handle.shared() as found:
            assert found == value
        assert passed_between(handle, other) > value


@both_leaders
def test_closed_and_opened_again(group: Group, handle: SyncHandle[int]) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)
        handle.close()
        for _ in range(2):
            other.change(1)
        with group.sync("passed", type=int, on_owner_death="raise") as again:
            assert again.lock(EXCLUSIVE) == value + 2
            again.unlock()


def test_a_fork_has_no_part_in_it(group: Group, handle: SyncHandle[int]) -> None:
    with Other(group) as other:
        value = passed_between(handle, other)

        def child(line: Any) -> int:
            with group.sync("passed", type=int, on_owner_death="raise") as mine:
                with mine.exclusive() as box:
                    box.value += 1
                return mine.version

        with Forked(child) as forked:
            assert forked.result() == value + 1
        assert other.change(1)[0] == value + 1


def test_where_there_is_no_memory_the_leader_does_it(
    found: Callable[..., Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    from libos_ipc.runtime.mapped_files import MappedFiles

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MappedFiles, "make", full)
    group = found(leader="embedded")
    with group.sync("passed", type=int, on_owner_death="raise") as handle, Other(group) as other:
        for value in range(0, 20, 2):
            assert other.change(1) == (value, False)
            with handle.exclusive() as box:
                box.value += 1


def test_one_who_cannot_have_the_memory_goes_by_the_leader(
    group: Group, handle: SyncHandle[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = group._session.member.sync.client
    monkeypatch.setattr(client, "open_baton", lambda place: None)
    with Other(group) as other:
        for value in range(0, 20, 2):
            assert other.change(1)[0] == value
            with handle.exclusive() as box:
                assert box.value == value + 1
                box.value += 1
