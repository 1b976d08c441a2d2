"""The command line, as its users meet it: real processes, their output and exit status."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import processes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libos_ipc
from libos_ipc.cli import COMMANDS
from libos_ipc.cli.demo import files
from libos_ipc.cli.demo.job import Job
from libos_ipc.cli.output import printable

LIBOS_IPC = (sys.executable, "-m", "libos_ipc")

pytestmark = pytest.mark.usefixtures("runtime_dir")


def cli(
    *words: object, env: dict[str, str] | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [*LIBOS_IPC, *map(str, words)],
        input=typed,
        env=env,
        capture_output=True,
        text=True,
        timeout=processes.DEADLINE_S,
        check=False,
    )


def answer_of(*words: object) -> Any:
    """The JSON that a command prints."""
    done = cli(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def complaint_of(*words: object, status: int = 1) -> str:
    """The one line with which a command fails."""
    done = cli(*words)
    assert (done.returncode, done.stdout) == (status, "")
    line = done.stderr.removesuffix("\n")
    assert line.startswith("libos-ipc: ")
    assert "\n" not in line
    return line


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A command under way, in a session of its own."""
    process = subprocess.Popen(
        [*LIBOS_IPC, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    ready = select.select([process.stdout], [], [], processes.DEADLINE_S)[0]
    assert ready, "nothing was printed"
    return process.stdout.readline()


def all_ended(session: int) -> bool:
    """Whether no process of this session is left."""
    return not any(processes.stat_of(pid)[3:4] == [str(session)] for pid in processes.os_pids())


def on_terminal(*words: object, until: bytes = b"", then: bytes = b"") -> tuple[int, str]:
    """Run a command on a terminal of its own; type `then` when it has shown `until`.

    Its exit status, and all that it has shown."""
    pid, terminal = pty.fork()
    if not pid:
        try:
            os.environ.update(TERM="xterm", COLUMNS="80", LINES="24")
            os.execv(LIBOS_IPC[0], [*LIBOS_IPC, *map(str, words)])
        finally:
            os._exit(99)
    shown = b""
    deadline = time.monotonic() + processes.DEADLINE_S
    try:
        while select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]:
            try:
                shown += os.read(terminal, 1 << 16)
            except OSError:
                break  # its end
            if then and until in shown:
                os.write(terminal, then)
                then = b""
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(terminal)
        status = os.waitpid(pid, 0)[1]
        processes.poll(lambda: all_ended(pid))
    return os.waitstatus_to_exitcode(status), shown.decode()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with 300 files of known contents."""
    dice = random.Random(1)
    for number in range(300):
        place = tmp_path / f"d{number % 7}"
        place.mkdir(exist_ok=True)
        words = dice.choices(["a", "bc", "\n", "def\t", "\u03b3"], k=dice.randrange(50))
        (place / f"{number}.txt").write_text(" ".join(words))
    return tmp_path


# ---- demo


def test_demo_counts_every_word_once_though_a_worker_is_killed(tree: Path) -> None:
    told = answer_of("demo", tree, "--workers", 3)
    words = sum(len(file.read_bytes().split()) for file in tree.rglob("*.txt"))
    assert told["files"] == 300
    assert told["words"] == told["alone"]["words"] == words
    assert told["differing_files"] == told["unreadable"] == 0
    (killed,) = told["ended"]
    assert (killed["code"], killed["signal"]) == (None, signal.SIGKILL)
    assert told["retried_files"] == killed["retried_files"] > 0
    # 300 counts, and for each worker that lived a last question that found nothing
    assert told["requests"] > 300 + 2
    assert told["messages"] == 2 * told["requests"]
    assert told["requests_per_second"] > 0


def test_demo_tells_it_in_a_table(tree: Path) -> None:
    done = cli("demo", tree)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"300 files in {tree}" in done.stdout
    table = dict(re.split("  +", line, maxsplit=1) for line in done.stdout.splitlines()[2:])
    assert table["files"] == "300, 0 of them unreadable"
    assert table["workers"] == "4"
    assert re.fullmatch(
        r"worker \d+ \(VMID \d+, OS pid \d+\): ExitStatus\(code=None, signal=9\)", table["killed"]
    )
    assert int(table["retried files"]) > 0
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


def test_demo_without_a_path_counts_the_standard_library() -> None:
    root, sources = files.standard_library()
    told = answer_of("demo")
    assert told["path"] == str(root)
    assert told["files"] == len(sources) > 50
    assert not any("site-packages" in str(source) for source in sources)
    assert [end["signal"] for end in told["ended"]] == [signal.SIGKILL]


@pytest.mark.parametrize(("workers", "number"), [(1, 20), (4, 1)])
def test_demo_kills_nobody_where_nobody_could_take_over(
    tmp_path: Path, workers: int, number: int
) -> None:
    for name in range(number):
        (tmp_path / str(name)).write_text("one two")
    told = answer_of("demo", tmp_path, "--workers", workers)
    assert (told["words"], told["ended"], told["retried_files"]) == (2 * number, [], 0)
    assert "killed" in cli("demo", tmp_path, "--workers", workers).stdout


def test_demo_takes_more_workers_than_files(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text("one two")
    told = answer_of("demo", tmp_path, "--workers", 8)
    assert (told["words"], len(told["ended"]), told["retried_files"]) == (6, 1, 1)


def test_demo_counts_whatever_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "empty").touch()
    (tmp_path / os.fsdecode(b"n\xff\n\x1b[31m[red]")).write_text("x")
    (tmp_path / "link").symlink_to("binary")
    os.mkfifo(tmp_path / "pipe")
    told = answer_of("demo", tmp_path)
    assert (told["files"], told["words"]) == (3, len(bytes(range(256)).split()) + 1)


def test_demo_says_what_it_could_not_read() -> None:
    told = answer_of("demo", "/proc/self/mem")  # which cannot be read from its beginning
    assert (told["files"], told["unreadable"], told["words"]) == (1, 1, 0)


def test_demo_fails_when_the_counts_differ() -> None:
    done = cli("demo", "/proc/self/maps")  # which is another one in each process
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the counts of 1 file differ" in done.stderr


def test_demo_needs_files(tmp_path: Path) -> None:
    assert "has no files" in complaint_of("demo", tmp_path)
    missing = tmp_path / "mis\nsing"
    assert "mis\\nsing: no such file" in complaint_of("demo", missing)


@pytest.mark.parametrize("lines", [1, 2], ids=["before the first fork", "after the kill"])
def test_demo_leaves_nothing_on_ctrl_c(lines: int) -> None:
    with started("demo") as process:
        for _ in range(lines):
            line_of(process)
        os.killpg(process.pid, signal.SIGINT)
        rest, complaints = process.communicate(timeout=processes.DEADLINE_S)
        assert (process.returncode, complaints.strip()) == (130, "")
        assert "words" not in rest
        processes.poll(lambda: all_ended(process.pid))


def test_demo_ends_when_its_founder_is_killed() -> None:
    with started("demo") as process:
        line_of(process)
        assert "signal=9" in line_of(process)
        process.kill()
        process.wait()
        processes.poll(lambda: all_ended(process.pid))
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_demo_shows_a_bar_on_a_terminal(tree: Path) -> None:
    status, shown = on_terminal("demo", tree)
    assert status == 0
    assert "together" in shown
    assert "300/300" in shown
    assert "signal=9" in shown


def test_demo_ends_at_ctrl_c_on_a_terminal() -> None:
    status, shown = on_terminal("demo", until=b"signal=9", then=b"\x03")
    assert status == 130
    assert "Traceback" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is there again


@settings(deadline=None)
@given(data=st.binary(max_size=60), block=st.integers(1, 8))
def test_words_are_counted_across_blocks(
    data: bytes, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "words"
    file.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK", block)
        assert files.count(file) == len(data.split())


@pytest.mark.parametrize("seed", range(30))
def test_the_books_of_the_demo_hold_each_count_once(seed: int) -> None:
    dice = random.Random(seed)
    total, workers = dice.randrange(1, 200), dice.randrange(1, 6)
    job = Job(total, workers)
    shares: dict[int, list[int]] = {worker: [] for worker in range(workers)}
    dead: list[tuple[int, int]] = []
    counted: list[int] = []
    while job.left:
        worker = dice.choice(list(shares))
        mine = shares[worker]
        if not mine:
            if any(other not in counted for share in shares.values() for other in share):
                if len(counted) + sum(map(len, shares.values())) < total:
                    shares[worker] = list(job.take(worker))
                continue
            shares[worker] = list(job.take(worker))
        elif dice.random() < 0.05 and len(shares) > 1:
            lost = shares.pop(worker)
            assert job.lost(worker) == len(lost)
            assert not job.take(worker)
            dead += [(worker, file) for file in lost]
        else:
            file = mine.pop(0)
            job.counted(worker, file, file)
            counted.append(file)
        if dead and dice.random() < 0.5:
            worker, file = dice.choice(dead)
            job.counted(worker, file, -7)  # late news of a dead worker
    assert sorted(counted) == job.counts == list(range(total))
    assert job.retried == len(dead)
    assert not job.take(0)


# ---- run

JOIN = (
    "import libos_ipc as l, json\n"
    "with l.Group.join() as g: print(json.dumps([g.name, g.ppid, len(g.members())]))"
)


def test_run_gives_its_command_a_group() -> None:
    done = cli("run", "--", sys.executable, "-c", JOIN)
    assert (done.returncode, done.stderr) == (0, "")
    _, ppid, members = json.loads(done.stdout)
    assert (ppid, members) == (1, 2)


def test_run_founds_a_group_by_name_or_joins_it() -> None:
    inner = [*LIBOS_IPC, "run", "--group", "party", "--", sys.executable, "-c", JOIN]
    done = cli("run", "--group", "party", "--", *inner)
    name, ppid, members = json.loads(done.stdout)
    assert (name, members) == ("party", 3)
    assert ppid > 1  # the inner runner, not the founder


def test_run_joins_by_token(group: libos_ipc.Group) -> None:
    token = group.token()
    done = cli("run", "--group", token, "--", sys.executable, "-c", JOIN)
    assert json.loads(done.stdout)[0] == group.name
    group.close()
    assert "no group named" in complaint_of("run", "--group", token, "--", "true")


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -2 $$", 130)]
)
def test_run_ends_as_its_command_does(script: str, status: int) -> None:
    done = cli("run", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_run_passes_words_input_and_output_through() -> None:
    done = cli("run", "cat", "-A", "-", typed="in\tput\n")
    assert done.stdout == "in^Iput$\n"
    assert cli("run", "--", "printf", "%s.", "--help", "-x", "").stdout == "--help.-x.."


def test_run_says_what_it_could_not_run(tmp_path: Path) -> None:
    assert complaint_of("run", "no-such-command", status=127).endswith("command not found")
    assert complaint_of("run", tmp_path, status=126).endswith("Permission denied")


def test_run_starts_its_command_with_ordinary_signals() -> None:
    """Those that Python ignores are not ignored; what `nohup` and the like have set stays."""
    look = ("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")

    def blocked_and_ignored(told: str) -> list[int]:
        masks = re.findall(r"[0-9a-f]{16}", told)
        return [int(mask, 16) & 0x7FFF_FFFF for mask in masks]  # above are the C library's own two

    plain = subprocess.run(look, capture_output=True, text=True, check=True)
    told = blocked_and_ignored(cli("run", "--", *look).stdout)
    assert told == blocked_and_ignored(plain.stdout)
    assert told[0] == 0
    assert not told[1] & 1 << (signal.SIGPIPE - 1)


#: Says which signals it gets, until none has come for a while after the first.
TELL_SIGNALS = """
import signal, sys
names = {"SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"}
signals = {getattr(signal, name) for name in names}
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("ready", flush=True)
patience = 20
while info := signal.sigtimedwait(signals, patience):
    print("got", signal.Signals(info.si_signo).name, flush=True)
    patience = 0.3
sys.exit(5)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_run_forwards_signals(name: str) -> None:
    with started("run", "--", sys.executable, "-c", TELL_SIGNALS) as process:
        assert line_of(process) == "ready\n"
        process.send_signal(getattr(signal, name))
        rest, complaints = process.communicate(timeout=processes.DEADLINE_S)
        assert (rest, complaints, process.returncode) == (f"got {name}\n", "", 5)


def test_run_leaves_ctrl_c_to_the_terminal() -> None:
    words = ("run", "--", sys.executable, "-c", TELL_SIGNALS)
    status, shown = on_terminal(*words, until=b"ready", then=b"\x03")
    assert status == 5
    assert shown.count("got SIGINT") == 1


# ---- ps


def test_ps_shows_every_member_but_itself(
    runtime_dir: Path, found: Callable[..., libos_ipc.Group]
) -> None:
    group = found("first")
    other = found("other", leader="embedded")
    with processes.Peer(group, lambda group: group.members()) as peer:
        rows = answer_of("ps", "--runtime-dir", runtime_dir)
        mine = [row for row in rows if row["group"] == "first"]
        expected = [member._asdict() for member in group.members()]
        for row in expected:
            del row["joined_at"]
        assert [{k: row[k] for k in expected[0]} for row in mine] == expected
        assert [row["vmid"] for row in mine] == [group.vmid, peer.vmid]
        assert [row["os_pid"] for row in mine] == [os.getpid(), peer.os_pid]
        assert [row["ppid"] for row in mine] == [0, group.pid]
        assert all(abs(time.time() - row["joined_at"]) < processes.DEADLINE_S for row in mine)
        assert all("python" in row["command"] or "pytest" in row["command"] for row in mine)
        leading = {row["group"]: row["leads"] for row in rows if row["os_pid"] == os.getpid()}
        assert leading == {"first": False, "other": True}

        table = cli("ps", "--group", "other", "--runtime-dir", runtime_dir).stdout.splitlines()
        assert table[0].split()[:3] == ["GROUP", "VMID", "PID"]
        assert len(table) == 3
        assert table[1].split()[:3] == ["other", str(other.vmid), str(other.pid)]
        assert "running, leads" in table[1]


def test_ps_inside_a_group_shows_that_group(group: libos_ipc.Group) -> None:
    peer = processes.Peer(group)
    with peer:
        done = cli("ps", "--json", env=group.environ())
        assert [row["vmid"] for row in json.loads(done.stdout)] == [group.vmid, peer.vmid]
        # It came by our token, but it was not our child.
        with pytest.raises(libos_ipc.Timeout):
            group.wait(timeout=0.1)


def test_ps_looks_elsewhere_if_told_so(group: libos_ipc.Group, tmp_path: Path) -> None:
    done = cli("ps", "--json", "--runtime-dir", tmp_path / "empty", env=group.environ())
    assert json.loads(done.stdout) == []


def test_ps_knows_a_group_by_its_token_from_another_of_that_name(
    found: Callable[..., libos_ipc.Group],
) -> None:
    first = found("name")
    token = first.token()
    first.close()
    processes.poll(lambda: "name" not in libos_ipc.groups(first._node.directory.runtime_dir))
    found("name")
    assert "another has its name" in complaint_of("ps", "--group", token)


def test_ps_without_any_group() -> None:
    done = cli("ps")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no group is alive here\n", "")
    assert answer_of("ps") == []
    assert "no group named 'gone'" in complaint_of("ps", "--group", "gone")


def test_ps_refuses_a_directory_that_others_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert "open to other users" in complaint_of("ps", "--runtime-dir", tmp_path)


def test_ps_shows_no_control_characters(group: libos_ipc.Group) -> None:
    script = "import sys, libos_ipc as l; g = l.Group.join(); print(1, flush=True); input()"
    words = [sys.executable, "-c", script, "\x1b[2J[bold]\n"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, env=group.environ(), **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"1\n"
        done = cli("ps", env=group.environ())
        assert "\\x1b[2J[bold]\\n" in done.stdout
        assert "\x1b" not in done.stdout
        rows = json.loads(cli("ps", "--json", env=group.environ()).stdout)
        assert rows[1]["command"].endswith("\x1b[2J[bold]\n")
        process.communicate(b"\n", timeout=processes.DEADLINE_S)


def test_ps_is_cut_to_the_terminal(group: libos_ipc.Group) -> None:
    os.environ.update(group.environ())
    try:
        status, shown = on_terminal("ps")
    finally:
        del os.environ["LIBOS_IPC_GROUP"]
    assert status == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)


def test_groups_are_those_that_can_be_joined(
    runtime_dir: Path, found: Callable[..., libos_ipc.Group]
) -> None:
    assert libos_ipc.groups(runtime_dir / "none") == []
    assert libos_ipc.groups(runtime_dir) == []
    found("b")
    with found("a", leader="embedded"):
        assert libos_ipc.groups(runtime_dir) == ["a", "b"]
        assert libos_ipc.groups(str(runtime_dir)) == ["a", "b"]
        with processes.Forked(lambda line: libos_ipc.groups(runtime_dir)) as child:
            assert child.result() == ["a", "b"]
    assert libos_ipc.groups(runtime_dir) == ["b"]


def test_groups_pass_over_what_is_none(
    runtime_dir: Path, found: Callable[..., libos_ipc.Group]
) -> None:
    found("alive")
    stale = runtime_dir / "stale"
    shared = runtime_dir / "shared"
    file = runtime_dir / "file"
    try:
        stale.mkdir(mode=0o700)
        (stale / "lock").touch()
        (stale / "group").write_bytes(b"?")
        shared.mkdir()
        shared.chmod(0o777)
        file.touch()
        assert libos_ipc.groups(runtime_dir) == ["alive"]
    finally:
        (stale / "lock").unlink()
        (stale / "group").unlink()
        stale.rmdir()
        shared.rmdir()
        file.unlink()


# ---- the command line as a whole


def test_version() -> None:
    assert cli("--version").stdout == f"libos-ipc {version('libos-ipc')}\n"


def test_the_script_is_the_same_command() -> None:
    script = Path(sys.executable).with_name("libos-ipc")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == cli("--version").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    done = cli(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: libos-ipc {command} ")
    assert f"  {command} " in cli("--help").stdout


@pytest.mark.parametrize(
    "words", [(), ("nonsense",), ("ps", "--nonsense"), ("run",), ("demo", "--workers", "none")]
)
def test_usage_errors(words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert "Usage: libos-ipc" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_may_stop_reading() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*LIBOS_IPC, "ps", "--json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=processes.DEADLINE_S,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_command_loads_no_other_command() -> None:
    script = (
        "import sys; from libos_ipc.cli import main; main(['ps', '--help'])\n"
        "sys.exit(any('demo' in name or '.run' in name for name in sys.modules\n"
        "             if name.startswith('libos_ipc.cli')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


@settings(deadline=None)
@given(text=st.text())
def test_what_is_printed_is_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert not text.isprintable() or shown == text
