"""A forked child is a member at once, and made whole beside its program."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import (
    DEADLINE_S,
    Forked,
    Line,
    kinds_of_descriptors,
    leaders,
    poll,
    poll_kinds,
    steady,
    wait_until_idle,
)

import libos_ipc
from libos_ipc import Group
from libos_ipc.runtime.lanes import Lanes
from libos_ipc.runtime.session import Session
from libos_ipc.runtime.threads import Gate

ECHO = 71


@pytest.fixture
def let_be(group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Children are no more than their program found them until this is called, by anybody."""
    may_be, letting = os.pipe()
    abandon = Session.abandon

    def late(session: Session) -> None:
        assert os.read(may_be, 1)
        abandon(session)

    monkeypatch.setattr(Session, "abandon", late)
    try:
        yield lambda: void(os.write(letting, b"."))
    finally:
        os.close(may_be)
        os.close(letting)


def void(anything: object) -> None:
    """Nothing of it matters."""


def in_background(function: Callable[[], Any]) -> Callable[[], Any]:
    """Call it in a thread; what it gives is waited for where that is called."""
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(function()))
    thread.start()

    def result() -> Any:
        thread.join(DEADLINE_S)
        return given[0]

    return result


def echo(group: Group, vmid: int) -> object:
    return group.request(vmid, ECHO, b"?", timeout=DEADLINE_S)


def test_whoever_needs_the_rest_waits_for_it(group: Group, let_be: Callable[[], None]) -> None:
    """A child knows who it is before it can say or hear anything; several of its threads wait, and
    so do others who ask it or signal it, and nobody does in vain."""
    group.on(ECHO)(lambda message: message.payload)
    caught: list[int] = []
    before = group.signal(signal.SIGUSR1, lambda number, info: caught.append(info.sender))

    def child(line: Line) -> None:
        line.send((group.vmid, group.pid, group.parent_vmid))
        asked = [in_background(lambda: echo(group, group.parent_vmid)) for _ in range(3)]
        assert echo(group, group.parent_vmid) == b"?"
        assert [result() for result in asked] == [b"?"] * 3
        poll(lambda: len(caught) == 1)
        line.send(caught)
        line.pause()

    with Forked(child) as forked:
        vmid, pid, parent = forked.recv()
        assert (parent, group.ids.owner(pid)) == (group.vmid, vmid)
        told = [
            in_background(lambda: echo(group, vmid)),
            in_background(lambda: group.getmeta(pid, "counters", timeout=DEADLINE_S)),
        ]
        group.kill(pid, signal.SIGUSR1)
        assert not forked.has_said
        let_be()
        assert told[0]() == b"?"
        assert told[1]().peers >= 1
        assert forked.recv() == [group.pid]
    group.signal(signal.SIGUSR1, before)


def test_what_the_parent_may_do_by_itself_its_child_may_not(
    group: Group, let_be: Callable[[], None], tmp_path: Path
) -> None:
    """Locking in memory that it shares with the leader, and handing out IDs of its range."""
    path = tmp_path / "file"
    path.touch()
    lock = group.file_lock(path)
    for _ in range(32):
        with lock:
            group.ids.release(group.ids.new())

    def child(line: Line) -> None:
        with lock:
            line.send((group.pid, group.ids.new()))
            line.pause()

    with Forked(child) as forked:
        wait_until_idle(forked.os_pid)
        assert not forked.has_said
        assert [row.type for row in group.locks.table()] == ["none"]  # given to us, and not locked
        mine = group.ids.new()
        let_be()
        pid, new = forked.recv()
        (held,) = group.locks.table()
        assert (held.pid, new == mine) == (pid, False)
    group.ids.release(mine)


def test_a_signal_handler_waits_as_well(group: Group, let_be: Callable[[], None]) -> None:
    """One that interrupts the program, and one that interrupts its waiting."""
    group.on(ECHO)(lambda message: message.payload)
    answers: list[object] = []

    def child(line: Line) -> None:
        def handler(number: int, frame: object) -> None:
            answers.append(number)
            if number == signal.SIGUSR1:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
            else:
                let_be()
            answers.append(echo(group, group.parent_vmid))

        for number in (signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, handler)
        signal.raise_signal(signal.SIGUSR1)
        assert answers == [signal.SIGUSR1, signal.SIGALRM, b"?", b"?"]

    with Forked(child) as forked:
        forked.result()


def test_a_gate_lets_any_number_pass() -> None:
    """Also who comes when others have passed already, and never one that found it closed."""
    gate = Gate()
    waiting = [in_background(lambda: gate.wait() or "passed") for _ in range(3)]
    gate.open()
    assert [result() for result in waiting] == ["passed"] * 3
    gate.wait()


@pytest.mark.parametrize("step", ["make", "go"])
def test_a_child_that_cannot_be_made_is_in_no_group(
    group: Group, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whether or not somebody had its session already."""

    real, parent = getattr(group._node, step), os.getpid()

    def fails(*args: Any) -> Any:
        if os.getpid() != parent:
            raise OSError(24, "none left")
        return real(*args)

    def child(line: Line) -> None:
        logging.disable(logging.CRITICAL)
        with pytest.raises(libos_ipc.NotJoined):
            echo(group, group.parent_vmid)
        assert group.closed
        group.close()
        poll(lambda: group not in libos_ipc.group._joined)
        line.recv()

    before = steady(kinds_of_descriptors)
    monkeypatch.setattr(group._node, step, fails)
    with Forked(child) as forked:
        monkeypatch.undo()
        poll(lambda: len(group.members()) == 1, what="it is known to be none")
        forked.send()
        forked.result()
    poll_kinds(before)


def test_a_child_that_is_killed_meanwhile(group: Group, let_be: Callable[[], None]) -> None:
    before = steady(kinds_of_descriptors)
    with Forked(lambda line: (line.send(), line.pause())) as child:
        child.recv()
        child.kill()
        assert os.WTERMSIG(child.wait()) == signal.SIGKILL
    poll(lambda: len(group.members()) == 1, what="no row is left")
    poll_kinds(before)


def test_a_leader_that_is_killed_meanwhile(
    group: Group, let_be: Callable[[], None], runtime_dir: Path
) -> None:
    """The child follows the next one."""
    group.on(ECHO)(lambda message: message.payload)

    def child(line: Line) -> None:
        line.send()
        assert echo(group, group.parent_vmid) == b"?"
        assert group.ids.owner(group.pid) == group.vmid
        assert group.leader_vmid == group.parent_vmid

    with Forked(child) as forked:
        forked.recv()
        (leader,) = leaders(runtime_dir)
        os.kill(leader, signal.SIGKILL)
        poll(lambda: group.leader_vmid == group.vmid)
        let_be()
        forked.result()


@pytest.mark.parametrize("when", ["meanwhile", "before the leader is woken"])
def test_a_parent_that_is_killed(
    group: Group, let_be: Callable[[], None], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The child is a member all the same."""
    said, saying = os.pipe()

    def grandchild(line: Line) -> None:
        with contextlib.suppress(OSError):  # its parent may be dead by now
            line.send()
        vmid = group.vmid if group.ids.owner(group.pid) == group.vmid else 0
        os.write(saying, str(vmid).encode())

    def parent(line: Line) -> None:
        let_be()
        if when != "meanwhile":
            monkeypatch.setattr(Lanes, "ring", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with Forked(grandchild) as forked:
            forked.recv()
            line.send()
            line.pause()

    try:
        with Forked(parent) as forked:
            if when == "meanwhile":
                forked.recv()
                forked.kill()
            assert os.WTERMSIG(forked.wait()) == signal.SIGKILL
        let_be()
        assert int(os.read(said, 16))
    finally:
        os.close(said)
        os.close(saying)


def test_a_child_may_fork_exec_or_leave_before_it_is_whole(group: Group) -> None:
    def leaves() -> None:
        group.close()

    def forks() -> None:
        pid = group.fork()
        if not pid:
            os._exit(3 if group.ids.owner(group.pid) == group.vmid else 4)
        assert group.wait(pid, DEADLINE_S).code == 3

    def execs() -> None:
        os.execv("/bin/true", ["true"])

    before = steady(kinds_of_descriptors)
    for child in (leaves, forks, execs) * 3:
        pid = os.fork()
        if not pid:
            code = 1
            with contextlib.suppress(BaseException):
                child()
                code = 0
            os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    poll(lambda: len(group.members()) == 1, what="no row is left")
    poll_kinds(before)
