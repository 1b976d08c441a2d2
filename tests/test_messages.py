"""Messages between processes: handlers, order, answers, errors, death, slowness, size."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from processes import DEADLINE_S, Forked, Line, Peer, poll, unread_by_others

import libos_ipc
from libos_ipc import Group, GroupConfig, Message, ProtocolError

BOTH = pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
#: Codes with the same meaning in all tests.
ECHO, NOTE, NOTED, HOLD, STOP = range(70, 75)


class Job(msgspec.Struct):
    name: str
    sizes: list[int]


def echo(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)


def notebook(group: Group) -> None:
    """NOTE writes numbers down, NOTED tells them all."""
    noted: list[tuple[int, int]] = []
    group.on(NOTED)(lambda message: noted)

    @group.on(NOTE, type=int)
    def note(number: int, message: Message) -> int:
        noted.append((message.src, number))
        return number


def noted_by(group: Group, vmid: int) -> list[tuple[int, int]]:
    answer: list[tuple[int, int]] = group.request(
        vmid, NOTED, type=list[tuple[int, int]], timeout=DEADLINE_S
    )
    return answer


# ---- handlers


@BOTH
def test_handlers_of_every_kind(group: Group) -> None:
    def handlers(group: Group) -> None:
        echo(group)
        group.on(80)(lambda message: None)

        @group.on(81, type=Job)
        def total(job: Job, message: Message) -> Job:
            return Job(job.name.upper(), [sum(job.sizes)])

        @group.on(82)
        async def late(message: Message) -> bytes:
            await asyncio.sleep(0)
            return b"later " + message.payload

        @group.on(83, type=int)
        async def half(number: int, message: Message) -> list[object]:
            return [number / 2, message.src, message.code, message.seq > 0, message.payload]

    with Peer(group, handlers) as peer:
        ask = peer.vmid
        for payload in (b"bytes", bytearray(b"array"), memoryview(b"view")[1:], b""):
            assert group.request(ask, ECHO, payload, timeout=DEADLINE_S) == bytes(payload)
        odd = memoryview(bytes(range(10)))[::2]
        assert group.request(ask, ECHO, odd, timeout=DEADLINE_S) == odd.tobytes()
        assert group.request(ask, 80, timeout=DEADLINE_S) == b""
        job = group.request(ask, 81, Job("sum", [1, 2, 3]), type=Job, timeout=DEADLINE_S)
        assert job == Job("SUM", [6])
        assert group.request(ask, 82, b"x", timeout=DEADLINE_S) == b"later x"
        assert group.request(ask, 83, 5, type=tuple, timeout=DEADLINE_S) == (
            2.5,
            group.vmid,
            83,
            True,
            b"\x05",
        )


def test_no_payload_at_all_is_none_to_who_wants_a_type(group: Group) -> None:
    """Whether by the exchange, a coroutine, or for a batch; for bytes it stays what it is."""
    got: list[int | None] = []

    def handlers(group: Group) -> None:
        group.on(80)(lambda message: None)
        group.on(81, type=int | None)(lambda number, message: [number])

        @group.on(82, type=int | None)
        async def later(number: int | None, message: Message) -> list[int | None]:
            return [number]

    group.on(84, type=int | None, batch=True)(lambda numbers, messages: got.extend(numbers))
    with Peer(group, handlers) as peer:
        ask = partial(group.request, peer.vmid, timeout=DEADLINE_S)
        assert ask(80, type=str | None) is None
        assert ask(80, type=bytes) == b""
        with pytest.raises(ProtocolError, match="Expected `int`"):
            ask(80, type=int)
        assert ask(81, type=list) == ask(82, type=list) == [None]
        group.send_many(group.vmid, 84, [b"", 7])
        poll(lambda: got == [None, 7])


def test_a_process_may_ask_itself(group: Group) -> None:
    echo(group)
    assert group.request(group.vmid, ECHO, b"me", timeout=DEADLINE_S) == b"me"


def test_messages_are_held_until_a_process_is_ready(group: Group) -> None:
    def late(line: Line) -> list[int]:
        line.send(group.vmid)
        line.recv()
        got: list[int] = []
        done = threading.Event()

        @group.on(NOTE, type=int)
        def note(number: int, message: Message) -> None:
            got.append(number)
            if number < 0:
                done.set()

        done.wait(DEADLINE_S)
        line.send()
        line.recv()
        return got

    with Forked(late) as child:
        vmid = child.recv()
        for number in range(5):
            group.send(vmid, NOTE, number)
        group.flush(DEADLINE_S)  # they have arrived, though nobody handles them
        with pytest.raises(libos_ipc.Timeout):
            group.request(vmid, NOTE, 99, timeout=0.05)
        group.flush(DEADLINE_S)  # the withdrawal, too
        child.send()
        group.send(vmid, NOTE, -1)
        child.recv()
        with pytest.raises(libos_ipc.NoHandler, match=f"no handler for code {ECHO}"):
            group.request(vmid, ECHO, timeout=DEADLINE_S)
        child.send()
        # The request that nobody waits for any more was withdrawn while it was held.
        assert child.result() == [0, 1, 2, 3, 4, -1]


def test_ready_without_any_handler(group: Group) -> None:
    with Peer(group, Group.ready) as peer, pytest.raises(libos_ipc.NoHandler) as refused:
        group.request(peer.vmid, ECHO, timeout=DEADLINE_S)
    assert "Traceback" not in str(refused.value)
    with pytest.raises(libos_ipc.NoHandler, match=r"^\[Errno 38\] VMID 1 is the leader"):
        group.request(group.leader_vmid, ECHO, timeout=DEADLINE_S)


def test_a_coroutine_that_began_before_serve_ends(group: Group) -> None:
    def late() -> None:
        begun = threading.Event()

        @group.on(ECHO)
        async def echo(message: libos_ipc.Message) -> bytes:
            begun.set()
            await asyncio.sleep(0.01)
            return message.payload

        begun.wait(DEADLINE_S)
        group.serve()

    child = group.spawn(late)
    assert group.request(child.vmid, ECHO, b"late", timeout=DEADLINE_S) == b"late"
    child.kill()
    child.wait()


def test_what_is_no_function_handles_nothing(group: Group) -> None:
    with pytest.raises(libos_ipc.InvalidArgument, match="a handler is a function"):
        group.on(ECHO)(5)  # type: ignore[type-var]
    with pytest.raises(libos_ipc.InvalidArgument, match="a policy is a function"):
        group.policy(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Group\.create"):
        Group("g")  # type: ignore[arg-type]


def test_a_leader_that_only_leads_handles_nothing(group: Group) -> None:
    """Who asks it is told so, and who sends to it is not held up."""
    with pytest.raises(libos_ipc.NoHandler):
        group.request(group.leader_vmid, ECHO, timeout=DEADLINE_S)
    for _ in range(12):  # more than may be owed
        group.send(group.leader_vmid, ECHO, bytes(1 << 20), timeout=DEADLINE_S)
    group.flush(DEADLINE_S)


def test_serve_handles_in_the_callers_thread(group: Group) -> None:
    def server(line: Line) -> str:
        @group.on(ECHO)
        def where(message: Message) -> str:
            return threading.current_thread().name

        @group.on(STOP)
        def stop(message: Message) -> None:
            group.close()

        line.send(group.vmid)
        group.serve()
        return "served"

    with Forked(server) as child:
        vmid = child.recv()
        name = threading.main_thread().name
        # Before `serve` has begun the dispatch thread may have answered.
        poll(lambda: group.request(vmid, ECHO, type=str, timeout=DEADLINE_S) == name)
        group.send(vmid, STOP)
        assert child.result() == "served"


def test_a_coroutine_that_ends_with_its_loop_is_no_failure(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """`asyncio.run` cancels what is left, at Ctrl-C or at its end: one line says so."""

    async def main() -> None:
        begun = asyncio.Event()

        @group.on(NOTE)
        async def endless(message: Message) -> None:
            begun.set()
            await asyncio.Event().wait()

        group.send(group.vmid, NOTE)
        await asyncio.wait_for(begun.wait(), DEADLINE_S)

    asyncio.run(main())
    (record,) = caplog.records
    assert record.getMessage() == f"message of VMID {group.vmid}, code {NOTE}: handler cancelled"
    assert record.exc_info is None


def test_an_exception_is_the_requesters_with_its_traceback(group: Group) -> None:
    def broken(group: Group) -> None:
        @group.on(80)
        def first(message: Message) -> None:
            second_level(message.payload)

        def second_level(payload: bytes) -> None:
            raise ZeroDivisionError(f"about {payload!r}")

        @group.on(81)
        async def third(message: Message) -> None:
            raise OSError(2, "nothing there")

        @group.on(82)
        def leaving(message: Message) -> None:
            raise SystemExit(3)

        group.on(83)(lambda message: object())
        echo(group)

    with Peer(group, broken) as peer:
        with pytest.raises(libos_ipc.RemoteError) as caught:
            group.request(peer.vmid, 80, b"this", timeout=DEADLINE_S)
        text = str(caught.value)
        assert "in second_level" in text
        assert text.rstrip().endswith("ZeroDivisionError: about b'this'")
        for code, finding in ((81, "nothing there"), (82, "SystemExit: 3"), (83, "TypeError")):
            with pytest.raises(libos_ipc.RemoteError, match=finding):
                group.request(peer.vmid, code, timeout=DEADLINE_S)
        for code in (80, 81, 82):
            group.send(peer.vmid, code)  # nobody waits: logged there
        assert group.request(peer.vmid, ECHO, b"alive", timeout=DEADLINE_S) == b"alive"


def test_a_payload_of_another_type(group: Group) -> None:
    with Peer(group, notebook) as peer:
        with pytest.raises(libos_ipc.ProtocolError, match="int"):
            group.request(peer.vmid, NOTE, "not a number", timeout=DEADLINE_S)
        with pytest.raises(libos_ipc.ProtocolError, match="str"):
            group.request(peer.vmid, NOTE, 5, type=str, timeout=DEADLINE_S)
        with pytest.raises(TypeError):
            group.send(peer.vmid, NOTE, object())
        assert noted_by(group, peer.vmid) == [(group.vmid, 5)]


def test_policy_is_asked_before_a_message_is_handled(group: Group) -> None:
    def guarded(group: Group) -> None:
        notebook(group)
        asked = []

        @group.policy
        def hook(src: int, code: int, payload: bytes) -> None:
            asked.append((src, code, payload))
            if payload == b"\x07":
                raise libos_ipc.PermissionDenied(f"VMID {src} may not say 7")

        group.on(ECHO)(lambda message: asked)

    with Peer(group, guarded) as peer:
        ask = peer.vmid
        with pytest.raises(libos_ipc.PermissionDenied, match=f"VMID {group.vmid} may not say 7"):
            group.request(ask, NOTE, 7, timeout=DEADLINE_S)
        with pytest.raises(PermissionError):
            group.request(ask, NOTE, 7, timeout=DEADLINE_S)
        group.send(ask, NOTE, 7)
        assert group.request(ask, NOTE, 8, type=int, timeout=DEADLINE_S) == 8
        assert noted_by(group, ask) == [(group.vmid, 8)]
        asked = group.request(ask, ECHO, type=list[tuple[int, int, bytes]], timeout=DEADLINE_S)
        assert (group.vmid, NOTE, b"\x07") in asked


def test_policy_does_not_bind_a_process_itself(group: Group) -> None:
    echo(group)

    @group.policy
    def nobody(src: int, code: int, payload: bytes) -> None:
        raise libos_ipc.PermissionDenied("never")

    assert group.request(group.vmid, ECHO, b"mine", timeout=DEADLINE_S) == b"mine"

    def ask(line: Line) -> None:
        with pytest.raises(libos_ipc.PermissionDenied, match="never"):
            group.request(group.parent_vmid, ECHO, timeout=DEADLINE_S)

    with Forked(ask) as child:
        child.result()
    group.policy(None)


# ---- order, arrival, everybody


def test_each_pair_keeps_its_order(group: Group) -> None:
    """Two senders, one way and requests mixed: each arrives once, in the order sent."""

    def sender(line: Line, vmid: int) -> int:
        for number in range(1000):
            if number % 50:
                group.send(vmid, NOTE, number)
            else:
                assert group.request(vmid, NOTE, number, type=int, timeout=DEADLINE_S) == number
        group.flush(DEADLINE_S)
        return group.vmid

    with (
        Peer(group, notebook) as peer,
        Forked(sender, peer.vmid) as one,
        Forked(sender, peer.vmid) as other,
    ):
        senders = {one.result(), other.result()}
        poll(lambda: len(noted_by(group, peer.vmid)) == 2000)
        noted = noted_by(group, peer.vmid)
        for vmid in senders:
            assert [number for src, number in noted if src == vmid] == list(range(1000))


def test_broadcast_reaches_every_other_member(group: Group) -> None:
    notebook(group)
    with Peer(group, notebook) as one, Peer(group, notebook) as two, Peer(group, notebook) as three:
        assert group.broadcast(NOTE, 1) == [one.vmid, two.vmid, three.vmid]
        assert group.broadcast(NOTE, 2, exclude=[two.vmid, 9999]) == [one.vmid, three.vmid]
        assert noted_by(group, one.vmid) == [(group.vmid, 1), (group.vmid, 2)]
        assert noted_by(group, two.vmid) == [(group.vmid, 1)]
        assert noted_by(group, group.vmid) == []


def test_nobody_is_there(group: Group) -> None:
    with Peer(group, echo) as peer:
        assert group.request(peer.vmid, ECHO, timeout=DEADLINE_S) == b""
    for vmid in (peer.vmid, 77, 2**32 - 1):
        for call in (group.send, group.request):
            with pytest.raises(libos_ipc.PeerDied, match=f"VMID {vmid} is gone"):
                poll(lambda call=call, vmid=vmid: call(vmid, ECHO))
    assert group.broadcast(ECHO) == []


# ---- waiting, and no longer waiting


class Busy(Peer):
    """A peer that keeps a notebook, and whose dispatch thread is in the handler of HOLD."""

    def __init__(self, group: Group) -> None:
        entered, enter = os.pipe()
        gate, self._opener = os.pipe()

        def setup(group: Group) -> None:
            notebook(group)

            @group.on(HOLD)
            def hold(message: Message) -> bytes:
                os.write(enter, b"1")
                return os.read(gate, 1)

        super().__init__(group, setup)
        os.close(enter)
        os.close(gate)
        group.send(self.vmid, HOLD)
        assert os.read(entered, 1), "the peer is gone"
        os.close(entered)

    def release(self) -> None:
        """Let the handler return."""
        os.write(self._opener, b"1")

    def __exit__(self, *exc: Any) -> None:
        os.close(self._opener)
        super().__exit__(*exc)


def test_a_request_that_timed_out_is_withdrawn(group: Group) -> None:
    with Busy(group) as peer:
        start = time.monotonic()
        with pytest.raises(libos_ipc.Timeout, match=rf"VMID {peer.vmid}.*0\.1 s"):
            group.request(peer.vmid, NOTE, 1, timeout=0.1)
        assert time.monotonic() - start < DEADLINE_S
        with pytest.raises(TimeoutError):
            group.request(peer.vmid, NOTE, 2, timeout=0)
        group.send(peer.vmid, NOTE, 3)
        group.flush(DEADLINE_S)
        peer.release()
        assert noted_by(group, peer.vmid) == [(group.vmid, 3)]


def test_a_late_answer_is_dropped(group: Group) -> None:
    gates = [threading.Event() for _ in range(20)]

    @group.on(HOLD, type=int)
    def hold(number: int, message: Message) -> bytes:
        gates[number].wait(DEADLINE_S)
        return b"late"

    def ask(line: Line) -> None:
        for number in range(len(gates)):
            with pytest.raises(libos_ipc.Timeout):
                group.request(group.parent_vmid, HOLD, number, timeout=0.01)
            line.send(number)
            answer = group.request(group.parent_vmid, ECHO, number, type=int, timeout=DEADLINE_S)
            assert answer == number

    echo(group)
    with Forked(ask) as child:
        for _ in gates:
            gates[child.recv()].set()
        child.result()


def test_sixteen_threads_ask_at_once(group: Group) -> None:
    """Each hears its own answers, and none is forgotten."""
    echo(group)

    def ask(line: Line) -> list[object]:
        wrong: list[object] = []

        def work(name: int) -> None:
            for number in range(150):
                payload = b"%d %d" % (name, number)
                answer = group.request(group.parent_vmid, ECHO, payload, timeout=DEADLINE_S)
                if answer != payload:
                    wrong.append((payload, answer))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return wrong

    with Forked(ask) as child:
        assert child.result() == []


def test_an_answer_that_is_too_large_is_an_error(found: Any) -> None:
    """To whoever asked for it, and to nobody else: the two go on talking."""
    group = found(config=GroupConfig(max_message=1 << 16))

    def answers(group: Group) -> None:
        group.on(ECHO)(lambda message: bytes(int(message.payload)))
        group.on(HOLD)(lambda message: memoryview(bytes(int(message.payload))))

    with Peer(group, answers) as peer:
        for _ in range(20):  # over a connection, then by a lane
            for code in (ECHO, HOLD):
                most = (1 << 16) - 17
                for size in (most + 1, 1 << 20):
                    with pytest.raises(libos_ipc.RemoteError, match="over max_message"):
                        group.request(peer.vmid, code, b"%d" % size, timeout=DEADLINE_S)
                answer = group.request(peer.vmid, code, b"%d" % most, timeout=DEADLINE_S)
                assert len(answer) == most


def test_large_payloads_are_credited_whatever_way_they_take(found: Any) -> None:
    """More of them than may be owed at a time: over a connection, then by a lane."""
    group = found(config=GroupConfig(max_message=1 << 20, send_buffer=4 << 20))
    with Peer(group, lambda group: group.on(ECHO)(lambda message: b"")) as peer:
        for number in range(40):
            payload = bytes([number]) * (900 << 10)
            assert group.request(peer.vmid, ECHO, payload, timeout=DEADLINE_S) == b""


def test_ctrl_c_ends_a_wait(group: Group) -> None:
    """SIGINT while waiting for an answer: KeyboardInterrupt, and the membership is as before."""
    asked, over = threading.Event(), threading.Event()
    group.on(ECHO, threads=2)(lambda message: message.payload)

    @group.on(HOLD)
    def hold(message: Message) -> None:
        asked.set()
        over.wait(2 * DEADLINE_S)

    program = (
        "import libos_ipc\n"
        "group = libos_ipc.Group.join()\n"
        "try:\n"
        f"    group.request(group.parent_vmid, {HOLD})\n"
        "except KeyboardInterrupt:\n"
        f"    print(group.request(group.parent_vmid, {ECHO}, b'fine', timeout=60))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env=group.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert asked.wait(DEADLINE_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    over.set()
    assert (process.returncode, out, err) == (0, "b'fine'\n", "")


def run_async(main: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(main, 2 * DEADLINE_S)

    return asyncio.run(bounded())


@BOTH
def test_many_requests_from_asyncio_at_once(group: Group) -> None:
    async def main(vmid: int) -> list[bytes]:
        threads = threading.active_count()
        calls = [
            group.arequest(vmid, ECHO, str(number).encode(), timeout=DEADLINE_S)
            for number in range(200)
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        assert threading.active_count() == threads, "no helper thread per call"
        await group.asend(vmid, NOTE, 1, timeout=DEADLINE_S)
        return await asyncio.gather(*tasks)

    def both(group: Group) -> None:
        echo(group)
        notebook(group)

    with Peer(group, both) as peer:
        assert run_async(main(peer.vmid)) == [str(number).encode() for number in range(200)]
        poll(lambda: noted_by(group, peer.vmid) == [(group.vmid, 1)])


def test_asyncio_cancellation_and_timeout_withdraw(group: Group) -> None:
    async def main(vmid: int) -> None:
        task = asyncio.ensure_future(group.arequest(vmid, NOTE, 1))
        await asyncio.sleep(0)  # it has been sent
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(libos_ipc.Timeout, match=r"0\.1 s"):
            await group.arequest(vmid, NOTE, 2, timeout=0.1)
        with pytest.raises(libos_ipc.NoHandler):
            await group.arequest(group.vmid, 99, timeout=DEADLINE_S)
        with pytest.raises(libos_ipc.PeerDied):
            await group.arequest(88, NOTE, timeout=DEADLINE_S)
        await group.asend(vmid, NOTE, 3)

    group.ready()
    with Busy(group) as peer:
        run_async(main(peer.vmid))
        group.flush(DEADLINE_S)
        peer.release()
        assert noted_by(group, peer.vmid) == [(group.vmid, 3)]


@pytest.mark.config(send_buffer=4096)
def test_closing_ends_every_wait_with_not_joined(group: Group) -> None:
    """Calls that wait in other threads: for an answer, for room, for a child, for messages."""
    caught: list[str] = []
    waiting = threading.Barrier(5)

    def wait(call: Callable[[], object]) -> None:
        waiting.wait(DEADLINE_S)
        try:
            call()
        except libos_ipc.NotJoined:
            caught.append("NotJoined")

    with Busy(group) as peer:
        child = group.spawn(time.sleep, 2 * DEADLINE_S)
        group.send(peer.vmid, NOTE, bytes(4000))
        calls: list[Callable[[], object]] = [
            lambda: group.request(peer.vmid, HOLD),
            lambda: group.send(peer.vmid, NOTE, bytes(4000)),
            lambda: group.wait(child.pid),
            lambda: caught.append(f"served {group.serve()}"),
        ]
        threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        waiting.wait(DEADLINE_S)
        for thread in threads:
            thread.join(0.05)
        assert all(thread.is_alive() for thread in threads)
        group.close()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert sorted(caught) == ["NotJoined"] * 3 + ["served None"]
        child.kill(signal.SIGKILL)
        os.waitpid(child.os_pid, 0)


# ---- death


ENDS: dict[str, Callable[[Peer], None]] = {
    "killed": lambda peer: peer.kill(),
    "terminated": lambda peer: peer.kill(signal.SIGTERM),
    "exec": lambda peer: peer.kill(signal.SIGUSR1),
}


@BOTH
@pytest.mark.parametrize("end", ENDS)
def test_a_request_fails_as_soon_as_its_receiver_dies(group: Group, end: str) -> None:
    asked, ask = os.pipe()

    def setup(group: Group) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: os.execv("/bin/sleep", ["sleep", "1000"]))

        @group.on(HOLD, threads=3)
        def silent(message: Message) -> None:
            os.write(ask, b"1")
            threading.Event().wait()

    with Peer(group, setup) as peer, Peer(group, echo) as other:
        failed: list[float] = []

        def request() -> None:
            with pytest.raises(libos_ipc.PeerDied, match=f"VMID {peer.vmid} is gone"):
                group.request(peer.vmid, HOLD)
            failed.append(time.monotonic())

        threads = [threading.Thread(target=request) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert os.read(asked, 1)
        killed = time.monotonic()
        ENDS[end](peer)
        for thread in threads:
            thread.join(DEADLINE_S)
        assert len(failed) == 3
        assert max(failed) - killed < 5, "by the kernel's word, not by a time-out"
        assert group.request(other.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
        poll(lambda: peer.vmid not in [m.vmid for m in group.members()], what="not listed")
        peer.kill()
    os.close(asked)
    os.close(ask)


@BOTH
def test_an_answer_beats_its_senders_death(group: Group) -> None:
    """The answer lies with the requester when the peer dies, unread: it is read first."""

    def die_when_published() -> None:
        links = group._node.session.member.links
        unread = 0
        while unread < 50:
            # In a socket, or in the memory of a lane; the requester is stopped.
            there = unread_by_others() or any(e.lane_from and e.keeps for e in links.values())
            unread = unread + 1 if there else 0
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    def requester(line: Line, vmid: int) -> bytes:
        # Now there is a connection in either direction.
        assert group.request(vmid, ECHO, b"first", timeout=DEADLINE_S) == b"first"
        answer: bytes = group.request(vmid, HOLD)
        group.close()
        return answer

    for _ in range(5):
        entered, enter = os.pipe()
        gate, opener = os.pipe()

        def mortal(group: Group, enter: int = enter, gate: int = gate) -> None:
            echo(group)

            @group.on(HOLD)
            def hold(message: Message) -> bytes:
                os.write(enter, b"1")
                os.read(gate, 1)
                threading.Thread(target=die_when_published).start()
                return b"my last word"

        with Peer(group, mortal) as peer, Forked(requester, peer.vmid) as asking:
            assert os.read(entered, 1)
            asking.stop()
            os.write(opener, b"1")
            assert os.WTERMSIG(peer.wait()) == signal.SIGKILL
            asking.kill(signal.SIGCONT)
            assert asking.result() == b"my last word"
        for fd in (entered, enter, gate, opener):
            os.close(fd)


# ---- slowness


@pytest.mark.config(send_buffer=64 << 10)
def test_a_slow_receiver_costs_a_bounded_number_of_bytes(group: Group) -> None:
    with Peer(group, notebook) as slow, Peer(group, notebook) as other:
        group.request(slow.vmid, NOTE, -1, timeout=DEADLINE_S)
        slow.stop()
        sent = 0

        def send(timeout: float | None) -> None:
            nonlocal sent
            group.send(slow.vmid, NOTE, sent, timeout=timeout)
            sent += 1

        with pytest.raises(libos_ipc.WouldBlock, match=f"VMID {slow.vmid}"):
            poll(lambda: send(0), pause=False)
        assert 1000 < sent <= (64 << 10) // 17
        with pytest.raises(BlockingIOError):
            send(0)
        start = time.monotonic()
        with pytest.raises(libos_ipc.Timeout):
            send(0.1)
        assert time.monotonic() - start >= 0.1
        with pytest.raises(libos_ipc.Timeout):
            group.flush(0.1)
        # Nobody else is delayed, and a broadcast leaves the slow one out.
        assert group.request(other.vmid, NOTE, 1, type=int, timeout=DEADLINE_S) == 1
        assert group.broadcast(NOTE, 2) == [other.vmid]
        with pytest.raises(libos_ipc.Timeout):
            run_async(group.asend(slow.vmid, NOTE, 0, timeout=0.05))

        blocked = threading.Thread(target=lambda: [send(None) for _ in range(2000)])
        blocked.start()
        blocked.join(0.2)
        assert blocked.is_alive()
        slow.kill(signal.SIGCONT)
        blocked.join(DEADLINE_S)
        assert not blocked.is_alive()
        group.flush(DEADLINE_S)
        assert [number for _, number in noted_by(group, slow.vmid)] == [-1, *range(sent)]


@pytest.mark.config(send_buffer=4096)
def test_a_message_larger_than_the_buffer_goes_alone(group: Group) -> None:
    with Peer(group, echo) as peer:
        large = os.urandom(100_000)
        for _ in range(5):
            assert group.request(peer.vmid, ECHO, large, timeout=DEADLINE_S) == large


@pytest.mark.config(send_buffer=64 << 10)
def test_a_blocked_sender_learns_of_the_receivers_death(group: Group) -> None:
    with Peer(group, notebook) as slow:
        slow.stop()
        with pytest.raises(libos_ipc.WouldBlock):
            poll(lambda: group.send(slow.vmid, NOTE, bytes(1000), timeout=0), pause=False)
        caught = []

        def send() -> None:
            try:
                group.send(slow.vmid, NOTE, bytes(1000))
            except libos_ipc.PeerDied as error:
                caught.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        slow.kill()
        thread.join(DEADLINE_S)
        assert caught


# ---- size


@BOTH
@pytest.mark.parametrize("size", [16383, 16384, 1 << 20, 60 << 20])
def test_large_payloads_arrive_whole(group: Group, size: int) -> None:
    def digest(group: Group) -> None:
        group.on(80)(lambda message: hashlib.blake2b(message.payload).digest())
        echo(group)

    data = bytearray(os.urandom(1 << 14) * (size // (1 << 14) + 1))[:size]
    with Peer(group, digest) as peer:
        for payload in (memoryview(data), bytes(data)):
            expected = hashlib.blake2b(payload).digest()
            assert group.request(peer.vmid, 80, payload, timeout=DEADLINE_S) == expected
        assert group.request(peer.vmid, ECHO, memoryview(data), timeout=DEADLINE_S) == data


# ---- handlers that do more


@BOTH
def test_a_handler_may_request_back(group: Group) -> None:
    """A asks B, whose handler asks A, whose handler asks B again."""

    def nested(group: Group) -> None:
        @group.on(80, type=int, threads=8)
        def down(depth: int, message: Message) -> int:
            if not depth:
                return 0
            answer: int = group.request(message.src, 80, depth - 1, type=int, timeout=DEADLINE_S)
            return answer + 1

    nested(group)
    with Peer(group, nested) as peer:
        assert group.request(peer.vmid, 80, 7, type=int, timeout=DEADLINE_S) == 7


def test_a_handler_may_fork(group: Group) -> None:
    def forking(group: Group) -> None:
        notebook(group)

        @group.on(80)
        def fork(message: Message) -> int:
            pid = os.fork()
            if not pid:
                group.send(group.parent_vmid, NOTE, group.pid)
                return -1  # never an answer: the request was the parent's
            return os.waitpid(pid, 0)[1]

    with Peer(group, forking) as peer:
        for _ in range(3):
            assert group.request(peer.vmid, 80, type=int, timeout=DEADLINE_S) == 0
        noted = poll(lambda: (n := noted_by(group, peer.vmid)) and len(n) == 3 and n)
        assert len({src for src, _ in noted}) == 3, "three children, each with a VMID of its own"


def test_a_handler_may_close(group: Group) -> None:
    def closing(line: Line) -> bool:
        group.on(80)(lambda message: group.close())
        line.send(group.vmid)
        poll(lambda: group.closed)
        return group.closed

    with Forked(closing) as child:
        vmid = child.recv()
        with pytest.raises(libos_ipc.PeerDied):
            group.request(vmid, 80, timeout=DEADLINE_S)
        assert child.result() is True
    assert len(group.members()) == 1


@BOTH
def test_sixteen_threads_at_once(group: Group) -> None:
    def handlers(group: Group) -> None:
        group.on(ECHO, threads=4)(lambda message: message.payload)

    wrong: list[object] = []

    def ask(vmid: int, thread: int) -> None:
        for number in range(50):
            payload = f"{thread} {number}".encode()
            try:
                answer = group.request(vmid, ECHO, payload, timeout=DEADLINE_S)
            except libos_ipc.IpcError as error:
                answer = error
            if answer != payload:
                wrong.append((payload, answer))

    with Peer(group, handlers) as one, Peer(group, handlers) as two:
        threads = [
            threading.Thread(target=ask, args=((one, two)[number % 2].vmid, number))
            for number in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * DEADLINE_S)
        assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.parametrize("vmid", [-1, 2**32, "2", None, 2.0])
def test_what_is_no_vmid(group: Group, vmid: Any) -> None:
    for call in (
        lambda: group.send(vmid, ECHO),
        lambda: group.send_many(vmid, ECHO, [b"1"]),
        lambda: group.request(vmid, ECHO, timeout=DEADLINE_S),
        lambda: group.ping(vmid, timeout=DEADLINE_S),
        lambda: asyncio.run(group.asend(vmid, ECHO)),
        lambda: asyncio.run(group.arequest(vmid, ECHO, timeout=DEADLINE_S)),
    ):
        with pytest.raises(libos_ipc.InvalidRange, match="is no VMID"):
            call()
