"""The succession from end to end: every order of events, deaths and stops in a bounded world.

Three processes, each with its machine and the deeds that it has still to do. Between any two atomic
steps any process may die or be stopped; a leader may commit a grant, and does not see that it was
deposed before that commit is refused. In every state that can be reached:

- at most one journal is begun and not sealed, and each was begun once;
- what was ever committed is in the last journal that was begun;
- epochs rise.

And where nothing more can happen, all that run follow one of them; or those that could lead are
stopped, and the others wait for them; or all know that nobody can lead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from libos_ipc.core.succession import Succession
from libos_ipc.core.succession_words import (
    Announce,
    Begun,
    Bid,
    Damaged,
    Evidence,
    FindHolder,
    GiveUp,
    Gone,
    Inherit,
    Inherited,
    LetGo,
    NoHeir,
    Rejoin,
    Role,
    Sealed,
    Stalled,
    StepDown,
    Taken,
    Watch,
    Won,
)

#: States of the largest world; more would mean that the epochs run away.
STATES_AT_MOST = 400_000


class Seal(NamedTuple):
    """A part of Inherit: seal one journal, then the next, then read and begin."""

    epoch: int
    at: int
    since: int


class Journal(NamedTuple):
    """What lies in the directory for one epoch. `leader` is 0 as long as it is not begun."""

    leader: int = 0
    sealed: bool = False
    grants: frozenset[int] = frozenset()


class Process(NamedTuple):
    """One process: the machine's fields, and what it has to do."""

    alive: bool
    stopped: bool
    machine: tuple[object, ...]
    deeds: tuple[object, ...]


class World(NamedTuple):
    """A state: processes by pid - 1, journals by epoch - 1, who has which lock, what is left."""

    processes: tuple[Process, ...]
    journals: tuple[Journal, ...]
    locks: tuple[tuple[int, int], ...]
    deaths: int
    stops: int
    grants: int
    damaged: bool


FIELDS = Succession.__slots__


def packed(machine: Succession) -> tuple[object, ...]:
    return tuple(getattr(machine, name) for name in FIELDS)


def unpacked(fields: tuple[object, ...]) -> Succession:
    machine = copy.copy(BLANK)
    for name, value in zip(FIELDS, fields, strict=True):
        setattr(machine, name, value)
    return machine


BLANK = Succession(1, epoch=1, leader=1)


def founded(
    count: int, deaths: int, stops: int, grants: int, may_lead: tuple[int, ...], damaged: bool
) -> World:
    machines = [
        Succession(pid, epoch=1, leader=1, may_lead=pid in may_lead) for pid in range(1, count + 1)
    ]
    return World(
        tuple(Process(True, False, packed(each), ()) for each in machines),
        (Journal(1),),
        ((1, 1),),
        deaths,
        stops,
        grants,
        damaged,
    )


def journal(world: World, epoch: int) -> Journal:
    return world.journals[epoch - 1] if epoch <= len(world.journals) else Journal()


def with_journal(world: World, epoch: int, entry: Journal) -> World:
    journals = list(world.journals)
    journals += [Journal()] * (epoch - len(journals))
    journals[epoch - 1] = entry
    return world._replace(journals=tuple(journals))


def with_process(world: World, pid: int, process: Process) -> World:
    processes = list(world.processes)
    processes[pid - 1] = process
    return world._replace(processes=tuple(processes))


def holder(world: World, epoch: int) -> int:
    return dict(world.locks).get(epoch, 0)


def without_locks(world: World, pid: int, epoch: int | None = None) -> World:
    locks = tuple(
        lock for lock in world.locks if lock[1] != pid or (epoch is not None and lock[0] != epoch)
    )
    return world._replace(locks=locks)


def tell(world: World, pid: int, evidence: Evidence) -> World:
    process = world.processes[pid - 1]
    machine = unpacked(process.machine)
    before = machine.epoch
    deeds = machine.on(evidence)
    assert machine.epoch >= before
    told = process._replace(machine=packed(machine), deeds=(*process.deeds, *deeds))
    return with_process(world, pid, told)


def do(world: World, pid: int) -> World:
    """The first of the deeds of a process, or one atomic part of it."""
    process = world.processes[pid - 1]
    deed, *rest = process.deeds
    world = with_process(world, pid, process._replace(deeds=tuple(rest)))
    match deed:
        case Bid(epoch):
            other = holder(world, epoch)
            if other not in (0, pid):
                return tell(world, pid, Taken(epoch, other))
            locks = tuple(sorted({*world.locks, (epoch, pid)}))
            return tell(world._replace(locks=locks), pid, Won(epoch))
        case Inherit(epoch, since):
            part: object = Seal(epoch, since, since)
            mine = world.processes[pid - 1]
            return with_process(world, pid, mine._replace(deeds=(part, *mine.deeds)))
        case Seal(epoch, at, since):
            return inherit(world, pid, epoch, at, since)
        case LetGo(epoch):
            return without_locks(world, pid, epoch)
        case Watch() | FindHolder() | Announce() | StepDown() | Rejoin() | GiveUp():
            return world
    raise AssertionError(deed)


def inherit(world: World, pid: int, epoch: int, at: int, since: int) -> World:
    if at < epoch:
        world = with_journal(world, at, journal(world, at)._replace(sealed=True))
        mine = world.processes[pid - 1]
        deeds = (Seal(epoch, at + 1, since), *mine.deeds)
        return with_process(world, pid, mine._replace(deeds=deeds))
    if world.damaged:
        return tell(world, pid, Damaged(epoch))
    last = max(e for e in range(since, epoch) if journal(world, e).leader)
    mine_now = journal(world, epoch)
    if mine_now.sealed or mine_now.leader:  # by one that has died, and given the lock back
        return tell(world, pid, Sealed(epoch))
    world = with_journal(world, epoch, Journal(pid, False, journal(world, last).grants))
    return tell(world, pid, Inherited(epoch))


def last_begun(world: World) -> int:
    return max(e for e in range(1, len(world.journals) + 1) if journal(world, e).leader)


def evidence(world: World, pid: int) -> Iterator[Evidence]:
    """What this process may find out next."""
    machine = unpacked(world.processes[pid - 1].machine)
    epoch = last_begun(world)
    if epoch > machine.epoch:
        yield Begun(epoch, journal(world, epoch).leader)
    if machine.watched:
        watched = world.processes[machine.watched - 1]
        if not watched.alive:
            yield Gone(machine.watched)
        elif watched.stopped:
            yield Stalled(machine.watched)
    if machine.role in (Role.AWAITING, Role.WATCHING):
        who = holder(world, machine.target)
        if who != machine.watched:
            yield Taken(machine.target, who)
        if machine.role is Role.WATCHING and not who and not heirs(world):
            yield NoHeir(machine.target)


def heirs(world: World) -> list[int]:
    found = [
        (pid, unpacked(process.machine))
        for pid, process in enumerate(world.processes, 1)
        if process.alive
    ]
    return [pid for pid, machine in found if machine.may_lead and machine.role is not Role.LOST]


def granted(world: World, pid: int) -> World | None:
    """A leader that believes it is one commits a grant; None if this one is none."""
    machine = unpacked(world.processes[pid - 1].machine)
    if machine.role is not Role.LEADING:
        return None
    entry = journal(world, machine.epoch)
    if entry.sealed:
        return tell(world, pid, Sealed(machine.epoch))
    if not world.grants:
        return None
    more = entry._replace(grants=entry.grants | {world.grants})
    return with_journal(world, machine.epoch, more)._replace(grants=world.grants - 1)


def ordinary(world: World) -> Iterator[World]:
    """What happens without a fault."""
    for pid, process in enumerate(world.processes, 1):
        if not process.alive or process.stopped:
            continue
        if process.deeds:
            yield do(world, pid)
            continue  # one thread does them in their order, and looks around when they are done
        for found in evidence(world, pid):
            yield tell(world, pid, found)
        after = granted(world, pid)
        if after is not None:
            yield after


def faults(world: World) -> Iterator[World]:
    for pid, process in enumerate(world.processes, 1):
        if process.alive and world.deaths:
            dead = with_process(world, pid, process._replace(alive=False, deeds=()))
            yield without_locks(dead, pid)._replace(deaths=world.deaths - 1)
        if process.alive and process.stopped:
            yield with_process(world, pid, process._replace(stopped=False))
        elif process.alive and world.stops:
            stopped = with_process(world, pid, process._replace(stopped=True))
            yield stopped._replace(stops=world.stops - 1)


def check(world: World, committed: frozenset[int]) -> None:
    entries = world.journals
    assert sum(bool(each.leader) and not each.sealed for each in entries) <= 1
    assert committed <= journal(world, last_begun(world)).grants
    for pid, process in enumerate(world.processes, 1):
        machine = unpacked(process.machine)
        if machine.role is Role.LEADING:
            assert journal(world, machine.epoch).leader == pid


def check_rest(world: World) -> None:
    """Nothing is left to happen, but faults."""
    running = {
        pid: unpacked(process.machine)
        for pid, process in enumerate(world.processes, 1)
        if process.alive and not process.stopped
    }
    epoch = last_begun(world)
    leader = journal(world, epoch).leader
    able = any(each.may_lead and each.role is not Role.LOST for each in running.values())
    for pid, machine in running.items():
        if machine.role is Role.LOST:
            assert world.damaged or not heirs(world), world
        elif able:
            assert machine.role is (Role.LEADING if pid == leader else Role.FOLLOWING), world
            assert machine.epoch == epoch, world
            assert leader in running, world
        else:
            assert heirs(world), f"{pid} waits for nobody: {world}"


def explore(first: World) -> int:
    seen = {first}
    todo = [first]
    while todo:
        world = todo.pop()
        assert len(seen) < STATES_AT_MOST
        committed = frozenset().union(*(each.grants for each in world.journals))
        check(world, committed)
        following = [after for after in ordinary(world) if after != world]
        if not following:
            check_rest(world)
        for after in (*following, *faults(world)):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return len(seen)


@pytest.mark.parametrize(
    ("count", "deaths", "stops", "grants", "may_lead", "damaged"),
    [
        (3, 1, 0, 2, (1, 2, 3), False),
        (3, 2, 0, 1, (1, 2, 3), False),
        (4, 3, 0, 0, (1, 2, 3, 4), False),
        (3, 0, 1, 2, (1, 2, 3), False),
        (3, 0, 2, 1, (1, 2, 3), False),
        (3, 1, 1, 1, (1, 2, 3), False),
        (3, 2, 0, 1, (1, 2), False),
        (3, 1, 1, 1, (1, 2), False),
        (3, 1, 1, 0, (1,), False),
        (3, 1, 1, 0, (1, 2, 3), True),
    ],
)
def test_every_order_of_events(
    count: int, deaths: int, stops: int, grants: int, may_lead: tuple[int, ...], damaged: bool
) -> None:
    assert explore(founded(count, deaths, stops, grants, may_lead, damaged)) > 50
