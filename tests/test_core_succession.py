"""The succession step by step, and when a stopped process counts as lost."""

from __future__ import annotations

import pytest

from libos_ipc.core.stall import Stall
from libos_ipc.core.succession import Succession
from libos_ipc.core.succession_words import (
    Announce,
    Begun,
    Bid,
    Damaged,
    Evidence,
    FindHolder,
    GiveUp,
    Gone,
    Inherit,
    Inherited,
    LetGo,
    NoHeir,
    Rejoin,
    Role,
    Sealed,
    Stalled,
    StepDown,
    Taken,
    Watch,
    Won,
)
from libos_ipc.errors import ProtocolError

ME, LEADER, OTHER, THIRD = 10, 1, 20, 30


def follower(*evidence: Evidence, may_lead: bool = True) -> Succession:
    succession = Succession(ME, epoch=1, leader=LEADER, may_lead=may_lead)
    for each in evidence:
        succession.on(each)
    return succession


def test_a_member_watches_its_leader() -> None:
    assert follower().begin() == [Watch(LEADER)]
    assert Succession(ME, epoch=1, leader=ME).begin() == []


@pytest.mark.parametrize("evidence", [Gone(LEADER), Stalled(LEADER)])
def test_who_wins_the_lock_inherits_and_leads(evidence: Evidence) -> None:
    mine = follower()
    assert mine.on(evidence) == [Bid(2)]
    assert mine.on(Won(2)) == [Inherit(2, 1)]
    assert mine.epoch == 1, "not before it has begun"
    assert mine.on(Inherited(2)) == [Announce(2)]
    assert (mine.role, mine.epoch, mine.leader) == (Role.LEADING, 2, ME)


def test_who_loses_it_watches_the_winner_and_follows() -> None:
    mine = follower(Gone(LEADER))
    assert mine.on(Taken(2, OTHER)) == [Watch(OTHER), FindHolder(2)]
    assert mine.on(Begun(2, OTHER)) == [Rejoin(2, OTHER), Watch(OTHER)]
    assert (mine.role, mine.epoch, mine.leader) == (Role.FOLLOWING, 2, OTHER)
    assert mine.on(Gone(OTHER)) == [Bid(3)]


def test_a_holder_that_is_gone_again_is_no_winner() -> None:
    assert follower(Gone(LEADER)).on(Taken(2, 0)) == [Bid(2)]


@pytest.mark.parametrize(
    ("evidence", "deeds"),
    [
        (Gone(OTHER), [Bid(2)]),  # its end has freed the lock
        (Stalled(OTHER), [Bid(3)]),  # it has the lock still
        (Taken(2, 0), [Bid(2)]),  # it has let go
        (Taken(2, THIRD), [Watch(THIRD), FindHolder(2)]),
        (Taken(2, OTHER), []),
    ],
)
def test_a_winner_that_does_not_come_to_lead(evidence: Evidence, deeds: list[object]) -> None:
    assert follower(Gone(LEADER), Taken(2, OTHER)).on(evidence) == deeds


def test_three_deaths_in_a_row() -> None:
    mine = follower()
    for epoch, winner in ((2, OTHER), (3, THIRD), (4, 40)):
        assert mine.on(Gone(mine.leader)) == [Bid(epoch)]
        mine.on(Taken(epoch, winner))
        mine.on(Begun(epoch, winner))
    assert mine.on(Gone(40)) == [Bid(5)]
    mine.on(Won(5))
    assert mine.on(Inherited(5)) == [Announce(5)]


def test_an_heir_that_was_overtaken_follows_and_lets_go() -> None:
    mine = follower(Gone(LEADER), Won(2))
    assert mine.on(Begun(3, OTHER)) == [LetGo(2), Rejoin(3, OTHER), Watch(OTHER)]
    assert mine.on(Inherited(2)) == [], "too late"
    assert mine.role is Role.FOLLOWING


def test_an_heir_inherits_what_was_begun_below() -> None:
    mine = follower(Gone(LEADER), Taken(2, OTHER), Stalled(OTHER), Won(3))
    assert mine.on(Begun(2, OTHER)) == []
    assert mine.on(Inherited(3)) == [Announce(3)]


def test_an_heir_whose_epoch_is_spent_tries_the_next() -> None:
    mine = follower(Gone(LEADER), Won(2))
    assert mine.on(Sealed(2)) == [LetGo(2), Bid(3)]
    assert mine.on(Won(3)) == [Inherit(3, 1)]


def test_a_leader_that_is_deposed_steps_down() -> None:
    told, refused = (Succession(ME, epoch=4, leader=ME) for _ in range(2))
    assert told.on(Begun(5, OTHER)) == [StepDown(4), LetGo(4), Rejoin(5, OTHER), Watch(OTHER)]
    assert refused.on(Sealed(4)) == [StepDown(4), LetGo(4), Bid(5)]
    assert refused.on(Taken(5, OTHER)) == [Watch(OTHER), FindHolder(5)]


def test_a_lock_won_too_late_is_let_go() -> None:
    mine = follower(Gone(LEADER), Begun(2, OTHER))
    assert mine.on(Won(2)) == [LetGo(2)]
    assert mine.role is Role.FOLLOWING
    mine = follower(Gone(LEADER), Begun(3, OTHER))
    assert mine.on(Won(2)) == [LetGo(2)]


def test_who_may_not_lead_never_bids() -> None:
    mine = follower(may_lead=False)
    assert mine.on(Stalled(LEADER)) == [], "it deposes nobody"
    assert mine.on(Gone(LEADER)) == [FindHolder(2)]
    assert mine.on(Taken(2, 0)) == [FindHolder(2)]
    assert mine.on(Taken(2, OTHER)) == [Watch(OTHER), FindHolder(2)]
    assert mine.on(Gone(OTHER)) == [FindHolder(2)]
    assert mine.on(NoHeir(2)) == [GiveUp()]
    assert mine.role is Role.LOST
    assert mine.on(Begun(2, THIRD)) == [Rejoin(2, THIRD), Watch(THIRD)], "somebody after all"


def test_a_damaged_journal_is_the_end() -> None:
    mine = follower(Gone(LEADER), Won(2))
    assert mine.on(Damaged(2)) == [LetGo(2), GiveUp()]
    assert mine.role is Role.LOST


@pytest.mark.parametrize(
    "stale", [Gone(OTHER), Stalled(OTHER), Taken(7, OTHER), Begun(1, LEADER), NoHeir(9), Sealed(9)]
)
def test_what_is_stale_has_no_effect(stale: Evidence) -> None:
    mine = follower()
    assert mine.on(stale) == []
    assert (mine.role, mine.epoch, mine.leader) == (Role.FOLLOWING, 1, LEADER)


@pytest.mark.parametrize("evidence", [Inherited(2), Damaged(2), Sealed(2)])
def test_what_cannot_be_is_an_error(evidence: Evidence) -> None:
    with pytest.raises(ProtocolError, match="while bidding in 1"):
        follower(Gone(LEADER)).on(evidence)


# ---- a process that stands still


def stall() -> Stall:
    return Stall(2.0, every_s=0.5, late_s=0.25)


def looks(found: str, every: float = 0.5) -> list[bool]:
    mine = stall()
    return [mine.on_look(each == "T", 10.0 + every * i) for i, each in enumerate(found)]


def test_stopped_long_enough_is_evidence() -> None:
    assert looks("TTTTT") == [False, False, False, False, True]
    assert looks(".TTTTT") == [False] * 5 + [True]


def test_running_in_between_is_none() -> None:
    assert not any(looks("TTTT.TTTT"))


def test_an_observer_that_was_stopped_too_begins_anew() -> None:
    mine = stall()
    assert not mine.on_look(True, 10.0)
    assert not mine.on_look(True, 500.0), "a frozen container: nobody ran"
    assert [mine.on_look(True, 500.0 + i / 2) for i in range(1, 5)] == [False] * 3 + [True]
    assert not any(looks("TTTTTTTT", every=1.0)), "late at every look"


def test_one_look_is_never_enough() -> None:
    mine = Stall(0.0, every_s=0.5, late_s=0.25)
    assert not mine.on_look(True, 1.0)
    assert mine.on_look(True, 1.1)
    mine.forget()
    assert not mine.on_look(True, 1.2)


@pytest.mark.parametrize("wrong", [(-1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)])
def test_impossible_looks(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="too small"):
        Stall(*wrong)
