"""What a dispatcher is given: where answers go, and who reads. And what becomes of the errors of
handlers: answers, or lines in the log."""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from libos_ipc._native import Exchange
from libos_ipc.core.vocabulary import HEADER_WEIGHT, Message
from libos_ipc.errors import IpcError, NoHandler, ProtocolError
from libos_ipc.runtime.clock import Clock
from libos_ipc.runtime.handlers import Handler

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["Reader", "Replies", "answered", "decline", "own_errno", "refuse"]

log = logging.getLogger("libos_ipc")


class Replies(Protocol):
    """Where answers go: the session that the message came in by."""

    exchange: Exchange
    clock: Clock

    def answer(self, dst: int, seq: int, payload: bytes | memoryview) -> None: ...
    def refuse(self, dst: int, seq: int, number: int, text: str) -> None: ...
    def consumed(self, src: int, size: int) -> None: ...
    def announce(self, src: int) -> None: ...


class Reader(Protocol):
    """Whose exchange reads messages, and who does what that leaves in a round."""

    exchange: Exchange

    def finish_round(self) -> None: ...


def refuse(
    replies: Replies, message: Message, error: BaseException, number: int = errno.EREMOTEIO
) -> None:
    """Answer with the error and its traceback; log it where nobody waits for an answer.

    What the library itself has against a message needs no traceback: there is no program in it.
    """
    if message.seq:
        plain = number != errno.EREMOTEIO and isinstance(error, NoHandler | ProtocolError)
        text = str(error.args[-1]) if plain else "".join(traceback.format_exception(error))
        replies.refuse(message.src, message.seq, number, text)
    elif type(error).__name__ == "CancelledError":  # of asyncio, which may not be loaded
        what = "message of VMID %d, code %d: handler cancelled"
        log.warning(what, message.src, message.code)
    elif not isinstance(error, NoHandler):
        log.error(
            "message of VMID %d, code %d: handler failed",
            message.src,
            message.code,
            exc_info=error,
        )


def decline(session: Session, message: Message) -> None:
    """Take up a message where nobody will ever handle any: it would be held, and its sender be
    held up or left waiting, for ever. In the worker, which may hold the session's lock."""

    def answer() -> None:
        error = NoHandler(
            f"VMID {session.member.vmid} is the leader, a process of its own, which handles "
            "nothing: send to the VMID of a member (not to its pid)"
        )
        refuse(session, message, error, own_errno(error))
        session.consumed(message.src, HEADER_WEIGHT + len(message.payload))

    session.clock.later(0.0, answer)


def own_errno(error: BaseException) -> int:
    """The errno under which the requester is to see what policy or decoding raised."""
    if isinstance(error, PermissionError):
        return error.errno or errno.EPERM
    if isinstance(error, IpcError):
        return error.errno or errno.EREMOTEIO
    return errno.EREMOTEIO


async def answered(
    handler: Handler,
    coroutine: Coroutine[Any, Any, Any],
    message: Message,
    replies: Replies,
    is_ours: Callable[[], bool],
) -> None:
    """Await what a handler does, and answer, unless this is a child that was forked meanwhile."""
    try:
        result = await coroutine
        if message.seq and is_ours():
            replies.answer(message.src, message.seq, handler.encode(result))
    except BaseException as error:
        if is_ours():
            refuse(replies, message, error)
