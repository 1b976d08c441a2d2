"""The leader's part in locks that processes hand on: when that begins, and what is there then."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
from lock_play import Play
from simulator.turns import Queue, TurnTwin

from libos_ipc.core import lock_passing
from libos_ipc.core.codes import Code
from libos_ipc.core.lock_passing import MOVES
from libos_ipc.core.lock_words import (
    EOF,
    GRANTS,
    NO_WAIT,
    READ,
    UNLOCK,
    WAIT,
    WAIT_TIMED,
    WRITE,
    Kind,
)
from libos_ipc.core.snapshot import restore, snapshot

FAIR = Kind.FAIR


def handle(vmid: int, n: int) -> int:
    return vmid << 32 | n


def rows(play: Play) -> list[tuple[int, bool]]:
    """(VMID, whether it waits), of the leader's table."""
    return [(row.vmid, row.waiting) for row in play.leader.locks.table(1.0)]


class Turns:
    """Members 2, 3 and 4, of whom 2 and 3 take turns, and 3 has the lock."""

    def __init__(self) -> None:
        self.play = Play(3)
        assert self.play.set(2, FAIR, WRITE, handle=handle(2, 1)) == 0
        for n in range(MOVES):
            self.now, other = (2, 3) if n % 2 == 0 else (3, 2)
            assert self.play.said == []
            assert self.play.set(other, FAIR, WRITE, handle=handle(other, n + 2), wait=WAIT) is None
            assert self.unlock(self.now, n + 1) == 0
            self.now, self.other = other, self.now
        self.n = MOVES + 1
        told = {dst: fields for dst, code, fields in self.play.said if code == Code.FILE_IN_TURNS}
        assert told == {self.now: (1, 0, 1, 8, 9), self.other: (1, 0, 2, 8, 9)}
        self.play.said.clear()
        self.queue: Queue = self.play.slots.turns.queues[0]
        self.first, self.second = TurnTwin(self.queue, 1), TurnTwin(self.queue, 2)

    def unlock(self, vmid: int, n: int) -> int | None:
        return self.play.set(vmid, FAIR, UNLOCK, handle=handle(vmid, n))

    def wait(self, wait: int = WAIT) -> int:
        """The second one waits in turns: its handle."""
        mine = handle(self.other, 50)
        assert self.second.take(mine, 1, wait, True) == -1
        return mine

    def rows(self) -> list[tuple[int, bool]]:
        return rows(self.play)


@pytest.fixture
def turns() -> Turns:
    return Turns()


def test_it_begins_with_who_has_the_lock(turns: Turns) -> None:
    play = turns.play
    assert turns.rows() == [], "the table knows nothing of it"
    assert play.leader.files.turns.keys() == {(8, 9)}
    assert turns.queue.found().queue[0].handle == handle(turns.now, turns.n)
    assert turns.first.leave(handle(turns.now, turns.n))
    first = turns.second.take(handle(turns.other, 9), 1, WAIT, True)
    assert turns.second.leave(handle(turns.other, 9))
    assert turns.first.take(handle(turns.now, 9), 1, WAIT, True) == first + 1
    assert first > MOVES


def test_who_has_it_at_the_end_has_it_from_the_leader(turns: Turns) -> None:
    assert turns.play.set(4, FAIR, WRITE) == -errno.EAGAIN
    assert turns.rows() == [(turns.now, False)]
    assert not turns.first.leave(handle(turns.now, turns.n)), "it must tell the leader"
    assert turns.unlock(turns.now, turns.n) == 0
    assert turns.play.set(4, FAIR, WRITE) == 0


def test_one_more_takes_turns_too(turns: Turns) -> None:
    play, third = turns.play, handle(4, 1)
    assert play.set(4, FAIR, WRITE, handle=third, wait=WAIT) == 0
    assert play.grants[play.last] == 0, "to be had there"
    assert play.said.pop() == (4, Code.FILE_IN_TURNS, (1, 0, 3, 8, 9))
    mine = turns.wait()
    assert TurnTwin(turns.queue, 3).take(third, 1, WAIT, True) == -1
    assert play.set(4, FAIR, WRITE, handle=third, wait=WAIT) is None, "after more than a moment"
    assert turns.queue.ended
    assert turns.rows() == [(turns.now, False), (turns.other, True), (4, True)]
    assert play.set(turns.other, FAIR, UNLOCK, handle=mine) == 0
    assert turns.rows() == [(turns.now, False), (4, True)]


def test_who_waits_when_it_begins_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(4)
    asked = {}
    for vmid in (2, 3, 4, 5):
        play.set(vmid, FAIR, WRITE, handle=handle(vmid, 1), wait=WAIT)
        asked[vmid] = play.last
    monkeypatch.setattr(lock_passing, "MOVES", 1)
    assert play.set(2, FAIR, UNLOCK, handle=handle(2, 1)) == 0
    told = [(dst, fields[2]) for dst, code, fields in play.said if code == Code.FILE_IN_TURNS]
    assert told == [(3, 1), (4, 2), (5, 3), (2, 4)]
    assert play.grants[asked[3]] == 2
    assert (play.grants[asked[4]], play.grants[asked[5]]) == (0, 0)
    (queue,) = play.slots.turns.queues
    assert queue.order == [1, 2, 3]
    assert TurnTwin(queue, 4).take(handle(2, 2), 1, WAIT, True) == -1
    for which, vmid in (1, 3), (2, 4), (3, 5):
        end = TurnTwin(queue, which)
        assert which == 1 or end.take(handle(vmid, 1), 1, WAIT, True) > 0
        assert end.leave(handle(vmid, 1))
    assert TurnTwin(queue, 4).take(handle(2, 2), 1, WAIT, True) == 5


@pytest.mark.parametrize("other", ["task", "range", "twice", "nine"])
def test_with_another_one_among_those_who_wait_it_does_not_begin(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr(lock_passing, "MOVES", 1)
    play = Play(9)
    asks: list[tuple[int, int, int, int]] = [(2, 1, EOF, 1), (3, 1, EOF, 1)]
    asks += {
        "task": [(4, 1, EOF, 1 << 31 | 5)],
        "range": [(4, 1, 9, 1)],
        "twice": [(3, 2, EOF, 2)],
        "nine": [(vmid, 1, EOF, 1) for vmid in range(4, 11)],
    }[other]
    for vmid, n, end, thread in asks:
        fields = (play.pid(vmid), handle(vmid, n), WAIT, b"/f", 8, 9, thread)
        play.ask(vmid, Code.FILE_LOCK_TAKE, 1, WRITE, 0, end, *fields)
    assert play.set(2, FAIR, UNLOCK, handle=handle(2, 1)) == 0
    assert not play.leader.files.turns
    assert rows(play) == [(3, False), *((vmid, True) for vmid, *_ in asks[2:])]


@pytest.mark.parametrize("kind", [Kind.POSIX, Kind.OFD, FAIR])
def test_who_waited_waits_on_before_those_who_came_later(turns: Turns, kind: Kind) -> None:
    play, mine = turns.play, turns.wait()
    assert play.set(4, kind, READ, wait=WAIT) is None
    assert turns.rows() == [(turns.now, False), (turns.other, True), (4, True)]
    assert play.set(turns.other, FAIR, WRITE, handle=mine, wait=WAIT) is None
    asked = play.last
    assert turns.rows() == [(turns.now, False), (turns.other, True), (4, True)], "in its place"
    assert turns.unlock(turns.now, turns.n) == 0
    assert play.answers[asked] == 0
    assert turns.rows() == [(turns.other, False), (4, True)]


def test_who_was_granted_it_before_it_asked_has_it_all_the_same(turns: Turns) -> None:
    mine = turns.wait()
    assert turns.play.set(4, FAIR, WRITE) == -errno.EAGAIN
    assert turns.unlock(turns.now, turns.n) == 0
    assert turns.rows() == [(turns.other, False)]
    assert turns.play.set(turns.other, FAIR, WRITE, handle=mine, wait=WAIT) == 0
    assert turns.rows() == [(turns.other, False)]


def test_the_head_that_has_not_taken_it_is_granted_it(turns: Turns) -> None:
    mine = turns.wait()
    assert turns.first.leave(handle(turns.now, turns.n))
    assert turns.play.set(4, FAIR, WRITE) == -errno.EAGAIN
    assert turns.second.take(mine, 1, WAIT, True) == -1
    assert turns.play.set(turns.other, FAIR, WRITE, handle=mine, wait=WAIT) == 0


@pytest.mark.parametrize("granted", [False, True])
def test_who_gives_up_then_has_nothing(turns: Turns, granted: bool) -> None:
    mine = turns.wait(WAIT_TIMED)
    assert turns.play.set(4, FAIR, WRITE, wait=NO_WAIT) == -errno.EAGAIN
    if granted:
        assert turns.unlock(turns.now, turns.n) == 0
    assert not turns.second.leave(mine)
    assert turns.play.set(turns.other, FAIR, UNLOCK, handle=mine) == 0
    if not granted:
        assert turns.unlock(turns.now, turns.n) == 0
    assert turns.rows() == []


def test_a_request_of_ones_own_is_withdrawn_as_ever(turns: Turns) -> None:
    mine, play = turns.wait(WAIT_TIMED), turns.play
    assert play.set(turns.other, FAIR, WRITE, handle=mine, wait=WAIT_TIMED) is None
    assert play.ask(turns.other, Code.FILE_LOCK_WITHDRAW, play.last) == 0
    assert turns.rows() == [(turns.now, False)]


@pytest.mark.parametrize("who", ["now", "other"])
def test_death_ends_it_and_leaves_nothing(turns: Turns, who: str) -> None:
    mine, dead = turns.wait(), getattr(turns, who)
    play = turns.play
    play.done(play.leader.on_gone(dead, 2.0))
    play.done(play.leader.on_expected([], 2.0))
    assert turns.rows() == [(turns.other if who == "now" else turns.now, False)]
    if who == "now":
        assert play.set(turns.other, FAIR, WRITE, handle=mine, wait=WAIT) == 0


@pytest.mark.parametrize("closing", ["holder", "waiter"])
def test_a_cycle_is_found_when_it_closes(turns: Turns, closing: str) -> None:
    """The waiter has another lock, which the holder asks for, before or after it is told of."""
    play, mine = turns.play, handle(turns.other, 50)

    def other_file(vmid: int, type: int) -> int | None:
        fields: tuple[Any, ...] = (play.pid(vmid), handle(vmid, 60), WAIT, b"/g", 8, 10, 1)
        return play.ask(vmid, Code.FILE_LOCK_TAKE, 1, type, 0, EOF, *fields)

    assert other_file(turns.other, WRITE) == 0
    if closing == "holder":
        turns.wait()
        assert other_file(turns.now, WRITE) == -errno.EDEADLK
        assert turns.rows()[1:] == [(turns.other, True), (turns.other, False)]
    else:
        assert other_file(turns.now, WRITE) is None
        turns.second.take(mine, 1, WAIT, True)
        assert play.set(turns.other, FAIR, WRITE, handle=mine, wait=WAIT) == -errno.EDEADLK
        assert (turns.other, True) not in turns.rows()


def test_who_waits_behind_another_closes_no_cycle_with_who_came_later(turns: Turns) -> None:
    mine, play = turns.wait(), turns.play
    assert play.set(4, Kind.FAIR, READ, wait=WAIT) is None
    assert play.set(turns.other, FAIR, WRITE, handle=mine, wait=WAIT) is None


def test_a_listing_shows_it_and_ends_nothing(turns: Turns) -> None:
    turns.wait()
    (asked,) = turns.play.leader.on_request(4, Code.FILE_LOCK_TABLE, 1, (), 1.0)
    listed = asked.fields[0]  # type: ignore[union-attr]
    holder = (turns.now, turns.play.pid(turns.now))
    assert [(row[7], row[11], row[12], row[13]) for row in listed] == [
        (turns.now, False, (), True),
        (turns.other, True, (holder,), False),
    ]
    assert not turns.queue.ended


def test_a_process_is_not_believed_everything(turns: Turns) -> None:
    queue = turns.queue
    queue.turns[1] = queue.turns[1]._replace(number=2**40)
    queue.turns[2] = queue.turns[1]._replace(which=2, handle=handle(4, 1))
    queue.turns[7] = queue.turns[1]._replace(which=7)
    queue.order[:] = [1, 2, 7]
    assert turns.play.set(4, FAIR, WRITE) == -errno.EAGAIN
    (row,) = turns.play.leader.locks.table(1.0)
    assert (row.vmid, row.waiting) == (turns.now, False)
    assert turns.play.leader.locks.next_number < 2**40


def test_a_snapshot_has_it(turns: Turns) -> None:
    leader, other = turns.play.leader, Play(0).leader
    restore(other, snapshot(leader))
    assert other.state() == leader.state()
    assert other.files.turns


def test_numbers_grow_from_one_leader_to_the_next(turns: Turns) -> None:
    """Those of turns that go on stay less than the next leader's."""
    play = turns.play
    last = play.leader.files.turns[8, 9][3]
    for roster in play.leader, play.shadow:
        roster.apply(("epoch", 2))
    assert GRANTS < play.leader.locks.next_number <= 2 * GRANTS
    assert turns.first.leave(handle(turns.now, turns.n))
    assert turns.second.take(handle(turns.other, 50), 1, WAIT, True) <= last
    assert play.set(4, FAIR, WRITE, handle=handle(4, 1)) == -errno.EAGAIN
    assert play.set(turns.other, FAIR, UNLOCK, handle=handle(turns.other, 50)) == 0
    assert play.set(4, FAIR, WRITE, handle=handle(4, 1)) == 0
    assert GRANTS < play.grants[play.last] <= 2 * GRANTS
    play.leader.apply(("epoch", 2**20))
    assert play.leader.locks.next_number < 2**62, "there is room for as many more"


def test_memory_goes_when_its_end_is_in_the_journal_for_sure(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the step that ends it: that may be refused, and a successor still has to read it."""
    play, dropped = turns.play, []
    monkeypatch.setattr(play.slots.turns, "drop", dropped.append)
    monkeypatch.setattr(lock_passing, "WASTED", -MOVES)
    assert play.set(4, FAIR, WRITE) == -errno.EAGAIN
    assert not play.leader.files.turns
    assert dropped == []
    assert play.set(turns.other, FAIR, WRITE, handle=handle(turns.other, 9), wait=WAIT) is None
    assert turns.unlock(turns.now, turns.n) == 0
    assert play.leader.files.turns
    assert dropped == [1]


def test_turns_that_were_hardly_used_do_not_come_back_soon(turns: Turns) -> None:
    assert turns.play.set(4, FAIR, WRITE) == -errno.EAGAIN
    play, now, other = turns.play, turns.now, turns.other
    for n in range(2 * MOVES):
        assert play.set(other, FAIR, WRITE, handle=handle(other, 70 + n), wait=WAIT) is None
        assert turns.unlock(now, turns.n if n == 0 else 69 + n) == 0
        now, other = other, now
    assert not play.leader.files.turns


class Contest:
    """Three who lock, unlock, or wait for longer than a moment."""

    def __init__(self) -> None:
        turns = Turns()
        self.play = turns.play
        self.ends = {turns.now: turns.first, turns.other: turns.second}
        self.held = {turns.now: handle(turns.now, turns.n)}
        self.order: list[int] = []  # of those who wait
        self.waiting: dict[int, tuple[int, int]] = {}  # VMID -> handle, and request or 0
        self.begun = self.joined = 0

    def act(self, vmid: int, n: int) -> None:
        if vmid in self.held:
            mine = self.held.pop(vmid)
            if vmid not in self.ends or not self.ends[vmid].leave(mine):
                assert self.play.set(vmid, FAIR, UNLOCK, handle=mine) == 0
        elif vmid not in self.waiting:
            self.order.append(vmid)
            self.waiting[vmid] = handle(vmid, 100 + n), 0
            if not self.take(vmid):
                self.ask(vmid)
        elif not self.waiting[vmid][1]:
            self.ask(vmid)
        self.look()

    def take(self, vmid: int) -> int:
        number = 0
        if vmid in self.ends:
            number = self.ends[vmid].take(self.waiting[vmid][0], 1, WAIT, True)
        if number > 0:
            self.has_it(vmid)
        return number

    def ask(self, vmid: int) -> None:
        mine = self.waiting[vmid][0]
        self.play.set(vmid, FAIR, WRITE, handle=mine, wait=WAIT)
        self.waiting[vmid] = mine, self.play.last

    def look(self) -> None:
        told = [row for row in self.play.said if row[1] == Code.FILE_IN_TURNS]
        self.joined += len(told) == 1
        self.begun += len(told) > 1
        for vmid, _, (_, place, which, *_) in told:
            self.ends[vmid] = TurnTwin(self.play.slots.turns.queues[place], which)
        self.play.said.clear()
        for vmid, (mine, request) in list(self.waiting.items()):
            number = self.play.grants.get(request, -1)
            if number > 0:
                self.has_it(vmid)
            elif not request or not number:
                self.waiting[vmid] = mine, 0
                self.take(vmid)

    def has_it(self, vmid: int) -> None:
        assert not self.held, "one at a time"
        assert self.order.pop(0) == vmid, "in the order in which they came"
        self.held[vmid] = self.waiting.pop(vmid)[0]


def test_whatever_happens_one_has_it_and_those_who_wait_come_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng, begun, joined = random.Random(7), 0, 0
    for _ in range(150):
        with monkeypatch.context() as patch:
            contest = Contest()
            patch.setattr(lock_passing, "MOVES", 1)
            patch.setattr(lock_passing, "WASTED", 0)
            for n in range(24):
                contest.act(rng.choice((2, 3, 4)), n)
        begun, joined = begun + contest.begun, joined + contest.joined
    assert begun > 50
    assert joined > 50
