"""What `test_native_leaks` does with LocalIds: every method, well and badly used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from libos_ipc._native import LocalIds, Lock

__all__ = ["CASES"]

NOW = 1e9 + 0.25
FIRST = 2**31 + 1  # no small int, which is never freed
LOCK = Lock()


def refused(call: Callable[..., object], *args: Any) -> None:
    with contextlib.suppress(ValueError, TypeError, OverflowError, AssertionError):
        call(*args)
        raise RuntimeError("accepted")


def stocked() -> LocalIds:
    ids = LocalIds(quarantine_s=0.0)
    for start in (FIRST, FIRST + 10, FIRST + 20):
        ids.grant(start, start + 3)
    return ids


def used() -> LocalIds:
    ids = stocked()
    for _ in range(6):
        ids.new(NOW)
    return ids


def case() -> None:
    used()
    refused(LocalIds)
    refused(LocalIds, NOW)
    refused(lambda: LocalIds(quarantine_s=NOW, reserve=-1))


def case_new() -> None:
    ids = stocked()
    for _ in range(15):
        ids.new(NOW)
    refused(ids.new, None)


def case_release() -> None:
    ids = used()
    for offset in (0, 1, 2, 3, 10):
        ids.release(FIRST + offset, NOW)
    for _ in range(4):
        ids.new(NOW)
    ids.release(FIRST - 1, NOW)
    ids.release(-1, NOW)
    refused(stocked().release, FIRST, NOW)
    refused(ids.release, None, NOW)
    refused(ids.release, FIRST)


def case_surplus() -> None:
    stocked().surplus()
    ids = used()
    ids.batch = 9
    for offset in (0, 1, 2, 3):
        ids.release(FIRST + offset, NOW)
    ids.surplus()


def case_owns() -> None:
    ids = used()
    ids.owns(FIRST)
    ids.owns(-FIRST)
    refused(ids.owns, None)


def case_in_use() -> None:
    ids = used()
    ids.in_use(FIRST)
    refused(ids.in_use, "1")


def case_grant() -> None:
    ids = stocked()
    refused(ids.grant, FIRST, FIRST)
    refused(ids.grant, None, FIRST)
    refused(ids.grant, FIRST)


def case_low() -> None:
    stocked().low()


def case_ranges() -> None:
    stocked().ranges()


def case_drain() -> None:
    ids = used()
    ids.drain()
    ids.grant(FIRST, FIRST)


def case_moved_away() -> None:
    ids = used()
    ids.release(FIRST, NOW)
    for offset in (1, 0, 12, 11, 21, 99):
        ids.moved_away(FIRST + offset)
    refused(ids.moved_away, None)


def case_check() -> None:
    used().check()


def case_offer() -> None:
    ids = used()
    ids.offer(LOCK, FIRST)
    ids.offer(LOCK, FIRST)
    refused(ids.offer, None, FIRST)
    refused(ids.offer, LOCK, None)


def case_withdraw() -> None:
    ids = used()
    ids.offer(LOCK, FIRST)
    ids.withdraw()
    ids.withdraw()


def case_take() -> None:
    ids = stocked()
    ids.offer(LOCK, FIRST)
    ids.asked = True
    for _ in range(15):
        ids.take()


def case_put() -> None:
    ids = used()
    ids.offer(LOCK, FIRST)
    for id in (FIRST, FIRST + 1, FIRST + 1, None, -1, 2**70):
        ids.put(id)


def case_batch() -> None:
    ids = stocked()
    ids.batch = 200
    refused(setattr, ids, "batch", FIRST)
    refused(setattr, ids, "batch", None)
    refused(delattr, ids, "batch")


def case_asked() -> None:
    ids = stocked()
    ids.asked = True
    refused(setattr, ids, "asked", FIRST)


CASES: dict[str, Callable[[], None]] = {
    name.replace("case", "localids", 1): value
    for name, value in list(globals().items())
    if name.startswith("case")
}
