"""Values of sync handles as bytes, and what may be given to open one: keys and types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from libos_ipc.errors import InvalidArgument, InvalidRange

__all__ = ["PLAIN", "check_key", "check_type", "empty_value", "encode_value", "type_text"]

_encode = msgspec.msgpack.Encoder().encode
#: Types whose values cannot be changed in place, and so are decoded once for each version, with
#: what encodes any value of just this type, or says that it cannot be; None where it is bytes.
PLAIN: dict[Any, Callable[[Any], bytes] | None] = {
    bytes: None,
    int: _encode,
    float: _encode,
    str: _encode,
    bool: _encode,
}
_MOST_NAME = 4096
_CLASS = type


def empty_value(type: Any) -> Any:
    """The value of a handle that nobody has written: the type's own empty one, or None."""
    try:
        value = type()
        encode_value(type, value)
    except Exception:
        return None  # the type has none
    return value


def type_text(type: Any) -> str:
    """What must be the same for all who open a handle: `Point`, but `list[int]`."""
    return type.__qualname__ if isinstance(type, _CLASS) else str(type)


def check_type(type: Any) -> None:
    """InvalidArgument unless values can be of this type."""
    try:
        if isinstance(type, str) or type is None:
            raise TypeError("give the type itself")
        if type is not bytes:
            msgspec.msgpack.Decoder(type)
    except TypeError as error:
        raise InvalidArgument(f"{type!r:.60} is no type of a value: {error}") from None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_key(key: object) -> tuple[int, bytes]:
    """The ID, or 0, and the name, or nothing. InvalidArgument, InvalidRange."""
    if key is None:
        return 0, b""
    if isinstance(key, str):
        name = key.encode() if _is_utf8(key) else b""
        if not name or b"\0" in name or len(name) > _MOST_NAME:
            text = f"{key!r:.60} names no handle: 1 to {_MOST_NAME} bytes of UTF-8, no NUL"
            raise InvalidArgument(text)
        return 0, name
    if not isinstance(key, int) or isinstance(key, bool) or not 1 <= key < 2**32:
        raise InvalidRange(f"{key!r} is no ID: they are whole numbers in 1 … 2**32-1")
    return key, b""


def encode_value(type: Any, value: Any) -> bytes:
    """A value as msgpack, or as it is for `bytes`. InvalidArgument if it is not of this type."""
    if type is bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise InvalidArgument(f"the value is to be bytes, not {value!r:.60}: give a type")
        return bytes(value)
    try:
        data = msgspec.msgpack.encode(value)
        msgspec.msgpack.decode(data, type=type)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"the value is no {type_text(type)}: {error}") from None
    return data
