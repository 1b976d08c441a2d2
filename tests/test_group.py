"""Groups as a whole: founding, joining, who is there, leaving and dying; and every bad input."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path
from typing import Any

import pytest
import zmq
from processes import DEADLINE_S, Forked, Line, Peer, at_fork, leaders, poll, wait_until_idle

import libos_ipc
from libos_ipc import wire
from libos_ipc._native import pack_envelope, pack_message

BOTH = pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
NOBODY = 65534


def run(code: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, warnings as errors."""
    given = {"capture_output": True, "text": True, "timeout": DEADLINE_S, **more}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, **given)


def output(code: str, **more: Any) -> list[str]:
    """The words that a program prints; it must succeed and say nothing else."""
    done = run(code, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


# ---- founding and joining


@pytest.mark.parametrize("leader", ["process", "embedded"])
def test_a_founder_knows_itself_and_leaves(
    found: Callable[..., libos_ipc.Group], leader: str
) -> None:
    group = found("name", leader=leader)
    embedded = leader == "embedded"
    assert (group.name, group.epoch, group.leader_vmid) == ("name", 1, 1)
    assert (group.vmid, group.is_leader) == ((1, True) if embedded else (2, False))
    assert (group.ppid, group.parent_vmid) == (0, 0)
    assert group.pgid == group.pid >= 1
    (me,) = group.members()
    assert me[:6] == (group.vmid, group.pid, 0, group.pgid, os.getpid(), "running")
    assert abs(me.joined_at - time.time()) < DEADLINE_S
    assert not group.closed
    group.close()
    group.close()
    assert group.closed
    calls: list[Callable[[], object]] = [group.members, group.ids.new, group.flush, group.token]
    for call in (
        *calls,
        group.ready,
        group.__enter__,
        lambda: group.send(2, 70),
        lambda: group.on(70),
    ):
        with pytest.raises(libos_ipc.NotJoined, match="closed"):
            call()


def test_a_closed_group_forks_nobody(
    found: Callable[..., libos_ipc.Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = found()
    group.close()
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it has forked"))
    for call in (group.fork, lambda: group.spawn(print)):
        with pytest.raises(libos_ipc.NotJoined, match="closed"):
            call()


def test_what_is_no_name_and_no_configuration(runtime_dir: Path) -> None:
    for call in (libos_ipc.Group.create, libos_ipc.Group.join):
        with pytest.raises(libos_ipc.InvalidArgument, match="is a str, not int"):
            call(5)  # type: ignore[arg-type]
    with pytest.raises(libos_ipc.InvalidArgument, match="must be a GroupConfig, not dict"):
        libos_ipc.Group.create(config={"linger": 1.0})  # type: ignore[arg-type]
    assert list(runtime_dir.iterdir()) == []


def test_groups_without_a_name_do_not_meet(found: Callable[..., libos_ipc.Group]) -> None:
    one, other = found(None), found(None)
    assert one.name != other.name
    assert [len(group.members()) for group in (one, other)] == [1, 1]


@BOTH
@pytest.mark.parametrize("way", ["name", "token", "environment"])
def test_a_program_joins(group: libos_ipc.Group, runtime_dir: Path, way: str) -> None:
    arguments = {"name": f"{group.name!r}", "token": f"{group.token()!r}", "environment": ""}[way]
    program = (
        f"import libos_ipc; g = libos_ipc.Group.join({arguments})\n"
        "print(g.vmid, g.pid, g.ppid, g.parent_vmid, len(g.members()), g.name)"
    )
    where = {"XDG_RUNTIME_DIR": str(runtime_dir.parent / "elsewhere")}
    if way == "name":
        program = program.replace("'g'", f"'g', runtime_dir={str(runtime_dir)!r}")
        where = {}
    environment = group.environ() if way == "environment" else dict(os.environ)
    vmid, pid, ppid, parent, there, name = output(program, env={**environment, **where})
    assert int(vmid) > group.vmid
    assert int(pid) != group.pid
    child_of_issuer = (str(group.pid), str(group.vmid))
    assert (ppid, parent) == (("0", "0") if way == "name" else child_of_issuer)
    assert (there, name) == ("2", "g")
    poll(lambda: len(group.members()) == 1, what="the program has left")


def tell_about(group: libos_ipc.Group, pipe: connection.Connection) -> None:
    """What a process says of a group that it was given."""
    assert libos_ipc.current() is group
    here = [member.vmid for member in group.members()]
    answer = group.request(group.parent_vmid, 70, b"?", timeout=DEADLINE_S)
    group.send(group.parent_vmid, 71, b"the last word")
    pipe.send((group.vmid, group.ppid, group.vmid in here, answer))


@pytest.fixture
def servers() -> Iterator[None]:
    """End the helper processes that multiprocessing keeps."""
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_group_is_an_argument_of_multiprocessing(group: libos_ipc.Group, method: str) -> None:
    heard: list[tuple[int, bytes]] = []
    group.on(70)(lambda message: b"hello " + str(message.src).encode())
    group.on(71)(lambda message: heard.append((message.src, message.payload)))
    context = multiprocessing.get_context(method)
    mine, childs = context.Pipe()
    process = context.Process(target=tell_about, args=(group, childs))
    process.start()
    childs.close()
    assert mine.poll(DEADLINE_S)
    vmid, ppid, listed, answer = mine.recv()
    process.join(DEADLINE_S)
    assert process.exitcode == 0
    process.close()
    mine.close()
    assert vmid != group.vmid
    assert (ppid, listed, answer) == (group.pid, True, f"hello {vmid}".encode())
    # The child left in good order: what it had sent has arrived, though its atexit never ran.
    poll(lambda: heard, what="the child's last message")
    assert heard == [(vmid, b"the last word")]
    poll(lambda: len(group.members()) == 1, what="the child has left")


def test_unpickling_in_a_member_finds_the_membership(group: libos_ipc.Group) -> None:
    assert pickle.loads(pickle.dumps(group)) is group
    assert len(group.members()) == 1


def test_current_is_the_group_joined_last(found: Callable[..., libos_ipc.Group]) -> None:
    with pytest.raises(libos_ipc.NotJoined, match=r"Group\.create"):
        libos_ipc.current()
    one = found("one")
    other = found("other")
    assert libos_ipc.current() is other
    other.close()
    assert libos_ipc.current() is one
    one.close()
    with pytest.raises(libos_ipc.NotJoined):
        libos_ipc.current()


def vmid_of(group: libos_ipc.Group, os_pid: int) -> int:
    """The VMID of a process, as soon as it has said hello."""
    found = poll(lambda: [m.vmid for m in group.members() if m.os_pid == os_pid])
    return int(found[0])


def test_two_groups_in_one_process(found: Callable[..., libos_ipc.Group]) -> None:
    one, other = found("one"), found("other", leader="embedded")

    def serve(group: libos_ipc.Group) -> None:
        for each in (one, other):
            each.on(70)(lambda message, name=each.name: name.encode())
        one.on(71)(lambda message: other.close())

    with Peer(one, serve) as child:
        for group in (one, other):
            vmid = vmid_of(group, child.os_pid)
            assert group.request(vmid, 70, timeout=DEADLINE_S) == group.name.encode()
        other.close()
        assert one.request(child.vmid, 70, timeout=DEADLINE_S) == b"one"
        one.request(child.vmid, 71, timeout=DEADLINE_S)  # to which the other was handed over


# ---- who is there


@BOTH
def test_a_starting_child_is_listed_at_once(group: libos_ipc.Group) -> None:
    gate, opener = os.pipe()
    at_fork.child = lambda: os.read(gate, 1)
    pid = 0
    try:
        pid = group.fork()
        if not pid:
            os._exit(0)
        child = next(member for member in group.members() if member.pid == pid)
        assert (child.state, child.ppid, child.joined_at) == ("starting", group.pid, 0)
    finally:
        at_fork.child = None
        os.write(opener, b"1")
        os.close(gate)
        os.close(opener)
    assert group.wait(pid, DEADLINE_S).code == 0
    poll(lambda: len(group.members()) == 1, what="the child is gone")


def test_members_are_seen_alike_by_all(group: libos_ipc.Group) -> None:
    def seen() -> list[tuple[int, int, int, str]]:
        return [(m.vmid, m.pid, m.os_pid, m.state) for m in group.members()]

    with Peer(group) as one, Peer(group, lambda group: group.on(70)(lambda m: seen())) as other:
        expected = [
            (group.vmid, group.pid, os.getpid(), "running"),
            (one.vmid, one.pid, one.os_pid, "running"),
            (other.vmid, other.pid, other.os_pid, "running"),
        ]
        poll(lambda: seen() == expected, what="all are running")
        remote = group.request(
            other.vmid, 70, timeout=DEADLINE_S, type=list[tuple[int, int, int, str]]
        )
        assert remote == expected


def test_the_leader_lives_until_the_last_member_has_left(
    found: Callable[..., libos_ipc.Group], runtime_dir: Path
) -> None:
    group = found()
    (leader,) = leaders(runtime_dir)
    assert leader != os.getpid()

    def stay(line: Line) -> int:
        line.send()
        line.recv()
        there = len(group.members())
        group.close()
        return there

    with Forked(stay) as child:
        child.recv()
        group.close()
        child.send()
        assert child.result() == 1
    poll(lambda: not leaders(runtime_dir), timeout=10, what="the leader has ended")
    assert not (runtime_dir / "g").exists()


def test_a_leader_ends_after_its_last_member_was_killed(
    runtime_dir: Path, config: libos_ipc.GroupConfig
) -> None:
    program = (
        "import os, libos_ipc; from libos_ipc import GroupConfig\n"
        f"g = libos_ipc.Group.create('g', config=GroupConfig(fork_timeout={config.fork_timeout}))\n"
        "g.members(); print('there', flush=True); input(); os.kill(os.getpid(), 9)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as founder:
        assert founder.stdout is not None
        assert founder.stdout.readline() == b"there\n"
        (leader,) = leaders(runtime_dir)
        wait_until_idle(leader)
        founder.communicate(b"\n")
    poll(lambda: not leaders(runtime_dir), timeout=15, what="the leader has ended")


ENDS = {
    "return": "pass",
    "sys.exit": "raise SystemExit(3)",
    "exception": "raise RuntimeError('meant')",
    "os._exit": "os._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("way", ENDS)
def test_ending_without_close_is_noticed(group: libos_ipc.Group, way: str) -> None:
    program = (
        "import os, threading, libos_ipc\n"
        "g = libos_ipc.Group.join()\n"
        "asked, never = threading.Event(), threading.Event()\n"
        "@g.on(70)\n"
        "def silent(message):\n"
        "    asked.set(); never.wait()\n"
        "print(g.vmid, g.ids.new(), flush=True)\n"
        f"asked.wait(); {ENDS[way]}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=group.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        vmid, id = map(int, process.stdout.readline().split())
        assert group.ids.owner(id) == vmid
        with pytest.raises(libos_ipc.PeerDied, match=f"VMID {vmid} is gone"):
            group.request(vmid, 70, timeout=DEADLINE_S)
        poll(lambda: group.ids.owner(id) is None, what="its IDs have returned")
        poll(lambda: len(group.members()) == 1, what="it is no member any more")
        with pytest.raises(ProcessLookupError):
            group.send(vmid, 70)
    expected = {"sys.exit": 3, "exception": 1, "SIGKILL": -signal.SIGKILL}
    assert process.returncode == expected.get(way, 0)


def test_with_leaves_also_after_an_exception(runtime_dir: Path) -> None:
    with (
        pytest.raises(KeyError),
        libos_ipc.Group.create("g", runtime_dir=runtime_dir) as group,
    ):
        raise KeyError
    assert group.closed


# ---- configuration


def test_the_environment_configures(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBOS_IPC_SEND_BUFFER", "65536")
    monkeypatch.setenv("LIBOS_IPC_LOCK_DELEGATION", "false")
    monkeypatch.setenv("LIBOS_IPC_SPIN", "0.5")
    monkeypatch.setenv("LIBOS_IPC_UIDS", "0,1000")
    with libos_ipc.Group.create("g", runtime_dir=runtime_dir) as group:
        config = group.config
        assert (config.send_buffer, config.spin, config.uids) == (65536, 0.5, (0, 1000))
        assert config.lock_delegation is False
        monkeypatch.setenv("LIBOS_IPC_SEND_BUFFER", "77777")
        joined = output(
            "import libos_ipc; print(libos_ipc.Group.join().config.send_buffer)",
            env=group.environ(),
        )
        assert joined == ["65536"], "the founder's configuration is the group's"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_message", 1),
        ("send_buffer", 10.5),
        ("id_max", 2**32),
        ("id_range_size", 0),
        ("spin", -1.0),
        ("fork_timeout", float("nan")),
        ("leader_stall", float("inf")),
        ("transport", "pigeon"),
        ("uids", ("root",)),
    ],
)
def test_a_bad_knob_is_named(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    with pytest.raises(libos_ipc.InvalidArgument, match=name):
        libos_ipc.GroupConfig(**{name: value})  # type: ignore[arg-type]
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    monkeypatch.setenv(f"LIBOS_IPC_{name.upper()}", text)
    with pytest.raises(libos_ipc.InvalidArgument, match=f"(?i){name}"):
        libos_ipc.Group.create("g", runtime_dir=runtime_dir)


# ---- bad input is refused in a sentence that helps, and costs nothing


@BOTH
@pytest.mark.parametrize("second", ["process", "embedded"])
def test_a_name_is_taken_once(
    group: libos_ipc.Group, found: Callable[..., libos_ipc.Group], second: str
) -> None:
    with pytest.raises(libos_ipc.GroupExists, match=r"alive.*join it, or choose another"):
        found(group.name, leader=second)
    assert output("import libos_ipc; libos_ipc.Group.join()", env=group.environ()) == []
    assert group.ids.owner(group.pid) == group.vmid


@pytest.mark.parametrize(
    "name", ["a/b", ".", "..", "a:b", "a\nb", "a\0b", "x" * 65, "ä" * 40, 3, b"bytes"]
)
def test_a_bad_name_is_refused(found: Callable[..., libos_ipc.Group], name: Any) -> None:
    with pytest.raises(libos_ipc.InvalidArgument, match="name"):
        found(name)


def test_an_unknown_kind_of_leader(found: Callable[..., libos_ipc.Group]) -> None:
    with pytest.raises(ValueError, match='"process" or "embedded", not \'thread\''):
        found(leader="thread")


def make_open(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def make_foreign(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.mkdir(mode=0o700)
    path.symlink_to(target)


@pytest.mark.parametrize("where", ["runtime directory", "group's directory"])
@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (make_open, "open to other users.*0777.*chmod 700"),
        (make_foreign, f"belongs to user {NOBODY}"),
        (make_link, "symbolic link"),
        (Path.touch, "no directory"),
    ],
)
@pytest.mark.parametrize("leader", ["process", "embedded"])
def test_an_unsafe_directory_is_refused(
    runtime_dir: Path, make: Callable[[Path], None], finding: str, where: str, leader: Any
) -> None:
    if make is make_foreign and os.getuid() != 0:
        pytest.skip("only root can make a directory of another user")
    path = runtime_dir / "d" if where == "runtime directory" else runtime_dir / "g"
    make(path)
    before = os.lstat(path)
    try:
        home = path if where == "runtime directory" else runtime_dir
        for call in (libos_ipc.Group.create, libos_ipc.Group.join):
            more = {"leader": leader} if call == libos_ipc.Group.create else {}
            with pytest.raises(libos_ipc.PermissionDenied, match=finding):
                call("g", runtime_dir=home, **more)
        assert os.lstat(path)[:5] == before[:5], "refused, and not repaired either"
    finally:
        if path.is_symlink():
            path.with_name("target").rmdir()
        path.rmdir() if stat.S_ISDIR(before.st_mode) else path.unlink()


def test_a_directory_too_long_for_a_socket(runtime_dir: Path) -> None:
    deep = runtime_dir / ("d" * 60)
    for call in (libos_ipc.Group.create, libos_ipc.Group.join):
        with pytest.raises(libos_ipc.InvalidArgument, match=r"107 bytes.*shorter"):
            call("g" * 30, runtime_dir=deep)
    assert not deep.exists()
    deep.mkdir(mode=0o700)
    (deep / "file").touch()  # the longest name that does fit
    size = 107 - len(os.fsencode(deep)) - len("/4294967295.live") - 1
    with libos_ipc.Group.create("g" * size, runtime_dir=deep) as group:
        assert len(group.members()) == 1
    (deep / "file").unlink()
    poll(lambda: not os.listdir(deep))
    deep.rmdir()


def test_a_group_that_is_gone(
    found: Callable[..., libos_ipc.Group], runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(libos_ipc.NotJoined, match="LIBOS_IPC_GROUP"):
        libos_ipc.Group.join()
    with pytest.raises(libos_ipc.NotJoined, match="no group named 'never'"):
        libos_ipc.Group.join("never", runtime_dir=runtime_dir)
    token = found().token()
    libos_ipc.current().close()
    poll(lambda: not (runtime_dir / "g").exists(), what="the group has ended")
    with pytest.raises(libos_ipc.NotJoined, match="it has ended"):
        libos_ipc.Group.join(token)
    found()  # another of the same name
    with pytest.raises(libos_ipc.LeaderLost, match="another has its name"):
        libos_ipc.Group.join(token)
    monkeypatch.setenv("LIBOS_IPC_GROUP", token[:15])
    with pytest.raises(libos_ipc.InvalidArgument, match=r"no token.*Group\.token"):
        libos_ipc.Group.join()
    assert len(libos_ipc.current().members()) == 1


def test_a_group_whose_leader_was_killed_and_that_has_no_heir(
    found: Callable[..., libos_ipc.Group], runtime_dir: Path
) -> None:
    founder = found()
    with libos_ipc.Group.join("g", runtime_dir=runtime_dir, may_lead=False) as group:
        founder.close()
        os.kill(leaders(runtime_dir)[0], signal.SIGKILL)
        with pytest.raises(libos_ipc.LeaderLost, match="leader"):
            poll(group.members)
        with pytest.raises(libos_ipc.LeaderLost, match="nobody leads the group 'g'"):
            libos_ipc.Group.join("g", runtime_dir=runtime_dir)
    with found() as again:  # what the dead group left behind is no obstacle
        assert len(again.members()) == 1


@pytest.mark.config(max_message=4096)
def test_a_payload_over_the_limit(group: libos_ipc.Group) -> None:
    with Peer(group, lambda group: group.on(70)(lambda message: len(message.payload))) as peer:
        for call in (group.send, group.request):
            with pytest.raises(libos_ipc.MessageTooLarge, match=r"4097 bytes.*4096.*larger"):
                call(peer.vmid, 70, bytes(4096 - 17 + 1))
        fits = bytes(4096 - 17)
        assert group.request(peer.vmid, 70, fits, type=int, timeout=DEADLINE_S) == len(fits)


@pytest.mark.parametrize("code", [0, 18, 63, 256, -1, 2**40, 70.0, "70", None])
def test_a_code_that_is_no_programs(group: libos_ipc.Group, code: Any) -> None:
    for call in (group.send, group.request):
        with pytest.raises(libos_ipc.InvalidRange, match="64 … 255"):
            call(group.vmid, code)
    with pytest.raises(ValueError, match="64 … 255"):
        group.on(code)
    with pytest.raises(ValueError, match="64 … 255"):
        group.broadcast(code)


# ---- strangers


@pytest.fixture
def as_nobody() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")


def become_nobody(group: libos_ipc.Group) -> None:
    group.close()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


@pytest.mark.usefixtures("as_nobody")
@BOTH
def test_another_user_may_not_join(group: libos_ipc.Group, runtime_dir: Path) -> None:
    def join(line: Line) -> str:
        token = group.token()
        become_nobody(group)
        said = []
        for name in (group.name, token):
            with pytest.raises(libos_ipc.PermissionDenied) as caught:
                libos_ipc.Group.join(name, runtime_dir=runtime_dir)
            said.append(str(caught.value))
        with pytest.raises(PermissionError):
            os.listdir(runtime_dir)
        with pytest.raises(libos_ipc.PermissionDenied):
            libos_ipc.Group.create("g", runtime_dir=runtime_dir, leader="embedded")
        return said[0]

    with Forked(join) as child:
        assert "belongs to user 0" in child.result()
    assert len(group.members()) == 1


@pytest.mark.usefixtures("as_nobody")
def test_another_user_who_reaches_the_socket_is_refused(
    found: Callable[..., libos_ipc.Group],
    runtime_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = found(leader="embedded")
    home = runtime_dir / "g"
    sockets = [home / "1.msg", home / "1.live"]

    def knock(line: Line) -> object:
        become_nobody(group)
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(f"ipc://{sockets[0]}")
        greeting = wire.encode(wire.Code.JOIN, tail=b"\x93\xa1x\x00\xc3")
        socket.send_multipart([pack_envelope(0, 0), pack_message(wire.Code.JOIN, 1, greeting)])
        line.send()
        line.recv()
        answered = socket.poll(0)
        context.destroy()
        return answered

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (runtime_dir, home, *sockets)}
    with Forked(knock) as child:
        try:
            for path in modes:
                path.chmod(0o711 if path.is_dir() else 0o666)
            child.recv()
            poll(lambda: "stranger refused" in caplog.text, what="the refusal is logged")
            child.send()
            assert child.result() == 0, "a stranger hears nothing"
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
    assert f":{NOBODY}:" in caplog.text
    assert len(group.members()) == 1
