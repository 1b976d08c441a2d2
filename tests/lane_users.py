"""Members that talk by lanes, until there is no connection left: for tests of what that needs."""

from __future__ import annotations

import pytest
from processes import DEADLINE_S, Peer, poll

import libos_ipc
from libos_ipc import Group, Message

__all__ = ["ECHO", "answer", "by_lanes_alone", "connections", "dies", "talk"]

ECHO = 71


def answer(group: Group) -> None:
    @group.on(ECHO)
    def echo(message: Message) -> object:
        return message.payload


def connections(group: Group) -> int:
    """Those of this process, in either direction; counted where they cost something."""
    session = group._session
    with session.lock:
        transport = session.carriage.transport
        if transport is None:
            return 0
        return len(transport._routes) + len(transport._connections)


def talk(group: Group, *vmids: int) -> None:
    """To the leader and to these."""
    for vmid in vmids:
        assert group.request(vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
    assert group.ids.owner(group.pid) == group.vmid


def by_lanes_alone(group: Group, *vmids: int) -> None:
    """Talk to the leader and to these, until no connection is left here or to here."""
    talk(group, *vmids)
    poll(lambda: connections(group) == 0, what="no connection is left")


def dies(group: Group, peer: Peer) -> None:
    """Kill it: a request finds out at once."""
    peer.kill()  # whether it is found out before the request or during it is all one
    with pytest.raises(libos_ipc.IpcError):
        group.request(peer.vmid, 72, b"never answered", timeout=DEADLINE_S)
