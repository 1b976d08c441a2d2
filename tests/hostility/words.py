"""Messages of the library as an attacker makes them: with the right layout, or spoiled."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from libos_ipc import wire
from libos_ipc._native import pack_envelope, pack_message
from libos_ipc.core.codes import Code

from .dice import Dice

__all__ = ["Correspondence", "payload_of"]

_BITS = {"B": 8, "H": 16, "I": 32, "i": 32, "Q": 64, "q": 64}

#: What follows the path of a file lock.
_FILE = struct.Struct("<QQI")
#: What an attacker may do by right, and would end the siege by: a real signal to the victim.
_RIGHTS = {Code.PID_KILL}


def payload_of(code: Code, dice: Dice) -> bytes:
    """A payload of this code's layout, with any numbers in it."""
    layout = wire.ROWS[code].request
    fields = [dice.number(_BITS[letter]) for letter in layout.fields]
    if code in _RIGHTS:
        fields[3] = 0  # a question, not a signal
    tail = dice.randbytes(dice.choice((0, 1, 8, 29, 60))) if layout.tail else b""
    if layout.tail and dice.randrange(3) == 0:
        tail = (
            b"/some/file" + bytes(1) + b"".join(dice.number(64).to_bytes(8, "little") for _ in "ab")
        )
        tail += dice.number(32).to_bytes(4, "little")
    size_at = wire.ROWS[code].request_size_at
    if size_at is not None and dice.randrange(4):
        fields[size_at] = len(tail)
    head = b"".join(
        (n & (1 << _BITS[letter]) - 1).to_bytes(_BITS[letter] // 8, "little")
        for n, letter in zip(fields, layout.fields, strict=True)
    )
    return head + tail


_NOTHING = pack_message(Code.ACK, 0, b"")
#: All words but the one by which a member leaves.
_ANY = [code for code in wire.ROWS if code != Code.LEAVE]


class Correspondence:
    """Numbers of what is said to one process, so that it is taken for the next in order.

    Only the next in order is looked at, and what is said on a connection behind the first that
    makes no sense is not read. So each fresh connection begins with nothings in the place of all
    that was said on the one before.
    """

    def __init__(self, sent: int, dice: Dice) -> None:
        self._number = self._read = sent
        self._seq = 1 << 40
        self.dice = dice
        self.said: list[list[bytes]] = []

    def frames(self, code: int, payload: bytes, *, asks: bool | None = None) -> list[bytes]:
        """A message, as the next in order; a request if it `asks`."""
        self._number += 1
        self._seq += 1
        wants = self.dice.randrange(2) if asks is None else asks
        message = pack_message(code, self._seq if wants else 0, payload)
        found = [pack_envelope(self._number, 0), message]
        if len(self.said) < 256:
            self.said.append(found)
        return found

    def catch_up(self) -> Iterator[list[bytes]]:
        """Nothings, behind which the next number is the next for the target, too."""
        for number in range(self._read + 1, self._number + 1):
            yield [pack_envelope(number, 0), _NOTHING]
        self._read = self._number

    def any_word(self) -> tuple[int, bytes]:
        """A code of the library's own and a payload of its layout."""
        code = self.dice.choice(_ANY)
        return code, payload_of(code, self.dice)
