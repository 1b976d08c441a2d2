"""What goes out for callers that wait: asked once, and again when that may not have come."""

from __future__ import annotations

from libos_ipc.core.codes import Code
from libos_ipc.core.member import Member
from libos_ipc.core.vocabulary import Effects, Transmit

PEER, USER = 2, 70


def a_member() -> Member:
    member = Member(
        1,
        leader_vmid=9,
        epoch=1,
        send_buffer=1000,
        quarantine_s=1.0,
        decode_answer=lambda code, body: (),
    )
    member.send(PEER, USER, bytes(1000), 0.0)
    return member


def questions(effects: Effects) -> int:
    return sum(isinstance(each, Transmit) and each.message.code == Code.PROBE for each in effects)


def test_callers_that_give_up_and_come_again_ask_once() -> None:
    member = a_member()
    asked = 0
    for _ in range(100):
        assert not member.has_room(PEER, 1)
        asked += questions(member.await_room(PEER)) + questions(member.ask_progress(PEER))
        member.stop_awaiting_room(PEER)
    assert asked == 1


def test_an_answer_lets_ask_again() -> None:
    member = a_member()
    assert questions(member.await_room(PEER)) == 1
    member.on_message(PEER, 0, 1, Code.ACK, 0, (), 0.0)
    assert questions(member.await_room(PEER)) == 1


def test_what_was_sent_meanwhile_is_asked_for() -> None:
    member = a_member()
    assert questions(member.ask_progress(PEER)) == 1
    member.send(PEER, USER, b"more", 0.0)
    assert questions(member.ask_progress(PEER)) == 1


def test_a_question_lost_with_its_connection_is_asked_again() -> None:
    member = a_member()
    assert questions(member.await_room(PEER)) == 1
    assert questions(member.on_disconnected(PEER, 0.0)) == 1, "a caller waits"
    member.stop_awaiting_room(PEER)
    member.on_unconnected(PEER)
    assert questions(member.await_room(PEER)) == 1
    member.stop_awaiting_room(PEER)
    member.on_rebuilt(0.0)
    assert questions(member.await_room(PEER)) == 1


def test_who_waits_for_all_to_arrive_asks_by_every_connection_until_it_has() -> None:
    """It may have asked before there was one: whoever leaves as soon as it has joined does."""
    member = a_member()
    assert questions(member.on_rebuilt(0.0)) == 0, "nobody waits"
    assert questions(member.ask_progress(PEER)) == 1
    assert questions(member.on_rebuilt(0.0)) == 1
    member.send(PEER, USER, b"more", 0.0)
    member.on_message(PEER, 0, 1, Code.ACK, 0, (), 0.0)
    assert member.unarrived() == [PEER]
    assert questions(member.on_rebuilt(0.0)) == 0, "nobody waits for the second"


def test_time_asks_in_any_case() -> None:
    member = a_member()
    member.await_room(PEER)
    assert questions(member.on_tick(10.0)[0]) == 1


def test_a_withdrawal_has_to_arrive_too() -> None:
    member = a_member()
    seq, _ = member.request(PEER, USER, b"", object(), 0.0)
    member.on_message(PEER, 0, 2, Code.ACK, 0, (), 0.0)
    assert member.unarrived() == []
    member.withdraw(seq, 0.0)
    assert member.unarrived() == [PEER]
    member.on_message(PEER, 0, 3, Code.ACK, 0, (), 0.0)
    assert member.unarrived() == []
