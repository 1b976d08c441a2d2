"""LocalIds: several of them under one leader, watched by a referee; and its rules one by one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twins.damage import SAME_EVERY_RUN
from twins.ids_twin import Referee
from twins.local_ids_twin import OldestFirst

from libos_ipc.core import local_ids
from libos_ipc.core.ids import IdSpace
from libos_ipc.core.local_ids import LocalIds
from libos_ipc.errors import InvalidRange

SLOTS = st.integers(0, 2)
SEEDS = st.integers(0, 2**16).map(random.Random)
#: Without the phase that explains, which takes minutes.
QUICK_TO_FAIL = (Phase.generate, Phase.shrink)
MOSTLY = st.sampled_from((True, True, True, False))
#: What `move` picks from: the referee's states, or (None) what was moved here.
KINDS = ("fresh", "live", "live", "resting", None)


class Process:
    """One process: its own IDs, who judges them, and the single IDs that others moved to it."""

    def __init__(self, vmid: int, quarantine_s: float, reserve: int) -> None:
        self.vmid = vmid
        self.ids = LocalIds(quarantine_s=quarantine_s, reserve=reserve)
        self.referee = Referee(quarantine_s, reserve)
        self.moved_here: set[int] = set()


class GroupOfProcesses(RuleBasedStateMachine):
    """Processes that take, release and move IDs, leave and die; `live` is who uses which ID."""

    @initialize(
        id_max=st.integers(8, 60),
        range_size=st.integers(1, 9),
        leader_s=st.sampled_from((0.0, 4.0, 100.0)),
        local_s=st.sampled_from((0.0, 2.0, 8.0)),
        reserve=st.integers(0, 2),
    )
    def start(
        self, id_max: int, range_size: int, leader_s: float, local_s: float, reserve: int
    ) -> None:
        self.leader = IdSpace(id_max=id_max, range_size=range_size, quarantine_s=leader_s)
        self.last_vmid = 1
        self.limits = (local_s, reserve)
        self.processes = [self.join() for _ in range(3)]
        self.live: dict[int, int] = {}
        self.now = 50.0

    def join(self) -> Process:
        self.last_vmid += 1
        return Process(self.last_vmid, *self.limits)

    @rule(seconds=st.sampled_from((0.5, 2.0, 8.0, 30.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(slot=SLOTS)
    def fetch_range(self, slot: int) -> None:
        process = self.processes[slot]
        got = self.leader.alloc_range(process.vmid, self.now)
        if got is not None:
            process.ids.grant(*got)
            process.referee.on_grant(*got)

    @rule(slot=SLOTS, count=st.integers(1, 16), fetch=MOSTLY)
    def new(self, slot: int, count: int, fetch: bool) -> None:
        process = self.processes[slot]
        for _ in range(count):
            id = process.ids.new(self.now)
            process.referee.on_new(id, self.now)
            if id is not None:
                assert id not in self.live
                assert self.leader.owner_of(id) == process.vmid
                self.live[id] = process.vmid
            elif fetch:
                self.fetch_range(slot)
            else:
                return

    @rule(slot=SLOTS, seed=SEEDS, keep=st.integers(0, 3))
    def release(self, slot: int, seed: random.Random, keep: int) -> None:
        process = self.processes[slot]
        ours = sorted(id for id in self.live if process.ids.in_use(id))
        seed.shuffle(ours)
        for id in ours[keep:]:
            back = process.ids.release(id, self.now)
            assert back is not None
            process.referee.on_release(id, self.now, back)
            assert self.live.pop(id) == process.vmid
            for start, end in back:
                self.leader.release_range(start, end, process.vmid, self.now)

    @rule(slot=SLOTS, id=st.integers(0, 61))
    def release_what_is_not_handed_out(self, slot: int, id: int) -> None:
        process = self.processes[slot]
        if process.ids.in_use(id):
            return
        if process.ids.owns(id):
            with pytest.raises(InvalidRange):
                process.ids.release(id, self.now)
        else:
            assert process.ids.release(id, self.now) is None

    @rule(slot=SLOTS, by=st.integers(1, 2), seed=SEEDS, kind=st.sampled_from(KINDS))
    def move(self, slot: int, by: int, seed: random.Random, kind: str | None) -> None:
        """Move an ID that is handed out, or rests, or neither, or that was moved here before."""
        process, other = self.processes[slot], self.processes[(slot + by) % 3]
        ids = process.moved_here if kind is None else process.referee.of_kind(kind)
        if not ids:
            return
        id = seed.choice(sorted(ids))
        self.leader.move(id, other.vmid, by=process.vmid, now=self.now)
        if id in process.moved_here:
            process.moved_here.remove(id)
            assert not process.ids.owns(id)
        else:
            process.referee.on_moved_away(id)
        process.ids.moved_away(id)
        other.moved_here.add(id)
        self.live[id] = other.vmid

    @rule(slot=SLOTS, seed=SEEDS)
    def release_a_moved_one(self, slot: int, seed: random.Random) -> None:
        process = self.processes[slot]
        if process.moved_here:
            id = seed.choice(sorted(process.moved_here))
            assert process.ids.release(id, self.now) is None
            self.leader.release_range(id, id, process.vmid, self.now)
            process.moved_here.remove(id)
            del self.live[id]

    @rule(slot=SLOTS, how=st.sampled_from(("leave", "die", "stay", "stay", "stay", "stay")))
    def end(self, slot: int, how: str) -> None:
        if how == "leave":
            self.leave(slot)
        elif how == "die":
            self.leader.release_owner(self.processes[slot].vmid, self.now)
            self.forget(slot)

    def leave(self, slot: int) -> None:
        process = self.processes[slot]
        moved_here = [(id, id) for id in process.moved_here]
        for start, end in [*process.ids.drain(), *moved_here]:
            self.leader.release_range(start, end, process.vmid, self.now)
        assert self.leader.ranges_of(process.vmid) == []
        process.ids.check()
        assert process.ids.new(self.now) is None
        assert process.ids.drain() == []
        self.forget(slot)

    def forget(self, slot: int) -> None:
        gone = self.processes[slot].vmid
        self.live = {id: vmid for id, vmid in self.live.items() if vmid != gone}
        self.processes[slot] = self.join()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "processes"):
            return
        self.leader.check()
        for process in self.processes:
            process.ids.check()
            moved_here = {(id, id) for id in process.moved_here}
            ours = sorted(process.referee.ranges | moved_here)
            assert ours == self.leader.ranges_of(process.vmid)
            assert process.ids.low() == process.referee.low()
            for id in range(62):
                state = process.referee.state.get(id)
                assert process.ids.owns(id) == (state is not None)
                assert process.ids.in_use(id) == (state == "live")
                if state == "live":
                    assert self.live[id] == process.vmid

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            for slot in range(3):
                self.leave(slot)
            assert len(self.leader) == 0


TestGroupOfProcesses = GroupOfProcesses.TestCase
TestGroupOfProcesses.settings = settings(
    SAME_EVERY_RUN, max_examples=60, stateful_step_count=40, phases=QUICK_TO_FAIL
)


@pytest.mark.parametrize("seed", range(100))
def test_the_same_steps_in_long_random_walks(seed: int) -> None:
    """Hypothesis finds short histories; a walk reaches ranges that are old, split and reused."""
    chance = random.Random(seed)
    group = GroupOfProcesses()
    group.start(
        id_max=chance.randrange(8, 61),
        range_size=chance.randrange(1, 10),
        leader_s=chance.choice((0.0, 4.0, 100.0)),
        local_s=chance.choice((0.0, 2.0, 8.0)),
        reserve=chance.randrange(3),
    )
    for _ in range(80):
        slot = chance.randrange(3)
        match chance.randrange(9):
            case 0:
                group.wait(chance.choice((0.5, 2.0, 8.0)))
            case 1:
                group.fetch_range(slot)
            case 2 | 3 | 4:
                group.new(slot, chance.randrange(1, 9), chance.random() < 0.7)
            case 5 | 6:
                group.release(slot, chance, chance.randrange(4))
                group.release_what_is_not_handed_out(slot, chance.randrange(62))
            case 7:
                group.move(slot, chance.randrange(1, 3), chance, chance.choice(KINDS))
            case 8:
                group.release_a_moved_one(slot, chance)
                group.end(slot, chance.choice(("leave", "die", "stay", "stay", "stay")))
        group.agrees()
    group.teardown()


def local(*ranges: tuple[int, int], quarantine_s: float = 10.0, reserve: int = 1) -> LocalIds:
    ids = LocalIds(quarantine_s=quarantine_s, reserve=reserve)
    for start, end in ranges:
        ids.grant(start, end)
    return ids


def take_all(ids: LocalIds, now: float = 0.0) -> list[int]:
    """New IDs until there is none."""
    return list(iter(lambda: ids.new(now), None))


# ---- single IDs


def test_ids_come_in_order_range_after_range() -> None:
    ids = local((5, 7), (1, 2), (20, 20))
    assert take_all(ids) == [5, 6, 7, 1, 2, 20]
    assert all(map(ids.in_use, (5, 7, 1, 20)))
    assert ids.new(0.0) is None
    ids.grant(3, 4)
    assert ids.new(0.0) == 3


def test_without_a_range_there_is_nothing() -> None:
    ids = local()
    assert ids.new(0.0) is None
    assert not ids.owns(1)
    assert not ids.in_use(1)
    assert ids.release(1, 0.0) is None
    assert ids.drain() == []
    ids.check()


def test_a_released_id_comes_back_after_quarantine_and_not_before() -> None:
    ids = local((1, 3))
    take_all(ids)
    assert ids.release(2, 100.0) == ids.release(1, 103.0) == []
    assert ids.new(109.9) is None
    assert ids.new(110.0) == 2
    assert ids.new(110.0) is None
    assert ids.new(113.0) == 1
    assert ids.new(1e9) is None


def test_every_id_of_a_range_is_used_once_before_one_is_used_again() -> None:
    ids = local((1, 4), quarantine_s=0.0)
    got = []
    for _ in range(12):
        id = ids.new(1.0)
        assert id is not None
        got.append(id)
        ids.release(id, 1.0)
    assert got[:4] == [1, 2, 3, 4]
    assert set(got[4:8]) == set(got[8:]) == {1, 2, 3, 4}


def test_rested_ids_are_used_before_another_range_is_opened() -> None:
    ids = local((1, 2), (11, 12))
    assert (ids.new(0.0), ids.new(0.0)) == (1, 2)
    assert ids.release(1, 0.0) == []
    assert ids.new(10.0) == 1
    assert ids.new(10.0) == 11


def test_releasing_what_is_not_handed_out_is_refused() -> None:
    ids = local((1, 4))
    ids.new(0.0)
    assert ids.release(1, 0.0) == []
    for id in (1, 2, 4):
        with pytest.raises(InvalidRange, match=f"releasing ID {id}: it is not handed out"):
            ids.release(id, 1.0)
    for id in (0, 5, -1, 2**40):
        assert ids.release(id, 1.0) is None
    ids.check()


@pytest.mark.parametrize(
    ("start", "end"), [(1, 4), (4, 9), (10, 10), (5, 12), (12, 13), (0, 1), (3, 2), (-4, -1)]
)
def test_a_grant_that_overlaps_or_is_no_range_is_refused(start: int, end: int) -> None:
    ids = local((10, 12), (4, 6))
    ids.new(0.0)
    if (start, end) == (1, 4) or start >= 4 or end < start or start < 1:
        with pytest.raises(InvalidRange):
            ids.grant(start, end)
    ids.check()
    assert sum(1 for _ in take_all(ids)) == 5


# ---- giving back


def test_a_range_goes_back_with_its_last_release_if_the_reserve_is_full() -> None:
    ids = local((1, 3), (11, 13))
    for _ in range(3):
        ids.new(0.0)
    assert ids.release(2, 0.0) == ids.release(3, 0.0) == []
    assert ids.release(1, 0.0) == [(1, 3)]
    assert not ids.owns(1)
    assert ids.release(1, 0.0) is None
    assert ids.drain() == [(11, 13)]


def test_a_range_stays_as_the_reserve_until_there_is_a_better_one() -> None:
    ids = local((1, 2))
    take_all(ids)
    assert ids.release(1, 0.0) == ids.release(2, 0.0) == []
    ids.grant(11, 12)
    assert take_all(ids) == [11, 12]
    assert ids.release(11, 1.0) == []
    assert ids.release(12, 1.0) == [(1, 2)]
    assert ids.drain() == [(11, 12)]


def test_a_range_with_ids_never_handed_out_does_not_go_back() -> None:
    ids = local((1, 3), reserve=0)
    for id in (1, 2):
        assert ids.new(0.0) == id
        assert ids.release(id, 0.0) == []
    assert ids.new(0.0) == 3
    assert ids.release(3, 0.0) == [(1, 3)]
    assert take_all(ids) == []
    ids.check()


def test_unopened_ranges_beyond_the_reserve_go_back_at_the_next_occasion() -> None:
    ids = local((1, 1), (11, 14), (21, 24), (31, 34))
    assert ids.new(0.0) == 1
    assert ids.release(1, 0.0) == [(1, 1), (31, 34), (21, 24)]
    assert take_all(ids) == [11, 12, 13, 14]


def test_an_unopened_range_does_not_go_back_if_it_would_be_asked_for_at_once() -> None:
    ids = local((1, 1), (11, 14), reserve=0)
    assert ids.new(0.0) == 1
    assert ids.release(1, 0.0) == [(1, 1)]
    assert ids.drain() == [(11, 14)]


def test_a_range_in_reuse_does_not_go_back() -> None:
    ids = local((1, 1))
    assert ids.new(0.0) == 1
    assert ids.release(1, 0.0) == []
    assert ids.new(10.0) == 1
    ids.grant(11, 11)
    assert ids.new(10.0) == 11
    assert ids.release(11, 10.0) == []
    assert ids.in_use(1)
    assert ids.release(1, 10.0) == [(11, 11)]
    ids.check()


def test_a_range_that_went_back_and_came_again_is_a_new_one() -> None:
    ids = local((1, 2), reserve=0)
    for _ in range(3):
        take_all(ids)
        ids.release(1, 0.0)
        assert ids.release(2, 0.0) == [(1, 2)]
        assert ids.new(1e6) is None
        ids.grant(1, 2)
    assert take_all(ids, 1e6) == [1, 2]
    assert ids.new(1e9) is None
    ids.check()


def test_it_is_low_when_less_than_a_quarter_of_a_range_is_left() -> None:
    ids = local()
    assert ids.low()
    ids.grant(1, 32)
    for _ in range(24):
        assert not ids.low()
        ids.new(0.0)
    assert not ids.low()
    ids.new(0.0)
    assert ids.low()
    ids.grant(101, 132)
    assert not ids.low()


def test_a_range_of_one_id_is_low_when_it_is_gone() -> None:
    ids = local((7, 7))
    assert not ids.low()
    ids.new(0.0)
    assert ids.low()


# ---- moving away


@pytest.mark.parametrize(
    ("id", "left"),
    [(1, [(2, 5)]), (2, [(1, 1), (3, 5)]), (4, [(1, 3), (5, 5)]), (5, [(1, 4)])],
)
@pytest.mark.parametrize("handed_out", range(6))
def test_the_range_splits_as_at_the_leader(
    id: int, left: list[tuple[int, int]], handed_out: int
) -> None:
    leader = IdSpace(id_max=100, range_size=5)
    ids = local(leader.alloc_range(2, 0.0) or (0, 0))
    for _ in range(handed_out):
        ids.new(0.0)
    leader.move(id, 3, by=2, now=0.0)
    ids.moved_away(id)
    ids.check()
    assert not ids.owns(id)
    assert not ids.in_use(id)
    assert ids.release(id, 0.0) is None
    ids.moved_away(id)
    assert leader.ranges_of(2) == left
    assert sorted(take_all(ids)) == [i for i in range(handed_out + 1, 6) if i != id]
    assert ids.drain() == left


def test_the_pieces_of_a_split_range_go_back_one_by_one() -> None:
    ids = local((1, 5), reserve=0)
    take_all(ids)
    ids.moved_away(3)
    assert ids.release(1, 0.0) == []
    assert ids.release(5, 0.0) == []
    assert ids.release(4, 0.0) == [(4, 5)]
    assert ids.release(2, 0.0) == [(1, 2)]
    assert ids.drain() == []


def test_a_piece_without_ids_in_use_goes_back_at_the_next_occasion() -> None:
    ids = local((1, 3), (11, 11), reserve=0)
    for _ in range(4):
        ids.new(0.0)
    ids.release(1, 0.0)
    ids.release(2, 0.0)
    ids.moved_away(3)
    assert ids.release(11, 0.0) == [(1, 2), (11, 11)]


def test_a_moved_id_that_rested_does_not_come_back() -> None:
    ids = local((1, 3))
    take_all(ids)
    ids.release(1, 0.0)
    ids.release(2, 0.0)
    ids.moved_away(1)
    ids.check()
    assert ids.new(100.0) == 2
    assert ids.new(100.0) is None


def test_an_unopened_range_splits_in_its_place() -> None:
    ids = local((1, 1), (11, 15), (21, 22))
    ids.moved_away(13)
    ids.check()
    assert take_all(ids) == [1, 11, 12, 14, 15, 21, 22]
    assert ids.drain() == [(1, 1), (11, 12), (14, 15), (21, 22)]


def test_what_is_left_of_the_current_range_comes_before_other_ranges() -> None:
    ids = local((1, 5), (11, 12))
    assert ids.new(0.0) == 1
    ids.moved_away(3)
    ids.check()
    assert take_all(ids) == [2, 4, 5, 11, 12]


def test_an_id_that_is_not_ours_moves_unnoticed() -> None:
    ids = local((5, 6))
    for id in (0, 4, 7, 2**40):
        ids.moved_away(id)
    assert ids.drain() == [(5, 6)]


# ---- more of it


def test_a_long_life_under_one_leader() -> None:
    """Ten thousand steps with ranges of the usual size; no ID is ever used twice at once."""
    chance = random.Random(11)
    leader = IdSpace(id_max=4000, quarantine_s=30.0)
    processes = {vmid: local(quarantine_s=30.0) for vmid in range(2, 8)}
    live: dict[int, int] = {}
    asked = 0
    for step in range(10_000):
        now = step / 50
        vmid = chance.randrange(2, 8)
        ids = processes[vmid]
        if len(live) < 1000 and chance.random() < 0.6:
            id = ids.new(now)
            if id is None:
                ids.grant(*leader.alloc_range(vmid, now) or (0, 0))
                asked += 1
                id = ids.new(now)
            assert id is not None
            assert live.setdefault(id, vmid) == vmid
            live[id] = vmid
        elif live:
            id = chance.choice(list(live)) if step % 50 == 0 else next(iter(live))
            vmid = live.pop(id)
            for start, end in processes[vmid].release(id, now) or ():
                leader.release_range(start, end, vmid, now)
    for vmid, ids in processes.items():
        ids.check()
        assert ids.drain() == leader.ranges_of(vmid)
    assert asked < 10_000 / 32


def test_many_ids_rest_and_return_in_order() -> None:
    ids = local((1, 20_000), quarantine_s=5.0)
    assert len(take_all(ids)) == 20_000
    order = random.Random(5).sample(range(1, 20_001), 20_000)
    for position, id in enumerate(order[:-1]):
        assert ids.release(id, position / 1000) == []
    assert [ids.new(30.0) for _ in range(19_999)] == order[:-1]
    assert ids.new(30.0) is None


def test_an_id_that_went_and_came_again_rests_anew() -> None:
    since = {1: 0.0, 2: 1.0}
    oldest_first = OldestFirst(since, 10.0)
    assert oldest_first.pop(9.0) is None
    since.clear()
    since |= {2: 8.0, 1: 9.0}
    assert oldest_first.pop(17.9) is None
    assert oldest_first.pop(18.0) == 2
    assert oldest_first.pop(18.9) is None
    assert oldest_first.pop(19.0) == 1
    assert oldest_first.pop(1e9) is None
    assert not since


@pytest.mark.parametrize("knobs", [{"reserve": -1}, {"quarantine_s": -0.5}])
def test_impossible_knobs_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="below 0"):
        LocalIds(**{"quarantine_s": 1.0, **knobs})


def test_a_member_does_not_load_the_leaders_trees() -> None:
    assert "sortedcontainers" not in Path(local_ids.__file__).read_text(encoding="utf-8")
