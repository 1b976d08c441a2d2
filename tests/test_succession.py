"""Groups that lose their leaders, over many seeds, and proof that a broken machine is found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from simulator.succession import Log, World

from libos_ipc.core.answered import Answered
from libos_ipc.core.leader import Leader
from libos_ipc.core.leading import Leading
from libos_ipc.core.succession import Succession
from libos_ipc.core.vocabulary import Effects, Journal

SEEDS = 600
CHUNK = 50


def trouble(seeds: range) -> str:
    for seed in seeds:
        try:
            World(seed).live()
        except Exception as error:
            return f"seed {seed}: {error!r}"
    return ""


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_nothing_granted_is_lost_or_doubled(start: int) -> None:
    assert not trouble(range(start, start + CHUNK))


def test_the_worlds_are_eventful() -> None:
    worlds = [World(seed) for seed in range(100)]
    for world in worlds:
        world.live()
    assert max(len(world.begun) for world in worlds) >= 4, "three deaths in a row"
    assert sum(len(world.begun) - 1 for world in worlds) > 60
    assert sum(world.answered_again for world in worlds) > 5
    assert sum(world.refused_commits for world in worlds) > 0
    assert sum(world.said_again for world in worlds) > 20


def _remembers_nothing(self: Answered, vmid: int, seq: int) -> None:
    return None


def _tells_first(self: Leading, effects: Effects, cause: Any, told: Any) -> Effects:
    written = WRITTEN(self, effects, cause, told)
    return sorted(written, key=lambda effect: isinstance(effect, Journal))


WRITTEN = Leading._written


def _heard_nothing(self: Answered, vmid: int) -> tuple[int, int]:
    return 0, 0


def _asks_nobody(self: Leader, now: float) -> Effects:
    return []


def _one_by_one(self: Leading, effects: Effects, cause: Any, told: Any) -> Effects:
    return effects


class Unsealed(Log):
    """A journal that a deposed leader writes to as ever."""

    sealed = property(lambda self: False, lambda self, sealed: None)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("machine", "method", "broken"),
    [
        (Answered, "find", _remembers_nothing),
        (Answered, "last_heard", _heard_nothing),
        (Leader, "take_over", _asks_nobody),
        (Leading, "_written", _tells_first),
        (Leading, "_written", _one_by_one),
        (Succession, "_on_inherited", Succession._nothing),
    ],
)
def test_a_broken_machine_is_found_out(
    monkeypatch: pytest.MonkeyPatch, machine: type, method: str, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(machine, method, broken)
    if machine is Succession:
        from libos_ipc.core import succession

        for steps in succession._TABLE.values():
            for evidence, step in list(steps.items()):
                if step.__name__ == method:
                    monkeypatch.setitem(steps, evidence, broken)
    assert trouble(range(200))


def test_a_journal_without_a_seal_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.succession.Log", Unsealed)
    assert trouble(range(200))
