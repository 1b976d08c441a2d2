"""The journal of one epoch on its medium: records one behind the other in a file in memory.

    magic, 8 bytes | word, u64 | leader's OS pid, u64 | its VMID, u64 | place, u64 | record, …
    word:   bits 0 … 39 the committed length, 40 … 61 how often it was shortened,
            62 the records lie at `place`, 63 sealed
    record: length u32, CRC-32 u32, msgpack

A record counts only once the committed length, which is written last, includes it; so a leader
killed in the middle of writing leaves the journal as it was before. The length is changed in one
step, and only as long as nobody has sealed the journal: that is how a successor knows that what
it has read is all that there will ever be (`core/succession.py`). A journal is begun with its first
commit; before that, what lies in the file may be from somebody who died while writing it.

A journal that has become long is *shortened*: one record takes the place of all. It is written
behind them, then the word is swung there, in one step as ever; then it is written in front, over
what does not count any more, and the word is swung back. So a leader may be killed anywhere: the
word names records that are whole, the old ones or the new one. And who has sealed it finds that
nothing moves any more.

The pages belong to the file system in memory: they outlive the process, not the machine.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from libos_ipc._native import exchange_word
from libos_ipc.errors import ProtocolError

__all__ = [
    "Head",
    "JournalFile",
    "JournalSealed",
    "read_bytes",
    "read_head",
    "read_journal",
    "records_of",
    "retire",
    "seal",
]

MAGIC = b"LIPCJ\0\0\3"
_HEAD = struct.Struct("<8s4Q")
_LEADER = struct.Struct("<2Q")
_PLACE = struct.Struct("<Q")
_RECORD = struct.Struct("<II")
_WORD = len(MAGIC)
_SEALED = 1 << 63
_ELSEWHERE = 1 << 62
_SHORTENED = 1 << 40  # counted from here on
_LENGTH = _SHORTENED - 1
FIRST_SIZE = 1 << 16
#: Bytes of records from which on a journal may be long; and it is when it has twice as many as when
#: it was shortened last.
LONG = 1 << 15

Record: TypeAlias = tuple[object, ...]


class JournalSealed(Exception):
    """A successor has sealed the journal: nothing more can be committed to it."""


class Head(NamedTuple):
    """What a journal says of itself."""

    committed: int  #: bytes of records; 0 as long as it is not begun
    sealed: bool
    os_pid: int
    vmid: int


class JournalFile:
    """The end of who leads the epoch, or is about to: appends. One writer."""

    def __init__(self, path: str) -> None:
        self._fd = _open(path)
        try:
            self._map = _map(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise
        self._path = path
        self._encode = msgspec.msgpack.Encoder().encode
        self._end = _HEAD.size
        self._word = 0  # as we have left it
        self._begun = False
        self._limit = LONG

    def copy(self, records: bytes) -> None:
        """Before it is begun: take over what an earlier journal holds."""
        end = self._end + len(records)
        self._make_room(end)
        self._map[self._end : end] = records
        self._end = end
        first, _ = _RECORD.unpack_from(records)
        self._limit = max(LONG, 2 * first)

    def begin(self, os_pid: int, vmid: int) -> None:
        """Commit what was appended so far; from now on everybody sees who leads. JournalSealed."""
        _LEADER.pack_into(self._map, _WORD + 8, os_pid, vmid)
        self._swing(self._end - _HEAD.size)
        self._begun = True

    def append(self, record: Record) -> None:
        """Write one record, and commit it once the journal is begun.

        OSError(ENOSPC) when memory is full, JournalSealed: nothing is written then.
        """
        before = self._end
        self._end = self._write(before, record)
        if self._begun:
            self._swing(self._word + self._end - before)

    @property
    def is_long(self) -> bool:
        """Whether it is time to shorten it."""
        return self._end - _HEAD.size > self._limit

    def shorten(self, state: Callable[[], Record]) -> None:
        """Have one record, which says the same, in the place of all. It is begun.

        OSError(ENOSPC) when memory is full, JournalSealed, or what `state` raises: then the others
        count, and it is time again when they are twice as many.
        """
        front, back = _HEAD.size, self._end
        self._limit = 2 * (back - front)
        end = self._write(back, state())
        length = end - back
        if length > back - front:
            return
        _PLACE.pack_into(self._map, front - _PLACE.size, back)
        times = (self._word + _SHORTENED) & ~_LENGTH & (_ELSEWHERE - 1)
        self._swing(times | length | _ELSEWHERE)
        self._end = end
        self._map[front : front + length] = self._map[back:end]
        self._swing(self._word ^ _ELSEWHERE)
        self._end = front + length
        self._limit = max(LONG, 2 * length)
        size = max(FIRST_SIZE, 2 * self._end)
        if size < len(self._map):
            self._map.resize(size)

    @property
    def sealed(self) -> bool:
        """Whether a successor wants to lead, or does."""
        return bool(int.from_bytes(self._map[_WORD : _WORD + 8], "little") & _SEALED)

    def _write(self, at: int, record: Record) -> int:
        """Put a record there; where it ends."""
        data = self._encode(record)
        start, end = at + _RECORD.size, at + _RECORD.size + len(data)
        self._make_room(end)
        self._map[start:end] = data
        _RECORD.pack_into(self._map, at, len(data), zlib.crc32(data))
        return end

    def _swing(self, word: int) -> None:
        if exchange_word(self._map, _WORD, self._word, word) != self._word:
            raise JournalSealed(self._path)
        self._word = word

    def _make_room(self, least: int) -> None:
        if least > len(self._map):
            size = max(2 * len(self._map), least)
            # Allocated, not just extended: a full file system is an error here, not a SIGBUS later.
            os.posix_fallocate(self._fd, 0, size)
            self._map.resize(size)

    def close(self) -> None:
        """Give map and descriptor back; the file stays."""
        self._map.close()
        os.close(self._fd)


def seal(path: str) -> int:
    """Have nothing more committed to this journal, begun or not: the bytes that ever will be."""
    fd = _open(path)
    try:
        head = _map(fd, path)
    finally:
        os.close(fd)
    try:
        before = found = 0
        while not found & _SEALED:
            before = found
            found = exchange_word(head, _WORD, before, before | _SEALED)
            if found == before:
                return before & _LENGTH
        return found & _LENGTH
    finally:
        head.close()


def retire(path: str) -> None:
    """A later journal holds all that is in this one: keep its head, and give its memory back.

    The file is replaced, not cut off: who led this epoch may still have it mapped.
    """
    head = read_head(path)
    if head is None or not head.committed or os.path.getsize(path) == _HEAD.size:
        return
    with open(f"{path}.new", "wb") as file:
        file.write(_HEAD.pack(MAGIC, head.committed | _SEALED, head.os_pid, head.vmid, 0))
    os.rename(f"{path}.new", path)


def read_head(path: str) -> Head | None:
    """Who has begun this journal, if anybody has. None if there is no such file yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        data = os.read(fd, _HEAD.size)
    finally:
        os.close(fd)
    if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
        return None  # being made
    _, word, os_pid, vmid, _ = _HEAD.unpack(data)
    return Head(word & _LENGTH, bool(word & _SEALED), os_pid, vmid)


def read_bytes(path: str) -> bytes:
    """All committed records, as they lie there. ProtocolError where the file is damaged."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
        raise ProtocolError(f"{path} is no journal of this version")
    _, word, _, _, place = _HEAD.unpack_from(data)
    start = place if word & _ELSEWHERE else _HEAD.size
    end = start + (word & _LENGTH)
    if not _HEAD.size <= start <= end <= len(data):
        raise ProtocolError(f"{path} says {start} … {end} are committed, but has {len(data)} bytes")
    return data[start:end]


def records_of(data: bytes, path: str) -> Iterator[Record]:
    """The records in such bytes, in order. ProtocolError where they are damaged."""
    at = 0
    decode = msgspec.msgpack.Decoder().decode
    while at < len(data):
        if at + _RECORD.size > len(data):
            raise ProtocolError(f"{path}: cut off at byte {at}")
        length, crc = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        record = data[at : at + length]
        if at + length > len(data) or zlib.crc32(record) != crc:
            raise ProtocolError(f"{path}: damaged at byte {at}")
        at += length
        yield tuple(decode(record))


def read_journal(path: str) -> Iterator[Record]:
    """All committed records, in order. ProtocolError where the file is damaged."""
    return records_of(read_bytes(path), path)


def _open(path: str) -> int:
    """The file, made if need be. What lies in it stays: somebody may be sealing it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _map(fd: int, path: str) -> mmap.mmap:
    """All of it. OSError(ENOSPC) when memory is full."""
    os.posix_fallocate(fd, 0, FIRST_SIZE)
    mapped = mmap.mmap(fd, os.fstat(fd).st_size)
    if mapped[: len(MAGIC)] not in (bytes(len(MAGIC)), MAGIC):
        mapped.close()
        raise ProtocolError(f"{path} is no journal of this version")
    mapped[: len(MAGIC)] = MAGIC
    return mapped
