"""Ours: new IDs and their release, in a member that is not the leader; nanoseconds for a pair.

Two habits of using IDs. *At once*: an ID is released before the next is asked for. *Held*: a
thousand are taken and then a thousand given back. In both the price of ranges that come from the
leader and return to it is spread over all IDs: one released is not given out again soon, so that
even the first habit uses ranges up. What both leave out: several threads at once, and an `owner`
other than oneself, which is a message each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.members import founded

AT_ONCE = 1024
HELD = 1000


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    with founded(setup) as group:
        assert not group.is_leader
        new, release = group.ids.new, group.ids.release
        clock = time.perf_counter_ns

        def at_once() -> float:
            started = clock()
            for _ in range(AT_ONCE):
                release(new())
            return (clock() - started) / AT_ONCE

        def held() -> float:
            started = clock()
            taken = [new() for _ in range(HELD)]
            for one in taken:
                release(one)
            return (clock() - started) / HELD

        yield lambda count: {
            "at once": [at_once() for _ in range(count)],
            "held": [held() for _ in range(count)],
        }


if __name__ == "__main__":
    main(opened)
