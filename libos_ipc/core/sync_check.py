"""What must hold of a handle in one process, between any two steps of its machine."""

from __future__ import annotations

from libos_ipc.core.sync_handle import LocalHandle
from libos_ipc.core.sync_words import State

__all__ = ["check_handle"]

INVALID, EXCLUSIVE = State.INVALID, State.EXCLUSIVE


def check_handle(handle: LocalHandle) -> None:
    """Assert the invariants. O(n) in those who wait."""
    asked, waits = handle.asked, list(handle.waits or ())
    assert handle.opened >= 1
    if handle.baton is not None:
        assert (handle.state == EXCLUSIVE) == bool(handle.user)
        assert asked is None
        assert not waits
        assert not handle.watches
        assert not handle.recall
        assert not handle.own
    assert bool(handle.user) == (handle.using > INVALID)
    assert handle.using <= handle.state
    assert not handle.recall or handle.recall < handle.using == handle.state
    if handle.user:
        assert asked is None
    elif waits:
        assert asked is not None
        assert asked == waits[0]
        assert asked.state > handle.state
    else:
        assert (asked is not None) == bool(handle.watches and handle.state == INVALID)
        assert asked is None or not asked.thread
    numbers = [wait.number for wait in waits]
    assert numbers == sorted(set(numbers))
    assert all(number <= handle.number for number in numbers)
    assert handle.told_waits == sum(wait.told and wait != asked for wait in waits)
    assert handle.told_user in (0, handle.user)
    assert handle.told_user == handle.user or not (handle.recall or handle.told_waits)
    assert all(known >= handle.value.version for known in (handle.watches or {}).values())
