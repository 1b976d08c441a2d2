"""Signals over real processes: who gets them, with whose name, and what they interrupt."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bytecodes
import pytest
from conftest import both_leaders
from processes import DEADLINE_S, Forked, Line, at_fork, poll, state_of

import libos_ipc
from libos_ipc import Group, InvalidArgument, InvalidRange, PeerDied, PermissionDenied, SignalInfo
from libos_ipc.core.vocabulary import Signalled
from libos_ipc.runtime.processes import STACK_SIGNAL
from libos_ipc.runtime.signalling import LOOK_SIGNAL

NOBODY = 65534


class Listener(Forked):
    """A member that catches `sigs` with a handler that reports each signal to the test."""

    def __init__(self, group: Group, *sigs: int) -> None:
        def body(line: Line) -> None:
            for sig in sigs:
                group.signal(sig, lambda number, info: line.send((number, tuple(info))))
            line.send((group.vmid, group.pid))
            line.pause()
            group.close()

        super().__init__(body)
        self.vmid, self.pid = self.recv()


@pytest.fixture
def restored() -> Iterator[None]:
    """The handlers of this process are afterwards as they were."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGRTMIN)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@both_leaders
def test_a_handler_hears_who_sent_it(group: Group) -> None:
    with Listener(group, signal.SIGUSR1) as listener:
        group.kill(listener.pid, signal.SIGUSR1)
        assert listener.recv() == (signal.SIGUSR1, (group.pid, os.getuid(), "process"))
        group.tkill(listener.pid, listener.pid, signal.SIGUSR1)
        assert listener.recv() == (signal.SIGUSR1, (group.pid, os.getuid(), "thread"))
        group.killpg(group.pgid, 0)
        group.kill_all(signal.SIGUSR1)
        assert listener.recv() == (signal.SIGUSR1, (group.pid, os.getuid(), "all"))
        os.kill(listener.os_pid, signal.SIGUSR1)
        assert listener.recv() == (signal.SIGUSR1, (0, -1, "kernel"))


def test_one_to_ourselves_is_handled_before_the_call_returns(group: Group, restored: None) -> None:
    got: list[Any] = []
    assert group.signal(signal.SIGUSR1, lambda *what: got.append(what)) == signal.SIG_DFL
    handler = group.signal(signal.SIGUSR1, lambda *what: got.append(what))
    assert callable(handler)
    group.kill(group.pid, signal.SIGUSR1)
    assert got == [(signal.SIGUSR1, SignalInfo(group.pid, os.getuid(), "process"))]
    group.tkill(group.pid, group.pid, signal.SIGUSR1)
    assert got[1:] == [(signal.SIGUSR1, SignalInfo(group.pid, os.getuid(), "thread"))]
    assert callable(group.signal(signal.SIGUSR1, signal.SIG_IGN))
    group.kill(group.pid, signal.SIGUSR1)
    assert len(got) == 2


def test_standard_signals_merge_and_real_time_ones_queue(group: Group) -> None:
    def catches(line: Line) -> None:
        got: list[int] = []
        for sig in (signal.SIGUSR1, signal.SIGRTMIN, signal.SIGRTMIN + 1):
            group.signal(sig, lambda number, info: got.append(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        line.send(group.pid)
        line.recv()
        # The last to come is the last of a link that keeps its order.
        poll(lambda: group._node.signalling.pending.has((signal.SIGRTMIN + 1,)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        poll(lambda: signal.SIGRTMIN + 1 in got)
        line.send(got)

    with Forked(catches) as child:
        pid = child.recv()
        for _ in range(3):
            group.kill(pid, signal.SIGUSR1)
        for _ in range(5):
            group.kill(pid, signal.SIGRTMIN)
        group.kill(pid, signal.SIGRTMIN + 1)
        child.send()
        assert sorted(child.recv()) == [signal.SIGUSR1, *[signal.SIGRTMIN] * 5, signal.SIGRTMIN + 1]


def test_default_actions_are_the_kernels(group: Group) -> None:
    with Listener(group) as victim:
        group.kill(victim.pid, signal.SIGTERM)
        assert os.WTERMSIG(victim.wait()) == signal.SIGTERM
    with Listener(group, signal.SIGTERM) as stubborn:
        group.kill(stubborn.pid, signal.SIGTERM)
        assert stubborn.recv()[0] == signal.SIGTERM
        group.kill(stubborn.pid, signal.SIGKILL)
        assert os.WTERMSIG(stubborn.wait()) == signal.SIGKILL


def test_a_handler_of_python_gets_what_the_group_does_not_catch(group: Group) -> None:
    def body(line: Line) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: line.send(number))
        line.send(group.pid)
        line.pause()

    with Forked(body) as child:
        group.kill(child.recv(), signal.SIGUSR1)
        assert child.recv() == signal.SIGUSR1


def test_a_stopped_target_gets_it_when_it_goes_on(group: Group) -> None:
    with Listener(group, signal.SIGUSR1, signal.SIGCONT) as listener:
        group.kill(listener.pid, signal.SIGSTOP)
        poll(lambda: state_of(listener.os_pid) == "T")
        group.kill(listener.pid, signal.SIGUSR1)
        group.kill(listener.pid, 0)
        assert state_of(listener.os_pid) == "T"
        group.kill(listener.pid, signal.SIGCONT)
        got = {listener.recv()[0], listener.recv()[0]}
        assert got == {signal.SIGUSR1, signal.SIGCONT}
        group.kill(listener.pid, signal.SIGSTOP)
        poll(lambda: state_of(listener.os_pid) == "T")
        group.kill(listener.pid, signal.SIGKILL)
        assert os.WTERMSIG(listener.wait()) == signal.SIGKILL


def test_process_groups(group: Group) -> None:
    with Listener(group, signal.SIGUSR1) as one, Listener(group, signal.SIGUSR1) as two:
        assert {m.pgid for m in group.members()} == {group.pgid}
        group.setpgid(one.pid, 0)
        group.setpgid(two.pid, one.pid)
        assert {m.pid: m.pgid for m in group.members()} == {
            group.pid: group.pid,
            one.pid: one.pid,
            two.pid: one.pid,
        }
        group.killpg(one.pid, signal.SIGUSR1)
        for listener in (one, two):
            assert listener.recv() == (signal.SIGUSR1, (group.pid, os.getuid(), "group"))
        # The group outlives the process that gave it its name, and so does the ID.
        group.kill(one.pid, signal.SIGKILL)
        one.wait()
        poll(lambda: one.vmid not in {m.vmid for m in group.members()})
        group.killpg(one.pid, signal.SIGUSR1)
        assert two.recv()[0] == signal.SIGUSR1
        poll(lambda: group.ids.owner(one.pid) == two.vmid)
        with pytest.raises(PeerDied):
            group.kill(one.pid, 0)
        group.setpgid(two.pid, group.pid)
        poll(lambda: group.ids.owner(one.pid) is None)
        with pytest.raises(PeerDied, match=f"process group {one.pid}"):
            group.killpg(one.pid, 0)


def test_a_process_knows_its_own_process_group(group: Group) -> None:
    def body(line: Line) -> None:
        line.send(group.pid)
        line.recv()
        line.send(group.pgid)
        group.setpgid(0, group.ppid)
        line.send(group.pgid)
        child = Forked(lambda inner: group.pgid)
        line.send(child.result())

    with Forked(body) as child:
        pid = child.recv()
        group.setpgid(pid, pid)
        group.setpgid(0, 0)
        child.send()
        # The news has gone to it before our call returned, on another way than the test's word.
        assert child.recv() in (pid, group.pid)
        assert child.recv() == group.pid
        assert child.recv() == group.pid


def test_who_may_change_a_process_group(group: Group) -> None:
    with Listener(group) as one, Listener(group) as two:
        with pytest.raises(PermissionDenied, match="no process group"):
            group.setpgid(one.pid, two.pid)
        with pytest.raises(PeerDied):
            group.setpgid(4000, 0)

        def body(line: Line) -> str:
            with pytest.raises(PeerDied, match="neither this one nor a child"):
                group.setpgid(one.pid, 0)
            return "refused"

        with Forked(body) as sibling:
            assert sibling.result() == "refused"


def test_a_thread_has_an_id_until_it_ends(group: Group) -> None:
    assert group.register_thread() == group.pid
    tids: list[int] = []
    go_on = threading.Event()

    def thread() -> None:
        tids.append(group.register_thread())
        tids.append(group.register_thread())
        go_on.wait(DEADLINE_S)

    running = threading.Thread(target=thread)
    running.start()
    poll(lambda: len(tids) == 2)
    assert tids[0] == tids[1] != group.pid
    assert group.ids.owner(tids[0]) == group.vmid
    group.tkill(group.pid, tids[0], 0)
    with pytest.raises(PeerDied):
        group.tkill(group.pid + 1, tids[0], 0)
    go_on.set()
    running.join()

    def forgotten() -> bool:
        try:
            group.tkill(group.pid, tids[0], 0)
        except PeerDied:
            return True
        return False

    poll(forgotten)


def test_a_signal_to_a_thread_reaches_that_thread(group: Group) -> None:
    def body(line: Line) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

        def thread() -> None:
            line.send((group.pid, group.register_thread()))
            line.send(signal.sigtimedwait({signal.SIGUSR1}, DEADLINE_S).si_signo)

        waiting = threading.Thread(target=thread)
        waiting.start()
        waiting.join()
        line.pause()

    with Forked(body) as child:
        pid, tid = child.recv()
        group.tkill(pid, tid, signal.SIGUSR1)
        assert child.recv() == signal.SIGUSR1


def test_a_zombie_is_still_there(group: Group) -> None:
    def body(line: Line) -> None:
        line.send(group.pid)
        line.pause()

    with Forked(body) as child:
        pid = child.recv()
        child.kill(signal.SIGKILL)
        poll(lambda: state_of(child.os_pid) == "Z")
        poll(lambda: pid not in {m.pid for m in group.members()})
        group.kill(pid, 0)
        group.kill(pid, signal.SIGTERM)
        child.wait()
        with pytest.raises(ProcessLookupError, match=f"pid {pid}"):
            group.kill(pid, 0)


@pytest.mark.config(uids=(0, NOBODY))
def test_another_users_process(group: Group) -> None:
    if os.getuid() != 0:
        pytest.skip("needs to be root to have another user")
    os.chmod(group._node.directory.runtime_dir, 0o700)

    def body(line: Line) -> None:
        group.signal(signal.SIGUSR1, lambda number, info: line.send(tuple(info)))
        line.send(group.pid)
        line.pause()

    def stranger(line: Line, pid: int) -> list[str]:
        group.members()  # the connections are there, before we may not make them
        os.setresuid(NOBODY, NOBODY, NOBODY)
        told = []
        for sig in (0, signal.SIGUSR1, signal.SIGTERM):
            try:
                group.kill(pid, sig)
            except PermissionError as error:
                told.append(type(error).__name__)
        return told

    with Forked(body) as child:
        pid = child.recv()
        with Forked(stranger, pid) as other:
            assert other.result() == ["PermissionDenied"] * 3
        group.kill(pid, signal.SIGUSR1)
        assert child.recv() == (group.pid, 0, "process")


@pytest.mark.parametrize("sig", [-1, 65, 1000, "9", None, 1.5])
def test_what_is_no_signal(group: Group, sig: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: group.kill(group.pid, sig),
        lambda: group.tkill(group.pid, group.pid, sig),
        lambda: group.killpg(group.pgid, sig),
        lambda: group.kill_all(sig),
        lambda: group.signal(sig, signal.SIG_DFL),
        lambda: group.sigwait({sig}, 0),
    ]
    for call in calls:
        with pytest.raises(InvalidRange) as raised:
            call()
        assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize("pid", [0, -1, 2**32, "1", None])
def test_what_is_no_pid(group: Group, pid: Any) -> None:
    with pytest.raises(InvalidRange, match="killpg and kill_all"):
        group.kill(pid, 0)


def test_what_cannot_be_handled(group: Group) -> None:
    for sig in (signal.SIGKILL, signal.SIGSTOP, STACK_SIGNAL, LOOK_SIGNAL, 0):
        with pytest.raises(InvalidRange):
            group.signal(sig, lambda *what: None)
    with pytest.raises(InvalidArgument, match="no handler"):
        group.signal(signal.SIGUSR1, "quit")  # type: ignore[arg-type]
    raised: list[BaseException] = []

    def thread() -> None:
        try:
            group.signal(signal.SIGUSR1, lambda *what: None)
        except InvalidArgument as error:
            raised.append(error)

    elsewhere = threading.Thread(target=thread)
    elsewhere.start()
    elsewhere.join()
    assert "main thread" in str(raised[0])
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    with pytest.raises(PeerDied):
        group.kill(4000, 0)
    with pytest.raises(PeerDied):
        group.kill_all(0)


def test_a_signal_interrupts_what_waits_and_that_goes_on(group: Group) -> None:
    """A handler that returns lets the call go on; one that raises ends it."""

    def body(line: Line) -> None:
        class Enough(Exception):
            pass

        def handler(number: int, info: SignalInfo) -> None:
            line.send(number)
            if number == signal.SIGUSR2:
                raise Enough

        sleeper = group.spawn(time.sleep, DEADLINE_S)
        for sig in (signal.SIGUSR1, signal.SIGUSR2):
            group.signal(sig, handler)
        line.send(group.pid)

        def waits(name: str, call: Callable[[], object]) -> None:
            try:
                line.send(name)
                call()
                line.send("returned")
            except Enough:
                line.send("ended")

        waits("sleep", lambda: time.sleep(DEADLINE_S))
        waits("request", lambda: group.request(group.parent_vmid, 70))
        waits("sigwait", lambda: group.sigwait({signal.SIGRTMIN}))
        waits("wait", sleeper.wait)
        sleeper.kill()
        sleeper.wait()
        group.close()

    with Forked(body) as child:
        pid = child.recv()
        for name in ("sleep", "request", "sigwait", "wait"):
            assert child.recv() == name
            group.kill(pid, signal.SIGUSR1)
            assert child.recv() == signal.SIGUSR1
            group.kill(pid, signal.SIGUSR2)
            assert child.recv() == signal.SIGUSR2
            assert child.recv() == "ended"
        assert child.wait() == 0


def test_sigwait_takes_a_signal_instead_of_the_handler(group: Group) -> None:
    def body(line: Line) -> None:
        handled: list[int] = []
        group.signal(signal.SIGUSR1, lambda number, info: handled.append(number))
        with pytest.raises(libos_ipc.Timeout):
            group.sigwait({signal.SIGUSR2, signal.SIGRTMIN}, timeout=0)
        line.send(group.pid)
        got = group.sigwait({signal.SIGUSR1, signal.SIGUSR2}, timeout=DEADLINE_S)
        line.send((int(got), tuple(got.info)))
        line.recv()  # meanwhile another has come, which is held back
        line.send([int(group.sigwait({signal.SIGUSR2}, DEADLINE_S)), handled])
        group.signal(signal.SIGUSR2, signal.SIG_DFL)
        line.send()
        line.pause()

    with Forked(body) as child:
        pid = child.recv()
        poll(lambda: "session.wait_for(" in group.getmeta(pid, "stack"))
        group.kill(pid, signal.SIGUSR1)
        assert child.recv() == (signal.SIGUSR1, (group.pid, os.getuid(), "process"))
        group.kill(pid, signal.SIGUSR2)
        child.send()
        assert child.recv() == [signal.SIGUSR2, []]
        child.recv()
        group.kill(pid, signal.SIGUSR2)
        assert os.WTERMSIG(child.wait()) == signal.SIGUSR2


def test_a_handler_may_use_the_group_whatever_it_interrupts(group: Group) -> None:
    """Also where the main thread is inside of the library, with its lock in hand."""
    rounds = 300

    def body(line: Line) -> int:
        handled: list[int] = []

        def handler(number: int, info: SignalInfo) -> None:
            handled.append(group.ids.owner(group.pid) or 0)

        group.signal(signal.SIGRTMIN, handler)
        line.send(group.pid)
        deadline = time.monotonic() + DEADLINE_S
        while len(handled) < rounds and time.monotonic() < deadline:
            group.ids.release(group.ids.new())
        assert set(handled) == {group.vmid}
        group.close()
        return len(handled)

    with Forked(body) as child:
        pid = child.recv()
        for _ in range(rounds):
            group.kill(pid, signal.SIGRTMIN)
        assert child.result() == rounds


def test_a_handler_waits_for_the_step_that_it_would_interrupt(group: Group, restored: None) -> None:
    """Also one that was inherited: its process has a lock of its own."""
    handled: list[int] = []

    def interrupted_in_a_step() -> int:
        with group._node.session.lock:
            signal.raise_signal(signal.SIGUSR1)
            meanwhile = len(handled)
        poll(lambda: handled, what="handled")
        return meanwhile

    group.signal(signal.SIGUSR1, lambda number, info: handled.append(number))
    with Forked(lambda line: interrupted_in_a_step()) as child:
        assert child.result() == 0
    assert interrupted_in_a_step() == 0


def test_a_handler_that_raises_loses_no_other_signal(group: Group) -> None:
    def body(line: Line) -> int:
        handled = []

        def handler(number: int, info: SignalInfo) -> None:
            handled.append(number)
            raise ValueError

        group.signal(signal.SIGRTMIN, handler)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
        line.send(group.pid)
        line.recv()
        poll(lambda: len(group._node.signalling.pending._real_time.get(signal.SIGRTMIN, ())) == 3)
        while True:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGRTMIN})
                return poll(lambda: len(handled) == 3) and len(handled)
            except ValueError:
                continue

    with Forked(body) as child:
        pid = child.recv()
        for _ in range(3):
            group.kill(pid, signal.SIGRTMIN)
        child.send()
        assert child.result() == 3


def test_an_interruption_that_python_misses_is_made_again(
    group: Group, restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it falls between Python's last look and a system call; and the handler runs once."""
    handled: list[tuple[int, str]] = []
    interrupt = signal.pthread_kill
    sent: list[int] = []

    def miss(thread: int, sig: int) -> None:
        """Python looks, and finds the first SIGUSR1, at the second time that it is made to."""
        sent.append(sig)
        if sent == [signal.SIGUSR1, LOOK_SIGNAL, LOOK_SIGNAL]:
            interrupt(thread, signal.SIGUSR1)
        elif len(sent) > 1:
            interrupt(thread, sig)

    monkeypatch.setattr(signal, "pthread_kill", miss)
    group.signal(signal.SIGUSR1, lambda sig, info: handled.append((sig, info.type)))
    with Forked(lambda line: group.kill(group.ppid, signal.SIGUSR1)) as child:
        child.result()
        poll(lambda: handled, what="handled")
        group.kill(group.pid, signal.SIGUSR1)
    poll(lambda: len(handled) > 1, what="handled")
    assert handled == [(signal.SIGUSR1, "process")] * 2
    assert sent == [signal.SIGUSR1, LOOK_SIGNAL, LOOK_SIGNAL, signal.SIGUSR1]


def test_what_came_with_a_signal_of_the_kernel_does_not_come_again(
    group: Group, restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread is found in the middle of a step, and not interrupted; before it is to be
    again, another one handles what is pending."""
    handled: list[str] = []
    group.signal(signal.SIGUSR1, lambda sig, info: handled.append(info.type))
    session, signalling = group._node.session, group._node.signalling
    later: list[Callable[[], None]] = []
    busy: Any = SimpleNamespace(
        closed=False,
        lock=SimpleNamespace(locked=lambda: True),
        clock=SimpleNamespace(later=lambda pause_s, action: later.append(action)),
    )
    signalling.pending.arrive(signal.SIGUSR1, SignalInfo(2, 2, "process"))
    with monkeypatch.context() as patch:
        patch.setattr(signalling, "_session", lambda: busy)
        signalling._on_real(signal.SIGUSR1)
    busy.lock = session.lock
    os.kill(os.getpid(), signal.SIGUSR1)
    poll(lambda: handled, what="handled")
    for action in later:
        action()
    os.kill(os.getpid(), signal.SIGUSR1)
    poll(lambda: len(handled) > 1, what="handled")
    assert (len(later), handled) == (1, ["process", "kernel"])


def test_another_handler_that_raises_beside_the_trampoline_leaves_no_lock_held(
    group: Group, restored: None
) -> None:
    """At each of its bytecodes, more than those at which Python looks for signals."""
    group.signal(signal.SIGUSR1, lambda sig, info: None)
    signalling, lock = group._node.signalling, group._node.session.lock
    left = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal left
        if event == "call":
            if frame.f_code.co_name != "_on_real":
                return None
            bytecodes.hear(frame, trace)
        if event == "opcode":
            left -= 1
            if left == 0:
                raise InterruptedError
        return trace

    for at in range(1, 1000):
        left = at
        try:
            with bytecodes.traced(trace):
                signalling._on_real(signal.SIGUSR1)
        except InterruptedError:
            poll(lambda: not lock.locked(), timeout=1)
        if left > 0:
            break
    assert at > 20
    assert left > 0


def test_forked_children_inherit_handlers(group: Group) -> None:
    def body(line: Line) -> None:
        group.signal(signal.SIGUSR1, lambda number, info: line.send((group.pid, info.sender)))
        with Forked(lambda inner: inner.pause()):
            pids = {group.pid, group.ppid}
            line.send(next(m.pid for m in group.members() if m.pid not in pids))
            line.pause()

    with Forked(body) as child:
        pid = child.recv()
        group.kill(pid, signal.SIGUSR1)
        assert child.recv() == (pid, group.pid)


def test_who_leaves_gives_its_signals_back(group: Group, runtime_dir: Path, restored: None) -> None:
    """To another group that handles them, then to the program; what waits is handled first."""
    handled: list[str] = []

    def handler_of(name: str) -> Callable[[int, SignalInfo], None]:
        return lambda number, info: handled.append(f"{name}, {info.type}")

    def closed_while_one_waits(group: Group) -> None:
        group._node.signalling.pending.arrive(signal.SIGUSR1, SignalInfo(2, 2, "process"))
        group.close()
        assert handled.pop().endswith(", process")

    def closed_by_another_thread(group: Group) -> None:
        thread = threading.Thread(target=group.close)
        thread.start()
        thread.join()

    signal.signal(signal.SIGUSR1, lambda number, frame: handled.append("the program"))
    for close in (closed_while_one_waits, closed_by_another_thread):
        groups = [Group.create(f"g{n}", leader="embedded", runtime_dir=runtime_dir) for n in (1, 2)]
        for n, each in enumerate(groups):
            each.signal(signal.SIGUSR1, handler_of(f"group {n}"))
        for each in (*reversed(groups), None):
            signal.raise_signal(signal.SIGUSR1)
            if each is not None:
                close(each)
        assert handled == ["group 1, kernel", "group 0, kernel", "the program"]
        handled.clear()


def test_an_interruption_that_meets_a_closed_group_is_none(group: Group, restored: None) -> None:
    """The worker had sent it; what the program would do with that number is not what was meant."""
    handled: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    group.signal(signal.SIGUSR1, lambda number, info: None)
    thread = threading.Thread(target=group.close)
    thread.start()
    thread.join()
    group._node.signalling._poked.add(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert handled == []
    signal.raise_signal(signal.SIGUSR1)
    assert handled == [signal.SIGUSR1]


def test_a_signal_on_its_way_is_not_the_childs(group: Group, restored: None) -> None:
    """Whose sender is being asked for when its receiver forks."""
    handled: list[int] = []
    group.signal(signal.SIGUSR1, lambda number, info: handled.append(number))
    session = group._node.session
    on_its_way = [Signalled(signal.SIGUSR1, SignalInfo(2, os.getuid(), "process"))]
    with Listener(group) as never_ready:
        with session.lock:
            asked = never_ready.vmid, 70, b"", lambda answer, now: on_its_way
            session.perform(session.member.request(*asked, time.monotonic())[1])
        with Forked(
            lambda line: (handled, signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
        ) as child:
            assert child.result() == ([], False)
        assert handled == []
    poll(lambda: handled == [signal.SIGUSR1], what="no answer will come: it arrives")


def test_no_handler_runs_between_the_two_sides_of_a_fork(
    group: Group, restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would wait for is held over the fork, and a child is no member yet: it runs after."""
    handled: list[tuple[int, int]] = []

    def handler(number: int, info: SignalInfo) -> None:
        handled.append((os.getpid(), group.counters().sent))

    group.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(at_fork, "before", lambda: signal.raise_signal(signal.SIGUSR1))
    monkeypatch.setattr(at_fork, "child", lambda: signal.raise_signal(signal.SIGUSR1))

    def child(line: Line) -> None:
        poll(lambda: [pid for pid, _ in handled] == [os.getpid()])
        signal.raise_signal(signal.SIGUSR1)
        poll(lambda: len(handled) == 2)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()

    with Forked(child) as forked:
        poll(lambda: [pid for pid, _ in handled] == [os.getpid()])
        forked.result()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
