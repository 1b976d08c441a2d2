"""Groups of real members that lose their leaders, over many seeds; broken machines are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from simulator.reigns import Reigns

from libos_ipc.core.allegiance import Allegiance, Standing
from libos_ipc.core.answered import Answered
from libos_ipc.core.leader import Leader
from libos_ipc.core.leading import Leading
from libos_ipc.core.links import Link
from libos_ipc.core.mesh import Mesh
from libos_ipc.core.roster import Roster
from libos_ipc.core.vocabulary import Effects, Heard, Journal, Outgoing

SEEDS = 400
CHUNK = 50
#: Seeds within which a broken machine must be found out.
PATIENCE = 400


def trouble(seeds: range) -> str:
    for seed in seeds:
        try:
            Reigns(seed).live()
        except Exception as error:
            return f"seed {seed}: {error!r}"
    return ""


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_members_notice_a_pause_and_nothing_else(start: int) -> None:
    assert not trouble(range(start, start + CHUNK))


def test_a_seed_decides_everything() -> None:
    for seed in (0, 7, 123):
        first, second = Reigns(seed), Reigns(seed)
        first.live()
        second.live()
        assert [log.records for log in first.logs.values()] == [
            log.records for log in second.logs.values()
        ]
        assert first.now == second.now


def test_the_worlds_are_eventful() -> None:
    worlds = [Reigns(seed) for seed in range(150)]
    for world in worlds:
        world.live()
    assert max(len(world.begun) for world in worlds) >= 4, "three deaths in a row"
    assert sum(len(world.begun) - 1 for world in worlds) > 100
    assert sum(world.refused_records for world in worlds) > 5
    assert sum(world.shortened for world in worlds) > 50
    assert sum(len(world.values) for world in worlds) > 5
    assert sum(world.last_grant for world in worlds) > 100
    assert sum(sum(world.come.values()) for world in worlds) > 1000
    lost = [
        world
        for world in worlds
        if any(p.member.standing is Standing.LOST for p in world.processes.values())
    ]
    assert len(lost) > 2
    forked = [p for world in worlds for p in world.processes.values() if p.program.is_child]
    assert len(forked) > 5


WRITTEN = Leading._written


def _tells_first(self: Leading, effects: Effects, cause: Any, told: Any) -> Effects:
    return sorted(
        WRITTEN(self, effects, cause, told), key=lambda effect: isinstance(effect, Journal)
    )


def _forgets_own_words(self: Allegiance) -> None:
    self.own.clear()
    DEPOSE(self)


DEPOSE = Allegiance.depose


def _believes_own_words_written(self: Allegiance, now: float) -> Effects:
    effects = HEAR_OWN(self, now)
    for effect in effects:
        if isinstance(effect, Heard):
            self.on_heard(effect.message)
    return effects


HEAR_OWN = Allegiance.hear_own


def _reconnects_nothing(self: Allegiance, now: float) -> Effects:
    return []


def _keeps_nothing(self: Allegiance) -> None:
    self.standing = Standing.ORPHANED


def _heard_nothing(self: Allegiance, epoch: int, number: int) -> Any:
    return OWED(self, 0, 0)


OWED = Allegiance._owed_again


def _remembers_nothing(self: Answered, vmid: int, seq: int) -> None:
    return None


def _is_believed_at_once(self: Leader, own: int) -> dict[int, Effects]:
    return {}


def _takes_nothing_over(self: Roster, record: Any) -> None:
    if record[0] != "epoch":
        APPLY(self, record)


APPLY = Roster.apply


def _brings_no_answers_back(self: Answered) -> None:
    self._kept.clear()


def _keeps_no_word(self: Allegiance, number: int, message: Outgoing, now: float) -> Effects:
    return []


def _tells_no_leader(self: Mesh, peer: int, most: float = 0) -> list[Outgoing]:
    return []


def _always_heard(self: Allegiance) -> bool:
    return True


def _sends_nothing_again(self: Link, now: float) -> list[Any]:
    return []


def _missed_nothing(self: Leader, src: int, waits: Any) -> Effects:
    self.answered.only(src, waits)
    return []


@pytest.mark.parametrize(
    ("machine", "method", "broken"),
    [
        (Leading, "_written", _tells_first),
        (Allegiance, "depose", _forgets_own_words),
        (Allegiance, "hear_own", _believes_own_words_written),
        (Allegiance, "_reconnect", _reconnects_nothing),
        (Allegiance, "_keep_what_is_owed", _keeps_nothing),
        (Allegiance, "_owed_again", _heard_nothing),
        (Answered, "find", _remembers_nothing),
        (Answered, "forget_numbers", _brings_no_answers_back),
        (Leader, "unheard", _is_believed_at_once),
        (Leader, "on_back", _missed_nothing),
        (Link, "again", _sends_nothing_again),
        (Roster, "apply", _takes_nothing_over),
        (Allegiance, "_keep_word", _keeps_no_word),
        (Mesh, "untold_exits", _tells_no_leader),
    ],
)
def test_a_broken_machine_is_found_out(
    monkeypatch: pytest.MonkeyPatch, machine: type, method: str, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(machine, method, broken)
    assert trouble(range(PATIENCE))
