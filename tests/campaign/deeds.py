"""The single things that a worker does, each drawn at random and written down before and after.

A deed may meet any error that the library promises for it, given that others are killed and
stopped; anything else is on record as `unexpected`, and a call that takes longer than any stop of
a process does as `overdue`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import libos_ipc
from libos_ipc import Group, Message, SignalInfo

from .deeds_with_children import Children
from .deeds_with_locks import Locking
from .deeds_with_values import Values
from .record import Record

__all__ = ["Deeds"]

DIRECT, BROADCAST = 64, 65
#: A real-time signal: none of them gets lost.
SIGNAL = signal.SIGRTMIN + 5
#: Longer than anybody is stopped or held up.
LONG_S = 40.0
SIZES = [0, 0, 8, 32, 200, 5_000, 70_000, 300_000]
HEAD = 13


def _payload(number: int, size: int, wants: int = 0) -> bytes:
    head = number.to_bytes(8, "little") + size.to_bytes(4, "little") + bytes([wants])
    return head + bytes([number & 255]) * size


def _open(payload: bytes) -> tuple[int, bool]:
    """The number, and whether all is as `_payload` made it."""
    number, size = int.from_bytes(payload[:8], "little"), int.from_bytes(payload[8:12], "little")
    return number, payload[HEAD:] == bytes([number & 255]) * size


class Deeds(Children, Locking, Values):
    """What one worker can do. Forked children do it too, on records of their own."""

    def __init__(self, group: Group, record: Record, rng: random.Random, directory: Path) -> None:
        self.group = group
        self.record = record
        self.rng = rng
        self.directory = directory
        self.begin()
        self._all: dict[Callable[[], None], int] = {
            self.send: 12,
            self.ask: 12,
            self.tell_all: 2,
            self.take_id: 6,
            self.give_id_back: 5,
            self.signal_somebody: 2,
            self.ask_about: 1,
            self.lock_file: 6,
            self.lock_bytes: 5,
            self.lock_and_close: 2,
            self.use_value: 10,
            self.have_child: 1,
        }

    def begin(self) -> None:
        """As a process that has just begun, forked or not."""
        self._numbers: Counter[int] = Counter()  # what was sent to whom
        self._told = 0
        self._ids: list[int] = []
        self._members: list[libos_ipc.Member] = []
        self._looked = 0.0
        self.begin_values()
        self.begin_children()

    # ---- being there for others

    def listen(self) -> None:
        """Register what answers others."""
        self.group.signal(SIGNAL, self._on_signal)

        @self.group.on(BROADCAST)
        def heard(message: Message) -> None:
            number, whole = _open(message.payload)
            self.record("heard", message.src, number, whole)

        @self.group.on(DIRECT)
        def got(message: Message) -> bytes:
            number, whole = _open(message.payload)
            self.record("got", message.src, number, whole)
            if message.payload[HEAD - 1]:
                raise ValueError(number)
            return message.payload[:8]

        self.group.ready()
        self.group.meta["listens"] = True

    def _on_signal(self, number: int, info: SignalInfo) -> None:
        self.record("caught", info.sender)

    def say_goodbye(self) -> None:
        """What has arrived until now is handled: a message to ourselves is behind it."""
        self.record("bye")
        self.group.request(self.group.vmid, DIRECT, _payload(0, 0), timeout=LONG_S)

    def finish(self) -> None:
        """No more deeds: what was begun is brought to its end."""
        self.end_children()
        self.group.flush(LONG_S)
        self.record("flushed")

    # ---- the next one

    def do_one(self) -> None:
        """One deed."""
        (deed,) = self.rng.choices(list(self._all), list(self._all.values()))
        begun = time.monotonic()
        try:
            deed()
        except (libos_ipc.PeerDied, libos_ipc.Timeout) as error:
            self.record("missed", deed.__name__, repr(error))
        except Exception as error:
            self.record("unexpected", deed.__name__, repr(error))
        if time.monotonic() - begun > LONG_S - 1:
            self.record("overdue", deed.__name__, time.monotonic() - begun)

    def somebody(self) -> libos_ipc.Member | None:
        """Another member, as far as we know."""
        now = time.monotonic()
        if now - self._looked > 0.1 or not self._members:
            self._members = [m for m in self.group.members() if m.vmid != self.group.vmid]
            self._looked = now
        return self.rng.choice(self._members) if self._members else None

    # ---- messages

    def send(self) -> None:
        """Some messages in a row to somebody."""
        other = self.somebody()
        for _ in range(self.rng.choice([1, 1, 5, 50]) if other else 0):
            assert other is not None
            payload = self._next(other.vmid, 0)
            number = self._numbers[other.vmid]
            try:
                self.group.send(other.vmid, DIRECT, payload, timeout=LONG_S)
            except libos_ipc.PeerDied:
                break
            self.record("sent", other.vmid, number)

    def ask(self) -> None:
        """A request; perhaps one that nobody waits long for, or that its handler fails."""
        other = self.somebody()
        if other is None:
            return
        fails = self.rng.random() < 0.1
        timeout = self.rng.choice([LONG_S, LONG_S, LONG_S, 0.001])
        payload = self._next(other.vmid, int(fails))
        number = self._numbers[other.vmid]
        try:
            answer = self.group.request(other.vmid, DIRECT, payload, timeout=timeout)
        except libos_ipc.Timeout:
            if timeout == LONG_S:
                raise
        except libos_ipc.RemoteError as error:
            right = fails and f"ValueError: {number}" in str(error)
            self.record("answered", other.vmid, number, right)
        else:
            right = not fails and int.from_bytes(answer, "little") == number
            self.record("answered", other.vmid, number, right)

    def _next(self, vmid: int, wants: int) -> bytes:
        self._numbers[vmid] += 1
        number = self._numbers[vmid]
        self.record("send", vmid, number)
        return _payload(number, self.rng.choice(SIZES), wants)

    def tell_all(self) -> None:
        """A broadcast."""
        self._told += 1
        number = self._told
        size = self.rng.choice(SIZES[:-2])
        reached = self.group.broadcast(BROADCAST, _payload(number, size))
        self.record("told", number, reached)

    # ---- IDs

    def take_id(self) -> None:
        for _ in range(self.rng.choice([1, 1, 10])):
            if len(self._ids) < 60:
                id = self.group.ids.new()
                self.record("id", id)
                self._ids.append(id)

    def give_id_back(self) -> None:
        for _ in range(self.rng.choice([1, 1, 20])):
            if self._ids:
                id = self._ids.pop(self.rng.randrange(len(self._ids)))
                self.record("id back", id)
                self.group.ids.release(id)

    # ---- signals and questions

    def signal_somebody(self) -> None:
        other = self.somebody()
        # Who starts may not have said yet that it catches the signal: it would be the kernel's.
        try:
            if other is None or not self.group.getmeta(other.pid, "listens", type=bool):
                return
        except libos_ipc.NotFound:
            return
        self.record("signal", other.vmid)
        self.group.kill(other.pid, SIGNAL)
        self.record("signalled", other.vmid)

    def ask_about(self) -> None:
        other = self.somebody()
        if other is not None:
            cred = self.group.getmeta(other.pid, "cred", timeout=LONG_S)
            assert cred.uid == os.getuid(), cred
