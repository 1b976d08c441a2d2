"""`lockf` without Python: what makes it go the long way, and that nobody notices the way."""

from __future__ import annotations

import inspect
import os
import pickle
import threading
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN
from pathlib import Path

import pytest
from lock_users import audited, held, until_quick, until_waiting
from processes import Forked, Line, until_settled

from libos_ipc import Group, fcntl


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"1234")
    return tmp_path / "file"


def make_quick(fd: int, long_ways: list[int]) -> None:
    until_quick(lambda: locked(fd), long_ways)


def locked(fd: int) -> None:
    fcntl.lockf(fd, LOCK_EX)
    fcntl.lockf(fd, LOCK_UN)


delegating = pytest.mark.parametrize("group", ["delegating"], indirect=True)


@delegating
def test_all_that_is_usual_needs_no_python(group: Group, path: Path, long_ways: list[int]) -> None:
    with open(path, "r+b") as file:
        make_quick(file.fileno(), long_ways)
        fcntl.lockf(file, LOCK_EX | LOCK_NB, 10)
        fcntl.lockf(file.fileno(), LOCK_SH, 2, 4)
        fcntl.lockf(file, LOCK_UN, 0, 8, os.SEEK_SET)
        assert long_ways == []
        rows = {(row.type, row.start, row.end, row.kind) for row in held(group)}
        assert rows == {
            ("write", 0, 3, "posix"),
            ("read", 4, 5, "posix"),
            ("write", 6, 7, "posix"),
        }
        fcntl.lockf(file, LOCK_UN)
        assert held(group) == []


@delegating
def test_what_is_unusual_goes_the_long_way(group: Group, path: Path, long_ways: list[int]) -> None:
    with open(path, "r+b") as file:
        fd = file.fileno()
        make_quick(fd, long_ways)
        file.seek(2)
        fcntl.lockf(fd, LOCK_EX, 1, 1, os.SEEK_CUR)
        fcntl.lockf(fd, LOCK_EX, -1, 2)
        fcntl.lockf(fd, LOCK_EX, 1, 7, timeout=1.0)
        assert long_ways == [fd] * 3
        assert {row.start for row in held(group)} == {1, 3, 7}
        for error, arguments in (
            (ValueError, (fd, 0)),
            (OSError, (fd, LOCK_EX, 0, -1)),
            (OverflowError, (fd, LOCK_EX, 2**64)),
            (ValueError, (-1, LOCK_EX)),
            (TypeError, ("file", LOCK_EX)),
            (TypeError, (fd,)),
        ):
            with pytest.raises(error):
                fcntl.lockf(*arguments)


@delegating
def test_a_number_may_be_another_descriptor_by_now(
    group: Group, path: Path, long_ways: list[int]
) -> None:
    other = path.with_name("other")
    other.touch()
    until_settled()
    fd = os.open(path, os.O_RDWR)
    make_quick(fd, long_ways)
    fcntl.lockf(fd, LOCK_EX)
    os.close(fd)
    assert os.open(other, os.O_RDWR) == fd
    fcntl.lockf(fd, LOCK_EX)
    assert {row.inode for row in held(group) if row.path == str(other)} == {os.stat(other).st_ino}
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.lockf(fd, LOCK_EX)
    assert os.open(path, os.O_RDONLY) == fd
    with pytest.raises(OSError, match="not open for this type"):
        fcntl.lockf(fd, LOCK_EX)
    os.close(fd)


@delegating
def test_another_process_gets_what_was_locked_so(
    group: Group, path: Path, long_ways: list[int]
) -> None:
    """It waits for what is locked, and has it when that is unlocked; then nothing is quick."""

    def other(line: Line) -> None:
        with open(path, "r+b") as file:
            fcntl.lockf(file, LOCK_EX)
            line.send()
            line.recv()

    with open(path, "r+b") as file:
        make_quick(file.fileno(), long_ways)
        fcntl.lockf(file, LOCK_EX)
        assert long_ways == []
        with Forked(other) as waiting:
            until_waiting(group)
            fcntl.lockf(file, LOCK_UN)
            waiting.recv()
            with pytest.raises(BlockingIOError):
                fcntl.lockf(file, LOCK_EX | LOCK_NB)
            waiting.send()
        fcntl.lockf(file, LOCK_EX)
        assert [row.pid for row in held(group)] == [group.pid]


@delegating
def test_a_child_has_nothing_of_it(group: Group, path: Path, long_ways: list[int]) -> None:
    """Neither the lock, which is POSIX's, nor the way to it."""

    def child(line: Line) -> None:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(fd, LOCK_EX | LOCK_NB)
        line.send(len(long_ways))
        line.recv()
        fcntl.lockf(fd, LOCK_EX)
        line.send([row.pid for row in held(group)] == [group.pid])

    fd = os.open(path, os.O_RDWR)
    try:
        make_quick(fd, long_ways)
        fcntl.lockf(fd, LOCK_EX)
        with Forked(child) as one:
            assert one.recv() == 1
            fcntl.lockf(fd, LOCK_UN)
            one.send()
            assert one.recv()
    finally:
        os.close(fd)


@delegating
def test_a_closed_group_locks_nothing(group: Group, path: Path, long_ways: list[int]) -> None:
    with open(path, "r+b") as file:
        make_quick(file.fileno(), long_ways)
        group.close()
        fcntl.lockf(file, LOCK_EX)  # the kernel's

        def other(line: Line) -> bool:
            with open(path, "r+b") as again, pytest.raises(BlockingIOError):
                fcntl.lockf(again, LOCK_EX | LOCK_NB)
            return True

        with Forked(other) as one:
            assert one.result()
        assert long_ways == []


@delegating
def test_threads_that_lock_and_unlock_at_once(
    group: Group, path: Path, long_ways: list[int]
) -> None:
    """A process is one owner: whatever they do, at the end nothing is held."""
    with open(path, "r+b") as file:
        fd = file.fileno()
        make_quick(fd, long_ways)

        def work(number: int) -> None:
            for _ in range(300):
                fcntl.lockf(fd, LOCK_EX, 1, number)
                fcntl.lockf(fd, LOCK_UN, 1, number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held(group) == []


@delegating
def test_it_is_audited(group: Group, path: Path, long_ways: list[int]) -> None:
    with open(path, "r+b") as file:
        fd = file.fileno()
        make_quick(fd, long_ways)
        with audited("fcntl.lockf") as heard:
            fcntl.lockf(file, LOCK_EX, 5)
            fcntl.lockf(file, LOCK_UN)
        assert long_ways == []
        assert heard == [(fd, LOCK_EX, 5, 0, 0), (fd, LOCK_UN, 0, 0, 0)]


def test_it_looks_like_the_function() -> None:
    assert fcntl.lockf.__name__ == "lockf"
    assert "POSIX lock" in (fcntl.lockf.__doc__ or "")
    assert list(inspect.signature(fcntl.lockf).parameters)[:2] == ["fd", "cmd"]
    assert pickle.loads(pickle.dumps(fcntl.lockf)) is fcntl.lockf
