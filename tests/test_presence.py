"""Who leads looks for children that were perhaps born, and takes nothing from those to come."""

from __future__ import annotations

import os
import socket

import pytest
from processes import Peer, poll

from libos_ipc import Group
from libos_ipc.core.vocabulary import Expect


@pytest.mark.parametrize("group", ["embedded"], indirect=True)
def test_sockets_that_are_being_made_for_a_child_stay(group: Group) -> None:
    """Its parent has bound one, and does not listen yet: it looks as if nobody were there."""
    session = group._session
    leader = session.member.leader
    assert leader is not None
    with Peer(group, Group.ready) as peer, socket.socket(socket.AF_UNIX) as half_made:
        spares = leader.spares
        mine = poll(lambda: [vmid for vmid in spares if spares[vmid].asker == peer.vmid])
        path = session.directory.live_socket(mine[-1])
        half_made.bind(path)
        with session.lock:
            session.perform([Expect((mine[-1],))])
        assert os.path.exists(path)
        os.unlink(path)
