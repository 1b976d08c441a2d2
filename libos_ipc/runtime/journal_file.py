"""The journal on its medium: records one behind the other in a file in memory.

    magic and version, 8 bytes | committed length, u64 | record, record, …
    record: length u32, CRC-32 u32, msgpack

A record counts only once the committed length, which is written last, includes it; so a leader
killed in the middle of writing leaves the journal as it was before. The pages belong to the
file system in memory: they outlive the process, not the machine.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator

import msgspec

from libos_ipc.errors import ProtocolError

__all__ = ["JournalFile", "read_journal"]

MAGIC = b"LIPCJ\0\0\1"
_HEAD = struct.Struct("<8sQ")
_LENGTH = struct.Struct("<Q")
_RECORD = struct.Struct("<II")
FIRST_SIZE = 1 << 16


class JournalFile:
    """The leader's end: appends. One writer."""

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._encode = msgspec.msgpack.Encoder().encode
        self._end = _HEAD.size
        os.posix_fallocate(self._fd, 0, FIRST_SIZE)
        self._map = mmap.mmap(self._fd, FIRST_SIZE)
        self._map[: _HEAD.size] = _HEAD.pack(MAGIC, 0)

    def append(self, record: tuple[object, ...]) -> None:
        """Write one record. OSError(ENOSPC) when memory is full; nothing is written then."""
        data = self._encode(record)
        start, end = self._end + _RECORD.size, self._end + _RECORD.size + len(data)
        if end > len(self._map):
            self._grow(end)
        self._map[start:end] = data
        _RECORD.pack_into(self._map, self._end, len(data), zlib.crc32(data))
        self._end = end
        _LENGTH.pack_into(self._map, len(MAGIC), end - _HEAD.size)

    def _grow(self, least: int) -> None:
        size = max(2 * len(self._map), least)
        # Allocated, not just extended: a full file system is an error here, not a SIGBUS later.
        os.posix_fallocate(self._fd, 0, size)
        self._map.resize(size)

    def close(self) -> None:
        """Give map and descriptor back; the file stays."""
        self._map.close()
        os.close(self._fd)


def read_journal(path: str) -> Iterator[tuple[object, ...]]:
    """All committed records, in order. ProtocolError where the file is damaged."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
        raise ProtocolError(f"{path} is no journal of this version")
    end = _HEAD.size + _LENGTH.unpack_from(data, len(MAGIC))[0]
    if end > len(data):
        raise ProtocolError(f"{path} says {end} bytes are committed, but has {len(data)}")
    at = _HEAD.size
    while at < end:
        if at + _RECORD.size > end:
            raise ProtocolError(f"{path}: cut off at byte {at}")
        length, crc = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        record = data[at : at + length]
        if at + length > end or zlib.crc32(record) != crc:
            raise ProtocolError(f"{path}: damaged at byte {at}")
        at += length
        yield tuple(msgspec.msgpack.decode(record))
