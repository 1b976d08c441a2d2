"""Batons as plain Python has them, in memory that can be looked at, and put back as it was."""

from __future__ import annotations

from typing import NamedTuple

from libos_ipc.core.sync_words import Ended, Place, Value

FREE, IN_USE, RESERVED = 0, 1, 2


class Word(NamedTuple):
    """How a baton stands."""

    number: int
    holder: int
    how: int
    ended: bool
    value: Value


class BatonTwin:
    """Does what `Baton` does, in a dictionary of slots."""

    def __init__(self, memory: dict[int, Word], slot: int, number: int, me: int) -> None:
        self.memory, self.slot, self.number, self.me = memory, slot, number, me

    def word(self) -> Word:
        return self.memory.get(self.slot, Word(0, 0, FREE, True, Value(0, b"")))

    def live(self) -> Word | None:
        word = self.word()
        return None if word.ended or word.number != self.number else word

    def take(self) -> tuple[int, bytes] | None:
        word = self.word()
        ours = (word.how, word.holder) == (RESERVED, self.me)
        if word.number != self.number or not (ours or (word.how == FREE and not word.ended)):
            return None
        if not word.ended:
            self.memory[self.slot] = word._replace(holder=self.me, how=IN_USE)
        assert isinstance(word.value.data, bytes)
        return word.value.version, word.value.data

    def give(self, version: int = 0, data: bytes | None = None, /) -> bool:
        word = self.live()
        if word is None or (word.how, word.holder) != (IN_USE, self.me):
            return False
        value = word.value if data is None else Value(version, data)
        self.memory[self.slot] = word._replace(holder=0, how=FREE, value=value)
        return True

    def begin(self, version: int, data: bytes, holder: int, /) -> int:
        self.number += 1
        self.memory[self.slot] = Word(self.number, holder, RESERVED, False, Value(version, data))
        return self.number

    def reserve(self, holder: int, /) -> bool:
        word = self.live()
        if word is None or word.how != FREE:
            return False
        self.memory[self.slot] = word._replace(holder=holder, how=RESERVED)
        return True

    def ended(self) -> bool:
        return self.live() is None

    def end(self) -> tuple[int, bool, tuple[int, bytes]] | None:
        word = self.word()
        if word.number != self.number:
            return None
        self.memory[self.slot] = word._replace(ended=True)
        assert isinstance(word.value.data, bytes)
        return word.holder, word.how == IN_USE, (word.value.version, word.value.data)


class BatonsTwin:
    """The leader's end. Slots are used again, at once and under the next number, where all are of
    one handle: somebody has yet to read how another one's has ended."""

    one_handle = False

    def __init__(self, memory: dict[int, Word]) -> None:
        self.memory = memory

    def begin(self, id: int, vmid: int, value: Value) -> Place | None:
        ended = (n for n, word in self.memory.items() if self.one_handle and word.ended)
        slot = next(ended, len(self.memory))
        former = self.memory.get(slot)
        baton = BatonTwin(self.memory, slot, 0 if former is None else former.number, 0)
        assert isinstance(value.data, bytes)
        return 1, slot, baton.begin(value.version, value.data, vmid)

    def reserve(self, place: Place, vmid: int) -> bool:
        return BatonTwin(self.memory, *place[1:], 0).reserve(vmid)

    def end(self, place: Place) -> Ended:
        found = BatonTwin(self.memory, *place[1:], 0).end()
        assert found is not None
        holder, in_use, value = found
        return Ended(holder, in_use, Value(*value))

    def forget(self, id: int) -> None:
        pass

    def close(self) -> None:
        pass
