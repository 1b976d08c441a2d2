"""What every test has: a private runtime directory, a group, and guards against leaving traces.

A test fails, though all that it asserts holds, if it leaves behind a child process or a zombie,
an open descriptor, a thread, a leader process, or a file in its runtime directory.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import processes
import pytest
from hypothesis import HealthCheck, settings

import libos_ipc
from libos_ipc import fcntl
from libos_ipc.core import delegations
from libos_ipc.runtime import descriptor_call

#: Paths of Unix sockets have 107 bytes: the directory has a short name, in memory if possible.
SHORT = "/dev/shm" if os.path.isdir("/dev/shm") else None

# How long an example takes says how much else the machine does, or that sanitizers look on.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "config(**knobs): the `GroupConfig` of the group fixture")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background by a shell: what the tests start must not inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ or sys.version_info[:3] == (3, 13, 0):
        # A worker of xdist has a thread of its own, for which Python warns at every fork; 3.13.0
        # warns whatever one does. That the library gives no cause is tested in a script.
        config.addinivalue_line(
            "filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning"
        )


def _traces() -> dict[str, set[object]]:
    return {
        "processes": set(processes.children()),
        "descriptors": set(processes.descriptors().items()),
        "threads": {(thread.name, thread.ident) for thread in threading.enumerate()},
        "kernel threads": set(os.listdir("/proc/self/task")),
    }


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """The guard of what a process can leak."""
    before = _traces()
    yield
    left: dict[str, set[object]] = {}

    def clean() -> bool:
        left.clear()
        now = _traces()
        left.update({kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]})
        if left:
            gc.collect()  # what only a cycle of references holds is no leak
        return not left

    try:
        processes.poll(clean, timeout=5)
    except AssertionError:
        pytest.fail(f"the test left behind: {left}")


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private runtime directory, also the default one; guarded: empty when the test ends."""
    for name in os.environ:
        if name.startswith("LIBOS_IPC_"):
            monkeypatch.delenv(name)
    path = Path(tempfile.mkdtemp(prefix="li-", dir=SHORT))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    try:
        yield path
        left: list[object] = []

        def clean() -> bool:
            left[:] = processes.leaders(path)
            for _, directories, files in os.walk(path):
                left.extend({*directories, *files} - {"libos_ipc"})
            return not left

        try:
            processes.poll(clean, timeout=15)
        except AssertionError:
            pytest.fail(f"left behind: leader processes, or files in the runtime directory: {left}")
    finally:
        for pid in processes.leaders(path):
            os.kill(pid, 9)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    """What carries the messages of the group: see `transports_for`. What only makes use of messages
    has one of the three, each case of a test always the same, in turn."""
    in_turn = TRANSPORTS[crc32(request.node.name.encode()) % len(TRANSPORTS)]
    return str(getattr(request, "param", in_turn))


@pytest.fixture
def config(request: pytest.FixtureRequest, transport: str) -> libos_ipc.GroupConfig:
    """The configuration that the marks `config` of the test ask for.

    After a killed member, a group lives on until children of it could have said hello: not long.
    """
    knobs: dict[str, object] = {}
    for mark in request.node.iter_markers("config"):
        knobs = {**mark.kwargs, **knobs}
    knobs.setdefault("fork_timeout", 1.0)
    knobs.setdefault("transport", transport)
    return libos_ipc.GroupConfig(**knobs)  # type: ignore[arg-type]


@pytest.fixture
def found(
    runtime_dir: Path, config: libos_ipc.GroupConfig
) -> Iterator[Callable[..., libos_ipc.Group]]:
    """Found groups in the private runtime directory; they are left when the test ends."""
    founded = []

    def create(name: str | None = "g", **more: object) -> libos_ipc.Group:
        given = {"runtime_dir": runtime_dir, "config": config, **more}
        founded.append(libos_ipc.Group.create(name, **given))  # type: ignore[arg-type]
        return founded[-1]

    yield create
    for group in founded:
        group.close()


@pytest.fixture
def group(request: pytest.FixtureRequest, found: Callable[..., libos_ipc.Group]) -> libos_ipc.Group:
    """A group that this process has founded; parametrise it (indirect) with the leader's kind.

    `"delegating"` is an embedded leader that gives files away after each unlocking.
    """
    kind = getattr(request, "param", "process")
    if kind == "delegating":
        request.getfixturevalue("monkeypatch").setattr(delegations, "STREAK", 1)
    return found(leader="process" if kind == "process" else "embedded")


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors of the calls of `libos_ipc.fcntl` that went through Python."""
    seen: list[int] = []

    class Counted(descriptor_call.DescriptorCall):
        def __init__(self, session: Any, descriptions: Any, pid: int, fd: int, kind: Any) -> None:
            seen.append(fd)
            super().__init__(session, descriptions, pid, fd, kind)

    monkeypatch.setattr(fcntl, "DescriptorCall", Counted)
    return seen


def every_way(metafunc: pytest.Metafunc) -> None:
    """For `pytest_generate_tests` of a module about locks: each test of a group, with and without
    delegation, unless it chooses by itself."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "group" in metafunc.fixturenames and not any("group" in mark.args[0] for mark in marks):
        metafunc.parametrize("group", ["process", "delegating"], indirect=True)


TRANSPORTS = ("zmq", "native", "auto")

#: What is about messages between processes, whatever carries them: each test by connections alone
#: and by lanes as soon as these stand.
TRANSPORTED = {
    "test_children",
    "test_clean_up",
    "test_exec",
    "test_fork",
    "test_full",
    "test_hostile",
    "test_ids",
    "test_messages",
    "test_shortage",
    "test_signals",
    "test_stopped",
    "test_sync",
}
#: Of these, what is also about a pair that changes over in the middle.
CHANGING = {"test_messages"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-transport",
        action="store_true",
        help="run each test that uses a group over zmq, native and auto: three times as long",
    )


def transports_for(metafunc: pytest.Metafunc) -> tuple[str, ...]:
    """What a test is to be run over; nothing if it is one of the three, or what the test says."""
    module = metafunc.module.__name__
    if any(
        "transport" in (mark.kwargs if mark.name == "config" else mark.args[0])
        for mark in metafunc.definition.iter_markers()
        if mark.name in {"config", "parametrize"}
    ):
        return ()
    if metafunc.config.getoption("every_transport"):
        return TRANSPORTS
    if module not in TRANSPORTED:
        return ()
    return TRANSPORTS if module in CHANGING else ("zmq", "native")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of a group, over the transports that say something about it."""
    transports = transports_for(metafunc)
    if transports and "config" in metafunc.fixturenames:
        metafunc.parametrize("transport", transports, indirect=True)


both_leaders = pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
