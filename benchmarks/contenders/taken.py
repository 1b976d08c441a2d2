"""Ours: EXCLUSIVE of a handle that another member has SHARED, unused; its main thread idles or
runs pure Python.

Before each, that member reads the value once more, for which it is asked by a message, and then
there is a pause, since to be asked takes it milliseconds where it computes; neither is measured.
So each begins with everybody asleep. What it leaves out: a handle that is in use, or watched, which
its process must give up itself.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.computing import COMPUTE, Computing
from benchmarks.contenders.members import ECHO, founded, member

READ = ECHO + 2
PAUSE_S = 0.005


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    with founded(setup) as group:
        computing = Computing(group)
        handles = []

        @group.on(READ)
        def read(message: object) -> bytes:
            if not handles:
                handles.append(group.sync("taken", type=int))
            with handles[0].shared():
                return b""

        def body(until: int) -> None:
            computing.run(lambda: select.select([until], [], [], 0)[0])

        with member(group, setup, body) as other, group.sync("taken", type=int) as handle:
            vmid = other.vmid

            def taken() -> int:
                group.request(vmid, READ)
                time.sleep(PAUSE_S)
                started = time.perf_counter_ns()
                with handle.exclusive() as box:
                    box.value += 1
                return time.perf_counter_ns() - started

            def sample(count: int) -> Mapping[str, list[int]]:
                group.request(vmid, COMPUTE, setup["computing"])
                try:
                    return {"round trip": [taken() for _ in range(count)]}
                finally:
                    group.request(vmid, COMPUTE, False)

            yield sample


if __name__ == "__main__":
    main(opened)
