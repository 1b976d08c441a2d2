"""The wire once more in plain Python: slow, obvious, and typed in from docs/protocol.md alone.

The real codec has to agree with it on every input: the same value, or both refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

Fields = tuple[Any, ...]


class RefusalError(Exception):
    """The twin's word for an input that is not well formed."""


def pack_message(code: int, seq: int, payload: bytes) -> bytes:
    return struct.pack("<QQB", 17 + len(payload), seq, code) + payload


def unpack_message(message: bytes, max_message: int) -> tuple[int, int, bytes]:
    code, seq = unpack_header(message[:17], len(message) - 17, max_message)
    return code, seq, message[17:]


def unpack_header(frame: bytes, payload_size: int, max_message: int) -> tuple[int, int]:
    if len(frame) != 17:
        raise RefusalError
    size, seq, code = struct.unpack("<QQB", frame)
    if size != 17 + payload_size or size > max_message:
        raise RefusalError
    return code, seq


def unpack_envelope(frame: bytes) -> tuple[int, int]:
    if len(frame) != 16:
        raise RefusalError
    number, acked = struct.unpack("<QQ", frame)
    return number, acked


class Form(NamedTuple):
    """Fixed fields, the most bytes after them, and which field repeats the number of these."""

    fields: str
    tail: int = 0
    size_at: int | None = None

    def pack(self, fields: Fields, tail: bytes) -> bytes:
        return struct.pack("<" + self.fields, *fields) + tail

    def unpack(self, payload: bytes) -> Fields:
        size = struct.calcsize("<" + self.fields)
        if not size <= len(payload) <= size + self.tail:
            raise RefusalError
        fields = struct.unpack("<" + self.fields, payload[:size])
        tail = payload[size:]
        if self.size_at is not None and fields[self.size_at] != len(tail):
            raise RefusalError
        return (*fields, tail) if self.tail else fields


ANY = 2**32 - 1
SYNC = Form("QQi", ANY, size_at=1)
RESULT = Form("i")

#: code: request, answer. File locks (15, 16) have functions of their own below.
FORMS: dict[int, tuple[Form | None, Form | None]] = {
    0: (Form("", ANY), None),
    1: (Form(""), Form("I")),
    2: (Form("IIIII"), None),
    3: (Form(""), Form("II")),
    4: (Form("II"), RESULT),
    5: (Form("II"), RESULT),
    6: (Form("I"), Form("I")),
    7: (Form("IIIiI"), RESULT),
    8: (Form("II"), Form("Qi", 2**24, size_at=0)),
    **dict.fromkeys((9, 10, 11, 12, 13, 14), (SYNC, None)),
    15: (None, RESULT),
    16: (None, Form("iIiQQIQ")),
    17: (Form("I"), RESULT),
    18: (Form("i", 2**16), None),
    19: (Form("IHIIQ", 255), None),
    20: (Form("", 2**16), Form("", 2**16)),
    21: (Form(""), RESULT),
    22: (Form(""), None),
    23: (Form("Q"), None),
    24: (Form(""), None),
    25: (Form("Q"), None),
    26: (Form(""), Form("", 2**26)),
    27: (Form("II"), None),
    28: (Form("II"), None),
    29: (Form("II"), None),
    30: (Form("I"), Form("iIIIQIIIQ")),
    31: (Form("Q"), RESULT),
    32: (Form("II"), RESULT),
    33: (Form("I"), None),
    34: (Form("II"), RESULT),
    35: (Form("B", 65792), RESULT),
    36: (Form("I", 65792), Form("i", 65792)),
    37: (None, Form("iQ")),
    38: (Form("Q"), RESULT),
    39: (Form(""), Form("", 2**26)),
    40: (Form("IQQQii"), None),
    41: (Form("IQQQ"), None),
    42: (Form("IQQQ"), None),
    43: (Form("QB", 65792), Form("Q")),
    **dict.fromkeys(range(44, 49), (SYNC, None)),
    49: (Form(""), Form("", 2**26)),
    56: (Form("I", 512), Form("", 512)),
    50: (Form("IQQB"), None),
    51: (Form("I"), None),
    52: (Form("I"), None),
    53: (Form("iiI"), None),
    54: (Form("iiI"), None),
    55: (Form(""), None),
    57: (Form(""), Form("")),
    58: (Form("Q", 2**26), Form("QQ")),
    59: (Form(""), None),
    60: (Form("IIIQQ"), None),
}


def pack_file_lock(lock: Fields) -> bytes:
    *fields, path, device, inode, thread = lock
    head = struct.pack("<IiQQIQB", *fields)
    return b"".join((head, path, b"\0", struct.pack("<QQI", device, inode, thread)))


def unpack_file_lock(payload: bytes) -> Fields:
    head, path, nul, place = payload[:37], payload[37:-21], payload[-21:-20], payload[-20:]
    if len(payload) < 37 + 21 or len(path) > 4096:
        raise RefusalError
    if nul != b"\0" or b"\0" in path or head[36] > 1:
        raise RefusalError
    *fields, wait = struct.unpack("<IiQQIQB", head)
    return (*fields, bool(wait), path, *struct.unpack("<QQI", place))


def outcome(refusal: type[Exception], function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns, or the word "refused" when it raises `refusal`."""
    try:
        return function(*args)
    except refusal:
        return "refused"
