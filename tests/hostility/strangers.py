"""Misdeeds of a process of the same user that is no member."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from libos_ipc import wire
from libos_ipc._native import pack_envelope, pack_message
from libos_ipc.core.codes import Code

from .foe import Foe
from .lines import GREETING, READY, connected

__all__ = ["halves", "impostors", "joiners", "silent", "strange_frames", "watchers"]

#: Connections that are held open at a time.
HELD = 100
#: Messages of a stranger's connection: at the first it is refused.
FEW = 4


def _by_connection(foe: Foe, count: int, make: Callable[[], list[bytes]]) -> None:
    done = 0
    while done < count:
        with foe.wire() as line:
            for _ in range(min(FEW, count - done)):
                line.say(make())
                done += 1
                foe.did()


def strange_frames(foe: Foe, count: int) -> None:
    """Any frames, and messages of members, from who has not said hello."""
    dice = foe.dice

    def make() -> list[bytes]:
        if dice.randrange(2):
            return [dice.randbytes(dice.randrange(40)) for _ in range(dice.randrange(1, 6))]
        head = pack_envelope(dice.number(64), dice.number(64))
        return [head, pack_message(dice.randrange(256), dice.number(64), dice.randbytes(20))]

    _by_connection(foe, count, make)


def impostors(foe: Foe, count: int) -> None:
    """Hellos as somebody else, of another epoch, group, version."""
    dice = foe.dice

    def make() -> list[bytes]:
        other = dice.choice(
            (
                {"vmid": foe.target.vmid},
                {"vmid": dice.randrange(1, 12)},
                {"vmid": dice.number(32)},
                {"epoch": dice.number(64)},
                {"group": dice.randbytes(dice.randrange(200))},
                {"version": dice.number(16)},
                {"magic": dice.number(32)},
            )
        )
        return foe.hello(**other)

    _by_connection(foe, count, make)


def joiners(foe: Foe, count: int) -> None:
    """Requests to join that are not understood, of another group, or of who goes away again."""
    dice, right = foe.dice, foe.target.group_id
    nested: object = 0
    for _ in range(300):
        nested = [nested]

    def make() -> list[bytes]:
        greeting = dice.choice(
            (
                dice.randbytes(dice.randrange(60)),
                msgspec.msgpack.encode(nested),
                msgspec.msgpack.encode(["x" * dice.randrange(60), 1, True]),
                msgspec.msgpack.encode([right, dice.number(32), True]),
                dice.spoiled(msgspec.msgpack.encode([right, 1, True])),
            )
        )
        payload = wire.encode(Code.JOIN, tail=greeting)
        return [pack_envelope(0, 0), pack_message(Code.JOIN, dice.number(64), payload)]

    _by_connection(foe, count, make)


@contextmanager
def _holding(foe: Foe) -> Iterator[Callable[[socket.socket], None]]:
    """Keeps open what it is given, each a misdeed, until so many more have come."""
    held: deque[socket.socket] = deque()

    def hold(line: socket.socket) -> None:
        held.append(line)
        foe.did()
        if len(held) > HELD:
            held.popleft().close()

    yield hold
    for line in held:
        line.close()


def halves(foe: Foe, count: int) -> None:
    """Connections that break off, or stop, in the middle of a greeting or of a frame."""
    dice = foe.dice
    with _holding(foe) as hold:
        for _ in range(count):
            way = dice.randrange(4)
            if way < 2:
                line = connected(foe.target.messages)
                said = GREETING + READY
                said = said[: dice.randrange(len(said))] if way else dice.randbytes(99)
            else:
                line = foe.wires.open().socket
                flags = dice.choice((0, 1, 2, 3, 4, 6, 255))
                size = dice.number(64 if flags & 2 else 8)
                said = struct.pack("<B", flags) + size.to_bytes(8 if flags & 2 else 1, "big")
                said += dice.randbytes(dice.randrange(300))
            try:
                line.sendall(said)
            except OSError:
                pass  # refused meanwhile
            hold(line)


def silent(foe: Foe, count: int) -> None:
    """Connections on which nothing is said, many at a time; some greet first."""
    with _holding(foe) as hold:
        for number in range(count):
            line = connected(foe.target.messages)
            if number % 2:
                line.sendall(GREETING + READY)
            hold(line)


def watchers(foe: Foe, count: int) -> None:
    """Connections to the liveness socket, held and dropped, with words that nobody reads."""
    dice = foe.dice
    with _holding(foe) as hold:
        for _ in range(count):
            line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line.setblocking(False)
            try:
                line.connect(str(foe.target.live))
                if dice.randrange(2):
                    line.send(dice.randbytes(100))
            except OSError:
                pass  # the queue is full: that is what we are after
            hold(line)
