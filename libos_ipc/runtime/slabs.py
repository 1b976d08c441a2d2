"""What a process has committed, in memory that outlives it: for the leader to read if it dies.

Each process has files in the group's directory, *slabs* of a mebibyte, mapped as long as it is
a member. A slab is a row of records of different sizes, one for each handle that the process has
changed; a record has room for two values and is used again for the next value of its handle:

    capacity, in use u32 | handle u64 | word u64 | size u32, size u32 | crc u32, crc u32 | A | B

The *word* is written last: twice the version, plus which of the two holds it. So whenever the
process dies, one of the two is whole, and the word says which. Records follow one another without
a gap; a free one has handle 0, and where the capacity is 0 the slab ends.

Large values lie in files of their own, named for handle and version; a record then holds the name.
What is read here was written by another process, and is believed in nothing: every number is
read once and checked before use.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator

from libos_ipc.core.sync_words import Data, Reference, Remains, Value

__all__ = [
    "LARGE",
    "SLAB_BYTES",
    "Slabs",
    "read_large",
    "read_remains",
    "remove_large",
    "write_large",
]

#: From this many bytes on a value is a file of its own.
LARGE = 1 << 16
SLAB_BYTES = 1 << 20
#: Slabs that are read of a dead process.
_MOST_SLABS = 4096

_HEAD = struct.Struct("<IIQQIIII")
_WORD = struct.Struct("<Q")
_USE = struct.Struct("<I")
_WORD_AT = 16
_USE_AT = 4
_SIZES_AT = 24
#: What stands before each value in a record: the flag of a reference, and its size.
_PREFIX = struct.Struct("<BQ")
_SMALLEST = 64
_LARGE_NAME = re.compile(r"value-\d+-\d+-\d+")


class _Record:
    __slots__ = ("at", "capacity", "slab")

    def __init__(self, slab: mmap.mmap, at: int, capacity: int) -> None:
        self.slab = slab
        self.at = at
        self.capacity = capacity


class Slabs:
    """The writer's end, of one process in one group. Under the session's lock."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._maps: list[mmap.mmap] = []
        self._end = SLAB_BYTES
        self._records: dict[int, _Record] = {}
        self._free: dict[int, list[_Record]] = {}

    def reserve(self, id: int, size: int) -> None:
        """Make sure that so many bytes can be published. OSError where memory is full."""
        size = min(size, LARGE) + _PREFIX.size
        record = self._records.get(id)
        if record is None or record.capacity < size:
            capacity = _SMALLEST
            while capacity < size:
                capacity *= 2
            fresh = self._take(capacity)
            if record is not None:
                self._move(id, record, fresh)
            else:
                _HEAD.pack_into(fresh.slab, fresh.at, capacity, 0, id, 0, 0, 0, 0, 0)
            self._records[id] = fresh

    def publish(self, id: int, version: int, data: Data) -> None:
        """Commit: what has been reserved is filled, and then counts. Not interrupted by failure."""
        record = self._records[id]
        body, place = _in_record(data), record.at
        slot = 1 - (_WORD.unpack_from(record.slab, place + _WORD_AT)[0] & 1)
        start = place + _HEAD.size + slot * record.capacity
        record.slab[start : start + len(body)] = body
        struct.pack_into("<I", record.slab, place + _SIZES_AT + 4 * slot, len(body))
        struct.pack_into("<I", record.slab, place + _SIZES_AT + 8 + 4 * slot, zlib.crc32(body))
        _WORD.pack_into(record.slab, place + _WORD_AT, version << 1 | slot)

    def set_use(self, id: int, in_use: bool) -> None:
        """Whether somebody is between lock and unlock, and what is there may be half done."""
        record = self._records.get(id)
        if record is not None:
            _USE.pack_into(record.slab, record.at + _USE_AT, in_use)

    def forget(self, id: int) -> None:
        """The handle is closed: its record is free."""
        record = self._records.pop(id, None)
        if record is not None:
            self._give(record)

    def _take(self, capacity: int) -> _Record:
        free = self._free.get(capacity)
        if free:
            return free.pop()
        size = _HEAD.size + 2 * capacity
        if self._end + size > SLAB_BYTES:
            self._grow()
        record = _Record(self._maps[-1], self._end, capacity)
        self._end += size
        return record

    def _give(self, record: _Record) -> None:
        _HEAD.pack_into(record.slab, record.at, record.capacity, 0, 0, 0, 0, 0, 0, 0)
        self._free.setdefault(record.capacity, []).append(record)

    def _move(self, id: int, old: _Record, new: _Record) -> None:
        """A larger record takes over what the old one holds: it says so before the old one goes."""
        _, in_use, _, word, *sizes = _HEAD.unpack_from(old.slab, old.at)
        for slot in (0, 1):
            source = old.at + _HEAD.size + slot * old.capacity
            target = new.at + _HEAD.size + slot * new.capacity
            size = sizes[slot]
            new.slab[target : target + size] = old.slab[source : source + size]
        _HEAD.pack_into(new.slab, new.at, new.capacity, in_use, id, word, *sizes)
        self._give(old)

    def _grow(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        path = f"{self._prefix}{len(self._maps)}"
        fd = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(fd, 0, SLAB_BYTES)
            self._maps.append(mmap.mmap(fd, SLAB_BYTES))
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        self._end = 0

    def close(self) -> None:
        """Unmap. The files stay until the leader has done with them."""
        for each in self._maps:
            each.close()
        self._maps.clear()
        self._records.clear()
        self._free.clear()
        self._end = SLAB_BYTES


def _in_record(data: Data) -> bytes:
    if isinstance(data, Reference):
        return _PREFIX.pack(1, data.size) + data.where
    return _PREFIX.pack(0, len(data)) + data


# ---- the reader's end: the leader, when a process has died


def read_remains(prefix: str) -> Callable[[int], Remains]:
    """What the process of these slabs has left, by handle."""
    found: dict[int, Remains] = {}
    for number in range(_MOST_SLABS):
        try:
            with open(f"{prefix}{number}", "rb") as file:
                slab = file.read(SLAB_BYTES)
        except OSError:
            break
        for id, remains in _records_of(slab):
            before = found.get(id)
            newer = before is None or before.value is None or remains.value is None
            if newer or remains.value.version >= before.value.version:  # type: ignore[union-attr]
                found[id] = remains
    return lambda id: found.get(id, Remains(None, False))


def _records_of(slab: bytes) -> Iterator[tuple[int, Remains]]:
    at = 0
    while at + _HEAD.size <= len(slab):
        capacity, in_use, id, word, *rest = _HEAD.unpack_from(slab, at)
        end = at + _HEAD.size + 2 * capacity
        if not _SMALLEST <= capacity <= 4 * LARGE or end > len(slab):
            return
        if id:
            slot = word & 1
            size, crc = rest[slot], rest[2 + slot]
            start = at + _HEAD.size + slot * capacity
            body = slab[start : start + size] if size <= capacity else b""
            yield id, Remains(_value(word >> 1, body, crc), bool(in_use))
        at = end


def _value(version: int, body: bytes, crc: int) -> Value | None:
    if not version or len(body) < _PREFIX.size or zlib.crc32(body) != crc:
        return None
    is_reference, size = _PREFIX.unpack_from(body)
    data = body[_PREFIX.size :]
    if is_reference:
        return Value(version, Reference(data, size))
    return Value(version, data) if len(data) == size else None


# ---- large values


def write_large(directory: str, name: str, data: bytes) -> Reference:
    """Write a large value into a file of its own. OSError where memory is full: nothing is left."""
    path = f"{directory}/{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return Reference(name.encode(), len(data))


def read_large(directory: str, reference: Reference) -> bytes:
    """The value that lies there. OSError if it does not, ValueError for what is no such name."""
    name = _checked(reference.where)
    fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, "rb", buffering=0) as file:
        if os.fstat(fd).st_size != reference.size:
            raise ValueError(f"{name} has not the {reference.size} bytes that were announced")
        data = bytearray(reference.size)
        view, got = memoryview(data), 0
        while got < len(data):
            count = file.readinto(view[got:])
            if not count:
                raise ValueError(f"{name} has {got} bytes, not {reference.size}")
            got += count
    return bytes(data)


def remove_large(directory: str, where: bytes) -> None:
    """The value that lies there is needed no more."""
    try:
        os.unlink(f"{directory}/{_checked(where)}")
    except (OSError, ValueError):
        pass  # it is gone, or never was: a client's word is not trusted


def _checked(where: bytes) -> str:
    name = where.decode("ascii", "replace")
    if not _LARGE_NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} names no value")
    return name
