"""How children ended: the true status, whoever started them and whoever waited first."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from processes import (
    DEADLINE_S,
    Forked,
    Line,
    kinds_of_descriptors,
    leaders,
    poll,
    state_of,
    wait_until_idle,
)

import libos_ipc
from libos_ipc import Child, Group
from libos_ipc.core.codes import Code
from libos_ipc.runtime import children, fork

#: Whether the kernel tells how a process ended that was waited for already.
KEEPS_EXITS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)


def ends_by(sig: int) -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), sig)
    time.sleep(DEADLINE_S)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (lambda: None, 0),
        (sys.exit, 0),
        (lambda: sys.exit(7), 7),
        (lambda: sys.exit(263), 7),
        (lambda: sys.exit("what is wrong"), 1),
        (lambda: 1 / 0, 1),
        (lambda: os._exit(9), 9),
    ],
)
def test_an_exit_code(group: Group, target: object, code: int) -> None:
    child = group.spawn(target)  # type: ignore[arg-type]
    assert isinstance(child, Child)
    assert child.pid not in (0, group.pid)
    status = child.wait(DEADLINE_S)
    assert (status.pid, status.code, status.signal) == (child.pid, code, None)
    assert (status.core_dumped, status.unknown, status.uid) == (False, False, os.getuid())
    assert child.wait() is status
    with pytest.raises(ChildProcessError):
        os.waitpid(child.os_pid, os.WNOHANG)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_a_signal(group: Group, sig: int) -> None:
    child = group.spawn(ends_by, sig)
    status = child.wait(DEADLINE_S)
    assert (status.code, status.signal) == (None, sig)
    poll(lambda: child.vmid not in {m.vmid for m in group.members()}, what="it is gone")


def test_a_core_dump_is_told(group: Group) -> None:
    """Whether there is one depends on the machine; the kernel's word and ours are the same."""
    child = group.spawn(ends_by, signal.SIGABRT)
    poll(lambda: os.waitid(os.P_PID, child.os_pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    seen = os.waitid(os.P_PID, child.os_pid, os.WEXITED | os.WNOWAIT)
    assert seen is not None
    status = child.wait(DEADLINE_S)
    assert status.signal == signal.SIGABRT
    assert status.core_dumped == (seen.si_code == os.CLD_DUMPED)


def test_a_core_that_was_dumped(group: Group, tmp_path: Path) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    if most == 0:
        pytest.skip("no core dumps here")

    def aborts() -> None:
        faulthandler.disable()
        os.chdir(tmp_path)
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 16, most))
        os.abort()

    status = group.spawn(aborts).wait(DEADLINE_S)
    assert (status.code, status.signal, status.core_dumped) == (None, signal.SIGABRT, True)


def test_kill_goes_by_way_of_the_kernel(group: Group) -> None:
    child = group.spawn(time.sleep, DEADLINE_S)
    child.kill(signal.SIGSTOP)
    child.kill()  # SIGTERM waits while it is stopped
    child.kill(signal.SIGCONT)
    assert child.wait(DEADLINE_S).signal == signal.SIGTERM
    with pytest.raises(libos_ipc.PeerDied):
        child.kill()


def test_waiting_has_a_time_limit(group: Group) -> None:
    child = group.spawn(time.sleep, DEADLINE_S)
    for timeout in (0, 0.02):
        with pytest.raises(libos_ipc.Timeout):
            child.wait(timeout)
        with pytest.raises(libos_ipc.Timeout):
            group.wait(timeout=timeout)
    child.kill(signal.SIGKILL)
    assert child.wait(DEADLINE_S).signal == signal.SIGKILL


def test_a_target_that_raises_says_in_which_process(
    group: Group, capfd: pytest.CaptureFixture[str]
) -> None:
    child = group.spawn(lambda: 1 / 0)
    assert child.wait(DEADLINE_S).code == 1
    said = capfd.readouterr().err.splitlines()
    assert said[0] == f"process {child.pid} of group {group.name!r}:"
    assert said[-1] == "ZeroDivisionError: division by zero"


def test_any_child(group: Group) -> None:
    pids = {group.spawn(sys.exit, n).pid: n for n in range(5)}
    while pids:
        status = group.wait(timeout=DEADLINE_S)
        assert pids.pop(status.pid) == status.code
    with pytest.raises(ChildProcessError, match="no child"):
        group.wait(timeout=0)


def test_who_is_no_child(group: Group) -> None:
    for pid in (group.pid, 4_000_000, 0, -5):
        with pytest.raises(ChildProcessError, match="no child"):
            group.wait(pid, timeout=0)


def test_threads_wait_for_their_own_children(group: Group) -> None:
    wrong: list[object] = []

    def spawn_and_wait(code: int) -> None:
        status = group.spawn(sys.exit, code).wait(DEADLINE_S)
        if status.code != code:
            wrong.append(status)

    threads = [threading.Thread(target=spawn_and_wait, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE_S)
    assert wrong == []


def test_what_the_program_forked_stays_the_programs_to_wait_for(group: Group) -> None:
    """We only look: `os.waitpid` gets its child, and the status is ours all the same, after it."""
    before = {m.pid for m in group.members()}
    ready, go = os.pipe()
    os_pid = os.fork()
    if not os_pid:
        os.read(ready, 1)
        os._exit(5)
    pid = poll(lambda: {m.pid for m in group.members() if m.os_pid == os_pid} - before).pop()
    os.write(go, b"x")
    assert group.wait(pid, DEADLINE_S).code == 5  # we looked first …
    assert os.waitpid(os_pid, 0) == (os_pid, 5 << 8)  # … and the program got it still
    os.close(ready)
    os.close(go)


def test_what_the_program_waited_for_first(group: Group) -> None:
    ready, go = os.pipe()
    os_pid = os.fork()
    if not os_pid:
        os.read(ready, 1)
        os._exit(6)
    pid = poll(lambda: [m.pid for m in group.members() if m.os_pid == os_pid])[0]
    os.write(go, b"x")
    assert os.waitpid(os_pid, 0) == (os_pid, 6 << 8)
    status = group.wait(pid, DEADLINE_S)
    assert status.unknown or status.code == 6
    os.close(ready)
    os.close(go)


def end_at_once(group: Group, first: str, times: int, *, or_unknown: bool) -> None:
    """Fork children that end at once; `first` waits for each, then the other."""
    for code in range(1, times + 1):
        os_pid = os.fork()
        if not os_pid:
            os._exit(code)
        if first == "we":
            assert group.wait(timeout=DEADLINE_S).code == code
        assert os.waitpid(os_pid, 0) == (os_pid, code << 8)
        if first != "we":
            status = group.wait(timeout=DEADLINE_S)
            assert status.code == code or (status.unknown and or_unknown)
    poll(lambda: len(group.members()) == 1)


@pytest.mark.parametrize("first", ["we", "the program"])
def test_a_child_that_ends_at_once(group: Group, first: str) -> None:
    """The fork itself has told which process it is: nobody can be quicker."""
    end_at_once(group, first, 5, or_unknown=not KEEPS_EXITS)


@pytest.mark.parametrize("first", ["we", "the program"])
def test_a_child_that_ends_before_it_has_said_hello(
    group: Group, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel lists no children: it wrote its OS pid down before anything else."""
    monkeypatch.setattr(fork, "of_this_thread", lambda: None)
    end_at_once(group, first, 2, or_unknown=True)


def test_a_thread_knows_its_own_children() -> None:
    found: list[frozenset[int] | None] = []
    with Forked(lambda line: line.recv()) as child:
        found.append(children.of_this_thread())
        thread = threading.Thread(target=lambda: found.append(children.of_this_thread()))
        thread.start()
        thread.join()
        mine, others = found
        assert mine is not None
        assert child.os_pid in mine
        assert others == frozenset()


def test_a_fork_to_which_another_thread_has_left_its_children(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not certain then which is the new one, until that has announced itself."""
    seen = iter([frozenset({3}), frozenset({3, os.getpid(), os.getppid()})])
    monkeypatch.setattr(fork, "of_this_thread", lambda: next(seen))
    assert group.spawn(sys.exit, 4).wait(DEADLINE_S).code == 4
    assert next(seen, None) is None


def test_children_that_nobody_waits_for_here_leave_no_descriptors(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reaps its children itself may have any number of them."""
    monkeypatch.setattr(children, "ENDED_KEPT", 5)
    rows = group._node.children.rows
    for _ in range(12):
        with Forked(lambda line: None):
            pass
    poll(lambda: all(row.status is not None for row in rows.values()))
    poll(lambda: len(rows) == 5)
    assert kinds_of_descriptors()["anon_inode:[pidfd]"] == 1, "the leader's"
    last = max(rows)
    assert group.wait(last, DEADLINE_S).pid == last, "the last ones are remembered"
    assert len(rows) == 4


def test_popen_keeps_its_children(group: Group) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.exit(3)"], env=group.environ()
    )
    assert process.wait() == 3


def crew(group: Group, code: int) -> None:
    group.send(group.parent_vmid, 70, [group.pid])
    sys.exit(code)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(group: Group, method: str) -> None:
    pids: list[int] = []
    group.on(70, type=list[int])(lambda value, message: pids.extend(value))
    process = multiprocessing.get_context(method).Process(target=crew, args=(group, 4))
    process.start()
    process.join(DEADLINE_S)
    assert process.exitcode == 4
    poll(lambda: pids)
    status = group.wait(pids[0], DEADLINE_S)
    assert status.unknown or status.code == 4
    process.close()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def test_an_orphans_end_is_known_to_the_leader(group: Group) -> None:
    """Its parent is gone when it ends: it leaves the list, and its pid returns."""

    def parent(line: Line) -> None:
        reading, writing = os.pipe()
        pid = group.fork()
        if not pid:
            os.close(writing)
            os.read(reading, 1)  # ends with the parent
            os._exit(0)
        line.send(pid)
        line.recv()
        os._exit(0)

    with Forked(parent) as child:
        pid = child.recv()
        assert group.ids.owner(pid) is not None
        child.send()
        child.wait()
        poll(lambda: group.ids.owner(pid) is None, what="the orphan's pid has returned")
        poll(lambda: len(group.members()) == 1)


@pytest.mark.config(linger=DEADLINE_S)
@pytest.mark.parametrize("leader", ["stays", "dies before", "dies meanwhile"])
@pytest.mark.parametrize("parent", ["is gone", "dies meanwhile"])
def test_how_an_orphan_ended_is_told_to_who_leads(
    group: Group, runtime_dir: Path, parent: str, leader: str
) -> None:
    """Once: to whoever leads by then, also if the parent dies only after it was told, and before it
    has heard that."""
    mine, childs = multiprocessing.Pipe()

    def end() -> None:
        mine.close()
        sys.exit(childs.recv())

    def body(line: Line) -> None:
        child = group.spawn(end)
        mine.close()
        line.send((child.pid, child.vmid, child.os_pid))
        line.pause()

    def exits() -> list[tuple[int, int]]:
        told = group._session.ask_leader(Code.GET_MEMBERS)[1]
        return [(exit[0], exit[4]) for exit in told]

    def lose_the_leader() -> None:
        for os_pid in leaders(runtime_dir):
            os.kill(os_pid, signal.SIGKILL)

    with mine, childs, Forked(body) as forked:
        pid, vmid, os_pid = forked.recv()
        poll(lambda: [each.state for each in group.members()] == 3 * ["running"])
        if leader == "dies before":
            lose_the_leader()
        if parent == "is gone":
            forked.kill()
            forked.wait()
            poll(lambda: len(group.members()) == 2, what="that is known")
        else:
            forked.stop()
        mine.send(7)
        if parent != "is gone":
            wait_until_idle(os_pid)  # until its parent has heard it, or is gone
            poll(lambda: state_of(os_pid) == "S", what="it waits for that")
        if leader == "dies meanwhile":
            lose_the_leader()
        if parent != "is gone":
            forked.kill()
        poll(exits, what="the leader knows")
        poll(lambda: vmid not in {each.vmid for each in group.members()}, what="it has left")
        assert exits() == [(vmid, 7)]
        assert group.ids.owner(pid) is None
