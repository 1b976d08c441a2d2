"""Forks of every kind: the child has joined when it returns, and nobody loses anything by it."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import pytest
from processes import (
    DEADLINE_S,
    Forked,
    Line,
    Peer,
    at_fork,
    kinds_of_descriptors,
    leaders,
    poll,
    poll_kinds,
    state_of,
    steady,
)

import libos_ipc
from libos_ipc import Group, Message
from libos_ipc._native import block_signals
from libos_ipc.runtime import liveness, sockets

BOTH = pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
#: Forks of the storm. A hundred thousand take an hour.
STORM = int(os.environ.get("LIBOS_TEST_FORKS", "150"))
TELL, ECHO = 70, 71
NOBODY = 65534

many_threads = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def told_to(group: Group) -> list[tuple[int, Any]]:
    """Whatever is sent to this process with TELL: (sender, value). ECHO answers."""
    told: list[tuple[int, Any]] = []
    group.on(TELL, type=Any)(lambda value, message: told.append((message.src, value)))
    group.on(ECHO)(lambda message: message.payload)
    return told


def tell_parent(group: Group, value: object) -> None:
    group.send(group.parent_vmid, TELL, value, timeout=DEADLINE_S)
    assert group.request(group.parent_vmid, ECHO, b"?", timeout=DEADLINE_S) == b"?"


# ---- every way


@BOTH
def test_group_fork(group: Group) -> None:
    told = told_to(group)
    pid = group.fork()
    if not pid:
        try:
            tell_parent(group, [group.pid, group.ppid, group.parent_vmid, group.is_leader])
        finally:
            os._exit(0)
    assert group.wait(pid, DEADLINE_S).code == 0
    ((src, value),) = told
    assert value == [pid, group.pid, group.vmid, False]
    assert src > group.vmid


@BOTH
def test_group_spawn(group: Group) -> None:
    told = told_to(group)

    def target(*args: object, **kwargs: object) -> None:
        tell_parent(group, [*args, kwargs, group.pid, group.vmid, os.getpid()])

    child = group.spawn(target, 1, "two", three=3)
    assert child.wait(DEADLINE_S).code == 0
    expected = [1, "two", {"three": 3}, child.pid, child.vmid, child.os_pid]
    assert told == [(child.vmid, expected)]


@BOTH
def test_os_fork(group: Group) -> None:
    told = told_to(group)
    pids = []
    for _ in range(10):  # more than any process keeps in stock
        pid = os.fork()
        if not pid:
            try:
                tell_parent(group, os.getpid())
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert sorted(pid for _, pid in told) == sorted(pids)
    assert len({src for src, _ in told}) == 10


def tell_current() -> int:
    tell_parent(libos_ipc.current(), os.getpid())
    return os.getpid()


@many_threads
def test_a_pool_of_processes(group: Group) -> None:
    told = told_to(group)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        done = [pool.submit(tell_current) for _ in range(10)]
        pids = Counter(future.result(DEADLINE_S) for future in done)
    assert Counter(pid for _, pid in told) == pids
    poll(lambda: len(group.members()) == 1)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_without_a_hook_join_by_the_environment(
    group: Group, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv("LIBOS_IPC_GROUP", group.token())
    told = told_to(group)
    try:
        process = multiprocessing.get_context(method).Process(target=join_and_tell)
        process.start()
        process.join(DEADLINE_S)
        assert process.exitcode == 0
        process.close()
    finally:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    ((_, value),) = told
    assert value == group.pid


def join_and_tell() -> None:
    group = libos_ipc.Group.join()
    tell_parent(group, group.ppid)


@BOTH
def test_nested_forks(group: Group) -> None:
    told = told_to(group)

    def generation(left: int) -> None:
        told_to(group)
        group.send(root, TELL, [group.pid, group.ppid, group.parent_vmid, group.vmid])
        if left:
            assert group.spawn(generation, left - 1).wait(DEADLINE_S).code == 0

    root = group.vmid
    assert group.spawn(generation, 4).wait(DEADLINE_S).code == 0
    rows = poll(lambda: len(told) == 5 and sorted(value for _, value in told))
    line = sorted(rows, key=lambda row: row[3])
    parent, parent_vmid = group.pid, group.vmid
    for pid, ppid, above, vmid in line:
        assert (ppid, above) == (parent, parent_vmid)
        parent, parent_vmid = pid, vmid
    assert len({row[0] for row in rows} | {group.pid}) == 6


# ---- what a child is


@BOTH
def test_two_members_in_a_process_fork_at_once(group: Group, runtime_dir: Path) -> None:
    """The child is two members, too, and may lead: its two births do not take that from it."""

    def child(line: Line) -> None:
        line.send((group.members(), second.members()))
        line.recv()

    with Group.join(group.name, runtime_dir=runtime_dir) as second:
        may_lead = group._node.directory.lock.is_there_another_heir
        for _ in range(4):
            assert not may_lead()
            with Forked(child) as forked:
                assert forked.recv()
                assert may_lead()
                forked.send()
                forked.wait()


def test_a_child_starts_afresh(group: Group) -> None:
    """Handlers are inherited; requests, ranges, children and queue are the parent's alone."""
    entered, over = threading.Event(), threading.Event()
    told = told_to(group)

    @group.on(80, threads=2)
    def wait(message: Message) -> bytes:
        entered.set()
        over.wait(DEADLINE_S)
        return b"parent" if os.getpid() == parent else b"child"

    parent = os.getpid()
    ids = {group.ids.new() for _ in range(3)}
    mine: list[bytes] = []
    with Peer(group) as sibling:
        asking = threading.Thread(
            target=lambda: mine.append(group.request(group.vmid, 80, timeout=DEADLINE_S))
        )
        asking.start()
        assert entered.wait(DEADLINE_S)

        def child(line: Line) -> None:
            over.set()
            assert group.request(group.vmid, 80, timeout=DEADLINE_S) == b"child"
            assert group.ids.new() not in ids
            assert {group.ids.owner(id) for id in ids} == {group.parent_vmid}
            with pytest.raises(ChildProcessError):
                group.wait(timeout=0)
            assert sibling.vmid in [member.vmid for member in group.members()]
            tell_parent(group, "done")

        with Forked(child) as forked:
            forked.result()
        over.set()
        asking.join(DEADLINE_S)
    assert mine == [b"parent"]
    assert [value for _, value in told] == ["done"]


def most_descriptors(group: Group) -> Counter[str]:
    """Those of a process that does not rest: ZeroMQ's and the reserve's too, which come and go
    with forks."""
    session = group._session

    def is_there() -> bool:
        with session.lock:
            session.carriage.miss()  # in vain before the worker has begun
            return session.carriage.transport is not None

    poll(is_there, what="a transport")
    return steady(kinds_of_descriptors)  # type: ignore[no-any-return]


@BOTH
def test_a_child_that_only_exits_or_execs_leaves_nothing(group: Group) -> None:
    def round() -> None:
        for fork in (group.fork, os.fork):
            for end in (lambda: os._exit(7), lambda: os.execv("/bin/true", ["true"])):
                if not (pid := fork()):
                    end()
                if fork == group.fork:
                    assert group.wait(pid, DEADLINE_S).code in {0, 7}
                else:
                    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in {0, 7}
        poll(lambda: len(group.members()) == 1, what="no row is left")
        with pytest.raises(ChildProcessError):
            poll(lambda: not group.wait(timeout=DEADLINE_S))  # those that had said hello

    round()
    before = most_descriptors(group)
    for _ in range(3):
        round()
    poll_kinds(before)


@BOTH
def test_a_subprocess_with_a_preexec_fn_is_no_member(group: Group) -> None:
    """Python forks for it and calls the hooks; then it closes all descriptors under them."""

    def not_joined() -> None:
        with pytest.raises(libos_ipc.NotJoined):
            libos_ipc.current()

    before = most_descriptors(group)
    for _ in range(20):
        subprocess.run(["/bin/true"], preexec_fn=not_joined, check=True)
        assert len(group.members()) == 1
    with pytest.raises(ChildProcessError):
        group.wait(timeout=0)
    poll_kinds(before)


def test_a_fork_keeps_what_is_in_flight(group: Group) -> None:
    """Both sides of a conversation fork all the time: nothing is lost, doubled or overtaken."""

    def talk(line: Line) -> list[int]:
        got: list[int] = []
        group.on(TELL, type=int, threads=1)(lambda number, message: got.append(number))
        line.send(group.vmid)
        for _ in range(30):
            line.recv()
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
            line.send()
        poll(lambda: len(got) == 3000)
        return got

    with Forked(talk) as child:
        vmid = child.recv()
        number = 0
        for _ in range(30):
            child.send()
            for _ in range(100):
                group.send(vmid, TELL, number, timeout=DEADLINE_S)
                number += 1
                if not number % 40:
                    pid = os.fork()
                    if not pid:
                        os._exit(0)
                    os.waitpid(pid, 0)
            child.recv()
        assert child.result() == list(range(3000))


# ---- threads


@many_threads
@BOTH
def test_a_fork_beside_busy_threads(group: Group) -> None:
    """Threads that talk while others fork get every answer, and the children none of theirs."""
    stop = threading.Event()
    failed: list[object] = []
    answered = Counter[int]()

    def talk(vmid: int, thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            payload = f"{thread} {number}".encode()
            try:
                if group.request(vmid, ECHO, payload, timeout=DEADLINE_S) != payload:
                    failed.append((thread, number))
            except libos_ipc.IpcError as error:
                failed.append(error)
            answered[thread] += 1

    told = told_to(group)
    with Peer(group, told_to) as peer:
        threads = [threading.Thread(target=talk, args=(peer.vmid, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        children = [group.spawn(tell_parent, group, number) for number in range(20)]
        codes = [child.wait(DEADLINE_S).code for child in children]
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert failed == []
    assert codes == [0] * 20
    assert sorted(value for _, value in told) == list(range(20))
    assert len(answered) == 4


@many_threads
@pytest.mark.config(fork_timeout=20)
def test_threads_that_fork_at_once(group: Group) -> None:
    """Each gets its own child, knows it by its right name, and waits for it."""
    told = told_to(group)
    wrong: list[object] = []
    rounds = 25

    def forks(thread: int) -> None:
        for number in range(rounds):
            code = 64 + (thread * rounds + number) % 64

            def target(code: int = code) -> None:
                group.send(group.parent_vmid, TELL, [group.pid, group.vmid, os.getpid(), code])
                sys.exit(code)

            child = group.spawn(target)
            status = child.wait(DEADLINE_S)
            mine = [child.pid, child.vmid, child.os_pid, code]
            if (status.pid, status.code) != (child.pid, code):
                wrong.append((mine, status))
            try:
                poll(lambda mine=mine: (mine[1], mine) in told, what=f"{mine}")
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=forks, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * DEADLINE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert len(told) == len({src for src, _ in told}) == 2 * rounds


# ---- what can go wrong


def test_a_fork_whose_preparation_is_broken_off(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C: Python forks all the same. The child is nobody, and not its parent again."""
    said: list[type[BaseException] | None] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    def child(line: Line) -> None:
        assert group.closed
        with pytest.raises(libos_ipc.NotJoined):
            group.ids.new()

    monkeypatch.setattr(sys, "unraisablehook", lambda unraised: said.append(unraised.exc_type))
    monkeypatch.setattr(group._node, "_prepare", interrupted)
    with Forked(child) as forked:
        forked.result()
    monkeypatch.undo()
    assert said == [KeyboardInterrupt]
    with Forked(lambda line: group.vmid) as forked:
        assert forked.result() != group.vmid


def test_a_signal_handler_that_raises_before_a_fork(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When signals are about to be blocked: neither process has them blocked after that, and the
    child is nobody, for whom threads have not been paused."""
    said: list[type[BaseException] | None] = []

    def interrupted(mask: int) -> int:
        before = block_signals(mask)
        if mask:
            raise KeyboardInterrupt
        return before

    def child(line: Line) -> bool:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        return group.closed

    monkeypatch.setattr(sys, "unraisablehook", lambda unraised: said.append(unraised.exc_type))
    monkeypatch.setattr("libos_ipc.runtime.fork.block_signals", interrupted)
    with Forked(child) as forked:
        assert forked.result()
    monkeypatch.undo()
    assert said == [KeyboardInterrupt]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    with Forked(child) as forked:
        assert not forked.result()
    poll(lambda: len(group.members()) == 1)


def test_a_fork_that_fails(runtime_dir: Path) -> None:
    """The hooks run around it all the same: the parent stays what it was, and nobody waits for
    a child that never came to be."""

    def parent(line: Line) -> None:
        if os.getuid() == 0:  # root may always fork
            os.chown(runtime_dir, NOBODY, NOBODY)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        with Group.create("g", runtime_dir=runtime_dir, leader="embedded") as group:
            told_to(group)
            with Peer(group, told_to) as peer:
                assert group.request(peer.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
                before = most_descriptors(group)
                at_fork.before = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
                at_fork.parent = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
                for fork in (os.fork, group.fork, lambda: group.spawn(print)) * 3:
                    with pytest.raises(BlockingIOError):
                        fork()
                    for vmid in (group.vmid, peer.vmid):
                        assert group.request(vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
                at_fork.before = at_fork.parent = None
                poll(lambda: len(group.members()) == 2, what="no child is listed")
                poll_kinds(before)
                with Peer(group, told_to) as child:
                    assert group.request(child.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
                peer.kill()
                assert group.wait(peer.pid, DEADLINE_S).signal == signal.SIGKILL
            group.wait(child.pid, DEADLINE_S)
            with pytest.raises(ChildProcessError):
                group.wait(timeout=DEADLINE_S)

    with Forked(parent) as child:
        child.result()


@pytest.mark.config(fork_timeout=0.3, leader_stall=DEADLINE_S)
def test_a_fork_while_the_leader_is_silent(group: Group, runtime_dir: Path) -> None:
    """The stock is used up, then a child starts un-joined after `fork_timeout`; nothing hangs."""
    (leader,) = leaders(runtime_dir)

    def who(line: Line) -> int:
        try:
            return libos_ipc.current().vmid
        except libos_ipc.NotJoined:
            assert group.closed
            return 0

    with Peer(group, told_to) as peer:
        os.kill(leader, signal.SIGSTOP)
        try:
            poll(lambda: state_of(leader) == "T")
            vmids = []
            for _ in range(20):
                with Forked(who) as child:
                    vmids.append(child.result())
                if not vmids[-1]:
                    break
            assert vmids[-1] == 0, "the stock has an end"
            assert len(set(vmids)) == len(vmids)
            # A member that needs no leader goes on talking.
            assert group.request(peer.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
            with pytest.raises(libos_ipc.IpcError, match="leader gave no identity") as caught:
                group.fork() or os._exit(0)
            os_pid = int(re.search(r"OS process (\d+)", str(caught.value))[1])  # type: ignore[index]
            assert os.waitpid(os_pid, 0)[1] == 0
        finally:
            os.kill(leader, signal.SIGCONT)
        with Forked(who) as child:
            assert child.result() not in {0, *vmids}
    poll(lambda: len(group.members()) == 1)


def test_a_parent_that_dies_while_its_child_starts(group: Group) -> None:
    """The child joins all the same, and is told from children that never come."""
    gate, opener = os.pipe()

    def middle(line: Line) -> None:
        at_fork.child = lambda: os.read(gate, 1)
        pid = os.fork()
        if not pid:
            tell_root(group, root)
            os._exit(0)
        line.send(pid)
        line.pause()

    def tell_root(group: Group, root: int) -> None:
        group.send(root, TELL, [group.ppid, group.parent_vmid])
        group.flush(DEADLINE_S)

    root = group.vmid
    told = told_to(group)
    with Forked(middle) as child:
        orphan = child.recv()
        child.kill()
        child.wait()
    os.write(opener, b"1")
    poll(lambda: told, what="the orphan has joined")
    poll(lambda: not state_of(orphan), what="the orphan has ended")
    poll(lambda: len(group.members()) == 1)
    os.close(gate)
    os.close(opener)


# ---- warnings


QUIET = """
import os, threading, libos_ipc
with libos_ipc.Group.create('g') as group:
    group.on(70)(lambda message: message.payload)
    @group.on(71)
    async def later(message):
        return message.payload
    for number in range(60):
        assert group.request(group.vmid, 71 if number % 2 else 70, b'x', timeout=30) == b'x'
        pid = os.fork()
        if not pid:
            assert group.request(group.parent_vmid, 70, b'y', timeout=30) == b'y'
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert threading.active_count() <= 3, threading.enumerate()
print('done')
"""


@pytest.mark.usefixtures("runtime_dir")
@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="3.13.0 warns whatever one does")
def test_more_members_one_after_another_than_may_wait_in_a_queue(
    found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches the leader waits in a queue of it, and stays there when it is gone."""
    monkeypatch.setattr(liveness, "BACKLOG", 8)
    monkeypatch.setattr(sockets, "BACKLOG", 8)
    group = found(leader="embedded")
    with Forked(lambda line: (line.send(group.ids.new()), line.recv())) as watching:
        watching.recv()
        for _ in range(60):
            with Forked(lambda line: group.ids.new()) as child:
                child.result()
        assert len(group._session.watchers._held) <= 3, "those who left are let go"
        assert watching.os_pid in {member.os_pid for member in group.members()}
        watching.send()


def test_no_warning_of_threads() -> None:
    """Python counts the kernel's threads at a fork, and warns of more than one: there is none."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUIET],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# ---- the storm


def in_the_storm(group: Group, number: int, root: int, sibling: int) -> None:
    """One child: numbered messages to the root with requests in between, a grandchild or two."""
    for each in range(10):
        group.send(root, TELL, [number, each], timeout=DEADLINE_S)
        if each % 5 == 0:
            assert group.request(root, ECHO, b"root", timeout=DEADLINE_S) == b"root"
    if sibling:
        try:
            answer = group.request(sibling, ECHO, b"sibling", timeout=DEADLINE_S)
            assert answer == b"sibling"
        except libos_ipc.PeerDied:
            pass  # it has ended before us
    if number % 25 == 0:
        grandchild = group.spawn(in_the_storm, group, -1 - number, root, 0)
        assert grandchild.wait(2 * DEADLINE_S).code == 0


@many_threads
@pytest.mark.timeout(120 + STORM // 2)
@pytest.mark.config(fork_timeout=60)
def test_a_storm_of_forks(group: Group) -> None:
    """Many forks, eight children at a time, while every process talks."""
    told = told_to(group)
    stop = threading.Event()
    answers = Counter[bytes]()

    def talk(vmid: int) -> None:
        while not stop.is_set():
            answers[group.request(vmid, ECHO, b"talk", timeout=2 * DEADLINE_S)] += 1

    running: list[libos_ipc.Child] = []
    started = time.monotonic()
    with Peer(group, told_to) as peer:
        talking = threading.Thread(target=talk, args=(peer.vmid,))
        talking.start()
        for number in range(STORM):
            if len(running) == 8:
                assert running.pop(0).wait(2 * DEADLINE_S).code == 0
            sibling = running[-1].vmid if running else 0
            running.append(group.spawn(in_the_storm, group, number, group.vmid, sibling))
        for child in running:
            assert child.wait(2 * DEADLINE_S).code == 0
        stop.set()
        talking.join(DEADLINE_S)
        assert not talking.is_alive()
    print(f"{STORM} forks in {time.monotonic() - started:.1f} s, {answers} answers meanwhile")
    assert set(answers) == {b"talk"}
    numbers = [*range(STORM), *(-1 - number for number in range(0, STORM, 25))]
    heard: dict[int, list[int]] = {}
    senders: dict[int, set[int]] = {}
    for src, (number, each) in told:
        heard.setdefault(number, []).append(each)
        senders.setdefault(number, set()).add(src)
    assert sorted(heard) == sorted(numbers)
    assert all(each == list(range(10)) for each in heard.values()), "in order, each once"
    assert all(len(vmids) == 1 for vmids in senders.values())
    assert len({vmid for vmids in senders.values() for vmid in vmids}) == len(numbers)
    poll(lambda: len(group.members()) == 1, what="no row is left")
