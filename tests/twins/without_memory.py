"""A program: lets each allocation of `Outstanding` fail in turn, and looks for what is lost.

It is run in a process of its own, since the allocator that fails serves every thread.
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import tracemalloc
from collections.abc import Callable

from libos_ipc._native import Outstanding

TICKETS = [f"to {peer}" for peer in range(8)]
USED_BEFORE = 300
ROUNDS = 50


def out_of_memory(nth: int, call: Callable[[], object]) -> bool:
    """Whether `call` needs its nth allocation, which fails."""
    try:
        _testcapi.set_nomemory(nth, nth + 1)
        try:
            call()
        finally:
            _testcapi.remove_mem_hooks()
    except MemoryError:
        return True
    return False


def filled() -> Outstanding:
    """A table whose indices are full to the brim, and whose numbers are no small ints."""
    table = Outstanding()
    for _ in range(USED_BEFORE):
        table.discard(table.add(1, None))
    for peer, ticket in enumerate(TICKETS):
        table.add(peer, ticket)
    return table


def check(table: Outstanding, tickets: list[str]) -> None:
    """The table holds exactly these tickets, each asked of the peer of its place, and works."""
    assert (table.last, len(table)) == (USED_BEFORE + len(tickets), len(tickets))
    for place in range(len(tickets)):
        assert table.peer_of(USED_BEFORE + 1 + place) == place
    assert table.add(3, "more") == USED_BEFORE + len(tickets) + 1
    assert table.fail_peer(3) == ["to 3", "more"]
    assert table.drain() == [ticket for ticket in tickets if ticket != "to 3"]


def try_each(call: Callable[[Outstanding], object]) -> int:
    """Fail each allocation of `call` once; how many it needs."""
    failures = 0
    for nth in range(12):
        table = filled()
        if out_of_memory(nth, lambda table=table: call(table)):  # type: ignore[misc]
            failures += 1
            check(table, TICKETS)
    return failures


def kept_bytes(nth: int) -> float:
    """What one failing `add` leaves behind after its table is gone."""

    def round_of() -> None:
        table = filled()
        out_of_memory(nth, lambda: table.add(8, "to 8"))

    round_of()
    tracemalloc.start()
    round_of()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(ROUNDS):
        round_of()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return kept / ROUNDS


assert try_each(lambda table: table.add(8, "to 8")) >= 5
assert try_each(lambda table: table.fail_peer(5)) >= 1
assert try_each(lambda table: table.drain()) >= 1
for nth in range(8):
    assert kept_bytes(nth) < 16, (nth, kept_bytes(nth))
