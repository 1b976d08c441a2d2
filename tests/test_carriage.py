"""A member that has forked does without ZeroMQ as long as nothing is to go by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from lane_users import ECHO, answer, connections, dies, talk
from processes import DEADLINE_S, Forked, Line, Peer, poll, steady

from libos_ipc import Group
from libos_ipc.runtime import carriage, pause

pytestmark = pytest.mark.config(transport="native")


def come_to_rest(group: Group, *vmids: int) -> None:
    """Fork for an exec, which tells nobody anything, once all goes by lanes, from here and to
    here: whoever has something to say by a connection would knock."""
    session = group._session

    def by_lane() -> bool:
        talk(group, *vmids)
        with session.lock:
            lanes = all(link.by_lane for link in session.member.links.values())
        return lanes and connections(group) == 0

    poll(by_lane, what="all goes by lanes")
    subprocess.run(["/bin/true"], check=True, preexec_fn=int)
    poll(lambda: session.carriage.resting, what="at rest")
    assert session.carriage.transport is None


def test_lanes_go_on_without_a_transport(group: Group) -> None:
    answer(group)
    with Peer(group, answer) as peer:
        come_to_rest(group, peer.vmid)
        assert group.request(peer.vmid, ECHO, b"still", timeout=DEADLINE_S) == b"still"
        assert group.ids.owner(group.pid) == group.vmid
        assert group._session.carriage.transport is None


def test_a_child_needs_no_connection_of_its_parent(group: Group) -> None:
    """It joins, and is known for the process that it is, while its parent rests."""
    come_to_rest(group)

    def waits(line: Line) -> None:
        line.send((group.pid, os.getpid()))
        line.pause()

    with Forked(waits) as child:
        pid, os_pid = child.recv()
        rows = group._node.children.rows
        poll(lambda: pid in rows and rows[pid].os_pid == os_pid, what="the child is known")
        poll(lambda: any(m.pid == pid and m.state == "running" for m in group.members()))
        assert group._session.carriage.transport is None
        child.kill()
        assert group.wait(pid, DEADLINE_S).signal == signal.SIGKILL


def test_a_transport_is_made_when_it_is_missed(group: Group) -> None:
    """A process that has no lane to us yet connects; and we to it."""
    answer(group)
    with Peer(group, answer) as peer:
        come_to_rest(group, peer.vmid)
        with Peer(group, answer) as late:
            assert group.request(late.vmid, ECHO, b"new", timeout=DEADLINE_S) == b"new"
            assert group._session.carriage.transport is not None
            come_to_rest(group, peer.vmid, late.vmid)
            assert group.request(late.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"


def test_whoever_knocks_is_let_in(group: Group) -> None:
    """A child's first word to a parent at rest comes by a connection."""
    root = group.vmid
    answer(group)
    come_to_rest(group)

    def asks(line: Line) -> bytes:
        line.recv()
        return bytes(group.request(root, ECHO, b"knock", timeout=DEADLINE_S))

    with Forked(asks) as child:
        poll(lambda: group._session.carriage.resting, what="at rest again")
        child.send()
        assert child.result() == b"knock"
        assert group._session.carriage.transport is not None


def test_a_transport_that_cannot_be_made_is_made_later(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(group)
    failures = []
    real = carriage.Transport

    def refuse(*args: object) -> object:
        if len(failures) < 3:
            failures.append(args)
            raise OSError(24, "no descriptors are left")
        return real(*args)  # type: ignore[arg-type]

    come_to_rest(group)
    with Peer(group, answer) as peer:
        poll(lambda: group._session.carriage.resting, what="at rest again")
        monkeypatch.setattr(carriage, "Transport", refuse)
        assert group.request(peer.vmid, ECHO, b"late", timeout=DEADLINE_S) == b"late"
    assert len(failures) == 3


def test_a_death_is_told_at_rest(group: Group) -> None:
    answer(group)
    with Peer(group, answer) as peer:
        come_to_rest(group, peer.vmid)
        dies(group, peer)
        poll(lambda: group._session.loop._timeout is None, what="nothing is left to look after")
        assert group._session.carriage.transport is None
    group.wait(peer.pid, DEADLINE_S)


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def fork_and_talk(group: Group, peer: int) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    talk(group, peer)


@pytest.mark.parametrize("stay", [False, *([True] if sys.version_info < (3, 12) else [])])
def test_threads_stay_where_nobody_counts_them(
    group: Group, monkeypatch: pytest.MonkeyPatch, stay: bool
) -> None:
    """Whoever asks a process that has forked is answered, by the same threads or by others."""
    monkeypatch.setattr(pause, "THREADS_MAY_STAY", stay)
    answer(group)
    with Peer(group, answer) as peer:
        come_to_rest(group, peer.vmid)
        before = steady(threads)
        for _ in range(5):
            fork_and_talk(group, peer.vmid)
        assert (steady(threads) == before) is stay


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="threads never stay")
def test_threads_end_for_a_fork_that_cannot_keep_them_still(group: Group) -> None:
    """A round that takes long may be any system call, which the child would find half done."""
    answer(group)
    with Peer(group, answer) as peer:
        come_to_rest(group, peer.vmid)
        before = steady(threads)
        session, begun = group._session, threading.Event()

        def takes_long() -> None:
            begun.set()
            poll(lambda: session.loop._stopping, what="it is to end")

        session.clock.later(0, takes_long)
        assert begun.wait(DEADLINE_S)
        fork_and_talk(group, peer.vmid)
        assert steady(threads) != before
