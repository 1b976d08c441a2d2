"""A member that spoils the memory by which others are woken delays them, and they lose nothing;
what one writes into its own ring is its own loss.

Who writes to a process has its bell mapped, and how its clerk is called; so a member may write
anything there, as often as it likes. Whoever has written what is not read rings again before long.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from processes import DEADLINE_S, Forked, Line, Peer, poll

from libos_ipc import Group, PeerDied
from libos_ipc._native import Shared
from libos_ipc.runtime import lanes

pytestmark = pytest.mark.config(transport="native")

ECHO, NOTE, NOTES = 70, 71, 72
#: The least time under attack, and the least number of notes, requests and pings. Each takes
#: 0.2 s at most on a machine that does nothing else; were it for the porter alone, who looks
#: every 5 s, all would take longer than the deadline.
ATTACK_S, ROUNDS = 1.0, 10
#: Of the bell for messages, and of that for the clerk: the words, and what was rung.
PLACES = (0, 1024)
WORDS, RUNG, OPEN = slice(0, 64), slice(64, 192), slice(192, 196)

Spoil = Callable[[memoryview, random.Random], None]


def takes_rings(bell: memoryview, dice: random.Random) -> None:
    bell[RUNG] = bytes(128)


def says_awake(bell: memoryview, dice: random.Random) -> None:
    """Then nobody is woken."""
    bell[4] = 8 | 4


def says_asleep(bell: memoryview, dice: random.Random) -> None:
    """As if there were a seat, and no porter."""
    bell[4] = 1


def writes_garbage(bell: memoryview, dice: random.Random) -> None:
    for place in (WORDS, RUNG, OPEN):
        bell[place] = dice.randbytes(place.stop - place.start)


def answers_and_notes(group: Group) -> None:
    notes: list[bytes] = []
    group.on(ECHO)(lambda message: message.payload)
    group.on(NOTE)(lambda message: notes.append(message.payload))
    group.on(NOTES)(lambda message: b" ".join(notes))


def until_lane(group: Group, vmid: int) -> None:
    """Until what is said to that member goes by shared memory."""
    traffic = group._session.traffic

    def has_lane() -> bool:
        group.request(vmid, ECHO, b"", timeout=DEADLINE_S)
        return traffic.lanes.line_of(vmid) is not None

    poll(has_lane)


@pytest.mark.parametrize("spoil", [takes_rings, says_awake, says_asleep, writes_garbage])
def test_a_member_that_spoils_the_bells_of_others(
    group: Group, spoil: Spoil, monkeypatch: pytest.MonkeyPatch
) -> None:
    bells: list[Shared] = []
    really_find = lanes._find

    def find_and_keep(os_pid: int, fd: int, size: int) -> Shared:
        memory = really_find(os_pid, fd, size)
        if size == lanes.BELL_BYTES:
            bells.append(memory)
        return memory

    def attack(line: Line, victims: list[int]) -> int:
        del bells[:]
        for vmid in victims:
            until_lane(group, vmid)
        places = [memoryview(bell).cast("B")[place:] for bell in bells for place in PLACES]
        dice = random.Random(20)
        line.send()
        while not line._pipe.poll(0):
            for _ in range(100):
                for place in places:
                    spoil(place, dice)
        return len(bells)

    monkeypatch.setattr(lanes, "_find", find_and_keep)
    answers_and_notes(group)
    with Peer(group, answers_and_notes) as peer:
        until_lane(group, peer.vmid)
        with Forked(attack, [group.vmid, peer.vmid]) as attacker:
            attacker.recv()
            begin = time.monotonic()
            words: list[bytes] = []
            while len(words) < ROUNDS or time.monotonic() - begin < ATTACK_S:
                word = str(len(words)).encode()
                words.append(word)
                group.send(peer.vmid, NOTE, word)
                assert group.request(peer.vmid, ECHO, word, timeout=DEADLINE_S) == word
                group.ping(peer.vmid, timeout=DEADLINE_S)
                assert time.monotonic() - begin < DEADLINE_S
            attacker.send("enough")
            assert attacker.result() >= 2
        assert group.request(peer.vmid, NOTES, timeout=DEADLINE_S).split() == words


def test_a_member_that_writes_garbage_into_its_ring_is_heard_no_more(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; who waits for it hears of its end, and everybody else is served as ever."""

    def liar(line: Line) -> None:
        answers_and_notes(group)
        until_lane(group, line.recv())
        end = group._session.traffic.lanes._ends[group.parent_vmid]
        line.send(group.vmid)
        counts, dice = memoryview(end.memory).cast("B").cast("Q"), random.Random(20)
        while not line._pipe.poll(0):
            for written in (0, 24):  # of either direction
                counts[written] = dice.getrandbits(63) | 1 << 62
            end.lane.ring()

    def refusals() -> int:
        return caplog.text.count("lane refused")

    answers_and_notes(group)
    ended: list[bool] = []

    def wait() -> None:
        with pytest.raises(PeerDied):
            group.request(vmid, ECHO, b"unheard", timeout=DEADLINE_S)
        ended.append(True)

    with Peer(group, answers_and_notes) as peer, Forked(liar) as lies:
        until_lane(group, peer.vmid)
        lies.send(group.vmid)
        vmid = lies.recv()
        poll(refusals, what="the lane is refused")
        waits = threading.Thread(target=wait)
        waits.start()
        for _ in range(50):
            assert group.request(peer.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
            assert group.ids.owner(group.pid) == group.vmid
        assert (refusals(), ended) == (1, [])
        lies.kill()
        waits.join(DEADLINE_S)
        assert ended
