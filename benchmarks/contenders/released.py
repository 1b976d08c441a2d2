"""A process is killed, and who waits for what it held goes on: a lock of the group, or a pipe.

*lock*: from just before the kill until another member, which waits for the file lock that the
killed one has, has it. *chain*: from just before the kill of such a member until a process hears of
it that waits at a pipe, into which another one writes when the pidfd tells it: so much it costs
anybody to find out from the kernel that a process has died, and to wake a third. In either case
most of it is the death itself, whose memory the kernel takes down before it tells.

Holder and waiter are new for each value, and have asked the leader for something before.
`setup["beside"]` processes, each in a session of its own, compute all the while. What it leaves
out: a holder with much memory, which dies more slowly, and one that holds much.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.contender import Sampler, Setup, answering, main
from benchmarks.contenders.members import founded, member

_NUMBER = struct.Struct("<q")
#: Requests to the leader beforehand: enough for a lane, where there are any.
ASKED = 40
#: Seconds after which who is about to wait does.
WAITS_S = 0.05


def send(pipe: tuple[int, int], number: int) -> None:
    os.write(pipe[1], _NUMBER.pack(number))


def receive(pipe: tuple[int, int]) -> int:
    return int(_NUMBER.unpack(os.read(pipe[0], _NUMBER.size))[0])


def compute(until_gone: int) -> None:
    """Take a processor until that process is gone."""
    os.setsid()
    while os.getppid() == until_gone:
        for _ in range(100_000):
            pass


class Chain:
    """The two processes that know nothing of the group: one watches, and wakes the other."""

    def __init__(self) -> None:
        self._watched, self._watching = os.pipe(), os.pipe()
        self._bell, self._heard = os.pipe(), os.pipe()

    def watch(self) -> None:
        while True:
            pidfd = os.pidfd_open(receive(self._watched))
            poll = select.epoll()
            poll.register(pidfd, select.EPOLLIN)
            send(self._watching, 0)
            poll.poll()
            send(self._bell, 0)
            os.close(pidfd)
            poll.close()

    def wait(self) -> None:
        while True:
            receive(self._bell)
            send(self._heard, time.perf_counter_ns())

    def begin(self, os_pid: int) -> None:
        send(self._watched, os_pid)
        receive(self._watching)

    def end(self) -> int:
        return receive(self._heard)


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    path = os.path.join(os.environ["TMPDIR"], "locked")
    open(path, "w").close()
    told, me = os.pipe(), os.getpid()
    with ExitStack() as stack:
        chain = Chain()
        for serve in (chain.watch, chain.wait, *[lambda: compute(me)] * setup["beside"]):
            stack.enter_context(answering(serve, setup))
        group = stack.enter_context(founded(setup))

        def asking(then: Callable[[int], None]) -> Callable[[int], None]:
            def body(until: int) -> None:
                for _ in range(ASKED):
                    group.ids.owner(group.vmid)
                then(until)

            return body

        def hold(until: int) -> None:
            group.file_lock(path).acquire()
            send(told, 0)
            os.read(until, 1)

        def wait(until: int) -> None:
            lock = group.file_lock(path)
            send(told, 0)
            lock.acquire()
            send(told, time.perf_counter_ns())
            lock.release()
            os.read(until, 1)

        def killed(by_lock: bool) -> int:
            with ExitStack() as inner:
                holder = inner.enter_context(member(group, setup, asking(hold)))
                receive(told)
                if by_lock:
                    inner.enter_context(member(group, setup, asking(wait)))
                    receive(told)
                    time.sleep(WAITS_S)
                else:
                    chain.begin(holder.os_pid)
                began = time.perf_counter_ns()
                os.kill(holder.os_pid, 9)
                return (receive(told) if by_lock else chain.end()) - began

        def sample(count: int) -> dict[str, list[int]]:
            taken: dict[str, list[int]] = {"lock": [], "chain": []}
            for _ in range(count):
                taken["lock"].append(killed(True))
                taken["chain"].append(killed(False))
            return taken

        yield sample


if __name__ == "__main__":
    main(opened)
