"""Locking sync handles from threads and tasks: stepping the client's machine, and waiting for it.

Every call steps the machine under the session's lock, and waits outside of it. Whatever ends a
wait withdraws it; if the lock was granted in that moment, it is given up again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from libos_ipc.core.sync_handle import Effects
from libos_ipc.core.sync_words import Data, State, Value
from libos_ipc.errors import IpcError, Timeout, WouldBlock
from libos_ipc.runtime.slabs import LARGE, write_large
from libos_ipc.runtime.ticket import Ticket

if TYPE_CHECKING:
    from libos_ipc.runtime.node import Node

__all__ = ["aacquire", "aawait_change", "acquire", "await_change", "open_handle", "release"]

Step = Callable[[Any, Hashable], Effects]


def open_handle(node: Node, asks: tuple[int, int, bytes]) -> int:
    """Open a handle at the server: its ID. Blocks for a round trip."""
    session, ticket = node.session, Ticket()
    with session.lock:
        session.check_open()
        session.perform(session.member.sync.open(asks, ticket, time.monotonic()))
    ticket.wait(None)
    (id,) = ticket.result()
    assert isinstance(id, int)
    return id


def acquire(node: Node, id: int, agent: int, state: State, timeout: float | None) -> Value:
    """Lock a handle for `agent`: the newest value. WouldBlock, Timeout, Deadlock, OwnerDied."""
    timed = timeout is not None
    found = _wait(
        node,
        id,
        lambda client, ticket: client.lock(id, agent, state, ticket, timed),
        timeout,
        lambda: _undo(node, id, agent),
    )
    return _locked(node, id, state, found)


def await_change(node: Node, id: int, version: int, timeout: float | None) -> None:
    """Wait until there is a version newer than this."""
    _wait(
        node,
        id,
        lambda client, ticket: client.watch(id, ticket, version),
        timeout,
        lambda: None,
    )


def release(node: Node, id: int, agent: int, data: bytes | None) -> None:
    """Unlock, perhaps with a new value, which is committed when this returns.

    What it needs is made sure of first: on an OSError (memory is full) the lock is still held and
    nothing has changed.
    """
    session = node.session
    value: Data | None = data
    with session.lock:
        session.check_open()
        client = session.member.sync.client
        if data is not None:
            node.slabs.reserve(id, len(data))
            if len(data) > LARGE and client.state_of(id) == State.EXCLUSIVE:
                name = f"value-{id}-{session.member.vmid}-{client.version_of(id) + 1}"
                value = write_large(node.directory.path, name, data)
        effects = client.unlock(id, agent, value)
        session.perform(session.member.sync_do(effects, time.monotonic()))
        node.slabs.set_use(id, False)


def _wait(node: Node, id: int, begin: Step, timeout: float | None, undo: Callable[[], None]) -> Any:
    session, ticket = node.session, Ticket()
    _step(node, begin, ticket)
    deadline = None if timeout is None else time.monotonic() + timeout
    answered = ticket.settled()
    try:
        if not answered and (timeout is None or timeout > 0):
            session.loop.sit(ticket.settled, deadline, urgent=True)
            left = None if deadline is None else deadline - time.monotonic()
            answered = ticket.wait(left)
    except BaseException:
        if not _withdraw(node, id, ticket) and ticket.succeeded():
            undo()
        raise
    if not answered and _withdraw(node, id, ticket):
        raise _too_late(id, timeout)
    return ticket.result()


def _step(node: Node, begin: Step, ticket: Hashable) -> None:
    session = node.session
    with session.lock:
        session.check_open()
        effects = begin(session.member.sync.client, ticket)
        session.perform(session.member.sync_do(effects, time.monotonic()))


def _withdraw(node: Node, id: int, ticket: Any) -> bool:
    """Wait no more. False if it is settled already."""
    session = node.session
    with session.lock:
        if session.closed or ticket.settled():
            return not ticket.settled()
        effects = session.member.sync.client.withdraw(id, ticket)
        session.perform(session.member.sync_do(effects, time.monotonic()))
        return True


def _undo(node: Node, id: int, agent: int) -> None:
    try:
        release(node, id, agent, None)
    except IpcError:
        pass  # closed meanwhile


def _locked(node: Node, id: int, state: State, found: Any) -> Value:
    value = Value(*found)
    if state == State.EXCLUSIVE:
        with node.session.lock:
            try:
                node.slabs.reserve(id, 0)
                node.slabs.set_use(id, True)
            except OSError:
                pass  # memory is full: said when something is to be committed
    return value


def _too_late(id: int, timeout: float | None) -> IpcError:
    if not timeout:
        return WouldBlock(f"sync handle {id} is not free")
    return Timeout(f"sync handle {id} was not free within {timeout} s")


# ---- asyncio


async def aacquire(node: Node, id: int, agent: int, state: State, timeout: float | None) -> Value:
    """`acquire` for asyncio."""
    timed = timeout is not None
    found = await _await(
        node,
        id,
        lambda client, ticket: client.lock(id, agent, state, ticket, timed),
        timeout,
        lambda: _undo(node, id, agent),
    )
    return _locked(node, id, state, found)


async def aawait_change(node: Node, id: int, version: int, timeout: float | None) -> None:
    """`await_change` for asyncio."""
    await _await(
        node,
        id,
        lambda client, ticket: client.watch(id, ticket, version),
        timeout,
        lambda: None,
    )


async def _await(
    node: Node, id: int, begin: Step, timeout: float | None, undo: Callable[[], None]
) -> Any:
    from libos_ipc.runtime.async_ticket import AsyncTicket

    ticket = AsyncTicket()
    _step(node, begin, ticket)
    try:
        return await asyncio.wait_for(asyncio.shield(ticket.future), timeout)
    except IpcError:
        raise
    except TimeoutError:
        if _withdraw(node, id, ticket):
            raise _too_late(id, timeout) from None
        return await ticket.future
    except asyncio.CancelledError:
        if not _withdraw(node, id, ticket):
            try:
                await ticket.future
            except IpcError:
                raise asyncio.CancelledError from None
            undo()
        raise
