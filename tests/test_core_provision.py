"""Provision: how many ranges are asked for at a time, and when they go back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libos_ipc.core.codes import Code
from libos_ipc.core.local_ids import LocalIds
from libos_ipc.core.provision import CALM_S, HASTE_S, MOST_RANGES, Provision
from libos_ipc.core.vocabulary import Effects, Then
from libos_ipc.errors import LeaderLost

SIZE = 32


class Play:
    """A leader that answers when it is told to."""

    def __init__(self) -> None:
        self.ids = LocalIds(quarantine_s=100.0)
        self.provision = Provision(self.ids, self.ask)
        self.asked: list[tuple[Code, Any, Then]] = []
        self.returned: list[tuple[int, int]] = []
        self.next = 1
        self.now = 1000.0

    def ask(self, code: Code, fields: tuple[Any, ...], then: Then, now: float) -> Effects:
        assert code == Code.TRADE_ID_RANGES
        wanted, back = fields
        self.returned += back
        if wanted:
            self.asked.append((code, wanted, then))
        return []

    def answer(self, few: int | None = None) -> int:
        _, wanted, then = self.asked.pop()
        assert not self.asked
        count = wanted if few is None else few
        given = tuple((self.next + i * SIZE, self.next + (i + 1) * SIZE - 1) for i in range(count))
        self.next += count * SIZE
        then((given,), self.now)
        return int(wanted)

    def use_up(self) -> list[int]:
        got = []
        while (id := self.ids.new(self.now)) is not None:
            got.append(id)
        return got

    def want(self, after: float) -> int:
        self.now += after
        self.provision.want_range(self.now)
        return int(self.asked[-1][1])


def asked_for(play: Play, after: float, times: int) -> list[int]:
    wanted = []
    for _ in range(times):
        wanted.append(play.want(after))
        play.answer()
        play.use_up()
    return wanted


def test_who_is_in_haste_asks_for_more_and_more() -> None:
    assert asked_for(Play(), HASTE_S / 2, 7) == [1, 2, 4, 8, 16, 16, 16]
    assert max(asked_for(Play(), HASTE_S / 2, 7)) == MOST_RANGES


def test_who_is_calm_asks_for_one() -> None:
    assert asked_for(Play(), 2 * CALM_S, 4) == [1, 1, 1, 1]
    play = Play()
    asked_for(play, HASTE_S / 2, 5)
    assert asked_for(play, 2 * CALM_S, 2) == [1, 1]


def test_in_between_it_stays_as_it_is() -> None:
    play = Play()
    asked_for(play, HASTE_S / 2, 3)
    assert asked_for(play, (HASTE_S + CALM_S) / 2, 3) == [4, 4, 4]


def test_ranges_are_asked_for_once_at_a_time() -> None:
    play = Play()
    play.want(0.0)
    assert play.provision.want_range(play.now) == []
    assert len(play.asked) == 1
    assert play.provision.range_coming
    play.answer()
    assert not play.provision.range_coming


def test_where_ids_are_rare_one_is_asked_for() -> None:
    play = Play()
    asked_for(play, HASTE_S / 2, 4)
    assert play.want(HASTE_S / 2) == 16
    play.answer(few=3)
    assert play.ids.batch == 1
    assert not play.provision.exhausted
    play.use_up()
    play.want(2 * CALM_S)
    play.answer(few=0)
    assert play.provision.exhausted


def test_what_is_used_up_in_haste_goes_back_with_the_next_asking() -> None:
    play = Play()
    asked_for(play, HASTE_S / 2, 4)
    play.want(HASTE_S / 2)
    play.answer()
    used = play.use_up()
    for id in used:
        assert play.ids.release(id, play.now) == []
    assert not play.returned
    play.want(HASTE_S / 2)
    assert len(play.returned) == 15, "all but the reserve"
    play.ids.check()


def test_when_calm_has_come_the_rest_goes_back() -> None:
    play = Play()
    asked_for(play, HASTE_S / 2, 4)
    play.want(HASTE_S / 2)
    play.answer()
    id = play.ids.new(play.now)
    assert id is not None
    assert play.provision.on_tick(play.now + CALM_S / 2) == ([], True)
    assert not play.returned
    _, again = play.provision.on_tick(play.now + 2 * CALM_S)
    assert not again
    assert len(play.returned) == 14, "one is opened, one is the reserve"
    assert play.provision.on_tick(play.now + 9 * CALM_S) == ([], False)
    assert play.ids.in_use(id)


def test_a_lost_leader_is_remembered_and_nothing_hangs() -> None:
    play = Play()
    play.want(0.0)
    then: Callable[..., Effects] = play.asked.pop()[2]
    then(LeaderLost("gone"), play.now)
    assert isinstance(play.provision.failed, LeaderLost)
    assert not play.provision.range_coming
