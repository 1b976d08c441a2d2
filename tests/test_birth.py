"""A forked child is a member at once, and made whole beside its program."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

import pytest
from processes import (
    DEADLINE_S,
    Forked,
    Line,
    Peer,
    come_to_rest,
    kinds_of_descriptors,
    poll,
    poll_kinds,
    steady,
)

import libos_ipc
from libos_ipc import Group
from libos_ipc.runtime import pause

ECHO = 71


def answer(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)


def test_whoever_needs_the_rest_waits_for_it(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child knows who it is before it can say or hear anything, and nobody waits in vain."""
    answer(group)
    may_be_made, let_it_be = os.pipe()
    make = group._node.make

    def late(*args: Any) -> Any:
        assert os.read(may_be_made, 1)
        return make(*args)

    def child(line: Line) -> None:
        line.send((group.vmid, group.pid, group.parent_vmid))
        assert group.request(group.parent_vmid, ECHO, b"here", timeout=DEADLINE_S) == b"here"
        line.recv()

    monkeypatch.setattr(group._node, "make", late)
    try:
        with Forked(child) as forked:
            vmid, pid, parent = forked.recv()
            assert (parent, group.ids.owner(pid)) == (group.vmid, vmid)
            asked: list[bytes] = []
            asking = threading.Thread(
                target=lambda: asked.append(group.request(vmid, ECHO, b"?", timeout=DEADLINE_S))
            )
            asking.start()
            assert not asked
            os.write(let_it_be, b".")
            asking.join(DEADLINE_S)
            assert asked == [b"?"]
            forked.send()
    finally:
        os.close(may_be_made)
        os.close(let_it_be)


def test_a_child_that_cannot_be_made_is_in_no_group(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> Any:
        raise OSError(24, "none left")

    def child(line: Line) -> None:
        logging.disable(logging.CRITICAL)
        assert group.closed
        with pytest.raises(libos_ipc.NotJoined):
            group.request(group.parent_vmid, ECHO, b"")
        poll(lambda: group not in libos_ipc.group._joined)
        line.recv()

    before = steady(kinds_of_descriptors)
    monkeypatch.setattr(group._node, "make", fails)
    with Forked(child) as forked:
        poll(lambda: len(group.members()) == 1, what="it is known to be none")
        forked.send()
    poll_kinds(before)


def test_a_child_may_fork_exec_or_leave_before_it_is_whole(group: Group) -> None:
    def leaves(line: Line) -> None:
        group.close()

    def forks(line: Line) -> None:
        pid = group.fork()
        if not pid:
            os._exit(3 if group.ids.owner(group.pid) == group.vmid else 4)
        assert group.wait(pid, DEADLINE_S).code == 3

    def execs(line: Line) -> None:
        os.execv("/bin/true", ["true"])

    before = steady(kinds_of_descriptors)
    for child in (leaves, forks, execs) * 3:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                child(None)  # type: ignore[arg-type]
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    poll(lambda: len(group.members()) == 1, what="no row is left")
    poll_kinds(before)


WAYS = [False, *([True] if sys.version_info < (3, 12) else [])]


@pytest.mark.config(transport="native")
@pytest.mark.parametrize("stay", WAYS)
def test_threads_stay_where_nobody_counts_them(
    group: Group, monkeypatch: pytest.MonkeyPatch, stay: bool
) -> None:
    """Whoever asks while this process forks is answered, by the same threads or by others."""
    monkeypatch.setattr(pause, "THREADS_MAY_STAY", stay)
    answer(group)

    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    with Peer(group, answer) as peer:
        come_to_rest(group, peer.vmid)
        before = steady(threads)
        for _ in range(10):
            pid = os.fork()
            if not pid:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert group.request(peer.vmid, ECHO, b"still", timeout=DEADLINE_S) == b"still"
        assert (threads() == before) is stay
