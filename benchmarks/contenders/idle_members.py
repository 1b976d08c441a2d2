"""A request beside `setup["members"]` idle members, and what the leader needs for each.

The value of *request* is one request to a member with a Python handler; that of *leader* the
leader's memory (PSS), in KiB. Every idle member has asked the leader for something, as often as it
takes to stand by whatever carries its messages, and then sleeps; all are children of the asking
process. What it leaves out: what the kernel keeps for sockets and page tables, and idle members
that hold anything but their connection.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks.contender import PAYLOAD, Sampler, Setup, main
from benchmarks.contenders.members import ECHO, Other, founded, leader_of, member
from benchmarks.contenders.resident import pss_kib

if TYPE_CHECKING:
    import libos_ipc

#: Requests of each member to the leader: more than `LANE_AFTER` of any transport.
ASKED = 20
SETTLE_S = 1.0


@contextmanager
def idle_members(group: libos_ipc.Group, setup: Setup, count: int) -> Iterator[list[Other]]:
    def body(until: int) -> None:
        for _ in range(ASKED):
            group.ids.owner(group.vmid)
        os.write(told, b".")
        os.read(until, 1)

    done, told = os.pipe()
    with ExitStack() as stack:
        members = []
        for _ in range(count):
            members.append(stack.enter_context(member(group, setup, body)))
            os.read(done, 1)
        yield members


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # it watches all its children
    with (
        founded(setup) as group,
        member(group, setup) as other,
        idle_members(group, setup, setup["members"]),
    ):
        leader = leader_of(group)
        clock = time.perf_counter_ns

        def timed() -> int:
            started = clock()
            group.request(other.vmid, ECHO, PAYLOAD)
            return clock() - started

        for _ in range(200):
            timed()
        time.sleep(SETTLE_S)
        yield lambda count: {
            "request": [timed() for _ in range(count)],
            "leader": [pss_kib(leader)],
        }


if __name__ == "__main__":
    main(opened)
