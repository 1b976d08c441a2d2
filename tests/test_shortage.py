"""Nothing left of something: it is said where it is met, all else goes on, and so does that once
there is some again."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from lane_users import connections, talk
from processes import DEADLINE_S, Forked, Line, Peer, leaders, poll, until_settled

import libos_ipc
from libos_ipc import Group, GroupConfig

ECHO, MUCH, NOTE, NOTED = range(70, 74)
#: More than the C library keeps in reserve, in bytes.
LARGE = 80 << 20
#: Descriptors that a process of these tests may have.
FEW = 400


def echo(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)


def asks(group: Group, vmid: int, timeout: float = DEADLINE_S) -> bool:
    return group.request(vmid, ECHO, b"on", timeout=timeout) == b"on"


@contextmanager
def no_descriptors(most: int = FEW) -> Iterator[Callable[[], None]]:
    """All that this process may have are in use, also those given back since, once it is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    taken: list[int] = []

    def take_all() -> None:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))

    try:
        take_all()
        yield take_all
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- descriptors


def test_a_member_without_descriptors(group: Group, tmp_path: Path) -> None:
    """It goes on with those it knows. What needs a new one says so, or waits for one."""

    def short(line: Line, known: int, stranger: int) -> None:
        echo(group)
        assert asks(group, known)
        assert len(group.members()) == 4
        until_settled()
        line.send(group.vmid)
        line.recv()
        with no_descriptors() as take_all:
            line.send()
            for _ in range(100):
                assert asks(group, known)
            assert len(group.members()) >= 4
            assert group.ids.owner(group.pid) == group.vmid
            take_all()
            with pytest.raises(libos_ipc.Timeout, match="Too many open files: raise its RLIMIT"):
                asks(group, stranger, timeout=1)
            with pytest.raises(OSError, match="Too many open files"):
                group.file_lock(tmp_path / "a").acquire(timeout=1)
            with pytest.raises(OSError, match="Too many open files"):
                group.kill(group.ppid, 0)
            for _ in range(2):
                take_all()
                with pytest.raises(libos_ipc.IpcError, match=r"not joined: .*Too many open files"):
                    group.fork() or os._exit(0)
                assert asks(group, known)
            line.recv()
        assert asks(group, stranger)
        with group.file_lock(tmp_path / "a"):
            pass
        pid = group.fork() or os._exit(7)
        assert group.wait(pid, DEADLINE_S).code == 7
        line.send()
        line.recv()

    (tmp_path / "a").touch()
    echo(group)
    with ExitStack() as stack:
        known, stranger = stack.enter_context(Peer(group)), stack.enter_context(Peer(group))
        child = stack.enter_context(Forked(short, known.vmid, stranger.vmid))
        vmid = child.recv()
        child.send()
        child.recv()
        # A newcomer is no reason for it to end: it is heard when there is room.
        newcomer = stack.enter_context(Forked(lambda line: asks(group, vmid)))
        assert asks(group, known.vmid)
        child.send()
        child.recv()
        assert newcomer.result()
        child.send()
        child.result()
    poll(lambda: len(group.members()) == 1)


def test_a_leader_without_descriptors(runtime_dir: Path, config: GroupConfig) -> None:
    """Who asks to join is told, those who are there go on, and there is room again when some have
    left."""

    def founder(line: Line) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        with Group.create("few", runtime_dir=runtime_dir, config=config) as group:
            line.send()
            line.recv()
            assert len(group.members()) > 5
            group.ids.release(group.ids.new())
            line.send()
            line.recv()
            poll(lambda: len(group.members()) == 1)

    def member(line: Line) -> None:
        """Tells whether it was let in."""
        try:
            group = Group.join("few", runtime_dir=runtime_dir, timeout=DEADLINE_S)
        except libos_ipc.IpcError as error:
            line.send((error.errno, str(error)))
            return
        line.send()
        line.recv()
        assert group.ids.owner(group.pid) == group.vmid
        line.send()
        line.recv()
        group.close()

    with ExitStack() as stack:
        first = stack.enter_context(Forked(founder))
        first.recv()
        (leader,) = leaders(runtime_dir)
        members = [stack.enter_context(Forked(member))]
        while (refusal := members[-1].recv()) is None:
            members.append(stack.enter_context(Forked(member)))
        members.pop().result()
        assert refusal[0] == errno.EMFILE
        assert "the leader can admit nobody" in refusal[1]
        assert "raise its RLIMIT_NOFILE" in refusal[1]
        for each in (*members, first):
            each.send()
            each.recv()
        assert leaders(runtime_dir) == [leader]
        for each in members[:3]:
            each.send()
            each.result()

        def is_let_in() -> bool:
            with Forked(member) as late:
                if late.recv() is not None:
                    return False
                late.send()
                late.recv()
                return True

        poll(is_let_in, what="there is room again")
        for each in members[3:]:
            each.send()
            each.result()
        first.send()
        first.result()


# ---- memory


@contextmanager
def little_memory(os_pid: int, room: int) -> Iterator[None]:
    """That process may map so many bytes more than it has."""
    pages = int(Path(f"/proc/{os_pid}/statm").read_text().split()[0])
    soft, hard = resource.prlimit(os_pid, resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + room
    resource.prlimit(os_pid, resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(os_pid, resource.RLIMIT_AS, (soft, hard))


@pytest.mark.config(max_message=2 * LARGE, send_buffer=4 * LARGE)
def test_a_payload_for_which_there_is_no_memory(group: Group) -> None:
    """A request is refused, an answer is an error, another message waits; all else goes on."""
    noted: list[int] = []
    # ZeroMQ has the payload already, in memory of its own.
    room = LARGE // 2 + (LARGE if group.config.transport == "zmq" else 0)

    def much(group: Group) -> None:
        echo(group)
        group.on(MUCH)(lambda message: bytes(LARGE))
        group.on(NOTE)(lambda message: noted.append(len(message.payload)))
        group.on(NOTED)(lambda message: noted)

    def meets(peer: int) -> None:
        """From now on, what the two say goes by shared memory, if the group has any."""
        assert asks(group, peer)
        if group.config.transport != "zmq":
            talk(group)
            poll(lambda: asks(group, peer) and connections(group) == 0, what="only lanes are left")

    def asker(line: Line, peer: int) -> None:
        line.send(group.vmid)
        line.recv()
        meets(peer)
        with little_memory(os.getpid(), room):
            with pytest.raises(libos_ipc.IpcError, match="has no memory for a payload") as caught:
                group.request(peer, MUCH, timeout=DEADLINE_S)
            assert caught.value.errno == errno.ENOMEM
            assert asks(group, peer)
        assert len(group.request(peer, MUCH, timeout=DEADLINE_S)) == LARGE

    with Peer(group, much) as peer:
        meets(peer.vmid)
        with Forked(asker, peer.vmid) as child:
            child.recv()
            child.send()
            child.result()
        meets(peer.vmid)
        payload = bytes(LARGE)
        with little_memory(peer.os_pid, room):
            with pytest.raises(libos_ipc.IpcError, match="has no memory for a payload") as caught:
                group.request(peer.vmid, ECHO, payload, timeout=DEADLINE_S)
            assert caught.value.errno == errno.ENOMEM
            assert asks(group, peer.vmid)
            group.send(peer.vmid, NOTE, payload)
        group.send(peer.vmid, NOTE, b"on")
        poll(lambda: group.request(peer.vmid, NOTED, type=list[int]) == [LARGE, 2], what="noted")


def loses_references(nomemory: Any) -> bool:
    """Whether this interpreter, when it cannot make a function, gives its code back twice: 3.12.1
    and 3.13.0 do, and crash when that has happened a few times."""

    def maker(value: int) -> Callable[[], int]:
        return lambda: value

    (code,) = (each for each in maker.__code__.co_consts if isinstance(each, CodeType))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))  # one to lose
    before = sys.getrefcount(code)
    for number in range(30):
        nomemory.set_nomemory(number, number + 1)
        try:
            maker(1)
        except MemoryError:
            pass
        finally:
            nomemory.remove_mem_hooks()
    return sys.getrefcount(code) < before


def test_any_one_allocation_fails(group: Group, tmp_path: Path) -> None:
    """Of Python's and of ours, in any thread: what was asked is done or raises, and then all is as
    ever."""
    nomemory = pytest.importorskip("_testcapi")
    if loses_references(nomemory):
        pytest.skip("this interpreter itself does not stand it")
    path = str(tmp_path / "a")
    Path(path).touch()

    def body(line: Line, peer: int) -> None:
        handle = group.sync("value", type=int)
        errors = MemoryError, libos_ipc.IpcError

        def request() -> None:
            assert asks(group, peer)

        def lock() -> None:
            with group.file_lock(path, timeout=DEADLINE_S):
                pass

        def commit() -> None:
            with handle.exclusive(timeout=DEADLINE_S) as box:
                box.value += 1

        for act in (request, lock, commit):
            act()
            for number in range(80):
                nomemory.set_nomemory(number, number + 1)
                try:
                    act()
                except errors:  # made before: there may be no memory for anything here
                    pass
                finally:
                    nomemory.remove_mem_hooks()
                act()

    with Peer(group, echo) as peer, Forked(body, peer.vmid) as child:
        child.result()
