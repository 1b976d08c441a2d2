"""File locks that processes hand on among themselves: the memory, and real processes with it."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from conftest import both_leaders
from hypothesis import given
from hypothesis import strategies as st
from lock_users import until_waiting
from processes import Forked, Line, leaders, poll
from simulator.turns import Queue, TurnTwin

from libos_ipc import Deadlock, Group, IpcError, Timeout, WouldBlock, fcntl
from libos_ipc._native import TURNS_STRIDE, QuickLock, Turns
from libos_ipc.core import lock_passing
from libos_ipc.core.lock_passing import MOVES, Turn
from libos_ipc.core.lock_words import EOF, WRITE
from libos_ipc.file_lock import FileLock
from libos_ipc.runtime.journal_file import read_head
from libos_ipc.runtime.turns import PLACES, LeadersTurns, MembersTurns

WAIT, WAIT_TIMED = 1, 2
#: Seconds that nobody needs.
LONG_S = 60.0

# ---- the memory

WHO = st.integers(1, 3)
STEPS = st.one_of(
    st.tuples(st.just("take"), WHO, st.integers(1, 2), st.booleans()),
    st.tuples(st.just("leave"), WHO, st.integers(1, 2)),
    st.tuples(st.sampled_from(["look", "look", "look", "end"])),
)


@given(st.lists(STEPS, max_size=40), st.integers(1, 3), st.integers(0, 30))
def test_the_memory_is_as_its_twin(steps: list[tuple[Any, ...]], count: int, more: int) -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    first = tuple(Turn(n, 1, 7, 0, 10) for n in range(1, 1 + count))
    leader, queue = Turns(memory, 1, 0), Queue(first, 10 + more)
    leader.begin(tuple(turn[1:] for turn in first), 10 + more)
    ends = {me: (Turns(memory, 1, me), TurnTwin(queue, me)) for me in (1, 2, 3)}
    for what, *args in steps:
        if what == "take":
            (native, twin), handle, patient = ends[args[0]], args[1], args[2]
            took = native.take(handle, 5, WAIT, 1e-9 if patient else 0.0)
            assert took == twin.take(handle, 5, WAIT, patient)
        elif what == "leave":
            native, twin = ends[args[0]]
            assert native.leave(args[1]) == twin.leave(args[1])
        else:
            queue.ended = queue.ended or what == "end"
        taken, rows = leader.end() if what == "end" else leader.look()
        assert (taken, tuple(map(Turn._make, rows))) == queue.found()
        assert leader.ended() == queue.ended


def test_what_another_process_may_have_written() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    leader, mine = Turns(memory, 0, 0), Turns(memory, 0, 1)
    for word in (2**64 - 1, 2**32 - 1, 0x9A, 0x11111111, 0x87654321, 0x2_0000_0001):
        memory[:8] = word.to_bytes(8, "little")
        _, rows = leader.look()
        assert len({row[0] for row in rows}) == len(rows) <= 8
        assert mine.take(5, 1, WAIT, 1e-9) in (0, -1)
        mine.leave(5)
        leader.end()
        assert mine.take(5, 1, WAIT, LONG_S) in (0, -1), "an end does not let anybody wait"


def test_what_the_leader_knows_of_an_acquisition_it_keeps(tmp_path: Path) -> None:
    """It waits with the leader by the handle that it had in turns, also when these are gone."""
    path = tmp_path / "file"
    path.touch()
    found = path.stat()
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    leader, mine = Turns(memory, 0, 0), Turns(memory, 0, 2)
    leader.begin(((1 << 32 | 5, 7, 0, 10),), 1000)
    lock = QuickLock()
    file, what = (found.st_dev, found.st_ino), (WRITE, 0, EOF)
    keeper = object()
    lock._offer(mine, os.fsencode(path), itertools.count(8), 2 << 32, file, what, keeper, None)
    assert not lock._take(0.001)
    assert lock._asked == (2 << 32 | 8, *file)
    assert [row[1] for row in leader.end()[1]] == [1 << 32 | 5, 2 << 32 | 8]
    mine.release()
    assert not lock._take(0.001)
    assert lock._asked == (2 << 32 | 8, *file)


def test_what_are_no_turns() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    most = mmap.PAGESIZE // TURNS_STRIDE
    for wrong in (
        (memory, most, 1),
        (memory, -1, 1),
        (memory, 0, 9),
        (memoryview(memory)[8:], 0, 1),
    ):
        with pytest.raises(ValueError, match="no turn"):
            Turns(*wrong)
    ours = Turns(memory, 0, 1)
    ours.release()
    assert ours.ended()
    assert (ours.take(1, 1, WAIT, LONG_S), ours.leave(1)) == (0, False)
    with pytest.raises(ValueError, match="released"):
        ours.look()


def test_a_place_is_used_once_and_files_go_with_their_last(tmp_path: Path) -> None:
    leader, member = LeadersTurns(str(tmp_path)), MembersTurns(str(tmp_path))
    places = [leader.begin((Turn(1, 5, 1, 0, 9),), 99) for _ in range(PLACES + 1)]
    assert len(set(places)) == PLACES + 1
    assert len(os.listdir(tmp_path)) == 2
    assert places[0] is not None
    where = places[0][0]
    member.open(*places[0], 2, 8, 9)
    mine = member.at((8, 9))
    assert mine is not None
    assert mine.take(6, 1, WAIT, 1e-9) == -1
    successor = LeadersTurns(str(tmp_path))
    assert [turn.handle for turn in successor.look(*places[0]).queue] == [5, 6]
    assert successor.end(*places[0]).taken
    successor.drop(where)
    assert len(os.listdir(tmp_path)) == 1
    assert mine.take(6, 1, WAIT, LONG_S) == -1, "it has its memory still"
    assert successor.end(where, 0).queue == ()
    member.close()
    assert member.at((8, 9)) is None


# ---- real processes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


class Other:
    """Another process with a lock of the same file, which does what it is told."""

    def __init__(self, group: Group, path: Path) -> None:
        def serve(line: Line) -> None:
            lock = group.file_lock(path)
            while isinstance(told := line.recv(), tuple):
                what, *args = told
                try:
                    if what == "acquire":
                        line.send(lock.acquire(*args))
                    elif what == "acquire too":
                        with group.file_lock(*args) as second:
                            line.send(second.token)
                    elif what == "hold":
                        line.send(lock.acquire())
                        time.sleep(*args)
                        lock.release()
                    elif what == "quick":
                        line.send(bool(lock._quick))
                    elif what == "epoch":
                        line.send(group.epoch)
                    else:
                        lock.release()
                        line.send()
                except IpcError as error:
                    lock.release()
                    line.send(type(error).__name__)

        self.process = Forked(serve)

    def __enter__(self) -> Other:
        self.process.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.process.__exit__(*exc)

    def do(self, *what: object) -> Any:
        self.process.send(what)
        return self.process.recv()


def asked(group: Group) -> int:
    last: int = group._session.member.calls.table.last
    return last


def in_turns(group: Group, path: Path) -> bool:
    found = os.stat(path)
    return group._session.held_files.turns.at((found.st_dev, found.st_ino)) is not None


@pytest.fixture
def other(group: Group, path: Path) -> Iterator[Other]:
    with Other(group, path) as other:
        yield other


@pytest.fixture
def lock(group: Group, path: Path, other: Other) -> Iterator[FileLock]:
    """A lock that has gone to and fro until both hand it on by themselves. Nobody has it."""
    lock = group.file_lock(path)

    def handed_over() -> bool:
        lock.acquire()
        other.process.send(("acquire",))
        until_waiting(group)
        lock.release()
        other.process.recv()
        taker = threading.Thread(target=lock.acquire)
        taker.start()
        until_waiting(group)
        other.do("release")
        taker.join()
        lock.release()
        return in_turns(group, path)

    poll(handed_over, what="handed on without the leader")
    for _ in range(2):  # as it is offered from the second time on
        other.do("acquire")
        other.do("release")
        lock.acquire()
        lock.release()
    yield lock
    lock._withdraw()  # pytest has it for longer


@both_leaders
def test_it_is_handed_on_without_a_message(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    tokens: list[Any] = []

    def undisturbed() -> bool:
        """Unless the machine is so busy that somebody waits for more than a moment."""
        before = asked(group)
        for _ in range(5):
            tokens.append(lock.acquire())
            quick = bool(lock._quick)
            other.process.send(("acquire",))
            lock.release()
            tokens.append(other.process.recv())
            quick = other.do("quick") and quick
            other.do("release")
        return quick and asked(group) == before and in_turns(group, path)

    poll(undisturbed, what="handed on without a message")
    assert tokens == sorted(set(tokens)), "tokens grow"
    with group.file_lock(path) as another:
        assert another.token is not None
        assert another.token > tokens[-1]


def test_who_waits_sleeps_until_it_is_woken(group: Group, lock: FileLock, other: Other) -> None:
    lock.acquire()
    other.process.send(("acquire",))
    until_waiting(group)
    lock.release()
    assert other.process.recv() > (0, 0)
    other.do("release")


@both_leaders
def test_who_waits_for_long_has_it_from_the_leader(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    token = lock.acquire()
    other.process.send(("acquire",))
    poll(lambda: not in_turns(group, path), what="it has ended")
    assert len(until_waiting(group)) == 1
    lock.release()
    assert other.process.recv() > token
    other.do("release")


@pytest.mark.parametrize("kind", ["file_lock", "lockf", "getlk"])
def test_another_request_ends_it(
    group: Group, path: Path, lock: FileLock, other: Other, kind: str
) -> None:
    other.do("acquire")
    with path.open("r+") as file:
        if kind == "file_lock":
            with pytest.raises(WouldBlock, match="holds"):
                group.file_lock(path, shared=True, start=3, timeout=0).acquire()
        elif kind == "lockf":
            with pytest.raises(BlockingIOError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            info = fcntl.getlk(file, fcntl.LOCK_EX)
            assert info is not None
            assert info.kind == "file_lock"
    assert not in_turns(group, path)
    other.do("release")
    assert lock.acquire() > (0, 0)
    lock.release()


def test_what_is_held_in_turns_can_be_changed(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    token = lock.acquire()
    assert lock.token == token
    assert lock.downgrade() > token
    assert not in_turns(group, path)
    with group.file_lock(path, shared=True, timeout=0):
        assert lock.held == "read"
    assert lock.upgrade(0) > token
    assert other.do("acquire", 0) == "WouldBlock"
    lock.release()
    assert other.do("acquire") > token
    other.do("release")


def test_listed_with_who_waits(group: Group, path: Path, lock: FileLock, other: Other) -> None:
    lock.acquire()
    other.process.send(("acquire",))
    until_waiting(group)
    holder, waiter = sorted(group.locks.table(), key=lambda row: row.waiting)
    assert (holder.pid, holder.type, holder.path) == (group.pid, "write", str(path))
    assert (waiter.os_pid, waiter.waiting) == (other.process.os_pid, True)
    assert list(waiter.waits_for) == [group.pid]
    lock.release()
    other.process.recv()
    other.do("release")


@pytest.mark.parametrize("timeout", [0, 0.001, 0.1])
def test_a_time_out_leaves_nothing(
    group: Group, path: Path, lock: FileLock, other: Other, timeout: float
) -> None:
    other.do("acquire")
    for mine in (lock, group.file_lock(path)):
        began = time.monotonic()
        with pytest.raises((Timeout, WouldBlock)) as raised:
            mine.acquire(timeout)
        assert time.monotonic() - began >= timeout
        assert not timeout or f"{timeout} s" in str(raised.value)
        assert not any(row.waiting for row in group.locks.table())
    other.do("release")
    assert lock.acquire(LONG_S) > (0, 0)
    lock.release()


@pytest.mark.parametrize("who", ["holder", "waiter"])
def test_death_lets_the_next_in(
    group: Group, path: Path, lock: FileLock, other: Other, who: str
) -> None:
    if who == "holder":
        other.do("acquire")
        killer = threading.Timer(0.005, other.process.kill)
        killer.start()
        lock.acquire()
        killer.join()
    else:
        lock.acquire()
        other.process.send(("acquire",))
        until_waiting(group)
        other.process.kill()
    other.process.wait()
    lock.release()
    with group.file_lock(path, timeout=LONG_S):
        pass
    poll(lambda: not any(row.type != "none" for row in group.locks.table()), what="nothing left")


def test_killed_at_any_moment_it_goes_on(group: Group, path: Path, tmp_path: Path) -> None:
    """One of two dies again and again: nobody else is kept out, or in with another."""
    inside = mmap.mmap(-1, mmap.PAGESIZE)
    mine = group.file_lock(path)

    def takes(line: Line) -> None:
        lock, me = group.file_lock(path), os.getpid()
        line.send()
        while True:
            with lock:
                inside[:4] = me.to_bytes(4, "little")

    for n in range(12):
        with Forked(takes) as process:
            process.recv()
            until = time.monotonic() + 0.003 * n
            while time.monotonic() < until:
                with mine:
                    inside[:4] = bytes(4)
                    assert inside[:4] == bytes(4)
            process.kill()
            process.wait()
            with mine:
                inside[:4] = bytes(4)
                assert inside[:4] == bytes(4)


def test_a_holder_that_is_stopped_keeps_it(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    other.do("acquire")
    other.process.stop()
    with pytest.raises(Timeout):
        lock.acquire(0.05)
    other.process.kill(signal.SIGCONT)
    other.do("release")
    assert lock.acquire(LONG_S) > (0, 0)
    lock.release()


def test_the_leader_dies_meanwhile(group: Group, path: Path, lock: FileLock, other: Other) -> None:
    """They go on without it; the next one knows who has the lock, and who waits."""
    head = read_head(f"{group._node.directory.path}/journal-1")
    assert head is not None
    token = lock.acquire()
    os.kill(head.os_pid, signal.SIGKILL)
    other.process.send(("acquire",))
    lock.release()
    assert other.process.recv() > token
    with pytest.raises(WouldBlock):
        group.file_lock(path, start=1, timeout=0).acquire()
    other.do("release")
    with lock:
        assert lock.token is not None
        assert lock.token > token


def test_tokens_grow_while_only_one_has_heard_of_a_new_leader(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    (leader,) = leaders(Path(group._node.directory.runtime_dir))
    with group._session.lock:  # nothing is heard here
        os.kill(leader, signal.SIGKILL)
        poll(lambda: other.do("epoch") == 2, what="the other one leads")
        token = other.do("acquire")
        other.do("release")
        assert lock._take(LONG_S), "still in turns"
        assert group.epoch == 1
        assert lock.token is not None
        assert lock.token > token
        held = lock.token
    poll(lambda: group.epoch == 2, what="it is heard of")
    assert lock.token == held, "as long as it is held"
    lock.release()
    assert other.do("acquire") > held
    other.do("release")


@both_leaders
def test_a_cycle_is_found(group: Group, path: Path, lock: FileLock, other: Other) -> None:
    """With oneself; and with another process, whoever closes it."""
    with pytest.raises(Deadlock), lock, group.file_lock(path):
        pass
    second = path.with_name("second")
    second.touch()
    with group.file_lock(second):
        other.do("acquire")
        other.process.send(("acquire too", second))
        until_waiting(group)
        with pytest.raises(Deadlock):
            lock.acquire()
    assert other.process.recv() > (0, 0)
    other.do("release")
    with group.file_lock(second):
        other.do("acquire")
        closer = threading.Thread(
            target=lambda: (until_waiting(group), other.process.send(("acquire too", second)))
        )
        closer.start()
        with lock:
            assert other.process.recv() == "Deadlock"
        closer.join()


class Raised(Exception):
    """By a signal handler."""


@pytest.mark.parametrize("after_s", [0.002, 0.06])
def test_a_signal_handler_that_raises_leaves_nothing(
    group: Group, path: Path, lock: FileLock, other: Other, after_s: float
) -> None:
    def handler(*_: object) -> None:
        raise Raised

    def interrupted(call: Callable[[], object]) -> None:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        call()

    before = signal.signal(signal.SIGALRM, handler)
    acquire: list[Callable[[], object]] = [
        lock.acquire,
        lock.__enter__,
        group.file_lock(path).acquire,
    ]
    try:
        for each in acquire:
            other.do("acquire")
            with pytest.raises(Raised):
                interrupted(each)
            assert not any(row.waiting for row in group.locks.table())
            other.do("release")
            assert other.do("acquire", 1.0) > (0, 0)
            other.do("release")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_does_not_raise_is_no_end(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    try:
        other.do("acquire")
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        releaser = threading.Thread(target=lambda: (poll(lambda: heard), other.do("release")))
        releaser.start()
        assert lock.acquire() > (0, 0)
        releaser.join()
        lock.release()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_fork_has_no_part_in_it(group: Group, path: Path, lock: FileLock, other: Other) -> None:
    lock.acquire()

    def child(line: Line) -> object:
        lock.release()  # it is the parent's
        with pytest.raises(WouldBlock):
            group.file_lock(path, timeout=0).acquire()
        return in_turns(group, path)

    with Forked(child) as forked:
        assert forked.result() is False
    assert other.do("acquire", 0.05) == "Timeout"
    lock.release()


def test_a_handler_that_forks_while_its_thread_waits(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    """The child asks for a lock of its own."""
    children: list[Forked] = []

    def child(line: Line) -> object:
        with group.file_lock(path, timeout=LONG_S) as own:
            return own.token

    def handler(*_: object) -> None:
        if not children:
            children.append(Forked(child))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        other.do("acquire")
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        releaser = threading.Thread(target=lambda: (poll(lambda: children), other.do("release")))
        releaser.start()
        token = lock.acquire()
        releaser.join()
        lock.release()
        with children[0] as process:
            assert process.result() > token
    finally:
        signal.signal(signal.SIGALRM, before)


def hand_over(lock: FileLock, other: Other) -> Iterator[Any]:
    """Tokens, each of the process that had to wait for it."""
    lock.acquire()
    while True:
        other.process.send(("acquire",))
        lock.release()
        yield other.process.recv()
        releaser = threading.Thread(target=other.do, args=("release",))
        releaser.start()
        yield lock.acquire()
        releaser.join()


@pytest.mark.parametrize("group", ["embedded"], indirect=True)
def test_numbers_are_used_up(
    group: Group, path: Path, lock: FileLock, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are the next, and the lock goes on."""
    monkeypatch.setattr(lock_passing, "NUMBERS", 5)
    monkeypatch.setattr(lock_passing, "WASTED", -MOVES)
    with group.file_lock(path, shared=True):
        pass
    tokens = list(islice(hand_over(lock, other), 40))
    lock.release()
    assert tokens == sorted(set(tokens))

    async def take() -> Any:
        async with group.file_lock(path, timeout=LONG_S) as taken:
            return taken.token

    for _ in range(20):
        tokens += [asyncio.run(take()), lock.acquire()]
        lock.release()
    assert tokens == sorted(set(tokens))


@both_leaders
def test_tasks_take_part(group: Group, path: Path, lock: FileLock, other: Other) -> None:
    """They do not wait in turns: the leader ends these for them."""

    async def take(timeout: float | None) -> Any:
        async with group.file_lock(path, timeout=timeout) as taken:
            return taken.token

    token = asyncio.run(take(None))
    assert in_turns(group, path), "it was free"
    other.do("acquire")
    for timeout, error in (0.0, WouldBlock), (0.02, Timeout):
        with pytest.raises(error):
            asyncio.run(take(timeout))
    releaser = threading.Thread(target=lambda: (until_waiting(group), other.do("release")))
    releaser.start()
    assert asyncio.run(take(None)) > token
    releaser.join()


@pytest.mark.config(lock_delegation=False)
def test_it_can_be_turned_off(group: Group, path: Path, other: Other) -> None:
    lock = group.file_lock(path)
    for _ in range(2 * MOVES):
        lock.acquire()
        other.process.send(("acquire",))
        until_waiting(group)
        lock.release()
        other.process.recv()
        other.do("release")
    assert not in_turns(group, path)


def test_a_process_that_writes_anything_there_stops_nobody_else(
    group: Group, path: Path, lock: FileLock, other: Other
) -> None:
    """It can have the file for itself, as by locking it; the leader goes on."""
    dice, home = random.Random(5), Path(group._node.directory.path)
    second = path.with_name("second")
    second.touch()
    (memory,) = home.glob("turns-*")
    with memory.open("r+b") as file, mmap.mmap(file.fileno(), 0) as forged:
        for _ in range(60):
            start = dice.choice((0, dice.randrange(TURNS_STRIDE)))
            forged[start : start + 8] = dice.choice(
                (dice.randbytes(8), dice.randrange(2**35).to_bytes(8, "little"), b"\x21" + bytes(7))
            )
            assert isinstance(group.locks.table(), list)
        with suppress(IpcError), group.file_lock(path, shared=True, timeout=0):
            pass
        assert not in_turns(group, path)
    assert other.do("acquire", 0.05)
    for _ in range(2):
        with group.file_lock(second, timeout=LONG_S):
            pass
