"""Asking the leader for a file lock, and taking the request back where it must not be granted.

A request that waits is answered when it is granted. Who stops waiting, for a time-out, a signal
handler that raised, or a cancelled task, takes the request back and does not return before the
leader has said whether that came in time: so a lock is never held on behalf of nobody.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from libos_ipc.core.codes import LEADER, Code
from libos_ipc.core.lock_words import EOF, NO_WAIT, UNLOCK, WAIT_TIMED, WRITE, Kind
from libos_ipc.core.vocabulary import Body
from libos_ipc.errors import Deadlock, IpcError, Timeout, WouldBlock
from libos_ipc.runtime.held_files import Locker
from libos_ipc.runtime.ticket import Settled, Ticket

if TYPE_CHECKING:
    from libos_ipc._native import Turns
    from libos_ipc.runtime.session import Session
    from libos_ipc.wire import FileLock

__all__ = ["alock", "ask_leader", "lock", "unlock_unheard"]


def lock(session: Session, code: Code, asks: FileLock, timeout: float | None) -> int:
    """Lock or unlock; the number of the grant, 0 for none. Blocks as long as the lock waits.

    WouldBlock, Deadlock, Timeout. Whatever ends the wait, the request does not wait on. Not for
    locks by a descriptor: see `DescriptorCall`.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        granted = _by_ourselves(session, code, asks, math.inf if timeout is None else timeout)
        if granted is None:
            granted = ask_leader(session, code, asks, timeout)
        if not _is_told_of_turns(code, asks, granted):
            return granted
        timeout = None if deadline is None else deadline - time.monotonic()


def ask_leader(session: Session, code: Code, asks: FileLock, timeout: float | None) -> int:
    """`lock`, by the leader in any case."""
    ticket = Ticket()
    deadline = None if timeout is None else time.monotonic() + timeout
    asked: list[int] = []
    try:
        _ask(session, code, asks, ticket, asked)
        if session.member.leader is not None and not ticket.settled():
            _keep_looking(session)
        session.sit(session.member.leader_vmid, ticket.settled, deadline)
        answered = ticket.wait(None if deadline is None else deadline - time.monotonic())
    except BaseException:
        for seq in asked:
            _take_back(session, seq)
        raise
    if not answered:
        if _take_back(session, asked[0]):
            raise Timeout(f"the lock of {_path(asks)} was not free within {timeout} s")
        ticket.wait(None)  # it was granted just then
    try:
        return _number(ticket.result())
    except IpcError as error:
        raise _own(error) from None


def _ask(session: Session, code: Code, asks: FileLock, ticket: Settled, asked: list[int]) -> None:
    """Send the request; its number is put down before it is made, since a signal handler may raise
    in between."""
    with session.lock:
        session.check_open()
        member, now = session.member, time.monotonic()
        asked.append(member.calls.next_number())
        session.perform(member.request(member.leader_vmid, code, asks, ticket, now)[1])


def unlock_unheard(session: Session, code: Code, asks: FileLock) -> None:
    """Unlock without waiting for an answer: whatever this process asks for next finds it unlocked.
    What is unlocked already stays so. Does not block, and raises nothing of ours."""
    try:
        if _by_ourselves(session, code, asks) is None:
            session.send(LEADER, code, asks)
    except IpcError:
        pass  # the group is closed, or the leader is gone: nothing is held


def _by_ourselves(
    session: Session, code: Code, asks: FileLock, patience_s: float | None = None
) -> int | None:
    """The number of the grant, where this process may give it out; None if the leader must.

    Where processes take turns it waits for a moment, if there is any patience. Timeout.
    """
    held = session.held_files
    kind = Kind.FAIR
    if code != Code.FILE_LOCK_TAKE:
        kind = Kind.FLOCK if asks.family == 2 else Kind.POSIX
    locker = Locker((asks.device, asks.inode), kind, asks.handle_id, asks.thread)
    if not held.has(locker.place):
        turns = held.turns.at(locker.file)
        whole = kind == Kind.FAIR and (asks.start, asks.end) == (0, EOF)
        return _in_turns(turns, asks, patience_s) if turns is not None and whole else None
    return held.serve(locker, (asks.type, asks.start, asks.end), asks.wait, lambda: asks.path)


def _in_turns(turns: Turns, asks: FileLock, patience_s: float | None) -> int | None:
    """The same where the file is locked in turns."""
    if asks.type == UNLOCK:
        return 0 if turns.leave(asks.handle_id) else None
    if asks.type != WRITE:
        return None
    wait_s = 0.0 if patience_s is None or asks.wait == NO_WAIT else patience_s
    deadline = time.monotonic() + wait_s
    granted = turns.take(asks.handle_id, asks.thread, asks.wait, wait_s)
    is_over = granted < 0 and patience_s is not None and time.monotonic() >= deadline
    if is_over and asks.wait == WAIT_TIMED and turns.leave(asks.handle_id):
        raise Timeout(f"the lock of {_path(asks)} was not free within {patience_s} s")
    return granted if granted > 0 else None


def _is_told_of_turns(code: Code, asks: FileLock, granted: int) -> bool:
    """Whether the leader's answer is that the lock is handed on without it, and to be had there."""
    return not granted and code == Code.FILE_LOCK_TAKE and asks.type != UNLOCK


def _keep_looking(session: Session) -> None:
    """The leader is in this process and has heard of the request without a message: its worker
    might sleep on, and not look after what the request waits for."""
    session.clock.stay_awake()
    session.loop.wake()


def _take_back(session: Session, seq: int) -> bool:
    """Withdraw a request. False if it had been granted at once, and so can only be unlocked."""
    ticket = Ticket()
    with session.lock:
        if session.closed:
            return True
        member, now = session.member, time.monotonic()
        leader = member.leader_vmid
        session.perform(member.request(leader, Code.FILE_LOCK_WITHDRAW, (seq,), ticket, now)[1])
    ticket.wait(None)
    try:
        (result,) = ticket.result()
    except IpcError:
        return True  # the leader is gone, or this group is closed: nothing is held
    if result == 0:
        with session.lock:
            session.member.calls.withdraw(seq)
    return result == 0


async def alock(session: Session, code: Code, asks: FileLock, timeout: float | None) -> int:
    """`lock` for asyncio. It does not wait in turns: there it asks the leader, who ends them."""
    while True:
        granted = await _alock(session, code, asks, timeout)
        if not _is_told_of_turns(code, asks, granted):
            return granted


async def _alock(session: Session, code: Code, asks: FileLock, timeout: float | None) -> int:
    import asyncio  # loaded, then: nobody else is to pay for it

    granted = _by_ourselves(session, code, asks)
    if granted is not None:
        return granted
    loop = asyncio.get_running_loop()
    ticket = session.landings.at(loop).ticket(loop)
    asked: list[int] = []
    try:
        _ask(session, code, asks, ticket, asked)
        if session.member.leader is not None:
            _keep_looking(session)
        return _number(await asyncio.wait_for(asyncio.shield(ticket.future), timeout))
    except IpcError as error:
        raise _own(error) from None
    except TimeoutError:
        if await _atake_back(session, asked[0]):
            raise Timeout(f"the lock of {_path(asks)} was not free within {timeout} s") from None
        return _number(await ticket.future)
    except asyncio.CancelledError:
        await _atake_back(session, asked[0])
        raise
    except BaseException:  # a signal handler raised, or nobody runs this coroutine any more
        for seq in asked:
            session.withdraw(seq)
        raise


async def _atake_back(session: Session, seq: int) -> bool:
    import asyncio

    loop = asyncio.get_running_loop()
    ticket = session.landings.at(loop).ticket(loop)
    session.request(LEADER, Code.FILE_LOCK_WITHDRAW, (seq,), ticket)
    try:
        (result,) = await asyncio.shield(ticket.future)
    except IpcError:
        return True
    if result == 0:
        with session.lock:
            session.member.calls.withdraw(seq)
    return result == 0


def _number(answer: Body) -> int:
    """The number of the grant, from an answer to FILE_LOCK_SET or FILE_LOCK_TAKE."""
    assert isinstance(answer, tuple)
    number = answer[1] if len(answer) > 1 else 0
    assert isinstance(number, int)
    return number


def _own(error: IpcError) -> IpcError:
    """EAGAIN and EDEADLK have the leader's words in them; say them as they are."""
    if isinstance(error, Deadlock | WouldBlock):
        return type(error)(error.args[-1])
    return error


def _path(asks: FileLock) -> str:
    return asks.path.decode(errors="replace")
