"""Messages as a program sees them: what a handler gets, and how values become payloads."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from libos_ipc.core.codes import FIRST_USER_CODE, LAST_USER_CODE
from libos_ipc.errors import InvalidRange, ProtocolError

__all__ = ["Message", "as_payload", "checked_code", "from_payload"]

_encode = msgspec.msgpack.Encoder().encode


class Message(NamedTuple):
    """A message that arrived: VMID of its sender, code, sequence number, payload.

    `seq` is 0 for a one-way message; what a handler returns for any other is its answer.
    """

    src: int
    code: int
    seq: int
    payload: bytes


def checked_code(code: int) -> int:
    """`code` if a program may use it, InvalidRange otherwise."""
    if not isinstance(code, int) or not FIRST_USER_CODE <= code <= LAST_USER_CODE:
        raise InvalidRange(
            f"code {code!r} is not a program's: use {FIRST_USER_CODE} … {LAST_USER_CODE}, "
            "lower ones are the library's"
        )
    return int(code)


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
    return _encode(value)


def from_payload(payload: bytes, type: Any) -> Any:
    """The reverse of `as_payload`; `bytes` means the payload itself. ProtocolError if it is none."""
    if type is bytes:
        return payload
    try:
        return msgspec.msgpack.decode(payload, type=type)
    except msgspec.MsgspecError as error:
        raise ProtocolError(
            f"the payload is no {getattr(type, '__name__', type)}: {error}"
        ) from None
