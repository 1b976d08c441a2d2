"""The accounts of one end of a link as a list and a few ints, which wrap around at 2**64."""

from __future__ import annotations

from collections.abc import Callable

from libos_ipc._native import Ledger

U64 = 2**64
NEXT, DRAINED = 1, 2
FIRST_PROBE_S = 0.25
COUNTS = (
    *("sent_bytes", "credited", "delivered", "announced_ack"),
    *("received_bytes", "consumed", "announced_credit"),
)


class Message:
    """Equal to nothing but itself; may run something when it is dropped."""

    def __init__(self, label: object = "", on_drop: Callable[[], object] = lambda: None) -> None:
        self.label = label
        self.on_drop = on_drop

    def __del__(self) -> None:
        self.on_drop()


def labels(kept: list[tuple[int, Message]]) -> list[tuple[int, object]]:
    return [(number, message.label) for number, message in kept]


def filled(count: int, before: int = 0) -> Ledger:
    """A ledger that keeps `count` messages, after `before` others that are gone one by one."""
    ledger = Ledger()
    for label in range(before + count):
        number = ledger.stamp(Message(label), 1, 0)  # type: ignore[arg-type]
        ledger.receive(0, min(number, before), 0, 0)
    return ledger


def fitting(value: object, most: int = U64 - 1) -> int:
    """The value, if a field takes it that holds 0 … most."""
    if not isinstance(value, int):
        raise TypeError
    if not 0 <= value <= most:
        raise OverflowError
    return value


def size_of(value: object) -> int:
    return fitting(value, 2**63 - 1)


class LedgerTwin:
    """Does what `Ledger` does, one number after the other."""

    def __init__(self) -> None:
        self.sent = self.acked = 0
        self.counts = dict.fromkeys(COUNTS, 0)
        self.messages: list[object] = []
        self.probe_at = 0.0
        self.probe_interval = FIRST_PROBE_S
        self.starving = False

    @property
    def kept(self) -> list[tuple[int, object]]:
        return list(enumerate(self.messages, self.acked + 1))

    def set_count(self, name: str, value: int) -> None:
        self.counts[name] = fitting(value)

    def stamp(self, message: object, size: int, now: float) -> int:
        self._count("sent_bytes", size)
        if not self.messages:
            self._rest(now)
        self.messages.append(message)
        self.sent += 1
        return self.sent

    def receive(self, number: int, acked: int, size: int, now: float) -> int:
        fitting(number), fitting(acked), size_of(size)
        if acked > self.sent:
            raise ValueError
        found = 0
        if acked > self.acked:
            while self.acked < acked:
                self.acked += 1
                del self.messages[0]  # which may call back
            if self.messages:
                self._rest(now)
            else:
                found |= DRAINED
        if number == self.counts["delivered"] + 1:
            self.counts["delivered"] = number
            self._count("received_bytes", size)
            found |= NEXT
        return found

    def acknowledge(self) -> int:
        self.counts["announced_ack"] = self.counts["delivered"]
        return self.counts["delivered"]

    def ack_due(self, every: int) -> bool:
        return self._between("announced_ack", "delivered") >= fitting(every)

    def has_room(self, size: int, limit: int) -> bool:
        owed = self._between("credited", "sent_bytes")
        return owed + size_of(size) <= size_of(limit) or owed == 0

    def consume(self, size: int, quantum: int) -> bool:
        size_of(size), size_of(quantum)
        self._count("consumed", size)
        news = self._between("announced_credit", "consumed")
        told_of_all = self.starving and self.counts["consumed"] == self.counts["received_bytes"]
        return news >= quantum or (told_of_all and news > 0)

    def _count(self, name: str, size: int) -> None:
        self.counts[name] = (self.counts[name] + size_of(size)) % U64

    def _between(self, lower: str, upper: str) -> int:
        return (self.counts[upper] - self.counts[lower]) % U64

    def _rest(self, now: float) -> None:
        self.probe_interval = FIRST_PROBE_S
        self.probe_at = now + FIRST_PROBE_S
