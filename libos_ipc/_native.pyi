"""What has to be fast: the codec of the wire and the table of requests outstanding.

Nothing here blocks or keeps a buffer longer than the call. An int that does not fit its field
raises `OverflowError`, anything but an int `TypeError`; what is wrong with bytes that came from
outside raises `Malformed`.
"""

from typing import Any, Final, final

from typing_extensions import Buffer

HEADER_SIZE: Final = 17
ENVELOPE_SIZE: Final = 16

class Malformed(ValueError):
    """Bytes from outside that are not what they should be."""

def pack_message(code: int, seq: int, payload: Buffer = b"") -> bytes:
    """Header and payload in one bytes object."""

def pack_header(code: int, seq: int, payload_size: int) -> bytes:
    """The header alone, for a payload that follows in a frame of its own."""

def unpack_message(message: Buffer, max_message: int) -> tuple[int, int, bytes]:
    """(code, seq, payload) of a whole message; the payload is a copy."""

def unpack_header(frame: Buffer, payload_size: int, max_message: int) -> tuple[int, int]:
    """(code, seq) of a message whose payload came in a frame of its own.

    `max_message` bounds header and payload together.
    """

def pack_envelope(number: int, acked: int) -> bytes:
    """The envelope of a message: its number on the link, and the last number received."""

def unpack_envelope(frame: Buffer, /) -> tuple[int, int]:
    """(number, acked) of an envelope."""

@final
class Layout:
    """The fixed fields of a payload, and the most bytes that may follow them.

    `fields` are at most 16 letters of BHIiQq, with the meaning they have in `struct` after '<'.
    """

    def __new__(cls, fields: str, tail: int = 0) -> Layout: ...
    @property
    def fields(self) -> str:
        """The letters of the fixed fields."""
    @property
    def size(self) -> int:
        """Bytes of the fixed fields."""
    @property
    def tail(self) -> int:
        """Most bytes that may follow the fixed fields."""
    def pack(self, *fields: int, tail: Buffer = b"") -> bytes:
        """The payload of these fields and these bytes; `ValueError` for a tail too long."""
    def unpack(self, payload: Buffer, /) -> tuple[Any, ...]:
        """The fields, and after them the tail as bytes if the layout has one."""

@final
class Outstanding:
    """The requests that are not answered yet: number, peer and ticket.

    Whoever takes a ticket out is the only one to get it. Every method is O(1), or O(tickets
    returned), and a failing one leaves the table as it was. A ticket dropped by the table may
    call back into it.
    """

    def __new__(cls) -> Outstanding: ...
    @property
    def last(self) -> int:
        """The last sequence number given out, 0 before the first."""
    def __len__(self) -> int: ...
    def add(self, peer: int, ticket: object) -> int:
        """Enter a request to this peer; its sequence number, from 1 and never used twice."""
    def take(self, seq: int, peer: int) -> Any:
        """Take out the ticket of a request that this peer answers.

        None if there is no such request, or another peer was asked: then it stays.
        """
    def discard(self, seq: int, /) -> Any:
        """Withdraw a request; its ticket, or None if there is no such request."""
    def peer_of(self, seq: int, /) -> int | None:
        """The peer a request was asked of, or None if there is no such request."""
    def fail_peer(self, peer: int, /) -> list[Any]:
        """Take out the tickets of all requests to this peer, oldest first."""
    def drain(self) -> list[Any]:
        """Take out all tickets, oldest first."""
