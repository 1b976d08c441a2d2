"""What the leader's answers about file locks look like from outside, where it takes two steps."""

from __future__ import annotations

from lock_play import Play

from libos_ipc.core.codes import Code
from libos_ipc.core.lock_words import UNLOCK, WRITE, Kind


def test_who_came_first_is_not_passed_while_unborn_children_have_what_the_dead_held() -> None:
    # What is held by descriptions stays with the spare identities of a dead process, of which a
    # child may have come; its POSIX locks are gone at once.
    play = Play(members=3)
    holder, first, second = 2, 3, 4
    assert play.ask(holder, Code.GET_NEW_VMID) is not None
    (spare,) = play.leader.spares
    assert play.set(holder, Kind.POSIX, WRITE, 0, 9) == 0
    assert play.set(holder, Kind.OFD, WRITE, 10, 19) == 0
    assert play.set(first, Kind.POSIX, WRITE, 0, 19, wait=1) is None
    needs_all = play.last
    assert play.set(second, Kind.POSIX, WRITE, 0, 9, wait=1) is None
    needs_part = play.last
    play.done(play.leader.on_gone(holder, 2.0))
    assert play.expected[-1] == (spare,)
    assert not play.answers.keys() & {needs_all, needs_part}
    play.done(play.leader.on_expected([spare], 2.0))
    assert play.answers[needs_all] == 0
    assert needs_part not in play.answers
    assert play.set(first, Kind.POSIX, UNLOCK) == 0
    assert play.answers[needs_part] == 0


def test_a_child_that_is_there_keeps_what_it_shares_and_the_rest_is_free() -> None:
    play = Play(members=3)
    holder, waiter = 2, 3
    play.ask(holder, Code.GET_NEW_VMID)
    (spare,) = play.leader.spares
    assert play.set(holder, Kind.POSIX, WRITE, 0, 9) == 0
    assert play.set(holder, Kind.OFD, WRITE, 10, 19) == 0
    assert play.set(waiter, Kind.POSIX, WRITE, 10, 19, wait=1) is None
    needs_shared = play.last
    assert play.set(4, Kind.POSIX, WRITE, 0, 9, wait=1) is None
    needs_own = play.last
    play.done(play.leader.on_gone(holder, 2.0))
    play.done(play.leader.on_expected([], 2.0))
    assert play.answers[needs_own] == 0
    assert needs_shared not in play.answers
    play.done(play.leader.on_gone(spare, 3.0))
    assert play.answers[needs_shared] == 0
