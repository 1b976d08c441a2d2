"""Requests from asyncio: a ticket that is a future, settled on its own loop. No helper threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from libos_ipc.errors import IpcError, Timeout
from libos_ipc.runtime.session import Session

__all__ = ["call", "send", "wait_until"]


async def call(
    session: Session,
    dst: int,
    code: int,
    payload: bytes | memoryview,
    size: int,
    timeout: float | None,
) -> Any:
    """Send a request and await the answer; a cancelled or late one is withdrawn at the receiver."""
    loop = asyncio.get_running_loop()
    landing = session.landings.at(loop)
    ticket = landing.ticket(loop)
    landing.attend(loop)
    if session.exchange.request(dst, code, payload, ticket):
        seq, left = ticket.number, timeout
        landing.expect()
    else:
        deadline = None if timeout is None else loop.time() + timeout
        await _get_room(session, dst, size, timeout)
        seq = session.request(dst, code, payload, ticket)
        left = None if deadline is None else deadline - loop.time()
    try:
        return await (ticket.future if left is None else asyncio.wait_for(ticket.future, left))
    except TimeoutError as error:
        if isinstance(error, IpcError):
            raise
        session.withdraw(seq)
        raise session.too_late(dst, code, timeout) from None
    except asyncio.CancelledError:
        session.withdraw(seq)
        raise


async def send(
    session: Session,
    dst: int,
    code: int,
    payload: bytes | memoryview,
    size: int,
    timeout: float | None,
) -> None:
    """Send a one-way message once there is room at the receiver."""
    await _get_room(session, dst, size, timeout)
    session.send(dst, code, payload)


async def _get_room(session: Session, dst: int, size: int, timeout: float | None) -> None:
    with session.lock:
        session.check_open()
        if session.member.has_room(dst, size):
            return
        session.perform(session.member.await_room(dst))
    try:
        found = await wait_until(session, lambda: session.member.has_room(dst, size), timeout)
    finally:
        with session.lock:
            session.member.stop_awaiting_room(dst)
    if not found:
        raise Timeout(f"VMID {dst} still had no room for {size} bytes after {timeout} s")


async def wait_until(session: Session, ready: Callable[[], bool], timeout: float | None) -> bool:
    """Await `ready`, which is asked under the session's lock whenever there is progress."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    while True:
        moved = session.landings.at(loop).ticket(loop)
        wake = partial(moved.resolve, b"")

        with session.lock:
            session.check_open()
            if ready():
                return True
            session.listeners.append(wake)
        left = None if deadline is None else deadline - loop.time()
        try:
            await asyncio.wait_for(moved.future, left)
        except TimeoutError:
            return False
        finally:
            with session.lock:
                if wake in session.listeners:
                    session.listeners.remove(wake)
