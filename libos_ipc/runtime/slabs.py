"""What a process has committed, in memory that outlives it: for the leader to read if it dies.

Each process has files in the group's directory, *slabs* of a mebibyte, mapped as long as it is
a member. A slab is a row of records of different sizes, one for each handle that the process has
changed; a record has room for two values and is used again for the next value of its handle:

    capacity, in use u32 | handle u64 | word u64 | size u32, size u32 | crc u32, crc u32 | A | B

The *word* is written last, and in one piece: twice the version, plus which of the two holds it. So
whenever the process dies, one of the two is whole, and the word says which. Records follow one
another without a gap, and keep their capacities; a free one has handle 0, and where the capacity
is 0 the slab ends.

Large values lie in files of their own, named for handle and version; a record then holds the name.
What is read here was written by another process, and is believed in nothing: every number is
read once and checked before use.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

from libos_ipc._native import Descriptor, Record
from libos_ipc.core.sync_words import Data, Reference, Remains, Value

__all__ = [
    "LARGE",
    "SLAB_BYTES",
    "Slabs",
    "open_slab",
    "read_large",
    "read_record",
    "read_remains",
    "remove_large",
    "write_large",
]

#: From this many bytes on a value is a file of its own.
LARGE = 1 << 16
#: The first slab. Each is twice as large as the one before, up to a limit: it costs a descriptor.
SLAB_BYTES = 1 << 20
_LARGEST_SLAB = SLAB_BYTES << 4
#: Slabs of one process.
_MOST_SLABS = 255  # their numbers, and one for none, are a byte in a deposit

_HEAD = struct.Struct("=IIQQIIII")
_REST = struct.Struct("=IIII")
_SIZE = struct.Struct("=I")
_USE_AT = 4
_ID_AT = 8
_WORD_AT = 16
_SIZES_AT = 24
#: What stands before each value in a record: the flag of a reference, and its size.
_PREFIX = struct.Struct("<BQ")
_SMALLEST = 64
#: The largest capacity.
_LARGEST = 2 * LARGE
#: A member cannot make the leader wait for it, whatever it puts in its slabs' place.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
#: How files are begun.
_FRESH = os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_LARGE_NAME = re.compile(r"value-\d+-\d+-\d+")


class _Slab:
    """One file, mapped: as bytes, and as words, each of which is written at once."""

    __slots__ = ("bytes", "number", "words")

    def __init__(self, number: int, fd: int, size: int) -> None:
        self.number = number
        self.bytes = mmap.mmap(fd, size)
        self.words = memoryview(self.bytes).cast("Q")

    def close(self) -> None:
        self.words.release()
        self.bytes.close()


class _Record:
    __slots__ = ("at", "capacity", "native", "slab", "where")

    def __init__(self, slab: _Slab, at: int, capacity: int) -> None:
        self.slab = slab
        self.at = at
        self.capacity = capacity
        self.native = Record(slab.bytes, at, capacity, slab.number)
        self.where = b""  # of the large value that was published last


class Slabs:
    """The writer's end, of one process in one group. Under the session's lock."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._slabs: list[_Slab] = []
        self._size = self._end = 0  # of the last slab: of all, and of what is taken
        self._records: dict[int, _Record] = {}
        self._free: dict[int, list[_Record]] = {}

    def reserve(self, id: int, data: Data) -> None:
        """Make sure that this value can be published. OSError where memory is full."""
        size = _PREFIX.size + len(data.where if isinstance(data, Reference) else data)
        record = self._records.get(id)
        if record is None or record.capacity < size:
            capacity = _SMALLEST
            while capacity < size:
                capacity *= 2
            fresh = self._take(capacity)
            if record is None:
                self._begin(fresh, id, 0, 0, 0, 0, 0, 0)
            else:
                self._move(id, record, fresh)
            self._records[id] = fresh

    def publish(self, id: int, version: int, data: Data) -> None:
        """Commit: what has been reserved is filled, and then counts. Not interrupted by failure.

        A large value that this process had published before is needed no more then: nobody else
        can be reading what may be changed here. The same once more changes nothing.
        """
        record, body = self._records[id], _in_record(data)
        record.native.publish(version, body, zlib.crc32(body))
        former, record.where = record.where, data.where if isinstance(data, Reference) else b""
        if former not in (b"", record.where):
            remove_large(os.path.dirname(self._prefix), former)

    def set_use(self, id: int, in_use: bool) -> None:
        """Whether somebody is between lock and unlock, and what is there may be half done."""
        record = self._records.get(id)
        if record is not None:
            record.native.set_use(in_use)

    def record(self, id: int) -> Record | None:
        """Where the values of this handle are committed, for whoever does that in C."""
        record = self._records.get(id)
        return None if record is None else record.native

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
        if self._end + size > self._size:
            self._grow()
        record = _Record(self._slabs[-1], self._end, capacity)
        _SIZE.pack_into(record.slab.bytes, record.at, capacity)
        self._end += size
        return record

    def _begin(self, record: _Record, id: int, in_use: int, word: int, *rest: int) -> None:
        """A record begins to count when its handle is written, and that is done last."""
        slab, place = record.slab, record.at
        _REST.pack_into(slab.bytes, place + _SIZES_AT, *rest)
        slab.words[place + _WORD_AT >> 3] = word
        slab.bytes[place + _USE_AT] = in_use
        slab.words[place + _ID_AT >> 3] = id

    def _give(self, record: _Record) -> None:
        record.slab.words[record.at + _ID_AT >> 3] = 0
        record.where = b""
        record.native.release()  # whoever has it still is not to write what is another's by then
        record.native = Record(record.slab.bytes, record.at, record.capacity, record.slab.number)
        self._free.setdefault(record.capacity, []).append(record)

    def _move(self, id: int, old: _Record, new: _Record) -> None:
        """A larger record takes over what the old one holds: it says so before the old one goes."""
        _, in_use, _, word, *rest = _HEAD.unpack_from(old.slab.bytes, old.at)
        for slot in (0, 1):
            source = old.at + _HEAD.size + slot * old.capacity
            target = new.at + _HEAD.size + slot * new.capacity
            size = rest[slot]
            new.slab.bytes[target : target + size] = old.slab.bytes[source : source + size]
        self._begin(new, id, in_use, word, *rest)
        new.where = old.where
        self._give(old)

    def _grow(self) -> None:
        if len(self._slabs) >= _MOST_SLABS:
            raise OSError(errno.ENOSPC, f"{_MOST_SLABS} slabs are full")
        path = f"{self._prefix}{len(self._slabs)}"
        size = min(SLAB_BYTES << len(self._slabs), _LARGEST_SLAB)
        try:
            file = Descriptor.open(path, os.O_RDWR | _FRESH)
            os.posix_fallocate(file.fileno(), 0, size)
            self._slabs.append(_Slab(len(self._slabs), file.fileno(), size))
        except BaseException:
            _remove(path)
            raise
        self._size, self._end = size, 0

    def close(self) -> None:
        """Unmap. The files stay until the leader has done with them."""
        for record in (*self._records.values(), *(r for free in self._free.values() for r in free)):
            record.native.release()
        for each in self._slabs:
            each.close()
        self._slabs.clear()
        self._records.clear()
        self._free.clear()
        self._size = self._end = 0


def _in_record(data: Data) -> bytes:
    if isinstance(data, Reference):
        return _PREFIX.pack(1, data.size) + data.where
    return _PREFIX.pack(0, len(data)) + data


# ---- the reader's end: the leader, when a process has died, or what it has is taken


def open_slab(prefix: str, number: int) -> int:
    """A descriptor to read one of the slabs by. OSError."""
    return os.open(f"{prefix}{number}", _READ)


def read_record(fd: int, at: int, id: int) -> Remains:
    """What is committed of a handle in a slab, at this byte of it: nothing, if it is not there."""
    try:
        capacity, *_ = _HEAD.unpack(os.pread(fd, _HEAD.size, at))
        record = os.pread(fd, _HEAD.size + 2 * min(capacity, _LARGEST), at)
    except (OSError, OverflowError, struct.error):
        return Remains(None, False)
    return next((left for found, left in _records_of(record) if found == id), Remains(None, False))


def read_remains(prefix: str) -> Callable[[int], Remains]:
    """What the process of these slabs has left, by handle."""
    found: dict[int, Remains] = {}
    for number in range(_MOST_SLABS):
        try:
            slab = _read(f"{prefix}{number}", _LARGEST_SLAB)
        except OSError:
            break
        for id, remains in _records_of(slab):
            if id not in found or _version(remains) >= _version(found[id]):
                found[id] = remains
    return lambda id: found.get(id, Remains(None, False))


def _version(remains: Remains) -> int:
    return 0 if remains.value is None else remains.value.version


def _records_of(slab: bytes) -> Iterator[tuple[int, Remains]]:
    at = 0
    while at + _HEAD.size <= len(slab):
        capacity, in_use, id, word, *rest = _HEAD.unpack_from(slab, at)
        end = at + _HEAD.size + 2 * capacity
        if not _SMALLEST <= capacity <= _LARGEST or end > len(slab):
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
        named = _LARGE_NAME.fullmatch(data.decode("ascii", "replace"))
        return Value(version, Reference(data, size)) if named else None
    return Value(version, data) if len(data) == size else None


# ---- large values


def write_large(directory: str, name: str, data: bytes) -> Reference:
    """Write a large value into a file of its own. OSError where memory is full: nothing is left."""
    path = f"{directory}/{name}"
    try:
        file, view = Descriptor.open(path, os.O_WRONLY | _FRESH), memoryview(data)
        while view:
            view = view[os.write(file.fileno(), view) :]
    except BaseException:
        _remove(path)
        raise
    return Reference(name.encode(), len(data))


def read_large(directory: str, reference: Reference) -> bytes:
    """The value that lies there. OSError if it does not, ValueError for what is no such name."""
    name = _checked(reference.where)
    data = _read(f"{directory}/{name}", reference.size + 1)
    if len(data) != reference.size:
        raise ValueError(f"{name} has not the {reference.size} bytes that were announced")
    return data


def _read(path: str, most: int) -> bytes:
    """At most so many bytes of a file. OSError if it is none, or a link."""
    file = Descriptor.open(path, _READ)
    fd = file.fileno()
    data = os.read(fd, min(most, os.fstat(fd).st_size + 1))
    while more := os.read(fd, most - len(data)):
        data += more
    return data


def remove_large(directory: str, where: bytes) -> None:
    """The value that lies there is needed no more."""
    with suppress(ValueError):  # a client's word is not trusted
        _remove(f"{directory}/{_checked(where)}")


def _remove(path: str) -> None:
    with suppress(OSError):  # it is gone, or never was
        os.unlink(path)


def _checked(where: bytes) -> str:
    name = where.decode("ascii", "replace")
    if not _LARGE_NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} names no value")
    return name
