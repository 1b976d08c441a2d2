"""The leader's part in files that one process locks alone: when it gives, takes, and believes."""

from __future__ import annotations

import errno

import pytest
from lock_play import Play

from libos_ipc.core.codes import Code
from libos_ipc.core.delegations import STREAK
from libos_ipc.core.descriptors import Spot
from libos_ipc.core.lock_words import EOF, READ, UNLOCK, WRITE, Kind

KINDS = [Kind.POSIX, Kind.OFD, Kind.FLOCK, Kind.FAIR]


@pytest.mark.parametrize("kind", KINDS)
def test_given_and_taken_back_with_what_is_locked(kind: Kind) -> None:
    play = Play()
    play.give(2, kind)
    play.hold(2, kind)
    assert play.set(3, kind, READ) == -errno.EAGAIN
    assert play.rows() == [(kind, WRITE, 0, 2)]
    assert play.said == [(2, Code.FILE_RECALLED, (0,))]
    key = (kind, 0, 8, 9) if kind == Kind.POSIX else (kind, 2 << 32 | 1, 0, 0)
    spot = play.leader.descriptors.spot(2, key)
    assert spot == Spot(3, -1 if kind == Kind.POSIX else 4100), "and by what it is locked"
    play.ask(2, Code.FILE_RETURNED, 0)
    assert play.set(2, kind, UNLOCK) == 0
    assert play.set(3, kind, WRITE) == 0


def test_flock_and_all_others_are_given_by_themselves() -> None:
    play = Play()
    play.give(2, Kind.POSIX)
    play.hold(2, Kind.POSIX)
    play.give(3, Kind.FLOCK)
    assert play.slots.closed == []
    assert play.set(3, Kind.OFD, READ) == -errno.EAGAIN
    assert play.slots.closed == [(2, 0)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": Kind.FLOCK},
        {"kind": 9},
        {"kind": Kind.FAIR, "handle": 3 << 32 | 1},
        {"kind": Kind.OFD, "handle": 0},
        {"handle": 2 << 32 | 1},
        {"type": UNLOCK},
        {"start": 5, "end": 4},
        {"end": 2**63},
        {"number": 0},
    ],
)
def test_a_holder_is_not_believed_everything(wrong: dict[str, int]) -> None:
    play = Play()
    play.give(2, Kind.POSIX)
    play.hold(2, Kind.POSIX, **wrong)
    play.hold(2, Kind.POSIX, READ, start=10, end=12)
    play.hold(2, Kind.FAIR, WRITE, start=11, end=11)
    assert play.set(3, Kind.POSIX, WRITE) == -errno.EAGAIN
    assert play.rows() == [(Kind.POSIX, READ, 10, 2)], "nor what contradicts itself"


def fork(play: Play, parent: int) -> int:
    """A child of `parent`, of which the leader has heard."""
    vmid = play.leader.next_vmid
    play.ask(parent, Code.GET_NEW_VMID)
    (start, _) = play.leader.ids.alloc_range(parent, 1.0) or (0, 0)
    play.shadow.ids.alloc_range(parent, 1.0)
    play.ask(parent, Code.CHANGE_ID_OWNER, start, vmid)
    play.done(play.leader.on_hello(vmid, 500 + vmid, 7, 0, 1.0, 1.0) or [])
    return vmid


@pytest.mark.parametrize("kind", [Kind.OFD, Kind.FLOCK])
def test_a_child_has_what_was_locked_before_the_fork(kind: Kind) -> None:
    play = Play()
    play.give(2, kind)
    play.hold(2, kind)
    child = fork(play, 2)
    assert play.said[0] == (2, Code.FILE_RECALLED, (0,))
    play.done(play.leader.on_gone(2, 2.0))
    assert play.set(3, kind, READ) == -errno.EAGAIN, "the child has it still"
    assert play.set(child, kind, UNLOCK, handle=2 << 32 | 1) == 0
    assert play.set(3, kind, READ) == 0


def test_a_fork_takes_nothing_else_back() -> None:
    play = Play()
    play.give(2, Kind.POSIX)
    play.hold(2, Kind.POSIX)
    fork(play, 2)
    assert play.slots.closed == []


def test_what_an_unborn_child_shares_outlives_its_parent() -> None:
    play = Play()
    play.give(2, Kind.FLOCK)
    play.hold(2, Kind.FLOCK)
    vmid = play.leader.next_vmid
    play.ask(2, Code.GET_NEW_VMID)
    play.ask(2, Code.CHANGE_ID_OWNER, 2, vmid)
    play.done(play.leader.on_gone(2, 2.0))
    play.done(play.leader.on_hello(vmid, 500, 7, 0, 1.0, 1.0) or [])
    assert play.set(3, Kind.FLOCK, READ) == -errno.EAGAIN
    play.done(play.leader.on_gone(vmid, 3.0))
    assert play.set(3, Kind.FLOCK, READ) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_death_leaves_nothing(kind: Kind) -> None:
    play = Play()
    play.give(2, kind)
    play.hold(2, kind)
    play.done(play.leader.on_gone(2, 2.0))
    assert play.rows() == []
    assert play.leader.files.given == {}
    assert play.set(3, kind, WRITE) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_exec_keeps_posix_locks_alone(kind: Kind) -> None:
    play = Play()
    play.give(2, kind)
    play.hold(2, kind)
    play.done(play.leader.on_detached(2, 2.0))
    assert play.rows() == ([(kind, WRITE, 0, 2)] if kind == Kind.POSIX else [])


def test_clearing_reaches_what_is_locked_alone() -> None:
    play = Play()
    play.give(2, Kind.POSIX)
    play.hold(2, Kind.POSIX)
    assert play.ask(2, Code.FILE_LOCK_CLEAR_PID, play.pid(2)) == 0
    assert play.rows() == []
    assert play.slots.closed == [(2, 0)]


@pytest.mark.parametrize("kind", [Kind.POSIX, Kind.FLOCK])
def test_a_descriptor_that_was_closed(kind: Kind) -> None:
    play = Play()
    play.give(2, kind)
    play.hold(2, kind)
    handle = 0 if kind == Kind.POSIX else 2 << 32 | 1
    play.ask(2, Code.HANDLE_CLOSED, int(kind), handle, 0, 0)
    assert play.slots.closed == [], "nothing was locked alone by it"
    play.ask(2, Code.HANDLE_CLOSED, int(kind), handle, 8, 9)
    assert play.rows() == []
    assert play.set(3, kind, WRITE) == 0


def test_who_shares_a_description_gets_nothing() -> None:
    play = Play()
    assert play.set(2, Kind.FLOCK, WRITE) == 0
    child = fork(play, 2)
    handle = 2 << 32 | 1
    for _ in range(2 * STREAK):
        for src in (2, child):
            assert play.set(src, Kind.FLOCK, WRITE, handle=handle) == 0
            assert play.set(src, Kind.FLOCK, UNLOCK, handle=handle) == 0
    assert Code.FILE_DELEGATED not in {code for _, code, _ in play.said}


def test_a_grandchild_may_use_what_it_has_from_one_who_is_gone() -> None:
    """Handles go down the line, whoever of it lives."""
    play = Play()
    assert play.set(2, Kind.OFD, READ, 0, 4) == 0
    child = fork(play, 2)
    grandchild = fork(play, child)
    play.done(play.leader.on_gone(child, 2.0))
    handle = 2 << 32 | 1
    for vmid in (2, grandchild):
        assert play.set(vmid, Kind.OFD, UNLOCK, handle=handle) == 0
    assert play.set(2, Kind.OFD, READ, 0, 4, handle) == 0
    other = fork(play, grandchild)
    assert play.set(other, Kind.OFD, UNLOCK, handle=handle) == 0
    assert play.set(3, Kind.OFD, UNLOCK, handle=handle) == -errno.EPERM


def test_a_late_word_of_a_closed_handle_leaves_others_alone() -> None:
    """A descriptor was closed and its numbers were used again: equal numbers, two handles."""
    play = Play()
    old, new = 2 << 32 | 5, 2 << 32 | 6
    play.ask(2, Code.HANDLE_AT, int(Kind.FLOCK), old, 0, 0, 3, 4100)
    play.give(2, Kind.FLOCK)
    play.hold(2, Kind.FLOCK, handle=new)
    assert play.set(3, Kind.FLOCK, WRITE) == -errno.EAGAIN
    play.ask(2, Code.HANDLE_CLOSED, int(Kind.FLOCK), old, 0, 0)
    names = {fields[1] for _, code, fields in play.said if code == Code.HANDLE_DROPPED}
    assert names == {old}
    assert play.leader.descriptors.spot(2, (Kind.FLOCK, new, 0, 0)) == Spot(3, 4100)


@pytest.mark.parametrize("code", [Code.FILE_LOCK_GET, Code.FILE_LOCK_SET])
def test_what_a_process_only_asked_by_is_forgotten(code: Code) -> None:
    """A POSIX lock that it takes by path later does not end with that descriptor."""
    play = Play()
    assert play.set(3, Kind.POSIX, WRITE) == 0
    play.ask(2, Code.HANDLE_AT, int(Kind.POSIX), 0, 8, 9, 3, -1)
    play.ask(2, code, 1, WRITE, 0, EOF, play.pid(2), 0, 0, b"/f", 8, 9, 1)
    assert play.leader.descriptors.spot(2, (Kind.POSIX, 0, 8, 9)) is None
    assert (2, Code.HANDLE_DROPPED, (Kind.POSIX, 0, 8, 9)) in play.said


def test_the_file_comes_before_the_answer() -> None:
    """Or the next request would take it back at once."""
    play = Play()
    order: list[str] = []
    for _ in range(STREAK):
        assert play.set(2, Kind.POSIX, WRITE) == 0
        fields = (1, UNLOCK, 0, EOF, play.pid(2), 0, 0, b"/f", 8, 9, 1)
        effects = play.leader.on_request(2, Code.FILE_LOCK_SET, 999, fields, 1.0)
        order = [type(effect).__name__ for effect in effects]
        play.done(effects)
    assert order == ["Journal", "Journal", "Say", "Answer"]


def test_another_process_cannot_name_a_handle_that_is_locked_alone() -> None:
    play = Play()
    play.give(2, Kind.FLOCK)
    play.hold(2, Kind.FLOCK)
    assert play.set(3, Kind.FLOCK, UNLOCK, handle=2 << 32 | 1) == -errno.EPERM
    assert play.rows() == [(Kind.FLOCK, WRITE, 0, 2)]


def test_a_listing_leaves_out_what_cannot_be() -> None:
    play = Play()
    play.give(2, Kind.POSIX)
    play.hold(2, Kind.POSIX, kind=77)
    play.hold(2, Kind.POSIX, READ)
    ((_, _, (entry,)),) = play.leader.lock_desk.delegations.table()
    assert (entry.kind, entry.type) == (Kind.POSIX, READ)
