"""What the leader keeps of its answers, and that a step is one record ahead of them."""

from __future__ import annotations

from typing import Any

import msgspec

from libos_ipc.core.answered import Answered
from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.member import Member
from libos_ipc.core.roster import Applicant
from libos_ipc.core.vocabulary import ChildExit, Effects, Journal, Transmit
from libos_ipc.runtime.codec import decode_answer

LEADER, ONE = 1, 2


def new_leader() -> Leader:
    return Leader(id_max=400, range_size=4, quarantine_s=2.0)


class Play:
    """A leader within its member, and one process that asks it."""

    def __init__(self) -> None:
        self.leader = new_leader()
        self.member = Member(
            LEADER,
            leader_vmid=LEADER,
            epoch=1,
            send_buffer=1000,
            quarantine_s=1.0,
            decode_answer=decode_answer,
            leader=self.leader,
        )
        self.records: list[Any] = []
        admission, effects = self.leader.on_join(Applicant(9, 9, 0, 0, True), 0.0, 0.0)
        assert admission.vmid == ONE
        self.write(self.member.lead(effects, 0.0))
        self.write(self.member.on_hello(ONE, 0.0))
        self.number = 0

    def write(self, effects: Effects) -> Effects:
        for effect in effects:
            if isinstance(effect, Journal):
                self.records.append(effect.record)
        return effects

    def say(self, code: Code, seq: int, *fields: object, acked: int = 0) -> Effects:
        self.number += 1
        return self.write(self.member.on_message(ONE, self.number, acked, code, seq, fields, 1.0))

    def successor(self) -> Leader:
        again = new_leader()
        again.replay(map(tuple, msgspec.msgpack.decode(msgspec.msgpack.encode(self.records))))
        assert again.state() == self.leader.state()
        return again


def answers(effects: Effects) -> list[tuple[int, Any]]:
    return [
        (effect.message.seq, effect.message.body)
        for effect in effects
        if isinstance(effect, Transmit) and effect.message.code in (Code.RESP, Code.ERROR)
    ]


def test_a_step_is_one_record_ahead_of_all_that_goes_out() -> None:
    play = Play()
    effects = play.say(Code.TRADE_ID_RANGES, 5, 3, ())
    assert [type(effect) for effect in effects].index(Journal) == 0
    assert sum(isinstance(effect, Journal) for effect in effects) == 1
    kind, records, told, cause, received = play.records[-1]
    assert kind == "step"
    assert [record[0] for record in records] == ["trade"]
    assert told == [(ONE, 5, Code.TRADE_ID_RANGES, answers(effects)[0][1])]
    assert (cause, received) == ((ONE, 1, 1), [])
    play.successor()


def test_what_changes_nothing_is_not_written() -> None:
    play = Play()
    written = len(play.records)
    assert answers(play.say(Code.GET_ID_OWNER, 1, 1)) == [(1, (ONE,))]
    assert answers(play.say(Code.GET_MEMBERS, 2))
    assert len(play.records) == written
    assert play.leader.answered.find(ONE, 1) is None


def test_the_same_request_again_is_answered_and_not_done_again() -> None:
    play = Play()
    first = answers(play.say(Code.ALLOC_ID_RANGE, 1)) + answers(play.say(Code.GET_NEW_VMID, 2))
    heir = play.successor()
    before = heir.state()
    again = heir.on_request(ONE, Code.ALLOC_ID_RANGE, 1, (), 2.0)
    again += heir.on_request(ONE, Code.GET_NEW_VMID, 2, (), 2.0)
    assert [(answer.seq, answer.fields) for answer in again] == first  # type: ignore[union-attr]
    assert heir.state() == before
    other = heir.on_request(ONE, Code.ALLOC_ID_RANGE, 3, (), 2.0)
    assert other[-1].fields != first[0][1]  # type: ignore[union-attr]


def test_what_has_been_heard_is_forgotten_with_the_next_record() -> None:
    play = Play()
    play.say(Code.GET_NEW_VMID, 1)
    play.say(Code.GET_NEW_VMID, 2)
    assert play.leader.answered.find(ONE, 1)
    play.say(Code.GET_NEW_VMID, 3, acked=1)
    assert play.records[-1][4] == [(ONE, 1)]
    assert play.leader.answered.find(ONE, 1) is None
    assert play.leader.answered.find(ONE, 2)
    assert play.successor().answered.find(ONE, 1) is None


def test_of_words_the_number_is_kept() -> None:
    play = Play()
    play.say(Code.GET_ID_OWNER, 1, 1)
    play.say(Code.HANDLE_AT, 0, 2, 7, 1, 2, 5, -1)
    assert play.leader.answered.last_heard(ONE) == (1, 2)
    assert play.successor().answered.last_heard(ONE) == (1, 2), "of that link, and no other"


def test_the_exits_of_orphans_are_written() -> None:
    play = Play()
    pid = play.leader.processes[ONE].pid
    play.say(Code.CHILDEXIT, 0, 0, pid, 0, 7, 0)
    play.say(Code.CHILDEXIT, 0, 0, pid + 1, 0, 7, 0)
    assert list(play.successor().orphan_exits) == [ChildExit(ONE, 0, pid, 0, 7, 0)]


def test_nothing_is_kept_of_the_gone() -> None:
    play = Play()
    play.say(Code.GET_NEW_VMID, 1)
    play.write(play.member.lead(play.leader.on_gone(ONE, 2.0), 2.0))
    assert play.leader.answered.find(ONE, 1) is None
    play.successor()


def test_after_a_succession_only_what_is_waited_for_stays() -> None:
    answered = Answered()
    for seq in (1, 2, 3):
        answered.keep(ONE, seq, Code.RELEASE_ID_RANGE, (0,))
    answered.only(ONE, frozenset({2, 9}))
    assert answered.take_received() == [(ONE, 1), (ONE, 3)]
    assert answered.take_received() == []
    assert answered.find(ONE, 2) == (Code.RELEASE_ID_RANGE, (0,))


def test_answers_to_oneself_are_heard_at_once() -> None:
    answered = Answered()
    answered.keep(ONE, 1, Code.RELEASE_ID_RANGE, (0,))
    answered.on_sent(ONE, 1, 0)
    answered.on_sent(ONE, 5, 0)
    assert answered.take_received() == [(ONE, 1)]


def test_a_parent_that_leads_no_more_hears_how_its_child_ended() -> None:
    """The record cannot be written any more, and what comes behind it is not performed."""
    play = Play()
    pid = play.leader.processes[ONE].pid
    effects = play.say(Code.CHILDEXIT, 0, 0, pid, 0, 7, 0)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(ChildExit) < kinds.index(Journal)


def test_who_asks_to_join_again_is_who_it_was_before() -> None:
    """The leader has died between record and answer: its successor is asked in the same call."""
    play, who = Play(), Applicant(10, 9, 0, 0, True, 77)
    admission, effects = play.leader.on_join(who, 0.0, 0.0)
    play.write(play.member.lead(effects, 0.0))
    successor = play.successor()
    assert successor.on_join(who, 1.0, 1.0) == (admission, [])
    other, _ = successor.on_join(who._replace(attempt=78), 1.0, 1.0)
    assert other.vmid not in (ONE, admission.vmid)
