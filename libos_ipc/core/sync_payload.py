"""What stands in the payload of sync messages: (id, size of the data, state, data).

All messages of sync handles have this one layout, the model's and our own additions. What the
data means depends on the message, and is opaque to everybody between client and server:

    CONFIRM_UPGRADE, CONFIRM_DOWNGRADE,    version, flags [`QB`], then the value itself, or size
    REQUEST_CLOSE, RESUME                  [`Q`] and place of a large one in shared memory;
                                           in the first of them before that, by a flag, the place
                                           of a baton [`IIQ`]
    REQUEST_UPGRADE                        number, thread, timed [`QI?`]
    WITHDRAW                               number [`Q`]
    IN_USE                                 thread [`I`]
    LOCAL_WAIT                             number, thread, user [`QII`]
    REFUSE                                 number, errno [`Qi`], text
    REQUEST_DOWNGRADE, CONFIRM_CLOSE       nothing

No data at all where a value may stand means that there is none; in a REQUEST_UPGRADE, that
nobody in particular waits. States are not judged here, but by the machine that they reach.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from libos_ipc.core.sync_words import (
    ClientWord,
    ConfirmClose,
    ConfirmDowngrade,
    ConfirmUpgrade,
    InUse,
    LocalWait,
    Reference,
    RefuseWait,
    RequestClose,
    RequestDowngrade,
    RequestUpgrade,
    Resume,
    ServerWord,
    State,
    Value,
    WithdrawWait,
)
from libos_ipc.core.vocabulary import make
from libos_ipc.errors import ProtocolError

__all__ = ["TEXT_MAX_BYTES", "Fields", "Word", "pack", "unpack"]

Word: TypeAlias = ClientWord | ServerWord
#: id, size of the data in bytes, state, data.
Fields: TypeAlias = tuple[int, int, int, bytes]

#: The longest reason for a refusal; what is over it is cut off.
TEXT_MAX_BYTES = 4096

_VALUE = struct.Struct("<QB")
_SIZE = struct.Struct("<Q")
_WANTED = struct.Struct("<QI?")
_NUMBER = struct.Struct("<Q")
_THREAD = struct.Struct("<I")
_LOCAL = struct.Struct("<QII")
_REFUSAL = struct.Struct("<Qi")
_PLACE = struct.Struct("<IIQ")

# Flags of a value.
_OWNER_DIED = 1
_REFERENCE = 2
_NO_VALUE = 4
_BATON = 8


def pack(word: Word) -> Fields:
    """The fields of the message that `word` is."""
    data = _PACK[type(word)](word)
    state = getattr(word, "state", State.INVALID)
    return word.id, len(data), int(state), data


def unpack(kind: type[Word], fields: Fields) -> Word:
    """The word of this kind with these fields. ProtocolError if the data is none of its kind."""
    id, size, state, data = fields
    try:
        if size != len(data):
            raise ValueError(f"{len(data)} bytes of data announced as {size}")
        return _UNPACK[kind](id, state, data)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"{kind.__name__} about sync handle {id}: {error}") from None


def _pack_value(word: ConfirmUpgrade | ConfirmDowngrade | RequestClose | Resume) -> bytes:
    flags = _OWNER_DIED if word.owner_died else 0
    if word.value is None:
        return _VALUE.pack(0, flags | _NO_VALUE) if flags else b""
    version, data = word.value
    if isinstance(data, bytes):
        return _VALUE.pack(version, flags) + data
    return _VALUE.pack(version, flags | _REFERENCE) + _SIZE.pack(data.size) + data.where


def _unpack_value(data: bytes) -> tuple[Value | None, bool]:
    if not data:
        return None, False
    version, flags = _VALUE.unpack_from(data)
    if flags & ~(_OWNER_DIED | _REFERENCE | _NO_VALUE):
        raise ValueError(f"unknown flags {flags:#x}")
    rest = data[_VALUE.size :]
    owner_died = bool(flags & _OWNER_DIED)
    if flags & _NO_VALUE:
        if rest or version or flags & _REFERENCE:
            raise ValueError("a value where none was announced")
        return None, owner_died
    if flags & _REFERENCE:
        (size,) = _SIZE.unpack_from(rest)
        return Value(version, Reference(rest[_SIZE.size :], size)), owner_died
    return make(Value, (version, rest)), owner_died


def _pack_refusal(word: RefuseWait) -> bytes:
    text = word.text.encode("utf-8", "replace")[:TEXT_MAX_BYTES]
    return _REFUSAL.pack(word.number, word.errno) + text


def _unpack_refusal(id: int, state: int, data: bytes) -> RefuseWait:
    number, errno = _REFUSAL.unpack_from(data)
    text = data[_REFUSAL.size :][:TEXT_MAX_BYTES].decode("utf-8", "replace")
    return RefuseWait(id, number, errno, text)


def _unpack_upgrade(id: int, state: int, data: bytes) -> RequestUpgrade:
    number, thread, timed = _WANTED.unpack(data) if data else (0, 0, True)
    return make(RequestUpgrade, (id, state, number, thread, timed))


def _pack_confirmed(word: ConfirmUpgrade) -> bytes:
    data = _pack_value(word)
    if word.baton is None:
        return data
    version, flags = _VALUE.unpack_from(data)
    head = _VALUE.pack(version, flags | _BATON)
    return head + _PLACE.pack(*word.baton) + data[_VALUE.size :]


def _unpack_confirmed(id: int, state: int, data: bytes) -> ConfirmUpgrade:
    baton = None
    if len(data) >= _VALUE.size and data[_VALUE.size - 1] & _BATON:
        version, flags = _VALUE.unpack_from(data)
        baton = _PLACE.unpack_from(data, _VALUE.size)
        data = _VALUE.pack(version, flags ^ _BATON) + data[_VALUE.size + _PLACE.size :]
    value, owner_died = _unpack_value(data)
    if value is None:
        raise ValueError("an upgrade without a value")
    return make(ConfirmUpgrade, (id, state, value, owner_died, baton))


def _unpack_empty(word: Word, data: bytes) -> Word:
    if data:
        raise ValueError(f"{len(data)} bytes too many")
    return word


_PACK: dict[type[Word], Callable[..., bytes]] = {
    RequestUpgrade: lambda word: _WANTED.pack(word.number, word.thread, word.timed),
    WithdrawWait: lambda word: _NUMBER.pack(word.number),
    ConfirmDowngrade: _pack_value,
    RequestClose: _pack_value,
    InUse: lambda word: _THREAD.pack(word.thread),
    LocalWait: lambda word: _LOCAL.pack(word.number, word.thread, word.user),
    Resume: _pack_value,
    RequestDowngrade: lambda word: b"",
    ConfirmUpgrade: _pack_confirmed,
    ConfirmClose: lambda word: b"",
    RefuseWait: _pack_refusal,
}

_UNPACK: dict[type[Word], Callable[[int, int, bytes], Word]] = {
    RequestUpgrade: _unpack_upgrade,
    WithdrawWait: lambda id, state, data: WithdrawWait(id, *_NUMBER.unpack(data)),
    ConfirmDowngrade: lambda id, state, data: make(
        ConfirmDowngrade, (id, state, *_unpack_value(data))
    ),
    RequestClose: lambda id, state, data: RequestClose(id, state, *_unpack_value(data)),
    InUse: lambda id, state, data: make(InUse, (id, state, *_THREAD.unpack(data))),
    LocalWait: lambda id, state, data: LocalWait(id, state, *_LOCAL.unpack(data)),
    Resume: lambda id, state, data: Resume(id, state, *_unpack_value(data)),
    RequestDowngrade: lambda id, state, data: _unpack_empty(
        make(RequestDowngrade, (id, state)), data
    ),
    ConfirmUpgrade: _unpack_confirmed,
    ConfirmClose: lambda id, state, data: _unpack_empty(ConfirmClose(id), data),
    RefuseWait: _unpack_refusal,
}
