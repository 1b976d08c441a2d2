"""A signal handler that raises in the parent's hook, since another thread has taken the signal.

Whatever the thread that forks has blocked, Python runs the handler there, and prints what that
raises.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from processes import DEADLINE_S, Peer

from libos_ipc import Group
from libos_ipc.runtime.clock import Clock
from libos_ipc.runtime.fork import ForkHooks
from libos_ipc.runtime.forking import Forking
from libos_ipc.runtime.pause import Pause


class Raised(Exception):
    """By the handler."""


@pytest.fixture
def other() -> Iterator[int]:
    """A thread of the program's that takes signals."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.ident is not None
    yield thread.ident
    over.set()
    thread.join(DEADLINE_S)


@pytest.fixture
def raising() -> Iterator[list[int]]:
    """How often SIGUSR1 was handled, by a raise."""
    handled: list[int] = []

    def handle(sig: int, frame: object) -> None:
        handled.append(sig)
        raise Raised

    before = signal.signal(signal.SIGUSR1, handle)
    yield handled
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ForkHooks, "_calls_of_parent"),
        (ForkHooks, "_find_child"),
        (ForkHooks, "_take_signals"),
        (Forking, "forked_parent"),
        (Forking, "_hold_child"),
        (Pause, "end"),
        (Clock, "later"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_parent_goes_on(
    group: Group,
    other: int,
    raising: list[int],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
) -> None:
    real = getattr(owner, name)
    here = os.getpid(), threading.get_ident()

    def struck(self: Any, *args: Any) -> Any:
        if (os.getpid(), threading.get_ident()) == here and not raising:
            signal.pthread_kill(other, signal.SIGUSR1)
            while not raising:  # and no further
                pass
        return real(self, *args)

    group.ids.new()
    with Peer(group):
        monkeypatch.setattr(owner, name, struck)
        os_pid = os.fork()
        if not os_pid:
            os._exit(0)
        os.waitpid(os_pid, 0)
        assert raising == [signal.SIGUSR1]
        assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert len(in_time(group.members)) >= 2
        with Peer(group) as peer:
            assert peer.vmid in [member.vmid for member in group.members()]


def in_time(call: Any) -> Any:
    """What it gives, in another thread: nobody may hold a lock for ever."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return found[0]
