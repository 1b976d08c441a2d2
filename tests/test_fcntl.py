"""The drop-in module `libos_ipc.fcntl`: its answers are the kernel's, its locks are the group's."""

from __future__ import annotations

import errno
import fcntl as kernel
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import processes
import pytest
from conftest import both_leaders, every_way
from lock_users import cycle_of_three, held, rows, until_waiting, waiting
from processes import DEADLINE_S, Forked, Line, poll

import libos_ipc
from libos_ipc import Deadlock, Group, Timeout, WouldBlock, fcntl
from libos_ipc.locks import EOF, LockInfo

LOCK_SH, LOCK_EX, LOCK_UN, LOCK_NB = (
    kernel.LOCK_SH,
    kernel.LOCK_EX,
    kernel.LOCK_UN,
    kernel.LOCK_NB,
)
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
FLOCK = struct.Struct("hhqqi4x")
RDLCK, WRLCK, UNLCK = kernel.F_RDLCK, kernel.F_WRLCK, kernel.F_UNLCK

pytest_generate_tests = every_way


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of 100 bytes."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return path


@pytest.fixture
def opened() -> Iterator[Callable[..., int]]:
    """Opens files; what is still open when the test ends is closed."""
    fds: list[tuple[int, tuple[int, int]]] = []

    def open_one(path: Path, flags: int = os.O_RDWR) -> int:
        fd = os.open(path, flags)
        found = os.fstat(fd)
        fds.append((fd, (found.st_dev, found.st_ino)))
        return fd

    yield open_one
    for fd, file in fds:
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) == file:
                os.close(fd)
        except OSError:
            pass  # the test has closed it


def is_free(path: Path, lock: Callable[[int, int], None] = fcntl.flock) -> bool:
    """Whether another process could lock the file now. Nothing is left of the attempt."""

    def attempt(line: Line) -> bool:
        fd = os.open(path, os.O_RDWR)
        try:
            lock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    with Forked(attempt) as child:
        answer: bool = child.result()
        return answer


def locks_and_stays(path: Path, lock: Callable[..., None], *args: Any) -> Callable[[Line], None]:
    """For a child: opens the file, locks, says so, and stays."""

    def body(line: Line) -> None:
        fd = os.open(path, os.O_RDWR)
        lock(fd, *args)
        line.send(fd)
        while (what := line.recv()) in ("close", "unlock"):
            if what == "close":
                os.close(fd)
            else:
                lock(fd, LOCK_UN)
            line.send(what)

    return body


# ---- the suite of the standard library

#: Runs the standard library's tests of `fcntl`, with ours in its place. A child may be started in
#: any way: the module is put there at every start.
OF_CPYTHON = """
import json, os, sys, unittest

import libos_ipc
import libos_ipc.fcntl
sys.modules["fcntl"] = libos_ipc.fcntl
from test import test_fcntl

if __name__ == "__main__":
    import multiprocessing
    multiprocessing.set_start_method(sys.argv[1])
    os.chdir(sys.argv[2])
    with libos_ipc.Group.create("suite", config=libos_ipc.GroupConfig(fork_timeout=1.0)) as group:
        os.environ.update(group.environ())
        loader = unittest.defaultTestLoader
        result = unittest.TestResult()
        loader.loadTestsFromModule(test_fcntl).run(result)
    assert test_fcntl.fcntl is libos_ipc.fcntl
    print(json.dumps({
        "run": result.testsRun,
        "bad": [text for _, text in result.errors + result.failures],
        "skipped": [str(test) for test, _ in result.skipped],
    }))
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_the_standard_librarys_own_tests_pass(
    runtime_dir: Path, tmp_path: Path, method: str
) -> None:
    pytest.importorskip("test.test_fcntl")
    import json

    script = tmp_path / "suite.py"
    script.write_text(OF_CPYTHON)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), method, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["bad"] == []
    assert said["run"] >= 9
    assert not any("lock" in name for name in said["skipped"]), said


# ---- a program that changes one line


@pytest.mark.parametrize(
    "line",
    [
        "from libos_ipc.fcntl import *",
        "from libos_ipc.fcntl import lockf, flock, LOCK_EX, LOCK_NB, LOCK_UN, F_GETFD, fcntl",
    ],
)
def test_changing_the_line_of_the_import_is_enough(group: Group, file: Path, line: str) -> None:
    program = f"""{line}
with open({str(file)!r}, "r+") as it:
    lockf(it, LOCK_EX | LOCK_NB)
    flock(it, LOCK_EX)
    rows.extend(group.locks.table())
    assert fcntl(it, F_GETFD) == 1
    lockf(it, LOCK_UN)
"""
    rows: list[LockInfo] = []
    exec(program, {"rows": rows, "group": group})
    assert [(row.kind, row.type) for row in rows] == [("posix", "write"), ("flock", "write")]


def test_every_name_of_the_standard_module_is_there() -> None:
    assert {name for name in dir(kernel) if not name.startswith("_")} <= set(fcntl.__all__)
    for name in fcntl.__all__:
        ours, theirs = getattr(fcntl, name), getattr(kernel, name, None)
        assert callable(ours) or ours == theirs
    assert set(fcntl.__all__) <= set(dir(fcntl))
    with pytest.raises(AttributeError):
        fcntl.no_such_name  # noqa: B018


def test_what_is_no_lock_goes_to_the_kernel(group: Group) -> None:
    reading, writing = os.pipe()
    try:
        assert fcntl.fcntl(reading, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
        assert fcntl.fcntl(reading, fcntl.F_GETFL) & os.O_NONBLOCK
        os.write(writing, b"four")
        assert struct.unpack("i", fcntl.ioctl(reading, 0x541B, bytes(4))) == (4,)  # FIONREAD
    finally:
        os.close(reading)
        os.close(writing)


# ---- outside of a group


def test_outside_of_a_group_locks_are_the_kernels(file: Path, opened: Any) -> None:
    fd = opened(file)
    asks = FLOCK.pack(WRLCK, os.SEEK_SET, 0, 0, 0)

    def other(line: Line) -> None:
        os.close(fd)
        mine = os.open(file, os.O_RDWR)
        line.send(FLOCK.unpack(kernel.fcntl(mine, kernel.F_GETLK, asks)))
        for lock in (kernel.lockf, kernel.flock):
            with pytest.raises(BlockingIOError):
                lock(mine, LOCK_EX | LOCK_NB)
        found = fcntl.getlk(mine, LOCK_EX)
        assert found is not None
        line.send((found.kind, found.type, found.start, found.end, found.os_pid))
        for lock in (fcntl.lockf, fcntl.flock):
            before = time.monotonic()
            with pytest.raises(Timeout):
                lock(mine, LOCK_EX, timeout=0.05)
            assert 0.05 <= time.monotonic() - before < 5
            with pytest.raises(WouldBlock):
                lock(mine, LOCK_EX, timeout=0)
            with pytest.raises(BlockingIOError):
                lock(mine, LOCK_EX | LOCK_NB, timeout=1)
        line.send()
        line.recv()
        for lock in (fcntl.lockf, fcntl.flock):
            lock(mine, LOCK_EX, timeout=DEADLINE_S)
            lock(mine, LOCK_UN, timeout=1)
        assert fcntl.getlk(mine, LOCK_EX) is None

    fcntl.lockf(fd, LOCK_EX)
    fcntl.flock(fd, LOCK_EX)
    with Forked(other) as child:
        assert child.recv() == (WRLCK, os.SEEK_SET, 0, 0, os.getpid())
        assert child.recv() == ("posix", "write", 0, EOF, os.getpid())
        child.recv()
        child.send()
        os.close(fd)
        child.result()


def test_in_a_group_the_kernel_hears_of_nothing(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    fcntl.lockf(fd, LOCK_EX)
    fcntl.flock(fd, LOCK_EX)
    assert is_free(file, kernel.lockf)
    assert is_free(file, kernel.flock)
    group.close()
    fcntl.lockf(fd, LOCK_EX)
    fcntl.flock(fd, LOCK_EX)
    assert not is_free(file, kernel.lockf)
    assert not is_free(file, kernel.flock)


# ---- two processes


@both_leaders
@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
def test_one_excludes_the_other(group: Group, file: Path, opened: Any, lock: Any) -> None:
    fd = opened(file)
    with Forked(locks_and_stays(file, lock, LOCK_SH)) as reader:
        reader.recv()
        lock(fd, LOCK_SH | LOCK_NB)
        with pytest.raises(WouldBlock) as refused:
            lock(fd, LOCK_EX | LOCK_NB)
        assert refused.value.errno == errno.EAGAIN
        assert str(file) in str(refused.value)
        with pytest.raises(Timeout):
            lock(fd, LOCK_EX, timeout=0.02)
        reader.send("unlock")
        reader.recv()
        lock(fd, LOCK_EX | LOCK_NB)
        with Forked(locks_and_stays(file, lock, LOCK_EX)) as writer:
            (row,) = until_waiting(group)
            assert (row.os_pid, row.waits_for) == (writer.os_pid, (group.pid,))
            lock(fd, LOCK_UN)
            writer.recv()
            assert not is_free(file, lock)


def test_the_families_do_not_see_each_other(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    fcntl.flock(fd, LOCK_EX)
    assert is_free(file, fcntl.lockf)
    assert not is_free(file, fcntl.flock)
    fcntl.flock(fd, LOCK_UN)
    fcntl.lockf(fd, LOCK_EX)
    assert is_free(file, fcntl.flock)
    assert not is_free(file, fcntl.lockf)


def test_a_conversion_of_flock_loses_what_it_had(group: Group, file: Path, opened: Any) -> None:
    first, second = opened(file), opened(file)
    fcntl.flock(first, LOCK_SH)
    fcntl.flock(second, LOCK_SH)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, LOCK_EX | LOCK_NB)
    fcntl.flock(first, LOCK_EX | LOCK_NB)


def test_a_failed_upgrade_of_lockf_keeps_what_it_had(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    fcntl.lockf(fd, LOCK_SH)
    with Forked(locks_and_stays(file, fcntl.lockf, LOCK_SH)) as other:
        other.recv()
        with pytest.raises(BlockingIOError):
            fcntl.lockf(fd, LOCK_EX | LOCK_NB)
        assert [row.type for row in held(group)] == ["read", "read"]


# ---- closing


@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
def test_a_close_releases(group: Group, file: Path, lock: Any) -> None:
    with open(file, "r+") as it:
        lock(it, LOCK_EX)
        assert not is_free(file, lock)
    assert is_free(file, lock)


@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
@both_leaders
def test_who_waits_finds_out_that_the_holder_has_closed(
    group: Group, file: Path, opened: Any, lock: Any
) -> None:
    fd = opened(file)
    with Forked(locks_and_stays(file, lock, LOCK_EX)) as holder:
        holder.recv()
        threading.Thread(target=lambda: (until_waiting(group), holder.send("close"))).start()
        lock(fd, LOCK_EX, timeout=DEADLINE_S)
        holder.recv()


@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
def test_a_stopped_holder_keeps_it_and_can_have_closed_it(
    group: Group, file: Path, opened: Any, lock: Any
) -> None:
    fd = opened(file)
    with Forked(locks_and_stays(file, lock, LOCK_EX)) as holder:
        holder.recv()
        holder.stop()
        with pytest.raises(Timeout):
            lock(fd, LOCK_EX, timeout=0.3)
        holder.kill(signal.SIGCONT)
        holder.send("close")
        holder.recv()
        holder.stop()
        lock(fd, LOCK_EX | LOCK_NB)
        holder.kill(signal.SIGCONT)


def test_a_dup_is_the_same_lock_and_keeps_it(group: Group, file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    fcntl.flock(fd, LOCK_EX)
    twin = os.dup(fd)
    fcntl.flock(twin, LOCK_EX | LOCK_NB)
    os.close(fd)
    assert not is_free(file)
    os.close(twin)
    assert is_free(file)


def test_a_number_used_again_is_another_description(group: Group, file: Path, opened: Any) -> None:
    processes.until_settled()
    fd = os.open(file, os.O_RDWR)
    fcntl.flock(fd, LOCK_EX)
    os.close(fd)
    assert opened(file) == fd
    assert is_free(file)
    fcntl.flock(fd, LOCK_SH)
    assert [row.type for row in held(group)] == ["read"] * len(held(group))


def test_a_posix_lock_goes_with_its_descriptor_also_for_ourselves(
    group: Group, file: Path, opened: Any
) -> None:
    """What was locked before the close is gone, though no other process has asked meanwhile."""
    fd, other = opened(file), opened(file)
    fcntl.lockf(fd, LOCK_EX, 10, 0)
    os.close(fd)
    fcntl.lockf(other, LOCK_EX, 10, 50)
    assert [(row.start, row.end) for row in held(group)] == [(50, 59)]


def test_a_fork_shares_the_description(group: Group, file: Path) -> None:
    """Either side may unlock; the last descriptor that is closed releases."""
    fd = os.open(file, os.O_RDWR)
    fcntl.flock(fd, LOCK_EX)

    def child(line: Line) -> None:
        fcntl.flock(fd, LOCK_EX | LOCK_NB)
        line.send()
        line.recv()
        fcntl.flock(fd, LOCK_UN)
        line.send()
        line.recv()
        fcntl.flock(fd, LOCK_EX | LOCK_NB)
        line.send()
        line.recv()
        os.close(fd)
        line.send()
        line.pause()

    with Forked(child) as other:
        other.recv()
        assert not is_free(file)
        other.send()
        other.recv()
        assert is_free(file)
        other.send()
        other.recv()
        assert not is_free(file)
        os.close(fd)
        assert not is_free(file)
        other.send()
        other.recv()
        assert is_free(file)


def test_a_description_that_was_inherited_before_it_was_locked(group: Group, file: Path) -> None:
    """Both sides lock by what is the same description, though neither has told the other."""
    fd = os.open(file, os.O_RDWR)

    def child(line: Line) -> None:
        line.recv()
        fcntl.flock(fd, LOCK_EX | LOCK_NB)
        line.send()
        line.recv()

    with Forked(child) as other:
        fcntl.flock(fd, LOCK_EX)
        other.send()
        other.recv()
        assert len(held(group)) == 1
        os.close(fd)
        assert not is_free(file)
        other.send()
        other.result()
        assert is_free(file)


def test_a_descriptor_that_was_sent_over_a_socket(group: Group, file: Path, opened: Any) -> None:
    """The receiver has the same lock; a description of its own is refused."""
    mine, childs = socket.socketpair()

    def child(line: Line) -> None:
        (fd,) = socket.recv_fds(childs, 1, 1)[1]
        fcntl.flock(fd, LOCK_EX | LOCK_NB)
        own = os.open(file, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(own, LOCK_EX | LOCK_NB)
        line.send()
        line.recv()
        fcntl.flock(fd, LOCK_UN)
        fcntl.flock(own, LOCK_EX | LOCK_NB)

    with mine, childs, Forked(child) as other:
        fd = opened(file)
        fcntl.flock(fd, LOCK_EX)
        socket.send_fds(mine, [b"!"], [fd])
        other.recv()
        os.close(fd)
        assert not is_free(file)
        other.send()
        other.result()


def test_many_files_closed_without_unlocking_leave_little(group: Group, tmp_path: Path) -> None:
    """Neither descriptors here nor locks at the leader pile up."""
    paths = [tmp_path / f"{number}" for number in range(100)]
    for path in paths:
        path.touch()

    def kept() -> int:
        return sum(path.startswith(str(tmp_path)) for path in processes.descriptors().values())

    most = 0
    for number in range(3_000):
        with open(paths[number % 100], "r+") as it:
            (fcntl.flock if number % 2 else fcntl.lockf)(it, LOCK_EX)
        if number % 100 == 0:
            most = max(most, kept())
    assert most < 100
    poll(lambda: kept() < 40)
    assert len(held(group)) < 100


def test_unlocking_leaves_nothing(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    for _ in range(20):
        fcntl.lockf(fd, LOCK_EX, 10, 0)
        fcntl.lockf(fd, LOCK_UN, 10, 0)
        fcntl.flock(fd, LOCK_SH)
        fcntl.flock(fd, LOCK_UN)
    # But perhaps what keeps the inode, while the file is ours to lock without a message.
    poll(lambda: list(processes.descriptors().values()).count(str(file)) <= 2)
    assert rows(group) == []


# ---- errors, as the kernel's


def error_of(call: Callable[[], Any]) -> Any:
    """What a call raises: the errno of an OSError, the type of anything else, None."""
    try:
        call()
    except OSError as error:
        return error.errno
    except Exception as error:
        return type(error)
    return None


def odd_calls(module: Any, rw: int, r: int, w: int, path_only: int, pipe: int) -> Iterator[Any]:
    for fd in (rw, r, w, path_only, pipe, 999, -1, 2**31, -(2**31) - 1, "spam", 2.5, True + 900):
        for op in (LOCK_SH, LOCK_EX, LOCK_UN, LOCK_EX | LOCK_NB):
            yield lambda fd=fd, op=op: module.flock(fd, op)
        for op in (LOCK_SH, LOCK_EX, LOCK_UN, LOCK_EX | LOCK_NB):
            yield lambda fd=fd, op=op: module.lockf(fd, op)
        for cmd in (kernel.F_GETLK, F_OFD_GETLK, kernel.F_SETLK, F_OFD_SETLK):
            for type in (RDLCK, WRLCK, UNLCK, 7):
                asks = FLOCK.pack(type, 0, 0, 0, 0)
                yield lambda fd=fd, cmd=cmd, asks=asks: module.fcntl(fd, cmd, asks)
    yield from odd_arguments(module, rw, r)


def odd_arguments(module: Any, rw: int, r: int) -> Iterator[Any]:
    top = 2**63 - 1
    for op in (0, 3, 9, 12, 16, 32, 33, 64, 65, 2**40, 1.0, None):
        yield lambda op=op: module.flock(rw, op)
        yield lambda op=op: module.lockf(rw, op)
    numbers = (0, 1, -1, 50, -50, 100, -100, -101, top, top - 1, top - 100, -top, -top - 1)
    for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, 3, -1, 77):
        for start in numbers:
            for length in numbers:
                yield lambda n=length, s=start, w=whence: module.lockf(rw, LOCK_EX, n, s, w)
    for odd in (top + 1, -top - 2, 1.5, None, "1"):
        yield lambda odd=odd: module.lockf(rw, LOCK_EX, odd)
        yield lambda odd=odd: module.lockf(rw, LOCK_EX, 0, odd)
        yield lambda odd=odd: module.lockf(rw, LOCK_EX, 0, 0, odd)
    good = FLOCK.pack(WRLCK, 0, 0, 0, 0)
    for arg in (good, good[:28], good + bytes(8), good + bytes(1000), "\0" * 32, 0, 1.5, None):
        yield lambda arg=arg: module.fcntl(rw, kernel.F_SETLK, arg)
    for cmd in (kernel.F_SETLK, F_OFD_SETLK, kernel.F_GETLK, F_OFD_GETLK):
        for fields in ((WRLCK, 9, 0, 0, 0), (7, 9, 0, 0, 0), (WRLCK, 0, 0, 0, 5), (7, 0, -1, 0, 5)):
            yield lambda c=cmd, f=fields: module.fcntl(r, c, FLOCK.pack(*f))


def test_errors_are_those_of_the_kernel(group: Group, file: Path, opened: Any) -> None:
    """Which error, and of several the first, in a hundred odd calls."""
    reading, writing = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        modes = (os.O_RDWR, os.O_RDONLY, os.O_WRONLY, os.O_PATH)
        ours, theirs = ([*(opened(file, mode) for mode in modes), writing] for _ in range(2))
        os.lseek(ours[0], 30, os.SEEK_SET)
        os.lseek(theirs[0], 30, os.SEEK_SET)
        both = zip(odd_calls(fcntl, *ours), odd_calls(kernel, *theirs), strict=True)
        for number, (call, expected) in enumerate(both):
            # Each side alone: our descriptions are the kernel's neighbours here, not rivals.
            answers = error_of(call), error_of(expected)
            assert answers[0] == answers[1], (number, call.__defaults__, answers)
            for module, fds in ((fcntl, ours), (kernel, theirs)) if answers[0] is None else ():
                for fd in (*fds[:3], writing):
                    module.flock(fd, LOCK_UN)
                    module.lockf(fd, LOCK_UN)
                    module.fcntl(fd, F_OFD_SETLK, FLOCK.pack(UNLCK, 0, 0, 0, 0))
        assert number > 1000
        assert rows(group) == []


def test_a_refused_call_changes_nothing(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file, os.O_RDONLY)
    for wrong in (
        lambda: fcntl.lockf(fd, LOCK_EX),
        lambda: fcntl.lockf(fd, LOCK_SH, 0, -1),
        lambda: fcntl.lockf(fd, LOCK_SH, -1, 0),
        lambda: fcntl.lockf(fd, LOCK_SH, 2**63 - 1, 2),
        lambda: fcntl.flock(fd, 0),
    ):
        with pytest.raises(libos_ipc.IpcError):
            wrong()
    assert rows(group) == []


# ---- ranges


def test_ranges_are_reckoned_as_the_kernel_does(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    os.lseek(fd, 30, os.SEEK_SET)
    for arguments, expected in {
        (10, 5): (5, 14),
        (0, 5): (5, EOF),
        (-5, 5): (0, 4),
        (10, 5, os.SEEK_CUR): (35, 44),
        (-10, 0, os.SEEK_CUR): (20, 29),
        (10, -5, os.SEEK_END): (95, 104),
        (-100, 0, os.SEEK_END): (0, 99),
        (1, EOF): (EOF, EOF),
        (EOF, 1): (1, EOF),
        (EOF, 0): (0, EOF - 1),
        (EOF - 30, 0, os.SEEK_CUR): (30, EOF - 1),
    }.items():
        fcntl.lockf(fd, LOCK_EX, *arguments)
        assert [(row.start, row.end) for row in held(group)] == [expected], arguments
        fcntl.lockf(fd, LOCK_UN)


def test_ranges_split_and_merge(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)

    def ranges() -> list[tuple[str, int, int]]:
        return sorted((row.type, row.start, row.end) for row in held(group))

    fcntl.lockf(fd, LOCK_SH, 10, 0)
    fcntl.lockf(fd, LOCK_SH, 10, 10)
    assert ranges() == [("read", 0, 19)]
    fcntl.lockf(fd, LOCK_EX, 5, 5)
    assert ranges() == [("read", 0, 4), ("read", 10, 19), ("write", 5, 9)]
    fcntl.lockf(fd, LOCK_UN, 2, 6)
    assert ranges() == [("read", 0, 4), ("read", 10, 19), ("write", 5, 5), ("write", 8, 9)]
    fcntl.lockf(fd, LOCK_EX, 0, 0)
    assert ranges() == [("write", 0, EOF)]


# ---- queries


def test_queries_name_the_os_pid(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    with Forked(locks_and_stays(file, fcntl.lockf, LOCK_SH, 10, 20)) as holder:
        holder.recv()
        free = FLOCK.pack(RDLCK, os.SEEK_SET, 0, 0, 7)
        answer = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, free))
        assert answer == (UNLCK, os.SEEK_SET, 0, 0, 7)
        asks = FLOCK.pack(WRLCK, os.SEEK_END, -100, 0, 0)
        answer = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asks))
        assert answer == (RDLCK, os.SEEK_SET, 20, 10, holder.os_pid)
        found = fcntl.getlk(fd, LOCK_EX)
        assert found is not None
        assert (found.kind, found.type, found.start, found.end) == ("posix", "read", 20, 29)
        assert found.os_pid == holder.os_pid
        assert found.pid == next(m.pid for m in group.members() if m.os_pid == holder.os_pid)
        assert fcntl.getlk(fd, LOCK_SH) is None
        assert fcntl.getlk(fd, LOCK_EX, 10, 0) is None
        with pytest.raises(libos_ipc.IpcError) as refused:
            fcntl.getlk(fd, LOCK_UN)
        assert refused.value.errno == errno.EINVAL
        # A query needs no permission.
        assert fcntl.getlk(opened(file, os.O_RDONLY), LOCK_EX) == found


def test_the_length_of_a_lock_to_the_end_is_0(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    with Forked(locks_and_stays(file, fcntl.lockf, LOCK_EX, EOF - 4, 5)) as holder:
        holder.recv()
        asks = FLOCK.pack(WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asks))
        assert answer == (WRLCK, os.SEEK_SET, 5, 0, holder.os_pid)


def test_locks_of_open_file_descriptions(group: Group, file: Path, opened: Any) -> None:
    """Of two descriptions of one process; they see POSIX locks, and are seen by these."""
    first, second = opened(file), opened(file)
    asks = FLOCK.pack(WRLCK, os.SEEK_SET, 0, 10, 0)
    assert fcntl.fcntl(first, F_OFD_SETLK, asks) == asks
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(second, F_OFD_SETLK, asks)
    answer = FLOCK.unpack(fcntl.fcntl(second, F_OFD_GETLK, asks))
    assert answer == (WRLCK, os.SEEK_SET, 0, 10, -1)
    answer = FLOCK.unpack(fcntl.fcntl(second, fcntl.F_GETLK, asks))
    assert answer == (WRLCK, os.SEEK_SET, 0, 10, -1)
    with pytest.raises(BlockingIOError):
        fcntl.lockf(first, LOCK_EX | LOCK_NB)
    fcntl.fcntl(second, F_OFD_SETLKW, FLOCK.pack(WRLCK, os.SEEK_SET, 10, 0, 0))
    os.close(first)
    fcntl.fcntl(second, F_OFD_SETLK, asks)
    assert [(row.kind, row.start, row.end) for row in held(group)] == [("ofd", 0, EOF)]
    own = FLOCK.pack(UNLCK, os.SEEK_SET, 0, 0, 0)
    ours = error_of(lambda: fcntl.fcntl(second, F_OFD_GETLK, own))
    assert ours == error_of(lambda: kernel.fcntl(second, F_OFD_GETLK, own))
    with pytest.raises(libos_ipc.IpcError):
        fcntl.fcntl(second, F_OFD_SETLK, FLOCK.pack(WRLCK, 0, 0, 0, 1))


def test_a_waiting_ofd_lock_is_woken(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    asks = FLOCK.pack(WRLCK, os.SEEK_SET, 0, 0, 0)
    with Forked(locks_and_stays(file, fcntl.lockf, LOCK_EX)) as holder:
        holder.recv()
        threading.Thread(target=lambda: (until_waiting(group), holder.send("unlock"))).start()
        fcntl.fcntl(fd, F_OFD_SETLKW, asks)
        holder.recv()


# ---- the ends of processes

#: Joins again by the token in its environment; says what it could lock, then goes on.
REJOIN = """
import os, sys, libos_ipc
from libos_ipc import fcntl
with libos_ipc.Group.join() as group:
    with open(sys.argv[1], "r+") as it:
        try:
            fcntl.flock(it, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        rows = [tuple(row[:6]) for row in group.locks.table()]
        print(free, rows, flush=True)
        sys.stdin.readline()
        fcntl.lockf(it, fcntl.LOCK_UN)
        print("unlocked", flush=True)
        sys.stdin.readline()
"""


def test_an_exec_keeps_posix_locks_and_nothing_else(group: Group, file: Path, opened: Any) -> None:
    """As the kernel does, if the descriptor is inherited or not."""
    reading, writing = os.pipe()
    told, tells = os.pipe()
    kept = opened(file)

    def becomes_another(line: Line) -> None:
        fd = os.open(file, os.O_RDWR)
        os.set_inheritable(fd, True)
        fcntl.lockf(fd, LOCK_EX, 10, 5)
        fcntl.flock(fd, LOCK_EX)
        line.send(group.pid)
        os.dup2(reading, 0)
        os.dup2(tells, 1)
        os.execve(sys.executable, [sys.executable, "-c", REJOIN, str(file)], group.environ())

    with Forked(becomes_another) as child, open(told) as said:
        pid = child.recv()
        os.close(tells)
        free, _, rows = said.readline().partition(" ")
        assert free == "True"
        assert ("posix", "write", 5, 14, pid, child.os_pid) in eval(rows)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(kept, LOCK_EX | LOCK_NB)
        os.write(writing, b"\n")
        assert said.readline() == "unlocked\n"
        fcntl.lockf(kept, LOCK_EX | LOCK_NB)
        os.write(writing, b"\n")
    os.close(reading)
    os.close(writing)


def test_a_program_that_never_joins_again_keeps_its_posix_locks(
    group: Group, file: Path, opened: Any
) -> None:
    fd = opened(file)

    def becomes_another(line: Line) -> None:
        mine = os.open(file, os.O_RDWR)
        os.set_inheritable(mine, True)
        fcntl.lockf(mine, LOCK_EX)
        vmid = group.vmid
        line.send(vmid)
        os.execvp("sleep", ["sleep", "1000"])

    with Forked(becomes_another) as child:
        vmid = child.recv()
        poll(lambda: vmid not in {m.vmid for m in group.members()}, what="it is no member")
        with pytest.raises(BlockingIOError):
            fcntl.lockf(fd, LOCK_EX | LOCK_NB)
        child.kill()
        fcntl.lockf(fd, LOCK_EX, timeout=DEADLINE_S)


@both_leaders
@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
def test_a_killed_holder_lets_the_next_in(group: Group, file: Path, lock: Any) -> None:
    """One after the other, in the order in which they came."""
    with ExitStack() as stack:
        holder = stack.enter_context(Forked(locks_and_stays(file, lock, LOCK_EX)))
        holder.recv()
        others = []
        for number in range(4):
            others.append(stack.enter_context(Forked(locks_and_stays(file, lock, LOCK_EX))))
            until_waiting(group, number + 1)
        for other in others:
            holder.kill()
            other.recv()
            (row,) = held(group)
            assert row.os_pid == other.os_pid
            holder = other


def test_a_killed_waiter_is_gone(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    fcntl.lockf(fd, LOCK_EX)
    with Forked(locks_and_stays(file, fcntl.lockf, LOCK_EX)) as waiter:
        until_waiting(group)
        waiter.kill()
        poll(lambda: not waiting(group))
    fcntl.lockf(fd, LOCK_UN)
    assert rows(group) == []


def test_the_end_of_the_group_is_the_end_of_the_locks(group: Group, file: Path) -> None:
    def leaves(line: Line) -> None:
        fd = os.open(file, os.O_RDWR)
        fcntl.lockf(fd, LOCK_EX)
        fcntl.flock(fd, LOCK_EX)
        line.send()
        line.recv()
        group.close()
        line.send()
        line.pause()

    with Forked(leaves) as child:
        child.recv()
        assert len(held(group)) == 2
        child.send()
        child.recv()
        assert rows(group) == []


# ---- giving up


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Sets the handler of SIGUSR1 for the test."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler) and None
    signal.signal(signal.SIGUSR1, before)


class Enough(Exception):
    pass


@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_handler_that_raises_takes_the_waiter_away(
    group: Group, file: Path, opened: Any, alarm: Any, lock: Any, timeout: float | None
) -> None:
    fd = opened(file)
    calls = []

    def handler(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Enough

    alarm(handler)
    with Forked(locks_and_stays(file, lock, LOCK_EX)) as holder:
        holder.recv()

        def signals() -> None:
            until_waiting(group)
            for number in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
                poll(lambda number=number: len(calls) > number)

        thread = threading.Thread(target=signals)
        thread.start()
        with pytest.raises(Enough):
            lock(fd, LOCK_EX, timeout=timeout)
        assert waiting(group) == []
        thread.join()
        holder.send("unlock")
        holder.recv()
        assert held(group) == []
        assert is_free(file, lock)


def test_ctrl_c_takes_the_waiter_away(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    fcntl.lockf(fd, LOCK_EX)

    def waits(line: Line) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        mine = os.open(file, os.O_RDWR)
        with pytest.raises(KeyboardInterrupt):
            fcntl.lockf(mine, LOCK_EX)
        line.send()
        line.pause()

    with Forked(waits) as waiter:
        until_waiting(group)
        waiter.kill(signal.SIGINT)
        waiter.recv()
        assert waiting(group) == []


def test_raising_handlers_at_any_moment_leave_no_lock_to_nobody(
    group: Group, file: Path, opened: Any
) -> None:
    """Contended, with interruptions that come in whatever moment: whoever has raised either holds
    the lock, as in the kernel when the signal came right after, or does not wait for it."""
    fd = opened(file)

    def contends(line: Line) -> None:
        mine = os.open(file, os.O_RDWR)
        while line._pipe.poll(0) is False:
            fcntl.flock(mine, LOCK_EX)
            fcntl.flock(mine, LOCK_UN)

    def interrupted(line: Line) -> None:
        armed = False

        def handler(*_: object) -> None:
            if armed:
                raise Enough

        signal.signal(signal.SIGALRM, handler)
        mine = os.open(file, os.O_RDWR)
        fcntl.flock(mine, LOCK_EX)
        for number in range(150):
            fcntl.flock(mine, LOCK_UN)
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + number * 0.00001)
                while True:
                    fcntl.flock(mine, LOCK_EX)
                    fcntl.flock(mine, LOCK_UN)
            except Enough:
                armed = False
            mine_waiting = [r for r in rows(group) if r.waiting and r.vmid == group.vmid]
            assert mine_waiting == []

    with Forked(contends) as rival, Forked(interrupted) as other:
        other.result()
        rival.send("end")
        rival.result()
    fcntl.flock(fd, LOCK_EX, timeout=DEADLINE_S)


def test_one_thread_waits_while_others_work(group: Group, file: Path, opened: Any) -> None:
    fd, elsewhere = opened(file), opened(file.parent, os.O_RDONLY)
    with Forked(locks_and_stays(file, fcntl.lockf, LOCK_EX)) as holder:
        holder.recv()
        got = threading.Event()

        def waits() -> None:
            fcntl.lockf(fd, LOCK_EX)
            got.set()

        thread = threading.Thread(target=waits)
        thread.start()
        until_waiting(group)
        for _ in range(20):
            fcntl.flock(elsewhere, LOCK_EX)
            fcntl.flock(elsewhere, LOCK_UN)
            assert group.ids.owner(group.pid) == group.vmid
        assert not got.is_set()
        holder.send("unlock")
        holder.recv()
        assert got.wait(DEADLINE_S)
        thread.join()


def test_threads_that_find_the_descriptor_closed_keep_what_they_lock(
    group: Group, file: Path
) -> None:
    """Several notice at once that what locked before is closed: none undoes the other's lock."""
    for _ in range(30):
        fds = [os.open(file, os.O_RDWR) for _ in range(5)]
        fcntl.lockf(fds[0], LOCK_EX, 10, 90)
        os.close(fds[0])
        barrier = threading.Barrier(4)

        def locks(number: int, fds: list[int] = fds, barrier: Any = barrier) -> None:
            barrier.wait()
            fcntl.lockf(fds[number], LOCK_EX, 2, 10 * number)

        threads = [threading.Thread(target=locks, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {10, 20, 30, 40} <= {row.start for row in held(group)}
        for fd in fds[1:]:
            os.close(fd)


# ---- deadlocks


def test_a_cycle_of_three_over_two_files(group: Group, tmp_path: Path) -> None:
    """It is found when it closes; the others wait on and get what they wait for."""
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.touch()
    holds = [(paths[0], 0), (paths[0], 10), (paths[1], 0)]

    def member(number: int) -> Callable[[Line], None]:
        def body(line: Line) -> None:
            fds = {path: os.open(path, os.O_RDWR) for path in paths}
            path, start = holds[number]
            fcntl.lockf(fds[path], LOCK_EX, 5, start)
            line.send()
            line.recv()
            path, start = holds[(number + 1) % 3]
            try:
                fcntl.lockf(fds[path], LOCK_EX, 5, start)
                line.send("got it")
            except Deadlock as error:
                line.send(str(error))
                line.recv()
                path, start = holds[number]
                fcntl.lockf(fds[path], LOCK_UN, 5, start)
            line.pause()

        return body

    with cycle_of_three(group, member, paths) as members:
        members[2].send()
        assert members[1].recv() == "got it"
        members[1].kill()
        assert members[0].recv() == "got it"


def test_of_two_upgraders_the_second_is_refused(group: Group, file: Path, opened: Any) -> None:
    fd = opened(file)
    fcntl.lockf(fd, LOCK_SH)

    def upgrades(line: Line) -> None:
        mine = os.open(file, os.O_RDWR)
        fcntl.lockf(mine, LOCK_SH)
        line.send()
        fcntl.lockf(mine, LOCK_EX)
        line.send()
        line.pause()

    with Forked(upgrades) as other:
        other.recv()
        until_waiting(group)
        with pytest.raises(Deadlock) as refused:
            fcntl.lockf(fd, LOCK_EX)
        assert refused.value.errno == errno.EDEADLK
        assert [row.type for row in held(group)] == ["read", "read"]
        fcntl.lockf(fd, LOCK_UN)
        other.recv()


def test_two_upgraders_in_flock_do_not_deadlock(group: Group, file: Path, opened: Any) -> None:
    """The first has given up what it had when it began to wait, and so the second gets it."""
    fd = opened(file)
    with Forked(locks_and_stays(file, fcntl.flock, LOCK_SH)) as first:
        first.recv()

        def upgrades(line: Line) -> None:
            mine = os.open(file, os.O_RDWR)
            fcntl.flock(mine, LOCK_SH)
            line.send()
            fcntl.flock(mine, LOCK_EX)
            line.send()
            line.pause()

        with Forked(upgrades) as second:
            second.recv()
            until_waiting(group)
            assert [row.os_pid for row in held(group)] == [first.os_pid]
            fcntl.flock(fd, LOCK_SH)
            first.send("unlock")
            first.recv()
            fcntl.flock(fd, LOCK_EX, timeout=DEADLINE_S)
            assert [row.os_pid for row in held(group)] == [os.getpid()]
            fcntl.flock(fd, LOCK_UN)
            second.recv()


@pytest.mark.parametrize("keeps", ["file_lock", "flock"])
def test_a_descriptor_of_the_librarys_own_is_not_taken_for_a_closed_one(
    group: Group, file: Path, keeps: str
) -> None:
    """Though it is of the same file and got the same number."""
    processes.until_settled()
    with open(file, "r+") as it:
        fcntl.lockf(it, LOCK_EX)
        number = it.fileno()
        other = os.open(file, os.O_RDWR)
    try:
        if keeps == "flock":
            fcntl.flock(other, LOCK_EX)
            assert number not in processes.descriptors()
            assert is_free(file, fcntl.lockf)
        else:
            with group.file_lock(file, timeout=DEADLINE_S):
                assert processes.descriptors()[number] == str(file)
    finally:
        os.close(other)


def test_what_is_locked_after_a_refused_conversion_goes_with_its_descriptor(
    group: Group, file: Path
) -> None:
    """The refusal has cost what was held; what comes after it is found closed all the same."""
    first, second = os.open(file, os.O_RDWR), os.open(file, os.O_RDWR)
    fcntl.flock(first, LOCK_SH)
    fcntl.flock(second, LOCK_SH)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, LOCK_EX | LOCK_NB)
    os.close(first)
    fcntl.flock(second, LOCK_EX | LOCK_NB)
    os.close(second)
    assert is_free(file)


def test_a_lock_right_after_its_forerunner_was_found_closed(group: Group, file: Path) -> None:
    """By the same number, while the leader's word of that is on its way."""

    def closes_and_locks(line: Line) -> None:
        while line.recv() == "again":
            fd = os.open(file, os.O_RDWR)
            fcntl.lockf(fd, LOCK_EX)
            os.close(fd)
            line.send()
            line.recv()
            fd = os.open(file, os.O_RDWR)
            fcntl.lockf(fd, LOCK_EX)
            os.close(fd)
            line.send()

    with Forked(closes_and_locks) as child, open(file, "r+") as it:
        for _ in range(30):
            child.send("again")
            child.recv()
            assert fcntl.getlk(it, LOCK_EX) is None
            child.send()
            child.recv()
            assert fcntl.getlk(it, LOCK_EX) is None
