"""Requests outstanding: from a sequence number to whoever waits for the answer.

The table itself, its numbers and its lists per peer, is in C. An answer counts only when it
comes from the process that was asked, and only once. Who waits is either a caller's ticket,
which the runtime settles, or a continuation of this layer: a function that is given the fields
of the answer, or the error that came instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from libos_ipc._native import Outstanding
from libos_ipc.core.codes import FIRST_USER_CODE
from libos_ipc.core.vocabulary import Body, Effects, Fail, Resolve, Then, make
from libos_ipc.errors import IpcError, ProtocolError, error_for

__all__ = ["Calls", "DecodeAnswer"]

#: Gives the fields of an answer, by the code of its request. ProtocolError if it has others.
DecodeAnswer: TypeAlias = Callable[[int, bytes], tuple[object, ...]]


class Calls:
    """The requests of one process that have not been answered."""

    __slots__ = ("_decode_answer", "table")

    def __init__(self, decode_answer: DecodeAnswer) -> None:
        self._decode_answer = decode_answer
        #: by number: (code, ticket), and the body of what another leader may have to be asked
        self.table = Outstanding()

    def __len__(self) -> int:
        return len(self.table)

    def add(self, dst: int, code: int, ticket: object) -> int:
        """Enter a request to `dst`; its sequence number, never used before."""
        return self.table.add(dst, (code, ticket))

    def add_kept(self, dst: int, code: int, ticket: object, body: Body) -> int:
        """The same, with what is needed to ask another process for it."""
        return self.table.add(dst, (code, ticket, body))

    def next_number(self) -> int:
        """What the next request will have."""
        return self.table.last + 1

    def withdraw(self, seq: int) -> int | None:
        """Forget a request; the process that was asked, None if it has been settled."""
        peer = self.table.peer_of(seq)
        self.table.discard(seq)
        return peer

    def on_answer(self, src: int, seq: int, body: Body, now: float) -> Effects:
        """A RESP. Late and foreign ones are dropped."""
        entry = self.table.take(seq, src)
        if entry is None:
            return []
        code, ticket = entry[:2]
        if code < FIRST_USER_CODE and not isinstance(body, tuple):
            try:
                body = self._decode_answer(code, bytes(body))
            except ProtocolError as error:
                return _failed(ticket, error, now)
        if callable(ticket):
            then: Then = ticket
            return then(body, now)
        return [make(Resolve, (ticket, body))]

    def on_refusal(self, src: int, seq: int, body: Body, now: float) -> Effects:
        """An ERROR."""
        entry = self.table.take(seq, src)
        if entry is None:
            return []
        assert isinstance(body, tuple)
        number, text = body
        assert isinstance(number, int)
        return _failed(entry[1], error_for(abs(number), str(text)), now)

    def fail_peer(self, peer: int, error: IpcError, now: float) -> Effects:
        """`peer` will answer nothing more. Costs what is outstanding there."""
        effects: Effects = []
        for entry in self.table.fail_peer(peer):
            effects += _failed(entry[1], error, now)
        return effects

    def fail_all(self, error: IpcError) -> Effects:
        """This process has left, and asks for nothing more whatever it is told."""
        effects: Effects = []
        for entry in self.table.drain():
            effects += _failed(entry[1], error, 0.0)
        return effects


def _failed(ticket: object, error: IpcError, now: float) -> Effects:
    if callable(ticket):
        then: Then = ticket
        return then(error, now)
    return [Fail(ticket, error)]
