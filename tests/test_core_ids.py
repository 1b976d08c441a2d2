"""IdSpace: against a dict of single IDs, its exact rules one by one, and its cost by counting."""

from __future__ import annotations

import json
import random
from typing import Any

import bytecodes
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twins.damage import SAME_EVERY_RUN
from twins.ids_twin import IdSpaceTwin

from libos_ipc.core.ids import EXPIRE_AT_MOST, IdSpace
from libos_ipc.errors import InvalidRange, PermissionDenied

#: Without the phase that explains, which takes minutes.
QUICK_TO_FAIL = (Phase.generate, Phase.shrink)
OWNERS = st.integers(1, 5)


class AgainstTheTwin(RuleBasedStateMachine):
    """Random steps in a space so small that it wraps, fills up and quarantines all the time.

    `log` keeps the calls that succeeded, as a journal would; at the end they are made again.
    """

    @initialize(
        id_min=st.integers(1, 3),
        id_max=st.integers(20, 60),
        range_size=st.integers(1, 8),
        quarantine_s=st.sampled_from((0.0, 3.0, 20.0, 1000.0)),
    )
    def start(self, **limits: Any) -> None:
        self.limits = limits
        self.space = IdSpace(**limits)
        self.twin = IdSpaceTwin(expire_at_most=EXPIRE_AT_MOST, **limits)
        self.now = 100.0
        self.log: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []

    def both(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The same call on both: the same result, or the same refusal and nothing changed."""
        before = self.space.snapshot()
        try:
            expected = getattr(self.twin, name)(*args, **kwargs)
        except (InvalidRange, PermissionDenied) as refusal:
            with pytest.raises(type(refusal)):
                getattr(self.space, name)(*args, **kwargs)
            assert self.space.snapshot() == before
            return None
        got = getattr(self.space, name)(*args, **kwargs)
        assert got == expected
        if name != "alloc_range" or got is not None:
            self.log.append((name, args, kwargs, got))
        else:
            assert self.space.snapshot() == before
        return got

    @rule(seconds=st.sampled_from((0.0, 0.5, 1.0, 3.0, 10.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=OWNERS, count=st.integers(1, 6))
    def alloc(self, owner: int, count: int) -> None:
        for _ in range(count):
            self.both("alloc_range", owner, self.now)

    @precondition(lambda self: self.twin.ranges)
    @rule(data=st.data(), count=st.integers(1, 4), twice=st.booleans())
    def release(self, data: st.DataObject, count: int, twice: bool) -> None:
        for _ in range(min(count, len(self.twin.ranges))):
            start, end = data.draw(st.sampled_from(sorted(self.twin.ranges)))
            owner = self.twin.owner[start]
            for _ in range(1 + twice):
                self.both("release_range", start, end, owner, self.now)

    @rule(start=st.integers(0, 61), size=st.integers(0, 9), owner=OWNERS)
    def release_anything(self, start: int, size: int, owner: int) -> None:
        self.both("release_range", start, start + size - 1, owner, self.now)

    @precondition(lambda self: self.twin.resting)
    @rule(data=st.data(), owner=st.none() | OWNERS)
    def release_again(self, data: st.DataObject, owner: int | None) -> None:
        past = data.draw(st.sampled_from(sorted(self.twin.resting)))
        owner = owner or past.former or 1
        self.both("release_range", past.start, past.end, owner, self.now)

    @rule(id=st.integers(0, 61), owner=OWNERS, by=st.none() | OWNERS)
    def move(self, id: int, owner: int, by: int | None) -> None:
        self.both("move", id, owner, by=by, now=self.now)

    @rule(start=st.integers(0, 61), size=st.integers(0, 12), owner=OWNERS)
    def take(self, start: int, size: int, owner: int) -> None:
        self.both("take", start, start + size - 1, owner)

    @rule(owner=OWNERS)
    def release_owner(self, owner: int) -> None:
        self.both("release_owner", owner, self.now)

    @rule()
    def compact(self) -> None:
        """Go on with what a successor would read from a compacted journal."""
        snapshot = self.space.snapshot()
        self.space = IdSpace.from_snapshot(json.loads(json.dumps(snapshot)))
        assert self.space.snapshot() == snapshot

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "space"):
            self.space.check()
            assert len(self.space) == len(self.twin.ranges)
            owners = [self.space.owner_of(id) for id in range(63)]
            assert owners == [self.twin.owner_of(id) for id in range(63)]
            for owner in range(7):
                assert self.space.ranges_of(owner) == self.twin.ranges_of(owner)

    def teardown(self) -> None:
        if hasattr(self, "space"):
            successor = IdSpace(**self.limits)
            for name, args, kwargs, result in self.log:
                assert getattr(successor, name)(*args, **kwargs) == result
            assert successor.snapshot() == self.space.snapshot()


TestAgainstTheTwin = AgainstTheTwin.TestCase
TestAgainstTheTwin.settings = settings(
    SAME_EVERY_RUN, max_examples=80, stateful_step_count=40, phases=QUICK_TO_FAIL
)


def space(id_max: int, range_size: int = 4, quarantine_s: float = 10.0) -> IdSpace:
    return IdSpace(id_max=id_max, range_size=range_size, quarantine_s=quarantine_s)


# ---- which range comes next


def test_ranges_follow_one_another_and_the_last_may_be_short() -> None:
    ids = space(10)
    assert [ids.alloc_range(2, 0.0) for _ in range(4)] == [(1, 4), (5, 8), (9, 10), None]
    assert len(ids) == 3


def test_the_first_id_can_be_another_than_1() -> None:
    ids = IdSpace(id_min=7, id_max=9, range_size=2)
    assert [ids.alloc_range(2, 0.0) for _ in range(3)] == [(7, 8), (9, 9), None]


def test_a_released_range_does_not_come_next_even_without_quarantine() -> None:
    ids = space(100, quarantine_s=0.0)
    assert ids.alloc_range(2, 0.0) == (1, 4)
    ids.release_range(1, 4, 2, 0.0)
    assert ids.alloc_range(2, 1.0) == (5, 8)


def test_at_the_end_it_wraps_past_what_is_in_use() -> None:
    ids = space(16)
    for _ in range(4):
        ids.alloc_range(2, 0.0)
    ids.release_range(5, 8, 2, 0.0)
    ids.release_range(13, 16, 2, 0.0)
    assert [ids.alloc_range(3, 20.0) for _ in range(3)] == [(5, 8), (13, 16), None]


def test_the_wrap_skips_what_is_in_quarantine() -> None:
    ids = space(16)
    for _ in range(3):
        ids.alloc_range(2, 0.0)
    ids.release_range(1, 4, 2, 1.0)
    ids.release_range(9, 12, 2, 5.0)
    assert ids.alloc_range(3, 9.0) == (13, 16)
    # 1-4 left quarantine at 11; 9-12 is in it until 15
    assert ids.alloc_range(3, 11.0) == (1, 4)
    assert ids.alloc_range(3, 15.0) == (9, 12)


def test_with_nothing_else_left_the_oldest_released_goes_first() -> None:
    ids = space(12)
    for _ in range(3):
        ids.alloc_range(2, 0.0)
    for start, now in ((5, 1.0), (9, 2.0), (1, 3.0)):
        ids.release_range(start, start + 3, 2, now)
    assert [ids.alloc_range(3, 4.0) for _ in range(4)] == [(5, 8), (9, 12), (1, 4), None]


def test_a_long_range_leaves_quarantine_piece_by_piece_and_keeps_its_age() -> None:
    ids = space(12, range_size=4)
    ids.take(1, 6, 2)
    ids.take(7, 12, 2)
    ids.release_range(7, 12, 2, 1.0)
    ids.release_range(1, 6, 2, 2.0)
    got = [ids.alloc_range(3, 3.0) for _ in range(5)]
    assert got == [(7, 10), (11, 12), (1, 4), (5, 6), None]


def test_next_fit_goes_on_in_the_middle_of_a_gap() -> None:
    ids = space(40, quarantine_s=0.0)
    ids.alloc_range(2, 0.0)
    ids.alloc_range(3, 0.0)
    ids.release_range(1, 4, 2, 0.0)
    ids.release_range(5, 8, 3, 0.0)
    assert ids.alloc_range(2, 1.0) == (9, 12)
    ids.check()


def test_a_range_ends_where_the_next_one_begins() -> None:
    ids = space(20)
    ids.take(3, 3, 9)
    ids.take(20, 20, 9)
    assert ids.alloc_range(2, 0.0) == (1, 2)
    assert ids.alloc_range(2, 0.0) == (4, 7)


def test_quarantine_lasts_as_long_as_it_says() -> None:
    ids = space(8, quarantine_s=10.0)
    ids.alloc_range(2, 0.0)
    ids.release_range(1, 4, 2, 100.0)
    assert ids.alloc_range(2, 109.99) == (5, 8)
    assert ids.snapshot()[3] == ((1, 4, 2, 100.0),)
    ids.move(5, 3, now=110.0)
    assert ids.snapshot()[3] == ()


def test_one_call_ends_few_quarantines_and_later_ones_end_the_rest() -> None:
    count = 4 * EXPIRE_AT_MOST
    ids = IdSpace(id_max=2 * count, range_size=1, quarantine_s=10.0)
    for _ in range(count):
        ids.alloc_range(2, 0.0)
    assert len(ids.release_owner(2, 0.0)) == count
    for calls in range(1, 5):
        assert ids.alloc_range(3, 1000.0) == (count + calls, count + calls)
        assert len(ids.snapshot()[3]) == count - calls * EXPIRE_AT_MOST
        ids.check()


def test_an_id_whose_turn_to_leave_quarantine_has_not_come_is_not_lost() -> None:
    count = 3 * EXPIRE_AT_MOST
    ids = IdSpace(id_max=count, range_size=1, quarantine_s=10.0)
    for _ in range(count):
        ids.alloc_range(2, 0.0)
    ids.release_owner(2, 0.0)
    got = {ids.alloc_range(3, 1000.0) for _ in range(count)}
    assert got == {(id, id) for id in range(1, count + 1)}
    assert ids.alloc_range(3, 1000.0) is None


# ---- release


@pytest.mark.parametrize(
    ("start", "end", "owner"),
    [
        (1, 3, 2),
        (2, 4, 2),
        (1, 8, 2),
        (1, 5, 2),
        (1, 4, 3),
        (1, 4, 0),
        (4, 1, 2),
        (0, 4, 2),
        (9, 12, 2),
        (-3, 0, 2),
        (1, 2**40, 2),
        (2**22, 2**22, 2),
    ],
)
def test_a_release_names_one_range_of_the_owner_exactly(start: int, end: int, owner: int) -> None:
    ids = IdSpace(range_size=4)
    ids.alloc_range(2, 0.0)
    ids.alloc_range(2, 0.0)
    before = ids.snapshot()
    with pytest.raises(InvalidRange):
        ids.release_range(start, end, owner, 1.0)
    assert ids.snapshot() == before
    ids.release_range(1, 4, 2, 1.0)
    assert ids.ranges_of(2) == [(5, 8)]


def test_a_refusal_says_what_it_found() -> None:
    ids = space(100)
    ids.alloc_range(2, 0.0)
    with pytest.raises(InvalidRange, match="VMID 3 releasing IDs 1-4: VMID 2 owns 1-4"):
        ids.release_range(1, 4, 3, 0.0)
    with pytest.raises(InvalidRange, match="nobody owns 5"):
        ids.release_range(5, 8, 2, 0.0)
    with pytest.raises(InvalidRange, match="101 is not within 1-100"):
        ids.release_range(101, 104, 2, 0.0)
    with pytest.raises(InvalidRange, match="VMID 3 taking IDs 2-9: VMID 2 owns 1-4"):
        ids.take(2, 9, 3)
    with pytest.raises(PermissionDenied, match=r"VMID 4 moving ID 2 to VMID 3: .* VMID 2"):
        ids.move(2, 3, by=4, now=0.0)


def test_the_same_release_again_is_accepted_while_it_is_remembered() -> None:
    ids = space(100, quarantine_s=10.0)
    ids.alloc_range(2, 0.0)
    ids.release_range(1, 4, 2, 1.0)
    before = ids.snapshot()
    ids.release_range(1, 4, 2, 1.0)
    ids.release_range(1, 4, 2, 10.9)
    assert ids.snapshot() == before
    for end, owner in ((4, 3), (3, 2), (5, 2), (4, 0)):
        with pytest.raises(InvalidRange):
            ids.release_range(1, end, owner, 2.0)
    with pytest.raises(InvalidRange):
        ids.release_range(1, 4, 2, 11.0)
    assert ids.snapshot() == before


@pytest.mark.parametrize("taken", [(1, 1), (4, 4), (2, 3), (1, 4)])
def test_a_release_again_is_refused_once_somebody_got_a_part(taken: tuple[int, int]) -> None:
    ids = space(8, range_size=4)
    ids.alloc_range(2, 0.0)
    ids.release_range(1, 4, 2, 1.0)
    ids.take(*taken, 3)
    with pytest.raises(InvalidRange):
        ids.release_range(1, 4, 2, 2.0)
    for start, end in ((1, 1), (1, 3), (2, 4), (4, 4)):
        for owner in (0, 2):
            with pytest.raises(InvalidRange):
                ids.release_range(start, end, owner, 2.0)
    ids.check()


def test_a_dead_owner_loses_all_it_had_and_only_that() -> None:
    ids = space(100)
    for owner in (2, 3, 2, 3, 2):
        ids.alloc_range(owner, 0.0)
    ids.move(6, 2, now=0.0)
    assert ids.release_owner(2, 1.0) == [(1, 4), (6, 6), (9, 12), (17, 20)]
    assert ids.release_owner(2, 1.0) == []
    assert ids.ranges_of(3) == [(5, 5), (7, 8), (13, 16)]
    assert [ids.owner_of(id) for id in (1, 5, 6, 7, 20)] == [0, 3, 0, 3, 0]
    assert ids.alloc_range(4, 2.0) == (21, 24)


# ---- move


@pytest.mark.parametrize(
    ("id", "left"),
    [(5, [(6, 8)]), (6, [(5, 5), (7, 8)]), (7, [(5, 6), (8, 8)]), (8, [(5, 7)])],
)
def test_moving_an_id_splits_its_range(id: int, left: list[tuple[int, int]]) -> None:
    ids = space(100)
    for owner in (2, 3, 2):
        ids.alloc_range(owner, 0.0)
    ids.move(id, 4, by=3, now=0.0)
    assert ids.ranges_of(3) == left
    assert ids.ranges_of(4) == [(id, id)]
    assert ids.owner_of(id) == 4
    with pytest.raises(InvalidRange):
        ids.release_range(5, 8, 3, 1.0)
    for start, end in left:
        ids.release_range(start, end, 3, 1.0)
    ids.release_range(id, id, 4, 1.0)
    ids.check()


def test_a_moved_id_may_move_on_and_home_but_ranges_do_not_grow_together() -> None:
    ids = space(100)
    ids.alloc_range(2, 0.0)
    for owner in (3, 4, 2):
        ids.move(3, owner, now=0.0)
    assert ids.ranges_of(2) == [(1, 2), (3, 3), (4, 4)]
    assert ids.ranges_of(3) == ids.ranges_of(4) == []


def test_a_move_asked_for_again_changes_nothing() -> None:
    ids = space(100)
    ids.alloc_range(2, 0.0)
    ids.move(2, 3, by=2, now=0.0)
    before = ids.snapshot()
    ids.move(2, 3, by=2, now=1.0)
    ids.move(1, 2, by=2, now=1.0)
    assert ids.snapshot() == before


def test_only_the_owner_moves_and_only_what_is_owned() -> None:
    ids = space(100)
    ids.alloc_range(2, 0.0)
    ids.alloc_range(2, 0.0)
    ids.release_range(5, 8, 2, 0.0)
    before = ids.snapshot()
    with pytest.raises(PermissionDenied):
        ids.move(2, 3, by=3 + 1, now=0.0)
    for id in (0, 5, 9, 100, 101, -1, 2**40):
        with pytest.raises(InvalidRange):
            ids.move(id, 3, now=0.0)
    with pytest.raises(InvalidRange):
        ids.move(1, 0, now=0.0)
    assert ids.snapshot() == before


# ---- placing, limits, snapshots


def test_a_range_is_placed_over_gaps_and_quarantine() -> None:
    ids = space(40, range_size=4, quarantine_s=100.0)
    for _ in range(6):
        ids.alloc_range(2, 0.0)
    for start, now in ((1, 1.0), (9, 2.0), (13, 3.0), (21, 4.0)):
        ids.release_range(start, start + 3, 2, now)
    ids.take(11, 14, 5)
    ids.take(23, 30, 5)
    ids.check()
    assert ids.ranges_of(5) == [(11, 14), (23, 30)]
    assert ids.snapshot()[3] == (
        (1, 4, 2, 1.0),
        (9, 10, 0, 2.0),
        (15, 16, 0, 3.0),
        (21, 22, 0, 4.0),
    )
    assert ids.alloc_range(2, 5.0) == (31, 34)


@pytest.mark.parametrize(
    ("start", "end"), [(4, 5), (8, 9), (1, 20), (6, 6), (0, 2), (95, 101), (3, 2), (101, 101)]
)
def test_a_range_is_not_placed_on_another_or_outside(start: int, end: int) -> None:
    ids = space(100)
    ids.take(5, 8, 2)
    before = ids.snapshot()
    with pytest.raises(InvalidRange):
        ids.take(start, end, 3)
    assert ids.snapshot() == before


def test_a_journal_of_results_is_as_good_as_one_of_calls() -> None:
    original, successor = space(50), space(50)
    chance = random.Random(7)
    for step in range(400):
        now = step / 4
        got = original.alloc_range(2 + step % 3, now)
        if got is not None:
            successor.take(*got, 2 + step % 3)
        if got is None or chance.random() < 0.4:
            owner = chance.choice((2, 3, 4))
            for start, end in original.ranges_of(owner)[:2]:
                original.release_range(start, end, owner, now)
                successor.release_range(start, end, owner, now)
        assert successor.snapshot()[2] == original.snapshot()[2]
        successor.check()


@pytest.mark.parametrize("owner", [0, -1])
def test_nobody_can_own(owner: int) -> None:
    ids = space(10)
    with pytest.raises(InvalidRange):
        ids.alloc_range(owner, 0.0)
    with pytest.raises(InvalidRange):
        ids.take(1, 2, owner)
    assert ids.ranges_of(owner) == ids.release_owner(owner, 0.0) == []


def test_ids_outside_the_space_belong_to_nobody() -> None:
    ids = space(4)
    ids.alloc_range(2, 0.0)
    assert [ids.owner_of(id) for id in (-1, 0, 1, 4, 5, 2**32)] == [0, 0, 2, 2, 0, 0]


@pytest.mark.parametrize(
    "limits",
    [
        {"id_min": 0},
        {"id_max": 0},
        {"id_max": 2**32},
        {"id_min": 9, "id_max": 8},
        {"range_size": 0},
        {"quarantine_s": -1.0},
        {"quarantine_s": float("nan")},
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no space|too small"):
        IdSpace(**limits)


@pytest.mark.parametrize(
    ("owned", "quarantined"),
    [
        ([(1, 4, 2), (4, 5, 2)], []),
        ([(1, 4, 2)], [(1, 4, 2, 0.0)]),
        ([(1, 4, 2)], [(3, 6, 2, 0.0)]),
        ([(0, 4, 2)], []),
        ([(8, 11, 2)], []),
        ([(4, 3, 2)], []),
    ],
)
def test_a_damaged_snapshot_is_refused(owned: list[Any], quarantined: list[Any]) -> None:
    snapshot: Any = ((1, 10, 4, 1.0), 1, owned, quarantined)
    with pytest.raises(InvalidRange):
        IdSpace.from_snapshot(snapshot)


# ---- cost


def nearly_full(ranges: int) -> IdSpace:
    """So many ranges of four IDs, and a gap of four after every six of them."""
    ids = IdSpace(id_max=28 * ranges // 6, range_size=4, quarantine_s=1.0)
    for start in range(1, ids.id_max, 4):
        if start % 28 != 25:
            ids.take(start, start + 3, 2)
    return ids


def everything(ids: IdSpace) -> None:
    """Every operation, many times, all over the space."""
    gaps = ids.id_max // 28
    for step in range(100):
        now = 10.0 + step
        assert ids.alloc_range(3, now)
        start = 1 + 28 * (step * 7919 % gaps)
        assert ids.owner_of(start + 2) == 2
        ids.move(start + 1, 3, by=2, now=now)
        ids.release_range(start, start, 2, now)
        ids.release_range(start + 2, start + 3, 2, now)
        ids.take(start + 3, start + 3, 4)
    assert len(ids.release_owner(3, 1000.0)) == 200


def test_no_operation_walks_over_the_space() -> None:
    small, large = nearly_full(2_400), nearly_full(120_000)
    assert len(large) == 50 * len(small)
    cost = bytecodes.count(lambda: everything(small))
    assert cost > 100_000
    assert bytecodes.count(lambda: everything(large)) < 1.5 * cost


def test_ten_thousand_ranges_in_a_full_space_with_nothing_but_quarantine() -> None:
    count = 10_000
    ids = IdSpace(id_max=count, range_size=1, quarantine_s=1e9)
    for _ in range(count):
        assert ids.alloc_range(2, 0.0)
    for step in range(count):
        id = 1 + step * 7919 % count
        ids.release_range(id, id, 2, float(step))
        if step % 10 == 9:
            for back in range(10):
                oldest = 1 + (step - 9 + back) * 7919 % count
                assert ids.alloc_range(3, float(step)) == (oldest, oldest)
    assert ids.alloc_range(3, 1e6) is None
    ids.check()
