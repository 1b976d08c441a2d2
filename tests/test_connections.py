"""Which connections there are: none that a lane has made superfluous."""

from __future__ import annotations

import os
import socket

import pytest
from lane_users import ECHO, answer, by_lanes_alone, connections, dies
from processes import DEADLINE_S, Forked, Line, Peer, descriptors, poll

from libos_ipc import Group, Message
from libos_ipc.runtime.connections import hang_up, inode_of

pytestmark = pytest.mark.config(transport="native")


def test_lanes_leave_no_connection(group: Group) -> None:
    answer(group)
    with Peer(group, answer) as peer:
        by_lanes_alone(group, peer.vmid)
        links = group._session.member.links
        assert not any(link.connected for link in links.values())
        assert group.request(peer.vmid, ECHO, b"still", timeout=DEADLINE_S) == b"still"
        group.flush(DEADLINE_S)
        assert connections(group) == 0


def test_a_death_is_told_without_a_connection(group: Group) -> None:
    answer(group)
    with Peer(group, answer) as peer:
        by_lanes_alone(group, peer.vmid)
        dies(group, peer)
    group.wait(peer.pid, DEADLINE_S)


def test_last_words_come_before_the_news_of_a_death(group: Group) -> None:
    """What a process has said by a lane alone, and has died at once."""
    got: list[bytes] = []

    @group.on(ECHO)
    def echo(message: Message) -> object:
        got.append(message.payload)
        return message.payload

    root = group.vmid

    def speak(line: Line) -> None:
        by_lanes_alone(group, root)
        for number in range(100):
            group.send(root, ECHO, b"%d" % number)

    with Forked(speak) as child:
        child.result()
    poll(lambda: len(got) == 101, what="all words have come")
    assert got[1:] == [b"%d" % number for number in range(100)]


def test_a_connection_comes_back_for_who_has_no_lane_yet(group: Group) -> None:
    answer(group)
    with Peer(group, answer) as peer:
        by_lanes_alone(group, peer.vmid)
        with Peer(group, answer) as late:
            assert group.request(late.vmid, ECHO, b"new", timeout=DEADLINE_S) == b"new"
            by_lanes_alone(group, peer.vmid, late.vmid)


@pytest.mark.parametrize("known", [False, True])
def test_a_number_that_is_no_connections_any_more(known: bool) -> None:
    """Something else has it when the connection is to be ended; perhaps it had it, too, when the
    connection was looked at. It stays open, and nothing else is opened for good."""
    pidfd = os.pidfd_open(os.getpid())
    before = descriptors()
    hang_up(pidfd, inode_of(pidfd) if known else 1)
    assert descriptors() == before
    os.close(pidfd)
    hang_up(pidfd, 1)


def test_a_connection_is_ended_at_its_other_end() -> None:
    here, there = socket.socketpair()
    with here, there:
        hang_up(here.fileno(), inode_of(there.fileno()))
        there.settimeout(0)
        with pytest.raises(BlockingIOError):
            there.recv(1)
        hang_up(here.fileno(), inode_of(here.fileno()))
        assert there.recv(1) == b""
