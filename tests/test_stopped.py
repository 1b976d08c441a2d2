"""A member that is stopped: what it owes costs others little, and it catches up when it goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import DEADLINE_S, Forked, Line, Peer, leaders, poll, state_of

import libos_ipc
from libos_ipc import Group, Message
from libos_ipc.core.signals import MOST_PENDING

BOTH = pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
NOTE, NOTED, ECHO, GO_ON = range(70, 74)

Noted = list[tuple[int, int]]


def notebook(group: Group) -> None:
    """NOTE writes numbers down with their sender, NOTED tells them all, ECHO answers."""
    noted: Noted = []
    group.on(NOTED)(lambda message: noted)
    group.on(ECHO)(lambda message: message.payload)

    @group.on(NOTE, type=tuple[int, bytes])
    def note(given: tuple[int, bytes], message: Message) -> None:
        noted.append((message.src, given[0]))


def noted_by(group: Group, vmid: int) -> dict[int, list[int]]:
    """What this member has noted, by sender."""
    found: dict[int, list[int]] = {}
    for src, number in group.request(vmid, NOTED, type=Noted, timeout=DEADLINE_S):
        found.setdefault(src, []).append(number)
    return found


def fill(group: Group, vmid: int, first: int = 0) -> int:
    """Send NOTE with `first`, … until no more is taken; the next number."""
    number = first
    while True:
        try:
            group.send(vmid, NOTE, (number, bytes(200)), timeout=0)
        except libos_ipc.WouldBlock:
            return number
        number += 1


@BOTH
@pytest.mark.config(send_buffer=64 << 10)
def test_all_send_to_one_that_is_stopped(group: Group) -> None:
    """Each fills its share and goes on with the others; nothing is lost, doubled or reordered."""

    def sender(line: Line) -> int:
        line.send(group.vmid)
        stopped, others = line.recv()
        count = fill(group, stopped)
        reached = group.broadcast(NOTE, (-1, bytes(200)))
        assert stopped not in reached
        assert set(others) - {group.vmid} <= set(reached)
        for other in {*others, group.vmid}:
            for _ in range(50):
                assert group.request(other, ECHO, b"on", timeout=DEADLINE_S) == b"on"
        line.send()
        line.recv()
        group.flush(DEADLINE_S)
        return count

    notebook(group)
    with Peer(group) as slow, Forked(sender) as one, Forked(sender) as two:
        senders = one, two
        vmids = [each.recv() for each in senders]
        group.request(slow.vmid, NOTED, timeout=DEADLINE_S)
        assert slow.vmid in group.broadcast(NOTE, (0, b""))
        slow.stop()
        for each in senders:
            each.send((slow.vmid, vmids))
        count = fill(group, slow.vmid, 1)
        for each in senders:
            each.recv()
        slow.kill(signal.SIGCONT)
        group.flush(DEADLINE_S)
        for each in senders:
            each.send()
        counts = dict(zip(vmids, [each.result() for each in senders], strict=True))
        counts[group.vmid] = count
        poll(lambda: {src: len(n) for src, n in noted_by(group, slow.vmid).items()} == counts)
        assert noted_by(group, slow.vmid) == {src: list(range(n)) for src, n in counts.items()}


def test_a_founder_leaves_while_a_stopped_member_owes_it(group: Group, runtime_dir: Path) -> None:
    """It leaves without what cannot arrive; and the group ends with its last member's death."""

    def founder(line: Line) -> None:
        owed = Group.create("owed", runtime_dir=runtime_dir, config=group.config)
        with owed, Peer(owed, notebook) as slow:
            owed.request(slow.vmid, NOTED, timeout=DEADLINE_S)
            slow.stop()
            fill(owed, slow.vmid)
            owed.close()
            slow.kill()
            line.send()
            # This process lives on: it has left all the same.
            line.recv()

    with Forked(founder) as child:
        child.recv()
        poll(lambda: not (runtime_dir / "owed").exists(), timeout=5, what="the group is over")
        child.send()
        child.result()


@pytest.mark.config(linger=0.1, send_buffer=1 << 20)
def test_a_member_leaves_while_the_leader_is_stopped(group: Group, runtime_dir: Path) -> None:
    """The leader hears of it when it goes on, though nobody told it; no death is needed."""
    (leader,) = leaders(runtime_dir)

    def member(line: Line) -> None:
        held = group.ids.new()
        line.send((group.vmid, held))
        line.recv()
        fill(group, group.leader_vmid)  # its goodbye is behind all this, and goes with it
        group.close()
        line.send()
        line.recv()

    with Forked(member) as child:
        vmid, held = child.recv()
        assert group.ids.owner(held) == vmid
        os.kill(leader, signal.SIGSTOP)
        try:
            poll(lambda: state_of(leader) == "T")
            child.send()
            child.recv()
        finally:
            os.kill(leader, signal.SIGCONT)
        poll(lambda: group.ids.owner(held) is None, what="its ID is free")
        assert [member.vmid for member in group.members()] == [group.vmid]
        child.send()
        child.result()


def test_signals_to_one_that_is_stopped_are_bounded(group: Group) -> None:
    """Thousands wait; then the sender is told, instead of the leader's memory growing for ever.
    Afterwards one signal is one again."""
    taken: list[int] = []

    def target(group: Group) -> None:
        pending = group._node.signalling.pending
        for sig in (signal.SIGUSR1, signal.SIGUSR2):
            group.signal(sig, lambda sig, info: taken.append(sig))
        group.on(NOTED)(lambda message: [*map(taken.count, ends), int(pending.has(ends))])

    def kill_until_full(pid: int) -> int:
        for count in range(10 * MOST_PENDING):
            try:
                group.kill(pid, signal.SIGUSR1)
            except libos_ipc.WouldBlock:
                return count
        raise AssertionError("no end to them")

    def has_room(sig: int) -> bool:
        try:
            group.kill(slow.pid, sig)
        except libos_ipc.WouldBlock:
            return False
        return True

    def handled() -> list[int]:
        return group.request(slow.vmid, NOTED, type=list[int], timeout=DEADLINE_S)

    def until_all_have_come(fences: int) -> int:
        """The second number comes behind all of the first, by the same way."""
        poll(lambda: has_room(signal.SIGUSR2), what="room again")
        poll(lambda: handled()[1:] == [fences, 0], what="all are handled")
        return handled()[0]

    ends = signal.SIGUSR1, signal.SIGUSR2
    with Peer(group, target) as slow:
        slow.stop()
        sent = kill_until_full(slow.pid)
        assert sent >= MOST_PENDING
        with pytest.raises(libos_ipc.WouldBlock, match=f"pid {slow.pid}: .* stopped"):
            group.kill(slow.pid, signal.SIGUSR1)
        group.kill(slow.pid, 0)
        slow.kill(signal.SIGCONT)
        # They may have merged with one another, as the kernel's do.
        before = until_all_have_come(1)
        assert 0 < before <= sent
        group.kill(slow.pid, signal.SIGUSR1)
        assert until_all_have_come(2) == before + 1
