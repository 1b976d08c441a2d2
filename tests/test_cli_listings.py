"""`libos-ipc ids`, `locks` and `stacks`: what a group can be asked from outside of it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from test_cli import answer_of, cli, complaint_of, on_terminal

import libos_ipc
from libos_ipc.cli import main
from libos_ipc.cli.words import duration
from libos_ipc.locks import EOF

pytestmark = pytest.mark.usefixtures("runtime_dir")

LISTINGS = ("ps", "ids", "locks", "stacks", "sync")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line in this process; what it prints."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return said.out

    return run


def rows_of(table: str, heads: str) -> list[list[str]]:
    """The cells of a table with these heads, as far as they are single words."""
    head, *rows = [line.split() for line in table.splitlines()]
    assert head[: len(heads.split())] == heads.split()
    return rows


# ---- all of them


@pytest.mark.parametrize("command", LISTINGS)
def test_without_any_group(command: str, here: Callable[..., str]) -> None:
    assert re.fullmatch(r"no (group is alive|file is locked|value is shared) here\n", here(command))
    assert json.loads(here(command, "--json")) == []
    assert "no group named 'gone'" in complaint_of(command, "--group", "gone")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("ids", (1,)),
        ("ids", ("--group", "g", "x")),
        ("ids", ("--group", "g", 0)),
        ("ids", ("--group", "g", 2**32)),
        ("stacks", (1,)),
        ("stacks", ("--group", "g", "x")),
        ("locks", (1,)),
    ],
)
def test_usage_errors(
    command: str, words: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Usage: libos-ipc {command}" in said.err


@pytest.mark.parametrize("command", LISTINGS)
def test_every_group_or_one(
    command: str,
    found: Callable[..., libos_ipc.Group],
    runtime_dir: Path,
    here: Callable[..., str],
    tmp_path: Path,
) -> None:
    for name in ("first", "other"):
        file = tmp_path / name
        file.touch()
        there = found(name)
        there.locks.posix(file, "write")
        there.sync("value")
    rows = json.loads(here(command, "--json", "--runtime-dir", runtime_dir))
    assert [row["group"] for row in rows] == ["first", "other"]
    if command != "sync":  # where a row is of many processes
        assert [row["os_pid"] for row in rows] == [os.getpid()] * 2
        assert all("python" in row["command"] or "pytest" in row["command"] for row in rows)
    (row,) = json.loads(here(command, "--json", "--group", "other", "--runtime-dir", runtime_dir))
    assert row["group"] == "other"


# ---- ids


def test_ids_of_the_members(group: libos_ipc.Group) -> None:
    known = processes.Peer(group, lambda group: group.members())
    with known as peer, processes.Peer(group, lambda g: g.setpgid(0, 0)) as apart:
        rows = answer_of("ids", "--group", group.token())
        told = {row["id"]: row for row in rows}
        assert list(told) == sorted([group.pid, peer.pid, apart.pid])
        for id, vmid, os_pid, leads_group in (
            (group.pid, group.vmid, os.getpid(), True),
            (peer.pid, peer.vmid, peer.os_pid, False),
            (apart.pid, apart.vmid, apart.os_pid, True),
        ):
            assert (told[id]["vmid"], told[id]["pid"], told[id]["os_pid"]) == (vmid, id, os_pid)
            assert (told[id]["is_pid"], told[id]["is_pgid"]) == (True, leads_group)


def test_ids_that_are_asked_for(group: libos_ipc.Group, here: Callable[..., str]) -> None:
    with processes.Peer(group, lambda group: group.members()) as peer:
        own = group.ids.new()
        given = group.ids.new(peer.vmid)
        asked = (given, own, group.pid, 4_000_000)
        rows = json.loads(here("ids", "--group", group.token(), "--json", *asked))
        assert [row["id"] for row in rows] == list(asked)
        assert [row["vmid"] for row in rows] == [peer.vmid, group.vmid, group.vmid, None]
        assert [row["pid"] for row in rows] == [peer.pid, group.pid, group.pid, None]
        assert [row["is_pid"] for row in rows] == [False, False, True, False]
        assert rows[3]["command"] is None

        table = here("ids", "--group", group.token(), *asked)
        cells = rows_of(table, "GROUP ID WHAT VMID PID OS PID")
        start = [row[1:6] for row in cells]
        assert start[0] == [str(given), "ID", str(peer.vmid), str(peer.pid), str(peer.os_pid)]
        assert start[2][:4] == [str(group.pid), "pid,", "process", "group"]
        assert start[3] == ["4000000", "nobody's", "-", "-", "-"]


def test_a_process_group_whose_founder_has_gone(group: libos_ipc.Group) -> None:
    """Its ID stays in use."""
    with processes.Peer(group, lambda group: group.setpgid(0, 0)) as founder:
        group.setpgid(0, founder.pid)
        founder.kill()
        founder.wait()
    processes.poll(lambda: len(group.members()) == 1)
    rows = {row["id"]: row for row in answer_of("ids", "--group", group.token())}
    assert set(rows) == {group.pid, founder.pid}
    left = rows[founder.pid]
    assert (left["is_pid"], left["is_pgid"]) == (False, True)


def test_the_ids_of_the_visit_are_nobodys(group: libos_ipc.Group) -> None:
    with libos_ipc.Group.join(group.token(), may_lead=False) as visitor:
        first = visitor.pid + 1
    rows = answer_of("ids", "--group", group.token(), *range(first, first + 300))
    assert {row["vmid"] for row in rows} == {None}


# ---- locks


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files."""
    made = [tmp_path / "a", tmp_path / "b"]
    for file in made:
        file.touch()
    return made


@pytest.fixture
def waiter(group: libos_ipc.Group, files: list[Path]) -> Iterator[Callable[..., processes.Forked]]:
    """Members that wait for a lock, until the test is over."""
    started: list[processes.Forked] = []

    def body(line: processes.Line, kind: str, start: int) -> None:
        line.send(group.pid)
        if kind == "posix":
            group.locks.posix(files[0], "read", start)
        else:
            with group.file_lock(files[0], start=start):
                pass

    def start_one(kind: str, start: int) -> int:
        started.append(processes.Forked(body, kind, start))
        pid: int = started[-1].recv()
        processes.poll(lambda: any(lock.pid == pid for lock in group.locks.table()))
        return pid

    yield start_one  # type: ignore[misc]
    for file in files:
        group.locks.posix(file, "unlock")
    for process in started:
        with process:
            process.result()


def test_locks_held_and_waited_for(
    group: libos_ipc.Group, files: list[Path], waiter: Callable[..., int]
) -> None:
    begun = time.monotonic()
    group.locks.posix(files[1], "read", 7, 7)
    group.locks.posix(files[0], "write", 10, 19)
    group.locks.posix(files[0], "write", 0, 4)
    first, second = waiter("posix", 15), waiter("file_lock", 2)
    rows = answer_of("locks", "--group", group.token())
    assert [
        (row["path"], row["waiting"], row["start"], row["end"], row["pid"], row["type"])
        for row in rows
    ] == [
        (str(files[0]), False, 0, 4, group.pid, "write"),
        (str(files[0]), False, 10, 19, group.pid, "write"),
        (str(files[0]), True, 15, EOF, first, "read"),
        (str(files[0]), True, 2, EOF, second, "write"),
        (str(files[1]), False, 7, 7, group.pid, "read"),
    ]
    assert [row["kind"] for row in rows] == ["posix"] * 3 + ["file_lock", "posix"]
    assert rows[2]["waits_for"] == [group.pid]
    assert group.pid in rows[3]["waits_for"]
    assert all(0 <= row["since"] <= time.monotonic() - begun for row in rows)
    assert rows[0]["os_pid"] == os.getpid()

    table = cli("locks", "--group", group.token()).stdout
    cells = rows_of(table, "GROUP KIND TYPE STATE RANGE PID OS PID FOR WAITS FOR PATH COMMAND")
    assert cells[0][:6] == ["g", "posix", "write", "held", "0-4", str(group.pid)]
    assert cells[0][8:10] == ["-", str(files[0])]
    assert cells[2][:6] == ["g", "posix", "read", "waiting", "15-EOF", str(first)]
    assert cells[2][8] == str(group.pid)
    assert re.fullmatch(r"\d+\.\ds|\d+s", cells[2][7])


def test_the_locks_of_one_file(
    group: libos_ipc.Group, files: list[Path], here: Callable[..., str], tmp_path: Path
) -> None:
    for file in files:
        group.locks.posix(file, "write")
    link = tmp_path / "link"
    link.hardlink_to(files[1])
    for path in (files[1], link, f"{tmp_path}/./b"):
        told = json.loads(here("locks", "--json", "--group", group.token(), "--path", path))
        assert [row["path"] for row in told] == [str(files[1])]
    (tmp_path / "c").touch()
    nothing = here("locks", "--group", group.token(), "--path", tmp_path / "c")
    assert nothing == "no file is locked here\n"
    said = complaint_of("locks", "--group", group.token(), "--path", tmp_path / "none")
    assert said == f"libos-ipc: {tmp_path}/none: No such file or directory"


def test_locks_of_every_kind(
    group: libos_ipc.Group, files: list[Path], here: Callable[..., str]
) -> None:
    group.locks.posix(files[0], "read", 0, 0)
    group.locks.flock(files[0], "read", 5)
    with group.file_lock(files[0], shared=True, start=5, length=1):
        told = json.loads(here("locks", "--json", "--group", group.token()))
    assert sorted(row["kind"] for row in told) == ["file_lock", "flock", "posix"]


def test_locks_are_cut_to_the_terminal(group: libos_ipc.Group, files: list[Path]) -> None:
    group.locks.posix(files[0], "write")
    status, shown = on_terminal("locks", "--group", group.token())
    assert status == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.1, "0.0s"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (10.9, "10s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (86400 * 12 + 3600, "12d01h"),
    ],
)
def test_how_long(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- stacks


def a_function_with_a_name(line: processes.Line, group: libos_ipc.Group) -> None:
    line.send(group.pid)
    line.pause()


def holds_the_interpreter_lock(line: processes.Line, group: libos_ipc.Group) -> None:
    group.members()  # the leader knows it by then
    line.send(group.pid)
    re.match("(a+)+$", "a" * 64 + "b")  # takes years


def test_the_stacks_of_all_whatever_they_do(group: libos_ipc.Group) -> None:
    stuck = processes.Forked(holds_the_interpreter_lock, group)
    with stuck, processes.Peer(group, lambda group: group.members()) as stopped:
        with processes.Forked(a_function_with_a_name, group) as plain:
            pids = plain.recv(), stuck.recv()
            stopped.stop()
            rows = answer_of("stacks", "--group", group.token())
            told: dict[int, Any] = {row["pid"]: row for row in rows}
            assert set(told) == {group.pid, stopped.pid, *pids}
            assert "a_function_with_a_name" in told[pids[0]]["stack"]
            assert "in holds_the_interpreter_lock" in told[pids[1]]["stack"]
            assert "answer_of" in told[group.pid]["stack"]
            assert told[stopped.pid]["stack"] is None
            assert "is stopped" in told[stopped.pid]["reason"]
            assert all(row["reason"] is None for row in rows if row["pid"] != stopped.pid)
            assert told[pids[1]]["os_pid"] == stuck.os_pid

            done = cli("stacks", "--group", group.token(), pids[1], stopped.pid)
            assert (done.returncode, done.stderr) == (0, "")
            heads = [line for line in done.stdout.splitlines() if line.startswith("group ")]
            assert [re.sub(":.*", "", head) for head in heads] == [
                f"group g, pid {pid}, OS pid {os_pid}"
                for pid, os_pid in sorted([(pids[1], stuck.os_pid), (stopped.pid, stopped.os_pid)])
            ]
            assert re.search(r"^ {4}File .* in holds_the_interpreter_lock$", done.stdout, re.M)
            assert f"\n  process {stopped.pid} is stopped" in done.stdout
        stuck.kill()
        stuck.wait()


def test_many_stuck_ones_are_asked_at_once(group: libos_ipc.Group) -> None:
    """Each would take a quarter of a second."""

    def nicely(line: processes.Line, group: libos_ipc.Group) -> None:
        os.nice(19)  # or those that ask would hardly get a processor
        holds_the_interpreter_lock(line, group)

    stuck = [processes.Forked(nicely, group) for _ in range(3)]
    try:
        pids = [process.recv() for process in stuck]
        rows = answer_of("stacks", "--group", group.token(), *pids)
        assert len(rows) == len(pids)
        # With more that compute than processors, some may not get to it in time; none fails.
        assert all(bool(row["stack"]) != bool(row["reason"]) for row in rows)
    finally:
        for process in stuck:
            process.kill()
            process.wait()
            process.__exit__(None, None, None)


def test_the_stacks_of_nobody(group: libos_ipc.Group) -> None:
    done = cli("stacks", "--group", group.token(), "--json", 4001)
    told = "libos-ipc: no process of the group has the pid 4001\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "[]\n", told)
    assert cli("stacks", "--group", group.token(), 4001).stdout == ""


def test_the_stacks_of_some(group: libos_ipc.Group) -> None:
    done = cli("stacks", "--group", group.token(), 4002, group.pid, 4001, group.pid)
    assert done.returncode == 1
    assert done.stderr == "libos-ipc: no process of the group has the pid 4001, 4002\n"
    assert done.stdout.count("group g, pid") == 1
    assert "test_the_stacks_of_some" in done.stdout


# ---- sync


def test_shared_values(group: libos_ipc.Group, here: Callable[..., str]) -> None:
    def holds(line: processes.Line) -> None:
        handle = group.sync("jobs", type=dict)
        with handle.exclusive() as box:
            box.value["done"] = 1
            line.send(group.pid)
            line.recv()

    def waits(line: processes.Line) -> None:
        handle = group.sync("jobs", type=dict)
        line.send(group.pid)
        with handle.shared() as value:
            line.send(value)

    group.sync(type=int)
    with processes.Forked(holds) as holder:
        owner = holder.recv()
        with processes.Forked(waits) as waiter:
            pid = waiter.recv()

            def told() -> Any:
                rows = json.loads(here("sync", "--json", "--group", group.token()))
                return rows if any(row["waiting"] for row in rows) else None

            jobs, number = sorted(processes.poll(told), key=lambda row: str(row["name"]) == "")
            assert (jobs["name"], jobs["type"], number["type"]) == ("jobs", "dict", "int")
            states = {each["pid"]: each["state"] for each in jobs["open"]}
            assert states == {owner: "exclusive", pid: "invalid"}
            assert [(each["pid"], each["state"]) for each in jobs["waiting"]] == [(pid, "shared")]
            table = here("sync", "--group", group.token())
            assert f"{owner}*" in table
            assert f"{pid} shared" in table
            holder.send()
            assert waiter.recv() == {"done": 1}
