"""The frames of a message with `struct`; the real ones have to agree on every input."""

from __future__ import annotations

import struct

from twins import wire_twin
from twins.wire_twin import RefusalError

LARGE = 16384


def pack_frames(number: int, acked: int, code: int, seq: int, payload: bytes) -> tuple[bytes, ...]:
    envelope = struct.pack("<QQ", number, acked)
    header = struct.pack("<QQB", 17 + len(payload), seq, code)
    if len(payload) < LARGE:
        return envelope, header + payload
    return envelope, header, payload


def unpack_frames(frames: list[bytes], max_message: int) -> tuple[int, int, int, int, bytes]:
    if len(frames) not in (2, 3):
        raise RefusalError
    if len(frames) == 3 and len(frames[1]) != 17:
        raise RefusalError
    envelope, message = frames[0], b"".join(frames[1:])
    return (
        *wire_twin.unpack_envelope(envelope),
        *wire_twin.unpack_message(message, max_message),
    )
