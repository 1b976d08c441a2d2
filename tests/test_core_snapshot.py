"""The leader's state as one record: all of it comes back, and nothing else can."""

from __future__ import annotations

import os
import pickle

import pytest

from libos_ipc.core.leader import Leader
from libos_ipc.core.roster import Applicant
from libos_ipc.core.snapshot import restore, snapshot
from libos_ipc.core.vocabulary import Journal
from libos_ipc.errors import ProtocolError


def a_leader() -> Leader:
    leader = Leader(id_max=4000, range_size=4, quarantine_s=2.0)
    for os_pid in (1, 2):
        applicant = Applicant(os_pid, 1, 0, 0, True)
        admission, effects = leader.on_join(applicant, 0.0, 0.0)
        assert any(isinstance(effect, Journal) for effect in effects)
        leader.on_hello(admission.vmid, os_pid, 1, 0, 0.0, 0.0)
    return leader


def test_all_comes_back() -> None:
    leader = a_leader()
    other = a_leader()
    data = snapshot(leader)
    leader.on_gone(2, 1.0)
    assert leader.state() != other.state()
    restore(leader, data)
    leader.check()
    assert leader.state() == other.state()


class Hostile:
    """Calls something when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.getenv, ("HOME",)


@pytest.mark.parametrize(
    "data", [b"", b"no state", pickle.dumps([()]), pickle.dumps(3), pickle.dumps(Hostile())]
)
def test_what_is_no_state_is_refused_and_changes_nothing(data: bytes) -> None:
    leader = a_leader()
    before = leader.state()
    with pytest.raises(ProtocolError):
        restore(leader, data)
    assert leader.state() == before


def test_what_a_successor_could_not_read_is_not_written() -> None:
    leader = a_leader()
    leader.files.slots[2] = Hostile()  # type: ignore[assignment]
    with pytest.raises(ProtocolError):
        snapshot(leader)
