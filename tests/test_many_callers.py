"""Many who ask at once in one process: threads that wait in turn, and coroutines of event loops.

Everybody hears his own answer, whatever happens to the others meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from processes import (
    DEADLINE_S,
    Forked,
    Line,
    Peer,
    descriptors,
    kinds_of_descriptors,
    poll,
    poll_kinds,
    until_settled,
)

import libos_ipc
from libos_ipc import Group, Message
from libos_ipc._native import Ticket
from libos_ipc.runtime.landings import LoopLanding

ECHO, HOLD = 70, 71
#: Askers, and requests of each.
CROWD, EACH = 16, 200


def echo(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)


class Crowd:
    """Threads that ask one peer, each one request after the other, until they are told to stop or
    have had `each` answers."""

    def __init__(self, group: Group, vmid: int, each: int | None = EACH, size: int = CROWD) -> None:
        self._group, self._vmid, self._each = group, vmid, each
        self.over = threading.Event()
        self.wrong: list[object] = []
        self.answered = [0] * size
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(size)]

    def _ask(self, name: int) -> None:
        try:
            while not self.over.is_set() and self.answered[name] != self._each:
                payload = b"%d %d" % (name, self.answered[name])
                answer = self._group.request(self._vmid, ECHO, payload, timeout=DEADLINE_S)
                if answer != payload:
                    self.wrong.append((payload, answer))
                self.answered[name] += 1
        except Exception as error:
            self.wrong.append((name, error))

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._each is None:
            self.over.set()
        for thread in self._threads:
            thread.join(4 * DEADLINE_S)
        self.over.set()
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.wrong == []

    def await_progress(self) -> None:
        """Return when each has had another answer."""
        before = list(self.answered)
        poll(lambda: all(now > then for now, then in zip(self.answered, before, strict=True)))


def test_each_thread_hears_its_own_answers(group: Group) -> None:
    with Peer(group, echo) as peer, Crowd(group, peer.vmid) as crowd:
        pass
    assert crowd.answered == [EACH] * CROWD


def test_those_who_wait_go_on_without_one_who_does_not_come_back(group: Group) -> None:
    """Threads that have taken turns closely: one after the other stays away, without warning."""
    with Peer(group, echo) as peer, Crowd(group, peer.vmid, each=None) as steady:
        for _ in range(10):
            with Crowd(group, peer.vmid, each=20, size=4):
                pass
            steady.await_progress()


def test_timeouts_in_the_middle(group: Group) -> None:
    """Requests that are given up, at once or while they are under way, are nobody else's matter."""

    def hold(group: Group) -> None:
        echo(group)
        group.on(HOLD)(lambda message: libos_ipc.current().request(message.src, ECHO, b"then"))

    echo(group)
    late: list[object] = []

    def give_up(vmid: int) -> None:
        for number in range(40):
            try:
                group.request(vmid, HOLD, timeout=number * 1e-5)
            except libos_ipc.Timeout:
                late.append(number)

    with Peer(group, hold) as peer, Crowd(group, peer.vmid, each=None) as crowd:
        threads = [threading.Thread(target=give_up, args=(peer.vmid,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * DEADLINE_S)
        crowd.await_progress()
    assert len(late) >= 4, "without any time at all there is no answer"


def test_forks_while_threads_wait(group: Group) -> None:
    with Peer(group, echo) as peer, Crowd(group, peer.vmid, each=None, size=8) as crowd:
        for _ in range(5):
            crowd.await_progress()
            with Forked(lambda line: group.request(peer.vmid, ECHO, b"child")) as child:
                assert child.result() == b"child"
        crowd.await_progress()


def test_the_one_asked_dies_and_everybody_hears(group: Group) -> None:
    """Whoever waits, and for whatever reason he sleeps just then."""
    ended: list[type[BaseException]] = []

    def ask(vmid: int) -> None:
        try:
            while True:
                group.request(vmid, ECHO, b"?", timeout=DEADLINE_S)
        except libos_ipc.IpcError as error:
            ended.append(type(error))

    with Peer(group, echo) as peer:
        threads = [threading.Thread(target=ask, args=(peer.vmid,)) for _ in range(CROWD)]
        for thread in threads:
            thread.start()
        with Crowd(group, peer.vmid, each=10):
            pass
        peer.kill()
        for thread in threads:
            thread.join(2 * DEADLINE_S)
    assert ended == [libos_ipc.PeerDied] * CROWD


def test_a_process_that_asks_much_is_asked_too(group: Group) -> None:
    """What comes in beside the answers is not kept waiting by threads that take turns."""
    echo(group)

    def ask(line: Line) -> int:
        with Crowd(group, group.parent_vmid, each=50, size=4):
            pass
        return 1

    with (
        Peer(group, echo) as peer,
        Crowd(group, peer.vmid, each=None, size=6),
        Forked(ask) as child,
    ):
        assert child.result(4 * DEADLINE_S) == 1


def test_ctrl_c_ends_one_wait_among_many(group: Group) -> None:
    """The main thread's, which may sleep anywhere; the others go on, and so may it."""
    echo(group)
    program = (
        "import threading, libos_ipc\n"
        "group = libos_ipc.Group.join()\n"
        "over, wrong = threading.Event(), []\n"
        "def ask():\n"
        "    while not over.is_set():\n"
        f"        if group.request(group.parent_vmid, {ECHO}, b'x', timeout=60) != b'x':\n"
        "            wrong.append(1)\n"
        "threads = [threading.Thread(target=ask) for _ in range(6)]\n"
        "for thread in threads: thread.start()\n"
        "interrupted = 0\n"
        "while interrupted < 5:\n"
        "    try:\n"
        "        print(interrupted, flush=True)\n"  # where Ctrl-C is expected already
        "        while True:\n"
        f"            group.request(group.parent_vmid, {ECHO}, b'x', timeout=60)\n"
        "    except KeyboardInterrupt:\n"
        "        interrupted += 1\n"
        "over.set()\n"
        "for thread in threads: thread.join()\n"
        "print(wrong)\n"
    )
    program = program.replace("group.parent_vmid", str(group.vmid))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env=group.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for told in range(5):
            assert process.stdout.readline() == f"{told}\n"
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=2 * DEADLINE_S)
    assert (process.returncode, out, err) == (0, "[]\n", "")


# ---- coroutines


async def ask_each(group: Group, vmid: int, count: int, each: int) -> None:
    async def ask(name: int) -> None:
        for number in range(each):
            payload = b"%d %d" % (name, number)
            assert await group.arequest(vmid, ECHO, payload, timeout=DEADLINE_S) == payload

    await asyncio.gather(*(ask(name) for name in range(count)))


@pytest.mark.parametrize("count", [1, 16, 256])
def test_each_coroutine_hears_its_own_answers(group: Group, count: int) -> None:
    with Peer(group, echo) as peer:
        asyncio.run(ask_each(group, peer.vmid, count, max(1024 // count, 4)))


def test_coroutines_that_are_cancelled_or_late_among_others(group: Group) -> None:
    async def main(vmid: int) -> None:
        others = asyncio.ensure_future(ask_each(group, vmid, 32, 30))
        for number in range(60):
            task = asyncio.ensure_future(group.arequest(vmid, ECHO, b"?"))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            late = group.arequest(vmid, ECHO, b"?", timeout=number * 1e-5)
            (found,) = await asyncio.gather(late, return_exceptions=True)
            assert found == b"?" or isinstance(found, libos_ipc.Timeout)
        await others

    with Peer(group, echo) as peer:
        asyncio.run(asyncio.wait_for(main(peer.vmid), 4 * DEADLINE_S))


def test_loops_of_several_threads_and_threads_without(group: Group) -> None:
    wrong: list[object] = []

    def run(vmid: int) -> None:
        try:
            asyncio.run(ask_each(group, vmid, 8, 40))
        except Exception as error:
            wrong.append(error)

    with Peer(group, echo) as peer, Crowd(group, peer.vmid, each=None, size=4) as crowd:
        threads = [threading.Thread(target=run, args=(peer.vmid,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * DEADLINE_S)
        crowd.await_progress()
    assert wrong == []


@contextmanager
def held(group: Group) -> Iterator[tuple[int, Callable[[], None]]]:
    """A peer whose handler of HOLD answers when it is told; also how to tell it."""
    read, write = os.pipe()

    def setup(group: Group) -> None:
        echo(group)
        gate = threading.Event()
        threading.Thread(target=lambda: (os.read(read, 1), gate.set()), daemon=True).start()

        @group.on(HOLD)
        async def hold(message: Message) -> bytes:
            await asyncio.to_thread(gate.wait, DEADLINE_S)
            return message.payload

    with Peer(group, setup) as peer:
        try:
            yield peer.vmid, lambda: [os.write(write, b"x")][0] and None
        finally:
            os.close(read)
            os.close(write)


def test_a_loop_that_is_closed_while_answers_come(group: Group) -> None:
    """They are nobody's. The next loop is not disturbed, and no descriptor is left."""

    async def abandon(vmid: int) -> None:
        asks = [group.arequest(vmid, ECHO, b"nobody's") for _ in range(20)]
        tasks = [asyncio.ensure_future(ask) for ask in asks]
        await asyncio.sleep(0)
        assert len(tasks) == 20

    with Peer(group, echo) as peer:
        asyncio.run(ask_each(group, peer.vmid, 2, 40))
        until_settled()
        before = kinds_of_descriptors()
        for _ in range(10):
            asyncio.run(abandon(peer.vmid))
            asyncio.run(ask_each(group, peer.vmid, 2, 5))
        poll_kinds(before)


def test_a_loop_that_stands_still_while_answers_come(group: Group) -> None:
    """It finds them when it goes on."""
    loop = asyncio.new_event_loop()

    async def begin(vmid: int) -> list[asyncio.Task[bytes]]:
        asks = (group.arequest(vmid, HOLD, b"%d" % number) for number in range(20))
        tasks = [asyncio.ensure_future(ask) for ask in asks]
        await asyncio.sleep(0)
        return tasks

    with held(group) as (vmid, release):
        tasks = loop.run_until_complete(begin(vmid))
        release()
        poll(lambda: group.counters().outstanding == 0)
        answers = loop.run_until_complete(asyncio.gather(*tasks))
    assert answers == [b"%d" % number for number in range(20)]
    loop.close()


def test_coroutines_of_a_group_that_is_closed(group: Group) -> None:
    async def main(vmid: int) -> list[object]:
        tasks = [asyncio.ensure_future(group.arequest(vmid, HOLD)) for _ in range(20)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(group.close))
        found: list[object] = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
        return found

    with held(group) as (vmid, _):
        before = {number for number, name in descriptors().items() if "eventfd" in name}
        found = asyncio.run(main(vmid))
        assert [type(error) for error in found] == [libos_ipc.NotJoined] * 20
        left = {number for number, name in descriptors().items() if "eventfd" in name}
        assert left <= before


def test_forks_while_coroutines_wait(group: Group) -> None:
    """From another thread: the parent's go on, and the child asks on a loop of its own."""

    def forks(vmid: int) -> None:
        for _ in range(3):
            with Forked(lambda line: asyncio.run(ask_each(group, vmid, 4, 20))) as child:
                child.result()

    async def main(vmid: int) -> None:
        over = asyncio.ensure_future(asyncio.to_thread(forks, vmid))
        while not over.done():
            await ask_each(group, vmid, 8, 10)
        await over

    with Peer(group, echo) as peer:
        asyncio.run(asyncio.wait_for(main(peer.vmid), 4 * DEADLINE_S))


class Struck(Exception):
    """What a signal handler raises."""


def test_a_signal_handler_that_raises_while_the_loop_looks() -> None:
    """What has landed by then is found all the same."""
    loop = asyncio.new_event_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    asked: list[Ticket] = []

    def look(seconds: float) -> bool:
        asked.pop().resolve(b"answer")
        raise Struck

    landing = LoopLanding(loop, look)
    for _ in range(3):
        ticket = landing.ticket(loop)
        asked.append(ticket)
        landing.attend(loop)
        landing.expect()
        found = loop.run_until_complete(asyncio.wait_for(ticket.future, DEADLINE_S))
        assert found == b"answer"
    assert [type(error) for error in told] == [Struck] * 3
    loop.close()
    landing.close()
