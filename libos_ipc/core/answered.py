"""What the leader has answered and its members may not have heard: for its successor.

A leader can die between the record of a decision and the answer that tells of it. The member then
sends its request again, to the successor; done once more, it would take a second range, or unlock
what has been locked meanwhile. So a record that changes anything carries the answers that go
out with it, and the same request again is answered by what is kept here.

An answer is kept until its member has heard it, which the link's acknowledgement tells. That is in
no record of its own: it goes into the next one that is written anyway. For one-way words, which
have no answer, each record carries epoch and number, on their link, of the message that it came of:
a member says to the successor the words that came after that.

Under which number an answer went out is the leader's own affair (`on_sent`), no journal brings it
back: a successor keeps what it found until the member says what it waits for (`only`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Answered", "Kept", "frozen"]

#: VMID, request, its code (or ERROR), fields of the answer
Kept: TypeAlias = tuple[int, int, int, tuple[object, ...]]


class Answered:
    """Answers kept, by VMID and request."""

    __slots__ = ("_heard", "_kept", "_received")

    def __init__(self) -> None:
        #: VMID -> request -> code, fields, and the number on the link: -1 if that is not known, 0
        #: when it has been received
        self._kept: dict[int, dict[int, list[Any]]] = {}
        self._heard: dict[int, tuple[int, int]] = {}  # VMID -> epoch, number
        self._received: list[tuple[int, int]] = []

    # ---- what the journal brings back

    def keep(self, vmid: int, seq: int, of: int, fields: tuple[object, ...]) -> None:
        """This goes out, and may be asked for again."""
        kept = self._kept.get(vmid)
        if kept is None:
            kept = self._kept[vmid] = {}
        kept[seq] = [of, fields, -1]

    def hear(self, vmid: int, epoch: int, number: int) -> None:
        """The message of this number, on the member's link of this epoch, has changed something."""
        self._heard[vmid] = epoch, number

    def forget(self, vmid: int, seq: int) -> None:
        """The member has this answer."""
        kept = self._kept.get(vmid)
        if kept is not None and kept.pop(seq, None) is not None and not kept:
            del self._kept[vmid]

    def drop(self, vmid: int) -> None:
        """The member is gone."""
        self._kept.pop(vmid, None)
        self._heard.pop(vmid, None)

    # ---- asking

    def find(self, vmid: int, seq: int) -> tuple[int, tuple[object, ...]] | None:
        """Code and fields of the answer to this request, if it was given and is kept."""
        kept = self._kept.get(vmid)
        found = None if kept is None else kept.get(seq)
        return None if found is None else (found[0], found[1])

    def last_heard(self, vmid: int) -> tuple[int, int]:
        """Epoch and number, on its link then, of the last message that changed anything."""
        return self._heard.get(vmid, (0, 0))

    # ---- what only this leader knows

    def on_sent(self, vmid: int, seq: int, number: int) -> None:
        """The answer went out under this number, or (0) has been heard already."""
        kept = self._kept.get(vmid)
        found = None if kept is None else kept.get(seq)
        if found is not None:
            found[2] = number
            if not number:
                self._received.append((vmid, seq))

    def on_acknowledged(self, vmid: int, acked: int) -> None:
        """The member has everything up to this number."""
        kept = self._kept.get(vmid)
        if kept is None:
            return
        for seq, answer in kept.items():  # in the order of their numbers
            if answer[2] > acked:
                return
            if answer[2] > 0:
                answer[2] = 0
                self._received.append((vmid, seq))

    def only(self, vmid: int, waits_for: frozenset[int]) -> None:
        """After a succession: the member waits for these requests, and has all other answers."""
        kept = self._kept.get(vmid, {})
        self._received += [(vmid, seq) for seq in sorted(kept.keys() - waits_for) if seq > 0]

    def forget_numbers(self) -> None:
        """Under which numbers all this went out, and what was heard of it, is not known here."""
        for kept in self._kept.values():
            for answer in kept.values():
                answer[2] = -1

    def relayed(self, vmid: int) -> list[tuple[object, ...]]:
        """The fields of what was relayed to the member, and has perhaps not arrived. It stands here
        like an answer, under its number below 0."""
        kept = self._kept.get(vmid, {})
        return [kept[seq][1] for seq in sorted(kept, reverse=True) if seq < 0]

    def take_received(self) -> list[tuple[int, int]]:
        """What is known to have been received since this was asked last: for the next record."""
        received = self._received
        if received:
            self._received = []
            return received
        return []

    def state(self) -> tuple[object, ...]:
        """All that the journal must bring back, comparable."""
        kept = sorted(
            (vmid, [(seq, *answers[seq][:2]) for seq in sorted(answers)])
            for vmid, answers in self._kept.items()
        )
        return kept, sorted(self._heard.items())


def frozen(value: object) -> object:
    """The same with tuples for lists, as which they come out of a journal."""
    if not isinstance(value, list | tuple):
        return value
    return tuple([frozen(each) if isinstance(each, list | tuple) else each for each in value])
