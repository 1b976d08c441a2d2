"""`flock` without Python: what makes it go the long way, and that nobody notices the way."""

from __future__ import annotations

import contextlib
import fcntl as kernel
import inspect
import os
import pickle
import random
import signal
import threading
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN
from pathlib import Path

import pytest
from lock_users import audited, held, until_quick, until_waiting
from processes import Forked, Line, poll, until_settled

from libos_ipc import Group, fcntl
from libos_ipc._native import QuickFlocks

delegating = pytest.mark.parametrize("group", ["delegating"], indirect=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


@pytest.fixture
def fd(group: Group, path: Path, long_ways: list[int]) -> Iterator[int]:
    """By which the file is locked and unlocked without Python."""
    fd = os.open(path, os.O_RDWR)
    make_quick(fd, long_ways)
    yield fd
    with contextlib.suppress(OSError):  # the test may have closed it: the number is another's then
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            os.close(fd)


def make_quick(fd: int, long_ways: list[int]) -> None:
    until_quick(lambda: locked(fd), long_ways)


def locked(fd: int) -> None:
    fcntl.flock(fd, LOCK_EX)
    fcntl.flock(fd, LOCK_UN)


def types(group: Group) -> list[str]:
    return sorted(row.type for row in held(group))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@delegating
def test_all_that_is_usual_needs_no_python(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    before = descriptors()
    with open(path) as file:
        for operation in (LOCK_SH, LOCK_EX, LOCK_EX | LOCK_NB, LOCK_SH | LOCK_NB):
            fcntl.flock(file, operation)
            assert types(group) == ["write" if operation & LOCK_EX else "read"]
        fcntl.flock(fd, LOCK_SH)
        assert types(group) == ["read", "read"]
        fcntl.flock(file, LOCK_UN)
        fcntl.flock(fd, LOCK_EX)
        assert types(group) == ["write"]
        fcntl.flock(fd, LOCK_UN)
        assert held(group) == []
    assert long_ways == []
    assert descriptors() == before


@delegating
def test_every_file_that_is_opened_anew_is_quick(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    before = descriptors()
    for _ in range(20):
        with open(path) as file:
            locked(file.fileno())
    assert long_ways == []
    assert descriptors() == before


@delegating
def test_what_is_unusual_goes_the_long_way(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    fcntl.flock(fd, LOCK_EX, timeout=1.0)
    fcntl.flock(fd, LOCK_UN)
    assert long_ways == [fd, fd]
    only = os.open(path, os.O_PATH)
    try:
        for error, arguments in (
            (OSError, (fd, 0)),
            (OSError, (only, LOCK_EX)),
            (OverflowError, (fd, 2**64)),
            (ValueError, (-1, LOCK_EX)),
            (TypeError, ("file", LOCK_EX)),
            (TypeError, (fd,)),
        ):
            with pytest.raises(error):
                fcntl.flock(*arguments)
    finally:
        os.close(only)
    assert held(group) == []


@delegating
def test_closing_releases_what_was_locked_so(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    """Also when the number is of another description of the same file by then."""
    until_settled()
    first = os.open(path, os.O_RDWR)
    fcntl.flock(first, LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, LOCK_EX | LOCK_NB)
    os.close(first)
    assert os.open(path, os.O_RDWR) == first
    fcntl.flock(fd, LOCK_EX | LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.flock(first, LOCK_EX | LOCK_NB)
    fcntl.flock(fd, LOCK_UN)
    make_quick(fd, long_ways)
    fcntl.flock(first, LOCK_EX)
    os.close(first)
    assert os.open(path, os.O_RDWR) == first
    fcntl.flock(first, LOCK_UN)  # of another description: nothing
    fcntl.flock(first, LOCK_EX | LOCK_NB)
    os.close(first)
    fcntl.flock(fd, LOCK_EX | LOCK_NB)
    assert types(group) == ["write"]


@delegating
def test_a_duplicate_is_the_same_lock_and_keeps_it(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    fcntl.flock(fd, LOCK_EX)
    assert long_ways == []
    twin = os.dup(fd)
    fcntl.flock(twin, LOCK_SH | LOCK_NB)
    assert types(group) == ["read"]
    os.close(fd)
    with open(path) as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, LOCK_EX | LOCK_NB)
        fcntl.flock(twin, LOCK_UN)
        fcntl.flock(other, LOCK_EX | LOCK_NB)
    os.close(twin)


@delegating
def test_a_refused_conversion_loses_what_was_held(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    with open(path) as other:
        fcntl.flock(fd, LOCK_SH)
        fcntl.flock(other, LOCK_SH)
        assert long_ways == []
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, LOCK_EX | LOCK_NB)
        fcntl.flock(fd, LOCK_EX | LOCK_NB)
        assert types(group) == ["write"]


@delegating
def test_another_process_gets_what_was_locked_so(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    """It waits for what is locked, and has it when that is unlocked or closed."""

    def other(line: Line) -> None:
        with open(path) as file:
            for _ in range(2):
                fcntl.flock(file, LOCK_EX)
                line.send()
                line.recv()
                fcntl.flock(file, LOCK_UN)
                line.send()
                line.recv()

    fcntl.flock(fd, LOCK_EX)
    assert long_ways == []
    with Forked(other) as waiting:
        until_waiting(group)
        fcntl.flock(fd, LOCK_UN)
        waiting.recv()
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, LOCK_EX | LOCK_NB)
        waiting.send()
        waiting.recv()
        with open(path) as mine:
            fcntl.flock(mine, LOCK_EX)
            waiting.send()
            until_waiting(group)
        waiting.recv()
        waiting.send()
        waiting.recv()
        waiting.send()


@delegating
def test_it_dies_with_its_process(group: Group, path: Path, long_ways: list[int]) -> None:
    def other(line: Line) -> None:
        with open(path) as file:
            make_quick(file.fileno(), long_ways)
            fcntl.flock(file, LOCK_EX)
            line.send(long_ways)
            line.pause()

    with open(path) as file, Forked(other) as one:
        assert one.recv() == []
        one.kill(signal.SIGKILL)
        fcntl.flock(file, LOCK_EX)
        assert [row.pid for row in held(group)] == [group.pid]


@delegating
def test_a_fork_shares_what_was_locked_so(
    group: Group, path: Path, fd: int, long_ways: list[int]
) -> None:
    """Either side may unlock, and the last close releases."""

    def child(line: Line) -> None:
        line.recv()
        fcntl.flock(fd, LOCK_SH)
        line.send()
        line.recv()
        os.close(fd)
        line.send()
        line.pause()

    fcntl.flock(fd, LOCK_EX)
    assert long_ways == []
    with Forked(child) as one, open(path) as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, LOCK_SH | LOCK_NB)
        one.send()
        one.recv()
        fcntl.flock(other, LOCK_SH | LOCK_NB)
        fcntl.flock(other, LOCK_UN)
        os.close(fd)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, LOCK_EX | LOCK_NB)
        one.send()
        one.recv()
        fcntl.flock(other, LOCK_EX | LOCK_NB)


@delegating
def test_forks_while_threads_lock(group: Group, path: Path, fd: int, long_ways: list[int]) -> None:
    """A child that has the description, too, is never locked out of it, and when all have let go
    nothing is held."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            with open(path) as file:
                fcntl.flock(file, LOCK_SH)
                fcntl.flock(fd, LOCK_SH)
                fcntl.flock(file, LOCK_UN)

    def child(line: Line) -> None:
        fcntl.flock(fd, LOCK_SH | LOCK_NB)
        os.close(fd)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with Forked(child) as one:
                one.result()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    fcntl.flock(fd, LOCK_UN)
    with open(path) as file:
        fcntl.flock(file, LOCK_EX)
        fcntl.flock(file, LOCK_UN)
    poll(lambda: held(group) == [], what="all unlocked")


@delegating
def test_more_descriptions_than_are_known_without_python(
    group: Group, path: Path, long_ways: list[int]
) -> None:
    """Of many files, so that no slot is full; the same with all of them closed but not unlocked."""
    paths = [path.with_name(f"file {number}") for number in range(10)]
    for each in paths:
        each.touch()
        with open(each) as file:
            make_quick(file.fileno(), long_ways)
    for _ in range(3):
        files = [open(each) for each in paths for _ in range(2)]  # noqa: SIM115
        for file in files:
            fcntl.flock(file, LOCK_SH)
        assert types(group) == ["read"] * 20
        for file in files:
            file.close()
        for each in paths:
            with open(each) as file:
                fcntl.flock(file, LOCK_EX)
                assert types(group).count("write") == 1
                fcntl.flock(file, LOCK_UN)


def answer(lock: Callable[[int, int], None], fd: int, operation: int) -> int:
    """The errno, 0 for success."""
    try:
        lock(fd, operation)
    except OSError as error:
        return error.errno or -1
    return 0


@delegating
def test_random_scripts_are_answered_as_by_the_kernel(
    group: Group, path: Path, long_ways: list[int]
) -> None:
    """Files opened, duplicated, closed and locked at random, here and at the kernel's."""
    dice = random.Random(20)
    operations = [LOCK_SH, LOCK_EX, LOCK_SH | LOCK_NB, LOCK_EX | LOCK_NB, LOCK_UN, LOCK_UN]
    theirs = path.with_name("the kernel's")
    theirs.touch()
    quick = 0
    for script in range(40):
        opened = [(os.open(path, os.O_RDWR), os.open(theirs, os.O_RDWR))]
        make_quick(opened[0][0], long_ways)
        for step in range(60):
            what = dice.randrange(16)
            pair = dice.choice(opened)
            if what == 0 and len(opened) < 5:
                opened.append((os.open(path, os.O_RDWR), os.open(theirs, os.O_RDWR)))
            elif what == 1 and len(opened) < 5:
                opened.append((os.dup(pair[0]), os.dup(pair[1])))
            elif what == 2 and len(opened) > 1:
                opened.remove(pair)
                os.close(pair[0])
                os.close(pair[1])
            else:
                operation = dice.choice(operations)
                if operation != LOCK_UN and len(opened) > 1:
                    operation |= LOCK_NB
                found = answer(kernel.flock, pair[1], operation)
                before = len(long_ways)
                assert answer(fcntl.flock, pair[0], operation) == found, (script, step)
                quick += len(long_ways) == before
        for mine, its in opened:
            os.close(mine)
            os.close(its)
    assert quick > 100


@delegating
def test_a_closed_group_locks_nothing(group: Group, fd: int, long_ways: list[int]) -> None:
    fcntl.flock(fd, LOCK_EX)
    assert long_ways == []
    group.close()
    fcntl.flock(fd, LOCK_EX | LOCK_NB)  # the kernel's
    assert long_ways == []
    fcntl.flock(fd, LOCK_UN)


@delegating
def test_it_is_audited(group: Group, fd: int, long_ways: list[int]) -> None:
    with audited("fcntl.flock") as heard:
        locked(fd)
    assert long_ways == []
    assert heard == [(fd, LOCK_EX), (fd, LOCK_UN)]


def test_it_looks_like_the_function() -> None:
    assert fcntl.flock.__name__ == "flock"
    assert "open file description" in (fcntl.flock.__doc__ or "")
    assert list(inspect.signature(fcntl.flock).parameters) == ["fd", "operation", "timeout"]
    assert pickle.loads(pickle.dumps(fcntl.flock)) is fcntl.flock


def test_an_offer_that_a_fork_has_overtaken_is_none() -> None:
    """Whoever began before all was withdrawn does not offer after it."""
    flocks = QuickFlocks(iter([1]), 0)
    turn = flocks.turn
    assert flocks.withdraw_all() == []
    assert flocks.turn != turn
