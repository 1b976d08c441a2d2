"""`libos-ipc kill`: signals by group pids, sent from outside of the group's processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from test_cli import answer_of, cli, complaint_of

import libos_ipc
from libos_ipc.cli import main
from libos_ipc.cli.signal_names import name_of, numbers

pytestmark = pytest.mark.usefixtures("runtime_dir")


def tells(group: libos_ipc.Group, *sigs: int) -> processes.Forked:
    """A member that handles these signals, and sends who sent which. It has sent its pid."""

    def body(line: processes.Line) -> None:
        for sig in sigs:
            group.signal(sig, lambda sig, info: line.send((sig, info.type, info.sender)))
        group.setpgid(0, 0)
        line.send(group.pid)
        line.pause()

    return processes.Forked(body)


def usage_of(*words: object, env: dict[str, str] | None = None) -> str:
    """What a usage error says."""
    done = cli(*words, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: libos-ipc kill" in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "term", "15"])
def test_it_ends_a_process(group: libos_ipc.Group, name: str) -> None:
    with processes.Peer(group) as peer, processes.Peer(group) as other:
        done = cli("kill", "--group", group.token(), "-s", name, peer.pid)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert os.WTERMSIG(peer.wait()) == signal.SIGTERM
        assert processes.state_of(other.os_pid) in "SR"


def test_term_is_the_default_and_several_get_it(group: libos_ipc.Group) -> None:
    with processes.Peer(group) as one, processes.Peer(group) as two:
        done = cli("kill", one.pid, two.pid, env=group.environ())
        assert (done.returncode, done.stderr) == (0, "")
        assert os.WTERMSIG(one.wait()) == os.WTERMSIG(two.wait()) == signal.SIGTERM


def test_handlers_learn_that_a_member_has_sent_it(group: libos_ipc.Group) -> None:
    with tells(group, signal.SIGUSR1, signal.SIGRTMIN + 3) as child:
        pid = child.recv()
        for name, sig in (("usr1", signal.SIGUSR1), ("RTMIN+3", signal.SIGRTMIN + 3)):
            assert cli("kill", "--group", group.token(), "--signal", name, pid).returncode == 0
            told = child.recv()
            assert told[:2] == (sig, "process")
            assert told[2] not in (0, pid, group.pid)


def test_zero_only_asks(group: libos_ipc.Group) -> None:
    with processes.Peer(group) as peer:
        (row,) = answer_of("kill", "--group", group.token(), "-s", 0, peer.pid)
        asked = {"to": "process", "id": peer.pid, "signal": 0, "name": None, "error": None}
        assert row == asked
        assert processes.state_of(peer.os_pid) in "SR"


def test_all_are_tried(group: libos_ipc.Group) -> None:
    with processes.Peer(group) as peer:
        done = cli("kill", "--group", group.token(), "--json", 4001, peer.pid, 4002)
        assert os.WTERMSIG(peer.wait()) == signal.SIGTERM
    gone = [f"pid {pid} names no process of the group" for pid in (4001, 4002)]
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"libos-ipc: {text}" for text in gone]
    told = [(row["id"], row["name"], row["error"]) for row in json.loads(done.stdout)]
    assert told == [
        (4001, "TERM", gone[0]),
        (peer.pid, "TERM", None),
        (4002, "TERM", gone[1]),
    ]


def test_who_does_not_exist(group: libos_ipc.Group) -> None:
    assert "pid 4001 names no process" in complaint_of("kill", "--group", group.token(), 4001)
    assert "process group 4001" in complaint_of("kill", "--group", group.token(), "--pgid", 4001)


def test_the_command_does_not_find_itself(group: libos_ipc.Group) -> None:
    """Whatever IDs it has while it visits."""
    with libos_ipc.Group.join(group.token(), may_lead=False) as visitor:
        first = visitor.pid + 1
    pids = range(first, first + 300)
    done = cli("kill", "--group", group.token(), *pids)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == len(pids)
    (me,) = group.members()
    assert me.pid not in pids


def test_a_process_group(group: libos_ipc.Group) -> None:
    with tells(group, signal.SIGUSR1) as child, processes.Peer(group) as other:
        pid = child.recv()
        (row,) = answer_of("kill", "--group", group.token(), "--pgid", pid, "-s", "USR1")
        assert (row["to"], row["id"], row["error"]) == ("group", pid, None)
        assert child.recv()[:2] == (signal.SIGUSR1, "group")
        assert processes.state_of(other.os_pid) in "SR"


def test_everybody(group: libos_ipc.Group) -> None:
    ours: list[Any] = []
    former = group.signal(signal.SIGUSR1, lambda sig, info: ours.append(info.type))
    try:
        with tells(group, signal.SIGUSR1) as child:
            child.recv()
            assert (
                answer_of("kill", "--group", group.token(), "--all", "-s", "USR1")[0]["to"] == "all"
            )
            assert child.recv()[:2] == (signal.SIGUSR1, "all")
            processes.poll(lambda: ours == ["all"])
    finally:
        group.signal(signal.SIGUSR1, former)


def test_nobody_signals_everybody_by_accident(group: libos_ipc.Group) -> None:
    assert "--group" in usage_of("kill", "--all", env=group.environ())
    assert "--group" in usage_of("kill", "--all")


def test_usage_errors(group: libos_ipc.Group) -> None:
    assert "'--group'" in usage_of("kill", 1)
    named = ("kill", "--group", group.token())
    for words in ((), (1, "--all"), (1, "--pgid", 1), ("--all", "--pgid", 1), ("--list", 1)):
        assert "one of these" in usage_of(*named, *words)
    assert "no signal" in usage_of(*named, "-s", "NONSENSE", 1)
    for pid in ("x", "0", 2**32):
        usage_of(*named, pid)


def test_no_such_group() -> None:
    assert "no group named 'gone'" in complaint_of("kill", "--group", "gone", 1)


def test_a_group_elsewhere(group: libos_ipc.Group, runtime_dir: Path, tmp_path: Path) -> None:
    named = ("kill", "--group", group.name, "-s", 0, group.pid)
    assert "no group named" in complaint_of(*named, "--runtime-dir", tmp_path / "empty")
    assert cli(*named, "--runtime-dir", runtime_dir).returncode == 0


def test_a_stopped_process(group: libos_ipc.Group) -> None:
    """It handles what came when it goes on, though the command that sent it is gone."""
    with tells(group, signal.SIGUSR1) as child:
        pid = child.recv()
        assert cli("kill", "--group", group.token(), "-s", "STOP", pid).returncode == 0
        processes.poll(lambda: processes.state_of(child.os_pid) == "T")
        assert cli("kill", "--group", group.token(), "-s", "USR1", pid).returncode == 0
        assert cli("kill", "--group", group.token(), "-s", "CONT", pid).returncode == 0
        assert child.recv()[0] == signal.SIGUSR1
        assert cli("kill", "--group", group.token(), "-s", "KILL", pid).returncode == 0
        assert os.WTERMSIG(child.wait()) == signal.SIGKILL


def test_the_leader_itself(found: Callable[..., libos_ipc.Group], runtime_dir: Path) -> None:
    """A group ends with its embedded leader, and the command with what it was asked to do."""
    script = (
        "import libos_ipc, time; g = libos_ipc.Group.create('led', leader='embedded')\n"
        "print(g.pid, flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        try:
            pid = leader.stdout.readline().strip()
            done = cli("kill", "--group", "led", "-s", "STOP", pid)
            assert (done.returncode, done.stderr) == (0, "")
            assert processes.state_of(leader.pid) == "T"
            leader.send_signal(signal.SIGCONT)
            done = cli("kill", "--group", "led", "-s", "KILL", pid)
            assert (done.returncode, done.stderr) == (0, "")
            assert leader.wait(processes.DEADLINE_S) == -signal.SIGKILL
        finally:
            leader.kill()
    left = runtime_dir / "libos_ipc" / "led"
    assert "led" not in libos_ipc.groups()
    assert not left.exists(), "the last one out, here a visitor, removes what is left"


# ---- the names of signals


def converted(capsys: pytest.CaptureFixture[str], text: str) -> str:
    """What the command line makes of a signal: the end of what it says."""
    status = main(["kill", "--group", "gone", "-s", text, "1"])
    said = capsys.readouterr().err
    assert (status == 2) == ("is no signal" in said)
    return "none" if status == 2 else "one"


@pytest.mark.parametrize(
    "text", ["HUP", "sighup", "1", "64", "0", "RTMIN", "RTMAX", "SIGRTMIN+30", "rtmax-30", "CLD"]
)
def test_what_names_a_signal(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert converted(capsys, text) == "one"


@pytest.mark.parametrize(
    "text", ["", "SIG", "65", "-1", "32", "33", "1.0", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMIN+"]
)
def test_what_names_none(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert converted(capsys, text) == "none"


def test_the_list_of_signals() -> None:
    rows = answer_of("kill", "--list")
    assert [row["number"] for row in rows] == numbers() == sorted(signal.valid_signals())
    names = [row["name"] for row in rows]
    assert names == [name_of(sig) for sig in numbers()]
    assert len(set(names)) == len(names)
    assert {"HUP", "TERM", "RTMIN", "RTMIN+15", "RTMAX-14", "RTMAX"} <= set(names)
    table = cli("kill", "-l").stdout.splitlines()
    assert table[0].split() == ["NUMBER", "NAME"]
    assert ["15", "TERM"] in [line.split() for line in table]
