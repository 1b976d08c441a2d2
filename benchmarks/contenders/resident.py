"""Ours and peers: the memory of a forked member, or of a forked child outside any group; KiB.

The value is PSS: what a process has alone, and its share of every page that several have. Eight
children of one process, all alive, are looked at: `group`, members each of which has answered a
request; `imported`, children of a process that has imported the library; `plain`, children of an
interpreter that has not. What it leaves out: the leader, and what the kernel keeps for sockets,
threads' kernel stacks and page tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.contender import Sampler, Setup, answering, main
from benchmarks.contenders.members import ECHO, founded, import_what_members_use, member

CHILDREN = 8


def pss_kib(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        for line in lines:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    raise RuntimeError(f"no Pss in /proc/{pid}/smaps_rollup")


def plain_child(ready: int) -> None:
    """As a member does before it waits: say so, then sleep in a read."""
    nothing, _end = os.pipe()
    os.write(ready, b".")
    os.read(nothing, 1)


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    with ExitStack() as stack:
        if setup["kind"] == "group":
            group = stack.enter_context(founded(setup))
            others = [stack.enter_context(member(group, setup)) for _ in range(CHILDREN)]
            for other in others:
                group.request(other.vmid, ECHO, b"")
            pids = [other.os_pid for other in others]
        else:
            if setup["kind"] == "imported":
                import_what_members_use()
            told, tell = os.pipe()
            pids = []
            for _ in range(CHILDREN):
                child = answering(lambda: plain_child(tell), setup)
                pids.append(stack.enter_context(child))
                os.read(told, 1)
        yield lambda count: {"pss": [pss_kib(pid) for _ in range(count) for pid in pids]}


if __name__ == "__main__":
    main(opened)
