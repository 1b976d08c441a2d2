"""Between the core's messages and the frames of a transport.

The core speaks of codes and fields; `libos_ipc.wire` knows their layout. Here the two meet,
with the few payloads that are msgpack: the table of members and what a joiner says and hears.
"""

from __future__ import annotations

import msgspec

from libos_ipc import wire
from libos_ipc._native import pack_header, pack_message, unpack_header, unpack_message
from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.vocabulary import Body, Outgoing
from libos_ipc.errors import ProtocolError

__all__ = ["LARGE", "Greeting", "decode_answer", "decode_body", "pack", "unpack"]

#: Payloads of at least so many bytes travel in a frame of their own, so that they are not
#: copied to stand behind their header.
LARGE = 16384


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """What a process that wants to join says to the leader."""

    group_id: str
    parent: int
    may_lead: bool


def pack(message: Outgoing, group_id: bytes) -> tuple[bytes | memoryview, ...]:
    """The frames of a message, after its envelope."""
    code, seq, body, of = message
    payload = body if not isinstance(body, tuple) else _payload(code, body, of, group_id)
    if len(payload) >= LARGE:
        return pack_header(code, seq, len(payload)), payload
    return (pack_message(code, seq, payload),)


def _payload(code: int, fields: tuple[object, ...], of: int, group_id: bytes) -> bytes:
    if code == Code.RESP:
        if of in (Code.GET_MEMBERS, Code.JOIN):
            return wire.encode_answer(of, tail=msgspec.msgpack.encode(fields))
        return wire.encode_answer(of, *fields)  # type: ignore[arg-type]
    if code == Code.ERROR:
        return wire.encode_error(*fields)  # type: ignore[arg-type]
    if code == Code.HELLO:
        head = (wire.MAGIC, wire.PROTOCOL_VERSION)
        return wire.encode(code, *head, *fields, tail=group_id)  # type: ignore[arg-type]
    if code == Code.JOIN:
        return wire.encode(code, tail=msgspec.msgpack.encode(fields[0]))
    return wire.encode(code, *fields)  # type: ignore[arg-type]


def unpack(frames: list[bytes], max_message: int) -> tuple[int, int, bytes]:
    """Code, sequence number and payload from the frames after the envelope.

    `Malformed` if they are no message.
    """
    if len(frames) == 2:
        code, seq = unpack_header(frames[0], len(frames[1]), max_message)
        return code, seq, frames[1]
    return unpack_message(frames[0] if len(frames) == 1 else b"", max_message)


def decode_body(code: int, payload: bytes) -> Body:
    """The fields of one of the library's messages; a user's payload and an answer stay bytes."""
    if code >= FIRST_USER_CODE or code == Code.RESP:
        return payload
    if code == Code.ERROR:
        return wire.decode_error(payload)
    return wire.decode(code, payload)


def decode_answer(code: int, payload: bytes) -> tuple[object, ...]:
    """The fields of the answer to one of the library's requests."""
    fields = wire.decode_answer(code, payload)
    if code in (Code.GET_MEMBERS, Code.JOIN):
        try:
            return tuple(msgspec.msgpack.decode(fields[-1], type=list))
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"answer to {Code(code).name}: {error}") from None
    return fields
