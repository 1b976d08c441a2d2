"""What becomes of a member that turns into another program."""

from __future__ import annotations

import os
import sys

from processes import Forked, Line, poll

import libos_ipc
from libos_ipc import Group

#: Joins by the token in its environment, and tells the founder who it is.
REJOIN = """
import sys, libos_ipc
with libos_ipc.Group.join() as group:
    group.send(int(sys.argv[1]), 70, [group.vmid, group.pid, group.ppid])
    group.flush(20)
    sys.stdin.readline()
"""


def test_a_process_that_joins_again_after_an_exec_keeps_its_pid(group: Group) -> None:
    """It is recognised by OS pid and start time; its VMID, a name of the library's, is new."""
    told: list[list[int]] = []
    group.on(70, type=list[int])(lambda value, message: told.append(value))
    reading, writing = os.pipe()

    def becomes_another(line: Line) -> None:
        line.send((group.vmid, group.pid, group.ids.new()))
        os.dup2(reading, 0)
        program = [sys.executable, "-c", REJOIN, str(group.parent_vmid)]
        os.execve(sys.executable, program, group.environ())

    with Forked(becomes_another) as child:
        vmid, pid, id = child.recv()
        poll(lambda: told, what="the new program has joined")
        assert told[0][1] == pid
        assert told[0][2] == group.pid
        assert told[0][0] != vmid
        assert [m.vmid for m in group.members() if m.pid == pid] == [told[0][0]]
        assert group.ids.owner(pid) == told[0][0]
        poll(lambda: group.ids.owner(id) is None, what="its other IDs have returned")
        os.write(writing, b"\n")
        poll(lambda: group.ids.owner(pid) is None, what="its pid has returned")
    os.close(reading)
    os.close(writing)


def test_a_member_that_execs_keeps_nothing_but_its_pid(group: Group) -> None:
    """Until it dies: the kernel's pid is still its own, too."""

    def sleeps(line: Line) -> None:
        line.send((group.vmid, group.pid))
        line.recv()
        os.execvp("sleep", ["sleep", "1000"])

    with Forked(sleeps) as child:
        vmid, pid = child.recv()
        poll(lambda: vmid in {m.vmid for m in group.members() if m.state == "running"})
        child.send()
        poll(lambda: vmid not in {m.vmid for m in group.members()}, what="it is no member")
        assert group.ids.owner(pid) == vmid
        try:
            group.request(vmid, 70, timeout=20)
        except libos_ipc.PeerDied:
            pass
        else:
            raise AssertionError("a program that has exec'ed answered")
        os.kill(child.os_pid, 9)
        poll(lambda: group.ids.owner(pid) is None, what="its pid has returned")


def test_a_child_that_execs_at_once_leaves_nothing(group: Group) -> None:
    """It never said hello: VMID and pid are reclaimed."""
    pid = group.fork()
    if not pid:
        os.execvp("true", ["true"])
    assert group.wait(pid, timeout=30).code == 0
    poll(lambda: len(group.members()) == 1, what="it is not listed")
    poll(lambda: group.ids.owner(pid) is None, what="its pid has returned")
