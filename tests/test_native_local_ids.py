"""LocalIds in C against its plain twin, step by step; and the way past the session's lock."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twins.damage import SAME_EVERY_RUN
from twins.local_ids_twin import LocalIdsTwin

from libos_ipc import _native
from libos_ipc._native import Lock
from libos_ipc.core.local_ids import LocalIds
from libos_ipc.errors import InvalidRange

IDS = st.integers(0, 70)


class BothWays(RuleBasedStateMachine):
    """The same inputs to both; every answer and all that can be asked must be equal."""

    @initialize(quarantine_s=st.sampled_from((0.0, 3.0, 50.0)), reserve=st.integers(0, 3))
    def start(self, quarantine_s: float, reserve: int) -> None:
        self.native = LocalIds(quarantine_s=quarantine_s, reserve=reserve)
        self.twin = LocalIdsTwin(quarantine_s=quarantine_s, reserve=reserve)
        self.now = 10.0

    def both(self, method: str, *args: Any) -> Any:
        found = []
        for ids in (self.native, self.twin):
            try:
                found.append(getattr(ids, method)(*args))
            except InvalidRange as error:
                found.append(str(error))
        assert found[0] == found[1], (method, args)
        return found[0]

    @rule(seconds=st.sampled_from((0.5, 3.0, 20.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(start=IDS, size=st.integers(0, 9))
    def grant(self, start: int, size: int) -> None:
        self.both("grant", start, start + size - 1)

    @rule(count=st.integers(1, 12))
    def new(self, count: int) -> None:
        for _ in range(count):
            self.both("new", self.now)

    @rule(id=IDS)
    def release(self, id: int) -> None:
        self.both("release", id, self.now)

    @rule(seed=st.integers(0, 2**16), keep=st.integers(0, 4))
    def release_all_but(self, seed: int, keep: int) -> None:
        ids = [id for id in range(71) if self.twin.in_use(id)]
        random.Random(seed).shuffle(ids)
        for id in ids[keep:]:
            self.both("release", id, self.now)

    @rule(id=IDS)
    def move_away(self, id: int) -> None:
        self.both("moved_away", id)

    @rule(batch=st.integers(1, 4))
    def set_batch(self, batch: int) -> None:
        self.native.batch = self.twin.batch = batch

    @rule()
    def surplus(self) -> None:
        self.both("surplus")

    @rule()
    def drain(self) -> None:
        self.both("drain")
        self.native.batch = self.twin.batch

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "native"):
            return
        self.native.check()
        self.twin.check()
        self.both("ranges")
        self.both("low")
        for id in range(71):
            self.both("owns", id)
            self.both("in_use", id)


TestBothWays = BothWays.TestCase
TestBothWays.settings = settings(SAME_EVERY_RUN, max_examples=150, stateful_step_count=40)


@pytest.mark.parametrize("seed", range(30))
def test_the_same_in_long_random_walks(seed: int) -> None:
    chance = random.Random(seed)
    both = BothWays()
    both.start(chance.choice((0.0, 3.0, 50.0)), chance.randrange(4))
    for _ in range(200):
        match chance.randrange(9):
            case 0:
                both.wait(chance.choice((0.5, 3.0)))
            case 1 | 2:
                both.grant(chance.randrange(70), chance.randrange(10))
            case 3 | 4:
                both.new(chance.randrange(1, 12))
            case 5 | 6:
                both.release_all_but(chance.randrange(1000), chance.randrange(5))
            case 7:
                both.move_away(chance.randrange(71))
            case _:
                both.set_batch(chance.randrange(1, 5))
        both.agree()


# ---- past the lock


def offered(*ranges: tuple[int, int]) -> tuple[LocalIds, Lock]:
    ids, lock = LocalIds(quarantine_s=100.0), Lock()
    for start, end in ranges:
        ids.grant(start, end)
    ids.offer(lock, 1)
    return ids, lock


def test_nothing_is_quick_before_an_offer_or_after_its_withdrawal() -> None:
    ids = LocalIds(quarantine_s=1.0)
    ids.grant(1, 32)
    assert ids.new(0.0) == 1
    assert ids.take() is None
    assert not ids.put(1)
    ids.offer(Lock(), 99)
    assert ids.take() == 2
    assert ids.put(1)
    ids.withdraw()
    assert ids.take() is None
    assert not ids.put(2)
    assert ids.in_use(2)


def test_while_the_lock_is_held_nothing_changes() -> None:
    ids, lock = offered((1, 32))
    assert (ids.take(), ids.take()) == (1, 2)
    with lock:
        assert ids.take() is None
        assert not ids.put(2)
    assert ids.put(2)
    assert ids.take() == 3


def test_what_the_leader_is_to_be_asked_for_is_left_to_python() -> None:
    ids, _ = offered((1, 32))
    taken = [ids.take() for _ in range(25)]
    assert taken == [*range(1, 25), None], "with the next one it would be low"
    ids.asked = True
    assert [ids.take() for _ in range(9)] == [*range(25, 33), None]
    ids.grant(101, 132)
    assert ids.take() == 101


def test_what_the_leader_is_to_be_given_back_is_left_to_python() -> None:
    ids, _ = offered((2, 3), (11, 14), (21, 24))
    assert (ids.take(), ids.take()) == (2, 3)
    assert ids.put(2)
    assert not ids.put(3), "its range goes back"
    assert ids.in_use(3)
    ids.batch = 2
    assert ids.put(3), "a batch is not full"
    assert not ids.in_use(3)
    ids.check()


@pytest.mark.parametrize("id", [0, 1, 2, 77, -1, 2**40, "2", None, 2.0, True])
def test_what_is_unusual_is_left_to_python(id: object) -> None:
    ids, _ = offered((1, 32))
    assert ids.take() == 1
    assert not ids.put(id)
    ids.check()


def test_threads_never_get_the_same_id() -> None:
    ids, lock = offered(*((start, start + 31) for start in range(1, 20_001, 32)))
    found: list[list[int]] = [[] for _ in range(4)]

    def work(mine: list[int]) -> None:
        while True:
            id = ids.take()
            if id is None:
                with lock:
                    id = ids.new(0.0)
                if id is None:
                    return
            mine.append(id)

    ids.asked = True
    threads = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(id for mine in found for id in mine) == list(range(1, 20_001))
    ids.check()


def test_absurd_arguments() -> None:
    ids = _native.LocalIds(quarantine_s=1.0)
    for wrong in (0, 256, -1, None, "1"):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            ids.batch = wrong  # type: ignore[assignment]
    for call in (
        lambda: ids.offer(threading.Lock(), 1),  # type: ignore[arg-type]
        lambda: ids.offer(None, 1),  # type: ignore[arg-type]
        lambda: ids.new("now"),  # type: ignore[arg-type]
        lambda: ids.release(1, None),  # type: ignore[arg-type]
        lambda: ids.grant(1, None),  # type: ignore[arg-type]
        lambda: ids.owns(None),  # type: ignore[arg-type]
        lambda: _native.LocalIds(quarantine_s="1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    assert ids.batch == 1


def test_a_range_of_all_ids_costs_what_is_used_of_it() -> None:
    ids = LocalIds(quarantine_s=0.0)
    ids.grant(1, 2**32 - 1)
    assert [ids.new(0.0) for _ in range(3)] == [1, 2, 3]
    ids.moved_away(2)
    assert ids.new(0.0) == 4
    assert ids.ranges() == [(1, 1), (3, 2**32 - 1)]
    assert ids.drain() == [(1, 1), (3, 2**32 - 1)]
    assert ids.new(0.0) is None
