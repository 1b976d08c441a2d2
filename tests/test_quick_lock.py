"""Acquisitions that never leave C: `file_lock` in a file that this process has to itself."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from lock_users import held
from processes import Forked, Line, poll

from libos_ipc import Group, InvalidArgument, NotFound, WouldBlock
from libos_ipc._native import Delegation, Descriptor, QuickLock
from libos_ipc.core.delegations import STREAK
from libos_ipc.file_lock import FileLock

EOF = 2**63 - 1
WRITE = 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


def quick(group: Group, path: Path) -> FileLock:
    """A lock whose next acquisitions are quick."""
    lock = group.file_lock(path)
    for _ in range(STREAK):
        with lock:
            pass

    def is_quick() -> bool:
        with lock:
            return bool(lock._quick)

    poll(is_quick, what="a quick acquisition")
    return lock


def counts(group: Group) -> int:
    last: int = group._session.member.calls.table.last
    return last


# ---- the type


class Slow(QuickLock):
    """Notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def acquire(self) -> None:
        self.asked.append("acquire")

    def release(self) -> None:
        self.asked.append("release")


@pytest.fixture
def slot() -> Iterator[Delegation]:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    slot = Delegation(memory, 0)
    slot.begin(10, 1000)
    yield slot
    slot.close()
    memory.close()


def offer(lock: QuickLock, slot: Delegation, path: Path, /, **changed: object) -> None:
    found = os.stat(path)
    keeper = changed.pop("keeper", None)
    given = {
        "slot": slot,
        "path": os.fsencode(path),
        "numbers": itertools.count(1),
        "base": 5 << 32,
        "file": (found.st_dev, found.st_ino),
        "what": (WRITE, 3, 9),
        **changed,
        "keeper": Descriptor.open(path, os.O_PATH) if keeper is None else keeper,
        "timeout": None,
    }
    lock._offer(*given.values())  # type: ignore[arg-type]


def test_without_an_offer_it_is_pythons(path: Path) -> None:
    lock = Slow()
    with lock:
        pass
    assert lock.asked == ["acquire", "release"]
    assert (lock._quick, lock._take(), lock._give()) == (0, False, False)
    with pytest.raises(ValueError, match="nothing"):
        lock._take_over()


def test_with_one_it_is_not(path: Path, slot: Delegation) -> None:
    lock = Slow()
    offer(lock, slot, path)
    with lock as same:
        assert same is lock
        assert lock._quick == 10
        me = threading.get_native_id()
        assert slot.look() == (11, ((4, 5 << 32 | 1, WRITE, 3, 9, 10, me, -1, -1),))
    assert slot.look() == (11, ())
    assert lock._take()
    assert not lock._take(), "held already"
    handle, number, keeper = lock._take_over()
    assert (handle, number) == (5 << 32 | 1, 11), "called the same, since nobody has heard of it"
    assert os.fstat(keeper.fileno()).st_ino == os.stat(path).st_ino
    assert lock._take_over() == (handle, number, keeper)
    assert not lock._give()
    lock._taken_over()
    assert (lock._quick, lock._give()) == (0, False)
    assert len(slot.look()[1]) == 1, "it is the caller's to unlock"
    assert not lock._take(), "and the offer is gone"


def test_a_slot_that_is_taken_back_or_in_the_way(path: Path, slot: Delegation) -> None:
    lock, other = Slow(), Slow()
    offer(lock, slot, path)
    offer(other, slot, path, base=6 << 32)
    with lock, other:
        assert other.asked == ["acquire"]
        slot.recall()
    assert other.asked == ["acquire", "release"]
    assert lock.asked == ["release"]
    assert lock._quick == 10, "Python must look after it"
    lock._taken_over()
    offer(lock, slot, path)
    slot.close()
    with lock:
        assert lock.asked == ["release", "acquire"]


def test_a_path_that_leads_elsewhere(path: Path, slot: Delegation) -> None:
    lock = Slow()
    offer(lock, slot, path)
    path.rename(path.with_name("old"))
    path.touch()
    assert not lock._take()
    path.unlink()
    offer(lock, slot, path.with_name("old"), path=os.fsencode(path))
    assert not lock._take()


def test_bad_offers_are_refused(path: Path, slot: Delegation) -> None:
    lock = Slow()
    keeper = object()
    for changed in (
        {"slot": object()},
        {"path": "text"},
        {"numbers": 5},
        {"what": (2, 0, 5)},
        {"what": (WRITE, 5, 4)},
        {"what": (WRITE, 0, 2**63)},
    ):
        with pytest.raises(ValueError, match="cannot be locked quickly"):
            offer(lock, slot, path, keeper=keeper, **changed)
    with pytest.raises(OverflowError):
        offer(lock, slot, path, keeper=keeper, base=-1)
    with pytest.raises(TypeError):
        lock._offer(slot)  # type: ignore[call-arg]
    assert sys.getrefcount(keeper) == 2, "it was not kept"
    offer(lock, slot, path, numbers=iter(()))
    with pytest.raises(ValueError, match="no number"):
        lock._take()
    assert slot.look() == (10, ())


# ---- file_lock


def test_tokens_and_what_is_held(group: Group, path: Path) -> None:
    lock = quick(group, path)
    asked, tokens = counts(group), []
    for _ in range(5):
        with lock:
            assert lock.held == "write"
            tokens.append(lock.token)
        assert lock.token is None
        assert lock.held is None
    token = lock.acquire()
    assert token == lock.token
    lock.release()
    assert counts(group) == asked
    assert tokens == sorted(set(tokens))
    assert tokens[-1] is not None
    assert token > tokens[-1]
    with pytest.raises(ZeroDivisionError), lock:
        print(1 / 0)
    assert lock.held is None
    with lock, pytest.raises(InvalidArgument, match="in use already"), lock:
        pass


def test_one_object_is_in_use_once_also_where_nothing_conflicts(group: Group, path: Path) -> None:
    """Whichever way it was taken, and whichever way is tried then."""
    quick(group, path)
    lock = group.file_lock(path, shared=True)
    for _ in range(3):
        with lock, pytest.raises(InvalidArgument, match="in use already"), lock:
            pass
        assert lock.held is None

    async def twice() -> None:
        async with lock:
            with pytest.raises(InvalidArgument, match="in use already"):
                await asyncio.to_thread(lock.acquire)

    asyncio.run(twice())
    assert held(group) == []


def test_changing_what_was_taken_quickly(group: Group, path: Path) -> None:
    lock = quick(group, path)
    with lock:
        before = lock.token
        assert before is not None
        assert lock.downgrade() > before
        assert lock.held == "read"
        assert lock.upgrade() > before
    assert lock.held is None
    assert held(group) == []


def test_another_process_takes_its_turn(group: Group, path: Path) -> None:
    lock = quick(group, path)

    def other(line: Line) -> object:
        with pytest.raises(WouldBlock), group.file_lock(path, timeout=0):
            pass
        line.send()
        with group.file_lock(path) as mine:
            return mine.token

    with Forked(other) as child:
        with lock:
            first = lock.token
            child.recv()
        assert child.result() > first
    with lock:
        assert lock.token is not None
        assert first is not None
        assert lock.token > first


def test_a_replaced_file_is_another_one(group: Group, path: Path) -> None:
    lock = quick(group, path)
    path.rename(path.with_name("old"))
    with pytest.raises(NotFound):
        lock.acquire()
    path.touch()
    with lock:
        (row,) = held(group)
        assert row.inode == path.stat().st_ino


def test_in_an_event_loop_it_is_a_tasks(group: Group, path: Path) -> None:
    """Tasks exclude each other: who holds it is no thread."""
    lock = quick(group, path)

    async def takes() -> int:
        with lock:
            return held(group)[0].thread

    assert asyncio.run(takes()) != threading.get_native_id()
    with lock:
        assert held(group)[0].thread == threading.get_native_id()


def test_a_forks_copy_holds_nothing(group: Group, path: Path) -> None:
    lock = quick(group, path)

    def child(line: Line) -> str | None:
        assert (lock.held, lock.token) == (None, None)
        lock.release()
        with pytest.raises(WouldBlock):
            lock.acquire(timeout=0)
        return lock.held

    with lock:
        with Forked(child) as process:
            assert process.result() is None
        assert lock.held == "write"
    with lock:
        assert held(group)[0].thread == threading.get_native_id()


def test_a_closed_group_gives_it_back(found: object, path: Path) -> None:
    group = found()  # type: ignore[operator]
    lock = quick(group, path)
    lock.acquire()
    group.close()
    assert (lock.held, lock.token) == (None, None)
    lock.release()
    assert lock.held is None


def test_threads(group: Group, path: Path) -> None:
    """Each with a lock of its own, and the file now given, now taken back."""
    count = 0

    def adds() -> None:
        nonlocal count
        lock = group.file_lock(path)
        for _ in range(100):
            with lock:
                now = count
                count = now + 1

    threads = [threading.Thread(target=adds) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 400


class Struck(Exception):
    """By a timer."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handler_that_raises_leaves_nothing_held(group: Group, path: Path) -> None:
    lock = quick(group, path)
    rng = random.Random(4711)
    struck = 0

    def strike(number: int, frame: FrameType | None) -> None:
        nonlocal struck
        struck += 1  # seen also where it strikes in a callback of the garbage collector, in vain
        raise Struck

    def until_struck(strikes: int) -> None:  # where it loops, 3.13.0 is outside of every `try`
        while struck == strikes:
            with lock:
                pass

    before = signal.signal(signal.SIGALRM, strike)
    interval = sys.getswitchinterval()
    try:
        for strikes in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + rng.random() * 0.001)
                until_struck(strikes)
            except Struck:
                assert lock.held is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.setswitchinterval(interval)
    assert held(group) == []
