"""Deposits as plain Python has them, in memory that can be looked at, and put back as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from libos_ipc.core.sync_deposits import Taken
from libos_ipc.core.sync_words import Remains, State, Value

__all__ = ["DepositTwin", "DepositsTwin", "Memory", "Word"]

LOWEST = State.INVALID


class Word(NamedTuple):
    """What a process has put."""

    epoch: int
    state: int
    over: int
    value: Value | None = None


#: (VMID, handle) -> what is put there, if anything is
Memory = dict[tuple[int, int], Word]


class DepositTwin:
    """Does what `Deposit` does."""

    def __init__(self, memory: Memory, vmid: int, id: int, epoch: int) -> None:
        self.memory, self.key, self.epoch = memory, (vmid, id), epoch

    def put(self, state: int, over: int, record: object = None, /) -> None:
        self.memory.setdefault(self.key, Word(self.epoch, state, over))

    def take_back(self, state: int, /) -> bool:
        word = self.memory.get(self.key)
        if word is not None and state > LOWEST and word[:2] != (self.epoch, state):
            return False
        self.memory.pop(self.key, None)
        return True

    def left(self, state: int, /) -> int:
        word = self.memory.get(self.key)
        if word is None or word[:2] == (self.epoch, state):
            return state
        ours = word.epoch == self.epoch and LOWEST <= word.state < state
        return word.state if ours else LOWEST


class DepositsTwin:
    """The leader's end; `remains` reads what a process has committed of a handle."""

    def __init__(self, memory: Memory, remains: Callable[[int, int], Remains]) -> None:
        self.memory, self.remains = memory, remains
        #: how often something was taken
        self.taken = 0

    def lower(self, epoch: int, vmid: int, id: int, state: int, to: int) -> Taken | None:
        word = self.memory.get((vmid, id))
        if word is None or word[:2] != (epoch, state):
            return None
        self.memory[vmid, id] = word._replace(state=to)
        self.taken += 1
        return Taken(self.remains(vmid, id).value, word.over)

    def drop(self, vmid: int) -> None:
        for key in [key for key in self.memory if key[0] == vmid]:
            del self.memory[key]

    def close(self) -> None:
        pass
