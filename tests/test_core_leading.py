"""What a leader's step says, and that nothing of it goes out if it cannot be written."""

from __future__ import annotations

import pytest

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.member import Member
from libos_ipc.core.vocabulary import Answer, Effects, Journal, Own, Transmit

ME, PEER = 1, 2
ANSWER = (3, 4)


@pytest.fixture
def member() -> Member:
    leading = Member(
        ME,
        leader_vmid=ME,
        epoch=1,
        send_buffer=1000,
        quarantine_s=1.0,
        decode_answer=lambda code, body: (0, 0),
        leader=Leader(id_max=400, range_size=4, quarantine_s=2.0),
    )
    leading.on_hello(PEER, 0.0)
    return leading


def sent(effects: Effects) -> list[int]:
    return [each.message.code for each in effects if isinstance(each, Transmit)]


def again(member: Member) -> list[int]:
    """What goes out when the connection is lost and made again."""
    member.on_disconnected(PEER, 0.0)
    return sent(member.on_rebuilt(0.0))


@pytest.mark.parametrize("sealed", [False, True])
def test_an_answer_that_is_not_written_never_goes_out(member: Member, sealed: bool) -> None:
    step = member.lead(
        [Journal(("pgid", PEER, 7)), Answer(PEER, 5, Code.ALLOC_ID_RANGE, ANSWER)], 0.0
    )
    assert isinstance(step[0], Journal)
    assert Code.RESP in sent(step)
    if sealed:
        member.take_back(step)
    assert (Code.RESP in again(member)) is not sealed


def ask_and_say(member: Member) -> None:
    """A request and a word to the leader in it."""
    assert not member.request(ME, Code.ALLOC_ID_RANGE, (), object(), 0.0)[1]
    assert not member.send(ME, Code.CHILD_LOST, (PEER, 7), 0.0)


def test_the_leader_in_us_hears_in_its_turn(member: Member) -> None:
    ask_and_say(member)
    (answer,) = [each for each in member.hear_own(0.0) if isinstance(each, Own)]
    assert answer.message.seq == member.calls.table.last
    member.hear_own(0.0)
    assert not member.own


def test_what_it_has_not_heard_when_it_is_deposed_the_next_one_hears(member: Member) -> None:
    ask_and_say(member)
    member.depose()
    assert not member.own
    member.on_hello(PEER, 0.0)
    member.adopt(2, PEER, None, 0.0)
    ((back, _),) = member.calls.table.of_peer(PEER)
    assert sent(member.on_message(PEER, 1, 1, Code.RESP, back, (0, 0), 0.0)) == [
        Code.ALLOC_ID_RANGE,
        Code.CHILD_LOST,
    ]
