"""What processes of a group can know of one another, whatever these are doing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import both_leaders
from processes import DEADLINE_S, Forked, Line, Peer, poll, state_of

from libos_ipc import Cred, Group, InvalidArgument, IpcError, NotFound, PeerDied, Timeout, Usage
from libos_ipc.runtime.metadata import unpack_meta
from libos_ipc.runtime.processes import KINDS


@both_leaders
def test_what_the_kernel_knows(group: Group, tmp_path: Path) -> None:
    def body(line: Line) -> None:
        os.chdir(tmp_path)
        line.send(group.pid)
        line.pause()

    with Forked(body) as child:
        for pid, os_pid in ((child.recv(), child.os_pid), (group.pid, os.getpid())):
            assert group.getmeta(pid, "cred") == Cred(os.getuid(), os.getgid())
            assert group.getmeta(pid, "exec") == os.path.realpath(sys.executable)
            assert group.getmeta(pid, "cwd") == os.readlink(f"/proc/{os_pid}/cwd")
            assert group.getmeta(pid, "root") == "/"
            words = Path(f"/proc/{os_pid}/cmdline").read_bytes().split(b"\0")[:-1]
            assert group.getmeta(pid, "cmdline") == [os.fsdecode(word) for word in words]
            usage = group.getmeta(pid, "usage")
            assert isinstance(usage, Usage)
            mine = sum(os.times()[:2])
            assert 0 <= usage.user + usage.system <= mine + DEADLINE_S
            assert usage.max_rss > 1 << 20
            assert usage.threads >= 2


def test_the_owner_itself_answers_the_same(group: Group) -> None:
    """As it does to a process of another user, which may not look into /proc."""
    with Peer(group) as peer:
        for key in sorted(set(KINDS) - {"stack", "usage", "counters"}):
            told = unpack_meta(key, group._ask_owner(peer.pid, peer.vmid, key, DEADLINE_S))
            shown = group.getmeta(peer.pid, key)
            if key == "cmdline":
                told = [os.fsdecode(word) for word in bytes(told).split(b"\0")[:-1]]  # type: ignore[arg-type]
            elif isinstance(told, bytes):
                told = os.fsdecode(told)  # type: ignore[assignment]
            assert told == shown, key
        usage = unpack_meta("usage", group._ask_owner(peer.pid, peer.vmid, "usage", DEADLINE_S))
        assert isinstance(usage, Usage)
        with pytest.raises(PeerDied):
            group._ask_owner(group.pid, peer.vmid, "cwd", DEADLINE_S)


def test_a_directory_that_was_removed(group: Group, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    def body(line: Line) -> None:
        os.chdir(home)
        line.send((group.vmid, group.pid))
        line.pause()

    with Forked(body) as child:
        vmid, pid = child.recv()
        assert group.getmeta(pid, "cwd") == str(home)
        shutil.rmtree(home)
        with pytest.raises(FileNotFoundError, match="removed") as raised:
            group.getmeta(pid, "cwd")
        assert isinstance(raised.value, NotFound)
        with pytest.raises(NotFound):
            group._ask_owner(pid, vmid, "cwd", DEADLINE_S)


def test_a_process_that_is_gone(group: Group) -> None:
    with Peer(group) as peer:
        peer.kill()
        poll(lambda: state_of(peer.os_pid) == "Z")
        poll(lambda: group.ids.owner(peer.pid) is None)
        for key in (*KINDS, "an entry"):
            with pytest.raises(PeerDied):
                group.getmeta(peer.pid, key)
    with pytest.raises(PeerDied):
        group.getmeta(4000, "cwd")


def test_entries_of_ones_own(group: Group) -> None:
    def body(line: Line) -> None:
        assert dict(group.meta) == {}, "a child has published nothing"
        group.meta["state"] = {"jobs": [1, 2], "busy": True}
        group.meta["name"] = "worker"
        group.meta["name"] = "ascribed later"
        line.send(group.pid)
        line.recv()
        del group.meta["name"]
        with pytest.raises(KeyError):
            del group.meta["name"]
        line.send()
        line.pause()

    group.meta["mine"] = 1
    with Forked(body) as child:
        pid = child.recv()
        child.stop()
        assert group.getmeta(pid, "state") == {"jobs": [1, 2], "busy": True}
        assert group.getmeta(pid, "name", type=str) == "ascribed later"
        with pytest.raises(IpcError, match="no int"):
            group.getmeta(pid, "name", type=int)
        child.kill(signal.SIGCONT)
        child.send()
        child.recv()
        with pytest.raises(NotFound, match="no entry 'name'"):
            group.getmeta(pid, "name")
    assert group.getmeta(group.pid, "mine") == group.meta["mine"] == 1
    assert list(group.meta) == ["mine"]


@pytest.mark.parametrize("key", ["", "a\0b", "cwd", "stack", "k" * 300, 7])
def test_what_names_no_entry(group: Group, key: str) -> None:
    with pytest.raises(InvalidArgument):
        group.meta[key] = 1
    assert not len(group.meta)


def test_entries_are_bounded(group: Group) -> None:
    with pytest.raises(InvalidArgument, match="takes"):
        group.meta["large"] = b"x" * (1 << 16)
    for n in range(17):
        group.meta[f"{n}"] = b"x" * 60000
    with pytest.raises(IpcError, match="too much"):
        group.meta["one more"] = b"x" * 60000
    with pytest.raises(InvalidArgument, match="no pid"):
        group.getmeta("1", "cwd")  # type: ignore[arg-type]


# ---- stacks


def a_function_with_a_name(line: Line, group: Group) -> None:
    line.send(group.pid)
    line.pause()


def test_the_stacks_of_a_process(group: Group) -> None:
    with Forked(a_function_with_a_name, group) as child:
        text = group.getmeta(child.recv(), "stack")
        assert "a_function_with_a_name" in text
        assert text.startswith("MainThread")
        assert "\nlibos_ipc:\n" in text, "the library's threads are known by their name"
        assert "unknown" not in text
    assert "test_the_stacks_of_a_process" in group.getmeta(group.pid, "stack")


def test_the_stacks_of_a_process_whose_main_thread_computes(group: Group) -> None:
    def body(line: Line) -> None:
        line.send(group.pid)
        while True:
            pass

    with Forked(body) as child:
        pid = child.recv()  # and perhaps it is saying so still
        poll(lambda: "while True" in group.getmeta(pid, "stack"))
        assert group.getmeta(group.pid, "cred") == (os.getuid(), os.getgid())
        child.kill()
        child.wait()


def holds_the_interpreter_lock(line: Line, group: Group) -> None:
    group.members()  # the leader knows it by then
    line.send(group.pid)
    re.match("(a+)+$", "a" * 64 + "b")  # takes years


def test_a_process_that_holds_the_interpreter_lock(group: Group) -> None:
    with Forked(holds_the_interpreter_lock, group) as child:
        pid = child.recv()
        texts: list[str] = []
        asking = [
            threading.Thread(target=lambda: texts.append(group.getmeta(pid, "stack")))
            for _ in range(2)
        ]
        begun = time.monotonic()
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert len(texts) == 2, "two may ask at once"
        for text in texts:
            assert "in holds_the_interpreter_lock" in text
        assert time.monotonic() - begun < DEADLINE_S / 2, "it did not wait for it"
        # What needs no Python is answered all the same.
        assert group.getmeta(pid, "cred") == Cred(os.getuid(), os.getgid())
        assert group.getmeta(pid, "usage").threads >= 2
        child.kill()
        child.wait()


def test_a_stopped_process_says_so(group: Group) -> None:
    with Peer(group, lambda group: group.members()) as peer:
        peer.stop()
        with pytest.raises(Timeout, match="is stopped"):
            group.getmeta(peer.pid, "stack")
        assert group.getmeta(peer.pid, "cwd") == os.getcwd()


def test_a_process_that_handles_the_signal_itself(group: Group) -> None:
    """It is not asked in a way that would end it."""
    from libos_ipc.runtime import stacks

    def body(line: Line) -> None:
        from libos_ipc.group import _stacks

        _stacks.close()
        holds_the_interpreter_lock(line, group)

    with Forked(body) as child:
        pid = child.recv()
        assert stacks.demand(child.os_pid, 0) == ""
        with pytest.raises(Timeout, match="has not told its stacks"):
            group.getmeta(pid, "stack")
        assert state_of(child.os_pid) == "R"
        os.kill(child.os_pid, stacks.STACK_SIGNAL)
        poll(lambda: state_of(child.os_pid) == "R")
        child.kill()
        child.wait()
