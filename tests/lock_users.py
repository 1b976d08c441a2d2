"""What the tests of file locks ask of a group: what is held, what waits; and a cycle to close."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from processes import Forked, Line, poll

from libos_ipc import Group
from libos_ipc.locks import LockInfo


def rows(group: Group) -> list[LockInfo]:
    """What is held or waited for."""
    return [row for row in group.locks.table() if row.type != "none"]


def waiting(group: Group) -> list[LockInfo]:
    return [row for row in rows(group) if row.waiting]


def held(group: Group) -> list[LockInfo]:
    return [row for row in rows(group) if not row.waiting]


def until_waiting(group: Group, count: int = 1) -> list[LockInfo]:
    poll(lambda: len(waiting(group)) == count, what=f"{count} that wait")
    return waiting(group)


def until_quick(lock_and_unlock: Callable[[], None], long_ways: list[int]) -> None:
    """Until that needs no Python; `long_ways` is the fixture."""

    def is_quick() -> bool:
        del long_ways[:]
        lock_and_unlock()
        return not long_ways

    poll(is_quick, what="locked without Python")


#: Those who listen: the event, and what they have heard.
_ears: list[tuple[str, list[tuple[object, ...]]]] = []


@functools.cache
def _listen() -> None:
    """An audit hook stays for good: one for all tests."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        for wanted, heard in _ears:
            if event == wanted:
                heard.append(arguments)

    sys.addaudithook(hook)


@contextmanager
def audited(event: str) -> Iterator[list[tuple[object, ...]]]:
    """The arguments of each of these audit events, while this lasts."""
    _listen()
    heard: list[tuple[object, ...]] = []
    _ears.append((event, heard))
    try:
        yield heard
    finally:
        _ears.remove((event, heard))


@contextmanager
def cycle_of_three(
    group: Group, member: Callable[[int], Callable[[Line], None]], paths: Sequence[Path]
) -> Iterator[list[Forked]]:
    """Three members, each of which wants what the next one has. When this yields, the last has
    closed the cycle, been told of all these files, and the other two still wait."""
    with ExitStack() as stack:
        members = [stack.enter_context(Forked(member(number))) for number in range(3)]
        for one in members:
            one.recv()
        for count, one in enumerate(members[:2]):
            one.send()
            until_waiting(group, count + 1)
        members[2].send()
        said = members[2].recv()
        for path in paths:
            assert str(path) in said
        assert len(waiting(group)) == 2
        yield members
