"""Values that all processes of a group share coherently: `group.sync` and `SyncHandle`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from libos_ipc.core.codes import Code
from libos_ipc.core.sync_words import Reference, State, Value
from libos_ipc.errors import InvalidArgument, InvalidRange, IpcError, NotJoined, Timeout
from libos_ipc.runtime.agents import current_agent
from libos_ipc.runtime.handlers import from_payload
from libos_ipc.runtime.slabs import read_large
from libos_ipc.runtime.syncing import (
    aacquire,
    aawait_change,
    acquire,
    await_change,
    open_handle,
    release,
)

if TYPE_CHECKING:
    from libos_ipc.group import Group

__all__ = ["Box", "Section", "State", "SyncHandle", "SyncInfo", "open_sync", "sync_table"]

T = TypeVar("T")
B = TypeVar("B")

_ON_DEATH = {"last": 0, "raise": 1}
_MOST_NAME = 4096
_UNCHANGED = object()
#: Types whose values cannot be changed in place: decoded once for each version.
_PLAIN = (bytes, int, float, str, bool)


class SyncInfo(NamedTuple):
    """A handle as the server has it: `states` is (VMID, state, thread that uses it) of everybody
    who has it open, `waiting` is (VMID, state) in the order in which they will be served."""

    id: int
    name: str
    type: str
    version: int
    size: int
    states: tuple[tuple[int, State, int], ...]
    waiting: tuple[tuple[int, State], ...]


class Box(Generic[T]):
    """What `with handle.exclusive() as box` gives: set `box.value`, or change it in place."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class SyncHandle(Generic[T]):
    """A value that every process of the group may open, lock and change.

    Many may have it SHARED at a time, or one EXCLUSIVE; who locks it sees what was committed last.
    A process keeps what it was granted, so that locking again costs no message until another one
    wants it. One thread or task of a process uses it at a time; others wait, in order. A forked
    child has no handle open: it opens its own. Any thread may call; blocking calls let signal
    handlers run.
    """

    def __init__(self, group: Group, id: int, name: str | None, type: Any) -> None:
        self._group = group
        self._vmid = group.vmid
        self.id = id
        self.name = name
        self.type = type
        self._closed = False
        self._decoded: tuple[int, Any] = (-1, None)
        self._current: Value = Value(0, b"")

    # ---- locking

    def shared(self, timeout: float | None = None) -> Section[T, T]:
        """Read: `with handle.shared() as value`, or `async with`. Nobody changes it meanwhile."""
        return Section(self, State.SHARED, timeout)

    def exclusive(self, timeout: float | None = None) -> Section[T, Box[T]]:
        """Change: `with handle.exclusive() as box: box.value = …`, or `async with`.

        It is committed at the end of the block; an exception in the block rolls the value back.
        Deadlock if this thread or task holds it SHARED.
        """
        return Section(self, State.EXCLUSIVE, timeout)

    def lock(self, state: State, timeout: float | None = None) -> T:
        """Lock in this state, and give the newest value; `unlock` follows, in the same thread.

        WouldBlock with a timeout of 0, Timeout, Deadlock if this thread uses it already or a cycle
        of waiters would close, OwnerDied, once, if the one who changed it died and the handle was
        opened with `on_owner_death="raise"`.
        """
        self._check(state)
        value = acquire(self._group._node, self.id, current_agent(), state, timeout)
        self._current = value
        return self._decode(value)

    async def alock(self, state: State, timeout: float | None = None) -> T:
        """`lock` for asyncio. `unlock` does not wait, and follows in the same task."""
        self._check(state)
        node = self._group._node
        value = await aacquire(node, self.id, current_agent(), state, timeout)
        self._current = value
        return self._decode(value)

    def unlock(self, value: T | object = _UNCHANGED) -> None:
        """Unlock, with a new value if one is given: it is committed when this returns."""
        data = None if value is _UNCHANGED else self._encode(value)
        self._release(current_agent(), data)

    def _release(self, agent: int, data: bytes | None) -> None:
        self._check_open()
        try:
            release(self._group._node, self.id, agent, data)
        except BaseException as error:
            if data is not None and not isinstance(error, NotJoined):
                release(self._group._node, self.id, agent, None)
            raise

    # ---- waiting for a change

    def wait(self, predicate: Callable[[T], bool], timeout: float | None = None) -> T:
        """Wait until the value fulfils the predicate, and give it. Does not poll: the predicate is
        asked for each version that this process sees. Timeout."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self.shared(_left(deadline)) as value:
                if predicate(value):
                    return value
                version = self._current.version
            left = self._left_to_wait(deadline, timeout)
            await_change(self._group._node, self.id, version, left)

    async def await_value(self, predicate: Callable[[T], bool], timeout: float | None = None) -> T:
        """`wait` for asyncio."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            async with self.shared(_left(deadline)) as value:
                if predicate(value):
                    return value
                version = self._current.version
            left = self._left_to_wait(deadline, timeout)
            await aawait_change(self._group._node, self.id, version, left)

    def _left_to_wait(self, deadline: float, timeout: float | None) -> float | None:
        left = _left(deadline)
        if left is not None and left <= 0:
            raise Timeout(f"sync handle {self.id} did not come to be as wanted: {timeout} s")
        return left

    # ---- what it is

    @property
    def state(self) -> State:
        """What this process has: INVALID, SHARED or EXCLUSIVE, locked or not."""
        self._check_open()
        with self._group._session.lock:
            return self._group._session.member.sync.client.state_of(self.id)

    @property
    def version(self) -> int:
        """How often the value had been changed when this process last had it. 0: never."""
        self._check_open()
        with self._group._session.lock:
            return self._group._session.member.sync.client.version_of(self.id)

    def close(self) -> None:
        """Close it here. The value is forgotten when the last process has. IpcError (EBUSY) while a
        thread of this process uses it. A second time does nothing."""
        if self._closed or self._vmid != self._group.vmid or self._group.closed:
            return
        session = self._group._session
        with session.lock:
            effects = session.member.sync.client.close(self.id)
            session.perform(session.member.sync_do(effects, time.monotonic()))
        self._closed = True

    def __enter__(self) -> SyncHandle[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<SyncHandle {self.id}{name} of {_type_text(self.type)}>"

    # ---- helpers

    def _check(self, state: State) -> None:
        if state not in (State.SHARED, State.EXCLUSIVE):
            raise InvalidArgument(f"lock in State.SHARED or State.EXCLUSIVE, not {state!r}")
        self._check_open()

    def _check_open(self) -> None:
        if self._closed or self._vmid != self._group.vmid:
            why = (
                "closed" if self._closed else "opened by the process that this one was forked from"
            )
            raise NotJoined(f"sync handle {self.id} was {why}: open it with group.sync")

    def _decode(self, value: Value) -> T:
        version, data = value
        if version == self._decoded[0]:
            return self._decoded[1]  # type: ignore[no-any-return]
        if isinstance(data, Reference):
            data = read_large(self._group._node.directory.path, data)
        decoded = _empty(self.type) if not version else from_payload(data, self.type)
        if self.type in _PLAIN:
            self._decoded = (version, decoded)
        return decoded  # type: ignore[no-any-return]

    def _encode(self, value: Any) -> bytes:
        if self.type is bytes:
            if not isinstance(value, bytes | bytearray | memoryview):
                raise InvalidArgument(f"the value is to be bytes, not {value!r:.60}: give a type")
            return bytes(value)
        try:
            data = msgspec.msgpack.encode(value)
            msgspec.msgpack.decode(data, type=self.type)
        except (msgspec.MsgspecError, TypeError) as error:
            raise InvalidArgument(f"the value is no {_type_text(self.type)}: {error}") from None
        return data

    def _changed(self, before: Value, value: Any) -> bytes | None:
        """The new value's bytes, None if it is what it was."""
        data = self._encode(value)
        if before.version and not isinstance(before.data, Reference) and data == before.data:
            return None
        return data


class Section(Generic[T, B]):
    """A block in which a handle is locked: for `with`, or `async with`. Entered once."""

    __slots__ = ("_agent", "_before", "_box", "_handle", "_state", "_timeout")

    def __init__(self, handle: SyncHandle[T], state: State, timeout: float | None) -> None:
        self._handle = handle
        self._state = state
        self._timeout = timeout
        self._agent = 0
        self._before = Value(0, b"")
        self._box: Box[T] | None = None

    def __enter__(self) -> B:
        return self._entered(self._handle.lock(self._state, self._timeout))

    async def __aenter__(self) -> B:
        return self._entered(await self._handle.alock(self._state, self._timeout))

    def _entered(self, value: T) -> B:
        self._agent = current_agent()
        self._before = self._handle._current
        if self._state == State.EXCLUSIVE:
            self._box = Box(value)
        return value if self._box is None else self._box  # type: ignore[return-value]

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        handle, data = self._handle, None
        if self._box is not None and error is None:
            try:
                data = handle._changed(self._before, self._box.value)
            except BaseException:
                handle._release(self._agent, None)
                raise
        handle._release(self._agent, data)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.__exit__(kind, error, trace)


def _left(deadline: float) -> float | None:
    return None if deadline == math.inf else max(deadline - time.monotonic(), 0)


def _empty(type: Any) -> Any:
    """The value of a handle that nobody has written: the type's own empty one, or None."""
    try:
        return type()
    except TypeError:
        return None


def _type_text(type: Any) -> str:
    return getattr(type, "__qualname__", None) or str(type)


def open_sync(
    group: Group, key: int | str | None, type: Any, on_owner_death: Literal["last", "raise"]
) -> SyncHandle[Any]:
    """See `Group.sync`."""
    if on_owner_death not in _ON_DEATH:
        raise InvalidArgument(f'on_owner_death is "last" or "raise", not {on_owner_death!r}')
    id, name = 0, ""
    if isinstance(key, str):
        name = key
        if not key or "\0" in key or len(key.encode()) > _MOST_NAME:
            raise InvalidArgument(f"{key!r:.60} names no handle: 1 to {_MOST_NAME} bytes, no NUL")
    elif key is not None:
        if not isinstance(key, int) or not 1 <= key < 2**32:
            raise InvalidRange(f"{key!r} is no ID: they are whole numbers in 1 … 2**32-1")
        id = key
    if isinstance(type, str) or type is None:
        raise InvalidArgument(f"{type!r} is no type of a value")
    tail = name.encode() + b"\0" + _type_text(type).encode()
    try:
        id = open_handle(group._node, (id, _ON_DEATH[on_owner_death], tail))
    except IpcError as error:
        if isinstance(error, InvalidArgument):
            raise InvalidArgument(error.args[-1]) from None
        raise
    return SyncHandle(group, id, name or None, type)


def sync_table(group: Group) -> list[SyncInfo]:
    """All sync handles of the group. Asks the leader."""
    (rows,) = group._session.ask_leader(Code.SYNC_TABLE)
    return [
        SyncInfo(
            id,
            name,
            type,
            version,
            size,
            tuple((vmid, State(state), thread) for vmid, state, thread in states),
            tuple((vmid, State(state)) for vmid, state in queue),
        )
        for id, name, type, version, size, states, queue in rows
    ]
