"""Sync handles: scenarios word for word, hostile input, and many processes at random."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sync_crowd import Choose, Crowd, walk
from sync_group import Group
from twins.damage import SAME_EVERY_RUN, damaged, u32, u64

from libos_ipc.core import sync_server, sync_waits
from libos_ipc.core.sync_client import SyncClient
from libos_ipc.core.sync_handle import LocalHandle
from libos_ipc.core.sync_payload import pack, unpack
from libos_ipc.core.sync_server import MOST_COMMITS, SyncServer
from libos_ipc.core.sync_table import IN_THE_WAY, Entry, Row
from libos_ipc.core.sync_words import (
    Changed,
    Closed,
    Commit,
    ConfirmClose,
    ConfirmDowngrade,
    ConfirmUpgrade,
    InUse,
    LocalWait,
    Reference,
    RefuseWait,
    Remains,
    RequestClose,
    RequestDowngrade,
    RequestUpgrade,
    Resume,
    State,
    Value,
    WithdrawWait,
)
from libos_ipc.errors import (
    IdsExhausted,
    InvalidArgument,
    IpcError,
    MessageTooLarge,
    NotJoined,
    PermissionDenied,
    ProtocolError,
)

INVALID, SHARED, EXCLUSIVE = State.INVALID, State.SHARED, State.EXCLUSIVE
NOTHING = Value(0, b"")


def group_with(*vmids: int, on_death: str = "last") -> tuple[Group, int]:
    """A group in which all have one handle open."""
    group = Group(*vmids)
    ids = {group.open(vmid, name="x", on_death=on_death) for vmid in vmids}
    return group, ids.pop()


def said(group: Group, since: int = 0) -> list[tuple[int, str]]:
    """The messages since then, by the client's VMID."""
    return [(vmid, type(word).__name__) for vmid, word in group.sent[since:]]


# ---- the protocol, word for word


def test_the_ladder() -> None:
    """What the drawing at the head of the module shows."""
    group, id = group_with(2, 3)
    first = group.lock(2, id, state=SHARED)
    group.run()
    group.unlock(2, id)
    begun = len(group.sent)
    writer = group.lock(3, id, thread=7)
    group.run()
    reader = group.lock(2, id, state=SHARED)
    group.run()
    assert group.settled.keys() == {first, writer}
    group.unlock(3, id, 7, b"new")
    group.run()
    assert group.value_of(reader) == (1, b"new")
    assert [word for _, word in group.sent[begun:]] == [
        RequestUpgrade(id, EXCLUSIVE, 1, 7, False),
        RequestDowngrade(id, INVALID),
        ConfirmDowngrade(id, INVALID, None, False),
        ConfirmUpgrade(id, EXCLUSIVE, NOTHING, False),
        RequestUpgrade(id, SHARED, 2, 1, False),
        RequestDowngrade(id, SHARED),
        InUse(id, EXCLUSIVE, 7),
        ConfirmDowngrade(id, SHARED, Value(1, b"new"), False),
        ConfirmUpgrade(id, SHARED, Value(1, b"new"), False),
    ]
    group.check()


def test_what_one_has_costs_no_message() -> None:
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    group.unlock(2, id, data=b"1")
    before = len(group.sent)
    for state in (SHARED, EXCLUSIVE, SHARED):
        ticket = group.lock(2, id, state=state)
        assert group.value_of(ticket) == (1, b"1")
        group.unlock(2, id)
    assert len(group.sent) == before


def test_shared_that_follow_one_another_go_together_and_writers_do_not_starve() -> None:
    group, id = group_with(2, 3, 4, 5, 6)
    for vmid, state in ((2, EXCLUSIVE), (3, SHARED), (4, SHARED), (5, EXCLUSIVE), (6, SHARED)):
        group.lock(vmid, id, state=state)
        group.run()
    assert {ticket[0] for ticket in group.settled} == {2}
    group.unlock(2, id)
    group.run()
    assert {ticket[0] for ticket in group.settled} == {2, 3, 4}
    group.unlock(3, id)
    late = group.lock(3, id, state=SHARED)
    group.unlock(4, id)
    group.run()
    assert late not in group.settled, "the recall came first"
    assert 5 in {ticket[0] for ticket in group.settled}
    group.unlock(5, id, data=b"5")
    group.run()
    assert {ticket[0] for ticket in group.settled} == {2, 3, 4, 5, 6}
    assert group.value_of(late) == (1, b"5")


def test_a_recall_is_strengthened_but_not_repeated() -> None:
    group, id = group_with(2, 3, 4)
    group.lock(2, id)
    group.run()
    reader = group.lock(3, id, state=SHARED)
    group.run()
    group.withdraw(3, id, reader)
    group.lock(4, id)
    group.lock(3, id, state=SHARED)
    group.run()
    recalls = [word for _, word in group.sent if isinstance(word, RequestDowngrade)]
    assert recalls == [RequestDowngrade(id, SHARED), RequestDowngrade(id, INVALID)]
    group.unlock(2, id)
    group.run()
    confirms = [word for vmid, word in group.sent if isinstance(word, ConfirmDowngrade)]
    assert confirms[0] == ConfirmDowngrade(id, INVALID, NOTHING, False)


def test_shared_use_does_not_keep_a_reader_waiting() -> None:
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    group.unlock(2, id, data=b"1")
    group.lock(2, id, state=SHARED)
    reader = group.lock(3, id, state=SHARED)
    group.run()
    assert group.value_of(reader) == (1, b"1")


def test_what_nobody_waits_for_any_more_is_kept() -> None:
    group, id = group_with(2, 3)
    ticket = group.lock(2, id)
    group.arrive_up(2)
    group.withdraw(2, id, ticket)
    group.run()
    assert ticket not in group.settled
    assert group.clients[2].state_of(id) is EXCLUSIVE
    before = len(group.sent)
    assert group.value_of(group.lock(2, id)) == (0, b"")
    assert len(group.sent) == before


def test_a_stronger_request_before_the_answer() -> None:
    group, id = group_with(2, 3)
    reader = group.lock(2, id, thread=1, state=SHARED)
    writer = group.lock(2, id, thread=2)
    group.withdraw(2, id, reader)
    assert [word for _, word in group.sent[-2:]] == [
        LocalWait(id, INVALID, 2, 2, 0),
        RequestUpgrade(id, EXCLUSIVE, 2, 2, False),
    ]
    group.run()
    assert group.value_of(writer) == (0, b"")
    group.check()


def test_one_agent_at_a_time_in_order_of_arrival() -> None:
    group, id = group_with(2)
    tickets = [group.lock(2, id, thread, SHARED) for thread in (1, 2, 3)]
    group.run()
    for thread, ticket in enumerate(tickets, 1):
        assert list(group.settled) == tickets[:thread]
        assert group.clients[2].user_of(id) == thread
        group.unlock(2, id, thread)
        del ticket
    group.run()
    assert group.server.handles[id].rows[2].waits is None
    assert not group.server.waiting


def test_locking_again_what_one_uses_is_a_deadlock_at_once() -> None:
    group, id = group_with(2)
    group.lock(2, id, state=SHARED)
    group.run()
    for state in (SHARED, EXCLUSIVE):
        assert group.failed_with(group.lock(2, id, state=state)) == "EDEADLK"
    group.unlock(2, id)
    assert group.failed_with(group.lock(2, id)) is None


def test_only_the_user_unlocks_and_only_exclusive_changes() -> None:
    group, id = group_with(2)
    client = group.clients[2]
    with pytest.raises(PermissionDenied, match="nobody does"):
        client.unlock(id, 1)
    group.lock(2, id, state=SHARED)
    group.run()
    with pytest.raises(PermissionDenied, match="thread 1 does"):
        client.unlock(id, 2)
    with pytest.raises(InvalidArgument):
        client.unlock(id, 1, b"x")
    client.unlock(id, 1)
    group.lock(2, id)
    group.run()
    for data in (b"x" * 1001, Reference(b"there", 1001)):
        with pytest.raises(MessageTooLarge):
            client.unlock(id, 1, data)
    assert client.unlock(id, 1, Reference(b"there", 1000)) == [
        Commit(id, Value(1, Reference(b"there", 1000)))
    ]


def test_a_value_over_the_wire_may_lie_elsewhere() -> None:
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    group.perform(2, group.clients[2].unlock(id, 1, Reference(b"slab 5", 100_000 // 100)))
    reader = group.lock(3, id, state=SHARED)
    group.run()
    assert group.value_of(reader) == (1, Reference(b"slab 5", 1000))
    group.check()


# ---- opening and closing


def test_the_same_name_is_the_same_handle() -> None:
    group = Group(2, 3)
    id = group.open(2, name="x")
    assert group.open(3, name="x") == group.open(3, id=id) == id
    assert group.open(2) != group.open(3)
    assert group.open(2, id=99) == 99
    group.check()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("x", "json", "last"), "'json': it is open with 'bytes'"),
        (("x", "bytes", "raise"), "'raise': it is open with 'last'"),
        (("y", "bytes", "never"), "'last' or 'raise'"),
        (("y" * 5000, "bytes", "last"), "too long"),
        (("y", "t" * 5000, "last"), "shorter"),
    ],
)
def test_opening_differently_is_refused(asked: tuple[str, str, str], message: str) -> None:
    group, _ = group_with(2)
    before = group.server.state()
    with pytest.raises(InvalidArgument, match=message):
        group.server.open(3, 0, *asked)
    assert group.server.state() == before


def test_a_handle_is_opened_by_id_or_by_name() -> None:
    server = SyncServer(find_cycle=lambda agent, blockers: None)
    for id, name in ((5, "x"), (2**32, ""), (-1, "")):
        with pytest.raises(InvalidArgument):
            server.open(2, id, name, "bytes")


def test_ids_wrap_around_and_end() -> None:
    server = SyncServer(find_cycle=lambda agent, blockers: None, first_id=10, last_id=12)
    assert [server.open(2, 0, "", "bytes")[0] for _ in range(2)] == [10, 11]
    server.on_message(2, RequestClose(10, INVALID, None, False))
    assert [server.open(2, 0, "", "bytes")[0] for _ in range(2)] == [12, 10]
    with pytest.raises(IdsExhausted):
        server.open(2, 0, "", "bytes")
    server.check()


def test_the_last_close_forgets_the_value() -> None:
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    group.unlock(2, id, data=b"1")
    group.close(2, id)
    group.run()
    assert group.value_of(group.lock(3, id, state=SHARED)) is None
    group.run()
    assert group.server.handles[id].value == (1, b"1")
    group.close(3, id, force=True)
    group.run()
    assert group.server.state()[1] == ()
    again = group.open(3, name="x")
    assert again != id
    ticket = group.lock(3, again)
    group.run()
    assert group.value_of(ticket) == (0, b"")


def test_after_a_close_nothing_is_said_and_nothing_heard() -> None:
    group, id = group_with(2, 3)
    waiting = group.lock(2, id, thread=1)
    behind = group.lock(2, id, thread=2, timed=True)
    change = group.watch(2, id)
    group.arrive_up(2)
    group.close(2, id)
    for ticket in (waiting, behind, change, group.lock(2, id)):
        assert group.failed_with(ticket) == "ENOTCONN"
    with pytest.raises(NotJoined):
        group.unlock(2, id)
    with pytest.raises(NotJoined):
        group.close(2, id)
    begun = len(group.sent)
    group.run()
    assert said(group, begun) == [(2, "ConfirmClose")]
    assert not group.notes
    group.check()


def test_a_handle_is_opened_again_before_its_close_is_confirmed() -> None:
    group, id = group_with(2, 3)
    group.close(2, id)
    group.ask_to_open(2, id)
    group.run()
    ticket = group.lock(2, id)
    group.run()
    assert group.value_of(ticket) == (0, b"")


def test_an_opening_that_a_close_overtakes_is_asked_again() -> None:
    group, id = group_with(2, 3)
    group.ask_to_open(2, id)
    group.close(2, id)
    group.run()
    assert len(group.clients[2]) == 1
    assert 2 in group.server.handles[id].rows
    assert not group.notes


def test_what_is_opened_twice_is_closed_twice() -> None:
    group, id = group_with(2)
    group.open(2, id=id)
    group.lock(2, id)
    group.run()
    group.close(2, id)
    with pytest.raises(IpcError, match="thread 1 uses it"):
        group.close(2, id)
    group.unlock(2, id)
    group.close(2, id)
    assert len(group.clients[2]) == 0
    group.run()
    assert not group.server.handles


def test_leaving_drops_what_was_not_committed() -> None:
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    group.perform(2, group.clients[2].close_all())
    reader = group.lock(3, id)
    group.run()
    assert group.value_of(reader) == (0, b"")


def test_without_a_server_nobody_is_served_any_more() -> None:
    client = SyncClient(max_value=10)
    client.opened(7)
    client.on_message(ConfirmUpgrade(7, SHARED, NOTHING, False))
    client.lock(7, 1, EXCLUSIVE, "first")
    client.lock(7, 2, SHARED, "second")
    client.watch(7, "change", 0)
    assert set(client.abandon_waits()) == {"first", "second", "change"}
    assert client.user_of(7) == 0
    client.check()
    assert client.abandon_waits() == []


# ---- waiting for a change


def test_a_change_wakes_those_who_wait_for_it_without_polling() -> None:
    group, id = group_with(2, 3, 4)
    here = group.watch(2, id)
    there = group.watch(3, id)
    group.run()
    quiet = len(group.sent)
    assert group.watch(2, id, 0) not in group.settled
    group.lock(4, id)
    group.run()
    assert said(group, quiet).count((2, "RequestUpgrade")) == 1
    group.unlock(4, id)
    group.run()
    assert not {here, there} & group.settled.keys(), "no change"
    group.lock(4, id)
    group.run()
    group.unlock(4, id, data=b"1")
    group.run()
    assert group.settled[here] == Changed(here, 1)
    assert group.settled[there] == Changed(there, 1)
    assert group.clients[2].state_of(id) is SHARED


def test_a_change_by_ones_own_process_or_before_the_watch() -> None:
    group, id = group_with(2)
    group.lock(2, id)
    group.run()
    ticket = group.watch(2, id, 0)
    group.unlock(2, id, data=b"1")
    assert group.settled[ticket] == Changed(ticket, 1)
    late = group.watch(2, id, 0)
    assert group.settled[late] == Changed(late, 1)
    gone = group.watch(2, id, 1)
    group.withdraw(2, id, gone)
    group.lock(2, id)
    group.unlock(2, id, data=b"2")
    assert gone not in group.settled


def test_who_watches_lets_a_writer_of_its_own_process_go_first() -> None:
    group, id = group_with(2, 3)
    group.lock(3, id)
    group.run()
    watching = group.watch(2, id, 0)
    writer = group.lock(2, id, thread=5)
    group.run()
    group.unlock(3, id)
    group.run()
    assert writer in group.settled
    group.unlock(2, id, 5, b"1")
    assert watching in group.settled
    group.run()
    group.check()


# ---- deaths


@pytest.mark.parametrize("lost", [False, True])
def test_the_next_one_gets_what_a_dead_writer_committed(lost: bool) -> None:
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    group.unlock(2, id, data=b"1")
    group.lock(2, id)
    reader = group.lock(3, id, state=SHARED)
    group.run()
    group.kill(2, lost=lost)
    group.run()
    assert group.value_of(reader) == (1, b"1")


def test_owner_died_is_raised_once_and_then_that_value() -> None:
    group, id = group_with(2, 3, 4, on_death="raise")
    group.lock(2, id)
    group.run()
    group.unlock(2, id, data=b"1")
    group.lock(2, id)
    readers = [group.lock(vmid, id, state=SHARED) for vmid in (3, 4)]
    group.run()
    group.kill(2)
    group.run()
    assert group.failed_with(readers[0]) == "EOWNERDEAD"
    assert group.value_of(readers[1]) == (1, b"1")
    assert group.value_of(group.lock(3, id, state=SHARED)) == (1, b"1")


@pytest.mark.parametrize("state", [SHARED, EXCLUSIVE])
def test_a_death_while_nobody_changes_anything_is_no_news(state: State) -> None:
    """A process that only kept what it had been granted, or read, was nobody's owner."""
    group, id = group_with(2, 3, on_death="raise")
    group.lock(2, id, state=state)
    group.run()
    if state == EXCLUSIVE:
        group.unlock(2, id)
    group.kill(2)
    ticket = group.lock(3, id)
    group.run()
    assert group.value_of(ticket) == (0, b"")


def test_news_of_a_death_that_nobody_waits_for_are_handed_back() -> None:
    group, id = group_with(2, 3, 4, on_death="raise")
    group.lock(2, id)
    group.run()
    gives_up = group.lock(3, id)
    group.run()
    group.withdraw(3, id, gives_up)
    gives_up = group.lock(3, id)
    group.kill(2)
    group.arrive_up(3)
    group.arrive_up(3)
    while group.up[2]:
        group.arrive_up(2)
    group.withdraw(3, id, gives_up)
    group.run()
    assert group.clients[3].state_of(id) is EXCLUSIVE
    ticket = group.lock(4, id)
    group.run()
    assert group.failed_with(ticket) == "EOWNERDEAD"


def test_news_of_a_death_that_die_themselves_are_told_again() -> None:
    group, id = group_with(2, 3, 4, on_death="raise")
    group.lock(2, id)
    group.run()
    group.lock(3, id)
    group.run()
    group.kill(2)
    group.arrive_up(2)
    group.kill(3)
    ticket = group.lock(4, id)
    group.run()
    assert group.failed_with(ticket) == "EOWNERDEAD"
    assert group.value_of(group.lock(4, id)) == (0, b"")


def test_who_died_waiting_is_out_of_the_queue() -> None:
    group, id = group_with(2, 3, 4)
    group.lock(2, id)
    group.run()
    group.lock(3, id)
    group.run()
    ticket = group.lock(4, id)
    group.run()
    group.kill(3)
    group.unlock(2, id)
    group.run()
    assert ticket in group.settled


# ---- cycles


def test_two_handles_locked_in_two_orders() -> None:
    group, a = group_with(2, 3)
    b = group.open(2, name="b")
    group.open(3, name="b")
    group.lock(2, a)
    group.lock(3, b)
    group.run()
    first = group.lock(2, b)
    group.run()
    assert not group.cycles
    second = group.lock(3, a)
    group.run()
    assert group.failed_with(second) == "EDEADLK"
    assert "uses sync handle" in group.settled[second].text
    group.unlock(3, b)
    group.run()
    assert first in group.settled


@pytest.mark.parametrize("timed", [False, True])
def test_two_threads_of_one_process(timed: bool) -> None:
    group, a = group_with(2)
    b = group.open(2, name="b")
    group.lock(2, a, thread=1)
    group.lock(2, b, thread=2)
    group.run()
    group.lock(2, b, thread=1, timed=timed)
    second = group.lock(2, a, thread=2)
    group.run()
    assert group.failed_with(second) == (None if timed else "EDEADLK")
    assert len(group.cycles) == (not timed)
    group.check()


def test_a_cycle_through_a_file_lock_closed_by_news_of_the_user() -> None:
    """The upgrade waits already when it becomes known for whom, and he waits elsewhere."""
    group, id = group_with(2, 3)
    group.lock(2, id, thread=1)
    group.run()
    group.elsewhere[2, 1] = [(3, 4)]
    ticket = group.lock(3, id, thread=4)
    group.arrive_up(3)
    assert not group.cycles
    group.run()
    assert group.failed_with(ticket) == "EDEADLK"
    assert list(group.server.waits_for((3, 4))) == []


def test_the_one_behind_is_refused_not_the_one_before_it() -> None:
    group, id = group_with(2, 3, 4)
    group.lock(2, id)
    group.arrive_up(2)
    group.arrive_down(2)
    group.elsewhere[2, 1] = [(4, 1)]
    before, behind = group.lock(3, id), group.lock(4, id)
    group.arrive_up(3)
    group.arrive_up(4)
    assert ((3, 1), f"asked for sync handle {id} 'x' before") in group.server.waits_for((4, 1))
    group.run()
    assert group.failed_with(behind) == "EDEADLK"
    assert before not in group.settled
    assert [agent for agent, _ in group.cycles] == [(4, 1)]


def test_a_reader_waits_for_no_reader() -> None:
    """Though the process where it reads is EXCLUSIVE, and its user known."""
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    group.unlock(2, id)
    group.lock(2, id, thread=1, state=SHARED)
    group.lock(2, id, thread=2)
    group.elsewhere[2, 1] = [(3, 1)]
    group.run()
    assert group.server.handles[id].rows[2].user == 1
    ticket = group.lock(3, id, state=SHARED)
    group.run()
    assert ticket in group.settled
    assert not group.cycles


def test_a_long_queue_has_few_edges() -> None:
    count = 200
    group, id = group_with(*range(2, 2 + count))
    for vmid in range(2, 2 + count):
        group.lock(vmid, id)
        group.run()
    edges = [list(group.server.waits_for((vmid, 1))) for vmid in range(3, 2 + count)]
    assert [len(each) for each in edges] == [1] * (count - 1)


def test_a_wait_with_a_time_out_hides_nobody() -> None:
    group, id = group_with(2, 3, 4)
    group.lock(2, id)
    group.run()
    group.lock(3, id, timed=True)
    group.run()
    group.lock(4, id)
    group.run()
    assert {agent for agent, _ in group.server.waits_for((4, 1))} == {(3, 1), (2, 1)}
    assert list(group.server.waits_for((3, 1))) == []


# ---- another leader


def test_another_leader_is_told_what_it_cannot_know() -> None:
    group, id = group_with(2, 3, 4)
    group.lock(2, id)
    group.run()
    reader = group.lock(3, id, state=SHARED)
    group.run()
    group.unlock(2, id, data=b"1")  # its confirmation is lost
    group.lose_leader()
    group.resume(3)
    group.run()
    assert reader not in group.settled, "VMID 2 is silent, and keeps what the journal gives it"
    group.check()
    group.resume(2)
    group.run()
    assert group.value_of(reader) == (1, b"1")


def test_a_close_that_the_former_leader_did_not_confirm() -> None:
    group, id = group_with(2)
    group.close(2, id)
    group.arrive_up(2)
    group.lose_leader()
    group.resume(2)
    group.run()
    assert group.clients[2].state() == ((), ())
    assert not group.notes


# ---- hostile input

HOSTILE_STATES = (-1, 0, 1, 2, 3, 4, 2**31 - 1)
WORDS = st.one_of(
    *(
        st.builds(
            kind,
            st.sampled_from((1, 2**22)),
            st.sampled_from(HOSTILE_STATES),
            st.none() | st.builds(Value, u64, st.binary(max_size=3)),
            st.booleans(),
        )
        for kind in (ConfirmDowngrade, RequestClose, Resume)
    ),
    st.builds(
        RequestUpgrade,
        st.sampled_from((1, 2**22)),
        st.sampled_from(HOSTILE_STATES),
        st.integers(0, 3),
        st.integers(0, 2),
        st.booleans(),
    ),
    st.builds(WithdrawWait, st.sampled_from((1, 2**22)), st.integers(0, 3)),
    st.builds(InUse, st.just(2**22), st.sampled_from(HOSTILE_STATES), st.integers(0, 2)),
    st.builds(
        LocalWait,
        st.just(2**22),
        st.sampled_from(HOSTILE_STATES),
        st.integers(0, 3),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
)


@settings(SAME_EVERY_RUN, max_examples=300)
@given(words=st.lists(WORDS, max_size=12))
def test_no_message_harms_the_server_or_others(words: list[Any]) -> None:
    """One says anything; two others go on, until it dies."""
    group, id = group_with(2, 3, 9)
    for word in words:
        group.decide(group.server.on_message(9, unpack(type(word), pack(word))))
        group.server.check()
        assert group.successor.state() == group.server.state()
    tickets = [group.lock(vmid, id) for vmid in (2, 3)]
    group.run()
    group.kill(9)
    group.run()
    for vmid, ticket in zip((2, 3), tickets, strict=True):
        assert group.failed_with(ticket) is None
        assert group.value_of(ticket) is not None
        group.unlock(vmid, id, data=b"after")
        group.run()
    assert group.server.handles[id].rows.keys() == {2, 3}


def test_a_version_that_would_use_up_the_numbers_is_refused() -> None:
    group, id = group_with(2, 3)
    group.lock(2, id)
    group.run()
    lie = Value(MOST_COMMITS + 1, b"lie")
    reader = group.lock(3, id, state=SHARED)
    group.arrive_up(3)
    done = group.server.on_message(2, ConfirmDowngrade(id, SHARED, lie, False))
    group.decide(done)
    group.run()
    assert [note.event for note in done.notes] == ["sync value refused"]
    assert group.value_of(reader) == (0, b"")


@pytest.mark.parametrize(
    "word",
    [
        RequestDowngrade(7, SHARED),
        RequestDowngrade(7, 0),
        RequestDowngrade(7, INVALID),
        ConfirmUpgrade(7, INVALID, NOTHING, False),
        ConfirmUpgrade(7, 4, NOTHING, False),
        ConfirmUpgrade(8, SHARED, NOTHING, False),
        RefuseWait(8, 1, 35, "no"),
    ],
)
def test_a_client_ignores_what_fits_nothing(word: Any) -> None:
    client = SyncClient(max_value=10)
    client.opened(7)
    before = client.state()
    (note,) = client.on_message(word)
    assert note.event == "sync message ignored"  # type: ignore[union-attr]
    assert client.state() == before


def test_what_came_late_is_no_news() -> None:
    client = SyncClient(max_value=10)
    client.opened(7)
    assert client.on_message(RefuseWait(7, 1, 35, "no")) == []
    assert client.on_message(ConfirmClose(7)) == []
    assert client.withdraw(7, "nobody") == client.withdraw(8, "nobody") == []
    client.close(7)
    assert client.on_message(ConfirmUpgrade(7, SHARED, NOTHING, False)) == []
    assert client.on_message(ConfirmClose(7)) == [Closed(7)]


# ---- the payload

VALUES = st.builds(
    Value, u64, st.binary(max_size=40) | st.builds(Reference, st.binary(max_size=20), u64)
)
STATES = st.integers(-(2**31), 2**31 - 1)
PLACES = st.none() | st.tuples(u32, u32, u64)
PAYLOADS = st.one_of(
    st.builds(RequestUpgrade, u64, STATES, u64, u32, st.booleans()),
    st.builds(WithdrawWait, u64, u64),
    st.builds(ConfirmDowngrade, u64, STATES, st.none() | VALUES, st.booleans()),
    st.builds(RequestClose, u64, STATES, st.none() | VALUES, st.booleans()),
    st.builds(InUse, u64, STATES, u32),
    st.builds(LocalWait, u64, STATES, u64, u32, u32),
    st.builds(Resume, u64, STATES, st.none() | VALUES, st.booleans()),
    st.builds(RequestDowngrade, u64, STATES),
    st.builds(ConfirmUpgrade, u64, STATES, VALUES, st.booleans(), PLACES),
    st.builds(ConfirmClose, u64),
    st.builds(RefuseWait, u64, u64, st.integers(1, 133), st.text(max_size=30)),
)


@settings(SAME_EVERY_RUN, max_examples=500)
@given(word=PAYLOADS, data=st.data())
def test_words_survive_the_wire_and_damage_is_an_error(word: Any, data: st.DataObject) -> None:
    fields = pack(word)
    again = unpack(type(word), fields)
    assert type(again) is type(word)
    assert again == word
    hurt = data.draw(damaged(fields[3]))
    try:
        other = unpack(type(word), (fields[0], len(hurt), fields[2], hurt))
    except ProtocolError:
        return
    assert type(other) is type(word)


def test_the_bytes_of_a_value() -> None:
    value = ConfirmUpgrade(5, SHARED, Value(3, b"abc"), True)
    assert pack(value) == (5, 12, 2, bytes.fromhex("0300000000000000 01") + b"abc")
    far = ConfirmDowngrade(5, INVALID, Value(3, Reference(b"@", 70_000)), False)
    expected = bytes.fromhex("0300000000000000 02 7011010000000000") + b"@"
    assert pack(far) == (5, 18, 1, expected)
    assert pack(ConfirmDowngrade(5, INVALID, None, False)) == (5, 0, 1, b"")
    assert pack(RequestUpgrade(5, EXCLUSIVE, 1, 7, True))[3].hex() == "01000000000000000700000001"
    assert unpack(RequestUpgrade, (5, 0, 3, b"")) == RequestUpgrade(5, EXCLUSIVE, 0, 0, True)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ConfirmUpgrade, b""),
        (ConfirmUpgrade, bytes(8)),
        (ConfirmUpgrade, bytes(8) + b"\x08"),
        (ConfirmUpgrade, bytes(8) + b"\x02short"),
        (ConfirmDowngrade, bytes(8) + b"\x04more"),
        (ConfirmDowngrade, b"\x01" + bytes(7) + b"\x04"),
        (RequestDowngrade, b"x"),
        (ConfirmClose, b"x"),
        (InUse, b"12345"),
    ],
)
def test_data_of_another_kind_is_a_protocol_error(kind: Any, data: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"{kind.__name__} about sync handle 5"):
        unpack(kind, (5, len(data), 2, data))
    with pytest.raises(ProtocolError, match="announced"):
        unpack(kind, (5, len(data) + 1, 2, data))


# ---- many processes, handles, threads


class AtRandom(RuleBasedStateMachine):
    """Whatever Hypothesis thinks of."""

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.crowd = Crowd(chooser(data))

    @rule(
        data=st.data(),
        name=st.sampled_from(("lock", "lock_another", "unlock", "arrive", "disturb")),
    )
    def step(self, data: st.DataObject, name: str) -> None:
        getattr(self.crowd, name)(chooser(data))

    @invariant()
    def is_well(self) -> None:
        if hasattr(self, "crowd"):
            self.crowd.check()

    def teardown(self) -> None:
        if hasattr(self, "crowd"):
            self.crowd.rest()


TestAtRandom = AtRandom.TestCase
TestAtRandom.settings = settings(SAME_EVERY_RUN, max_examples=80, stateful_step_count=40)


def chooser(data: st.DataObject) -> Choose:
    return lambda options: data.draw(st.sampled_from(options))


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_crowds_come_to_rest(start: int) -> None:
    cycles = sum(len(walk(seed, 80).group.cycles) for seed in range(start, start + 100))
    assert cycles > 20


def tells_of_no_user(self: LocalHandle) -> list[Any]:
    self.told_user = self.user if self.recall or self.told_waits else 0
    return []


def looks_for_no_cycle(self: SyncServer, *args: Any) -> None:
    return None


def stays_as_it_is_in_use(self: LocalHandle) -> list[Any]:
    recall, self.recall = self.recall, 0 if self.user else self.recall
    effects = real_settle(self)
    self.recall = self.recall or (recall if self.user else 0)
    return effects


def takes_states_for_uses(row: Row, entry: Entry) -> bool:
    return bool(row.user) and (entry.state, row.state) in IN_THE_WAY


real_settle = LocalHandle._settle


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (LocalHandle, "_tell_user", tells_of_no_user),
        (LocalHandle, "_settle", stays_as_it_is_in_use),
        (SyncServer, "_check_user", looks_for_no_cycle),
        (SyncServer, "_refuse_local", looks_for_no_cycle),
        (SyncServer, "_refuse_if_cycle", looks_for_no_cycle),
        (sync_waits, "uses_in_the_way", takes_states_for_uses),
    ],
)
def test_a_fault_does_not_stay_hidden(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, fault: Any
) -> None:
    """Faults about cycles, which no single handle can have."""
    monkeypatch.setattr(where, name, fault)
    if where is sync_waits:
        monkeypatch.setattr(sync_server, name, fault)
    with pytest.raises(AssertionError):
        [walk(seed, 60) for seed in range(3000)]


# ---- size


def test_many_handles_are_small() -> None:
    count = 20_000
    tracemalloc.start()
    client = SyncClient(max_value=100)
    before = tracemalloc.get_traced_memory()[0]
    for id in range(1, count + 1):
        client.opened(id)
    at_client = (tracemalloc.get_traced_memory()[0] - before) / count
    server = SyncServer(find_cycle=lambda agent, blockers: None)
    before = tracemalloc.get_traced_memory()[0]
    for id in range(1, count + 1):
        server.open(2, id, "", "bytes")
    at_server = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    assert at_client < 400, at_client
    assert at_server < 900, at_server


def test_leaving_with_many_handles_is_not_quadratic() -> None:
    server = SyncServer(find_cycle=lambda agent, blockers: None)
    for id in range(1, 20_001):
        server.open(2, id, "", "bytes")
        server.open(3, id, "", "bytes")
        server.on_message(3, RequestUpgrade(id, EXCLUSIVE, 1, 1, False))
        server.on_message(2, RequestUpgrade(id, EXCLUSIVE, 1, 1, False))
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    server.on_gone(2, lambda id: Remains(None, False))
    sys.setprofile(None)
    assert calls < 20_000 * 40
    server.check()
