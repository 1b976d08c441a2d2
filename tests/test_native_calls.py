"""Outstanding: against a dict, without memory, and with tickets that call back into the table."""

from __future__ import annotations

import ctypes
import gc
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twins.calls_twin import OutstandingTwin
from twins.damage import SAME_EVERY_RUN, u64

from libos_ipc._native import Outstanding

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1


class Ticket:
    """Equal to nothing but itself; may run something when it is dropped."""

    def __init__(self, on_drop: Callable[[], object] = lambda: None) -> None:
        self.on_drop = on_drop

    def __del__(self) -> None:
        self.on_drop()


class AgainstTheTwin(RuleBasedStateMachine):
    """Random steps on table and twin. Restless tickets enter a request when they are dropped."""

    peers = st.sampled_from((0, 1, 2, 3, 500, U32_MAX))
    seqs = st.one_of(st.integers(0, 120), u64)

    def __init__(self) -> None:
        super().__init__()
        self.table = Outstanding()
        self.twin = OutstandingTwin()

    def enter(self, peer: int) -> None:
        ticket = Ticket()
        assert self.table.add(peer, ticket) == self.twin.add(peer, ticket)

    def same(self, real: Any, twin: Any) -> None:
        assert real == twin

    @rule(peer=peers, count=st.integers(1, 40))
    def add(self, peer: int, count: int) -> None:
        for _ in range(count):
            self.enter(peer)

    @rule(peer=peers, then=peers)
    def add_restless(self, peer: int, then: int) -> None:
        ticket = Ticket(lambda: self.enter(then))
        assert self.table.add(peer, ticket) == self.twin.add(peer, ticket)

    @rule(seq=seqs, peer=peers)
    def take(self, seq: int, peer: int) -> None:
        self.same(self.table.take(seq, peer), self.twin.take(seq, peer))

    @rule(data=st.data())
    def take_right(self, data: st.DataObject) -> None:
        if self.twin.requests:
            seq = data.draw(st.sampled_from(sorted(self.twin.requests)))
            peer = self.twin.requests[seq][0]
            self.same(self.table.take(seq, peer), self.twin.take(seq, peer))

    @rule(peer=peers)
    def of_peer(self, peer: int) -> None:
        self.same(self.table.of_peer(peer), self.twin.of_peer(peer))

    @rule(data=st.data(), peer=peers)
    def move(self, data: st.DataObject, peer: int) -> None:
        seq = data.draw(st.one_of(self.seqs, st.sampled_from([0, *sorted(self.twin.requests)])))
        self.same(self.table.move(seq, peer), self.twin.move(seq, peer))

    @rule(seq=seqs)
    def discard(self, seq: int) -> None:
        self.same(self.table.discard(seq), self.twin.discard(seq))

    @rule(peer=peers)
    def fail_peer(self, peer: int) -> None:
        self.same(self.table.fail_peer(peer), self.twin.fail_peer(peer))

    @rule()
    def drain(self) -> None:
        self.same(self.table.drain(), self.twin.drain())

    @invariant()
    def same_content(self) -> None:
        assert len(self.table) == len(self.twin)
        assert self.table.last == self.twin.last
        for seq in range(self.twin.last + 2):
            assert self.table.peer_of(seq) == self.twin.peer_of(seq)

    def teardown(self) -> None:
        for ticket in self.twin.drain():
            ticket.on_drop = lambda: None  # type: ignore[attr-defined]


AgainstTheTwin.TestCase.settings = settings(SAME_EVERY_RUN, max_examples=60)
TestAgainstTheTwin = AgainstTheTwin.TestCase


def test_fifty_thousand_steps() -> None:
    """Longer than Hypothesis goes: the index grows, wraps and shifts back many times."""
    dice = random.Random(1)
    table, twin = Outstanding(), OutstandingTwin()
    for step in range(50_000):
        seq = dice.randint(max(1, twin.last - 400), twin.last + 1)
        peer = dice.choice((1, 2, 77, U32_MAX))
        if dice.random() < 0.55:
            assert table.add(peer, step) == twin.add(peer, step)
        elif dice.random() < 0.5:
            assert table.take(seq, peer) == twin.take(seq, peer)
        elif dice.random() < 0.99:
            assert table.discard(seq) == twin.discard(seq)
        elif dice.random() < 0.3:
            assert table.fail_peer(peer) == twin.fail_peer(peer)
    assert len(table) == len(twin) > 500
    assert table.drain() == twin.drain()


def test_a_life() -> None:
    table = Outstanding()
    assert (len(table), table.last) == (0, 0)
    assert [table.add(peer, f"to {peer}") for peer in (5, 6, 5)] == [1, 2, 3]
    assert table.take(1, 6) is None, "another peer's answer takes nothing"
    assert table.take(1, 5) == "to 5"
    assert table.take(1, 5) is None, "an answer takes once"
    assert table.peer_of(2) == 6
    assert table.fail_peer(5) == ["to 5"]
    assert table.discard(2) == "to 6"
    assert (len(table), table.last, table.add(9, "next")) == (0, 3, 4)


def test_numbers_that_do_not_fit() -> None:
    table = Outstanding()
    for call in (
        lambda: table.add(U32_MAX + 1, "ticket"),
        lambda: table.add(-1, "ticket"),
        lambda: table.take(U64_MAX + 1, 1),
        lambda: table.take(1, U32_MAX + 1),
        lambda: table.discard(-1),
        lambda: table.peer_of(2**70),
        lambda: table.fail_peer(U32_MAX + 1),
    ):
        with pytest.raises(OverflowError):
            call()
    with pytest.raises(TypeError):
        table.take("1", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Outstanding(1)  # type: ignore[call-arg]
    assert (len(table), table.last) == (0, 0)


def test_arguments_by_name() -> None:
    table = Outstanding()
    assert table.add(ticket="ticket", peer=7) == 1
    assert table.take(peer=7, seq=1) == "ticket"


def test_every_ticket_goes_to_one_thread() -> None:
    table = Outstanding()
    count = 20_000
    for ticket in range(count):
        table.add(ticket % 3, ticket)
    taken: list[int] = []

    def take_all() -> None:
        mine = [table.take(seq, (seq - 1) % 3) for seq in range(1, count + 1)]
        taken.extend(ticket for ticket in mine if ticket is not None)

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(count))


# ---- the garbage collector


def test_a_cycle_through_the_table_is_collected() -> None:
    dropped: list[str] = []
    table = Outstanding()
    ticket = Ticket(lambda: dropped.append("ticket"))
    ticket.table = table  # type: ignore[attr-defined]
    table.add(1, ticket)
    del table, ticket
    gc.collect()
    assert dropped == ["ticket"]


def test_clearing_survives_tickets_that_use_the_table() -> None:
    """A capsule is unknown to the collector, which finalizes everything else before it clears.

    So its destructor runs within the table's tp_clear. No reference leads to the table by then:
    it is found by its address, and a reference count says that it is not being freed already.
    """
    calls = 0

    def destruct(_capsule: int) -> None:
        nonlocal calls
        if ctypes.c_ssize_t.from_address(address).value > 0 and calls < 99:
            calls += 1
            cleared = ctypes.cast(address, ctypes.py_object).value
            cleared.add(1, "late")
            cleared.fail_peer(1)
            cleared.add(4242, capsule())

    destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(destruct)
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object

    def capsule() -> object:
        return new_capsule(ctypes.c_void_p(1), None, destructor)

    table = Outstanding()
    address = id(table)
    for peer in (1, 4242, 4242, 1, 4242):
        table.add(peer, capsule())
    cycle: list[Any] = [table]
    table.add(4242, cycle)
    del table, cycle
    gc.collect()
    assert calls == 5, "what a finalizer enters is not cleared in the same go"


def test_dropping_a_full_table_drops_its_tickets() -> None:
    dropped: list[int] = []
    table = Outstanding()
    for number in range(100):
        table.add(number % 7, Ticket(lambda number=number: dropped.append(number)))  # type: ignore[misc]
    del table
    assert dropped == list(range(100))


@pytest.mark.parametrize("take_all", ["fail_peer", "drain"])
def test_a_collection_while_the_list_is_made(take_all: str) -> None:
    """Where the collector runs on allocation (3.11), the table changes while the list is made."""
    table = Outstanding()
    kept = [Ticket() for _ in range(10)]
    for ticket in kept:
        table.add(1, ticket)
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        rubbish = Ticket(lambda: (table.discard(2), table.discard(5), table.add(1, "late")))
        rubbish.cycle = rubbish  # type: ignore[attr-defined]
        del rubbish
        no_spare_list = [[None] for _ in range(200)]
        gc.set_threshold(1)
        gc.enable()
        taken = table.drain() if take_all == "drain" else table.fail_peer(1)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    del no_spare_list
    gc.collect()
    taken += table.drain()
    assert taken.pop() == "late"
    assert taken in (kept, [ticket for ticket in kept if ticket not in (kept[1], kept[4])])


# ---- no memory


def test_without_memory_nothing_is_lost() -> None:
    pytest.importorskip("_testcapi")
    program = Path(__file__).parent / "twins" / "without_memory.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
