"""The start of a leader's process: what it is told, what it does without, and what it inherits."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import children, leaders, poll

import libos_ipc
from libos_ipc.runtime.founding import LeaderStart
from libos_ipc.runtime.rundir import GroupDir

#: A founder that starts a leader, says so, and then does what the last line says.
FOUNDER = """
import os, signal, sys
from libos_ipc.runtime.founding import LeaderStart
from libos_ipc.runtime.rundir import GroupDir
start = LeaderStart(GroupDir(None, "g"))
start._intermediate.wait()
print("started", flush=True)
"""


def no_leaders(runtime_dir: Path) -> None:
    poll(lambda: not leaders(runtime_dir), what="no leader is left")


def test_a_configuration_that_is_none_leaves_no_leader(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBOS_IPC_SEND_BUFFER", "much")
    before = children()
    with pytest.raises(libos_ipc.InvalidArgument, match="LIBOS_IPC_SEND_BUFFER in the"):
        libos_ipc.Group.create("g")
    no_leaders(runtime_dir)
    assert not (runtime_dir / "g").exists()
    assert children() == before


def test_a_founder_that_gives_up_has_no_group(runtime_dir: Path) -> None:
    with pytest.raises(KeyboardInterrupt), LeaderStart(GroupDir(None, "g")):
        raise KeyboardInterrupt
    no_leaders(runtime_dir)
    assert not (runtime_dir / "g").exists()


def test_one_that_hears_nothing_of_its_task_ends_with_its_founder(runtime_dir: Path) -> None:
    program = FOUNDER + "os.kill(os.getpid(), signal.SIGKILL)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as founder:
        assert founder.stdout is not None
        assert founder.stdout.read() == b"started\n"
    no_leaders(runtime_dir)


def test_a_forked_process_with_the_founders_socket_keeps_no_leader(runtime_dir: Path) -> None:
    """One that another thread forked just then: it holds the socket open, the founder is gone."""
    program = FOUNDER + (
        "if os.fork() == 0: sys.stdin.read(); os._exit(0)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as founder:
        assert founder.stdout is not None
        assert founder.stdout.readline() == b"started\n"
        founder.wait()
        no_leaders(runtime_dir)
        assert select.select([founder.stdout], [], [], 0)[0] == [], "the forked process lives on"


@pytest.mark.parametrize("given", [False, True], ids=["before its task", "after its task"])
def test_one_that_dies_before_it_leads_is_said_to_be_lost(runtime_dir: Path, given: bool) -> None:
    with LeaderStart(GroupDir(None, "g")) as start:
        poll(lambda: leaders(runtime_dir), what="the leader's process is there")
        for pid in leaders(runtime_dir):
            os.kill(pid, signal.SIGSTOP)
        if given:
            start.lead(libos_ipc.GroupConfig())
        for pid in leaders(runtime_dir):
            os.kill(pid, signal.SIGKILL)
        no_leaders(runtime_dir)
        start.lead(libos_ipc.GroupConfig())
        with pytest.raises(libos_ipc.LeaderLost):
            start.await_word()


def test_it_has_a_life_of_its_own(runtime_dir: Path) -> None:
    """What the founder has open, where it stands and what it has blocked is not the leader's."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with libos_ipc.Group.create("g") as group:
            (leader,) = leaders(runtime_dir)
            os.close(writing)
            writing = -1
            assert os.read(reading, 1) == b"", "the leader has our pipe open"
            assert [os.readlink(f"/proc/{leader}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
            assert os.readlink(f"/proc/{leader}/cwd") == "/"
            assert os.getsid(leader) not in (os.getsid(0), leader)
            assert leader not in children()
            status = Path(f"/proc/{leader}/status").read_text()
            (blocked,) = [row for row in status.splitlines() if row.startswith("SigBlk")]
            assert int(blocked.split()[1], 16) == 0
            assert len(group.members()) == 1
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)
    no_leaders(runtime_dir)


def test_it_loads_nothing_that_only_programs_need(runtime_dir: Path) -> None:
    """Its start is on the way of every `create`."""
    code = (
        "import sys; import libos_ipc.group; "
        "early = set(sys.modules); import libos_ipc.runtime.leader_process; "
        "print(*sorted({'asyncio', 'msgspec', 'zmq', 'inspect', 'dataclasses'} & early), '|', "
        "*sorted({'asyncio', 'ssl', 'libos_ipc.sync', 'libos_ipc.locks'} & set(sys.modules)))"
    )
    # Without `site`, like the leader's own interpreter: it may load anything for an installation.
    paths = [*map(os.path.abspath, sys.path), str(Path(libos_ipc.__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {paths!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["|"]


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>&-"])
def test_a_founder_without_standard_streams(runtime_dir: Path, closed: str) -> None:
    """As daemons are that have closed theirs: what they open next has these numbers."""
    program = """
import sys, libos_ipc
with libos_ipc.Group.create("g") as group:
    child = group.spawn(lambda: sys.exit(len(group.members())))
    sys.exit(child.wait().code)
"""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
    assert subprocess.run(command, check=False).returncode == 2
    no_leaders(runtime_dir)
