"""Processes for tests: run a function in a forked child, and hear from it.

A forked child never returns into the test that made it: it ends by `os._exit`, after what its
function returned or raised has gone through a pipe. Both sides can send and receive values
meanwhile. Nothing waits for ever, and nothing sleeps to wait: `poll` asks again until a deadline.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import termios
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing import connection
from types import SimpleNamespace, TracebackType
from typing import Any

#: Seconds after which a test gives up. Only failures take so long, also on a loaded machine.
DEADLINE_S = 30.0

#: Called around a fork, closer to it than any hook of the library: last before, first after.
at_fork = SimpleNamespace(before=None, parent=None, child=None)


def _at_fork(name: str) -> Callable[[], None]:
    def hook() -> None:
        call = getattr(at_fork, name)
        if call is not None:
            call()

    return hook


os.register_at_fork(
    before=_at_fork("before"), after_in_parent=_at_fork("parent"), after_in_child=_at_fork("child")
)


def poll(
    until: Callable[[], Any], timeout: float = DEADLINE_S, what: str = "", *, pause: bool = True
) -> Any:
    """Ask `until` again and again; give the first true answer, fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause_s = 0.0005 if pause else 0.0
    while True:
        answer = until()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or until}"
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)


class Line:
    """The child's end: values to and from the test."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe = pipe

    def send(self, value: object = None) -> None:
        self._pipe.send(("sent", value))

    def recv(self) -> Any:
        """The next value from the test; ends this process when the test is over."""
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            os._exit(0)

    def pause(self) -> None:
        """Stay until the test is over, or says something."""
        self.recv()


class Forked:
    """A function that runs in a forked child: `function(line, *args)`.

    As a context manager it leaves no process behind, whatever happened.
    """

    def __init__(
        self, function: Callable[..., object], *args: object, fork: Callable[[], int] = os.fork
    ) -> None:
        mine, childs = connection.Pipe()
        os_pid = fork()
        if not os_pid:
            mine.close()
            _run(childs, function, args)
        childs.close()
        self.os_pid = os_pid
        self._pidfd = os.pidfd_open(os_pid)
        self._pipe = mine
        self.status: int | None = None

    def send(self, value: object = None) -> None:
        """A value for the child's `line.recv`."""
        self._pipe.send(value)

    def recv(self, timeout: float = DEADLINE_S) -> Any:
        """What the child sends next; fails with its traceback if it raised instead."""
        return self._next("sent", timeout)

    def result(self, timeout: float = DEADLINE_S) -> Any:
        """What the function returned; the process is gone when this returns."""
        value = self._next("returned", timeout)
        self.wait(timeout)
        return value

    def _next(self, wanted: str, timeout: float) -> Any:
        ready = connection.wait([self._pipe, self._pidfd], timeout)
        assert ready, f"process {self.os_pid} said nothing within {timeout} s"
        assert self._pipe in ready or self._pipe.poll(), f"process {self.os_pid} ended unheard"
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise AssertionError(f"process {self.os_pid} ended unheard") from None
        assert kind == wanted, f"process {self.os_pid} {kind}:\n{value}"
        return value

    @property
    def has_said(self) -> bool:
        """Whether `recv` need not wait."""
        return self._pipe.poll()

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal."""
        signal.pidfd_send_signal(self._pidfd, sig)

    def stop(self) -> None:
        """SIGSTOP, and wait until it has stopped."""
        self.kill(signal.SIGSTOP)
        poll(lambda: state_of(self.os_pid) == "T", what="stopped")

    def wait(self, timeout: float = DEADLINE_S) -> int:
        """Wait for its end and take the zombie away; the wait status."""
        if self.status is None:
            assert connection.wait([self._pidfd], timeout), f"process {self.os_pid} lives on"
            self.status = os.waitpid(self.os_pid, 0)[1]
        return self.status

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.status is None:
            try:
                self.kill(signal.SIGCONT)
                self.send("the test is over")
            except OSError:
                pass  # it has ended already
            if error is not None or not connection.wait([self._pidfd], DEADLINE_S):
                self.kill()
            try:
                os.waitpid(self.os_pid, 0)
            except ChildProcessError:
                pass  # the test has waited for it itself
        self._pipe.close()
        os.close(self._pidfd)


def _run(pipe: connection.Connection, function: Callable[..., object], args: object) -> None:
    try:
        try:
            word = ("returned", function(Line(pipe), *args))  # type: ignore[misc]
        except BaseException:
            word = ("raised", traceback.format_exc())
        pipe.send(word)
    finally:
        os._exit(0)


class Peer(Forked):
    """A forked member of `group` that calls `setup(group)`, if given, and then stays."""

    def __init__(self, group: Any, setup: Callable[[Any], object] | None = None) -> None:
        def body(line: Line) -> None:
            if setup is not None:
                setup(group)
            line.send((group.vmid, group.pid))
            line.pause()
            group.close()

        super().__init__(body)
        self.vmid, self.pid = self.recv()


def state_of(os_pid: int) -> str:
    """The state letter of a process, "" if there is none."""
    fields = stat_of(os_pid)
    return fields[0] if fields else ""


def stat_of(os_pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, ppid, …; empty if it is gone."""
    try:
        with open(f"/proc/{os_pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def os_pids() -> list[int]:
    """All processes that there are."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def children() -> set[int]:
    """Our child processes, zombies too."""
    me = str(os.getpid())
    return {pid for pid in os_pids() if stat_of(pid)[1:2] == [me]}


def leaders(runtime_dir: object) -> list[int]:
    """The leader processes of the groups in this runtime directory, or in one inside it."""
    found = []
    for pid in os_pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "leader_process" in words and f'"{runtime_dir}' in words:
            found.append(pid)
    return found


def steady(look: Callable[[], Any], seconds: float = 0.3) -> Any:
    """What `look` finds once it has found the same for so long."""
    seen = look()
    since = time.monotonic()

    def unchanged() -> bool:
        nonlocal seen, since
        now = look()
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= seconds

    poll(unchanged, what="no more changes")
    return seen


def wait_until_idle(os_pid: int) -> None:
    """Wait until the main thread of a process has slept for a while without a break."""

    def switches() -> list[str]:
        with open(f"/proc/{os_pid}/status") as file:
            return [line for line in file if "ctxt_switches" in line]

    steady(switches)


def descriptors() -> dict[int, str]:
    """Our open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed them
    return found


def until_settled() -> None:
    """Wait until the library opens nothing more by itself: then numbers can be told beforehand."""
    steady(descriptors)


def kinds_of_descriptors() -> Counter[str]:
    """How many descriptors of each kind are open: for what is made again under other numbers."""
    return Counter(re.sub(r"\d+", "N", target) for target in descriptors().values())


def poll_kinds(before: Counter[str]) -> None:
    """Wait until no more descriptors of any kind are open than before."""
    try:
        poll(lambda: kinds_of_descriptors() <= before, timeout=10)
    except AssertionError:
        raise AssertionError(f"more are open: {kinds_of_descriptors() - before}") from None


def unread_by_others() -> int:
    """Bytes that we have written into Unix sockets and that nobody has read yet."""
    total = 0
    for fd, target in descriptors().items():
        if target.startswith("socket:"):
            try:
                answer = fcntl.ioctl(fd, termios.TIOCOUTQ, struct.pack("i", 0))
            except OSError:
                continue  # one that listens
            total += struct.unpack("i", answer)[0]
    return total
