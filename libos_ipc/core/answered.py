"""What the leader has answered and its members may not have heard: for its successor.

A leader can die between the record of a decision and the answer that tells of it. The member then
sends its request again, to the successor; done once more, it would take a second range, or unlock
what has been locked meanwhile. So a record that changes anything carries the answers that go
out with it, and the same request again is answered by what is kept here.

An answer is kept until its member has heard it, which the link's acknowledgement tells. That is in
no record of its own: it goes into the next one that is written anyway. Of what is heard without an
answer, one-way words, the record carries the number on their link: a successor takes up later
ones only.

The sent part (`on_sent`, `on_acknowledged`) is the leader's own, no journal brings it back: a
successor keeps what it found until the member says what it waits for (`only`).
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

__all__ = ["Answered", "Kept"]

#: VMID, request, its code (or ERROR), fields of the answer
Kept: TypeAlias = tuple[int, int, int, tuple[object, ...]]


class Answered:
    """Answers kept, by VMID and request."""

    __slots__ = ("_heard", "_kept", "_received", "_sent")

    def __init__(self) -> None:
        self._kept: dict[int, dict[int, tuple[int, tuple[object, ...]]]] = {}
        self._heard: dict[int, int] = {}
        self._sent: dict[int, deque[tuple[int, int]]] = {}  # VMID -> (number on the link, request)
        self._received: list[tuple[int, int]] = []

    # ---- what the journal brings back

    def keep(self, vmid: int, seq: int, of: int, fields: object) -> None:
        """This goes out, and may be asked for again."""
        frozen = _frozen(fields)
        assert isinstance(frozen, tuple)
        self._kept.setdefault(vmid, {})[seq] = of, frozen

    def hear(self, vmid: int, number: int) -> None:
        """The message of this number on the member's link has changed something."""
        self._heard[vmid] = number

    def forget(self, vmid: int, seq: int) -> None:
        """The member has this answer."""
        kept = self._kept.get(vmid)
        if kept is not None and kept.pop(seq, None) is not None and not kept:
            del self._kept[vmid]

    def drop(self, vmid: int) -> None:
        """The member is gone."""
        self._kept.pop(vmid, None)
        self._heard.pop(vmid, None)
        self._sent.pop(vmid, None)

    # ---- asking

    def find(self, vmid: int, seq: int) -> tuple[int, tuple[object, ...]] | None:
        """Code and fields of the answer to this request, if it was given and is kept."""
        kept = self._kept.get(vmid)
        return None if kept is None else kept.get(seq)

    def heard(self, vmid: int) -> int:
        """The number on its link of the last message of the member that changed anything."""
        return self._heard.get(vmid, 0)

    # ---- what only this leader knows

    def on_sent(self, vmid: int, seq: int, number: int) -> None:
        """The answer went out under this number, or (0) has been heard already."""
        if self.find(vmid, seq) is None:
            return
        if number:
            self._sent.setdefault(vmid, deque()).append((number, seq))
        else:
            self._received.append((vmid, seq))

    def on_acknowledged(self, vmid: int, acked: int) -> None:
        """The member has everything up to this number."""
        sent = self._sent.get(vmid)
        if sent is None:
            return
        while sent and sent[0][0] <= acked:
            self._received.append((vmid, sent.popleft()[1]))
        if not sent:
            del self._sent[vmid]

    def only(self, vmid: int, waits_for: frozenset[int]) -> None:
        """After a succession: the member waits for these requests, and has all other answers."""
        kept = self._kept.get(vmid, {})
        self._received += [(vmid, seq) for seq in sorted(kept.keys() - waits_for)]

    def take_received(self) -> tuple[tuple[int, int], ...]:
        """What is known to have been received since this was asked last: for the next record."""
        received, self._received = tuple(self._received), []
        return received

    def state(self) -> tuple[object, ...]:
        """All that the journal must bring back, comparable."""
        kept = sorted((vmid, sorted(answers.items())) for vmid, answers in self._kept.items())
        return kept, sorted(self._heard.items())


def _frozen(value: object) -> object:
    """The same with tuples for lists, as which they come out of a journal."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
