"""Sync handles over real processes: who may have them, what they see, and what becomes of it."""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import both_leaders
from processes import DEADLINE_S, Forked, Line, leaders, poll, wait_until_idle
from sync_users import EXCLUSIVE, SHARED, User, waiting_at

import libos_ipc
from libos_ipc import Deadlock, Group, NotJoined, Timeout, WouldBlock, fcntl
from libos_ipc.errors import InvalidArgument, InvalidRange, MessageTooLarge
from libos_ipc.sync import State, SyncHandle

INVALID = State.INVALID
KIB = 1024


class Point(msgspec.Struct):
    """A value of a program's own type."""

    x: int
    y: int = 0


class Enough(Exception):
    """Raised by what a test lets happen."""


def get(handle: SyncHandle[Any], timeout: float | None = None) -> Any:
    with handle.shared(timeout) as value:
        return value


def put(handle: SyncHandle[Any], value: Any) -> None:
    with handle.exclusive() as box:
        box.value = value


def files_of_values(group: Group) -> list[str]:
    """The files in which large values lie."""
    return [n for n in os.listdir(group._node.directory.path) if n.startswith("value-")]


def waiting_here(group: Group, handle: SyncHandle[Any]) -> int:
    """How many threads and tasks of this process wait for the handle."""
    session = group._session
    with session.lock:
        local = session.member.sync.client._handles.get(handle.id)
        return 0 if local is None else len(local.waiting())


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run a call in a thread of its own; what it gives or raises comes into the list."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(call())
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, came


# ---- names, IDs, types


@both_leaders
def test_a_value_is_everybodys(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as user:
        put(handle, 5)
        assert user("get") == 5
        assert user("add", 2) == 7
        assert get(handle) == 7
        with User(group, handle.id, type=int) as other:
            assert other("get") == 7
        assert (handle.name, handle.version) == ("h", 3)


@both_leaders
def test_fresh_handles_have_ids_that_others_may_open(group: Group) -> None:
    one, other = group.sync(), group.sync()
    assert one.id != other.id
    assert (one.name, one.type) == (None, bytes)
    put(one, b"one")
    with User(group, one.id) as user:
        assert user("get") == b"one"
    chosen = group.sync(77, type=int)
    assert chosen.id == 77
    assert get(other) == b""
    assert [row.id for row in group.sync_table()] == sorted([77, one.id, other.id])


@both_leaders
def test_the_same_name_with_another_type_changes_nothing(group: Group) -> None:
    handle = group.sync("h", type=list[int])
    put(handle, [1, 2])
    before = group.sync_table()
    for more in (
        {"type": int},
        {"type": list[str]},
        {"type": list[int], "on_owner_death": "raise"},
    ):
        with pytest.raises(InvalidArgument, match="'h' with"):
            group.sync("h", **more)  # type: ignore[arg-type]

        def other(line: Line, more: Any = more) -> str:
            try:
                group.sync("h", **more)
            except InvalidArgument as error:
                return str(error.args[-1])
            return ""

        with Forked(other) as child:
            assert "it is open with" in child.result()
    assert group.sync_table() == before
    handle.close()
    assert group.sync_table() == []
    assert get(group.sync("h", type=int)) == 0


NO_KEYS: list[tuple[Any, type[Exception]]] = [
    *((key, InvalidArgument) for key in ("", "a\0b", "x" * 4097, "\ud800")),
    *((key, InvalidRange) for key in (0, 2**32, -1, True, 1.5, b"h")),
]


def test_what_is_no_key(group: Group) -> None:
    for key, error in NO_KEYS:
        with pytest.raises(error) as raised:
            group.sync(key)
        assert raised.value.errno == errno.EINVAL  # type: ignore[attr-defined]
    assert group.sync_table() == []


def test_what_is_no_type_and_no_word_on_death(group: Group) -> None:
    for wrong in (None, "int", 3):
        with pytest.raises(InvalidArgument):
            group.sync("h", type=wrong)
    with pytest.raises(InvalidArgument, match='"last" or "raise"'):
        group.sync("h", on_owner_death="never")  # type: ignore[arg-type]
    assert group.sync_table() == []
    with group.sync("h", type=complex) as handle, pytest.raises(InvalidArgument, match="complex"):
        put(handle, 1j)


def _change_point(point: Point) -> None:
    point.y += 1


@dataclass
class Typed:
    """A type, the value that nobody has written, another one, and how that is changed in place."""

    type: Any
    empty: Any
    value: Any
    change: Callable[[Any], object] | None = None
    changed: Any = None


TYPED = [
    Typed(int, 0, 3),
    Typed(bytes, b"", b"abc"),
    Typed(str, "", "é"),
    Typed(dict, {}, {"a": 1}, lambda value: value.update(b=2), {"a": 1, "b": 2}),
    Typed(list[int], [], [1], lambda value: value.append(2), [1, 2]),
    Typed(Point, None, Point(1), _change_point, Point(1, 1)),
    Typed(Point | None, None, Point(1), _change_point, Point(1, 1)),
    Typed(tuple[int, str], None, (1, "a")),
]


@pytest.mark.parametrize("case", TYPED, ids=lambda case: str(case.type))
@pytest.mark.parametrize("group", ["embedded"], indirect=True)
def test_typed_values(group: Group, case: Typed) -> None:
    handle = group.sync("h", type=case.type)
    assert get(handle) == case.empty
    with handle.exclusive():
        pass
    assert handle.version == 0  # nobody has written it
    put(handle, case.value)
    put(handle, case.value)
    assert handle.version == 1  # nobody has changed it
    with User(group, type=case.type) as user:
        assert user("get") == case.value
        if case.change is not None:
            with handle.exclusive() as box:
                case.change(box.value)
            assert user("get") == case.changed
            with handle.shared() as mine:
                case.change(mine)  # only what we were given
            assert get(handle) == user("get") == case.changed
        assert user("set", case.value) is None
        assert get(handle) == case.value


def test_a_value_of_another_type_is_rolled_back(group: Group) -> None:
    handle = group.sync("h", type=Point)
    put(handle, Point(1))
    wrong = (Enough(), {"x": "a"}, 5, None)
    for value in wrong:
        with pytest.raises(InvalidArgument, match="Point"):
            put(handle, value)
        handle.lock(EXCLUSIVE)
        with pytest.raises(InvalidArgument):
            handle.unlock(value)  # type: ignore[arg-type]
        handle.unlock(Point(handle.version))  # it is locked yet
    assert (get(handle), handle.version) == (Point(4), 5)
    raw = group.sync("raw")
    with pytest.raises(InvalidArgument, match="give a type"):
        put(raw, "text")
    put(raw, bytearray(b"ab"))
    put(raw, memoryview(b"abc")[1:])
    assert get(raw) == b"bc"


def test_what_others_have_written_may_be_no_value_of_ours(group: Group) -> None:
    """Two classes of one name: the lock is not held after the error."""

    class Point(msgspec.Struct):
        a: str

    Point.__qualname__ = "Point"
    handle = group.sync("h", type=Point)
    with User(group, type=globals()["Point"]) as user:
        assert user("set", globals()["Point"](1)) is None
        for state in (SHARED, EXCLUSIVE):
            with pytest.raises(libos_ipc.ProtocolError):
                handle.lock(state)
        assert user("set", globals()["Point"](2)) is None


# ---- blocks, lock and unlock


@both_leaders
def test_an_exception_rolls_the_value_back(group: Group) -> None:
    handle = group.sync("h", type=dict)
    put(handle, {"a": 1})

    def change(how: Callable[[Any], None]) -> None:
        with handle.exclusive() as box:
            how(box)
            raise Enough

    for how in (lambda box: box.value.update(a=2), lambda box: setattr(box, "value", {})):
        with pytest.raises(Enough):
            change(how)
    with User(group, type=dict) as user:
        assert user("get") == {"a": 1}
    assert (get(handle), handle.version) == ({"a": 1}, 1)


@both_leaders
def test_lock_and_unlock(group: Group) -> None:
    handle = group.sync("h", type=int)
    assert handle.lock(EXCLUSIVE) == 0
    handle.unlock(1)
    assert handle.lock(SHARED) == 1
    handle.unlock()
    assert handle.lock(EXCLUSIVE) == 1
    handle.unlock()
    assert handle.lock(SHARED) == 1
    with pytest.raises(InvalidArgument, match="shared lock"):
        handle.unlock(2)
    handle.unlock()  # it was locked yet
    with pytest.raises(libos_ipc.PermissionDenied, match="nobody does"):
        handle.unlock()
    for wrong in (State.INVALID, 0, 4, None):
        with pytest.raises(InvalidArgument):
            handle.lock(wrong)  # type: ignore[arg-type]
    handle.lock(EXCLUSIVE)
    thread, came = in_thread(lambda: handle.unlock(9))
    thread.join()
    assert isinstance(came[0], PermissionError)
    handle.unlock(3)
    assert (get(handle), handle.version) == (3, 2)


@both_leaders
def test_a_process_keeps_what_it_has_until_another_wants_it(group: Group) -> None:
    handle = group.sync("h", type=int)
    assert (handle.state, handle.version) == (INVALID, 0)
    get(handle)
    assert (handle.state, handle.version) == (SHARED, 0)
    put(handle, 1)
    assert (handle.state, handle.version) == (EXCLUSIVE, 1)
    get(handle)
    assert handle.state == EXCLUSIVE
    with User(group, type=int) as user:
        assert user("state") == INVALID
        assert user("get") == 1
        assert (user("state"), handle.state) == (SHARED, SHARED)
        assert user("set", 2) is None
        assert (user("state"), user("version"), handle.state) == (EXCLUSIVE, 2, INVALID)
        assert handle.version == 1  # as long as it has not looked
        assert get(handle) == handle.version == 2


@both_leaders
def test_what_stays_here_costs_no_message(group: Group) -> None:
    handle = group.sync("h", type=int)
    put(handle, 1)
    sent: list[object] = []
    session = group._session
    session.member.sync._send = lambda *what: sent.append(what) or []  # type: ignore[func-returns-value]
    for _ in range(3):
        put(handle, get(handle) + 1)
    assert sent == []
    del session.member.sync._send
    session.member.sync._send = session.member._tell_leader


@both_leaders
def test_readers_together_and_one_writer(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as one, User(group, type=int) as two, User(group, type=int) as three:
        assert one("lock", SHARED) == two("lock", SHARED) == 0
        with handle.shared():
            three.wait_in_line("lock", EXCLUSIVE)
            assert one("unlock") is None
            assert two("unlock") is None
        assert three.recv() == 0
        one.wait_in_line("lock", SHARED)
        two.wait_in_line("lock", SHARED)
        for user in (one, two):
            assert user.vmid in waiting_at(group)
        assert three("unlock", 8) is None
        assert one.recv() == two.recv() == 8
        assert get(handle) == 8
        one("unlock")
        two("unlock")


@both_leaders
def test_who_comes_first_is_served_first(group: Group) -> None:
    handle = group.sync("h", type=list[int])
    users = [User(group, type=list[int]) for _ in range(4)]
    try:
        states = (EXCLUSIVE, SHARED, EXCLUSIVE, SHARED)
        handle.lock(SHARED)
        for user, state in zip(users, states, strict=True):
            user.wait_in_line("lock", state)
        (row,) = group.sync_table()
        expected = tuple((user.vmid, state) for user, state in zip(users, states, strict=True))
        assert row.waiting == expected
        handle.unlock()
        assert users[0].recv() == []
        assert users[0]("unlock", [0]) is None
        assert users[1].recv() == [0]
        assert len(waiting_at(group)) == 2
        assert users[1]("unlock") is None
        assert users[2].recv() == [0]
        assert users[2]("unlock", [0, 2]) is None
        assert users[3].recv() == [0, 2]
        users[3]("unlock")
    finally:
        for user in users:
            user.__exit__(None, None, None)


@both_leaders
def test_counting_with_many(group: Group) -> None:
    handle = group.sync("h", type=int)
    users = [User(group, type=int) for _ in range(3)]
    try:
        for user in users:
            user.send(("add", 100))
        threads = [
            in_thread(lambda: [put_one_more(handle) for _ in range(30)])[0] for _ in range(3)
        ]
        for user in users:
            user.recv()
        for thread in threads:
            thread.join()
        assert (get(handle), handle.version) == (390, 390)
    finally:
        for user in users:
            user.__exit__(None, None, None)


def put_one_more(handle: SyncHandle[int]) -> None:
    with handle.exclusive() as box:
        box.value += 1


# ---- deadlocks


def test_who_has_it_may_not_ask_again(group: Group) -> None:
    handle = group.sync("h", type=int)
    for held in (SHARED, EXCLUSIVE):
        for asked in (SHARED, EXCLUSIVE):
            handle.lock(held)
            for timeout in (None, 0, 5.0):
                with pytest.raises(Deadlock, match="unlock first") as raised:
                    handle.lock(asked, timeout)
                assert raised.value.errno == errno.EDEADLK
            handle.unlock()
    again = group.sync("h", type=int)
    with handle.shared(), pytest.raises(Deadlock):
        again.lock(EXCLUSIVE)
    put(handle, 1)


@both_leaders
def test_a_cycle_over_two_handles(group: Group) -> None:
    one, two = group.sync("one", type=int), group.sync("two", type=int)

    def other(line: Line) -> str:
        mine, theirs = group.sync("two", type=int), group.sync("one", type=int)
        with mine.exclusive():
            line.send(group.vmid)
            line.recv()
            with theirs.exclusive() as box:
                box.value = 7
        group.close()
        return "done"

    with Forked(other) as child:
        vmid = child.recv()
        with one.exclusive():
            child.send()
            poll(lambda: vmid in waiting_at(group))
            with pytest.raises(Deadlock, match="one"):
                two.lock(SHARED)
            with pytest.raises(Timeout):
                two.lock(SHARED, timeout=0.05)  # ends by itself: no deadlock
        assert child.result() == "done"
        assert (get(one), get(two)) == (7, 0)


def test_a_cycle_of_threads_of_one_process(group: Group) -> None:
    one, two = group.sync("one"), group.sync("two")
    locked = threading.Event()

    def other() -> str:
        with two.exclusive():
            locked.set()
            with one.exclusive():
                return "done"

    with one.exclusive():
        thread, came = in_thread(other)
        assert locked.wait(DEADLINE_S)
        poll(lambda: waiting_here(group, one))
        with pytest.raises(Deadlock):
            two.lock(EXCLUSIVE)
    thread.join()
    assert came == ["done"]


@both_leaders
@pytest.mark.parametrize("kind", ["file_lock", "lockf"])
def test_a_cycle_over_a_handle_and_a_file(group: Group, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    handle = group.sync("h", type=int)

    def lock_file() -> Any:
        if kind == "file_lock":
            return group.file_lock(path)
        return _Lockf(path)

    def other(line: Line) -> str:
        with lock_file():
            line.send(group.vmid)
            line.recv()
            mine = group.sync("h", type=int)
            with mine.exclusive() as box:
                box.value = 1
        group.close()
        return "done"

    with Forked(other) as child:
        vmid = child.recv()
        with handle.exclusive():
            child.send()
            poll(lambda: vmid in waiting_at(group))
            with pytest.raises(Deadlock) as raised, lock_file():
                pass
            assert "sync handle" in str(raised.value) or kind == "lockf"
        assert child.result() == "done"
    assert get(handle) == 1


class _Lockf:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    def __enter__(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
        except BaseException:
            self._file.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self._file.close()


# ---- time-outs, signals


@both_leaders
def test_timeouts(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as user:
        with handle.exclusive():
            for state in (SHARED, EXCLUSIVE):
                name, took = user("timed", state, 0)
                assert name == "WouldBlock"
                assert took < 1
                name, took = user("timed", state, 0.05)
                assert name == "Timeout"
                assert 0.05 <= took < 5
                assert user("timed", state, -1)[0] == "WouldBlock"
            poll(lambda: waiting_at(group) == [])
        assert user("timed", EXCLUSIVE, 5)[0] == "locked"
        with pytest.raises(BlockingIOError) as raised:
            handle.lock(SHARED, timeout=0)
        assert isinstance(raised.value, WouldBlock)
        assert raised.value.errno == errno.EAGAIN
        with pytest.raises(TimeoutError, match=r"within 0\.05 s"), handle.exclusive(timeout=0.05):
            pass
        assert user("unlock", 3) is None
        with handle.shared(timeout=5) as value:
            assert value == 3


@both_leaders
def test_a_timeout_of_0_takes_what_nobody_uses(group: Group) -> None:
    """At first nobody has it at all; later another process keeps it."""
    fresh = group.sync(type=int)
    assert fresh.lock(EXCLUSIVE, timeout=0) == 0
    fresh.unlock()
    handle = group.sync("h", type=int)
    with User(group, type=int) as user:
        user("set", 4)

        def try_it() -> bool:
            try:
                handle.lock(EXCLUSIVE, timeout=0)
            except WouldBlock:
                return False  # on a loaded machine the other one may be late
            return True

        poll(try_it)
        handle.unlock()
    assert get(handle) == 4


@both_leaders
def test_a_signal_handler_that_raises_ends_the_wait(group: Group) -> None:
    def waits(line: Line, what: str) -> Any:
        def handler(number: int, frame: object) -> None:
            line.send(number)
            if number == signal.SIGUSR1:
                raise Enough

        signal.signal(signal.SIGUSR1, handler)
        signal.signal(signal.SIGUSR2, handler)
        handle = group.sync("h", type=int)
        get(handle)
        line.send(group.vmid)
        line.recv()
        try:
            if what == "wait":
                handle.wait(lambda value: value == 99)
            else:
                handle.lock(SHARED if what == "shared" else EXCLUSIVE)
        except Enough:
            line.send("raised")
        line.recv()
        return (handle.lock(EXCLUSIVE), handle.unlock(5))[0], group.close()

    handle = group.sync("h", type=int)
    for what in ("shared", "exclusive", "wait"):
        with Forked(waits, what) as child:
            vmid = child.recv()
            put(handle, 1)
            with handle.exclusive():
                child.send()
                poll(lambda vmid=vmid: vmid in waiting_at(group))  # type: ignore[misc]
                for sig in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGUSR1):
                    child.kill(sig)
                    assert child.recv() == sig
                assert child.recv() == "raised"
                poll(lambda vmid=vmid: vmid not in waiting_at(group))  # type: ignore[misc]
            put(handle, 2)  # it has nothing
            child.send()
            assert child.result()[0] == 2


def test_a_raise_in_any_moment_leaves_no_lock_behind(group: Group) -> None:
    """A handle that changes hands all the time, and a timer that strikes at any time."""

    def victim(line: Line) -> int:
        def handler(number: int, frame: object) -> None:
            if armed:
                raise Enough

        armed: list[int] = []
        signal.signal(signal.SIGALRM, handler)
        handle = group.sync("h", type=int)
        struck = 0
        for i in range(200):
            try:
                armed.append(1)
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.000013 * (i % 50))
                handle.lock(EXCLUSIVE)
                armed.clear()
                handle.unlock()
            except Enough:
                armed.clear()
                struck += 1
                with group._session.lock:
                    user = group._session.member.sync.client.user_of(handle.id)
                if user:
                    handle.unlock()  # struck between the call's end and the next line
            signal.setitimer(signal.ITIMER_REAL, 0)
            with handle.exclusive(timeout=DEADLINE_S) as box:
                box.value += 1
        group.close()
        return struck

    with User(group, type=int) as rival, Forked(victim) as child:
        while True:
            rival("add", 20)
            if rival("get") >= 20 and child._pipe.poll():
                break
        assert child.result() > 0


# ---- threads


@both_leaders
def test_threads_of_a_process_exclude_each_other(group: Group) -> None:
    handle = group.sync("h", type=int)
    inside: list[int] = []

    def work() -> None:
        for _ in range(20):
            with handle.exclusive() as box:
                inside.append(1)
                assert len(inside) == 1
                box.value += 1
                inside.pop()

    threads = [in_thread(work) for _ in range(5)]
    for thread, came in threads:
        thread.join()
        assert came == [None]
    assert get(handle) == 100
    with handle.shared():
        thread, came = in_thread(lambda: get(handle, 0))
        thread.join()
        assert isinstance(came[0], WouldBlock)  # one thread at a time uses it here
        thread, came = in_thread(lambda: get(handle, 0.02))
        thread.join()
        assert isinstance(came[0], Timeout)


# ---- asyncio


@both_leaders
def test_asyncio(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as user:
        user("add", 1)

        async def one(times: int) -> None:
            for _ in range(times):
                async with handle.exclusive() as box:
                    value = box.value
                    await asyncio.sleep(0)
                    box.value = value + 1

        async def fails() -> None:
            async with handle.exclusive() as box:
                box.value = 0
                raise Enough

        async def main() -> int:
            user.send(("add", 20))
            await asyncio.gather(*(one(10) for _ in range(4)))
            user.recv()
            async with handle.shared() as value:
                with pytest.raises(Deadlock):
                    await handle.alock(EXCLUSIVE)
            await handle.alock(EXCLUSIVE)
            handle.unlock(value + 1)
            with pytest.raises(Enough):
                await fails()
            return value

        assert asyncio.run(main()) == 61
        assert user("get") == 62


@both_leaders
def test_asyncio_timeouts_and_cancellation(group: Group) -> None:
    handle = group.sync("h", type=int)

    async def main(user: User) -> None:
        with pytest.raises(WouldBlock):
            await handle.alock(SHARED, timeout=0)
        with pytest.raises(Timeout, match="was not free"):
            await handle.alock(EXCLUSIVE, timeout=0.02)
        with pytest.raises(Timeout, match=r"as wanted within 0\.02 s"):
            await handle.await_value(lambda value: True, timeout=0.02)
        for coroutine in (handle.alock(EXCLUSIVE), handle.await_value(lambda value: False)):
            task = asyncio.create_task(coroutine)
            while not waiting_here(group, handle):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert waiting_here(group, handle) == 0
        task = asyncio.create_task(handle.await_value(lambda value: value == 9))
        user("unlock", 9)
        assert await task == 9
        with pytest.raises(Timeout, match="as wanted"):
            await handle.await_value(lambda value: value == 10, timeout=0.02)
        with pytest.raises(Enough):
            await handle.await_value(_raise_enough)
        async with handle.exclusive(timeout=0):
            pass

    with User(group, type=int) as user:
        user("lock", EXCLUSIVE)
        asyncio.run(main(user))
        assert user("add", 1) == 10


def _raise_enough(value: object) -> bool:
    raise Enough


def test_a_cancellation_in_any_moment_leaves_no_lock_behind(group: Group) -> None:
    handle = group.sync("h", type=int)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for i in range(150):
            task = asyncio.ensure_future(_lock_and_unlock(handle))
            loop.call_later(0.00002 * (i % 40), task.cancel)
            await asyncio.wait([task])
            async with handle.exclusive(timeout=DEADLINE_S) as box:
                box.value += 1

    with User(group, type=int) as rival:
        rival.send(("add", 400))
        asyncio.run(main())
        rival.recv()
        assert rival("get") == 550


async def _lock_and_unlock(handle: SyncHandle[int]) -> None:
    async with handle.exclusive():
        await asyncio.sleep(0)


# ---- waiting for a change


@both_leaders
def test_wait_for_a_value(group: Group) -> None:
    handle = group.sync("h", type=int)
    asked: list[int] = []

    def predicate(value: int) -> bool:
        asked.append(value)
        return value >= 3

    with User(group, type=int) as user:
        thread, came = in_thread(lambda: handle.wait(predicate))
        for number in range(1, 4):
            poll(lambda number=number: asked and asked[-1] == number - 1)  # type: ignore[misc]
            poll(lambda: waiting_here(group, handle))
            user("set", number)
        thread.join()
        assert came == [3]
        assert asked == [0, 1, 2, 3]  # once for each version: it does not poll
        assert handle.wait(lambda value: value == 3, timeout=0) == 3
        for timeout in (0, 0.03):
            with pytest.raises(Timeout, match=f"as wanted within {timeout} s") as raised:
                handle.wait(lambda value: value == 4, timeout)
            assert raised.value.errno == errno.ETIMEDOUT
        with pytest.raises(Enough):
            handle.wait(_raise_enough)
        with pytest.raises(Deadlock), handle.shared():
            handle.wait(lambda value: True)
        user("lock", EXCLUSIVE)
        for timeout in (0, 0.03):
            with pytest.raises(Timeout, match=f"as wanted within {timeout} s"):
                handle.wait(lambda value: True, timeout)
        user("unlock", 5)
        assert user("get") == 5


def test_a_predicate_may_use_the_handle(group: Group) -> None:
    handle = group.sync("h", type=int)

    def predicate(value: int) -> bool:
        put_one_more(handle)
        return value == 3

    assert handle.wait(predicate) == 3
    assert get(handle) == 4


def test_many_wait_in_processes_and_threads(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as one, User(group, type=int) as two:
        for user in (one, two):
            user("get")
            user.send(("wait", 2))
        threads = [in_thread(lambda: handle.wait(lambda value: value >= 2)) for _ in range(3)]
        poll(lambda: waiting_here(group, handle) == 3)
        wait_until_idle(one.os_pid)
        put(handle, 1)
        put(handle, 2)
        for user in (one, two):
            assert user.recv() == 2
        for thread, came in threads:
            thread.join()
            assert came == [2]


# ---- deaths


def dies_inside(group: Group, on_death: Any, sig: int = signal.SIGKILL) -> None:
    """A process commits 1, and dies in the middle of changing it again."""

    def body(line: Line) -> None:
        handle = group.sync("h", type=int, on_owner_death=on_death)
        put(handle, 1)
        with handle.exclusive() as box:
            box.value = 2
            faulthandler.disable()
            os.kill(os.getpid(), sig)
            line.pause()

    with Forked(body) as child:
        assert os.WTERMSIG(child.wait()) == sig


@both_leaders
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSEGV])
def test_a_writer_dies_in_the_middle_last(group: Group, sig: int) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as user:
        dies_inside(group, "last", sig)
        assert user("get") == 1
        assert get(handle) == 1
        assert handle.version == 1
        put_one_more(handle)
        assert user("get") == 2


@both_leaders
def test_a_writer_dies_in_the_middle_raise(group: Group) -> None:
    handle = group.sync("h", type=int, on_owner_death="raise")
    with User(group, type=int, on_owner_death="raise") as user:
        for _ in range(2):
            dies_inside(group, "raise")
            with pytest.raises(libos_ipc.OwnerDied, match="died while it held") as raised:
                handle.lock(SHARED)
            assert raised.value.errno == errno.EOWNERDEAD
            assert get(handle) == user("get") == 1  # told once
            put(handle, 0)
        dies_inside(group, "raise")
        assert user("get") == "OwnerDied"
        assert user("get") == 1
        assert get(handle) == 1


@both_leaders
@pytest.mark.parametrize("on_death", ["last", "raise"])
def test_a_writer_dies_after_it_has_committed(group: Group, on_death: Any) -> None:
    handle = group.sync("h", type=int, on_owner_death=on_death)

    def body(line: Line) -> None:
        mine = group.sync("h", type=int, on_owner_death=on_death)
        for value in range(5):
            put(mine, value)
        os.kill(os.getpid(), signal.SIGKILL)

    with Forked(body) as child:
        child.wait()
    assert (get(handle), handle.version) == (4, 4)  # that it is 0 was no change


@both_leaders
def test_a_writer_dies_while_others_wait(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as writer, User(group, type=int) as user:
        writer("set", 7)
        writer("lock", EXCLUSIVE)
        user.wait_in_line("lock", SHARED)
        thread, came = in_thread(lambda: handle.wait(lambda value: value == 7))
        poll(lambda: len(waiting_at(group)) == 2)
        writer.kill()
        assert user.recv() == 7
        thread.join()
        assert came == [7]
        user("unlock")


@both_leaders
def test_a_waiter_and_a_reader_die(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as reader, User(group, type=int) as waiter:
        reader("lock", SHARED)
        waiter.wait_in_line("lock", EXCLUSIVE)
        waiter.kill()
        waiter.wait()
        poll(lambda: waiting_at(group) == [])
        assert get(handle) == 0
        thread, came = in_thread(lambda: put(handle, 1))
        poll(lambda: waiting_at(group) == [group.vmid])
        reader.kill()
        thread.join()
        assert came == [None]
    assert get(handle) == 1


@both_leaders
def test_a_stopped_holder_blocks_its_handle_alone(group: Group) -> None:
    handle, other = group.sync("h", type=int), group.sync("other", type=int)
    with User(group, type=int) as user, User(group, "other", type=int) as witness:
        user("set", 3)
        user("lock", EXCLUSIVE)
        user.stop()
        for state in (SHARED, EXCLUSIVE):
            with pytest.raises(WouldBlock):
                handle.lock(state, timeout=0)
            with pytest.raises(Timeout):
                handle.lock(state, timeout=0.05)
        put(other, 4)
        assert witness("get") == 4
        user.kill(signal.SIGCONT)
        user("unlock")
        assert get(handle) == 3
        assert user("get") == 3
        user("set", 3)  # granted behind its answers to the recalls above: none is on its way now
        user("lock", EXCLUSIVE)
        user.stop()
        put_one_more(other)
        thread, came = in_thread(lambda: put_one_more(handle))
        poll(lambda: waiting_at(group) == [group.vmid])
        user.kill()
        thread.join()
        assert came == [None]
        assert get(handle) == 4


def test_the_leader_dies_and_nobody_may_lead(group: Group, runtime_dir: Path) -> None:
    """Who waits is told; what a process has to itself it may go on with."""
    with Group.join("g", runtime_dir=runtime_dir, may_lead=False) as member:
        group.close()
        _go_on_without_a_leader(member)
    Group.create("g", runtime_dir=runtime_dir).close()  # sweeps up


def _go_on_without_a_leader(group: Group) -> None:
    handle, mine = group.sync("h", type=int), group.sync("mine", type=int)
    with User(group, type=int) as user:
        put(mine, 1)
        user("lock", EXCLUSIVE)
        thread, came = in_thread(lambda: get(handle))
        poll(lambda: waiting_here(group, handle))
        (leader,) = leaders(group._node.directory.runtime_dir)
        os.kill(leader, signal.SIGKILL)
        thread.join()
        assert isinstance(came[0], libos_ipc.LeaderLost)
        for timeout in (None, 0, 5.0):
            with pytest.raises(libos_ipc.LeaderLost):
                handle.lock(SHARED, timeout)
        put_one_more(mine)
        assert get(mine) == 2
        with pytest.raises(libos_ipc.LeaderLost):
            group.sync("new")


# ---- closing


@both_leaders
def test_the_last_close_forgets_the_value(group: Group) -> None:
    handle = group.sync("h", type=int)
    put(handle, 5)
    with User(group, type=int) as user:
        assert user("get") == 5
        handle.close()
        handle.close()
        for call in (
            lambda: get(handle),
            lambda: put(handle, 1),
            lambda: handle.state,
            lambda: handle.version,
            handle.unlock,
            lambda: handle.wait(bool),
        ):
            with pytest.raises(NotJoined, match="closed"):
                call()
        with group.sync("h", type=int) as again:
            assert (get(again), again.version) == (5, 1)
        assert user("close") is None
    assert group.sync_table() == []
    fresh = group.sync("h", type=int)
    assert (get(fresh), fresh.version) == (0, 0)


@both_leaders
def test_a_handle_is_open_until_as_many_closes(group: Group) -> None:
    one, two = group.sync("h", type=int), group.sync("h", type=int)
    put(one, 1)
    one.close()
    assert get(two) == 1
    two.close()
    assert group.sync_table() == []


def test_closing_what_is_used_and_what_is_waited_for(group: Group) -> None:
    handle = group.sync("h", type=int)
    with handle.exclusive() as box:
        with pytest.raises(OSError, match="must unlock first") as raised:
            handle.close()
        assert raised.value.errno == errno.EBUSY
        box.value = 1
    with User(group, type=int) as user:
        user("lock", EXCLUSIVE)
        waiters = [
            in_thread(lambda: get(handle)),
            in_thread(lambda: put(handle, 1)),
            in_thread(lambda: handle.wait(lambda value: value == 9)),
        ]
        poll(lambda: waiting_here(group, handle) == 3)
        handle.close()
        for thread, came in waiters:
            thread.join()
            assert isinstance(came[0], NotJoined)
        assert user("unlock", 5) is None
    assert group.sync_table() == []


@both_leaders
def test_opening_and_closing_race(group: Group) -> None:
    """In threads and processes, under one name; whoever has it open can use it."""

    def churn(times: int) -> int:
        for number in range(times):
            with group.sync("h", type=int) as handle, handle.exclusive() as box:
                box.value += 1
                assert box.value > 0
            if number % 7 == 0:
                get(handle := group.sync("h", type=int))
                handle.close()
        return times

    def body(line: Line) -> int:
        done = churn(60)
        group.close()
        return done

    processes = [Forked(body) for _ in range(2)]
    try:
        threads = [in_thread(lambda: churn(40)) for _ in range(3)]
        for thread, came in threads:
            thread.join()
            assert came == [40]
        assert [process.result() for process in processes] == [60, 60]
        assert group.sync_table() == []
    finally:
        for process in processes:
            process.__exit__(None, None, None)


def test_two_threads_close_one_object(group: Group) -> None:
    for _ in range(20):
        keep = group.sync("h", type=int)
        handle = group.sync("h", type=int)
        barrier = threading.Barrier(3)

        def close(handle: SyncHandle[int] = handle, barrier: Any = barrier) -> None:
            barrier.wait()
            handle.close()

        threads = [in_thread(close) for _ in range(3)]
        for thread, came in threads:
            thread.join()
            assert came == [None]
        assert get(keep) == 0
        keep.close()


@both_leaders
def test_leaving_while_threads_wait_and_use(group: Group) -> None:
    def body(line: Line) -> list[str]:
        held, awaited = group.sync("held", type=int), group.sync("h", type=int)
        put(held, 1)
        locked, left = threading.Event(), threading.Event()

        def hold() -> None:
            with held.exclusive() as box:
                box.value = 2
                locked.set()
                left.wait(DEADLINE_S)

        def look() -> None:
            with held.shared():
                pass

        threads = [in_thread(hold)]
        locked.wait(DEADLINE_S)
        threads += [in_thread(call) for call in (look, lambda: get(awaited))]
        poll(lambda: waiting_here(group, held) and waiting_here(group, awaited))
        line.send()
        group.close()
        left.set()
        for thread, _ in threads:
            thread.join()
        for handle in (held, awaited):
            handle.close()
            with pytest.raises(NotJoined):
                handle.lock(SHARED)
            with pytest.raises(NotJoined):
                _ = handle.state
        return [type(came[0]).__name__ for _, came in threads]

    held, handle = group.sync("held", type=int), group.sync("h", type=int)
    with handle.exclusive(), Forked(body) as child:
        child.recv()
        assert child.result() == ["NotJoined"] * 3
        assert get(held) == 1  # what was not committed is lost
        (row,) = [row for row in group.sync_table() if row.name == "h"]
        assert [vmid for vmid, *_ in row.states] == [group.vmid]


@both_leaders
def test_what_was_committed_outlives_the_one_who_leaves(group: Group) -> None:
    handle = group.sync("h", type=int)
    with User(group, type=int) as user:
        user("set", 5)
        user.leave()
    assert get(handle) == 5


# ---- fork and exec


@both_leaders
def test_a_forked_child_has_no_handle_open(group: Group) -> None:
    handle = group.sync("h", type=int)
    put(handle, 3)

    def body(line: Line) -> int:
        for call in (
            lambda: get(handle),
            handle.unlock,
            lambda: handle.unlock(5),
            lambda: handle.state,
            lambda: handle.wait(bool),
        ):
            with pytest.raises(NotJoined, match="forked"):
                call()
        handle.close()  # not ours
        with group.sync("h", type=int) as own:
            line.send()
            value = get(own)
            put_one_more(own)
        group.close()
        return value

    with handle.exclusive() as box:
        box.value = 10
        with Forked(body) as child:
            child.recv()
            poll(lambda: waiting_at(group))
            box.value += 1
            handle.unlock(box.value)
            assert child.result() == 11
            handle.lock(EXCLUSIVE)
            box.value = 12
    assert get(handle) == 12


def test_a_fork_inside_of_a_block(group: Group) -> None:
    """The child leaves the block: nothing is committed, and that is said where it matters."""
    handle = group.sync("h", type=int)
    pipe, childs = os.pipe()
    pid = -1
    try:
        with handle.exclusive() as box:
            box.value = 1
            pid = os.fork()
            if not pid:
                raise Enough
    except Enough:
        try:
            with pytest.raises(NotJoined), handle.exclusive():
                pass
            os.write(childs, b"ok")
        finally:
            os._exit(0)
    os.close(childs)
    assert os.read(pipe, 9) == b"ok"
    os.close(pipe)
    assert os.waitpid(pid, 0)[1] == 0
    assert get(handle) == 1


def test_a_fork_in_a_signal_handler_of_a_waiter(group: Group) -> None:
    """The child's copy of the wait ends: what it waited for was the parent's."""

    def body(line: Line) -> list[str]:
        handle = group.sync("h", type=int)
        forked: list[int] = []

        def handler(number: int, frame: object) -> None:
            forked.append(os.fork())
            if forked[0]:
                line.send("forked")

        signal.signal(signal.SIGUSR1, handler)
        line.send(group.vmid)
        try:
            handle.lock(EXCLUSIVE)
            name = "locked"
        except OSError as error:
            name = type(error).__name__
        if not forked[0]:
            os._exit(7 if name == "NotJoined" else 8)
        line.send(os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]))
        handle.unlock(4)
        group.close()
        return [name]

    handle = group.sync("h", type=int)
    handle.lock(EXCLUSIVE)
    with Forked(body) as child:
        vmid = child.recv()
        poll(lambda: vmid in waiting_at(group))
        wait_until_idle(child.os_pid)
        child.kill(signal.SIGUSR1)
        assert child.recv() == "forked"
        handle.unlock()
        assert child.recv() == 7
        assert child.result() == ["locked"]
    assert get(handle) == 4


@both_leaders
def test_exec_gives_up_the_handles(group: Group) -> None:
    handle = group.sync("h", type=int)
    code = (
        "import libos_ipc, sys\n"
        "with libos_ipc.Group.join() as group:\n"
        "    h = group.sync('h', type=int)\n"
        "    with h.exclusive() as box:\n"
        "        box.value *= 10\n"
        "sys.stdin.read()\n"
    )

    def body(line: Line) -> None:
        mine = group.sync("h", type=int)
        put(mine, 4)
        mine.lock(EXCLUSIVE)
        line.send()
        os.execve(sys.executable, [sys.executable, "-c", code], group.environ())

    with Forked(body) as child:
        child.recv()
        assert handle.wait(lambda value: value == 40, DEADLINE_S) == 40


def test_a_program_of_its_own(group: Group) -> None:
    handle = group.sync("h", type=int)
    code = (
        "import libos_ipc\n"
        "handle = libos_ipc.Group.join().sync('h', type=int)\n"
        "with handle.exclusive() as box: box.value = 12\n"
    )
    subprocess.run([sys.executable, "-c", code], env=group.environ(), check=True)
    assert get(handle) == 12


# ---- sizes

SIZES = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 8 * KIB * KIB]


@both_leaders
def test_values_of_any_size(group: Group) -> None:
    handle = group.sync("h")
    text = group.sync("text", type=str)
    with User(group) as user, User(group, "text", type=str) as reader:
        for number, size in enumerate([*SIZES, *reversed(SIZES)]):
            data = bytes([number + 1]) * size
            put(handle, data)
            assert user("get") == data
            assert len(files_of_values(group)) == (size > 64 * KIB)
            assert user("set", data[:-1] + b"!") is None
            assert get(handle) == data[:-1] + b"!"
            put(text, "x" * size)
            assert len(reader("get")) == size
            put(text, "")
    handle.close()
    assert files_of_values(group) == []


@both_leaders
def test_files_of_large_values_go_with_them(group: Group) -> None:
    handle = group.sync("h")
    large = b"x" * (65 * KIB)
    for number in range(5):
        put(handle, large + bytes([number]))
        assert len(files_of_values(group)) == 1  # nobody has heard of the others
    put(handle, large + bytes([4]))
    assert handle.version == 5
    with handle.exclusive() as box:
        box.value = b"y" + box.value[1:]
    assert get(handle)[:1] == b"y"
    put(handle, b"small")
    assert files_of_values(group) == []
    put(handle, large)
    with User(group) as user:
        assert user("get") == large
        put(handle, large + b"1")
        put(handle, large + b"2")
        assert user("set", large) is None
        assert get(handle) == large
        handle.close()
        assert len(files_of_values(group)) == 1
        user("close")
    assert group.sync_table() == []
    assert files_of_values(group) == []


@both_leaders
@pytest.mark.parametrize("shared", [False, True])
def test_files_of_large_values_go_with_the_dead(group: Group, shared: bool) -> None:
    """Who dies with the only file, in the middle of writing another, or after that."""
    large = b"x" * (65 * KIB)

    def body(line: Line, stage: str) -> None:
        from libos_ipc.runtime import slabs, sync_steps

        mine = group.sync("h")
        put(mine, large)

        def die(*what: object) -> Any:
            if stage == "written":
                slabs.write_large(*what)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)

        if stage == "removing":
            slabs.remove_large = die
        else:
            sync_steps.write_large = die
        put(mine, large + b"2")

    for stage, survivor in (("writing", large), ("written", large), ("removing", large + b"2")):
        keeper = group.sync("h") if shared else None
        with Forked(body, stage) as child:
            child.wait()
        poll(lambda: len(group.members()) == 1)
        if keeper is not None:
            assert get(keeper) == survivor
            assert len(files_of_values(group)) == 1
            keeper.close()
        assert group.sync_table() == []
        assert files_of_values(group) == []


@pytest.mark.config(max_message=100_000)
def test_a_value_over_max_message(group: Group) -> None:
    handle = group.sync("h")
    for size in (100_000, 64 * KIB, 99_900):
        put(handle, b"x" * size)
    with User(group) as user:
        assert len(user("get")) == 99_900
        with pytest.raises(MessageTooLarge, match="100000 at most") as raised:
            put(handle, b"x" * 100_001)
        assert raised.value.errno == errno.EMSGSIZE
        assert len(user("get")) == 99_900  # and the lock is not held
        handle.lock(EXCLUSIVE)
        with pytest.raises(MessageTooLarge):
            handle.unlock(b"x" * 100_001)
        assert handle.version == 3
        handle.unlock(b"less")  # it was held yet
        assert user("get") == b"less"
    assert files_of_values(group) == []


@pytest.mark.config(max_message=4096)
def test_small_messages(group: Group) -> None:
    handle = group.sync("h")
    with User(group) as user:
        for size in (3000, 3900, 4000, 4095, 4096):
            put(handle, b"x" * size)
            assert len(user("get")) == size
            assert user("set", b"y" * size) is None
            assert get(handle) == b"y" * size


# ---- memory is full


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Switches between no memory left for slabs and files of values, and enough."""
    from libos_ipc.runtime import slabs

    is_full = [False]
    reserve, write = os.posix_fallocate, os.write

    def fallocate(*what: Any) -> None:
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        reserve(*what)

    def write_some(fd: int, data: Any) -> int:
        if is_full[0] and os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).startswith("value"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(slabs.os, "posix_fallocate", fallocate)
    monkeypatch.setattr(slabs.os, "write", write_some)

    def switch(on: bool) -> None:
        is_full[0] = on

    yield switch
    is_full[0] = False


@both_leaders
@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b"new"), (b"old", b"x" * 60_000), (b"old", b"x" * (1 << 20))],
    ids=["first", "more", "large"],
)
def test_no_memory_to_commit(
    group: Group, full: Callable[[bool], None], before: bytes, after: bytes
) -> None:
    with User(group) as user:
        handle = group.sync("h")
        if before:
            put(handle, before)
            fill_slab(group)
        full(True)
        with pytest.raises(OSError, match="No space") as raised:
            put(handle, after)
        assert raised.value.errno == errno.ENOSPC
        assert user("get") == before  # the lock is not held
        handle.lock(EXCLUSIVE)
        with pytest.raises(OSError, match="No space"):
            handle.unlock(after)
        assert user("timed", SHARED, 0)[0] == "WouldBlock"  # the lock is held
        full(False)
        handle.unlock(after)
        assert user("get") == after
        assert len(files_of_values(group)) == (len(after) > 64 * KIB)


def fill_slab(group: Group) -> None:
    """Leave no room for a larger record in the first slab."""
    for _ in range(7):
        put(group.sync(), b"x" * 60_000)


# ---- the object


def test_what_a_handle_says_of_itself(group: Group) -> None:
    handle = group.sync("h", type=list[int])
    assert repr(handle) == f"<SyncHandle {handle.id} 'h' of list[int]>"
    put(handle, [1])
    (row,) = group.sync_table()
    assert (row.id, row.name, row.type, row.size) == (handle.id, "h", "list[int]", 0)
    with User(group, type=list[int]) as user:
        user("get")
        (row,) = group.sync_table()
        assert (row.version, row.size, row.waiting) == (1, 2, ())
        assert row.states == ((group.vmid, SHARED, 0), (user.vmid, SHARED, 0))


# ---- many


def calls_of(action: Callable[[], object]) -> int:
    """How many functions are called in it."""
    count = 0

    def profile(frame: object, event: str, what: object) -> None:
        nonlocal count
        count += event.endswith("call")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("group", ["embedded"], indirect=True)
def test_many_handles(group: Group) -> None:
    """Each takes little memory, and makes no other one slower. See `sync_scale.py` for more."""

    def use(handle: SyncHandle[bytes]) -> None:
        get(handle)
        put(handle, handle.version.to_bytes(8))

    few = [group.sync() for _ in range(10)]
    for handle in few:
        put(handle, b"first")
    before = calls_of(lambda: use(few[5]))
    tracemalloc.start()
    try:
        many = [group.sync() for _ in range(5000)]
        assert tracemalloc.get_traced_memory()[0] / len(many) < 3000  # of the leader, too
    finally:
        tracemalloc.stop()
    for handle in many[::50]:
        put(handle, b"first")
    assert calls_of(lambda: use(many[2500])) == calls_of(lambda: use(few[5])) == before
    assert len(group.sync_table()) == 5010
