"""Large payloads on their way: several at once, and whoever stops or dies in the middle of one.

The other end loses nothing by it but that message: the lane's memory goes with the process, what
was read so far is freed, and windows that are not needed any more are given back to the system.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from processes import DEADLINE_S, Forked, Line, Peer, poll

import libos_ipc
from libos_ipc import Group, Message
from libos_ipc.runtime.lanes import LANE_BYTES

pytestmark = pytest.mark.config(transport="native", max_message=65 << 20)

SIZE = 64 << 20
DIGEST, FETCH, DIGESTS = range(70, 73)
#: A window of either direction, when neither has been needed lately, and the counts of both.
LEAST_RESIDENT = 3 * 4096


def made_of(seed: int, size: int = SIZE) -> bytes:
    """A payload of its own."""
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(1 << 16) * (size >> 16)


def digest_of(payload: bytes) -> bytes:
    return hashlib.blake2b(payload).digest()


def reader(group: Group) -> None:
    """DIGEST answers with that of the payload, DIGESTS with all so far; FETCH with a payload."""
    seen: list[bytes] = []
    group.on(DIGESTS)(lambda message: seen)
    group.on(FETCH, type=int)(lambda seed, message: made_of(seed))

    @group.on(DIGEST)
    def digest(message: Message) -> bytes:
        seen.append(digest_of(message.payload))
        return seen[-1]


def lanes_of(os_pid: int) -> list[int]:
    """The bytes that each lane's memory really takes, as far as this process has touched it."""
    found = []
    with open(f"/proc/{os_pid}/smaps") as file:
        for line in file:
            bounds, _, name = line.partition(" ")
            if "memfd:libos_ipc" in name:
                first, last = (int(bound, 16) for bound in bounds.split("-"))
                mapped = last - first
            elif line.startswith("Rss:") and mapped == LANE_BYTES:
                found.append(int(line.split()[1]) * 1024)
            elif not line[0].isupper():
                mapped = 0
    return found


def has_lane(group: Group, vmid: int) -> bool:
    """Whether what is said to that member goes by one; the first words do not."""
    with contextlib.suppress(libos_ipc.NoHandler):
        group.request(vmid, DIGESTS, timeout=DEADLINE_S)
    return group._session.member.links[vmid].by_lane


def moved(group: Group, vmid: int) -> Callable[[], int]:
    """How many bytes have been written into the lane to that member, in both directions so far."""
    counts = memoryview(group._session.traffic.lanes._ends[vmid].memory).cast("B").cast("Q")
    first = counts[0] + counts[24]
    return lambda: counts[0] + counts[24] - first


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Bytes that this process's objects have."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


def is_killed_in_the_middle(group: Group, code: int, what: bytes | int, after: int) -> bool:
    """Ask a new member, and kill it when so many bytes are written; it may have been too late."""
    ended: list[bool] = []

    def ask() -> None:
        try:
            group.request(peer.vmid, code, what, timeout=DEADLINE_S)
        except libos_ipc.PeerDied:
            ended.append(True)
        else:
            ended.append(False)

    with Peer(group, reader) as peer:
        poll(lambda: has_lane(group, peer.vmid))
        so_far = moved(group, peer.vmid)
        thread = threading.Thread(target=ask)
        thread.start()
        poll(lambda: so_far() > after, pause=False)
        peer.kill()
        thread.join(DEADLINE_S)
    (died,) = ended
    return died


@pytest.mark.parametrize("dies", ["reader", "writer"])
def test_who_is_killed_in_the_middle_leaves_nothing(
    group: Group, dies: str, traced: Callable[[], int]
) -> None:
    asked = (DIGEST, made_of(1)) if dies == "reader" else (FETCH, 1)
    poll(lambda: has_lane(group, group.leader_vmid))
    lanes, objects, middle = len(lanes_of(os.getpid())), traced(), 0
    for attempt in range(30):
        middle += is_killed_in_the_middle(group, *asked, (2 + attempt) << 20)
        poll(lambda: len(lanes_of(os.getpid())) == lanes, what="its lane is gone")
        if middle == 3:
            break
    assert middle == 3
    poll(lambda: traced() - objects < 1 << 20, what="what was read, or kept to be sent, is freed")


def test_windows_are_given_back_when_nothing_is_under_way(group: Group) -> None:
    seen = threading.Event()

    def both_ways() -> None:
        while not seen.is_set():
            assert group.request(peer.vmid, DIGEST, made_of(1), timeout=DEADLINE_S)
            assert group.request(peer.vmid, FETCH, 2, timeout=DEADLINE_S) == made_of(2)

    with Peer(group, reader) as peer:
        asks = threading.Thread(target=both_ways)
        asks.start()
        try:
            poll(lambda: max(lanes_of(os.getpid())) > 1 << 20, what="a window that is in use")
        finally:
            seen.set()
            asks.join(DEADLINE_S)
        for os_pid in (os.getpid(), peer.os_pid):
            poll(lambda: all(n <= LEAST_RESIDENT for n in lanes_of(os_pid)))  # noqa: B023


def test_several_from_several_at_once(group: Group) -> None:
    """Each process has two under way to every other, and takes them in meanwhile."""
    size, members = 8 << 20, 3

    def exchange(vmids: list[int]) -> None:
        def ask(vmid: int, seed: int) -> None:
            payload = made_of(seed, size)
            found = group.request(vmid, DIGEST, payload, timeout=DEADLINE_S)
            right.append(found == digest_of(payload))

        right: list[bool] = []
        threads = [
            threading.Thread(target=ask, args=(vmid, group.vmid << 8 | vmid << 1 | which))
            for vmid in vmids
            if vmid != group.vmid
            for which in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert right == [True] * len(threads)

    def member(line: Line) -> None:
        reader(group)
        line.send(group.vmid)
        exchange(line.recv())
        line.send()
        line.pause()
        group.close()

    reader(group)
    with ExitStack() as stack:
        peers = [stack.enter_context(Forked(member)) for _ in range(members)]
        vmids = [group.vmid, *(peer.recv() for peer in peers)]
        for peer in peers:
            peer.send(vmids)
        exchange(vmids)
        for peer in peers:
            peer.recv()


@pytest.mark.config(send_buffer=SIZE + (1 << 20))
def test_one_that_is_stopped_keeps_nobody_from_the_others(
    group: Group, traced: Callable[[], int]
) -> None:
    """One payload is all that waits for it, as the sender's buffer has it; the next is refused."""
    payloads = [made_of(seed) for seed in range(3)]
    with Peer(group, reader) as slow, Peer(group, reader) as other:
        for peer in (slow, other):
            group.request(peer.vmid, DIGESTS, timeout=DEADLINE_S)
        slow.stop()
        objects = traced()
        group.send(slow.vmid, DIGEST, payloads[0], timeout=0)
        for _ in range(3):
            with pytest.raises(libos_ipc.WouldBlock):
                group.send(slow.vmid, DIGEST, payloads[1], timeout=0)
            assert group.request(other.vmid, DIGEST, payloads[1], timeout=DEADLINE_S)
        assert traced() - objects < 1 << 20, "what is ours is not copied"
        slow.kill(signal.SIGCONT)
        group.send(slow.vmid, DIGEST, payloads[2], timeout=DEADLINE_S)
        found = group.request(slow.vmid, DIGESTS, timeout=DEADLINE_S, type=list[bytes])
        assert found == [digest_of(payloads[0]), digest_of(payloads[2])]
