"""Files that one process locks by itself: from outside nothing differs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import both_leaders
from processes import Forked, Line, poll

import libos_ipc
from libos_ipc import Deadlock, Group, WouldBlock
from libos_ipc.core.delegations import STREAK


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    return path


def is_given(group: Group) -> bool:
    return bool(group._session.held_files._by_place)


def get_it(group: Group, path: Path) -> None:
    """Lock and unlock until the leader gives the file away."""
    for _ in range(STREAK):
        with group.file_lock(path):
            pass
    poll(lambda: is_given(group), what="the file is given away")


@both_leaders
def test_a_file_that_nobody_else_wants_is_given_away(group: Group, path: Path) -> None:
    get_it(group, path)
    asked = group._session.member.calls.table.last
    tokens = []
    for _ in range(5):
        with group.file_lock(path) as lock:
            tokens.append(lock.token)
    assert group._session.member.calls.table.last == asked, "no request was made"
    assert tokens == sorted(set(tokens)), "tokens grow"
    (row,) = group.locks.table()
    assert (row.delegated, row.type, row.pid, row.path) == (True, "none", group.pid, str(path))
    with group.file_lock(path, shared=True, start=3, length=2) as lock:
        (row,) = group.locks.table()
        assert (row.delegated, row.type, row.start, row.end) == (True, "read", 3, 4)
        assert lock.upgrade() > tokens[-1]
        assert lock.held == "write"
    assert is_given(group)


@both_leaders
def test_it_is_taken_back_for_another_process(group: Group, path: Path) -> None:
    get_it(group, path)

    def other(line: Line) -> object:
        with pytest.raises(WouldBlock), group.file_lock(path, timeout=0):
            pass
        line.send()
        with group.file_lock(path) as lock:
            return lock.token

    with group.file_lock(path) as lock:
        first = lock.token
        with Forked(other) as child:
            child.recv()
            poll(lambda: any(row.waiting for row in group.locks.table()))
            assert not any(row.delegated for row in group.locks.table())
            lock.release()
            assert child.result() > first
    poll(lambda: not is_given(group))
    with group.file_lock(path) as lock:
        assert lock.token is not None
        assert first is not None
        assert lock.token > first


def test_it_is_taken_back_from_a_holder_that_is_stopped(group: Group, path: Path) -> None:
    def holder(line: Line) -> None:
        get_it(group, path)
        lock = group.file_lock(path)
        lock.acquire()
        line.send()
        line.recv()
        lock.release()
        line.send()
        line.pause()

    with Forked(holder) as child:
        child.recv()
        child.stop()
        with pytest.raises(WouldBlock, match="holds"), group.file_lock(path, timeout=0):
            pass
        (row,) = group.locks.table()
        assert (row.os_pid, row.waiting, row.delegated) == (child.os_pid, False, False)
        child.kill(signal.SIGCONT)
        child.send()
        child.recv()
        with group.file_lock(path, timeout=0):
            pass


def test_a_dead_holder_leaves_nothing(group: Group, path: Path) -> None:
    def holder(line: Line) -> None:
        get_it(group, path)
        group.file_lock(path).acquire()
        line.send()
        line.pause()

    for _ in range(2):
        with Forked(holder) as child:
            child.recv()
            child.kill()
            child.wait()
        with group.file_lock(path):
            pass
    assert not any(row.waiting for row in group.locks.table())

    def slots() -> set[str]:
        return {name for name in os.listdir(group._node.directory.path) if "slots" in name}

    poll(lambda: slots() <= {f"{group.vmid}.slots"}, what="the slots of the dead are removed")


def test_other_kinds_of_locks_meet_it(group: Group, path: Path) -> None:
    from libos_ipc import fcntl

    get_it(group, path)
    with group.file_lock(path), open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert is_given(group), "flock is a world of its own"
        info = fcntl.getlk(file, fcntl.LOCK_EX)
        assert info is not None
        assert (info.kind, info.pid) == ("file_lock", group.pid)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(Deadlock), group.file_lock(path), group.file_lock(path):
        pass


def test_a_fork_leaves_the_file_to_the_parent(group: Group, path: Path) -> None:
    get_it(group, path)
    with group.file_lock(path):

        def child(line: Line) -> bool:
            with pytest.raises(WouldBlock), group.file_lock(path, timeout=0):
                pass
            return is_given(group)

        with Forked(child) as process:
            assert process.result() is False


@pytest.mark.config(lock_delegation=False)
def test_it_can_be_turned_off(group: Group, path: Path) -> None:
    for _ in range(3 * STREAK):
        with group.file_lock(path):
            pass
    assert group.locks.table() == []
    assert not is_given(group)


def test_many_processes_take_turns(group: Group, path: Path, tmp_path: Path) -> None:
    """Given away and taken back all the time: no increment is lost."""
    count = tmp_path / "count"
    count.write_text("0")

    def adds(line: Line) -> None:
        lock = group.file_lock(path)
        for n in range(200):
            with lock:
                count.write_text(str(int(count.read_text()) + 1))
            if n % 50 == 49:
                poll(lambda: True)

    start: Callable[[], Forked] = lambda: Forked(adds)  # noqa: E731
    with start() as one, start() as two, start() as three:
        for process in (one, two, three):
            process.result()
    assert count.read_text() == "600"
    assert libos_ipc.current() is group
