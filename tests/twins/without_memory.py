"""A program: lets each allocation of a table or ledger fail in turn, and looks for what is lost.

It is run in a process of its own, since the allocator that fails serves every thread.
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import tracemalloc
from collections.abc import Callable

from libos_ipc._native import Ledger, Outstanding

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


def full_ledger() -> Ledger:
    """A ledger whose ring is full to the brim, and whose numbers are no small ints."""
    ledger = Ledger()
    for _ in range(USED_BEFORE):
        ledger.receive(0, ledger.stamp("before", 1, 0), 0, 0)  # type: ignore[arg-type]
    for ticket in TICKETS:
        ledger.stamp(ticket, 1, 0)  # type: ignore[arg-type]
    return ledger


def try_each_of_ledger(call: Callable[[Ledger], object]) -> int:
    """Fail each allocation of `call` once; how many it needs."""
    failures = 0
    for nth in range(30):
        ledger = full_ledger()
        if out_of_memory(nth, lambda ledger=ledger: call(ledger)):  # type: ignore[misc]
            failures += 1
            assert (ledger.sent_bytes, ledger.probe_at) == (ledger.sent, 0.25)
            assert ledger.kept == list(enumerate(TICKETS, USED_BEFORE + 1))
            assert ledger.stamp("more", 1, 0) == USED_BEFORE + len(TICKETS) + 1  # type: ignore[arg-type]
    return failures


assert try_each(lambda table: table.add(8, "to 8")) >= 5
assert try_each(lambda table: table.fail_peer(5)) >= 1
assert try_each(lambda table: table.drain()) >= 1
for nth in range(8):
    assert kept_bytes(nth) < 16, (nth, kept_bytes(nth))
assert try_each_of_ledger(lambda ledger: ledger.stamp("more", 1, 9.0)) == 2  # type: ignore[arg-type]
assert try_each_of_ledger(lambda ledger: ledger.kept) >= 2
