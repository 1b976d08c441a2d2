"""Sync handles locked and unlocked without leaving C, and what is not to be done that way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import Forked, poll
from twins.handle_cell_twin import HandleCellTwin

from libos_ipc import Deadlock, Group, InvalidArgument, IpcError, NotJoined, PermissionDenied
from libos_ipc._native import HandleCell, QuickHandle
from libos_ipc.core.sync_words import NEVER_WRITTEN, Remains, Value
from libos_ipc.runtime.slabs import read_remains
from libos_ipc.sync import State, SyncHandle

SHARED, EXCLUSIVE = State.SHARED, State.EXCLUSIVE


def slowly(handle: SyncHandle[Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of this handle is done by Python from now on."""
    done: list[str] = []
    for name in ("_lock", "_unlock"):
        former = getattr(SyncHandle, name)

        def noted(self: Any, *args: Any, name: str = name, former: Any = former) -> Any:
            done.append(name)
            return former(self, *args)

        monkeypatch.setattr(SyncHandle, name, noted)
    return done


@pytest.fixture
def handle(group: Group) -> Iterator[SyncHandle[int]]:
    """A handle that is EXCLUSIVE here, and 7."""
    with group.sync("quick", type=int) as handle:
        handle.lock(EXCLUSIVE)
        handle.unlock(7)
        yield handle


# ---- the cell

NUMBERS = {
    "state": st.integers(1, 3),
    "recall": st.integers(0, 2),
    "told_user": st.integers(0, 2),
    "owner_died": st.booleans(),
    "waits": st.sampled_from([None, deque([1])]),
    "watches": st.sampled_from([None, {}, {"ticket": 1}]),
    "baton": st.sampled_from([None, object()]),
    "opened": st.integers(0, 2),
}
STEPS = st.one_of(
    st.tuples(st.just("lock_now"), st.integers(1, 3), st.integers(2, 3)),
    st.tuples(st.just("unlock_now"), st.integers(1, 3)),
    st.tuples(st.just("is_idle")),
    *(st.tuples(st.just("set"), st.just(name), value) for name, value in NUMBERS.items()),
)


@given(st.lists(STEPS, max_size=30))
def test_the_cell_does_what_its_twin_does(steps: list[tuple[Any, ...]]) -> None:
    cell, twin = HandleCell(), HandleCellTwin()
    for name, *values in steps:
        if name == "set":
            setattr(cell, *values)
            setattr(twin, *values)
        else:
            assert getattr(cell, name)(*values) is getattr(twin, name)(*values)
        for field in ("opened", "state", "using", "user", "recall", "told_user", "owner_died"):
            assert getattr(cell, field) == getattr(twin, field), field


def test_a_cell_takes_numbers_alone() -> None:
    cell = HandleCell()
    for wrong, error in (("1", TypeError), (-1, OverflowError), (2**32, OverflowError)):
        with pytest.raises(error):
            cell.user = wrong  # type: ignore[assignment]
    with pytest.raises(TypeError):
        del cell.user
    assert cell.user == 0


# ---- what is quick


def test_what_is_here_is_locked_without_python(
    handle: SyncHandle[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = slowly(handle, monkeypatch)
    for _ in range(3):
        assert handle.lock(SHARED) == 7
        handle.unlock()
    assert done == []
    assert handle.state == EXCLUSIVE


def test_it_is_locked_for_others(handle: SyncHandle[int]) -> None:
    handle.lock(SHARED)
    with pytest.raises(Deadlock):
        handle.lock(SHARED)
    found: list[object] = []

    def other() -> None:
        for call in (lambda: handle.lock(SHARED, 0), handle.unlock):
            try:
                found.append(call())
            except IpcError as error:
                found.append(type(error).__name__)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == ["WouldBlock", "PermissionDenied"]
    handle.unlock()
    with pytest.raises(PermissionDenied):
        handle.unlock()


def test_a_thread_that_waits_is_served(handle: SyncHandle[int]) -> None:
    handle.lock(SHARED)
    got: list[int] = []

    def other() -> None:
        with handle.exclusive() as box:
            got.append(box.value)
            box.value = 8

    thread = threading.Thread(target=other)
    thread.start()
    client = handle._group._session.member.sync.client
    poll(lambda: bool(client._handles[handle.id].waits), what="somebody who waits")
    handle.unlock()
    thread.join()
    assert got == [7]
    assert handle.lock(SHARED) == 8
    handle.unlock()


def test_a_recall_is_complied_with(group: Group, handle: SyncHandle[int]) -> None:
    def other(line: object) -> None:
        with group.sync("quick", type=int) as mine, mine.exclusive() as box:
            box.value += 1

    handle.lock(SHARED)
    with Forked(other) as child:
        client = group._session.member.sync.client
        poll(lambda: bool(client._handles[handle.id].recall), what="a recall")
        handle.unlock()
        child.result()
    assert handle.lock(SHARED) == 8
    handle.unlock()


def test_a_value_is_decoded_once_for_each_version(handle: SyncHandle[int]) -> None:
    handle.lock(EXCLUSIVE)
    handle.unlock(10**30 % 2**62)
    first = handle.lock(SHARED)
    handle.unlock()
    assert handle.lock(SHARED) is first
    handle.unlock()


def test_a_value_that_can_be_changed_in_place_is_not_kept(group: Group) -> None:
    with group.sync("list", type=list[int]) as handle:
        for before in ([], [1]):
            value = handle.lock(SHARED)
            handle.unlock()
            assert value == before
            value.append(5)
            with handle.exclusive() as box:
                box.value = [1]


def test_a_block_is_left_without_python(
    handle: SyncHandle[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = slowly(handle, monkeypatch)
    monkeypatch.setattr(SyncHandle, "_leave", lambda *args: pytest.fail("by Python"))
    for _ in range(2):
        with handle.shared() as value:
            assert value == 7
            assert handle._user == threading.get_native_id()
        assert handle._user == 0
    with handle.exclusive() as box:
        assert handle._user == threading.get_native_id()
        box.value += 1
    with handle.exclusive(timeout=0) as box:
        assert box.value == 8
    with pytest.raises(ZeroDivisionError), handle.exclusive() as box:
        box.value //= 0
    assert (handle._user, handle.version, done) == (0, 2, [])
    assert handle.lock(EXCLUSIVE) == 8
    handle.unlock(9)
    assert handle.lock(EXCLUSIVE) == 9
    handle.unlock()
    assert done == []


def found_in_slab(handle: SyncHandle[Any]) -> Remains:
    group = handle._group
    return read_remains(group._node.directory.slabs(group.vmid))(handle.id)


def test_what_was_committed_without_python_outlives_the_process(
    handle: SyncHandle[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = slowly(handle, monkeypatch)
    for version in range(2, 6):
        with handle.exclusive() as box:
            before, in_use = found_in_slab(handle)
            assert (before, in_use) == (handle._current, True)
            box.value += 1
        assert found_in_slab(handle) == (Value(version, bytes([box.value])), False)
    assert done == []


TYPES: list[tuple[Any, Any]] = [
    (bytes, st.binary(max_size=70)),
    (str, st.text(max_size=40)),
    (int, st.integers(-(2**63), 2**64 - 1)),
    (float, st.floats(allow_nan=False)),
    (bool, st.booleans()),
    (list[int], st.lists(st.integers(0, 99), max_size=9)),
]


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_and_versions_are_as_by_python(group: Group, data: st.DataObject) -> None:
    """The same blocks and calls on two handles, of which one is not bound to its cell."""
    type, values = data.draw(st.sampled_from(TYPES))
    with group.sync(type=type) as ours, group.sync(type=type) as theirs:
        theirs._unbind()
        for value in data.draw(st.lists(st.tuples(values, st.booleans()), max_size=8)):
            for each in (ours, theirs):
                if value[1]:
                    with each.exclusive() as box:
                        box.value = value[0]
                else:
                    each.lock(EXCLUSIVE)
                    each.unlock(value[0])
            assert ours.version == theirs.version
            for each in (ours, theirs):
                with each.shared() as found:
                    assert found == value[0]
        first, second = found_in_slab(ours), found_in_slab(theirs)
        assert first == second


@pytest.mark.parametrize("size", [50, 60, 1000, 2000, 70_000])
def test_a_value_of_any_size(group: Group, size: int) -> None:
    """Where the record is too small, and where a value lies in a file of its own."""
    with group.sync(type=bytes) as handle:
        for value in (b"a", b"b" * size, b"b" * size, b"c" * size, b"d"):
            with handle.exclusive() as box:
                box.value = value
            with handle.exclusive() as box:
                assert box.value == value
        assert handle.version == 4


def test_what_cannot_be_committed_is_refused_as_ever(handle: SyncHandle[int]) -> None:
    for wrong in (2**64, "7", None, 7.0):
        with pytest.raises(InvalidArgument), handle.exclusive() as box:
            box.value = wrong  # type: ignore[assignment]
        assert handle._user == 0
        handle.lock(EXCLUSIVE)
        with pytest.raises(InvalidArgument):
            handle.unlock(wrong)
        handle.unlock()
    with handle.exclusive() as box:
        del box.value  # nothing to commit
    assert handle.version == 1


def test_who_waits_for_a_change_here_is_told(handle: SyncHandle[int]) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(handle.wait(lambda value: value > 8)))
    thread.start()
    client = handle._group._session.member.sync.client
    for value in (8, 9):
        poll(lambda: bool(client._handles[handle.id].watches), what="somebody who waits")
        with handle.exclusive() as box:
            box.value = value
    thread.join()
    assert found == [9]


# ---- what is not


def test_a_step_under_way_is_waited_for(
    handle: SyncHandle[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = slowly(handle, monkeypatch)
    lock = handle._group._session.lock
    started, found = threading.Event(), []

    def other() -> None:
        started.set()
        found.append(handle.lock(SHARED))
        handle.unlock()

    thread = threading.Thread(target=other)
    with lock:
        thread.start()
        assert started.wait(10)
        poll(lambda: done == ["_lock"], what="the way by Python")
    thread.join()
    assert found == [7]


def test_a_task_is_not_its_thread(handle: SyncHandle[int]) -> None:
    handle.lock(SHARED)

    async def task() -> None:
        with pytest.raises(PermissionDenied):
            handle.unlock()

    asyncio.run(task())
    handle.unlock()

    async def two() -> list[str]:
        async def use() -> str:
            with handle.shared() as value:
                assert value == 7
                try:
                    handle.lock(SHARED)
                except Deadlock:
                    return "deadlock"
            return "no deadlock"

        return list(await asyncio.gather(use(), use()))

    assert asyncio.run(two()) == ["deadlock", "deadlock"]


def test_wrong_arguments(handle: SyncHandle[int]) -> None:
    for wrong in (0, 1, 4, -1, 2**40, "SHARED", None, True):
        with pytest.raises(InvalidArgument):
            handle.lock(wrong)  # type: ignore[arg-type]
    for args in ((), (SHARED, None, 3)):
        with pytest.raises(TypeError):
            handle.lock(*args)  # type: ignore[arg-type]
    assert handle.lock(state=SHARED, timeout=0) == 7
    with pytest.raises(InvalidArgument):
        handle.unlock(value=8)
    handle.unlock()


def test_a_value_that_is_not_of_our_type_is_not_locked(group: Group) -> None:
    with group.sync("odd", type=int) as handle:
        handle.lock(EXCLUSIVE)
        handle.unlock(7)
        handle.type = str
        handle._know(NEVER_WRITTEN, 0)
        for _ in range(2):
            with pytest.raises(IpcError):
                handle.lock(SHARED)
            assert group._session.member.sync.client.user_of(handle.id) == 0


def test_closed_and_forked(group: Group) -> None:
    first, second = group.sync("twice", type=int), group.sync("twice", type=int)
    assert first.lock(SHARED) == 0
    first.unlock()
    first.close()
    with pytest.raises(NotJoined):
        first.lock(SHARED)
    assert second.lock(SHARED) == 0

    def child(line: object) -> None:
        for call in (lambda: second.lock(SHARED), second.unlock):
            with pytest.raises(NotJoined):
                call()

    with Forked(child) as forked:
        forked.result()
    second.unlock()
    second.close()
    with pytest.raises(NotJoined):
        second.lock(SHARED)


def test_a_group_that_was_left(found: Callable[..., Group]) -> None:
    group = found("left")
    handle = group.sync("left", type=int)
    handle.lock(SHARED)
    handle.unlock()
    group.close()
    for call in (lambda: handle.lock(SHARED), handle.unlock):
        with pytest.raises(NotJoined):
            call()


def test_a_handler_that_raises_while_it_is_decoded(group: Group) -> None:
    """The lock that was granted already is given back."""

    class Stop(Exception):
        pass

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stop

    with group.sync("stopped", type=list[int]) as handle:
        with handle.exclusive() as box:
            box.value = [1]
        former = signal.signal(signal.SIGUSR1, stop)

        def decode(value: object) -> object:
            os.kill(os.getpid(), signal.SIGUSR1)
            return None

        try:
            handle_type: Any = type("Slow", (SyncHandle,), {"_decode": lambda *a: decode(a)})
            slow = handle_type(group, handle.id, "stopped", list[int])
            with pytest.raises(Stop):
                slow.lock(SHARED)
            assert group._session.member.sync.client.user_of(handle.id) == 0
        finally:
            signal.signal(signal.SIGUSR1, former)


def test_a_bare_one_is_pythons() -> None:
    class Slow(QuickHandle):
        def _lock(self, *args: object, **names: object) -> object:
            return args, names

        def _unlock(self, *args: object, **names: object) -> object:
            return args, names

    slow: Any = Slow()
    assert slow.lock(SHARED) == ((SHARED,), {})
    assert slow.lock(state=3, timeout=1) == ((), {"state": 3, "timeout": 1})
    assert slow.unlock(5) == ((5,), {})
    with pytest.raises(TypeError):
        slow._bind(HandleCell(), object())
    with pytest.raises(TypeError):
        slow._bind(object(), object())
