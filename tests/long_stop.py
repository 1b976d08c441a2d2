"""One member is stopped for a minute while all others send to it: what that costs them.

    python -m tests.long_stop [--seconds 60] [--transport zmq|native] [--senders 3]

Every sender does the same rounds before the stop, during it and afterwards: it asks the next one
and waits for the answer, sends to the one that is stopped whatever is taken at once, and now and
then waits a millisecond for room there, and broadcasts. Told are the round trips between those that
run, their broadcasts, and how much memory senders and leader have come to need. Judged is that the
one that was stopped gets all that was taken for it, once and in order, and that nobody else is
slower by more than a tenth meanwhile: each sender's median, against the slower of those before and
after.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from processes import DEADLINE_S, Forked, Line, Peer, leaders, poll

import libos_ipc
from libos_ipc import Group, GroupConfig, Message

ECHO, NOTE, NOTED = 70, 71, 72
PAYLOAD = bytes(24)
#: Rounds between two broadcasts, and between two attempts to wait for room.
BROADCAST_EVERY = 200
WAIT_EVERY = 20
#: What a round trip or a broadcast may take while one is stopped, of what it takes otherwise.
MOST = 1.1


def notebook(group: Group) -> None:
    """NOTE counts what comes in order, by sender; NOTED tells the counts, -1 for broken order."""
    noted: dict[int, int] = {}
    group.on(ECHO)(lambda message: message.payload)
    group.on(NOTED)(lambda message: list(noted.items()))

    @group.on(NOTE)
    def note(message: Message) -> None:
        number, before = int.from_bytes(message.payload[:8], "big"), noted.get(message.src, 0)
        noted[message.src] = number + 1 if number == before else -1


def memory_of(os_pid: int) -> int:
    """Bytes of memory of this process's own."""
    with open(f"/proc/{os_pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Private"))


class Told(NamedTuple):
    """What one sender tells of one phase: medians in seconds, counts, bytes."""

    trip: float
    broadcast: float
    trips: int
    sent: int  #: taken for the one that is stopped, since the beginning
    memory: int


class Sender:
    """What one sender does; `sent` messages were taken for the one that is stopped."""

    def __init__(self, group: Group, slow: int, neighbour: int) -> None:
        self.group = group
        self.slow = slow
        self.neighbour = neighbour
        self.sent = 0

    def rounds(self, seconds: float) -> Told:
        """Ask the neighbour for so long."""
        group, took, broadcasts = self.group, [], []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.perf_counter()
            group.request(self.neighbour, ECHO, PAYLOAD, timeout=DEADLINE_S)
            took.append(time.perf_counter() - start)
            self._send(0.001 if len(took) % WAIT_EVERY == 0 else 0)
            if len(took) % BROADCAST_EVERY == 0:
                start = time.perf_counter()
                reached = group.broadcast(NOTE, self._next(), exclude=())
                broadcasts.append(time.perf_counter() - start)
                self.sent += self.slow in reached
        medians = statistics.median(took), statistics.median(broadcasts)
        return Told(*medians, len(took), self.sent, memory_of(os.getpid()))

    def _next(self) -> bytes:
        return self.sent.to_bytes(8, "big") + PAYLOAD

    def _send(self, timeout: float) -> None:
        try:
            self.group.send(self.slow, NOTE, self._next(), timeout=timeout)
        except (libos_ipc.WouldBlock, libos_ipc.Timeout):
            return
        self.sent += 1


def sender(line: Line, group: Group) -> None:
    line.send(group.vmid)
    slow, neighbour = line.recv()
    each = Sender(group, slow, neighbour)
    while seconds := line.recv():
        line.send(each.rounds(seconds))
    group.flush(DEADLINE_S)


def slowed(told: list[list[Told]]) -> list[str]:
    """Who was slower than allowed in the second of three phases, in words."""
    found = []
    for number, (before, during, after) in enumerate(zip(*told, strict=True), 1):
        for what in ("trip", "broadcast"):
            usual = max(getattr(before, what), getattr(after, what))
            ratio = getattr(during, what) / usual
            print(f"sender {number}: {what} {ratio:.2f} of what it takes otherwise")
            if ratio > MOST:
                found.append(f"sender {number}: each {what} took {ratio:.2f} times as long")
    return found


def trial(group: Group, leader: int, seconds: float, senders: int) -> list[str]:
    """What is wrong, in words."""
    notebook(group)
    with ExitStack() as stack:
        slow = stack.enter_context(Peer(group))
        crowd = [stack.enter_context(Forked(sender, group)) for _ in range(senders)]
        vmids = [each.recv() for each in crowd]
        for each, neighbour in zip(crowd, vmids[1:] + vmids[:1], strict=True):
            each.send((slow.vmid, neighbour))

        def phase(name: str, seconds: float) -> list[Told]:
            for each in crowd:
                each.send(seconds)
            told: list[Told] = [each.recv(seconds + DEADLINE_S) for each in crowd]
            trip = statistics.median(each.trip for each in told)
            broadcast = statistics.median(each.broadcast for each in told)
            print(
                f"{name:>14}: {trip * 1e6:7.1f} µs a trip, {broadcast * 1e6:7.1f} a broadcast, "
                f"{sum(each.trips for each in told) / seconds:8.0f} trips a second; "
                f"senders {max(each.memory for each in told) / 2**20:6.1f} MiB, "
                f"leader {memory_of(leader) / 2**20:6.1f} MiB"
            )
            return told

        phase("warming up", 2)
        before = phase("all run", min(seconds, 10))
        slow.stop()
        phase("just stopped", min(seconds, 5))
        during = phase("stopped", seconds)
        start = time.monotonic()
        slow.kill(signal.SIGCONT)
        sent = dict(zip(vmids, [each.sent for each in during], strict=True))

        def noted() -> dict[int, int]:
            told = group.request(slow.vmid, NOTED, type=list[tuple[int, int]], timeout=DEADLINE_S)
            return {vmid: count for vmid, count in told if vmid in sent}

        poll(lambda: -1 in noted().values() or noted() == sent, what="it has caught up")
        assert noted() == sent, (noted(), sent)
        total = sum(sent.values())
        print(
            f"caught up with {total} messages in {time.monotonic() - start:.2f} s, in order, once"
        )
        after = phase("all run again", min(seconds, 10))
        for each in crowd:
            each.send(0)
            each.result()
        return slowed([before, during, after])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--senders", type=int, default=3)
    parser.add_argument("--transport", choices=("zmq", "native"), default="native")
    given = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="li-", dir="/dev/shm")
    try:
        config = GroupConfig(transport=given.transport)
        with Group.create("g", runtime_dir=directory, config=config) as group:
            print(f"{given.transport}, {given.senders} senders, {given.seconds:.0f} s stopped")
            wrong = trial(group, leaders(directory)[0], given.seconds, given.senders)
    finally:
        shutil.rmtree(directory)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
