"""Misdeeds in memory that the target reads and writes at the same time.

The attacker is a member in good standing: it has a lane to the target, a file of slots, slabs.
Then it writes anything anywhere, again and again, and calls the target to look.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

from libos_ipc import IpcError
from libos_ipc._native import BELL_LINES, Shared
from libos_ipc.runtime import lanes

from .foe import Foe
from .people import ECHO

__all__ = ["bells", "desks", "recorded", "rings", "slabs", "slots"]

#: Writes between two looks at whether the target has anything to say.
BURST = 50
#: The first bytes of a lane: two channels of three cache lines each, and the desks.
CHANNELS, DESKS_AT, DESKS_END, HEADS = 6 * 64, 1024, 1280, 4096
#: Where a reception, which has a bell of its own, lies in the memory of a bell.
RECEPTION_AT = 1024

_made: list[tuple[int, int, Shared]] = []


@contextlib.contextmanager
def recorded() -> Iterator[None]:
    """What the library maps of lanes and bells meanwhile can be found again, in children too."""

    def recording(size: int, path: str | None = None) -> Shared:
        shared = Shared(size, path)
        _made.append((os.getpid(), size, shared))
        return shared

    lanes.Shared = recording  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        lanes.Shared = Shared  # type: ignore[misc]
        _made.clear()


def _mapped(size: int) -> list[memoryview]:
    """What this process has mapped of that size, in the order in which it came."""
    return [memoryview(m).cast("B") for pid, n, m in _made if (pid, n) == (os.getpid(), size)]


def _lane(foe: Foe) -> memoryview:
    """The memory of a lane to the target, once both use it."""
    group, target = foe.group, foe.target.vmid
    deadline = time.monotonic() + 10
    link = group._session.member.links.get
    while True:
        try:
            if target == group.leader_vmid:
                group.members()
            else:
                group.request(target, ECHO, b"knock", timeout=5)
        except IpcError:
            pass  # it comes to that when the target does not answer in the middle of a change
        found = link(target)
        if found is not None and found.by_lane:
            break
        assert time.monotonic() < deadline, "no lane"
    return _mapped(lanes.LANE_BYTES)[-1]


def _ring(foe: Foe) -> bool:
    """Have the target look at our line, by means of the library; False if there is none left."""
    session = foe.group._session
    if session.traffic.lanes.line_of(foe.target.vmid) is None:
        return False
    try:
        session.traffic.lanes.at(foe.target.vmid)[1].send(0, 0, 22, 0, b"")
    except ValueError:
        pass  # closed, or what we have written is in our own way
    return True


def _bursts(foe: Foe, count: int) -> Iterator[int]:
    """So many misdeeds: yields for each; in between the target is called, and has a moment. None
    behind the end of the lane: then nobody looks any more."""
    for number in range(count):
        yield number
        foe.did()
        if number % BURST == BURST - 1:
            if not _ring(foe):
                return
            if number % (4 * BURST) == 4 * BURST - 1:
                time.sleep(0.0005)


def _write(foe: Foe, memory: memoryview, at: int, most: int) -> None:
    """Some bytes there: a number at which something changes, or any."""
    dice = foe.dice
    if dice.randrange(4):
        size = dice.choice((1, 4, 8))
        at = at // size * size
        memory[at : at + size] = dice.number(8 * size).to_bytes(size, "little")
    else:
        size = min(dice.randrange(1, 40), most - at)
        memory[at : at + size] = dice.randbytes(size)


def rings(foe: Foe, count: int) -> None:
    """Counts, windows and wants of both channels of a lane, and the messages in them."""
    memory, dice = _lane(foe), foe.dice
    data = (lanes.LANE_BYTES - HEADS) // 2
    for _ in _bursts(foe, count):
        way = dice.randrange(8)
        if way < 4:
            at = dice.choice((0, 8, 64, 128, 192, 200, 256, 320))
            # Near what is there, so that it may be believed.
            before = int.from_bytes(memory[at : at + 8], "little")
            after = (before + dice.choice((-33, -1, 1, 17, 33, 64, 4096))) & (2**64 - 1)
            memory[at : at + 8] = after.to_bytes(8, "little")
        elif way < 6:
            _write(foe, memory, dice.randrange(CHANNELS), CHANNELS)
        else:
            at = HEADS + dice.choice((0, data)) + dice.randrange(4096)
            _write(foe, memory, at, lanes.LANE_BYTES)


def desks(foe: Foe, count: int) -> None:
    """Questions, answers and turns of the desks beside the channels."""
    memory, dice = _lane(foe), foe.dice
    for _ in _bursts(foe, count):
        _write(foe, memory, dice.randrange(DESKS_AT, DESKS_END), DESKS_END)


def bells(foe: Foe, count: int) -> None:
    """Counts, states and bits of the target's bell and of its clerk's."""
    _lane(foe)
    memory, dice = _mapped(lanes.BELL_BYTES)[-1], foe.dice
    for _ in _bursts(foe, count):
        start = dice.choice((0, RECEPTION_AT))
        _write(foe, memory, start + dice.randrange(64 + BELL_LINES // 8), lanes.BELL_BYTES)


def slots(foe: Foe, count: int) -> None:
    """The slots in which the files lie that were given to the attacker to lock."""
    group, dice = foe.group, foe.dice
    path = foe.target.home.parent.parent / f"given-{os.getpid()}"
    path.touch()
    shared = foe.target.home / f"{foe.vmid}.slots"
    deadline = time.monotonic() + 10
    while not shared.exists():
        with group.file_lock(path, timeout=10):
            pass
        assert time.monotonic() < deadline, "no file was given"
    with open(shared, "r+b") as file:
        memory = memoryview(mmap.mmap(file.fileno(), 0))
    lock = group.file_lock(path)
    lock.acquire(timeout=10)
    for number in range(count):
        _write(foe, memory, dice.randrange(1100), len(memory))
        foe.did()
        if number % 100 == 99:
            group.locks.table()  # the leader looks
    path.unlink()


def slabs(foe: Foe, count: int) -> None:
    """What the attacker has committed of a value, and then dies in the middle of."""
    group, dice = foe.group, foe.dice
    handle = group.sync(f"value-{os.getpid()}", type=bytes)
    with handle.exclusive(10) as box:
        box.value = b"committed"
    path = Path(f"{foe.target.home}/{foe.vmid}.slab-0")
    with open(path, "r+b") as file:
        memory = memoryview(mmap.mmap(file.fileno(), 0))
    handle.exclusive(10).__enter__()
    for _ in range(count):
        _write(foe, memory, dice.randrange(400), len(memory))
        foe.did()
