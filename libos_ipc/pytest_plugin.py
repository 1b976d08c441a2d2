"""Fixtures for tests that share something between the workers of pytest-xdist.

    pytest_plugins = ["libos_ipc.pytest_plugin"]    # in the conftest.py at the root of the tests
    pytest -n 4 -p libos_ipc.pytest_plugin          # or on the command line

Unless asked for in one of these ways, nothing is loaded. The fixtures:

    libos_group             the group of this run: all workers join it when they first need it
    unique_port             a TCP port that no other test of this run gets
    unique_port_factory     the same for fixtures of a wider scope: a function that gives such ports
    shared                  `shared("name", make)`: made once in this run, by one worker, for all

Under xdist the process that starts the workers founds the group and keeps what is in it until they
have ended. Without xdist it is founded when first needed. Workers elsewhere cannot join.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import socket
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import pytest

import libos_ipc

if TYPE_CHECKING:
    from libos_ipc import Group, SyncHandle

    _Finalizer: TypeAlias = Callable[[Any], object] | None

__all__ = ["MakeFailed", "Shared", "libos_group", "shared", "unique_port", "unique_port_factory"]


class MakeFailed(Exception):
    """What `shared` was to share could not be made. The text ends with the maker's traceback."""


class _Result(msgspec.Struct):
    """What has become of a name: a value, or why there is none."""

    value: bytes = b""
    error: str = ""
    skip: str | None = None


class _Place:
    """What the run has in its group; it is there as long as anybody has it open.

    `working` are the workers that have not run their last test yet, `failures` is what finalizers
    raised, and who has `making(name)` EXCLUSIVE makes what goes by the name, or makes an end of it.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.results: SyncHandle[dict[str, _Result]] = self._open("results", dict[str, _Result])
        self.ports: SyncHandle[set[int]] = self._open("ports", set[int])
        self.working: SyncHandle[set[str]] = self._open("working", set[str])
        self.failures: SyncHandle[list[str]] = self._open("failures", list[str])

    def making(self, name: str) -> SyncHandle[Any]:
        return self._open(f"making {name}", bytes)

    def _open(self, what: str, type: Any) -> SyncHandle[Any]:
        return self.group.sync(f"libos_ipc.pytest_plugin: {what}", type=type)


class Shared:
    """What the fixture `shared` is: see `__call__`."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __call__(
        self, name: str, make: Callable[[], Any], *, type: Any = Any, finalize: _Finalizer = None
    ) -> Any:
        """What `make()` returns, which is called in exactly one process of this run.

        The others wait for it. They, and the maker too, get what msgspec makes of the encoded
        value: by default of plain types, so that a tuple comes back as a list; else of `type`. If
        `make` raises, everybody gets MakeFailed, also later, and nobody tries again; if it skips,
        everybody is skipped. If the process that makes it dies, the next one makes it.

        `finalize(value)` is called once, when all workers have run their last test: by the worker
        that made it, or, if that has died, by another one that asked for it. What was made last
        goes first. Workers that have something to finalize wait at their end for those that still
        run tests. If it raises, the run has failed.

        >>> @pytest.fixture(scope="session")
        ... def database(shared):
        ...     return shared("database", make_database, finalize=shutil.rmtree)
        """
        place = self._run.place
        with place.results.shared() as results:
            result = results.get(name)
        if result is None:
            with place.making(name).exclusive():
                with place.results.shared() as results:
                    result = results.get(name)
                result = result or self._make(name, make, type)
        if result.skip is not None:
            pytest.skip(result.skip)
        if result.error:
            raise MakeFailed(result.error)
        if finalize is not None:
            self._run.finalizers.setdefault(name, (finalize, type))
        return msgspec.msgpack.decode(result.value, type=type)

    def _make(self, name: str, make: Callable[[], Any], type: Any) -> _Result:
        result = _Result()
        try:
            result.value = _encode(make(), type)
        except pytest.skip.Exception as skip:
            result.skip = skip.msg or ""
        except (Exception, pytest.fail.Exception):
            text = f"shared({name!r}) was made in {self._run.worker}, which raised:\n"
            result.error = text + traceback.format_exc()
        with self._run.place.results.exclusive() as box:
            box.value[name] = result
        self._run.made.add(name)
        return result


def _encode(value: Any, type: Any) -> bytes:
    try:
        data = msgspec.msgpack.encode(value)
        msgspec.msgpack.decode(data, type=type)
    except (msgspec.MsgspecError, TypeError, OverflowError) as error:
        text = f"make() returned {value!r:.80}, which cannot go to other processes: {error}. "
        raise TypeError(f"{text}Return what leads to it, such as a path or a port") from None
    return data


class _Run:
    """This process's part in the run: a worker's, the starter's of workers, or all of it."""

    def __init__(self, config: pytest.Config) -> None:
        self._input: dict[str, Any] | None = getattr(config, "workerinput", None)
        self._starts_workers = False
        self._told: list[str] = []
        self.made: set[str] = set()
        self.finalizers: dict[str, tuple[Callable[[Any], object], Any]] = {}
        self.worker = "this process" if self._input is None else f"worker {self._input['workerid']}"

    @functools.cached_property
    def place(self) -> _Place:
        """The group of the run, founded or joined when this is first asked for."""
        if self._input is None:
            return self._found(secrets.token_hex(4))
        if "libos_ipc_group" not in self._input:
            raise pytest.UsageError(
                "the process that started the workers has not loaded libos_ipc.pytest_plugin: "
                "name it in the conftest.py at the root of the tests, or with -p"
            )
        return _Place(libos_ipc.Group.join(self._input["libos_ipc_group"]))

    def _found(self, run_id: str) -> _Place:
        run_id = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)[:32]  # it may be given twice: with our pid
        return _Place(libos_ipc.Group.create(f"pytest-{run_id}-{os.getpid()}"))

    def new_port(self) -> int:
        """See `unique_port`."""
        with self.place.ports.exclusive() as box:
            for port in _free_ports():
                if port not in box.value:
                    box.value.add(port)
                    return port
        raise RuntimeError("every TCP port is in use, or was given to another test of this run")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker is about to be started."""
        if not self._starts_workers:
            try:
                self.place = self._found(node.workerinput["testrunuid"])
            except libos_ipc.IpcError as error:
                raise pytest.UsageError(f"libos_ipc.pytest_plugin: {error.args[-1]}") from error
            self.place.group.ready()  # no handlers: what tests send to all does not pile up here
            self._starts_workers = True
        with self.place.working.exclusive() as box:
            box.value.add(node.gateway.id)
        node.workerinput["libos_ipc_group"] = self.place.group.token()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended, somehow."""
        with self.place.working.exclusive() as box:
            box.value.discard(node.gateway.id)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """After the fixtures are torn down, and before a worker says that it is done."""
        if self._starts_workers:  # after an interrupt some work yet: nobody is to wait for them
            with self.place.working.exclusive() as box:
                box.value.clear()
        answer = yield
        if "place" in vars(self):
            if not self._starts_workers:
                self._finish(self.place)
            if self._input is None:
                self._told = self.place.failures.wait(lambda _: True)
            if self._told and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return answer

    def _finish(self, place: _Place) -> None:
        mine = [name for name in reversed(self.finalizers) if name in self.made]
        with contextlib.ExitStack() as held:  # others get in when we are done, or dead
            for name in mine:
                held.enter_context(place.making(name).exclusive())
            if self._input is not None:
                with place.working.exclusive() as box:
                    box.value.discard(self._input["workerid"])
            if self.finalizers:
                place.working.wait(lambda working: not working)
            for name in mine:
                self._finalize(place, name)
        for name in reversed(self.finalizers):
            with place.making(name).exclusive():
                self._finalize(place, name)

    def _finalize(self, place: _Place, name: str) -> None:
        with place.results.exclusive() as results:
            result = results.value.pop(name, None)
        finalize, type = self.finalizers[name]
        try:
            if result is not None:  # nobody has done it
                finalize(msgspec.msgpack.decode(result.value, type=type))
        except (Exception, pytest.fail.Exception):
            with place.failures.exclusive() as box:
                box.value.append(f"shared({name!r}), in {self.worker}:\n{traceback.format_exc()}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Finalizers that raised: they are no test's fault."""
        if self._told:
            terminalreporter.section("finalizers that failed", red=True)
            terminalreporter.write_line("\n".join(self._told))

    def pytest_unconfigure(self) -> None:
        """Leave, so that all that the tests have left in the group ends."""
        if "place" in vars(self):
            self.place.group.close()


def _free_ports() -> Iterator[int]:
    """Ports at which a server may listen; none that the kernel itself gives to connections."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    there = range(10_000, 65_536)  # services of the system are rare there
    fit = [port for port in there if not low <= port <= high] or list(there)
    first = secrets.randbelow(len(fit))  # another run on this machine begins elsewhere
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    for port in fit[first:] + fit[:first]:
        with contextlib.suppress(OSError):
            socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
            yield port


_RUN = pytest.StashKey[_Run]()


def pytest_configure(config: pytest.Config) -> None:
    """Take part in this run, which costs nothing yet."""
    config.stash[_RUN] = _Run(config)
    config.pluginmanager.register(config.stash[_RUN], "libos_ipc.pytest_plugin.run")


@pytest.fixture(scope="session")
def libos_group(pytestconfig: pytest.Config) -> Group:
    """The group of this run: its workers, and the process that starts them, which takes no
    messages. It is left at the end of the run."""
    return pytestconfig.stash[_RUN].place.group


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Shared:
    """`shared("name", make, type=…, finalize=…)`: made by one worker, for all. See `Shared`."""
    return Shared(pytestconfig.stash[_RUN])


@pytest.fixture(scope="session")
def unique_port_factory(pytestconfig: pytest.Config) -> Callable[[], int]:
    """A function each call of which gives a TCP port as `unique_port` does."""
    return pytestconfig.stash[_RUN].new_port


@pytest.fixture
def unique_port(unique_port_factory: Callable[[], int]) -> int:
    """A TCP port that is free, and that no other test of this run was or will be given. The kernel
    gives it to no outgoing connection either."""
    return unique_port_factory()
