"""`group.file_lock`, and the raw operations `group.locks`."""

from __future__ import annotations

import asyncio
import fcntl as kernel
import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import both_leaders, every_way
from lock_users import cycle_of_three, held, rows, until_waiting, waiting
from processes import DEADLINE_S, Forked, Line, poll

from libos_ipc import (
    Deadlock,
    Group,
    InvalidArgument,
    InvalidRange,
    NotFound,
    NotJoined,
    PermissionDenied,
    Timeout,
    WouldBlock,
    fcntl,
)
from libos_ipc.locks import EOF

pytest_generate_tests = every_way


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return path


def taker(group: Group, path: Path, **how: Any) -> Callable[[Line], None]:
    """For a child: takes the lock, says its token, and gives it back when told."""

    def body(line: Line) -> None:
        with group.file_lock(path, **how) as lock:
            line.send(tuple(lock.token or ()))
            told = line.recv()
        if told is None:
            line.send("released")
            line.pause()

    return body


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """A thread that calls, and what came of it."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


# ---- file_lock


@both_leaders
def test_it_is_held_for_the_time_of_a_with(group: Group, file: Path) -> None:
    lock = group.file_lock(file)
    assert lock.held is None
    assert lock.token is None
    for _ in range(2):
        with lock as same:
            assert same is lock
            assert lock.held == "write"
            (row,) = rows(group)
            assert (row.kind, row.type, row.start, row.end) == ("file_lock", "write", 0, EOF)
            assert (row.pid, row.os_pid, row.path) == (group.pid, os.getpid(), str(file))
            with pytest.raises(InvalidArgument):
                lock.acquire()
        assert rows(group) == []
    lock.release()
    with pytest.raises(InvalidArgument):
        lock.upgrade()
    assert str(file) in repr(lock)


@both_leaders
def test_threads_exclude_each_other(group: Group, file: Path) -> None:
    inside = []
    most = []

    def work() -> None:
        for _ in range(20):
            with group.file_lock(file):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert rows(group) == []


def test_one_object_in_two_threads_is_refused_also_while_the_first_waits(
    group: Group, file: Path
) -> None:
    with group.file_lock(file):
        lock = group.file_lock(file, timeout=DEADLINE_S)
        thread, answers = in_thread(lock.acquire)
        until_waiting(group)
        with pytest.raises(InvalidArgument):
            lock.acquire(timeout=0)
        lock.release()
        assert len(waiting(group)) == 1
    thread.join()
    assert answers[0] == lock.token
    lock.release()
    assert rows(group) == []


def test_tasks_exclude_each_other(group: Group, file: Path) -> None:
    inside: list[int] = []

    async def work() -> None:
        for _ in range(10):
            async with group.file_lock(file) as lock:
                assert lock.token
                inside.append(1)
                await asyncio.sleep(0)
                assert len(inside) == 1
                inside.pop()

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(5)))

    asyncio.run(main())
    assert rows(group) == []


def test_who_is_refused_waits_for_no_garbage_collector(group: Group, file: Path) -> None:
    """An error, its traceback and what is in it go when the program has dealt with it."""
    with Forked(taker(group, file)) as holder:
        holder.recv()
        lock = group.file_lock(file, timeout=0)
        gc.disable()
        try:
            with suppress(WouldBlock):
                lock.acquire()
            gone = weakref.ref(lock)
            del lock
            assert gone() is None
        finally:
            gc.enable()
        holder.send()


def test_a_task_that_gives_up_leaves_nothing(
    group: Group, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def takes() -> None:
        async with group.file_lock(file):
            pass

    async def main() -> None:
        task = asyncio.create_task(takes())
        while not waiting(group):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting(group) == []
        with pytest.raises(Timeout):
            await group.file_lock(file, timeout=0.02).aacquire()
        with pytest.raises(WouldBlock):
            await group.file_lock(file, timeout=0).aacquire()
        assert waiting(group) == []

    with Forked(taker(group, file)) as holder:
        holder.recv()
        asyncio.run(main())
        gc.collect()
        assert not caplog.records  # such as of an exception that nobody has retrieved
        holder.send()
        holder.recv()
        assert rows(group) == []


def test_cancelled_in_whatever_moment(group: Group, file: Path) -> None:
    """A task that is cancelled when it may have got the lock just then holds nothing."""

    async def takes() -> None:
        async with group.file_lock(file):
            await asyncio.sleep(0)

    async def main() -> None:
        for number in range(60):
            tasks = [asyncio.create_task(takes()) for _ in range(3)]
            await asyncio.sleep(0.0002 * (number % 10))
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with group.file_lock(file, timeout=DEADLINE_S):
            pass

    asyncio.run(main())
    poll(lambda: rows(group) == [])


@both_leaders
def test_a_coroutine_that_nobody_runs_any_more_leaves_nothing(group: Group, file: Path) -> None:
    """As when a signal handler raises in the event loop's own code."""
    loop = asyncio.new_event_loop()
    waits = group.file_lock(file).aacquire()
    with group.file_lock(file):
        task = loop.create_task(waits)
        while not waiting(group):
            loop.run_until_complete(asyncio.sleep(0.001))
        waits.close()
        until_waiting(group, 0)
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    assert not task.cancelled()
    assert isinstance(task.exception(), RuntimeError), "it was closed before"
    poll(lambda: not rows(group), what="nothing is held")
    with group.file_lock(file, timeout=0):
        pass


def test_the_same_task_asking_again_is_refused(group: Group, file: Path) -> None:
    async def main() -> None:
        async with group.file_lock(file):
            with pytest.raises(Deadlock):
                await group.file_lock(file).aacquire()

    asyncio.run(main())


def test_the_same_thread_asking_again_is_refused(group: Group, file: Path) -> None:
    with group.file_lock(file, start=0, length=10):
        with group.file_lock(file, start=10, length=10):
            pass
        with pytest.raises(Deadlock):
            group.file_lock(file).acquire()
        with pytest.raises(WouldBlock):
            group.file_lock(file).acquire(timeout=0)
        assert len(rows(group)) == 1
    with group.file_lock(file, shared=True), group.file_lock(file, shared=True):
        pass


def test_processes_come_in_in_the_order_in_which_they_asked(group: Group, file: Path) -> None:
    """Readers do not pass a writer that waits, and the tokens grow."""
    with ExitStack() as stack:
        tokens = []
        with group.file_lock(file, shared=True) as mine:
            assert mine.token
            tokens.append(tuple(mine.token))
            children = []
            for number, shared in enumerate((False, True, True, False)):
                body = taker(group, file, shared=shared)
                children.append(stack.enter_context(Forked(body)))
                until_waiting(group, number + 1)
            with pytest.raises(WouldBlock):
                in_thread_raises(group.file_lock(file, shared=True, timeout=0).acquire)
            # Who has a part of the file already might be whom the writer waits for.
            with group.file_lock(file, shared=True, timeout=0) as another:
                assert another.token
                tokens.append(tuple(another.token))
        tokens.append(children[0].recv())
        assert len(held(group)) == 1
        children[0].send()
        tokens += sorted(child.recv() for child in children[1:3])
        assert len(held(group)) == 2
        for child in children[1:3]:
            child.send()
        tokens.append(children[3].recv())
        assert tokens == sorted(set(tokens))
        assert {epoch for epoch, _ in tokens} == {group.epoch}


def test_upgrade_and_downgrade(group: Group, file: Path) -> None:
    with group.file_lock(file, shared=True) as lock:
        first = lock.token
        assert lock.held == "read"
        assert first is not None
        assert lock.upgrade() > first
        assert lock.held == "write"
        with pytest.raises(WouldBlock):
            in_thread_raises(lambda: group.file_lock(file, shared=True, timeout=0).acquire())
        with Forked(taker(group, file, shared=True)) as reader:
            until_waiting(group)
            lock.downgrade()
            reader.recv()
            with pytest.raises(Timeout):
                lock.upgrade(timeout=0.02)
            assert lock.held == "read"
            assert [row.type for row in rows(group)] == ["read", "read"]
            with pytest.raises(WouldBlock):
                lock.upgrade(timeout=0)
            thread, _ = in_thread(lambda: (until_waiting(group), reader.send()))
            lock.upgrade()
            thread.join()
            assert reader.recv() == "released"


def in_thread_raises(call: Callable[[], object]) -> None:
    thread, answers = in_thread(call)
    thread.join()
    if isinstance(answers[0], Exception):
        raise answers[0]


def test_of_two_that_upgrade_the_second_is_refused(group: Group, file: Path) -> None:
    def upgrades(line: Line) -> None:
        with group.file_lock(file, shared=True) as lock:
            line.send()
            line.recv()
            lock.upgrade()
            line.send()
        line.pause()

    with Forked(upgrades) as other:
        with group.file_lock(file, shared=True) as lock:
            other.recv()
            other.send()
            until_waiting(group)
            with pytest.raises(Deadlock):
                lock.upgrade()
            assert lock.held == "read"
        other.recv()


def test_a_cycle_of_three_over_all_kinds_of_locks(group: Group, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()

    def member(number: int) -> Callable[[Line], None]:
        def body(line: Line) -> None:
            mine, next = paths[number], paths[(number + 1) % 3]
            fds = [os.open(path, os.O_RDWR) for path in (mine, next)]
            if number == 1:
                fcntl.lockf(fds[0], kernel.LOCK_EX)
            else:
                group.file_lock(mine).acquire()
            line.send()
            line.recv()
            try:
                if number == 0:
                    fcntl.lockf(fds[1], kernel.LOCK_EX)
                else:
                    group.file_lock(next).acquire()
                line.send("got it")
            except Deadlock as error:
                line.send(str(error))
            line.pause()

        return body

    with cycle_of_three(group, member, paths) as members:
        members[2].kill()
        assert members[1].recv() == "got it"


def test_a_fork_holds_nothing(group: Group, file: Path) -> None:
    """And gives nothing back, though its `with` ends."""

    def child(line: Line) -> None:
        assert (lock.held, lock.token) == (None, None)
        assert rows(group)[0].pid != group.pid
        lock.release()
        line.send()
        line.recv()
        with pytest.raises(WouldBlock):
            lock.acquire(timeout=0)
        line.send()
        with lock:
            line.send()
        group.close()
        lock.release()

    with group.file_lock(file) as lock, Forked(child) as other:
        other.recv()
        assert lock.held == "write"
        assert len(held(group)) == 1
        other.send()
        other.recv()
        until_waiting(group)
        lock.release()
        other.recv()
        other.result()


def test_a_death_lets_the_next_in(group: Group, file: Path) -> None:
    with Forked(taker(group, file)) as holder:
        holder.recv()
        holder.stop()
        with pytest.raises(Timeout):
            group.file_lock(file, timeout=0.2).acquire()
        holder.kill()
        with group.file_lock(file, timeout=DEADLINE_S):
            pass


@pytest.mark.parametrize("group", ["process"], indirect=True)
def test_a_closed_group_has_given_it_back(group: Group, file: Path) -> None:
    lock = group.file_lock(file)
    lock.acquire()
    with Forked(taker(group, file)) as other:
        until_waiting(group)
        group.close()
        lock.release()
        assert lock.held is None
        other.recv()
        with pytest.raises(NotJoined):
            lock.acquire()
        other.send()
        other.recv()


# ---- the file


def test_two_paths_are_one_file(group: Group, file: Path) -> None:
    hard, soft = file.with_name("hard"), file.with_name("soft")
    os.link(file, hard)
    os.symlink(file, soft)
    with group.file_lock(hard):
        for path in (file, soft, hard, os.path.relpath(file)):
            with pytest.raises(WouldBlock):
                group.file_lock(path, timeout=0).acquire()


def test_a_renamed_file_keeps_its_locks_and_a_replaced_one_does_not(
    group: Group, file: Path
) -> None:
    """Also if the old file is gone but for the lock: its inode is not used again."""
    with group.file_lock(file) as lock:
        moved = file.with_name("moved")
        file.rename(moved)
        with pytest.raises(WouldBlock):
            group.file_lock(moved, timeout=0).acquire()
        file.touch()
        with group.file_lock(file, timeout=0):
            pass
        moved.unlink()
        inode = rows(group)[0].inode
        for number in range(20):
            other = file.with_name(str(number))
            other.touch()
            assert other.stat().st_ino != inode
        lock.downgrade()
        assert rows(group)[0].type == "read"
    assert rows(group) == []


def test_what_is_no_file(group: Group, tmp_path: Path) -> None:
    missing, pipe, sock = tmp_path / "missing", tmp_path / "pipe", tmp_path / "s"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)
        try:
            listener.bind("s")
        finally:
            os.chdir(here)
        for path, error in ((missing, NotFound), (pipe / "x", NotFound)):
            for call in calls(group, path):
                with pytest.raises(error):
                    call()
        for path in (pipe, sock):
            for call in calls(group, path):
                with pytest.raises(InvalidArgument):
                    call()
    with group.file_lock(tmp_path):
        assert rows(group)[0].path == str(tmp_path)
    assert rows(group) == []


def calls(group: Group, path: Path) -> list[Callable[[], object]]:
    return [
        lambda: group.file_lock(path).acquire(),
        lambda: group.locks.posix(path, "write"),
        lambda: group.locks.flock(path, "read", 1),
        lambda: group.locks.get(path, "read"),
    ]


def test_ranges_that_are_none(group: Group, file: Path) -> None:
    for start, length in ((-1, None), (0, 0), (0, -1), (EOF, 2), (2**63, None), (0, "1")):
        with pytest.raises(InvalidRange):
            group.file_lock(file, start=start, length=length)  # type: ignore[arg-type]
    for start, end in ((-1, 5), (5, 4), (0, 2**63), (2**63, 2**63), (0, -1), ("0", 5), (0, None)):
        with pytest.raises(InvalidRange):
            group.locks.posix(file, "write", start, end)  # type: ignore[arg-type]
        with pytest.raises(InvalidRange):
            group.locks.get(file, "write", start, end)  # type: ignore[arg-type]
    for type in ("exclusive", "", 1, None):
        with pytest.raises(InvalidArgument):
            group.locks.posix(file, type)  # type: ignore[arg-type]
    for handle in (0, -1, 2**31, None, "1"):
        with pytest.raises(InvalidRange):
            group.locks.flock(file, "write", handle)  # type: ignore[arg-type]
    with group.file_lock(file, start=EOF, length=1):
        assert (rows(group)[0].start, rows(group)[0].end) == (EOF, EOF)
    assert rows(group) == []


# ---- the kernel's lock beside it


def outsider(path: Path) -> Callable[[Line], None]:
    """A process that knows the kernel's locks alone."""

    def body(line: Line) -> None:
        fd = os.open(path, os.O_RDWR)
        while (what := line.recv()) in ("lock", "try", "unlock"):
            how = {"lock": kernel.LOCK_EX, "unlock": kernel.LOCK_UN}
            try:
                kernel.lockf(fd, how.get(what, kernel.LOCK_EX | kernel.LOCK_NB))
                line.send(True)
            except BlockingIOError:
                line.send(False)

    return body


def ask(child: Forked, what: str) -> Any:
    child.send(what)
    return child.recv()


def test_a_mirror_keeps_processes_outside_of_the_group_out(group: Group, file: Path) -> None:
    with Forked(outsider(file)) as other:
        with group.file_lock(file, mirror=True, shared=True) as lock:
            assert ask(other, "try") is False
            lock.upgrade()
            lock.downgrade()
            assert ask(other, "try") is False
        assert ask(other, "lock") is True
        with group.file_lock(file):
            pass
        with pytest.raises(WouldBlock):
            group.file_lock(file, mirror=True, timeout=0).acquire()
        before = time.monotonic()
        with pytest.raises(Timeout):
            group.file_lock(file, mirror=True, timeout=0.1).acquire()
        assert 0.1 <= time.monotonic() - before < 10

        async def main() -> None:
            with pytest.raises(Timeout):
                await group.file_lock(file, mirror=True, timeout=0.05).aacquire()

        asyncio.run(main())
        poll(lambda: rows(group) == [])
        lock = group.file_lock(file, mirror=True, timeout=DEADLINE_S)
        thread, answers = in_thread(lock.acquire)
        poll(lambda: len(held(group)) == 1)
        assert ask(other, "unlock") is True
        thread.join()
        assert answers[0].n > 0
        assert ask(other, "try") is False
        lock.release()
        assert ask(other, "try") is True


def test_an_upgrade_that_the_kernel_refuses_stays_shared(group: Group, file: Path) -> None:
    def reads(line: Line) -> None:
        kernel.lockf(os.open(file, os.O_RDWR), kernel.LOCK_SH)
        line.send()
        line.pause()

    with Forked(reads) as other:
        other.recv()
        with group.file_lock(file, mirror=True, shared=True) as lock:
            with pytest.raises(Timeout):
                lock.upgrade(timeout=0.05)
            assert lock.held == "read"
            assert [row.type for row in rows(group)] == ["read"]
    assert rows(group) == []


def test_a_mirror_does_not_drop_the_programs_own_locks(group: Group, file: Path) -> None:
    with open(file, "r+") as it, Forked(outsider(file)) as other:
        kernel.lockf(it, kernel.LOCK_EX, 1, 90)
        for _ in range(3):
            with group.file_lock(file, mirror=True, start=0, length=10):
                pass
        assert ask(other, "try") is False


def test_threads_with_mirrors_exclude_each_other(group: Group, file: Path) -> None:
    inside: list[int] = []

    def work() -> None:
        for _ in range(10):
            with group.file_lock(file, mirror=True):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    results = [in_thread(work) for _ in range(3)]
    for thread, answers in results:
        thread.join()
        assert answers == [None]


def test_a_mirror_of_a_file_that_is_only_read(group: Group, file: Path) -> None:
    """A directory cannot be opened for writing: shared it can be mirrored."""
    with group.file_lock(file.parent, mirror=True, shared=True) as lock:
        with pytest.raises(OSError):
            lock.upgrade(timeout=0)
        assert lock.held == "read"
    other = file.with_name("directory")
    other.mkdir()
    with pytest.raises(IsADirectoryError):
        group.file_lock(other, mirror=True).acquire()
    poll(lambda: rows(group) == [])


# ---- the raw operations


@both_leaders
def test_posix_locks_by_path(group: Group, file: Path) -> None:
    locks = group.locks
    locks.posix(file, "read", 0, 9)
    locks.posix(file, "write", 5, 14)
    locks.posix(file, "unlock", 7, 7)
    rows = sorted((row.type, row.start, row.end) for row in locks.table())
    assert rows == [("read", 0, 4), ("write", 5, 6), ("write", 8, 14)]
    row = locks.table()[0]
    assert (row.kind, row.pid, row.os_pid) == ("posix", group.pid, os.getpid())
    found = file.stat()
    assert (row.path, row.device, row.inode) == (str(file), found.st_dev, found.st_ino)
    assert row.vmid == group.vmid
    assert row.thread == threading.get_native_id()
    assert 0 <= row.since < DEADLINE_S
    assert (row.waiting, row.waits_for, row.handle) == (False, (), 0)

    def other(line: Line) -> None:
        found = locks.get(file, "write")
        assert found is not None
        assert (found.type, found.start, found.end) == ("read", 0, 4)
        assert (found.pid, found.os_pid) == (group.ppid, os.getppid())
        assert locks.get(file, "read", 0, 4) is None
        assert locks.get(file, "write", 0, EOF, pid=group.ppid) is None
        with pytest.raises(WouldBlock):
            locks.posix(file, "write", wait=False)
        with pytest.raises(WouldBlock):
            locks.posix(file, "write", timeout=0)
        with pytest.raises(Timeout):
            locks.posix(file, "write", timeout=0.02)
        for call in (
            lambda: locks.posix(file, "write", 50, 60, pid=group.ppid),
            lambda: locks.posix(file, "unlock", pid=group.ppid),
            lambda: locks.clear(group.ppid),
            lambda: locks.clear(4_000_000),
        ):
            with pytest.raises(PermissionDenied, match=r"not the caller's|not ours"):
                call()
        locks.posix(file, "read", 0, 4, pid=group.pid)
        line.send()
        locks.posix(file, "write")
        line.send()
        line.recv()
        locks.clear(group.pid)
        line.send()
        line.pause()

    with Forked(other) as child:
        child.recv()
        until_waiting(group)
        assert waiting(group)[0].waits_for == (group.pid,)
        locks.clear(group.pid)
        child.recv()
        assert [(row.type, row.start, row.end) for row in held(group)] == [("write", 0, EOF)]
        assert (locks.get(file, "read") or [])[5] == child.os_pid
        child.send()
        child.recv()
        assert locks.table() == []


def test_flock_by_handle(group: Group, file: Path) -> None:
    locks = group.locks
    locks.flock(file, "read", 1)
    locks.flock(file, "read", 2)
    with pytest.raises(WouldBlock):
        locks.flock(file, "write", 2, wait=False)
    assert len(locks.table()) == 1  # what it had is lost
    locks.flock(file, "write", 1)
    found = locks.get(file, "read", handle=2)
    assert found is not None
    assert (found.kind, found.type, found.pid) == ("flock", "write", group.pid)
    assert locks.get(file, "write", handle=1) is None
    assert locks.get(file, "write") is None
    with pytest.raises(Timeout):
        locks.flock(file, "read", 2, timeout=0.02)

    def other(line: Line) -> None:
        """Its handles are others, though their numbers are the same."""
        with pytest.raises(WouldBlock):
            locks.flock(file, "read", 1, timeout=0)
        locks.flock(file, "unlock", 1)
        line.send()
        locks.flock(file, "write", 1)
        line.send()
        line.pause()

    with Forked(other) as child:
        child.recv()
        until_waiting(group)
        locks.flock(file, "unlock", 1)
        child.recv()
    poll(lambda: locks.table() == [])


def test_raw_locks_and_those_of_the_module_are_the_same(group: Group, file: Path) -> None:
    with open(file, "r+") as it:
        fcntl.lockf(it, kernel.LOCK_SH)
        group.locks.posix(file, "unlock", 10)
        assert [(row.type, row.start, row.end) for row in held(group)] == [("read", 0, 9)]
        group.locks.posix(file, "unlock")
        assert rows(group) == []
        with group.file_lock(file), pytest.raises(WouldBlock):
            fcntl.lockf(it, kernel.LOCK_SH | kernel.LOCK_NB)
        group.locks.posix(file, "write")
        with pytest.raises(WouldBlock):
            group.file_lock(file, timeout=0).acquire()
