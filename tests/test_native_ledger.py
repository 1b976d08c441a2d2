"""Ledger: against a list and a few ints, with numbers both plausible and absurd."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twins.damage import SAME_EVERY_RUN, u64
from twins.ledger_twin import COUNTS, LedgerTwin, Message, filled, labels

from libos_ipc._native import DRAINED, NEXT, Ledger

TIMES = ("probe_at", "probe_interval")
EVERYTHING = ("sent", "acked", "kept", "starving", *TIMES, *COUNTS)
S64_MAX = 2**63 - 1
U64_MAX = 2**64 - 1
ABSURD: tuple[Any, ...] = (S64_MAX, S64_MAX + 1, U64_MAX, U64_MAX + 1, 2**70, -1, -(2**70))
NO_INTS: tuple[Any, ...] = (1.0, "1", None)


def state(ledger: Ledger) -> list[Any]:
    return [getattr(ledger, name) for name in EVERYTHING]


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except (ValueError, TypeError, OverflowError) as error:
        return type(error)


class AgainstTheTwin(RuleBasedStateMachine):
    """Random steps on ledger and twin. Restless messages call back into that which drops them."""

    numbers = st.one_of(st.integers(0, 120), st.sampled_from((*ABSURD, *NO_INTS, True)), u64)
    sizes = st.one_of(st.integers(0, 60), st.sampled_from((*ABSURD, *NO_INTS)))
    moments = st.one_of(st.floats(0, 1e9), st.integers(-5, 5))

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Any = Ledger()
        self.twin: Any = LedgerTwin()
        self.label = 0

    def same(self, method: str, *args: Any) -> None:
        real = outcome(getattr(self.ledger, method), *args)
        assert real == outcome(getattr(self.twin, method), *args)

    def stamp(self, size: Any, now: float, on_drop: Callable[[Any], object] | None = None) -> None:
        """Each gets a message of its own, so that each drops it in its own time."""
        self.label += 1
        numbers = []
        for one in (self.ledger, self.twin):
            drop = (lambda: None) if on_drop is None else (lambda one=one: on_drop(one))
            numbers.append(outcome(one.stamp, Message(self.label, drop), size, now))
        assert numbers[0] == numbers[1]

    @rule(size=st.integers(0, 60), now=moments, count=st.integers(1, 40))
    def stamp_some(self, size: int, now: float, count: int) -> None:
        for _ in range(count):
            self.stamp(size, now)

    @rule(size=sizes, now=moments)
    def stamp_any(self, size: Any, now: float) -> None:
        self.stamp(size, now)

    @rule(number=numbers, acked=numbers, size=sizes)
    def stamp_restless(self, number: Any, acked: Any, size: Any) -> None:
        self.stamp(1, 0, on_drop=lambda one: outcome(one.receive, number, acked, size, 7.0))
        self.stamp(1, 0, on_drop=lambda one: one.receive(0, one.sent, 1, 8.0))
        self.stamp(1, 0, on_drop=lambda one: one.stamp(Message("late"), 1, 9.0))

    @rule(number=numbers, acked=numbers, size=sizes, now=moments)
    def receive_any(self, number: Any, acked: Any, size: Any, now: float) -> None:
        self.same("receive", number, acked, size, now)

    @rule(size=sizes, part=st.floats(0, 1), now=moments)
    def receive_next(self, size: Any, part: float, now: float) -> None:
        acked = self.twin.acked + round(part * len(self.twin.messages))
        self.same("receive", self.twin.counts["delivered"] + 1, acked, size, now)

    @rule()
    def acknowledge(self) -> None:
        self.same("acknowledge")

    @rule(every=numbers)
    def ack_due(self, every: Any) -> None:
        self.same("ack_due", every)

    @rule(size=sizes, limit=numbers)
    def has_room(self, size: Any, limit: Any) -> None:
        self.same("has_room", size, limit)

    @rule(size=sizes, quantum=numbers, starving=st.booleans())
    def consume(self, size: Any, quantum: Any, starving: bool) -> None:
        self.ledger.starving = self.twin.starving = starving
        self.same("consume", size, quantum)

    @rule(name=st.sampled_from(COUNTS), value=numbers)
    def assign(self, name: str, value: Any) -> None:
        refused = outcome(setattr, self.ledger, name, value)
        assert refused == outcome(self.twin.set_count, name, value)

    @rule(name=st.sampled_from(COUNTS), like=st.sampled_from(COUNTS))
    def settle(self, name: str, like: str) -> None:
        self.assign(name, self.twin.counts[like])

    @rule(at=moments, interval=moments)
    def assign_times(self, at: float, interval: float) -> None:
        self.ledger.probe_at = self.twin.probe_at = at
        self.ledger.probe_interval = self.twin.probe_interval = interval

    @invariant()
    def same_content(self) -> None:
        assert labels(self.ledger.kept) == labels(self.twin.kept)
        assert {name: getattr(self.ledger, name) for name in COUNTS} == self.twin.counts
        for name in ("sent", "acked", "starving", *TIMES):
            assert getattr(self.ledger, name) == getattr(self.twin, name)

    def teardown(self) -> None:
        for _, message in self.ledger.kept + self.twin.kept:
            message.on_drop = lambda: None


AgainstTheTwin.TestCase.settings = settings(SAME_EVERY_RUN, max_examples=60)
TestAgainstTheTwin = AgainstTheTwin.TestCase


def test_fifty_thousand_steps() -> None:
    """Longer than Hypothesis goes: the ring grows and wraps around many times."""
    dice = random.Random(1)
    ledger, twin = Ledger(), LedgerTwin()
    most = 0
    for step in range(50_000):
        if dice.random() < 0.97:
            assert ledger.stamp(step, 3, step) == twin.stamp(step, 3, step)  # type: ignore[arg-type]
        else:
            acked = dice.randint(twin.acked, twin.sent) if dice.random() < 0.98 else twin.sent
            args = (step, acked, 5, step)
            assert ledger.receive(*args) == twin.receive(*args)
            assert ledger.kept == twin.kept
        most = max(most, len(twin.messages))
    assert most > 100
    assert (ledger.sent, ledger.acked, ledger.kept) == (twin.sent, twin.acked, twin.kept)


@pytest.mark.parametrize("before", range(9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17, 100])
def test_kept_through_growth_and_around_the_end(before: int, count: int) -> None:
    """Room is made for 8 at first; `before` is where in it the oldest lies when it grows."""
    ledger = filled(8, before)
    for label in range(before + 8, before + 8 + count):
        ledger.stamp(Message(label), 1, 0)  # type: ignore[arg-type]
    expected = [(label + 1, label) for label in range(before, before + 8 + count)]
    assert labels(ledger.kept) == expected
    ledger.receive(0, before + 3, 0, 0)
    assert labels(ledger.kept) == expected[3:]


def test_a_life() -> None:
    ledger: Any = Ledger()
    assert state(ledger) == [0, 0, [], False, 0.0, 0.25, *[0] * 7]
    assert [ledger.stamp(name, 10, 5.0) for name in ("one", "two", "three")] == [1, 2, 3]
    assert (ledger.sent_bytes, ledger.probe_at) == (30, 5.25)
    assert ledger.receive(2, 0, 9, 6.0) == 0, "not the next"
    assert ledger.receive(1, 2, 4, 7.0) == NEXT
    assert (ledger.kept, ledger.probe_at) == ([(3, "three")], 7.25)
    assert ledger.receive(1, 1, 4, 8.0) == 0, "again, and older than what is known"
    assert ledger.receive(2, 3, 4, 8.0) == NEXT | DRAINED
    assert (ledger.delivered, ledger.received_bytes, ledger.kept) == (2, 8, [])
    assert (ledger.ack_due(2), ledger.ack_due(3)) == (True, False)
    assert ledger.acknowledge() == ledger.announced_ack == 2
    assert (ledger.ack_due(1), ledger.ack_due(0)) == (False, True)
    assert (ledger.has_room(10, 40), ledger.has_room(11, 40)) == (True, False)
    ledger.credited = 30
    assert ledger.has_room(41, 40), "one message alone always may go"
    assert [ledger.consume(4, 8), ledger.consume(4, 8)] == [False, True]
    ledger.announced_credit, ledger.starving = 7, True
    assert ledger.consume(0, 8), "the peer waits, and nothing is left to consume"


def test_counts_at_their_end() -> None:
    ledger = Ledger()
    ledger.delivered = ledger.announced_ack = U64_MAX
    assert ledger.receive(0, 0, 1, 0) == 0, "no number is not the next one"
    assert (ledger.delivered, ledger.received_bytes) == (U64_MAX, 0)
    ledger.credited = 1
    assert not ledger.has_room(1, S64_MAX), "owed is 2**64 - 1, and with one more it wraps"
    ledger.credited, ledger.sent_bytes = 0, S64_MAX
    assert not ledger.has_room(S64_MAX, S64_MAX)
    assert ledger.has_room(0, S64_MAX)
    ledger.starving = True
    assert not ledger.consume(0, 1), "all is told already"


# ---- what is refused changes nothing


@pytest.mark.parametrize("acked", [6, 7, S64_MAX, S64_MAX + 1, U64_MAX])
def test_an_absurd_acknowledgement_changes_nothing(acked: int) -> None:
    ledger = filled(3, before=2)
    before = state(ledger)
    with pytest.raises(ValueError, match=f"acknowledges {acked}, but only 5 were sent"):
        ledger.receive(1, acked, 10, 99.0)
    assert state(ledger) == before


NUMBERS = {  # good arguments of each method; each int is then made bad, one after the other
    "stamp": ("message", 1, 1.0),
    "receive": (1, 5, 1, 1.0),
    "acknowledge": (),
    "ack_due": (1,),
    "has_room": (1, 1),
    "consume": (1, 1),
}


@pytest.mark.parametrize("method", NUMBERS)
def test_arguments_that_do_not_fit(method: str) -> None:
    ledger = filled(3, before=2)
    good = NUMBERS[method]
    before = state(ledger)

    def refused(error: type[Exception], *args: object, **names: object) -> None:
        with pytest.raises(error):
            getattr(ledger, method)(*args, **names)
        assert state(ledger) == before

    refused(TypeError, *good, 1)
    refused(TypeError, *good, other=1)
    for count in range(len(good)):
        refused(TypeError, *good[:count])
    for place, value in enumerate(good):
        around = good[:place], good[place + 1 :]
        if isinstance(value, int):
            for bad in (-1, -(2**70), U64_MAX + 1, 2**70):
                refused(OverflowError, *around[0], bad, *around[1])
            for no_int in NO_INTS:
                refused(TypeError, *around[0], no_int, *around[1])
        elif isinstance(value, float):
            refused(TypeError, *around[0], "1", *around[1])
            refused(OverflowError, *around[0], 10**400, *around[1])


@pytest.mark.parametrize("name", ["sent", "acked", "kept"])
def test_only_methods_change_what_is_kept(name: str) -> None:
    ledger = filled(3, before=2)
    before = state(ledger)
    with pytest.raises(AttributeError):
        setattr(ledger, name, 3)
    with pytest.raises(AttributeError):
        delattr(ledger, name)
    ledger.kept.clear()
    assert state(ledger) == before


@pytest.mark.parametrize("name", [*COUNTS, *TIMES])
def test_an_assignment_refused_changes_nothing(name: str) -> None:
    ledger = Ledger()
    setattr(ledger, name, 7)
    for bad in ("1", None) if name in TIMES else (*ABSURD[3:], *NO_INTS):
        with pytest.raises((TypeError, OverflowError)):
            setattr(ledger, name, bad)
    with pytest.raises(TypeError):
        delattr(ledger, name)
    assert getattr(ledger, name) == 7


def test_a_clock_that_sends() -> None:
    """What is not a float is asked for one, in the middle of the call."""

    class Clock:
        def __float__(self) -> float:
            ledger.stamp("early", 1, 0.0)
            return 1.0

    ledger: Any = Ledger()
    assert ledger.stamp("message", 1, Clock()) == 2
    assert ledger.receive(1, 3, 1, Clock()) == NEXT | DRAINED
    assert (ledger.sent, ledger.acked) == (3, 3)
