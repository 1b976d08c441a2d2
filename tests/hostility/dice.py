"""Numbers and bytes at which something changes, drawn from a seed."""

from __future__ import annotations

import random

__all__ = ["Dice"]

#: Around what fields, sizes and counts are compared with.
EDGES = (0, 1, 2, 16, 17, 33, 63, 64, 4095, 4096, 4097, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
WIDE = (*EDGES, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)


class Dice(random.Random):
    """`near` are numbers that mean something to the besieged: VMIDs, pids, handles."""

    def __init__(self, seed: int, near: tuple[int, ...] = ()) -> None:
        super().__init__(seed)
        self.near = near

    def number(self, bits: int) -> int:
        """An unsigned number of so many bits, more often than not one that matters."""
        way = self.randrange(4)
        if way == 0 and self.near:
            found = self.choice(self.near)
        elif way == 1:
            found = self.choice(WIDE)
        elif way == 2:
            found = self.randrange(64)
        else:
            found = self.getrandbits(bits)
        return found & ((1 << bits) - 1)

    def spoiled(self, data: bytes) -> bytes:
        """The same but for a few places; or longer, or shorter."""
        found = bytearray(data)
        for _ in range(self.randrange(1, 4)):
            way = self.randrange(4)
            at = self.randrange(len(found) + 1)
            if way == 0:
                found[at : at + 1] = self.randbytes(1)
            elif way == 1:
                found[at : at + 8] = self.number(64).to_bytes(8, "little")
            elif way == 2:
                del found[at:]
            else:
                found[at:at] = self.randbytes(self.randrange(1, 9))
        return bytes(found)
