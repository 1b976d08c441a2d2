"""A record of a slab, as plain Python writes it: step by step, so that a death may be anywhere."""

from __future__ import annotations

import struct
from typing import Any

HEAD = struct.calcsize("=IIQQIIII")
USE_AT, WORD_AT, SIZES_AT, CRCS_AT = 4, 16, 24, 32
_SIZE = struct.Struct("=I")


class RecordTwin:
    """Does what `Record` does; `words` is the same memory, a word of which is written at once."""

    def __init__(self, slab: Any, words: Any, at: int, capacity: int) -> None:
        self.slab, self.words, self.at, self.capacity = slab, words, at, capacity

    def publish(self, version: int, body: bytes, crc: int) -> None:
        slot = 1 - (self.words[self.at + WORD_AT >> 3] & 1)
        start = self.at + HEAD + slot * self.capacity
        self.slab[start : start + len(body)] = body
        for where, number in ((SIZES_AT, len(body)), (CRCS_AT, crc)):
            start = self.at + where + 4 * slot
            self.slab[start : start + 4] = _SIZE.pack(number)
        self.words[self.at + WORD_AT >> 3] = version << 1 | slot

    def set_use(self, in_use: bool) -> None:
        self.slab[self.at + USE_AT] = in_use

    def release(self) -> None:
        pass
