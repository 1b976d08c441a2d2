"""Locks by descriptors in a file that was given to one process: from outside nothing differs.

The tests of `fcntl` and of `file_lock` run with a leader that gives files away, too. Here is what
only delegation can get wrong.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from lock_users import held, until_quick, until_waiting
from processes import Forked, Line, descriptors, poll

import libos_ipc
from libos_ipc import Deadlock, Group, WouldBlock, fcntl
from libos_ipc.core.delegations import STREAK
from libos_ipc.fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN

Lock = Callable[..., None]
both_kinds = pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return path


def is_given(group: Group) -> bool:
    return bool(group._session.held_files._by_place)


def get_it(group: Group, fd: int, lock: Lock) -> None:
    """Lock and unlock until the leader gives the file away."""
    for _ in range(STREAK):
        lock(fd, LOCK_EX)
        lock(fd, LOCK_UN)
    poll(lambda: is_given(group), what="the file is given away")


def asked(group: Group) -> int:
    """How much this process has asked for."""
    last: int = group._session.member.calls.table.last
    return last


def found(group: Group) -> list[tuple[Any, ...]]:
    """What is held, as anybody can see it."""
    return [(r.kind, r.type, r.start, r.end, r.os_pid, r.delegated) for r in held(group)]


def is_free(path: Path) -> bool:
    """Whether this process could flock the file by a description of its own."""
    with open(path, "r+") as file:
        try:
            fcntl.flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        return True


@both_kinds
def test_no_message_goes_out(group: Group, path: Path, lock: Lock) -> None:
    with open(path, "r+") as file:
        get_it(group, file.fileno(), lock)
        lock(file, LOCK_EX)  # from here on something may be kept, to lock without Python
        lock(file, LOCK_UN)
        before, open_before = asked(group), descriptors()
        for _ in range(5):
            lock(file, LOCK_SH)
            lock(file, LOCK_EX)
            lock(file, LOCK_UN)
        assert asked(group) == before
        assert descriptors() == open_before, "nor is anything kept"
        for _ in range(40):
            with open(path, "r+") as again:
                lock(again, LOCK_EX)
                lock(again, LOCK_UN)
        assert asked(group) == before


def test_ranges_are_cut_and_merged(group: Group, path: Path) -> None:
    me = os.getpid()
    with open(path, "r+") as file:
        get_it(group, file.fileno(), fcntl.lockf)
        fcntl.lockf(file, LOCK_EX, 10, 0)
        fcntl.lockf(file, LOCK_EX, 10, 10)
        fcntl.lockf(file, LOCK_SH, 4, 3)
        fcntl.lockf(file, LOCK_UN, 2, 15)
        ranges = [("write", 0, 2), ("read", 3, 6), ("write", 7, 14), ("write", 17, 19)]
        expected = [("posix", *each, me) for each in ranges]
        assert sorted(found(group)) == sorted((*each, True) for each in expected)

        def other(line: Line) -> tuple[int, ...]:
            with open(path, "r+") as mine:
                for start in range(25):
                    try:
                        fcntl.lockf(mine, LOCK_EX | LOCK_NB, 1, start)
                    except BlockingIOError:
                        line.send(start)
            line.send(None)
            return ()

        with Forked(other) as child:
            denied = list(iter(child.recv, None))
        assert denied == [*range(15), 17, 18, 19]
        mine = [row for row in found(group) if row[4] == me]
        assert sorted(mine) == sorted((*each, False) for each in expected)


@both_kinds
def test_a_waiter_gets_it(group: Group, path: Path, lock: Lock) -> None:
    def waits(line: Line) -> None:
        with open(path, "r+") as mine:
            lock(mine, LOCK_EX)
            line.send()

    with open(path, "r+") as file:
        get_it(group, file.fileno(), lock)
        lock(file, LOCK_EX)
        with Forked(waits) as child:
            until_waiting(group)
            assert [row[-1] for row in found(group)] == [False]
            lock(file, LOCK_UN)
            child.recv()


@both_kinds
def test_closing_without_unlocking(group: Group, path: Path, lock: Lock) -> None:
    """Found out when somebody asks, be it this process by another descriptor."""

    def other(line: Line) -> None:
        with open(path, "r+") as mine:
            lock(mine, LOCK_EX | LOCK_NB)

    with open(path, "r+") as file:
        get_it(group, file.fileno(), lock)
    for _ in range(3):
        with open(path, "r+") as file:
            lock(file, LOCK_EX | LOCK_NB)
    with Forked(other) as child:
        child.result()


@both_kinds
def test_many_that_are_closed_without_unlocking(group: Group, tmp_path: Path, lock: Lock) -> None:
    """Their duplicates, or what keeps their inodes, do not pile up."""
    paths = [tmp_path / f"file {n}" for n in range(30)]
    for path in paths:
        path.touch()
        with open(path, "r+") as file:
            get_it(group, file.fileno(), lock)
            lock(file, LOCK_EX)
    for _ in range(4):
        for path in paths:
            with open(path, "r+") as file:
                lock(file, LOCK_EX | LOCK_NB)
    assert sum(str(tmp_path) in name for name in descriptors().values()) < 70


def test_two_descriptions_of_one_process(group: Group, path: Path) -> None:
    with open(path, "r+") as one, open(path, "r+") as two:
        get_it(group, one.fileno(), fcntl.flock)
        fcntl.flock(one, LOCK_EX)
        before = asked(group)
        with pytest.raises(WouldBlock, match=f"handle .* holds write 0-end of {path}"):
            fcntl.flock(two, LOCK_EX | LOCK_NB)
        assert asked(group) == before, "that is certain enough"
        third = os.dup(one.fileno())
        fcntl.flock(third, LOCK_SH)
        fcntl.flock(two, LOCK_SH | LOCK_NB)
        assert asked(group) == before
        with pytest.raises(WouldBlock):
            fcntl.flock(two, LOCK_EX | LOCK_NB)
        assert [row[1] for row in found(group)] == ["read"], "a refused conversion has lost it"
        os.close(third)
        fcntl.flock(one, LOCK_EX | LOCK_NB)


def test_by_path_and_by_descriptor(group: Group, path: Path) -> None:
    """They meet in the slot as they do at the leader."""
    for _ in range(STREAK):
        group.locks.posix(path, "write", 0, 4)
        group.locks.posix(path, "unlock")
    poll(lambda: is_given(group))
    before = asked(group)
    group.locks.posix(path, "write", 0, 4)
    with open(path, "r+") as file, group.file_lock(path, start=10, length=5):
        fcntl.lockf(file, LOCK_EX | LOCK_NB, 4, 2)
        assert asked(group) == before
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, LOCK_EX | LOCK_NB, 4, 8)
        spans = [(r[0], r[2], r[3]) for r in found(group)]
        assert sorted(spans) == [("file_lock", 10, 14), ("posix", 0, 5)]
    with pytest.raises(libos_ipc.PermissionDenied):
        group.locks.posix(path, "write", pid=group.pid + 1)
    group.locks.clear(group.pid)
    assert found(group) == []


def test_a_fork_shares_what_is_locked(group: Group, path: Path) -> None:
    """The child may unlock it."""

    def parent(line: Line) -> None:
        file = open(path, "r+")  # noqa: SIM115
        get_it(group, file.fileno(), fcntl.flock)
        fcntl.flock(file, LOCK_EX)
        if os.fork():
            os.wait()
            return
        line.send("child")
        line.recv()
        fcntl.flock(file, LOCK_UN)
        line.send("unlocked")
        line.recv()
        os._exit(0)

    with Forked(parent) as child:
        assert child.recv() == "child"
        assert not is_free(path)
        child.send()
        assert child.recv() == "unlocked"
        assert is_free(path)
        child.send()
        child.result()


def test_what_was_open_at_a_fork_goes_to_the_leader(group: Group, path: Path) -> None:
    with open(path, "r+") as file:
        get_it(group, file.fileno(), fcntl.flock)
        fcntl.flock(file, LOCK_SH)
        before = asked(group)

        def child(line: Line) -> None:
            fcntl.flock(file, LOCK_EX)
            line.send()
            line.recv()

        with Forked(child) as other:
            other.recv()
            assert [row[1] for row in found(group)] == ["write"], "one description, one lock"
            fcntl.flock(file, LOCK_SH)
            assert [row[1] for row in found(group)] == ["read"]
            other.send()
            other.result()
        assert asked(group) > before
        assert [row[1] for row in found(group)] == ["read"], "it lives on with its last user"


def test_what_is_locked_after_a_fork_is_not_the_childs(group: Group, path: Path) -> None:
    """Also while the leader has not heard of the child: both would have descriptors of the same
    numbers."""

    def child(line: Line) -> bool:
        line.recv()
        return is_free(path)

    for _ in range(5):
        with open(path, "r+") as file:
            get_it(group, file.fileno(), fcntl.flock)
        with Forked(child) as other, open(path, "r+") as file:
            fcntl.flock(file, LOCK_EX | LOCK_NB)
            other.send()
            assert other.result() is False


def test_a_lock_behind_a_close(group: Group, path: Path) -> None:
    """What was locked by a closed descriptor is given up before the next lock is taken."""
    for _ in range(10):
        first = os.open(path, os.O_RDWR)
        fcntl.getlk(first, LOCK_EX)
        os.close(first)
        filler = os.open(os.devnull, os.O_RDONLY)
        second = os.open(path, os.O_RDWR)
        for _ in range(STREAK):
            with group.file_lock(path):
                pass
        fcntl.lockf(second, LOCK_EX | LOCK_NB)

        def other(line: Line) -> None:
            with pytest.raises(WouldBlock), open(path, "r+") as mine:
                fcntl.lockf(mine, LOCK_EX | LOCK_NB)

        with Forked(other) as child:
            child.result()
        os.close(second)
        os.close(filler)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handler_that_raises_in_the_middle_of_it(group: Group, path: Path) -> None:
    """No call counts as under way for ever, and nothing stays locked."""
    rng = random.Random(4711)
    struck = 0

    def strike(number: int, frame: object) -> None:
        nonlocal struck
        struck += 1  # seen also where it strikes in a callback of the garbage collector, in vain
        raise ZeroDivisionError

    def until_struck(strikes: int, file: IO[str]) -> None:
        while struck == strikes:  # where it loops, 3.13.0 is outside of every `try`
            fcntl.flock(file, LOCK_EX)
            fcntl.flock(file, LOCK_UN)

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with open(path, "r+") as file:
            for strikes in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001 + rng.random() * 0.001)
                    until_struck(strikes, file)
                except ZeroDivisionError:
                    pass
            fcntl.flock(file, LOCK_UN)
            assert not any(one.is_busy() for one in group._node.descriptions._by_handle.values())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert held(group) == []


def test_posix_locks_survive_an_exec(group: Group, path: Path) -> None:
    again = "import signal; signal.pause()"

    def body(line: Line) -> None:
        fd = os.open(path, os.O_RDWR)
        get_it(group, fd, fcntl.lockf)
        fcntl.lockf(fd, LOCK_EX)
        os.set_inheritable(fd, True)
        line.send()
        line.recv()
        os.execv(sys.executable, [sys.executable, "-c", again])

    with Forked(body) as child, open(path, "r+") as file:
        child.recv()
        assert [row[-1] for row in found(group)] == [True]
        child.send()
        poll(lambda: [row[-1] for row in found(group)] == [False], what="exec'ed")
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, LOCK_EX | LOCK_NB)
        child.kill()
        child.wait()
        fcntl.lockf(file, LOCK_EX | LOCK_NB)


def test_a_cycle_through_what_is_locked_alone(group: Group, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()

    def other(line: Line) -> None:
        with open(one, "r+") as first, open(two, "r+") as second:
            get_it(group, second.fileno(), fcntl.lockf)
            fcntl.lockf(second, LOCK_EX)
            line.send()
            line.recv()
            fcntl.lockf(first, LOCK_EX)
            line.send()
            line.recv()

    with open(one, "r+") as first, open(two, "r+") as second, Forked(other) as child:
        child.recv()
        get_it(group, first.fileno(), fcntl.lockf)
        fcntl.lockf(first, LOCK_EX)
        child.send()
        until_waiting(group)
        with pytest.raises(Deadlock, match=str(two)):
            fcntl.lockf(second, LOCK_EX)
        fcntl.lockf(first, LOCK_UN)
        child.recv()
        child.send()


@both_kinds
def test_many_processes_take_turns(group: Group, path: Path, tmp_path: Path, lock: Lock) -> None:
    """Given away and taken back all the time: no increment is lost."""
    count = tmp_path / "count"
    count.write_text("0")

    def adds(line: Line) -> None:
        with open(path, "r+") as kept:
            for n in range(150):
                if n % 3:
                    lock(kept, LOCK_EX)
                    count.write_text(str(int(count.read_text()) + 1))
                    lock(kept, LOCK_UN)
                elif lock is fcntl.flock:
                    with open(path, "r+") as once:
                        lock(once, LOCK_EX)
                        count.write_text(str(int(count.read_text()) + 1))
                else:
                    with group.file_lock(path):
                        count.write_text(str(int(count.read_text()) + 1))

    with Forked(adds) as one, Forked(adds) as two, Forked(adds) as three:
        for process in (one, two, three):
            process.result()
    assert count.read_text() == "450"


def test_a_program_that_is_not_ours_is_no_rival(group: Group, path: Path) -> None:
    """A file that was given away is not locked for the kernel."""
    with open(path, "r+") as file:
        get_it(group, file.fileno(), fcntl.flock)
        fcntl.flock(file, LOCK_EX)
        script = f"import fcntl; fcntl.flock(open({str(path)!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        subprocess.run([sys.executable, "-c", script], check=True)


class Struck:
    """What has a descriptor, and is struck by a signal when it is first asked for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.signals = [signal.SIGALRM]

    def fileno(self) -> int:
        if self.signals:
            os.kill(os.getpid(), self.signals.pop())
        return self.fd


@both_kinds
def test_a_signal_handler_that_raises_while_a_descriptor_is_asked_for(
    group: Group, path: Path, lock: Lock, long_ways: list[int]
) -> None:
    def handler(number: int, frame: object) -> None:
        raise InterruptedError("struck")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with open(path, "r+b") as file:
            fd = file.fileno()
            until_quick(lambda: (lock(fd, LOCK_EX), lock(fd, LOCK_UN)), long_ways)
            with pytest.raises(InterruptedError, match="struck"):
                lock(Struck(fd), LOCK_EX)
            assert found(group) == []
    finally:
        signal.signal(signal.SIGALRM, before)
