"""The wire in one table: which codes there are, what each carries, who sends it to whom.

`ROWS` has a row for every message of the library (0 … 63); codes 64 … 255 belong to programs
and have none. Everything is little-endian and packed; a row's layouts name the fixed fields of
request and answer as `struct` would after '<', and bound the bytes that may follow them.

Decoding checks the length of a payload against its code before it reads a field, and whatever
two fields of one message say about each other: a data size is the size of the data, a path ends
where its NUL stands. What a value *means* (a state, a signal, an owner) is judged by the machine
that receives it. What came from outside and is wrong raises `ProtocolError`; what the caller
passes and is wrong raises `ValueError`, `TypeError` or `OverflowError`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from libos_ipc._native import Layout, Malformed
from libos_ipc.core.codes import FIRST_USER_CODE, LAST_USER_CODE, Code
from libos_ipc.errors import ProtocolError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CRED",
    "FIRST_USER_CODE",
    "LAST_LIBRARY_CODE",
    "LAST_USER_CODE",
    "MAGIC",
    "PATH_MAX_BYTES",
    "PROTOCOL_VERSION",
    "ROWS",
    "Code",
    "FileLock",
    "Row",
    "decode",
    "decode_answer",
    "decode_error",
    "decode_file_lock",
    "encode",
    "encode_answer",
    "encode_error",
    "encode_file_lock",
]

#: First field of a hello: the bytes "LIPC".
MAGIC: Final = int.from_bytes(b"LIPC", "little")
PROTOCOL_VERSION: Final = 1

LAST_LIBRARY_CODE: Final = FIRST_USER_CODE - 1

# Bounds of what follows the fixed fields, in bytes. `max_message` bounds every message besides.
PATH_MAX_BYTES: Final = 4096
GROUP_NAME_MAX_BYTES: Final = 255
ERROR_TEXT_MAX_BYTES: Final = 2**16
JOIN_MAX_BYTES: Final = 2**16
META_MAX_BYTES: Final = 2**24
ENTRY_MAX_BYTES: Final = 2**16 + 2**8
MEMBERS_MAX_BYTES: Final = 2**26
DATA_MAX_BYTES: Final = 2**32 - 1
TRADE_MAX_BYTES: Final = 64 * 8  # pairs of IDs
BACK_MAX_BYTES: Final = 2**26  # numbers of requests


class Row(NamedTuple):
    """One kind of message. `answer` is None where none is sent, or not under this number.

    The `…_size_at` name the field, if there is one, that repeats the size of the tail.
    """

    code: Code
    sender: str
    receiver: str
    request: Layout
    answer: Layout | None = None
    request_size_at: int | None = None
    answer_size_at: int | None = None

    @property
    def name(self) -> str:
        """The name of the code."""
        return self.code.name


#: The data of a PID_GETMETA answer about credentials: uid, gid.
CRED: Final = Layout("II")

_EMPTY = Layout("")
_RESULT = Layout("i")
_ID = Layout("I")
_RANGE = Layout("II")
_SYNC = Layout("QQi", DATA_MAX_BYTES)
_CHILD = Layout("II")

# A file lock has a second run of fixed fields behind its path; its NUL is the first of them.
_LOCK_FILE = Layout("BQQI")
_LOCK = Layout("IiQQIQB", PATH_MAX_BYTES + _LOCK_FILE.size)
_LOCK_FOUND = Layout("iIiQQIQ")

ROWS: Final[dict[Code, Row]] = {
    row.code: row
    for row in (
        Row(Code.RESP, "anyone", "requester", Layout("", DATA_MAX_BYTES)),
        Row(Code.GET_NEW_VMID, "member", "leader", _EMPTY, _ID),
        Row(Code.CHILDEXIT, "child", "parent", Layout("IIIII")),
        Row(Code.ALLOC_ID_RANGE, "member", "leader", _EMPTY, _RANGE),
        Row(Code.RELEASE_ID_RANGE, "member", "leader", _RANGE, _RESULT),
        Row(Code.CHANGE_ID_OWNER, "member", "leader", Layout("II"), _RESULT),
        Row(Code.GET_ID_OWNER, "member", "leader", _ID, _ID),
        Row(Code.PID_KILL, "member", "owner or leader", Layout("IIIiI"), _RESULT),
        Row(
            Code.PID_GETMETA,
            "member",
            "owner",
            Layout("II"),
            Layout("Qi", META_MAX_BYTES),
            answer_size_at=0,
        ),
        Row(Code.SYNC_REQUEST_UPGRADE, "client", "server", _SYNC, request_size_at=1),
        Row(Code.SYNC_REQUEST_DOWNGRADE, "server", "client", _SYNC, request_size_at=1),
        Row(Code.SYNC_REQUEST_CLOSE, "client", "server", _SYNC, request_size_at=1),
        Row(Code.SYNC_CONFIRM_UPGRADE, "server", "client", _SYNC, request_size_at=1),
        Row(Code.SYNC_CONFIRM_DOWNGRADE, "client", "server", _SYNC, request_size_at=1),
        Row(Code.SYNC_CONFIRM_CLOSE, "server", "client", _SYNC, request_size_at=1),
        Row(Code.FILE_LOCK_SET, "member", "leader", _LOCK, _RESULT),
        Row(Code.FILE_LOCK_GET, "member", "leader", _LOCK, _LOCK_FOUND),
        Row(Code.FILE_LOCK_CLEAR_PID, "member", "leader", _ID, _RESULT),
        Row(Code.ERROR, "anyone", "requester", Layout("i", ERROR_TEXT_MAX_BYTES)),
        Row(Code.HELLO, "anyone", "anyone", Layout("IHIIQ", GROUP_NAME_MAX_BYTES)),
        Row(
            Code.JOIN,
            "member",
            "leader",
            Layout("", JOIN_MAX_BYTES),
            Layout("", JOIN_MAX_BYTES),
        ),
        Row(Code.LEAVE, "member", "leader", _EMPTY, _RESULT),
        Row(Code.ACK, "anyone", "anyone", _EMPTY),
        Row(Code.CREDIT, "receiver", "sender", Layout("Q")),
        Row(Code.PROBE, "sender", "receiver", _EMPTY),
        Row(Code.CANCEL, "requester", "anyone", Layout("Q")),
        Row(Code.GET_MEMBERS, "member", "leader", _EMPTY, Layout("", MEMBERS_MAX_BYTES)),
        Row(Code.CHILD_STARTED, "parent", "leader", _CHILD),
        Row(Code.CHILD_LOST, "parent", "leader", _CHILD),
        Row(Code.CHILD_JOINED, "leader", "parent", _CHILD),
        Row(Code.GET_PROCESS, "member", "leader", _ID, Layout("iIIIQIIIQ")),
        Row(Code.SET_CAUGHT, "member", "leader", Layout("Q"), _RESULT),
        Row(Code.SET_PGID, "member", "leader", Layout("II"), _RESULT),
        Row(Code.PGID_CHANGED, "leader", "member", _ID),
        Row(Code.SET_THREAD, "member", "leader", Layout("II"), _RESULT),
        Row(Code.SET_META, "member", "leader", Layout("B", ENTRY_MAX_BYTES), _RESULT),
        Row(
            Code.GET_META,
            "member",
            "leader",
            Layout("I", ENTRY_MAX_BYTES),
            Layout("i", ENTRY_MAX_BYTES),
        ),
        Row(Code.FILE_LOCK_TAKE, "member", "leader", _LOCK, Layout("iQ")),
        Row(Code.FILE_LOCK_WITHDRAW, "member", "leader", Layout("Q"), _RESULT),
        Row(Code.FILE_LOCK_TABLE, "member", "leader", _EMPTY, Layout("", MEMBERS_MAX_BYTES)),
        Row(Code.HANDLE_AT, "member", "leader", Layout("IQQQii")),
        Row(Code.HANDLE_DROPPED, "leader", "member", Layout("IQQQ")),
        Row(Code.HANDLE_CLOSED, "member", "leader", Layout("IQQQ")),
        Row(Code.SYNC_OPEN, "client", "server", Layout("QB", ENTRY_MAX_BYTES), Layout("Q")),
        Row(Code.SYNC_WITHDRAW, "client", "server", _SYNC, request_size_at=1),
        Row(Code.SYNC_IN_USE, "client", "server", _SYNC, request_size_at=1),
        Row(Code.SYNC_LOCAL_WAIT, "client", "server", _SYNC, request_size_at=1),
        Row(Code.SYNC_REFUSE, "server", "client", _SYNC, request_size_at=1),
        Row(Code.SYNC_RESUME, "client", "server", _SYNC, request_size_at=1),
        Row(Code.SYNC_TABLE, "member", "leader", _EMPTY, Layout("", MEMBERS_MAX_BYTES)),
        Row(Code.FILE_DELEGATED, "leader", "member", Layout("IQQB")),
        Row(Code.FILE_RECALLED, "leader", "member", Layout("I")),
        Row(Code.FILE_RETURNED, "member", "leader", Layout("I")),
        Row(Code.LANE_OFFER, "anyone", "anyone", Layout("iiI")),
        Row(Code.LANE_TAKEN, "anyone", "anyone", Layout("iiI")),
        Row(Code.LANE_OPEN, "anyone", "anyone", _EMPTY),
        Row(
            Code.TRADE_ID_RANGES,
            "member",
            "leader",
            Layout("I", TRADE_MAX_BYTES),
            Layout("", TRADE_MAX_BYTES),
        ),
        Row(Code.PING, "anyone", "anyone", _EMPTY, _EMPTY),
        Row(Code.BACK, "member", "leader", Layout("Q", BACK_MAX_BYTES), Layout("QQ")),
        Row(Code.NEW_EPOCH, "leader", "member", _EMPTY),
        Row(Code.FILE_IN_TURNS, "leader", "member", Layout("IIIQQ")),
    )
}


class FileLock(NamedTuple):
    """What a file lock request says: `start` … `end` (both included) of one file, for one owner.

    `path` is for people and at most `PATH_MAX_BYTES` long; device and inode are the file.
    """

    family: int
    type: int
    start: int
    end: int
    pid: int
    handle_id: int
    wait: int  #: 0 no, 1 for ever, 2 until the sender withdraws it
    path: bytes
    device: int
    inode: int
    thread: int


class _Format:
    """A layout, the field that repeats the size of its tail, and how errors speak of it."""

    __slots__ = ("layout", "size_at", "title")

    def __init__(self, title: str, layout: Layout, size_at: int | None) -> None:
        self.title = title
        self.layout = layout
        self.size_at = size_at

    def pack(self, fields: tuple[int, ...], tail: Buffer) -> bytes:
        payload = self.layout.pack(*fields, tail=tail)
        if self.size_at is not None:
            size = len(payload) - self.layout.size
            if fields[self.size_at] != size:
                raise ValueError(f"{self.title}: data size {fields[self.size_at]} for {size} bytes")
        return payload

    def unpack(self, payload: Buffer) -> tuple[Any, ...]:
        try:
            fields = self.layout.unpack(payload)
        except Malformed as malformed:
            raise self.broken(str(malformed)) from malformed
        if self.size_at is not None and fields[self.size_at] != len(fields[-1]):
            size = fields[self.size_at]
            raise self.broken(f"expected {size} bytes of data, found {len(fields[-1])}")
        return fields

    def broken(self, finding: str) -> ProtocolError:
        return ProtocolError(f"{self.title}: {finding}")


class _FileLockFormat(_Format):
    """A path between two runs of fixed fields, the second of which begins with its NUL."""

    __slots__ = ()

    def pack(self, fields: tuple[int, ...], tail: Buffer) -> bytes:
        raise ValueError(f"{self.title} is encoded by encode_file_lock")

    def unpack(self, payload: Buffer) -> FileLock:
        *fields, wait, rest = super().unpack(payload)
        path_size = len(rest) - _LOCK_FILE.size
        if path_size < 0:
            raise self.broken(f"expected {_LOCK_FILE.size} bytes after the path, found {len(rest)}")
        _, device, inode, thread = _LOCK_FILE.unpack(rest[path_size:])
        if rest.find(b"\0", 0, path_size + 1) != path_size:
            raise self.broken(f"expected the first NUL after {path_size} bytes of path")
        if wait > 2:
            raise self.broken(f"expected wait to be 0, 1 or 2, found {wait}")
        return FileLock._make((*fields, wait, rest[:path_size], device, inode, thread))


def _request_format(row: Row) -> _Format:
    kind = _FileLockFormat if row.request is _LOCK else _Format
    return kind(f"{row.name} ({row.code})", row.request, row.request_size_at)


_REQUESTS: Final[dict[int, _Format]] = {row.code: _request_format(row) for row in ROWS.values()}
_ANSWERS: Final[dict[int, _Format]] = {
    row.code: _Format(f"answer to {row.name} ({row.code})", row.answer, row.answer_size_at)
    for row in ROWS.values()
    if row.answer is not None
}


def encode(code: int, *fields: int, tail: Buffer = b"") -> bytes:
    """The payload of a message of this code.

    >>> encode(Code.RELEASE_ID_RANGE, 33, 64).hex()
    '2100000040000000'

    A file lock is encoded by `encode_file_lock`.
    """
    return _to_send(_REQUESTS, code).pack(fields, tail)


def decode(code: int, payload: Buffer) -> tuple[Any, ...]:
    """The fields of a message of this code, then its tail as bytes if the row allows one.

    >>> decode(Code.RELEASE_ID_RANGE, bytes.fromhex("2100000040000000"))
    (33, 64)

    A file lock comes as a `FileLock`.
    """
    return _received(_REQUESTS, code).unpack(payload)


def encode_answer(code: int, *fields: int, tail: Buffer = b"") -> bytes:
    """The payload of the answer to a request of this code."""
    return _to_send(_ANSWERS, code).pack(fields, tail)


def decode_answer(code: int, payload: Buffer) -> tuple[Any, ...]:
    """The fields of the answer to a request of this code, then its tail if one is allowed."""
    return _received(_ANSWERS, code).unpack(payload)


def encode_file_lock(lock: FileLock) -> bytes:
    """The payload of FILE_LOCK_SET and of FILE_LOCK_GET."""
    if b"\0" in lock.path or len(lock.path) > PATH_MAX_BYTES:
        raise ValueError(f"a path has at most {PATH_MAX_BYTES} bytes and no NUL: {lock.path!r:.99}")
    place = _LOCK_FILE.pack(0, lock.device, lock.inode, lock.thread)
    return _LOCK.pack(*lock[:6], int(lock.wait), tail=lock.path + place)


def decode_file_lock(payload: Buffer) -> FileLock:
    """The reverse of `encode_file_lock`."""
    lock = decode(Code.FILE_LOCK_SET, payload)
    assert isinstance(lock, FileLock)
    return lock


def encode_error(number: int, text: str) -> bytes:
    """The payload of ERROR. Never fails: it reports failures, whatever these look like.

    A text over `ERROR_TEXT_MAX_BYTES` is cut between two characters, a lone surrogate becomes
    "?", and a number that is no errno becomes EIO.
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > ERROR_TEXT_MAX_BYTES:
        encoded = encoded[:ERROR_TEXT_MAX_BYTES].decode("utf-8", "ignore").encode("utf-8")
    return encode(Code.ERROR, number if 0 < number < 2**31 else errno.EIO, tail=encoded)


def decode_error(payload: Buffer) -> tuple[int, str]:
    """Number and text of an ERROR; bytes that are no UTF-8 become replacement characters."""
    number, encoded = decode(Code.ERROR, payload)
    return number, encoded.decode("utf-8", "replace")


def _to_send(formats: dict[int, _Format], code: int) -> _Format:
    try:
        return formats[code]
    except KeyError:
        raise ValueError(f"{_title(formats, code)} has no layout") from None


def _received(formats: dict[int, _Format], code: int) -> _Format:
    try:
        return formats[code]
    except KeyError:
        raise ProtocolError(f"{_title(formats, code)}: expected none, found one") from None


def _title(formats: dict[int, _Format], code: int) -> str:
    name = _REQUESTS[code].title if code in _REQUESTS else f"code {code}"
    return f"answer to {name}" if formats is _ANSWERS else name
