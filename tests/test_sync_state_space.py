"""Sync handles in every state that a small world can reach; and proof that a fault is found.

pytest tests/test_sync_state_space.py             the worlds below, in some seconds
python tests/test_sync_state_space.py             the large ones as well, in some minutes
python tests/test_sync_state_space.py NAME …      these ones
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from sync_space import Limits, Space, Violation

from libos_ipc.core import sync_client, sync_server, sync_table
from libos_ipc.core.sync_client import SyncClient
from libos_ipc.core.sync_deposits import Depositor, Taken
from libos_ipc.core.sync_handle import Effects, LocalHandle
from libos_ipc.core.sync_server import SyncServer
from libos_ipc.core.sync_table import Entry, Handle, Row, SyncTable
from libos_ipc.core.sync_words import (
    ConfirmDowngrade,
    ConfirmUpgrade,
    Decision,
    Record,
    Remains,
    RequestClose,
    RequestDowngrade,
    RequestUpgrade,
    State,
    To,
    Wait,
)

#: Name -> what may happen there. Locking, unlocking and writing go on in each of them.
WORLDS = {
    "two that give up": Limits(withdrawals=1),
    "three locks each": Limits(locks=3, writes=2),
    "two threads in one": Limits(threads=(2, 1)),
    "two threads give up": Limits(threads=(2, 1), locks=1, withdrawals=1),
    "watching": Limits(locks=1, watches=2),
    "closing": Limits(locks=1, closes=1, writes=1, kills=1, opens=0),
    "opening again": Limits(locks=1, closes=1, opens=1, writes=0),
    "killed": Limits(kills=1, on_death="raise"),
    "killed, three there": Limits(threads=(1, 1, 1), locks=1, kills=1, on_death="raise"),
    "killed, closing": Limits(threads=(2, 1), locks=1, kills=1, closes=1, on_death="raise"),
    "refused": Limits(writes=0, withdrawals=1, refusing=True),
    "refused inside": Limits(threads=(2, 1), writes=0, refusing=True),
    "another leader": Limits(failovers=1),
    "another leader, two threads": Limits(
        threads=(2, 1), locks=1, failovers=1, kills=1, withdrawals=1
    ),
    "passing": Limits(batons=True),
    "passing, giving up": Limits(locks=1, withdrawals=1, batons=True),
    "passing, two threads in one": Limits(threads=(2, 1), writes=0, batons=True),
    "passing, watching": Limits(locks=1, watches=1, batons=True),
    "passing, closing": Limits(locks=1, closes=1, batons=True),
    "passing, killed": Limits(locks=1, kills=1, on_death="raise", batons=True),
    "passing, declined": Limits(locks=1, withdrawals=1, batons=True, declines=True),
    "passing, another leader": Limits(locks=1, failovers=1, batons=True),
    "another leader, closing": Limits(locks=1, closes=1, failovers=1, on_death="raise", writes=1),
    "taken": Limits(deposits=True),
    "taken, giving up": Limits(locks=1, withdrawals=1, deposits=True),
    "taken, two threads give up": Limits(
        threads=(2, 1), locks=1, writes=0, withdrawals=1, deposits=True
    ),
    "taken, two threads in one": Limits(threads=(2, 1), writes=0, deposits=True),
    "taken, three": Limits(threads=(1, 1, 1), locks=1, deposits=True),
    "taken, watching": Limits(locks=1, watches=1, deposits=True),
    "taken, closing": Limits(locks=1, closes=1, deposits=True),
    "taken, killed": Limits(locks=1, kills=1, withdrawals=1, on_death="raise", deposits=True),
    "taken, passing": Limits(deposits=True, batons=True),
    "taken, another leader": Limits(locks=1, failovers=1, deposits=True),
}

#: Beyond the patience of a normal run.
LARGE = {
    "taken, three locks, giving up": Limits(locks=3, writes=0, withdrawals=1, deposits=True),
    "taken, opening again": Limits(locks=1, closes=1, opens=1, deposits=True),
    "taken, three locks each": Limits(locks=3, writes=2, withdrawals=1, deposits=True),
    "taken, three watching": Limits(threads=(1, 1, 1), locks=1, watches=1, deposits=True),
    "taken, passing, killed": Limits(
        locks=2, kills=1, on_death="raise", deposits=True, batons=True, withdrawals=1
    ),
    "taken, killed, another leader": Limits(
        locks=2, kills=1, failovers=1, on_death="raise", deposits=True
    ),
    "taken, closing, another leader": Limits(
        locks=1, closes=1, failovers=2, watches=1, deposits=True
    ),
    "passing, two locks each, killed": Limits(kills=1, on_death="raise", batons=True),
    "passing, declined, killed": Limits(
        locks=1, kills=1, failovers=1, on_death="raise", batons=True, declines=True, withdrawals=1
    ),
    "passing, three locks each": Limits(locks=3, writes=2, batons=True),
    "passing, three": Limits(threads=(1, 1, 1), locks=1, writes=1, batons=True),
    "passing, opening again": Limits(locks=1, closes=1, opens=1, writes=1, batons=True),
    "passing, killed, another leader": Limits(kills=1, failovers=1, on_death="raise", batons=True),
    "another leader, closing, killed": Limits(
        locks=1, closes=1, kills=1, failovers=1, on_death="raise", writes=1
    ),
    "two threads read and give up": Limits(threads=(2, 1), locks=2, writes=0, withdrawals=1),
    "watching and giving up": Limits(locks=1, watches=2, withdrawals=1),
    "four threads": Limits(threads=(2, 2), locks=2, withdrawals=1),
    "two threads write and give up": Limits(threads=(2, 1), locks=2, writes=2, withdrawals=2),
    "four locks each": Limits(locks=4, writes=2, withdrawals=1),
    "three": Limits(threads=(1, 1, 1), locks=2, writes=1),
    "three watching": Limits(threads=(1, 1, 1), locks=1, watches=1),
    "three killed": Limits(threads=(1, 1, 1), locks=1, kills=2, withdrawals=1, on_death="raise"),
    "three closing": Limits(threads=(1, 1, 1), locks=1, kills=1, closes=1, on_death="raise"),
    "opening twice": Limits(locks=1, closes=2, opens=2),
    "opening, killed": Limits(locks=1, closes=1, opens=1, kills=1),
    "opening, another leader": Limits(locks=1, closes=1, opens=1, kills=1, failovers=1),
    "two other leaders": Limits(locks=2, failovers=2),
    "watching, another leader": Limits(
        locks=1, watches=1, withdrawals=1, kills=1, failovers=1, on_death="raise"
    ),
    "refused, two threads": Limits(threads=(2, 1), withdrawals=1, refusing=True),
    "refused, another leader": Limits(threads=(2, 1), locks=1, refusing=True, failovers=1),
}


def explored(limits: Limits) -> Space:
    space = Space(limits)
    space.explore()
    return space


@pytest.mark.parametrize("name", WORLDS)
def test_in_every_state_all_is_well_and_ends_well(name: str) -> None:
    space = explored(WORLDS[name])
    assert len(space.nodes.things) > 500
    assert space.steps > len(space.nodes.things)


def test_the_same_states_are_found_every_time() -> None:
    first, second = explored(Limits()), explored(Limits())
    assert first.nodes.things == second.nodes.things


# ---- faults, each in one place, and the world in which it is found


def nobody_is_in_the_way(self: Handle, entry: Entry) -> Iterator[tuple[int, Row]]:
    return iter(())


def the_head_may_owe_an_answer(self: SyncServer, done: Decision, handle: Handle) -> None:
    while handle.queue:
        head = handle.queue[0]
        others = list(handle.in_the_way(head))
        for vmid, row in others:
            to = sync_table.IN_THE_WAY[head.state, row.state]
            if not row.silent and (not row.recall or row.recall > to):
                self._record(done, ("recall", vmid, handle.id, int(to)))
                done.messages.append(To(vmid, RequestDowngrade(handle.id, to)))
        if others:
            return
        self._record(done, ("grant", head.vmid, handle.id, head.state))
        done.messages.append(
            To(head.vmid, ConfirmUpgrade(handle.id, head.state, handle.value, False))
        )


def one_confirmation_is_enough(self: SyncTable, vmid: int, id: int, state: int) -> None:
    self._apply_drop(vmid, id, state)
    for row in self.handles[id].rows.values():
        if row.recall:
            row.state, row.recall = row.recall, 0


def the_dead_leave_nothing(self: SyncServer, vmid: int, remains: Any) -> Decision:
    return real_gone(self, vmid, lambda id: Remains(None, True))


def a_death_is_told_twice(self: SyncTable, vmid: int, id: int, state: int) -> None:
    died = self.handles[id].owner_died
    self._apply_grant(vmid, id, state)
    self.handles[id].owner_died = died


def recalls_are_not_journaled(self: SyncServer, done: Decision, record: Record) -> None:
    self.apply(record)
    if record[0] != "recall":
        done.records.append(record)


def nobody_had_the_baton(self: SyncTable, id: int, holder: int, in_use: bool) -> None:
    self._apply_ended(id, holder if not in_use else 0, in_use)


def nobody_was_to_have_it(self: SyncTable, id: int, holder: int, in_use: bool) -> None:
    self._apply_ended(id, holder if in_use else 0, in_use)


def who_declines_has_it(self: LocalHandle, word: ConfirmUpgrade, baton: Any) -> Effects:
    return [each for each in real_baton(self, word, baton) if type(each) is not ConfirmDowngrade]


def what_was_passed_on_is_lost(self: SyncServer, done: Decision, handle: Handle) -> None:
    if handle.baton is not None:
        assert self.batons is not None
        self._record(done, ("ended", handle.id, *self.batons.end(handle.baton)[:2]))


def a_takeover_keeps_the_queue(self: SyncTable) -> None:
    for handle in self.handles.values():
        for row in handle.rows.values():
            row.recall, row.silent = 0, True


def a_close_drops_the_value(
    self: SyncServer, done: Decision, src: int, handle: Handle, row: Row, word: RequestClose
) -> None:
    self._request_close(done, src, handle, row, word._replace(value=None))


def complies_while_in_use(self: LocalHandle) -> Effects:
    if self.recall:
        self.user = self.using = 0
    return real_settle(self)


def confirms_without_the_value(self: LocalHandle) -> ConfirmDowngrade:
    return real_comply(self)._replace(value=None)


def forgets_a_recall_in_use(self: LocalHandle, word: RequestDowngrade) -> Effects:
    return [] if self.using > word.state else self.on_downgrade(word)


def takes_only_what_it_asks(self: LocalHandle, word: ConfirmUpgrade) -> Effects:
    return [] if self.asked is None else self.on_upgrade(word)


def wants_back_what_it_gave(self: LocalHandle, word: RequestDowngrade) -> Effects:
    before = self.state
    effects = self.on_downgrade(word)
    if self.state < before and self.asked is None:
        effects.append(RequestUpgrade(self.id, before, 0, 0, True))
    return effects


def tells_of_no_death(self: LocalHandle, wait: Wait) -> Effects:
    self.owner_died = False
    return real_serve(self, wait)


def resumes_without_the_value(self: LocalHandle) -> Effects:
    self.own = False
    return real_resume(self)


def takes_nothing_back(self: Depositor) -> None:
    pass


def puts_what_is_watched(self: Depositor) -> None:
    if self.deposit is not None and self.state > State.INVALID and not self.user:
        self.deposit.put(self.state, self.number, None)


def takes_without_the_value(self: SyncServer, *args: Any) -> bool:
    assert self.deposits is not None
    lower = self.deposits.lower
    self.deposits.lower = lambda *given: (left := lower(*given)) and Taken(None, left.over)  # type: ignore[method-assign]
    try:
        return real_taken(self, *args)
    finally:
        del self.deposits.lower  # type: ignore[method-assign]


def takes_what_is_over_for_news(self: SyncTable, vmid: int, id: int, state: int, over: int) -> None:
    self._apply_drop(vmid, id, state)


def takes_and_says_nothing(self: SyncServer, done: Decision, *args: Any) -> bool:
    return real_taken(self, Decision([], [], []), *args)


def opens_what_is_closing(self: SyncClient, id: int) -> bool:
    self._closing.pop(id, None)
    return real_opened(self, id)


real_gone = SyncServer.on_gone
real_baton = LocalHandle.on_baton
real_settle, real_comply = LocalHandle._settle, LocalHandle._comply
real_serve, real_resume = LocalHandle._serve, LocalHandle.resume
real_opened, real_taken = SyncClient.opened, SyncServer._taken

TABLE, SERVER, CLIENT = sync_table._APPLY, sync_server._ON_MESSAGE, sync_client._ON_MESSAGE

#: What is replaced (in a class, or in a table of functions), by what, and where it is found.
FAULTS: list[tuple[Any, Any, Callable[..., Any], str, str]] = [
    (Handle, "in_the_way", nobody_is_in_the_way, "three locks each", "check"),
    (SyncServer, "_advance", the_head_may_owe_an_answer, "two that give up", "beside another"),
    (TABLE, "drop", one_confirmation_is_enough, "killed, three there", "EXCLUSIVE beside"),
    (SyncServer, "on_gone", the_dead_leave_nothing, "killed", "committed"),
    (TABLE, "grant", a_death_is_told_twice, "killed, three there", "told before"),
    (SyncServer, "_record", recalls_are_not_journaled, "three locks each", "journal"),
    (TABLE, "ended", nobody_had_the_baton, "passing", "beside another"),
    (TABLE, "ended", nobody_was_to_have_it, "passing", "beside another"),
    (LocalHandle, "on_baton", who_declines_has_it, "passing, declined", "for ever"),
    (SyncServer, "_end_baton", what_was_passed_on_is_lost, "passing", "committed"),
    (TABLE, "takeover", a_takeover_keeps_the_queue, "another leader", "beside another"),
    (SERVER, RequestClose, a_close_drops_the_value, "closing", "committed"),
    (LocalHandle, "_settle", complies_while_in_use, "three locks each", "granted was"),
    (LocalHandle, "_comply", confirms_without_the_value, "three locks each", "committed"),
    (CLIENT, RequestDowngrade, forgets_a_recall_in_use, "three locks each", "waits for ever"),
    (CLIENT, ConfirmUpgrade, takes_only_what_it_asks, "two that give up", "ignored"),
    (CLIENT, RequestDowngrade, wants_back_what_it_gave, "closing", "without end"),
    (LocalHandle, "_serve", tells_of_no_death, "killed", "nobody knows"),
    (LocalHandle, "resume", resumes_without_the_value, "another leader", "committed"),
    (LocalHandle, "take_back", takes_nothing_back, "taken", "committed was"),
    (LocalHandle, "put", puts_what_is_watched, "taken, watching", "waits for ever"),
    (SyncServer, "_taken", takes_without_the_value, "taken", "committed"),
    (SyncServer, "_taken", takes_and_says_nothing, "taken", "journal"),
    (SyncClient, "opened", opens_what_is_closing, "opening again", "ignored"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2].__name__)
def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch, fault: tuple[Any, ...]) -> None:
    where, name, replacement, world, found = fault
    if isinstance(where, dict):
        monkeypatch.setitem(where, name, replacement)
    else:
        monkeypatch.setattr(where, name, replacement)
    with pytest.raises(Violation, match=found):
        explored(WORLDS[world])


SHARED, EXCLUSIVE = State.SHARED, State.EXCLUSIVE

#: One is granted what it gave up, uses that for the next one, has it taken, and asks for less.
TAKEN_BEFORE_IT_IS_HEARD = [
    *(("lock", 0, 1, SHARED), ("withdraw", 0, 1), ("lock", 0, 1, EXCLUSIVE)),
    *(("lock", 1, 1, EXCLUSIVE), ("arrive_up", 1), ("withdraw", 1, 1), ("arrive_up", 1)),
    *(("lock", 1, 1, EXCLUSIVE), ("arrive_down", 1), ("unlock", 1, 1), ("put", 1)),
    *(("arrive_up", 0), ("arrive_up", 0), ("lock", 1, 1, SHARED), ("arrive_up", 0)),
    *(("arrive_up", 1), ("arrive_down", 1), ("arrive_up", 1)),
]


@pytest.mark.parametrize("is_heard", [False, True])
def test_what_is_over_when_something_is_taken_is_no_news(
    monkeypatch: pytest.MonkeyPatch, is_heard: bool
) -> None:
    """Where it is, somebody is told of a deadlock that is none: too far off for those worlds."""
    if is_heard:
        monkeypatch.setitem(TABLE, "taken", takes_what_is_over_for_news)
    with pytest.raises(Violation, match="deadlock") if is_heard else nullcontext():
        Space(LARGE["taken, three locks, giving up"]).walk(TAKEN_BEFORE_IT_IS_HEARD)


def main(names: list[str]) -> None:
    """Explore worlds one after the other, and say how large they are."""
    worlds = {**WORLDS, **LARGE}
    for name in names or worlds:
        begun = time.monotonic()
        space = explored(worlds[name])
        took = time.monotonic() - begun
        print(
            f"{len(space.nodes.things):9} states, {space.steps:9} steps, "
            f"{len(space.clients.pickled):4} clients, {len(space.servers.pickled):5} servers, "
            f"{space.deepest:3} to rest, {took:6.1f} s  {name}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
