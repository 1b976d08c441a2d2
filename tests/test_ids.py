"""IDs and VMIDs over real processes: unique while in use, and returned by the dead."""

from __future__ import annotations

import errno
import os
import threading

import pytest
from processes import DEADLINE_S, Forked, Line, poll

import libos_ipc
from libos_ipc import Group, InvalidRange


def test_an_id_has_an_owner_until_it_is_released(group: Group) -> None:
    id = group.ids.new()
    assert id != group.pid
    assert group.ids.owner(id) == group.vmid
    group.ids.release(id)
    with pytest.raises(InvalidRange):
        group.ids.release(id)
    assert group.ids.new() != id, "it rests"


def test_ids_of_many_processes_and_threads_are_unique(group: Group) -> None:
    def takes(line: Line) -> list[int]:
        taken: list[int] = [group.pid]

        def take() -> None:
            taken.extend(group.ids.new() for _ in range(60))

        threads = [threading.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        line.send(taken)
        line.pause()
        return []

    children = [Forked(takes) for _ in range(4)]
    try:
        ids = [id for child in children for id in child.recv()] + [group.pid, group.ids.new()]
        assert len(ids) == len(set(ids)) == 4 * 181 + 2
        assert {group.ids.owner(id) is not None for id in ids} == {True}
    finally:
        for child in children:
            with child:
                pass


def test_what_one_does_not_own_cannot_be_released_or_moved(group: Group) -> None:
    def owns(line: Line) -> None:
        line.send((group.vmid, group.pid, group.ids.new()))
        line.pause()

    with Forked(owns) as child:
        vmid, pid, id = child.recv()
        for foreign in (id, pid, group.config.id_max):
            with pytest.raises(InvalidRange):
                group.ids.release(foreign)
            with pytest.raises((InvalidRange, libos_ipc.PermissionDenied)):
                group.ids.move(foreign, group.vmid)
        assert group.ids.owner(id) == group.ids.owner(pid) == vmid
        for own in (group.pid,):
            with pytest.raises(InvalidRange, match="own pid"):
                group.ids.release(own)
            with pytest.raises(InvalidRange, match="own pid"):
                group.ids.move(own, vmid)


@pytest.mark.parametrize("id", [0, -1, 2**32, "7", None, 1.5])
def test_what_is_no_id(group: Group, id: object) -> None:
    for call in (group.ids.release, group.ids.owner, lambda id: group.ids.move(id, group.vmid)):
        with pytest.raises(InvalidRange, match="whole numbers"):
            call(id)  # type: ignore[arg-type]


def test_an_id_moves_and_its_new_owner_releases_it(group: Group) -> None:
    def receives(line: Line) -> None:
        line.send(group.vmid)
        for _ in range(2):
            group.ids.release(line.recv())
            line.send()
        line.pause()

    with Forked(receives) as child:
        vmid = child.recv()
        given = group.ids.new(owner=vmid)
        moved = group.ids.new()
        group.ids.move(moved, vmid)
        for id in (given, moved):
            assert group.ids.owner(id) == vmid
            with pytest.raises(InvalidRange):
                group.ids.release(id)
            child.send(id)
            child.recv()
            assert group.ids.owner(id) is None
        id = group.ids.new()
        with pytest.raises(libos_ipc.PeerDied, match="10000: no such process"):
            group.ids.move(id, 10_000)
        with pytest.raises(libos_ipc.PeerDied):
            group.ids.new(owner=10_000)
        group.ids.release(id)
        with pytest.raises(InvalidRange, match="not in use"):
            group.ids.move(id, vmid)


def test_ranges_are_released_as_they_stand(group: Group) -> None:
    ids = group.ids.alloc_range()
    assert len(ids) == group.config.id_range_size
    assert {group.ids.owner(id) for id in ids} == {group.vmid}
    for wrong in (ids[1:], ids[:-1], ids[::2], range(0), [*ids], range(ids.start, ids.stop + 1)):
        with pytest.raises(InvalidRange):
            group.ids.release_range(wrong)  # type: ignore[arg-type]
    assert group.ids.owner(ids[0]) == group.vmid, "nothing has changed"
    group.ids.release_range(ids)
    assert group.ids.owner(ids[0]) is None
    group.ids.release_range(ids)  # the same again is no error, while it rests
    first = group.ids.new()
    with pytest.raises(InvalidRange, match="singly"):
        group.ids.release_range(range(first, first + 1))


@pytest.mark.parametrize("end", ["close", "kill", "_exit"])
def test_what_a_process_owned_returns(group: Group, end: str) -> None:
    def owns(line: Line) -> None:
        line.send((group.pid, group.ids.new(), group.ids.alloc_range()[0]))
        line.recv()
        if end == "close":
            group.close()
        os._exit(0)

    with Forked(owns) as child:
        ids = child.recv()
        assert all(group.ids.owner(id) for id in ids)
        child.kill() if end == "kill" else child.send()
        poll(lambda: not any(group.ids.owner(id) for id in ids), what="all have returned")


@pytest.mark.config(id_max=60, id_range_size=8)
def test_a_full_space_is_an_error_until_something_returns(group: Group) -> None:
    def takes(line: Line) -> int:
        line.send(take_all())
        line.pause()
        return 0

    def take_all() -> list[int]:
        taken: list[int] = []
        while True:
            try:
                taken.append(group.ids.new())
            except libos_ipc.IdsExhausted as error:
                return taken if error.errno == errno.EAGAIN else []

    with Forked(takes) as child:
        taken = child.recv()
        assert 0 < len(taken) == len(set(taken)) <= 60
        assert not set(taken) & set(take_all())
    # Nothing else is left, so what the dead process had is used again at once.
    poll(lambda: group.ids.owner(taken[0]) is None)
    assert group.ids.new() in range(1, 61)


def test_vmids_are_never_used_twice(group: Group) -> None:
    fresh = [group.vmids.new() for _ in range(5)]
    with Forked(lambda line: [group.vmid, *(group.vmids.new() for _ in range(5))]) as child:
        others = child.result(DEADLINE_S)
    later = [group.vmids.new() for _ in range(5)]
    seen = fresh + others + later + [group.vmid]
    assert len(set(seen)) == len(seen)
    assert fresh == sorted(fresh)
    assert later == sorted(later)


def test_ids_in_haste_come_and_go_in_batches_and_all_return(group: Group) -> None:
    def uses(line: Line) -> int:
        held = [group.ids.new() for _ in range(1000)]
        assert len(set(held)) == 1000
        for id in held:
            group.ids.release(id)
        for _ in range(2000):
            group.ids.release(group.ids.new())
        poll(lambda: len(group._session.member.ids.ranges()) <= 5, what="the rest goes back")
        line.send(held)
        line.pause()
        return 0

    with Forked(uses) as child:
        held = child.recv()
        poll(lambda: sum(group.ids.owner(id) is not None for id in held[::8]) <= 16)


def test_a_closed_group_gives_nothing_out_and_takes_nothing_back() -> None:
    with libos_ipc.Group.create(leader="embedded") as group:
        id = group.ids.new()
        group.ids.release(group.ids.new())
    with pytest.raises(libos_ipc.NotJoined):
        group.ids.new()
    with pytest.raises(libos_ipc.NotJoined):
        group.ids.release(id)


def test_a_child_gives_out_none_of_its_parents_ids(group: Group) -> None:
    mine = [group.ids.new() for _ in range(5)]

    def uses(line: Line) -> list[int]:
        for id in mine:
            with pytest.raises(InvalidRange):
                group.ids.release(id)
        return [group.ids.new() for _ in range(40)]

    with Forked(uses) as child:
        theirs = child.result(DEADLINE_S)
    assert not set(theirs) & {*mine, *(group.ids.new() for _ in range(40))}
    for id in mine:
        group.ids.release(id)
