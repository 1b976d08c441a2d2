"""When the worker comes by itself: who asks for that quietly wakes nobody before it is time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from processes import DEADLINE_S, poll, steady

from libos_ipc.runtime import clock as clock_module
from libos_ipc.runtime.clock import Clock
from libos_ipc.runtime.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    rounds: list[int] = []
    made = Loop("test", lambda: rounds.append(threading.get_native_id()))
    made.rounds = rounds  # type: ignore[attr-defined]
    made.start(lambda: None)
    yield made
    made.stop()
    made.close()


def test_one_alarm_is_enough_for_what_is_due_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now, woken, alarms, done = 100.0, list[str](), list[int](), list[str]()
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now)
    clock = Clock(lambda: woken.append("now"), alarms.append, lambda now: None)
    clock.later(0.5, lambda: done.append("first"), quietly=True)
    now += 0.25
    clock.later(0.5, lambda: done.append("second"), quietly=True)
    assert (alarms, woken) == ([500_000_000], [])
    now += 0.25
    assert clock.run(busy=False) == 0.25, "until the second"
    assert done == ["first"]
    now += 0.25
    assert clock.run(busy=False) is None
    assert done == ["first", "second"]
    clock.later(0.5, lambda: done.append("third"), quietly=True)
    assert alarms == [500_000_000] * 2
    clock.later(0, lambda: done.append("fourth"))
    assert woken == ["now"]


def test_a_round_begins_though_nobody_wakes_the_worker(loop: Loop) -> None:
    rounds: list[int] = loop.rounds  # type: ignore[attr-defined]
    for _ in range(2):
        before = steady(lambda: len(rounds), 0.05)
        loop.wake_in(1000)
        poll(lambda before=before: len(rounds) > before, timeout=DEADLINE_S)  # type: ignore[misc]
    steady(lambda: len(rounds), 0.05)  # it sleeps again
