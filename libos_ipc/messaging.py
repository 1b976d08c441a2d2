"""The part of `Group` that sends messages and has them handled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from libos_ipc.core.codes import FIRST_USER_CODE, LAST_USER_CODE, Code
from libos_ipc.core.vocabulary import HEADER_WEIGHT, Body
from libos_ipc.errors import (
    InvalidArgument,
    InvalidRange,
    MessageTooLarge,
    PeerDied,
    Timeout,
    WouldBlock,
)
from libos_ipc.runtime.handlers import as_payload, from_payload
from libos_ipc.runtime.muster import Muster

if TYPE_CHECKING:
    from libos_ipc.group import Member
    from libos_ipc.runtime.node import Node

__all__ = ["Messaging"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _check_code(code: int) -> None:
    """InvalidRange unless a program may use this code."""
    if not isinstance(code, int) or not FIRST_USER_CODE <= code <= LAST_USER_CODE:
        raise InvalidRange(
            f"code {code!r} is not a program's: use {FIRST_USER_CODE} … {LAST_USER_CODE}, "
            "lower ones are the library's"
        )


def _check_vmid(vmid: int) -> None:
    """InvalidRange unless some process could have this VMID, or had it."""
    if not isinstance(vmid, int) or not 0 <= vmid < 2**32:
        raise InvalidRange(f"{vmid!r} is no VMID: `group.members()` says who is there")


class Messaging:
    """The part of `Group` that sends and handles messages."""

    _node: Node
    _muster: Muster

    def members(self) -> list[Member]:
        """Every live process of the group."""
        raise NotImplementedError

    def on(
        self, code: int, type: Any = None, *, threads: int = 1, batch: bool = False
    ) -> Callable[[_Function], _Function]:
        """Decorator: the function handles messages of `code` (64 … 255).

        It gets a `Message`; with `type`, the decoded value and then the message. What it
        returns answers a request, what it raises is the requester's RemoteError. It runs on a
        dispatch thread (on at least `threads` of them, if several messages are to be handled
        at once), or, if it is a coroutine function, on an event loop: the one in which it is
        registered, else one of the library's. Messages that came before the first `on` or
        `ready` have waited. Forked children inherit it.

        With `batch` it gets a list of one-way messages that came together, in order (with `type`,
        the list of their values and then that), at most some hundred. A request of such a code gets
        NoHandler. What it raises is logged, once for the batch; a message that the policy refuses
        or that is no such value is logged and left out.

        >>> @group.on(70, type=list[int])
        ... def total(numbers, message):
        ...     return sum(numbers)
        """
        self._node.session.check_open()
        _check_code(code)
        if threads < 1:
            raise InvalidArgument(f"threads must be at least 1, not {threads!r}")

        def register(function: _Function) -> _Function:
            if not callable(function):
                raise InvalidArgument(f"a handler is a function, not {function!r}")
            self._node.dispatcher.add(code, function, type, threads, batch)
            return function

        return register

    def ready(self) -> None:
        """All handlers are registered: what waited is handled, other codes get NoHandler."""
        self._node.session.check_open()
        self._node.dispatcher.set_ready()

    def serve(self) -> None:
        """Handle messages in this thread, not in one of the library's, until the group closes."""
        self._node.session.check_open()
        self._node.dispatcher.serve()

    def policy(self, hook: Callable[[int, int, bytes], object] | None) -> None:
        """Ask `hook(src, code, payload)` before a message of another member is handled.

        What it raises is the answer, under its own errno: `raise PermissionDenied("…")`. It
        runs where handlers run. Forked children inherit it; None takes it away.
        """
        if hook is not None and not callable(hook):
            raise InvalidArgument(f"a policy is a function, or None, not {hook!r}")
        self._node.dispatcher.handlers.policy = hook

    def send(
        self, vmid: int, code: int, payload: object = b"", *, timeout: float | None = None
    ) -> None:
        """Send a message that wants no answer: in order and once, per pair of processes.

        Waits while the receiver owes more than `send_buffer` bytes, at most `timeout` seconds
        (Timeout; with 0 WouldBlock at once). PeerDied if the receiver is gone. Has it arrived?
        `flush` knows. The payload is bytes-like, or anything that msgspec encodes; a memoryview
        must not be changed before `flush` has returned.
        """
        session = self._node.session
        if not session.exchange.post(vmid, code, payload):
            body, size = self._addressed(vmid, code, payload)
            session.send_user(vmid, code, body, size, timeout)

    def send_many(
        self,
        vmid: int,
        code: int,
        payloads: Iterable[object],
        *,
        timeout: float | None = None,
    ) -> int:
        """`send` for each of these, one behind the other, in a fraction of the time; their number.

        `timeout` is for all of them. When it has passed, those that have been sent are, and theirs
        is the number: less than all. Only if that is none, Timeout, or WouldBlock with 0. PeerDied
        and MessageTooLarge also if some have been sent.

        >>> group.send_many(group.vmid, 70, [b"one", b"two", b"three"])
        3
        """
        session = self._node.session
        deadline = None if timeout is None else time.monotonic() + timeout
        bodies = tuple(payloads)
        sent = 0
        while (sent := session.exchange.post_many(vmid, code, bodies, sent)) < len(bodies):
            body, size = self._addressed(vmid, code, bodies[sent])
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                session.send_user(vmid, code, body, size, left)
            except (Timeout, WouldBlock):
                if not sent:
                    raise
                break
            sent += 1
        return sent

    def request(
        self,
        vmid: int,
        code: int,
        payload: object = b"",
        *,
        timeout: float | None = None,
        type: Any = None,
    ) -> Any:
        """Send a request and wait for its answer: bytes, or the decoded `type`.

        Timeout after `timeout` seconds, and the request is withdrawn at the receiver; RemoteError
        if the handler raised; NoHandler if there is none; PeerDied as soon as the kernel reports
        the receiver's death. Signals are handled while waiting.
        """
        session = self._node.session
        answer = session.exchange.ask(vmid, code, payload, timeout)
        if answer is False:
            raise session.too_late(vmid, code, timeout)
        if answer is None:
            body, size = self._addressed(vmid, code, payload)
            answer = session.call(vmid, code, body, timeout, size)
        answer = answer if isinstance(answer, bytes) else _as_bytes(answer)
        return answer if type is None else from_payload(answer, type)

    def ping(self, vmid: int, timeout: float | None = None) -> None:
        """Return when that process has answered, whatever its handlers and its main thread do.

        Between processes of one host that have a lane it is answered without the interpreter,
        in microseconds also while that computes; otherwise by the library's own threads. It
        overtakes messages that wait there for a handler. Timeout after `timeout` seconds, as for
        a stopped process; PeerDied if the process is gone. Signals are handled while waiting.

        >>> group.ping(group.leader_vmid, timeout=1.0)
        """
        session = self._node.session
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            answered = session.exchange.ping(vmid, timeout)
        except (TypeError, OverflowError):
            _check_vmid(vmid)
            raise
        if answered is None:
            session.ping(vmid, deadline, timeout)
        elif not answered:
            raise session.too_late(vmid, Code.PING, timeout)

    def broadcast(
        self,
        code: int,
        payload: object = b"",
        *,
        exclude: Iterable[int] = (),
        timeout: float | None = 0,
    ) -> list[int]:
        """Send to every other member but those of `exclude`; the VMIDs that it was sent to.

        A member whose buffer stays full for `timeout` seconds in all, or which dies meanwhile,
        is left out of both. Asks the leader who is there, if that may have changed.
        """
        body, size = self._checked(code, payload)
        session = self._node.session
        session.check_open()
        left_out = {self._node.identity.vmid, *exclude}
        deadline = None if timeout is None else time.monotonic() + timeout
        vmids = tuple(vmid for vmid in self._present() if vmid not in left_out)
        missed = set()
        for vmid in session.send_to_each(vmids, code, body):
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                session.send_user(vmid, code, body, size, left)
            except (Timeout, WouldBlock, PeerDied):
                missed.add(vmid)
        return [vmid for vmid in vmids if vmid not in missed]

    def _present(self) -> tuple[int, ...]:
        """The VMIDs of the members, from the leader or as it told the last time."""
        member = self._node.session.member
        link = member.links.get(member.leader_vmid)
        return self._muster.vmids(
            member.vmid,
            self._node.directory.journal(member.epoch),
            lambda: 0 if link is None else link.sent,
            lambda: tuple(m.vmid for m in self.members()),
        )

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was sent before has arrived: in the receiver's hands, if not yet
        with its handler. Timeout names who has not got everything."""
        self._node.flush(timeout)

    async def arequest(
        self,
        vmid: int,
        code: int,
        payload: object = b"",
        *,
        timeout: float | None = None,
        type: Any = None,
    ) -> Any:
        """`request` for asyncio. A cancelled one is withdrawn at the receiver."""
        from libos_ipc import aio

        body, size = self._addressed(vmid, code, payload)
        answer = _as_bytes(await aio.call(self._node.session, vmid, code, body, size, timeout))
        return answer if type is None else from_payload(answer, type)

    async def asend(
        self, vmid: int, code: int, payload: object = b"", *, timeout: float | None = None
    ) -> None:
        """`send` for asyncio."""
        from libos_ipc import aio

        body, size = self._addressed(vmid, code, payload)
        await aio.send(self._node.session, vmid, code, body, size, timeout)

    def _addressed(self, vmid: int, code: int, payload: object) -> tuple[bytes | memoryview, int]:
        _check_vmid(vmid)
        return self._checked(code, payload)

    def _checked(self, code: int, payload: object) -> tuple[bytes | memoryview, int]:
        if type(code) is not int or not FIRST_USER_CODE <= code <= LAST_USER_CODE:
            _check_code(code)
        body = payload if type(payload) is bytes else as_payload(payload)
        size = HEADER_WEIGHT + len(body)
        most = self._node.file.config.max_message
        if size > most:
            raise MessageTooLarge(
                f"a message of {size} bytes is over max_message ({most}): "
                "send it in parts, or found the group with a larger max_message"
            )
        return body, size


def _as_bytes(answer: Body) -> bytes:
    """The answer to a program's request: no fields, these are the library's own."""
    assert not isinstance(answer, tuple)
    return bytes(answer)
