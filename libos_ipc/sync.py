"""Values that all processes of a group share coherently: `group.sync` and `SyncHandle`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from libos_ipc._native import QuickBox, QuickHandle, QuickSection
from libos_ipc.core.codes import Code
from libos_ipc.core.sync_client import SyncClient
from libos_ipc.core.sync_words import NEVER_WRITTEN, Reference, State, Value
from libos_ipc.errors import (
    InvalidArgument,
    IpcError,
    NotJoined,
    Timeout,
    WouldBlock,
)
from libos_ipc.runtime.agents import current_agent
from libos_ipc.runtime.handlers import from_payload
from libos_ipc.runtime.slabs import read_large
from libos_ipc.runtime.sync_steps import is_used_by, most_in_message, release
from libos_ipc.runtime.syncing import acquire, await_change, open_handle
from libos_ipc.runtime.whole_steps import take_whole
from libos_ipc.sync_values import (
    PLAIN,
    check_key,
    check_type,
    empty_value,
    encode_value,
    type_text,
)

if TYPE_CHECKING:
    from libos_ipc.group import Group

__all__ = ["Box", "Section", "State", "SyncHandle", "SyncInfo", "open_sync", "sync_table"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

_ON_DEATH = {"last": 0, "raise": 1}
_UNCHANGED = object()


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


class Box(QuickBox, Generic[T]):
    """What `with handle.exclusive() as box` gives: set `box.value`, or change it in place."""

    __slots__ = ()
    if TYPE_CHECKING:
        value: T


class SyncHandle(QuickHandle, Generic[T]):
    """A value that every process of the group may open, lock and change.

    Many may have it SHARED at a time, or one EXCLUSIVE; who locks it sees what was committed last.
    A process keeps what it was granted, so that locking again costs no message until another one
    wants it. One thread or task of a process uses it at a time; others wait, in order. A forked
    child has no handle open: it opens its own. Any thread may call; blocking calls let signal
    handlers run.
    """

    __slots__ = ("_closed", "_group", "_vmid", "id", "name", "type")
    if TYPE_CHECKING:  # what the base class has, for values of this type

        def lock(self, state: State, timeout: float | None = None) -> T: ...
        def unlock(self, value: T | object = ...) -> None: ...
        def shared(self, timeout: float | None = None) -> Section[T, T]: ...
        def exclusive(self, timeout: float | None = None) -> Section[T, Box[T]]: ...

    def __init__(self, group: Group, id: int, name: str | None, type: Any) -> None:
        self._group = group
        self._vmid = group.vmid
        self.id = id
        self.name = name
        self.type = type
        self._closed = False
        self._current = NEVER_WRITTEN
        session = group._session
        plain, encode = (type, PLAIN[type]) if type in PLAIN else (None, None)
        self._shape(Section, Box, plain, encode, most_in_message(session.config.max_message))
        with session.lock:
            cell = session.member.sync.client.cell_of(id)
            if cell is not None:
                self._bind(cell, session.exchange)

    # ---- locking

    def _lock(self, state: State, timeout: float | None = None) -> T:
        return self._lock_for_block(state, timeout)[0]

    def _lock_for_block(self, state: int, timeout: float | None) -> tuple[T, int]:
        """The value, and who has locked it."""
        self._check(state)
        node, agent = self._group._node, current_agent()
        before = is_used_by(node, self.id, agent)
        try:
            value = acquire(node, self.id, agent, State(state), timeout)
            return self._locked(value), agent
        except BaseException:
            self._lock_failed(agent, before)
            raise

    async def alock(self, state: State, timeout: float | None = None) -> T:
        """`lock` for asyncio. `unlock` does not wait, and follows in the same task."""
        return (await self._alock_for_block(state, timeout))[0]

    async def _alock_for_block(self, state: int, timeout: float | None) -> tuple[T, int]:
        from libos_ipc.runtime.async_syncing import aacquire

        self._check(state)
        node, agent = self._group._node, current_agent()
        before = is_used_by(node, self.id, agent)
        try:
            value = await aacquire(node, self.id, agent, State(state), timeout)
            return self._locked(value), agent
        except BaseException:
            self._lock_failed(agent, before)
            raise

    def _lock_failed(self, agent: int, before: bool) -> None:
        """Whatever it has come to, it is locked only if it was `before`."""
        if not before and is_used_by(self._group._node, self.id, agent):
            self._give_up(agent)

    def _unlock(self, value: T | object = _UNCHANGED) -> None:
        data = None if value is _UNCHANGED else encode_value(self.type, value)
        self._release(current_agent(), data)

    def _release(self, agent: int, data: bytes | None) -> None:
        self._check_open()
        release(self._group._node, self.id, agent, data)

    def _leave(self, agent: int, data: bytes | None) -> None:
        """Unlock at the end of a block, which gives up whatever else comes of it."""
        try:
            self._release(agent, data)
        except NotJoined:
            if data is not None:  # closed meanwhile, or forked: and nothing is lost by it
                raise

    def _give_up(self, agent: int) -> None:
        """Unlock, after another attempt at that has failed."""
        try:
            self._release(agent, None)
        except IpcError:
            pass  # it was not locked: closed meanwhile, for one

    # ---- waiting for a change

    def wait(self, predicate: Callable[[T], bool], timeout: float | None = None) -> T:
        """Wait until the value fulfils the predicate, and give it. Timeout; errors as of `lock`.

        Does not poll: the predicate is asked for each version that this process sees, without
        the lock. What it raises ends the wait.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                with self.shared(_left(deadline)) as value:
                    version = self._current.version
            except (Timeout, WouldBlock):
                raise self._too_late(timeout) from None
            if predicate(value):
                return value
            try:
                await_change(self._group._node, self.id, version, _left(deadline))
            except (Timeout, WouldBlock):
                raise self._too_late(timeout) from None

    async def await_value(self, predicate: Callable[[T], bool], timeout: float | None = None) -> T:
        """`wait` for asyncio."""
        from libos_ipc.runtime.async_syncing import aawait_change

        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                async with self.shared(_left(deadline)) as value:
                    version = self._current.version
            except (Timeout, WouldBlock):
                raise self._too_late(timeout) from None
            if predicate(value):
                return value
            try:
                await aawait_change(self._group._node, self.id, version, _left(deadline))
            except (Timeout, WouldBlock):
                raise self._too_late(timeout) from None

    def _too_late(self, timeout: float | None) -> Timeout:
        return Timeout(f"sync handle {self.id} did not come to be as wanted within {timeout} s")

    # ---- what it is

    @property
    def state(self) -> State:
        """What this process has: INVALID, SHARED or EXCLUSIVE, locked or not. NotJoined."""
        return self._ask_client(lambda client: client.state_of(self.id))

    @property
    def version(self) -> int:
        """How often the value had been changed when this process last had it. 0: never.
        NotJoined."""
        return self._ask_client(lambda client: client.version_of(self.id))

    def _ask_client(self, question: Callable[[SyncClient], A]) -> A:
        self._check_open()
        session = self._group._session
        with session.lock:
            session.check_open()
            return question(session.member.sync.client)

    def close(self) -> None:
        """Close it here; who waits for it gets NotJoined. The value is forgotten when the last
        process has. IpcError (EBUSY) while a thread of this process uses it. A second time does
        nothing, and so it is after `group.close` and in a forked child. Does not block."""
        session = self._group._session
        with session.lock:
            if self._closed or self._vmid != self._group.vmid or session.closed or session.leaving:
                return
            cell = session.member.sync.client.cell_of(self.id)
            openings = 0 if cell is None else cell.opened
            try:
                take_whole(session, self.id, lambda client: client.close(self.id))
            finally:  # a signal handler may have raised, behind it or before
                if cell is None or cell.opened < openings:
                    self._closed = True
                    self._unbind()

    def __enter__(self) -> SyncHandle[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<SyncHandle {self.id}{name} of {type_text(self.type)}>"

    # ---- helpers

    def _check(self, state: int) -> None:
        if state not in (State.SHARED, State.EXCLUSIVE):
            raise InvalidArgument(f"lock in State.SHARED or State.EXCLUSIVE, not {state!r}")
        self._check_open()

    def _check_open(self) -> None:
        if self._closed or self._vmid != self._group.vmid:
            why = (
                "closed" if self._closed else "opened by the process that this one was forked from"
            )
            raise NotJoined(f"sync handle {self.id} was {why}: open it with group.sync")

    def _locked(self, value: Value) -> T:
        """The value that has just been locked."""
        self._current = value
        return self._decode(value)

    def _decode(self, value: Value) -> T:
        known = self._known
        if known is not None and known.version == value.version:
            decoded = self._decoded
        elif not value.version:
            decoded = empty_value(self.type)
        else:
            decoded = from_payload(self._bytes_of(value), self.type)
        if self.type in PLAIN:
            self._know(value, decoded)
        return decoded  # type: ignore[no-any-return]

    def _bytes_of(self, value: Value) -> bytes:
        if not isinstance(value.data, Reference):
            return value.data
        try:
            return read_large(self._group._node.directory.path, value.data)
        except (OSError, ValueError) as error:
            text = f"version {value.version} of sync handle {self.id} cannot be read: {error}"
            raise IpcError(text) from None

    def _changed(self, before: Value, value: Any) -> bytes | None:
        """The new value's bytes, None if it is what it was."""
        if not before.version:
            empty = empty_value(self.type)
            if value is None and empty is None:
                return None
            data = encode_value(self.type, value)
            return None if empty is not None and data == encode_value(self.type, empty) else data
        known = self._known
        if known is not None and known.version == before.version and value is self._decoded:
            return None
        data = encode_value(self.type, value)
        if isinstance(before.data, Reference) and before.data.size != len(data):
            return data
        return None if self._bytes_of(before) == data else data


class Section(QuickSection, Generic[T, B]):
    """A block in which a handle is locked: for `with`, or `async with`. Entered once."""

    __slots__ = ()
    if TYPE_CHECKING:
        _handle: SyncHandle[T]

        def __enter__(self) -> B: ...
        def _entered(self, value: T, agent: int, /) -> B: ...

    async def __aenter__(self) -> B:
        handle = self._handle
        value, agent = await handle._alock_for_block(self._state, self._timeout)
        try:
            return self._entered(value, agent)
        except BaseException:
            handle._give_up(agent)
            raise

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.__exit__(kind, error, trace)


def _left(deadline: float) -> float | None:
    return None if deadline == math.inf else max(deadline - time.monotonic(), 0)


def open_sync(
    group: Group, key: int | str | None, type: Any, on_owner_death: Literal["last", "raise"]
) -> SyncHandle[Any]:
    """See `Group.sync`."""
    if on_owner_death not in _ON_DEATH:
        raise InvalidArgument(f'on_owner_death is "last" or "raise", not {on_owner_death!r}')
    id, name = check_key(key)
    check_type(type)
    tail = name + b"\0" + type_text(type).encode()
    try:
        id = open_handle(group._node, (id, _ON_DEATH[on_owner_death], tail))
    except InvalidArgument as error:
        raise InvalidArgument(error.args[-1]) from None
    return SyncHandle(group, id, name.decode() or None, type)


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
