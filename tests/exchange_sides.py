"""Two exchanges and the lane between them, in one process: for tests of what Python is spared."""

from __future__ import annotations

from shared_memory import memory

from libos_ipc._native import Doorbell, Exchange, Lane, Ledger, Lock, Outstanding, Shared
from libos_ipc.core.vocabulary import Message, Outgoing

__all__ = ["EVERY", "MOST", "ROOM", "SEND_BUFFER", "USER", "Side", "make_sides"]

USER = 70
ROOM = 4096
SEND_BUFFER = 10**6
MOST = 10**6
EVERY = 8


class Side:
    """One process's half, all in this one."""

    def __init__(self, vmid: int, shared: Shared, *, first: bool) -> None:
        self.vmid = vmid
        self.shared = shared
        self.lane = Lane(shared, first)
        self.ledger = Ledger()
        self.requests = Outstanding()
        self.bell_memory = memory(4096)
        self.bell = Doorbell(self.bell_memory)
        self.lock, self.rounds, self.seat = (Lock() for _ in range(3))
        self.withdrawn: list[int] = []
        self.exchange = Exchange(
            self.bell,
            self.requests,
            self.lock,
            self.rounds,
            self.seat,
            Message,
            Outgoing,
            self.withdraw,
            MOST,
            SEND_BUFFER,
            EVERY,
        )

    def meet(self, other: Side) -> None:
        self.lane.reach(other.bell_memory, self.vmid)
        self.exchange.connect(other.vmid, other.vmid, self.lane, self.ledger)
        self.exchange.read_from(other.vmid)
        self.exchange.write(other.vmid)

    def withdraw(self, seq: int) -> None:
        self.withdrawn.append(seq)
        self.requests.discard(seq)

    def read(self) -> list[Message]:
        """All messages of the program that are there."""
        found: list[Message] = []
        with self.rounds:
            while (rung := self.exchange.read()) is not None:
                assert rung[1] == []
                found += rung[0]
        return found

    def state(self) -> int:
        """Who sleeps on the bell."""
        return memoryview(self.bell_memory).cast("I")[1]


def make_sides() -> tuple[Side, Side]:
    """VMID 2, which made the lane, and VMID 3; each has met the other."""
    shared = memory(4096 + 2 * ROOM)
    one, other = Side(2, shared, first=True), Side(3, shared, first=False)
    one.meet(other)
    other.meet(one)
    return one, other
