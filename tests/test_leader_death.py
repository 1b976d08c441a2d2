"""The leader dies, stops or leaves, and the group goes on: nothing granted is lost or given twice.

The leader is a process of its own, or a member: here always another process than the test's. After
its end one of the others leads, and nobody notices more than a pause.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import DEADLINE_S, Forked, Line, Peer, poll, state_of

import libos_ipc
from libos_ipc import Group, GroupConfig, GroupExists, LeaderLost, WouldBlock
from libos_ipc.core.delegations import STREAK
from libos_ipc.core.succession_words import Bid, Role
from libos_ipc.runtime import heir
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.journal_file import read_head
from libos_ipc.runtime.rundir import GroupDir

NOTE, NOTED = 70, 71


class Led:
    """A group whose leader can be hit. `group` is the test's own membership."""

    def __init__(self, group: Group, runtime_dir: Path, founder: Forked | None) -> None:
        self.group = group
        self.path = group._node.directory.path
        self.founder = founder
        self.runtime_dir = runtime_dir

    @property
    def leader(self) -> int:
        """The OS pid of who leads the last epoch that has begun."""
        epoch = 1
        while (head := read_head(f"{self.path}/journal-{epoch + 1}")) is not None:
            if not head.committed:
                break
            epoch += 1
        head = read_head(f"{self.path}/journal-{epoch}")
        assert head is not None
        return head.os_pid

    def kill(self, sig: int = signal.SIGKILL) -> int:
        """Hit the leader."""
        leader = self.leader
        assert leader != os.getpid()
        os.kill(leader, sig)
        if sig == signal.SIGSTOP:
            poll(lambda: state_of(leader) == "T", what="stopped")
        return leader


def _found(line: Line, runtime_dir: Path, config: GroupConfig) -> None:
    group = Group.create("g", runtime_dir=runtime_dir, config=config, leader="embedded")
    line.send()
    line.pause()
    group.close()


@pytest.fixture(params=["process", "embedded"])
def led(request: pytest.FixtureRequest, runtime_dir: Path, config: GroupConfig) -> Iterator[Led]:
    """A group led by a process of its own, or by a founder that is another process."""
    if request.param == "process":
        with Group.create("g", runtime_dir=runtime_dir, config=config) as group:
            yield Led(group, runtime_dir, None)
    else:
        with Forked(_found, runtime_dir, config) as founder:
            founder.recv()
            with Group.join("g", runtime_dir=runtime_dir) as group:
                yield Led(group, runtime_dir, founder)


def epochs(group: Group) -> tuple[int, int]:
    return group.epoch, group.leader_vmid


# ---- death


def test_a_request_notices_only_a_pause(led: Led) -> None:
    group = led.group
    led.kill()
    assert group.vmid in {member.vmid for member in group.members()}
    assert group.epoch == 2
    assert group.is_leader
    assert group.leader_vmid == group.vmid


def test_what_a_shortened_journal_says_is_inherited(led: Led, tmp_path: Path) -> None:
    group, journal = led.group, Path(led.path) / "journal-1"
    path = tmp_path / "file"
    path.touch()
    lock = group.file_lock(path)
    token = lock.acquire()
    handle = group.sync("value", type=int)
    with handle.exclusive() as box:
        box.value = 7
    ranges = []

    def is_shortened() -> bool:
        ranges.extend(group.ids.alloc_range() for _ in range(50))
        return int.from_bytes(journal.read_bytes()[8:16], "little") >> 40 > 0

    poll(is_shortened)
    led.kill()
    assert {group.ids.owner(ids[0]) for ids in ranges} == {group.vmid}
    assert group.ids.alloc_range() not in ranges
    assert group.is_leader
    assert [(held.vmid, held.waiting) for held in group.locks.table()] == [(group.vmid, False)]
    lock.release()
    assert lock.acquire() > token
    lock.release()
    with handle.shared() as value:
        assert value == 7


def test_ids_are_given_once_whoever_leads(led: Led) -> None:
    group = led.group
    mine = [group.ids.new() for _ in range(100)]

    def take(line: Line) -> list[int]:
        before = [group.ids.new() for _ in range(100)]
        line.send()
        line.recv()
        return before + [group.ids.new() for _ in range(100)]

    with Forked(take) as one, Forked(take) as two:
        one.recv()
        two.recv()
        led.kill()
        mine += [group.ids.new() for _ in range(100)]
        one.send()
        two.send()
        everything = [*mine, *one.result(), *two.result()]
    assert len(set(everything)) == len(everything)


def test_what_is_locked_stays_locked_and_who_waits_gets_it(led: Led, tmp_path: Path) -> None:
    group, path = led.group, tmp_path / "file"
    path.touch()

    def wait_for_it(line: Line) -> tuple[int, int]:
        line.send()
        with group.file_lock(path) as lock:
            return tuple(lock.token)

    with group.file_lock(path) as lock:
        first = lock.token
        with Forked(wait_for_it) as waiter:
            waiter.recv()
            poll(lambda: any(each.waiting for each in group.locks.table()), what="a waiter")
            led.kill()
            assert [each.waiting for each in group.locks.table()] == [False, True]
            lock.release()
            second = waiter.result()
    assert group.epoch >= 2
    assert second > tuple(first)


def test_a_shared_value_is_what_was_committed_last(led: Led) -> None:
    group = led.group
    handle = group.sync("counter", type=int)

    def count(line: Line) -> None:
        mine = group.sync("counter", type=int)
        for _ in range(20):
            with mine.exclusive() as held:
                held.value += 1
        line.send()
        line.recv()
        for _ in range(20):
            with mine.exclusive() as held:
                held.value += 1

    with Forked(count) as one, Forked(count) as two:
        one.recv()
        two.recv()
        led.kill()
        one.send()
        two.send()
        for _ in range(20):
            with handle.exclusive() as held:
                held.value += 1
        one.result()
        two.result()
        with handle.shared() as value:
            assert value == 100


def test_three_in_a_row(led: Led) -> None:
    group = led.group

    def ask(line: Line) -> None:
        while line.recv() != "over":
            members = len(group.members())
            line.send((group.epoch, members))

    with Forked(ask) as one, Forked(ask) as two, Forked(ask) as three:
        peers = [one, two, three]
        for epoch in (2, 3, 4):
            before = led.leader
            if before == os.getpid():
                break  # it may be us, who cannot be killed
            led.kill()
            for peer in peers:
                if peer.os_pid != before:
                    peer.send("ask")
            answers = [peer.recv() for peer in peers if peer.os_pid != before]
            peers = [peer for peer in peers if peer.os_pid != before]
            assert {answer[0] for answer in answers} == {epoch}
            alive = {peer.os_pid for peer in peers}
            poll(lambda: before not in {m.os_pid for m in group.members()})  # noqa: B023
            assert alive <= {member.os_pid for member in group.members()}
        assert group.epoch >= 2
        for peer in peers:
            peer.send("over")


def test_what_the_dead_held_is_free_although_the_leader_died_too(led: Led, tmp_path: Path) -> None:
    group, path = led.group, tmp_path / "file"
    path.touch()

    def hold(line: Line) -> None:
        lock = group.file_lock(path)
        lock.acquire()
        line.send((group.pid, group.ids.new()))
        line.pause()

    with Forked(hold) as holder:
        pid, _ = holder.recv()
        leader = led.leader
        holder.kill(signal.SIGSTOP)
        os.kill(leader, signal.SIGKILL)
        holder.kill()
        with group.file_lock(path, timeout=DEADLINE_S):
            assert group.epoch >= 2
        holder.wait()
        poll(lambda: pid not in {member.pid for member in group.members()})


def test_messages_between_members_are_not_concerned(led: Led) -> None:
    group = led.group
    noted: list[int] = []
    group.on(NOTE, type=int)(lambda number, message: noted.append(number))

    def send(line: Line) -> None:
        for number in range(2000):
            group.send(group.parent_vmid, NOTE, number)
            if number == 500:
                line.send()
        group.flush()

    with Forked(send) as sender:
        sender.recv()
        led.kill()
        sender.result()
        poll(lambda: len(noted) == 2000)
    assert noted == list(range(2000))


def test_a_fork_right_after_it_joins(led: Led) -> None:
    group = led.group

    def tell(line: Line) -> Any:
        members = {member.pid for member in group.members()}
        return group.pid, group.epoch, members

    led.kill()
    with Forked(tell) as child:
        pid, epoch, members = child.result()
    assert epoch >= 2
    assert {pid, group.pid} <= members


def test_who_joins_right_after_it_waits_for_the_next(led: Led) -> None:
    led.kill()
    with Group.join("g", runtime_dir=led.runtime_dir, timeout=DEADLINE_S) as late:
        assert late.epoch >= 2
        assert {late.vmid, led.group.vmid} <= {member.vmid for member in led.group.members()}


def test_the_name_is_not_free_meanwhile(led: Led) -> None:
    led.kill()
    with pytest.raises(GroupExists):
        Group.create("g", runtime_dir=led.runtime_dir)
    assert led.group.members()


def test_children_are_waited_for_and_signalled_as_before(led: Led) -> None:
    group = led.group
    with Peer(group) as peer:
        led.kill()
        group.kill(peer.pid, signal.SIGTERM)
        assert group.wait(peer.pid).signal == signal.SIGTERM
        assert os.WTERMSIG(peer.wait()) == signal.SIGTERM


@pytest.mark.config(leader_stall=0.5)
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_winner_that_does_not_come_to_lead_is_not_waited_for(
    sig: int, led: Led, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, lines = led.group, []
    if sig == signal.SIGKILL:  # its end alone tells of it: nobody looks at the lock again
        monkeypatch.setattr(heir, "LOOK_S", 3600.0)

    def inherit(self: heir.Heir, deed: object) -> None:
        lines[0].send("won")
        lines[0].recv()
        os.kill(os.getpid(), sig)
        lines[0].pause()  # a stop may take another thread first
        os._exit(1)

    def win(line: Line) -> None:
        lines.append(line)
        line.send("ready")
        threading.Event().wait()  # the line is its worker's

    def bid_late(deed: Bid) -> object:
        monkeypatch.setitem(does, Bid, bid)
        poll(lambda: group._node.directory.lock.holder(deed.epoch), what="a winner")
        return bid(deed)

    with monkeypatch.context() as childs:
        childs.setattr(heir.Heir, "_inherit", inherit)
        winner = Forked(win)
    does = group._node.heir._do_one
    bid = does[Bid]
    monkeypatch.setitem(does, Bid, bid_late)
    with winner:
        assert winner.recv() == "ready"
        group.members()
        led.kill()
        assert winner.recv() == "won"
        poll(lambda: group._node.heir.machine.role is Role.AWAITING, what="it has lost")
        winner.send("now")
        assert group.members()
        assert group.is_leader
        assert group.epoch == (2 if sig == signal.SIGKILL else 3)


# ---- short of something


def test_a_successor_that_has_no_room_to_say_so_leads_all_the_same(
    led: Led, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def publish_later(self: GroupDir, file: GroupFile) -> None:
        if len(refused) < 3:
            refused.append(file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        publish(self, file)

    publish = GroupDir.publish
    monkeypatch.setattr(GroupDir, "publish", publish_later)
    led.kill()
    assert led.group.members()
    assert led.group.is_leader
    with Group.join("g", runtime_dir=led.runtime_dir, timeout=DEADLINE_S) as late:
        assert late.epoch == 2
    assert len(refused) == 3


def test_who_cannot_look_at_the_new_leader_follows_when_it_can(
    led: Led, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Group.join("g", runtime_dir=led.runtime_dir, may_lead=False) as group:
        refused = []

        def read_later(path: str) -> object:
            if group._node.heir.machine.epoch > group.epoch and not refused:
                refused.append(path)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return read_head(path)

        monkeypatch.setattr(heir, "read_head", read_later)
        led.kill()
        assert group.members()
        assert refused
        assert not group.is_leader


# ---- nobody can lead


def test_without_an_heir_the_leader_is_lost(led: Led) -> None:
    with Group.join("g", runtime_dir=led.runtime_dir, may_lead=False) as group:
        led.group.close()
        led.kill()
        with pytest.raises(LeaderLost, match="nobody can take over"):
            group.members()
        with pytest.raises(LeaderLost):
            group.members()
    with Group.create("g", runtime_dir=led.runtime_dir):
        pass  # sweeps up what lies there


# ---- stopped, and deposed


def go_on(led: Led, deposed: int) -> None:
    """Until it knows that it leads no more."""
    os.kill(deposed, signal.SIGCONT)
    if led.founder is None:
        poll(lambda: not processes.leaders(led.runtime_dir), what="the deposed leader has ended")
    else:
        poll(lambda: len(led.group.members()) == 2)


@pytest.mark.config(leader_stall=0.5)
def test_a_stopped_leader_is_deposed_and_joins_in_again(led: Led) -> None:
    group = led.group
    new = group.ids.new()
    leader = led.kill(signal.SIGSTOP)
    assert group.members()
    assert group.epoch == 2
    assert group.is_leader
    go_on(led, leader)
    assert group.ids.new() != new
    assert group.epoch == 2


@pytest.mark.config(leader_stall=0.5)
def test_a_deposed_leader_gives_no_file_away(led: Led, tmp_path: Path) -> None:
    """It goes on with what it was asked when it led, in memory that is its successor's by now."""
    path = tmp_path / "file"
    path.touch()
    lock = led.group.file_lock(path)
    for _ in range(STREAK - 1):
        with lock:
            pass
    with lock:
        leader = led.kill(signal.SIGSTOP)
    for _ in range(STREAK):
        with lock:
            pass
    with lock:
        assert any(row.delegated for row in led.group.locks.table())
        go_on(led, leader)
        with pytest.raises(WouldBlock):
            led.group.file_lock(path, timeout=0).acquire()


@pytest.mark.config(leader_stall=0.5)
def test_a_deposed_member_goes_on_as_a_member(
    runtime_dir: Path, config: GroupConfig, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()

    def founder(line: Line) -> Any:
        group = Group.create("g", runtime_dir=runtime_dir, config=config, leader="embedded")
        group.on(NOTE)(lambda message: message.payload)
        line.send(group.vmid)
        line.recv()
        ids = [group.ids.new() for _ in range(100)]
        with group.file_lock(path):
            members = group.members()
        found = (group.epoch, group.is_leader, len(members), ids)
        line.send(found)
        line.pause()
        group.close()
        return None

    with Forked(founder) as old:
        vmid = old.recv()
        with Group.join("g", runtime_dir=runtime_dir) as group:
            assert group.request(vmid, NOTE, b"before") == b"before"
            old.stop()
            ids = [group.ids.new() for _ in range(100)]
            assert group.members()
            assert group.is_leader
            old.kill(signal.SIGCONT)
            old.send()
            epoch, is_leader, members, theirs = old.recv()
            assert (epoch, is_leader, members) == (2, False, 2)
            assert not set(ids) & set(theirs)
            assert group.request(vmid, NOTE, b"after", timeout=DEADLINE_S) == b"after"


def test_a_member_that_was_stopped_all_the_time_comes_back(led: Led) -> None:
    group = led.group

    def tell(line: Line) -> Any:
        line.send()
        line.recv()
        return group.epoch, [group.ids.new() for _ in range(100)], len(group.members())

    with Forked(tell) as sleeper:
        sleeper.recv()
        sleeper.stop()
        led.kill()
        ids = [group.ids.new() for _ in range(100)]
        assert group.epoch == 2
        sleeper.kill(signal.SIGCONT)
        sleeper.send()
        _, theirs, members = sleeper.result()
    assert not set(ids) & set(theirs)
    assert members >= 2


# ---- leaving


def test_a_leader_that_leaves_hands_over(
    runtime_dir: Path, config: GroupConfig, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    with Forked(_found, runtime_dir, config) as founder:
        founder.recv()
        with Group.join("g", runtime_dir=runtime_dir) as group:
            with group.file_lock(path) as lock:
                first = lock.token
                founder.send("close")
                founder.result()
                assert group.members()
                assert epochs(group) == (2, group.vmid)
            with group.file_lock(path) as lock:
                assert lock.token > first
            assert len(group.members()) == 1
            assert libos_ipc.groups(runtime_dir) == ["g"]


def test_a_group_that_ends_while_its_leader_dies_ends_quietly(
    led: Led, caplog: pytest.LogCaptureFixture
) -> None:
    session = led.group._node.session
    led.group.flush()
    leader = led.kill(signal.SIGSTOP)
    last = threading.Thread(target=led.group.close)
    last.start()
    poll(lambda: session.leaving, what="it leaves")
    os.kill(leader, signal.SIGKILL)
    last.join(DEADLINE_S)
    assert led.group.closed
    assert not caplog.records
