"""Stepping the client's machine of sync handles for those who call: what no thread has to wait for.

Every step is taken under the session's lock. Large values are written outside of it, by the one
who has the handle to himself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libos_ipc.core.sync_end import value_name
from libos_ipc.core.sync_handle import Effects
from libos_ipc.core.sync_words import Data, Granted, Reference, State, Value
from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import IpcError, Timeout, WouldBlock
from libos_ipc.runtime.slabs import LARGE, remove_large, write_large
from libos_ipc.runtime.whole_steps import take_whole

if TYPE_CHECKING:
    from libos_ipc.runtime.node import Node

__all__ = [
    "GRACE_S",
    "Ask",
    "Step",
    "is_used_by",
    "lock_now",
    "locking",
    "most_in_message",
    "release",
    "step",
    "take_use",
    "too_late",
    "undo",
    "watching",
    "withdraw",
]

#: What a message about a handle has beside a small value, in bytes; with room to spare.
_MESSAGE_BYTES = 256
#: A timeout of 0 waits for nobody who uses a handle. But another process may only keep it: that
#: is asked, and has so many seconds to answer.
GRACE_S = 0.005


class Ask:
    """What the machine knows of somebody who waits: it passes the outcome on, and remembers it.
    To be told twice is as to be told once."""

    __slots__ = ("error", "granted", "settled", "ticket", "value")

    def __init__(self) -> None:
        self.settled = False
        self.granted = False
        self.value: Any = None
        self.error: IpcError | None = None
        self.ticket: Any = None  # as soon as somebody waits

    def is_settled(self) -> bool:
        return self.settled

    def resolve(self, payload: Body) -> None:
        if self.settled:
            return
        self.value = payload
        self.granted = self.settled = True
        if self.ticket is not None:
            self.ticket.resolve(payload)

    def fail(self, error: IpcError) -> None:
        if self.settled:
            return
        self.error = error
        self.settled = True
        if self.ticket is not None:
            self.ticket.fail(error)

    def wait_with(self, ticket: Any) -> None:
        """From now on; under the lock, before which it may have failed."""
        self.ticket = ticket
        if self.error is not None:
            ticket.fail(self.error)


Step = Callable[[Any, Ask], Effects]


def locking(id: int, agent: int, state: State, *, timed: bool) -> Step:
    return lambda client, ask: client.lock(id, agent, state, ask, timed)


def watching(id: int, version: int) -> Step:
    return lambda client, ask: client.watch(id, ask, version)


def step(node: Node, id: int, begin: Step, ask: Ask, new_ticket: Callable[[], Any]) -> None:
    session = node.session

    def granted_at_once(effects: Effects) -> bool:
        if len(effects) > 1 or type(effects[0]) is not Granted or effects[0].ticket is not ask:
            return False
        ask.resolve(effects[0].value)
        return True

    with session.lock:
        session.check_open()
        take_whole(session, id, lambda client: begin(client, ask), granted_at_once)
        if not ask.granted:
            ask.wait_with(new_ticket())


def withdraw(node: Node, id: int, ask: Ask) -> bool:
    """Wait no more. False if it is settled already."""
    session = node.session
    with session.lock:
        if not ask.settled and not session.closed:
            take_whole(session, id, lambda client: client.withdraw(id, ask))
        return not ask.settled


def lock_now(node: Node, id: int, agent: int, state: State) -> Value | None:
    """The value, if this process has it in that state, and nobody here is before us."""
    session = node.session
    with session.lock:
        session.check_open()
        value = session.member.sync.client.lock_now(id, agent, state)
    if value is not None and state == State.EXCLUSIVE:
        take_use(node, id, state, value)
    return value


def is_used_by(node: Node, id: int, agent: int) -> bool:
    """Whether this agent has the handle locked."""
    cell = node.session.member.sync.client.cell_of(id)
    return cell is not None and cell.user == agent


def most_in_message(max_message: int) -> int:
    """The bytes of a value that still travels in messages."""
    return max(0, min(LARGE, max_message - _MESSAGE_BYTES))


def _reserve(node: Node, id: int, data: Data) -> None:
    """Make sure that this value can be committed, also by who does it in C."""
    node.slabs.reserve(id, data)
    cell = node.session.member.sync.client.cell_of(id)
    if cell is not None:
        cell.record = node.slabs.record(id)


def take_use(node: Node, id: int, state: State, found: Any) -> Value:
    """Say in our slab that the handle is in use. Where it was taken by a baton, that says so; but
    if there is a record, too, it must not say anything else."""
    if state == State.EXCLUSIVE:
        with node.session.lock:
            cell = node.session.member.sync.client.cell_of(id)
            try:
                if not node.session.closed:
                    if cell is None or cell.baton is None:
                        _reserve(node, id, b"")
                    node.slabs.set_use(id, True)
            except OSError:
                pass  # memory is full: said when something is to be committed
    return Value(*found)


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
                session.member.sync.client.put(id)
                return
    value = None if data is None else _placed(node, id, agent, data)
    committed = False
    try:
        with session.lock:
            session.check_open()
            if value is not None:
                _reserve(node, id, value)
            cell = session.member.sync.client.cell_of(id)
            used = cell is not None and cell.user == agent
            try:
                take_whole(session, id, lambda client: client.unlock(id, agent, value))
            finally:
                if cell is not None and used and cell.user != agent:
                    committed = cell.value.data is value
                    node.slabs.set_use(id, False)
    except BaseException:
        if isinstance(value, Reference) and not committed:
            remove_large(node.directory.path, value.where)
        raise


def _placed(node: Node, id: int, agent: int, data: bytes) -> Data:
    """A value as it is committed: a large one lies in a file of its own by then."""
    session = node.session
    most = node.file.config.max_message
    if len(data) <= most_in_message(most):
        return data
    with session.lock:
        session.check_open()
        client = session.member.sync.client
        if client.user_of(id) != agent or len(data) > most:
            return Reference(b"", len(data))  # the machine says what is wrong
        name = value_name(id, session.member.vmid, client.version_of(id) + 1)
    return write_large(node.directory.path, name, data)


def undo(node: Node, id: int, agent: int) -> None:
    try:
        release(node, id, agent, None)
    except IpcError:
        pass  # closed meanwhile


def too_late(id: int, timeout: float | None) -> IpcError:
    if timeout is None or timeout <= 0:
        return WouldBlock(f"sync handle {id} is not free")
    return Timeout(f"sync handle {id} was not free within {timeout} s")
