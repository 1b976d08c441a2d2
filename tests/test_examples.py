"""The examples do what they say, and leave nothing behind; so does the plugin for pytest."""

from __future__ import annotations

import ast
import asyncio
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import processes
import pytest

import libos_ipc

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.rglob("*.py"))
#: Seconds for a whole program, or a whole run of pytest, on a loaded machine.
LONG_S = 4 * processes.DEADLINE_S

Run = Callable[..., str]


@pytest.fixture
def environ(runtime_dir: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a program, after which no process and no file is left."""
    place = tmp_path / "tmp"
    place.mkdir()
    ours = f"XDG_RUNTIME_DIR={runtime_dir}".encode()
    environ = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    yield {**environ, "TMPDIR": str(place)}

    def left() -> list[int]:
        found = []
        for pid in set(processes.os_pids()) - {os.getpid()}:
            try:
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            if ours in words:
                found.append(pid)
        return found

    processes.poll(lambda: not left(), what="no process of the program left")
    assert list(place.iterdir()) == []


@pytest.fixture
def run(environ: dict[str, str], tmp_path: Path) -> Run:
    """Run Python: what it says on stdout. Status 0 and no stderr, unless others are expected."""

    def run(*words: object, status: int = 0, stderr: str = "", cwd: Path = tmp_path) -> str:
        done = subprocess.run(
            [sys.executable, *warnings(), *map(str, words)],
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=False,
        )
        assert re.fullmatch(stderr, done.stderr, re.DOTALL), done.stderr
        assert done.returncode == status, done.stdout
        return done.stdout

    return run


def warnings() -> list[str]:
    """Every warning is an error, but for those of 3.13.0, which warns of every fork."""
    if sys.version_info[:3] == (3, 13, 0):
        return ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    return ["-W", "error"]


# ---- all of them


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_an_example_is_short_and_says_what_it_shows(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    said = ast.get_docstring(ast.parse(text)) or ""
    name = path.relative_to(ROOT)
    if name.parent == Path("examples"):
        assert f"python {name}" in said, "how is it run?"
    assert len(said.splitlines()[0]) > 40


def test_examples_use_public_names_alone() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert not re.match(r"_[a-z]", node.attr), f"{path.name}: {node.attr}"
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("libos_ipc"), path.name


def load(name: str) -> ModuleType:
    """An example as a module, to use what it defines."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- append_log


def test_append_log(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('"the beginning"\n{"half a rec')
    said = run(EXAMPLES / "append_log.py", "--workers", 3, "--records", 50, log)
    assert said.splitlines()[-1] == "3 processes appended 150 lines, none is torn"
    # The half record that was there, and that of the worker that was killed.
    assert len(re.findall("^cut off 1[12] bytes", said, re.MULTILINE)) == 2
    first, *records, last = (json.loads(line) for line in log.read_text().splitlines())
    assert (first, last) == ("the beginning", "the end")
    by_process: dict[int, list[int]] = {}
    for record in records:
        assert record["values"] == list(range(record["number"]))
        by_process.setdefault(record["process"], []).append(record["number"])
    assert list(by_process.values()) == [list(range(50))] * 3


def test_append_log_in_a_file_of_its_own(run: Run) -> None:
    said = run(EXAMPLES / "append_log.py", "--records", 20)
    assert "6 processes appended 120 lines, none is torn" in said


# ---- rate_limiter


def test_rate_limiter(run: Run) -> None:
    said = run(EXAMPLES / "rate_limiter.py", "--rate", 40, "--burst", 3, "--seconds", 1.5)
    ahead = re.search(r"^at most (\S+) ahead of 40 a second; 3 may be$", said, re.MULTILINE)
    made = re.search(r"^(\d) processes made (\d+) calls; one was killed$", said, re.MULTILINE)
    assert ahead, said
    assert made, said
    assert float(ahead[1]) <= 3
    assert 1 <= int(made[1]) <= 4
    assert int(made[1]) <= int(made[2])


def test_the_rate_limiter_also_limits_tasks_and_threads(group: libos_ipc.Group) -> None:
    limiter = load("rate_limiter").RateLimiter(group, "test", rate=100, burst=2)

    async def call() -> float:
        async with limiter:
            return time.monotonic()

    async def call_all() -> list[float]:
        return await asyncio.gather(*(call() for _ in range(8)))

    start = time.monotonic()
    calls = sorted(asyncio.run(call_all()))
    for _ in range(2):
        with limiter:
            calls.append(time.monotonic())
    for number, at in enumerate(calls, 1):
        assert number <= 2 + 100 * (at - start) + 1e-6


# ---- exactly_one


def test_exactly_one(run: Run) -> None:
    said = run(EXAMPLES / "exactly_one.py", "--processes", 4, "--steps", 6)
    done = re.findall(r"^process (\d+) does step (\d+)$", said, re.MULTILINE)
    killed, heir = dict.fromkeys(process for process, _ in done)
    assert done == [(killed, n) for n in "0123"] + [(heir, n) for n in "345"]
    ends = dict(re.findall(r"^process (\d+): (\d .*)$", said, re.MULTILINE))
    assert ends.pop(killed) == "3 steps, killed by signal 9"
    assert ends.pop(heir) == "3 steps, ended with the job done"
    assert list(ends.values()) == ["0 steps, ended with the job done"] * 2
    assert said.splitlines()[-1] == "6 of 6 steps are done, by 2 processes"


# ---- prefork_server


def test_prefork_server(run: Run) -> None:
    said = run(EXAMPLES / "prefork_server.py")
    assert said.splitlines() == ["90 requests, 3 workers, 6 computations"] * 2


def test_prefork_server_serves(environ: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, *warnings(), str(EXAMPLES / "prefork_server.py"), str(port)]
    output = tmp_path / "output"
    with (
        output.open("w") as file,
        subprocess.Popen(words, env=environ, stdout=file, stderr=file) as server,
    ):
        try:
            first = [ask(port, number) for number in range(20)]
            assert [int(text.split(",")[0]) for text in first] == [n**2 for n in range(20)]
            for pid in workers_of(server.pid):
                os.kill(pid, signal.SIGKILL)
            assert [ask(port, number) for number in range(20)] == first  # of the dead
            server.send_signal(signal.SIGINT)
            assert server.wait(processes.DEADLINE_S) == 0
        finally:
            server.kill()
    assert output.read_text() == ""


def ask(port: int, number: int) -> str:
    """What the server answers; asked again while nobody listens, or whoever did has died."""

    def once() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=processes.DEADLINE_S)
        try:
            connection.request("GET", f"/{number}")
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    return str(processes.poll(once, what=f"an answer to {number}"))


def workers_of(parent: int) -> list[int]:
    def look() -> list[int]:
        me = str(parent)
        pids = [pid for pid in processes.os_pids() if processes.stat_of(pid)[1:2] == [me]]
        return pids if len(pids) == 3 else []

    return list(processes.poll(look, what="three workers"))


# ---- libos_ipc.pytest_plugin

#: At the head of every suite: `note` writes a line into the file `log`.
HEAD = """
import os, pathlib, signal, sys, time
import pytest

def note(*words):
    with open(pathlib.Path(__file__).parent / "log", "a") as log:
        print(*words, file=log)

def worker():
    return os.environ.get("PYTEST_XDIST_WORKER", "alone")

def poll(until):
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def log():
    path = pathlib.Path(__file__).parent / "log"
    return path.read_text() if path.exists() else ""
"""


class Suite:
    """A directory of tests of their own, and how they are run."""

    def __init__(self, run: Run, path: Path) -> None:
        self._run = run
        self.path = path
        self.path.mkdir()
        (path / "pytest.ini").write_text("[pytest]\n")
        (path / "conftest.py").write_text('pytest_plugins = ["libos_ipc.pytest_plugin"]\n')

    def run(self, text: str, *options: str, status: int = 0, stderr: str = "") -> list[list[str]]:
        """Run this suite: the words of its log. What pytest said is `said`."""
        (self.path / "test_it.py").write_text(HEAD + text)
        basetemp = f"--basetemp={self.path}/base"
        words = ["-m", "pytest", "-v", "-p", "no:cacheprovider", basetemp, *options]
        self.said = self._run(*words, status=status, stderr=stderr, cwd=self.path)
        log = self.path / "log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def counts(self) -> dict[str, int]:
        """How many tests passed, failed, and so on."""
        last = self.said.splitlines()[-1]
        return {what: int(number) for number, what in re.findall(r"(\d+) ([a-z]+)", last)}


@pytest.fixture
def suite(run: Run, tmp_path: Path) -> Suite:
    return Suite(run, tmp_path / "suite")


#: The environment loads no plugins, which spares a second for each worker.
XDIST = ("-p", "xdist", "-n", "2")

xdist_or_not = pytest.mark.parametrize("options", [XDIST, ()], ids=["xdist", "alone"])


@xdist_or_not
def test_the_suite_that_is_an_example(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    where = ["-o", "addopts=", f"--basetemp={tmp_path}/base", EXAMPLES / "shared_fixture"]
    said = run("-m", "pytest", "-p", "no:cacheprovider", *options, *where, cwd=ROOT)
    assert re.search(r"^=+ 49 passed in .*=+$", said, re.MULTILINE)


SHARING = """
def make():
    note("made", worker())
    time.sleep(0.1)
    return {"by": worker(), "pair": (1, 2)}

@pytest.fixture(scope="session")
def thing(shared):
    yield shared("thing", make, finalize=lambda value: note("ended", worker(), value["by"]))
    note("torn", worker())

@pytest.fixture(scope="session")
def second(shared, thing):
    return shared("second", lambda: (thing["by"], 7), type=tuple[str, int])

@pytest.mark.parametrize("n", range(12))
def test_thing(thing, second, n, unique_port, unique_port_factory, libos_group):
    assert thing["pair"] == [1, 2]
    assert second == (second[0], 7)
    note("test", worker(), thing["by"], second[0])
    note("port", unique_port)
    note("port", unique_port_factory())
    note("group", libos_group.name, worker(), libos_group.vmid, libos_group.pid)
    time.sleep(0.02 * n)
"""


@xdist_or_not
def test_what_is_shared_is_made_once(suite: Suite, options: tuple[str, ...]) -> None:
    log = suite.run(SHARING, *options)
    assert suite.counts() == {"passed": 12}
    words: dict[str, list[list[str]]] = {}
    for word, *rest in log:
        words.setdefault(word, []).append(rest)
    ((maker,),) = words["made"]
    assert {tuple(rest[1:]) for rest in words["test"]} == {(maker, maker)}
    assert words["ended"] == [[maker, maker]]
    assert log[-1][0] == "ended", "it was still in use"
    ports = [int(port) for (port,) in words["port"]]
    assert len(set(ports)) == len(ports) == 24
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert all(1024 <= port <= 65535 and not low <= port <= high for port in ports)
    assert len({name for name, *_ in words["group"]}) == 1
    members = {tuple(rest) for _, *rest in words["group"]}
    assert len(members) == len({rest[0] for rest in words["test"]})


def test_what_is_shared_outlives_the_worker_that_made_it(suite: Suite) -> None:
    with (suite.path / "conftest.py").open("a") as file:
        file.write("def pytest_unconfigure():\n    __import__('test_it').note('over')\n")
    log = suite.run(
        """
def test_first(shared):
    shared("x", lambda: note("made") or 1)

def test_later(shared):
    poll(lambda: "over" in log())
    time.sleep(0.5)
    note("has", shared("x", lambda: note("made") or 2))
""",
        *XDIST,
    )
    assert log[:3] == [["made"], ["over"], ["has", "1"]]


@xdist_or_not
def test_all_get_the_error_of_the_maker(suite: Suite, options: tuple[str, ...]) -> None:
    log = suite.run(
        """
def make():
    note("made", worker())
    raise ValueError("no database today")

def skip():
    note("skipped", worker())
    pytest.skip("not on Mondays")

@pytest.mark.parametrize("n", range(6))
def test_broken(shared, n):
    shared("broken", make, finalize=lambda value: note("ended"))

@pytest.mark.parametrize("n", range(6))
def test_skipped(shared, n):
    shared("skipped", skip, finalize=lambda value: note("ended"))

def test_not_encodable(shared):
    shared("file", lambda: sys.stdout)

def test_of_another_type(shared):
    shared("text", lambda: "7", type=int)

def test_failing(shared):
    shared("failing", lambda: pytest.fail("no use"))
""",
        *options,
        status=1,
    )
    assert sorted(word for word, _ in log) == ["made", "skipped"]
    assert suite.counts() == {"failed": 9, "skipped": 6}
    ((_, maker), _) = sorted(log)
    who = "this process" if maker == "alone" else f"worker {maker}"
    assert f"shared('broken') was made in {who}, which raised:" in suite.said
    assert suite.said.count("ValueError: no database today") >= 6
    assert "which cannot go to other processes" in suite.said
    assert "Return what leads to it" in suite.said
    assert "Expected `int`, got `str`" in suite.said
    assert "Failed: no use" in suite.said


def test_another_one_makes_what_a_killed_worker_did_not(suite: Suite) -> None:
    log = suite.run(
        """
def make():
    note("begun", worker())
    if log().count("begun") == 1:
        poll(lambda: log().count("wants") == 2)
        time.sleep(0.2)  # the other one waits by now
        os.kill(os.getpid(), signal.SIGKILL)
    return worker()

@pytest.mark.parametrize("n", range(2))
def test_it(shared, n):
    note("wants", worker())
    value = shared("x", make, finalize=lambda value: note("ended", value))
    note("has", worker(), value)
""",
        *XDIST,
        status=1,
    )
    (_, dead), (_, heir) = (line for line in log if line[0] == "begun")
    assert dead != heir
    assert ["has", heir, heir] in log
    assert {line[2] for line in log if line[0] == "has"} == {heir}
    assert [line for line in log if line[0] == "ended"] == [["ended", heir]]
    assert suite.counts() == {"failed": 1, "passed": 1}
    assert f"worker '{dead}' crashed" in suite.said


def test_another_one_finalizes_if_the_maker_was_killed(suite: Suite) -> None:
    log = suite.run(
        """
def value(shared):
    return shared("x", worker, finalize=lambda value: note("ended", worker(), value))

@pytest.mark.parametrize("n", range(2))
def test_it(shared, n):
    note("has", worker(), value(shared))
    poll(lambda: log().count("has") == 2)
    if value(shared) == worker():
        os.kill(os.getpid(), signal.SIGKILL)
""",
        *XDIST,
        "--max-worker-restart=0",
        status=1,
    )
    (maker,) = {line[2] for line in log if line[0] == "has"}
    ((_, heir, ended),) = (line for line in log if line[0] == "ended")
    assert (ended, heir) == (maker, next(line[1] for line in log if line[1] != maker))


@xdist_or_not
def test_a_finalizer_that_raises_fails_the_run(suite: Suite, options: tuple[str, ...]) -> None:
    text = """
@pytest.mark.parametrize("n", range(4))
def test_it(shared, n):
    shared("before", lambda: 1)
    shared("before", lambda: 2, finalize=lambda value: note("ended", value))
    shared("x", lambda: 0, finalize=lambda value: 1 / value)
"""
    assert suite.run(text, *options, status=1) == [["ended", "1"]]
    assert suite.counts() == {"passed": 4}
    assert "finalizers that failed" in suite.said
    assert re.search(r"^shared\('x'\), in (worker gw\d|this process):$", suite.said, re.MULTILINE)
    assert "ZeroDivisionError" in suite.said


def test_an_interrupted_run_ends_what_is_shared(suite: Suite) -> None:
    text = """
@pytest.mark.parametrize("n", range(50))
def test_it(shared, n):
    shared("x", lambda: 0, finalize=lambda value: note("ended"))
    assert n != 3
"""
    assert suite.run(text, *XDIST, "-x", status=2) == [["ended"]]


def test_a_run_that_does_not_use_it_founds_nothing(suite: Suite, runtime_dir: Path) -> None:
    text = """
def test_it(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("libos_ipc.pytest_plugin")
    assert "libos_ipc.group" not in sys.modules
    assert "zmq" not in sys.modules
"""
    suite.run(text)
    assert list(runtime_dir.iterdir()) == []
    suite.run(text, *XDIST)


def test_an_id_of_the_run_may_be_anything(suite: Suite) -> None:
    text = "def test_it(libos_group): note(libos_group.name)\n"
    ((name,),) = suite.run(text, *XDIST, "--testrunuid", f"nightly/7: ä{'x' * 99}")
    assert re.fullmatch(r"pytest-nightly-7---x{19,}-\d+", name)


def test_where_no_group_can_be_founded_the_run_says_so(suite: Suite, tmp_path: Path) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    with (suite.path / "conftest.py").open("a") as file:
        file.write(f'import os\nos.environ["XDG_RUNTIME_DIR"] = {str(long)!r}\n')
    text = "def test_it(libos_group): pass\n"
    suite.run(text, *XDIST, status=4, stderr="ERROR: libos_ipc.pytest_plugin: .* too long .*")
    suite.run(text, status=1)
    assert "too long for a socket" in suite.said
