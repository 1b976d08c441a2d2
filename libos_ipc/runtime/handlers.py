"""What a handler is given, and what becomes of what it returns: messages, values, payloads.

msgspec is imported where it is needed: it would be on the way to the start of a leader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libos_ipc.core.vocabulary import Message
from libos_ipc.errors import ProtocolError

if TYPE_CHECKING:
    import asyncio

__all__ = ["Handler", "Handlers", "Message", "Quick", "as_payload", "from_payload"]

#: (function, decode or None, encode)
Quick = tuple[
    Callable[..., Any], Callable[[bytes], Any] | None, Callable[[object], bytes | memoryview]
]
#: The same of a handler of batches: (function or None if that is for Python, decode or None)
QuickBatch = tuple[Callable[..., Any] | None, Callable[[bytes], Any] | None]

Policy = Callable[[int, int, bytes], object]

#: None, as msgpack has it.
_NIL = b"\xc0"


def as_payload(value: object) -> bytes | memoryview:
    """Bytes-like values go as they are, everything else as msgpack.

    TypeError for what msgspec cannot encode. A bytearray is copied, since its owner may change
    it; a memoryview is not, and must not be changed before `flush` has returned.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, memoryview):
        return value.cast("B") if value.c_contiguous else value.tobytes()
    if isinstance(value, bytearray):
        return bytes(value)
    import msgspec

    return msgspec.msgpack.encode(value)


def from_payload(payload: bytes, type: Any) -> Any:
    """The reverse of `as_payload`; `bytes` is the payload itself, and no payload at all is None.
    ProtocolError if it is none."""
    if type is bytes:
        return payload
    import msgspec

    try:
        return msgspec.msgpack.decode(payload or _NIL, type=type)
    except msgspec.MsgspecError as error:
        raise ProtocolError(
            f"the payload is no {getattr(type, '__name__', type)}: {error}"
        ) from None


class Handler:
    """A registered function, and the type that it wants decoded."""

    __slots__ = ("batch", "function", "is_async", "loop", "quick", "type")

    def __init__(self, function: Callable[..., Any], type: Any, batch: bool = False) -> None:
        from inspect import iscoroutinefunction  # a leader's process has no handlers

        self.function = function
        self.type = type
        #: whether it gets lists of one-way messages that came together
        self.batch = batch
        self.is_async = iscoroutinefunction(function)
        #: the event loop of a coroutine function; None for the dispatcher's own
        self.loop = _running_event_loop() if self.is_async else None
        #: what the exchange needs to call the function itself: that, how its argument is decoded,
        #: and how its result becomes a payload
        self.quick: Quick | QuickBatch | None = None
        if not self.is_async:
            decode = _decoder(type)
            self.quick = (function, decode) if batch else (function, decode, self.encode)

    def arguments(self, message: Message) -> tuple[Any, ...]:
        """What the function is called with: the message, behind its decoded value if wanted."""
        if self.type is None:
            return (message,)
        return from_payload(message.payload, self.type), message

    def batch_arguments(self, messages: list[Message]) -> tuple[Any, ...]:
        """The same for messages whose values are known to be of the type."""
        if self.type is None:
            return (messages,)
        return [from_payload(message.payload, self.type) for message in messages], messages

    def encode(self, value: object) -> bytes | memoryview:
        """What the handler returned, as an answer's payload."""
        return b"" if value is None and self.type is None else as_payload(value)


class Handlers:
    """Those of one process, by code, and the policy that is asked before any of them."""

    def __init__(self) -> None:
        self._by_code: dict[int, Handler] = {}
        #: whether messages are handled from now on, and not held; and how many threads are to do it
        self.ready = False
        self.threads = 1
        self._policy: Policy | None = None
        #: those that the exchange may call itself; the same object for good, since it has that
        self.quick: dict[int, Quick | QuickBatch] = {}

    def get(self, code: int) -> Handler | None:
        """Whose messages of this code are, if anybody's."""
        return self._by_code.get(code)

    def add(self, code: int, handler: Handler) -> None:
        """In the place of the one before, if there was one."""
        self._by_code[code] = handler
        self._sort(code, handler)

    @property
    def policy(self) -> Policy | None:
        """What is asked before each message of another member is handled."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy | None) -> None:
        self._policy = policy
        for code, handler in list(self._by_code.items()):  # another thread may add one
            self._sort(code, handler)

    def _sort(self, code: int, handler: Handler) -> None:
        if handler.quick is None or self._policy is not None:
            if handler.batch:
                self.quick[code] = (None, None)
            else:
                self.quick.pop(code, None)
        else:
            self.quick[code] = handler.quick


def _decoder(type: Any) -> Callable[[bytes], Any] | None:
    if type is None or type is bytes:
        return type  # `bytes` of bytes is the same object
    import msgspec

    return msgspec.msgpack.Decoder(type).decode


def _running_event_loop() -> asyncio.AbstractEventLoop | None:
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
