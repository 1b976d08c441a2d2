"""`group.ping`: answered whatever its receiver does, and ended by all that ends a request."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

import pytest
from processes import DEADLINE_S, Forked, Peer, poll

import libos_ipc
from libos_ipc import Group

BOTH = pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
ECHO, STUCK, FORK, HOLD = range(70, 74)


def handlers(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)

    @group.on(STUCK)
    def stuck(message: libos_ipc.Message) -> None:
        signal.pause()
        threading.Event().wait(DEADLINE_S)

    @group.on(FORK)
    def fork(message: libos_ipc.Message) -> None:
        for _ in range(int(message.payload)):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)


def acquainted(group: Group, vmid: int) -> None:
    """Have said enough to one another for a lane, where there are any."""
    for _ in range(20):
        group.request(vmid, ECHO, b"x", timeout=DEADLINE_S)
    if group._node.session.member.lane_after:
        poll(lambda: group._node.session.exchange.ping(vmid, DEADLINE_S), what="a clerk")


@BOTH
def test_everybody_answers(group: Group) -> None:
    with Peer(group, handlers) as peer:
        for vmid in (peer.vmid, group.leader_vmid, group.vmid):
            for _ in range(50):
                group.ping(vmid)
                group.ping(vmid, timeout=DEADLINE_S)


def test_nobody_is_there(group: Group) -> None:
    with pytest.raises(libos_ipc.PeerDied):
        group.ping(99, timeout=DEADLINE_S)
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        peer.kill()
        peer.wait()
        with pytest.raises(libos_ipc.PeerDied):
            group.ping(peer.vmid, timeout=DEADLINE_S)


def test_a_process_that_computes_and_is_stuck_answers(group: Group) -> None:
    def busy(group: Group) -> None:
        handlers(group)
        threading.Thread(target=compute, daemon=True).start()

    def compute() -> None:
        while True:
            pass

    with Peer(group, busy) as peer:
        acquainted(group, peer.vmid)
        with pytest.raises(libos_ipc.Timeout):
            group.request(peer.vmid, STUCK, timeout=0.01)
        for _ in range(100):
            group.ping(peer.vmid, timeout=DEADLINE_S)
        peer.kill()


@pytest.mark.config(transport="native")
def test_a_process_whose_interpreter_is_held_in_native_code_answers(group: Group) -> None:
    begun, enough = os.pipe(), os.pipe()

    def holds(group: Group) -> None:
        handlers(group)

        @group.on(HOLD)
        def hold(message: libos_ipc.Message) -> None:
            os.write(begun[1], b"x")
            ctypes.PyDLL(None).read(enough[0], ctypes.create_string_buffer(1), 1)

    try:
        with Peer(group, holds) as peer:
            acquainted(group, peer.vmid)
            group.send(peer.vmid, HOLD)
            os.read(begun[0], 1)
            for _ in range(100):
                group.ping(peer.vmid, timeout=DEADLINE_S)
            assert group.getmeta(peer.pid, "cwd", timeout=DEADLINE_S) == os.getcwd()
            with pytest.raises(libos_ipc.Timeout):
                group.request(peer.vmid, ECHO, b"with Python", timeout=0.05)
            os.write(enough[1], b"x")
            assert group.request(peer.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
    finally:
        for fd in (*begun, *enough):
            os.close(fd)


def test_a_ping_overtakes_what_waits_for_a_handler(group: Group) -> None:
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        for _ in range(1000):
            group.send(peer.vmid, STUCK, b"never handled")
        group.ping(peer.vmid, timeout=DEADLINE_S)
        peer.kill()


def test_a_stopped_process_does_not_answer_until_it_goes_on(group: Group) -> None:
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        peer.stop()
        for timeout in (0, 0.001, 0.15):
            with pytest.raises(libos_ipc.Timeout):
                group.ping(peer.vmid, timeout=timeout)
        peer.kill(signal.SIGCONT)
        for _ in range(20):
            group.ping(peer.vmid, timeout=DEADLINE_S)


@pytest.mark.config(transport="zmq")
def test_pings_that_are_given_up_take_no_room(group: Group) -> None:
    """One is on its way, whoever asks how often; and it serves those who ask later."""
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        link = group._node.session.member.links[peer.vmid]
        peer.stop()
        before = link.sent
        for _ in range(300):
            with pytest.raises(libos_ipc.Timeout):
                group.ping(peer.vmid, timeout=0)
        assert link.sent == before + 1
        peer.kill(signal.SIGCONT)
        for _ in range(20):
            group.ping(peer.vmid, timeout=DEADLINE_S)
        peer.stop()
        with pytest.raises(libos_ipc.Timeout, match=f"VMID {peer.vmid} to a ping within 0.02 s"):
            group.ping(peer.vmid, timeout=0.02)
        assert peer.vmid in group._session._overdue
        peer.kill()
        poll(lambda: peer.vmid not in group._session._overdue, what="it is cleared away")
        with pytest.raises(libos_ipc.PeerDied):
            group.ping(peer.vmid, timeout=DEADLINE_S)


def test_who_is_killed_while_it_is_asked_ends_the_wait(group: Group) -> None:
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        peer.stop()
        found: list[BaseException] = []

        def ask() -> None:
            try:
                group.ping(peer.vmid, timeout=DEADLINE_S)
            except libos_ipc.IpcError as error:
                found.append(error)

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        peer.kill()
        for thread in asking:
            thread.join(DEADLINE_S)
        assert [type(error) for error in found] == [libos_ipc.PeerDied] * 2


def test_a_signal_handler_ends_the_wait(group: Group) -> None:
    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with Peer(group, handlers) as peer:
            acquainted(group, peer.vmid)
            peer.stop()
            for after in (0.02, 0.2):
                signal.setitimer(signal.ITIMER_REAL, after)
                with pytest.raises(Rung):
                    group.ping(peer.vmid, timeout=DEADLINE_S)
            peer.kill(signal.SIGCONT)
            group.ping(peer.vmid, timeout=DEADLINE_S)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_who_forks_again_and_again_answers(group: Group) -> None:
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        group.send(peer.vmid, FORK, b"20")
        began = time.monotonic()
        while group.flush(DEADLINE_S) or time.monotonic() - began < 0.3:
            group.ping(peer.vmid, timeout=DEADLINE_S)
        assert group.request(peer.vmid, ECHO, b"done", timeout=DEADLINE_S) == b"done"


def test_who_asks_may_fork_in_between(group: Group) -> None:
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        for _ in range(5):
            group.ping(peer.vmid, timeout=DEADLINE_S)
            with Peer(group) as child:
                group.ping(child.vmid, timeout=DEADLINE_S)
                group.ping(peer.vmid, timeout=DEADLINE_S)


def test_children_ask_too(group: Group) -> None:
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)

        def ask(line: object) -> int:
            acquainted(group, peer.vmid)
            for _ in range(100):
                group.ping(peer.vmid, timeout=DEADLINE_S)
            group.close()
            return 1

        with Forked(ask) as one, Forked(ask) as other:
            assert one.result() + other.result() == 2


def test_a_group_that_is_closed_asks_nobody(group: Group) -> None:
    with Peer(group, handlers) as peer:
        acquainted(group, peer.vmid)
        group.close()
        with pytest.raises(libos_ipc.NotJoined):
            group.ping(peer.vmid)
