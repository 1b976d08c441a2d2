"""Locking sync handles from threads: waiting for what a step of the client's machine began.

Every call waits outside of the session's lock. Whatever ends a wait withdraws it; if the lock was
granted in that moment, the caller is to give it up again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from libos_ipc.core.sync_words import State, Value
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
from libos_ipc.runtime.ticket import Ticket

if TYPE_CHECKING:
    from libos_ipc.runtime.node import Node

__all__ = ["acquire", "await_change", "open_handle"]


def open_handle(node: Node, asks: tuple[int, int, bytes]) -> int:
    """Open a handle at the server: its ID. Blocks for a round trip."""
    session, ask = node.session, Ask()
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


def _open_in_vain(node: Node, ask: Ask) -> None:
    """Nobody waits for this handle to be open any more: it is closed as soon as it is."""
    session = node.session

    def close() -> None:
        with session.lock:
            if not (session.closed or session.leaving or ask.settled):
                session.clock.later(0.01, close)
            elif ask.granted and not session.closed:
                effects = session.member.sync.client.close(ask.value[0])
                session.perform(session.member.sync.do(effects, time.monotonic()))

    close()


def acquire(node: Node, id: int, agent: int, state: State, timeout: float | None) -> Value:
    """Lock a handle for `agent`: the newest value. WouldBlock, Timeout, Deadlock, OwnerDied.

    On what a signal handler raises it may be locked."""
    value = lock_now(node, id, agent, state)
    if value is not None:
        return value
    found = _wait(node, id, locking(id, agent, state, timed=timeout is not None), timeout)
    return take_use(node, id, state, found)


def await_change(node: Node, id: int, version: int, timeout: float | None) -> None:
    """Wait until there is a version newer than this. WouldBlock, Timeout."""
    _wait(node, id, watching(id, version), timeout)


def _wait(node: Node, id: int, begin: Step, timeout: float | None) -> Any:
    session, ask = node.session, Ask()
    try:
        step(node, id, begin, ask, Ticket)
        if ask.granted:
            return ask.value
        if timeout is not None and timeout <= 0 and not ask.settled:
            session.fence()  # what it has to say at once, has come
        if not ask.settled:
            left = None if timeout is None else max(timeout, GRACE_S)
            deadline = None if left is None else time.monotonic() + left
            session.sit(session.member.leader_vmid, ask.is_settled, deadline)
            ask.ticket.wait(None if deadline is None else deadline - time.monotonic())
        if withdraw(node, id, ask):
            raise too_late(id, timeout)
        return ask.ticket.result()
    except BaseException:
        withdraw(node, id, ask)
        raise
