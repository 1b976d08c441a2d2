"""The leader is killed, with `setup["members"]` members of whom one is stopped.

A value is the time from just before the kill until the last of the other members has an answer to
a request that it makes of the leader right after the kill; every value is a group of its own. What
it leaves out: members with open locks, handles and links to each other, a long journal, and members
that have something else to do.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.members import founded, leader_of, member

_TIME = struct.Struct("<q")


def _until_answered(setup: Setup) -> int:
    from libos_ipc.runtime.process_state import is_stopped, start_time

    with ExitStack() as stack:
        group = stack.enter_context(founded(setup))
        begin, say_begin = os.pipe()
        done, say_done = os.pipe()
        for fd in (begin, say_begin, done, say_done):
            stack.callback(os.close, fd)

        def body(until: int) -> None:
            group.ids.owner(group.vmid)
            os.write(say_done, _TIME.pack(0))
            os.read(begin, 1)
            group.ids.owner(group.vmid)
            os.write(say_done, _TIME.pack(time.perf_counter_ns()))
            os.read(until, 1)

        count = setup["members"]
        others = [stack.enter_context(member(group, setup, body)) for _ in range(count)]
        for _ in others:
            os.read(done, _TIME.size)
        stopped = others[0].os_pid
        os.kill(stopped, signal.SIGSTOP)
        stack.callback(os.kill, stopped, signal.SIGCONT)
        while not is_stopped(stopped, start_time(stopped)):
            time.sleep(0.001)  # until then it could win, and only then stand still
        started = time.perf_counter_ns()
        os.kill(leader_of(group), signal.SIGKILL)
        os.write(say_begin, bytes(count))
        answered = [_TIME.unpack(os.read(done, _TIME.size))[0] for _ in others[1:]]
        return max(answered) - started


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    yield lambda count: {"answered": [_until_answered(setup) for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
