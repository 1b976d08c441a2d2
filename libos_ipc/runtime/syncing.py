"""Locking sync handles from threads and tasks: stepping the client's machine, and waiting for it.

Every call steps the machine under the session's lock, and waits outside of it. Whatever ends a
wait withdraws it; if the lock was granted in that moment, it is given up again. Large values are
written outside of the lock, too, by the one who has the handle to himself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libos_ipc.core.sync_end import value_name
from libos_ipc.core.sync_handle import Effects
from libos_ipc.core.sync_words import Data, Granted, Reference, State, Value
from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import IpcError, Timeout, WouldBlock
from libos_ipc.runtime.slabs import LARGE, remove_large, write_large
from libos_ipc.runtime.ticket import Ticket

if TYPE_CHECKING:
    from libos_ipc.runtime.node import Node

__all__ = ["aacquire", "aawait_change", "acquire", "await_change", "open_handle", "release"]

#: What a message about a handle has beside a small value, in bytes; with room to spare.
_MESSAGE_BYTES = 256
#: A timeout of 0 waits for nobody who uses a handle. But another process may only keep it: that
#: is asked, and has so many seconds to answer.
_GRACE_S = 0.005


class _Ask:
    """What the machine knows of somebody who waits: it passes the outcome on, and remembers it."""

    __slots__ = ("granted", "settled", "ticket", "value")

    def __init__(self) -> None:
        self.settled = False
        self.granted = False
        self.value: Any = None
        self.ticket: Any = None

    def is_settled(self) -> bool:
        return self.settled

    def resolve(self, payload: Body) -> None:
        self.value = payload
        self.granted = self.settled = True
        self.ticket.resolve(payload)

    def fail(self, error: IpcError) -> None:
        self.settled = True
        self.ticket.fail(error)


Step = Callable[[Any, _Ask], Effects]


def open_handle(node: Node, asks: tuple[int, int, bytes]) -> int:
    """Open a handle at the server: its ID. Blocks for a round trip."""
    session, ask = node.session, _Ask()
    ask.ticket = ticket = Ticket()
    try:
        with session.lock:
            session.check_open()
            session.perform(session.member.sync.open(asks, ask, time.monotonic()))
        ticket.wait(None)
        (id,) = ticket.result()
    except BaseException:
        _open_in_vain(node, ask)
        raise
    assert isinstance(id, int)
    return id


def _open_in_vain(node: Node, ask: _Ask) -> None:
    """Nobody waits for this handle to be open any more: it is closed as soon as it is."""
    session = node.session

    def close() -> None:
        with session.lock:
            if not (session.closed or session.leaving or ask.settled):
                session.clock.later(0.01, close)
            elif ask.granted and not session.closed:
                effects = session.member.sync.client.close(ask.value[0])
                session.perform(session.member.sync_do(effects, time.monotonic()))

    close()


def acquire(node: Node, id: int, agent: int, state: State, timeout: float | None) -> Value:
    """Lock a handle for `agent`: the newest value. WouldBlock, Timeout, Deadlock, OwnerDied."""
    value = _lock_now(node, id, agent, state)
    if value is not None:
        return value
    found = _wait(
        node,
        id,
        _locking(id, agent, state, timed=timeout is not None),
        timeout,
        lambda: _undo(node, id, agent),
    )
    return _locked(node, id, state, found)


def _lock_now(node: Node, id: int, agent: int, state: State) -> Value | None:
    """The value, if this process has it in that state, and nobody here is before us."""
    session, value = node.session, None
    try:
        with session.lock:
            session.check_open()
            value = session.member.sync.client.lock_now(id, agent, state)
        if value is not None and state == State.EXCLUSIVE:
            _locked(node, id, state, value)
    except BaseException:
        if value is not None:
            _undo(node, id, agent)
        raise
    return value


def await_change(node: Node, id: int, version: int, timeout: float | None) -> None:
    """Wait until there is a version newer than this. WouldBlock, Timeout."""
    _wait(node, id, _watching(id, version), timeout, lambda: None)


def release(node: Node, id: int, agent: int, data: bytes | None) -> None:
    """Unlock, perhaps with a new value, which is committed when this returns.

    What it needs is made sure of first: on an error (OSError: memory is full) the lock is still
    held and nothing has changed.
    """
    session = node.session
    if data is None:
        with session.lock:
            session.check_open()
            if session.member.sync.client.unlock_now(id, agent):
                node.slabs.set_use(id, False)
                return
    value = None if data is None else _placed(node, id, agent, data)
    try:
        with session.lock:
            session.check_open()
            if value is not None:
                node.slabs.reserve(id, value)
            effects = session.member.sync.client.unlock(id, agent, value)
            if effects:
                session.perform(session.member.sync_do(effects, time.monotonic()))
            node.slabs.set_use(id, False)
    except OSError:
        if isinstance(value, Reference):
            remove_large(node.directory.path, value.where)
        raise


def _placed(node: Node, id: int, agent: int, data: bytes) -> Data:
    """A value as it is committed: a large one lies in a file of its own by then."""
    session = node.session
    most = node.file.config.max_message
    if len(data) <= min(LARGE, most - _MESSAGE_BYTES):
        return data
    with session.lock:
        session.check_open()
        client = session.member.sync.client
        if client.user_of(id) != agent or len(data) > most:
            return Reference(b"", len(data))  # the machine says what is wrong
        name = value_name(id, session.member.vmid, client.version_of(id) + 1)
    return write_large(node.directory.path, name, data)


def _locking(id: int, agent: int, state: State, *, timed: bool) -> Step:
    return lambda client, ask: client.lock(id, agent, state, ask, timed)


def _watching(id: int, version: int) -> Step:
    return lambda client, ask: client.watch(id, ask, version)


def _wait(node: Node, id: int, begin: Step, timeout: float | None, undo: Callable[[], None]) -> Any:
    session, ask = node.session, _Ask()
    try:
        _step(node, begin, ask, Ticket)
        if ask.granted:
            return ask.value
        if timeout is not None and timeout <= 0 and not ask.settled:
            session.fence()  # what it has to say at once, has come
        if not ask.settled:
            left = None if timeout is None else max(timeout, _GRACE_S)
            deadline = None if left is None else time.monotonic() + left
            session.sit(session.member.leader_vmid, ask.is_settled, deadline)
            ask.ticket.wait(None if deadline is None else deadline - time.monotonic())
        if _withdraw(node, id, ask):
            raise _too_late(id, timeout)
        return ask.ticket.result()
    except BaseException:
        if not _withdraw(node, id, ask) and ask.granted:
            undo()
        raise


def _step(node: Node, begin: Step, ask: _Ask, new_ticket: Callable[[], Any]) -> None:
    session = node.session
    with session.lock:
        session.check_open()
        effects = begin(session.member.sync.client, ask)
        if len(effects) == 1 and type(effects[0]) is Granted and effects[0].ticket is ask:
            ask.value = effects[0].value
            ask.granted = ask.settled = True
        else:
            ask.ticket = new_ticket()
            session.perform(session.member.sync_do(effects, time.monotonic()))


def _withdraw(node: Node, id: int, ask: _Ask) -> bool:
    """Wait no more. False if it is settled already."""
    session = node.session
    with session.lock:
        if not ask.settled and not session.closed:
            effects = session.member.sync.client.withdraw(id, ask)
            session.perform(session.member.sync_do(effects, time.monotonic()))
        return not ask.settled


def _undo(node: Node, id: int, agent: int) -> None:
    try:
        release(node, id, agent, None)
    except IpcError:
        pass  # closed meanwhile


def _locked(node: Node, id: int, state: State, found: Any) -> Value:
    if state == State.EXCLUSIVE:
        with node.session.lock:
            try:
                if not node.session.closed:
                    node.slabs.reserve(id, b"")
                    node.slabs.set_use(id, True)
            except OSError:
                pass  # memory is full: said when something is to be committed
    return Value(*found)


def _too_late(id: int, timeout: float | None) -> IpcError:
    if timeout is None or timeout <= 0:
        return WouldBlock(f"sync handle {id} is not free")
    return Timeout(f"sync handle {id} was not free within {timeout} s")


# ---- asyncio


async def aacquire(node: Node, id: int, agent: int, state: State, timeout: float | None) -> Value:
    """`acquire` for asyncio."""
    value = _lock_now(node, id, agent, state)
    if value is not None:
        return value
    found = await _await(
        node,
        id,
        _locking(id, agent, state, timed=timeout is not None),
        timeout,
        lambda: _undo(node, id, agent),
    )
    return _locked(node, id, state, found)


async def aawait_change(node: Node, id: int, version: int, timeout: float | None) -> None:
    """`await_change` for asyncio."""
    await _await(node, id, _watching(id, version), timeout, lambda: None)


async def _await(
    node: Node, id: int, begin: Step, timeout: float | None, undo: Callable[[], None]
) -> Any:
    import asyncio  # loaded, then: nobody else is to pay for it

    from libos_ipc.runtime.async_ticket import AsyncTicket

    session, ask = node.session, _Ask()
    try:
        _step(node, begin, ask, AsyncTicket)
        if ask.granted:
            return ask.value
        if timeout is not None and timeout <= 0 and not ask.settled:
            fence = AsyncTicket()
            session.request(*session.fencing(), fence)
            await fence.future
        left = None if timeout is None else max(timeout, _GRACE_S)
        try:
            return await asyncio.wait_for(asyncio.shield(ask.ticket.future), left)
        except TimeoutError as error:
            if isinstance(error, IpcError):
                raise
            if _withdraw(node, id, ask):
                raise _too_late(id, timeout) from None
        return await ask.ticket.future
    except BaseException:
        if not _withdraw(node, id, ask) and ask.granted:
            undo()
        if ask.ticket is not None:
            ask.ticket.future.cancel()  # or it complains that nobody asked for its error
        raise
