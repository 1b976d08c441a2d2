"""Requests of many askers at a time, of one process to one other: nanoseconds per request.

`setup["askers"]` threads ask, each one request after the other; with `setup["by"]` *coroutines*
so many coroutines of one event loop do. A Python function of the other process answers, on one
thread. Left out: several processes that ask or answer, and how evenly the askers are served.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import libos_ipc
from benchmarks.contender import PAYLOAD, Sampler, Setup, main
from benchmarks.contenders.members import ECHO, founded, member

#: Requests that make a value, by all askers together. Threads are started for each value, which
#: takes as long as some dozen requests of each.
COUNT = {"threads": 32_000, "coroutines": 8_000}


def by_threads(group: libos_ipc.Group, vmid: int, askers: int) -> None:
    def ask() -> None:
        for _ in range(COUNT["threads"] // askers):
            group.request(vmid, ECHO, PAYLOAD)

    threads = [threading.Thread(target=ask) for _ in range(askers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def by_coroutines(group: libos_ipc.Group, vmid: int, askers: int) -> None:
    async def ask() -> None:
        for _ in range(COUNT["coroutines"] // askers):
            await group.arequest(vmid, ECHO, PAYLOAD)

    async def everybody() -> None:
        await asyncio.gather(*(ask() for _ in range(askers)))

    asyncio.run(everybody())


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    run: Callable[[libos_ipc.Group, int, int], None] = {
        "threads": by_threads,
        "coroutines": by_coroutines,
    }[setup["by"]]
    clock = time.perf_counter_ns
    with founded(setup) as group, member(group, setup) as other:

        def burst() -> float:
            started = clock()
            run(group, other.vmid, setup["askers"])
            return (clock() - started) / COUNT[setup["by"]]

        burst()
        yield lambda count: {"request": [burst() for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
