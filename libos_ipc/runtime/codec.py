"""Between the core's messages and the frames of a transport.

The core speaks of codes and fields; `libos_ipc.wire` knows their layout. Here the two meet,
with the few payloads that are msgpack: the table of members and what a joiner says and hears.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Sequence

import msgspec

from libos_ipc import wire
from libos_ipc._native import pack_frames
from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.vocabulary import Body, Outgoing
from libos_ipc.errors import ProtocolError

__all__ = ["Greeting", "decode_answer", "decode_body", "pack", "payload_of"]


#: Requests whose answers are msgpack.
_TABLES = frozenset({Code.GET_MEMBERS, Code.JOIN, Code.FILE_LOCK_TABLE, Code.SYNC_TABLE})
_RANGE = struct.Struct("<II")
_FILE_LOCKS = frozenset({Code.FILE_LOCK_SET, Code.FILE_LOCK_GET, Code.FILE_LOCK_TAKE})


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """What a process that wants to join says to the leader."""

    group_id: str
    parent: int
    may_lead: bool
    attempt: int = 0  #: the same when the next leader is asked again


def pack(
    number: int, acked: int, message: Outgoing, group_id: bytes
) -> tuple[bytes | memoryview, ...]:
    """The frames of a message with this number on its link, and this acknowledgement."""
    payload = payload_of(message, group_id)
    return pack_frames(number, acked, message.code, message.seq, payload)  # type: ignore[return-value]


def payload_of(message: Outgoing, group_id: bytes = b"") -> bytes | memoryview:
    """The payload of a message. Only a HELLO names the group."""
    code, _, body, of = message
    return _payload(code, body, of, group_id) if isinstance(body, tuple) else body


def _payload(code: int, fields: tuple[object, ...], of: int, group_id: bytes) -> bytes:
    if code == Code.RESP:
        if of in _TABLES:
            return wire.encode_answer(of, tail=msgspec.msgpack.encode(fields))
        if of == Code.TRADE_ID_RANGES:
            return wire.encode_answer(of, tail=_pack_ranges(fields[0]))
        return _encode(wire.encode_answer, of, fields)
    if code == Code.ERROR:
        return wire.encode_error(*fields)  # type: ignore[arg-type]
    if code == Code.HELLO:
        head = (wire.MAGIC, wire.PROTOCOL_VERSION)
        return wire.encode(code, *head, *fields, tail=group_id)  # type: ignore[arg-type]
    if code == Code.JOIN:
        return wire.encode(code, tail=msgspec.msgpack.encode(fields[0]))
    if code == Code.TRADE_ID_RANGES:
        return wire.encode(code, fields[0], tail=_pack_ranges(fields[1]))  # type: ignore[arg-type]
    if code == Code.BACK:
        epoch, waits = fields
        return wire.encode(code, epoch, tail=array("Q", waits))  # type: ignore
    if code in _FILE_LOCKS:
        return wire.encode_file_lock(wire.FileLock(*fields))  # type: ignore[arg-type]
    return _encode(wire.encode, code, fields)


def _encode(encode: Callable[..., bytes], code: int, fields: tuple[object, ...]) -> bytes:
    """Fields, of which the last may be the tail."""
    if fields and isinstance(fields[-1], bytes):
        return encode(code, *fields[:-1], tail=fields[-1])
    return encode(code, *fields)


def _pack_ranges(ranges: object) -> bytes:
    assert isinstance(ranges, Sequence)
    return b"".join(_RANGE.pack(*each) for each in ranges)


def _unpack_ranges(code: int, packed: bytes) -> tuple[tuple[int, int], ...]:
    if len(packed) % _RANGE.size:
        raise ProtocolError(f"{Code(code).name} ({code}): {len(packed)} bytes are no pairs of IDs")
    return tuple(_RANGE.iter_unpack(packed))


def decode_body(code: int, payload: bytes) -> Body:
    """The fields of one of the library's messages; a user's payload and an answer stay bytes."""
    if code >= FIRST_USER_CODE or code == Code.RESP:
        return payload
    if code == Code.ERROR:
        return wire.decode_error(payload)
    fields = wire.decode(code, payload)
    if code == Code.TRADE_ID_RANGES:
        return fields[0], _unpack_ranges(code, fields[1])
    if code == Code.BACK:
        return fields[0], _unpack_numbers(code, fields[1])
    return fields


def _unpack_numbers(code: int, packed: bytes) -> tuple[int, ...]:
    if len(packed) % 8:
        raise ProtocolError(f"{Code(code).name} ({code}): {len(packed)} bytes are no numbers")
    return tuple(array("Q", packed))


def decode_answer(code: int, payload: bytes) -> tuple[object, ...]:
    """The fields of the answer to one of the library's requests."""
    fields = wire.decode_answer(code, payload)
    if code in _TABLES:
        try:
            return tuple(msgspec.msgpack.decode(fields[-1], type=list))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProtocolError(f"answer to {Code(code).name}: {error}") from None
    if code == Code.TRADE_ID_RANGES:
        return (_unpack_ranges(code, fields[-1]),)
    return fields
