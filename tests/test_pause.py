"""What a fork leaves out of order for a moment in the parent, and what goes on meanwhile."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from processes import DEADLINE_S, Peer, kinds_of_descriptors, poll

from libos_ipc import Group
from libos_ipc.runtime import carriage, liveness
from libos_ipc.runtime.reserve import SIZE, Reserve

ECHO, ASK = 70, 71


@pytest.mark.config(transport="native")
def test_lanes_are_answered_before_the_transport_stands(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that cannot make its transport yet answers all the same, and makes it then."""
    group.on(ECHO)(lambda message: message.payload)
    tried, may_stand, stands = threading.Event(), threading.Event(), threading.Event()
    real = carriage.Transport

    def late(*args: Any) -> Any:
        tried.set()
        assert may_stand.wait(DEADLINE_S)
        stands.set()
        return real(*args)

    def asker(member: Group) -> None:
        member.on(ASK)(lambda message: member.request(message.src, ECHO, b"?", timeout=DEADLINE_S))

    def miss() -> bool:
        with group._session.lock:
            group._session.carriage.miss()
        return tried.is_set()

    with Peer(group, asker) as peer:
        lanes = group._node.session.traffic.lanes
        poll(
            lambda: (
                group.request(peer.vmid, ASK, timeout=DEADLINE_S) == b"?"
                and lanes.line_of(peer.vmid) is not None
            )
        )
        monkeypatch.setattr(carriage, "Transport", late)
        try:
            child = os.fork()
            if not child:
                os._exit(0)
            poll(miss)
            assert group.request(peer.vmid, ASK, timeout=DEADLINE_S) == b"?"
            assert not stands.is_set()
        finally:
            may_stand.set()
        os.waitpid(child, 0)
        assert stands.wait(DEADLINE_S)
        assert group.request(peer.vmid, ASK, timeout=DEADLINE_S) == b"?"


def test_a_reserve_is_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many of one file, none that a program's exec would inherit, and none in a shortage."""
    before = kinds_of_descriptors()
    reserve = Reserve()
    assert sum((kinds_of_descriptors() - before).values()) == SIZE
    assert not any(os.get_inheritable(fd) for fd in reserve._held)
    reserve.release()
    assert kinds_of_descriptors() == before

    def none_left(fd: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "dup", none_left)
    reserve.refill()
    assert kinds_of_descriptors() == before


def test_a_listener_is_its_owners_only_and_replaces_what_lies_there(tmp_path: Path) -> None:
    """From the moment that it can be seen, whatever the umask; a dead one's file is in nobody's
    way."""
    path = str(tmp_path / "1.live")
    before = os.umask(0)
    try:
        for _ in range(2):
            listener = liveness.listen_at(path)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            liveness.watch(path).close()
            listener.close()
            with pytest.raises(ConnectionRefusedError):
                liveness.watch(path)
    finally:
        os.umask(before)
