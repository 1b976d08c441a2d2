"""Locking sync handles from tasks of asyncio: what `syncing` is for threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from libos_ipc.core.sync_words import State, Value
from libos_ipc.errors import IpcError
from libos_ipc.runtime.sync_steps import (
    GRACE_S,
    Ask,
    Step,
    lock_now,
    locking,
    step,
    take_use,
    too_late,
    watching,
    withdraw,
)

if TYPE_CHECKING:
    from libos_ipc.runtime.node import Node

__all__ = ["aacquire", "aawait_change"]


async def aacquire(node: Node, id: int, agent: int, state: State, timeout: float | None) -> Value:
    """`acquire` for asyncio."""
    value = lock_now(node, id, agent, state)
    if value is not None:
        return value
    found = await _await(node, id, locking(id, agent, state, timed=timeout is not None), timeout)
    return take_use(node, id, state, found)


async def aawait_change(node: Node, id: int, version: int, timeout: float | None) -> None:
    """`await_change` for asyncio."""
    await _await(node, id, watching(id, version), timeout)


async def _await(node: Node, id: int, begin: Step, timeout: float | None) -> Any:
    session, ask = node.session, Ask()
    loop = asyncio.get_running_loop()
    landing = session.landings.at(loop)
    try:
        step(node, id, begin, ask, lambda: landing.ticket(loop))
        if ask.granted:
            return ask.value
        if timeout is not None and timeout <= 0 and not ask.settled:
            fence = landing.ticket(loop)
            session.request(*session.fencing(), fence)
            await fence.future
        left = None if timeout is None else max(timeout, GRACE_S)
        try:
            return await asyncio.wait_for(asyncio.shield(ask.ticket.future), left)
        except TimeoutError as error:
            if isinstance(error, IpcError):
                raise
            if withdraw(node, id, ask):
                raise too_late(id, timeout) from None
        return await ask.ticket.future
    except BaseException:
        withdraw(node, id, ask)
        if ask.ticket is not None:
            ask.ticket.future.cancel()  # or it complains that nobody asked for its error
        raise
